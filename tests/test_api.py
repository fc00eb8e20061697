"""Tests of what the package promises to those who import it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest

import hubmap_kit

STABLE = re.findall(r"``hubmap_kit\.([\w.]+)``", hubmap_kit.__doc__ or "")


@pytest.mark.parametrize("path", STABLE)
def test_stable_names_are_there_and_listed(path):
    """Each name of the public interface is a function that its module lists in ``__all__``."""
    module_name, _, name = path.rpartition(".")
    module = importlib.import_module(f"hubmap_kit.{module_name}")
    assert module_name in hubmap_kit.__all__
    assert name in module.__all__
    assert callable(getattr(module, name))


def test_public_modules_list_nothing_else():
    """What the public modules list is what the package's docstring names."""
    listed = {
        f"{module}.{name}"
        for module in hubmap_kit.__all__
        if module != "__version__"
        for name in importlib.import_module(f"hubmap_kit.{module}").__all__
    }
    assert listed == set(STABLE)


def test_import_is_free():
    """``import hubmap_kit`` imports no other library, not even NumPy."""
    code = "import sys; before = set(sys.modules); import hubmap_kit; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["hubmap_kit"]
