"""Tests of what imports what."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import hubmap_kit

PACKAGE = Path(hubmap_kit.__file__).parent
# Folders and top-level files: each imports only from those that stand after it in this list.
HOUSE = (
    "__main__ cli console running commands/ doctor terminal notebook kernels ablation/ training/ rehearsal/ kaggle/ "
    "prediction/ reports/ exchange/ preparation/ demo/ submission run recipes config images/ models/ "
    "masks outlines regions tiles tables metrics progress claim files competition cluster machine rle lazy words"
).split()
TENSORFLOW_FOLDERS = {"models", "prediction", "training", "ablation"}
HEAVY = {"tensorflow", "keras", "segmentation_models"}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Everything that a module imports, by absolute name; if `lazy`, inside its functions too.

    A name imported from a package of ours counts as a module if there is a file of that name.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["hubmap_kit", *path.relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("hubmap_kit") for alias in node.names), "imports of ours are relative"
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level or not (node.module or "").startswith("hubmap_kit"), "imports of ours are relative"
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                inside = PACKAGE.joinpath(*base[1:], alias.name)
                is_module = node.level and (inside.with_suffix(".py").is_file() or inside.is_dir())
                found.add(".".join([*base, alias.name] if is_module else base))
    return found


def room(name: str) -> str:
    """The folder or top-level file of a module of ours, as `HOUSE` names it."""
    first = name.split(".")[1]
    return f"{first}/" if (PACKAGE / first).is_dir() else first


def ours(path: Path, *, lazy: bool = False) -> set[str]:
    """Modules of ours that a module imports."""
    return {name for name in imports(path, lazy=lazy) if name.startswith("hubmap_kit.")}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(["hubmap_kit", *(part for part in parts if part != "__init__")])


def test_the_house_is_whole():
    """Every folder and file of the package stands in the list above, and nothing else does."""
    assert sorted(HOUSE) == sorted({room(name_of(path)) for path in MODULES})


@each_module
def test_imports_lead_downwards(path):
    """A module imports, on top, only from folders and files below its own."""
    own = room(name_of(path))
    for name in ours(path):
        within = own.endswith("/") and room(name) == own
        assert within or HOUSE.index(room(name)) > HOUSE.index(own), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("folder", [name for name in HOUSE if name.endswith("/")])
def test_no_circle_inside_a_folder(folder):
    """The modules of a folder do not import each other in a circle."""
    files = (PACKAGE / folder).rglob("*.py")
    inside = {name_of(path): {name for name in ours(path) if room(name) == folder} for path in files}
    graphlib.TopologicalSorter(inside).prepare()


@each_module
def test_tensorflow_stays_in_its_folders(path):
    """Only modules of these folders import TensorFlow and Keras."""
    if path.relative_to(PACKAGE).parts[0] not in TENSORFLOW_FOLDERS:
        assert not {name.split(".")[0] for name in imports(path, lazy=True)} & HEAVY


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
