"""Tests of what imports what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hubmap_kit

PACKAGE = Path(hubmap_kit.__file__).parent
# Top to bottom: a module imports only from those above it.
LAYERS = (
    "lazy rle cluster competition settings models config recipes files progress metrics tiles regions masks images "
    "submission demo preparation run reports kaggle rehearsal prediction training ablation cli __main__"
).split()
HEAVY = {"tensorflow", "keras", "segmentation_models"}
MAY_IMPORT_TENSORFLOW = {"models", "prediction", "training", "ablation"}


def noun(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, top_level: bool) -> set[tuple[str, int]]:
    """Modules imported, with the level of a relative import; top level only, or anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name.split(".")[0], 0) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            found |= {(name, node.level) for name in names}
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_import_from_above(path):
    """A module of the package imports only from modules that stand above it."""
    depth = len(path.relative_to(PACKAGE).parts)
    for name, level in imports(path, top_level=True):
        assert name != "hubmap_kit", "imports within the package are relative"
        if level == depth and name in LAYERS:
            assert LAYERS.index(name) < LAYERS.index(noun(path)) or name == noun(path), f"{noun(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_tensorflow_stays_in_its_row(path):
    """TensorFlow and Keras are imported by the modules of their own row alone."""
    if noun(path) not in MAY_IMPORT_TENSORFLOW:
        assert not {name for name, level in imports(path, top_level=False) if level == 0} & HEAVY


@pytest.mark.parametrize("command", [["--help"], ["validate", "--help"], ["train", "--help"], ["score", "--help"]])
def test_help_needs_no_tensorflow(command):
    """Help answers without importing TensorFlow, NumPy, pandas, OpenCV or matplotlib."""
    code = (
        "import sys\nfrom hubmap_kit.cli import main\n"
        f"try: main({command!r})\nexcept SystemExit as stop: assert stop.code == 0\n"
        "bad = {'tensorflow', 'keras', 'cv2', 'matplotlib', 'numpy', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
