"""Modules that are imported when they are first used.

With it a module can hold a table of functions that need TensorFlow or OpenCV, and the command line can list the
table's names without importing either. Beside ``if TYPE_CHECKING: import tensorflow as tf`` write
``else: tf = Lazy("tensorflow")``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class Lazy(ModuleType):
    """A stand-in for a module, by its full name; it imports the module when an attribute is first asked for."""

    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module(self.__name__)
        self.__dict__.update(vars(module))  # attributes are then as fast as the module's own
        return getattr(module, name)
