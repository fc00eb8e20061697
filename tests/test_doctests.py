"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import hubmap_kit

PACKAGE = Path(hubmap_kit.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    """Each example in a module's docstrings runs and prints what stands below it."""
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
