"""``python -m hubmap_kit``."""

from .cli import entry

entry()
