"""The notebooks in ``notebooks/``: they are those of their scripts, and they run on the demo."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hubmap_kit.competition import SLUG
from hubmap_kit.config import TrainConfig
from hubmap_kit.recipes import recipe
from hubmap_kit.submission import score, validate

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]_*.py"))
MISSING = [name for name in ("jupytext", "nbclient", "ipykernel") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} of the extra notebooks not installed")
each_notebook = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@pytest.fixture(scope="module")
def make() -> ModuleType:
    """The module ``notebooks/make.py``."""
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(script: Path, kind: str = "code") -> list[str]:
    """The cells of a committed notebook, as text."""
    content = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == kind]


def settings(script: Path) -> dict[str, str]:
    """The settings of a notebook: each line of its first cell by name."""
    return {line.split(" = ")[0]: line for line in cells(script)[0].splitlines() if re.match("[A-Z_]+ = ", line)}


def test_there_are_three():
    """The scripts are found."""
    assert [script.stem for script in SCRIPTS] == ["1_data", "2_train", "3_results"]


@each_notebook
def test_the_committed_notebook_is_that_of_its_script(make, script):
    """The notebook in the repository is what its script gives now, byte for byte; else run nox -s notebooks."""
    assert script.with_suffix(".ipynb").read_text(encoding="utf-8") == make.convert(script)


@each_notebook
def test_form(script):
    """A notebook has no outputs, ids of its own for the cells, a kernelspec, and no placeholder but the owner's."""
    text = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    content = json.loads(text)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) > 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in content["cells"])
    assert "REPOSITORY" not in text
    assert "BADGES" not in text


def test_ids_come_from_place_and_content(make, tmp_path):
    """Ids stay when a script is converted again; an edit changes that cell's id only."""
    script = tmp_path / "script.py"
    ids = []
    for text in ("# %%\na = 1\n# %%\na = 1\n", "# %%\na = 1\n# %%\na = 1\n", "# %%\na = 1\n# %%\na = 2\n"):
        script.write_text(text)
        ids.append([cell["id"] for cell in json.loads(make.convert(script))["cells"]])
    first, again, edited = ids
    assert first == again
    assert first[0] != first[1]
    assert (edited[0] == first[0], edited[1] == first[1]) == (True, False)


@each_notebook
def test_badges_and_links_have_the_one_address(make, script):
    """The badges open this notebook; every address of the repository is the one in pyproject.toml."""
    address = make.repository()
    assert address.startswith("https://github.com/")
    owner = address.removeprefix("https://github.com/")
    title = cells(script, "markdown")[0]
    assert f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{script.stem}.ipynb" in title
    assert f"https://kaggle.com/kernels/welcome?src={address}/blob/main/notebooks/{script.stem}.ipynb" in title


def test_no_other_address_of_the_repository(make):
    """Pages and scripts name no other address than that in pyproject.toml, so that one edit changes all."""
    owner = make.repository().removeprefix("https://github.com/")
    clone = FOLDER.parent
    for page in (*clone.glob("*.md"), *clone.glob("docs/**/*.md"), *FOLDER.glob("*.py"), *FOLDER.glob("*.ipynb")):
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"(?:github\.com|research\.google\.com/github)/([\w.-]+/hubmap-kit)\b", text)
        assert set(found) <= {owner}, page


@each_notebook
def test_links_between_notebooks_and_to_pages(make, script):
    """A link to another notebook or to a page of the repository leads to one that exists."""
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(cells(script, "markdown"))):
        target = target.partition("#")[0].removeprefix(f"{make.repository()}/blob/main/")
        if not target.startswith("https://"):
            places = [FOLDER / target, FOLDER.parent / target]
            assert any(place.exists() for place in places), target


def test_settings_of_the_same_name_are_the_same():
    """A setting that two notebooks have has the same value and explanation in both."""
    seen: dict[str, str] = {}
    differing = {"SEED"}  # explained for what each notebook does with it
    for script in SCRIPTS:
        for name, line in settings(script).items():
            assert name in differing or seen.setdefault(name, line) == line
    assert {"DEMO", "TEST_SIZE", "PATCH_SIZE", "MODEL", "FREEZE_EPOCHS", "TTA"} <= seen.keys()


def test_training_as_it_stands_is_the_recipe_seed():
    """The settings that the second notebook spells out are those of the recipe that it says they are."""
    code = cells(FOLDER / "2_train.py")
    variables: dict[str, Any] = {"recipe": recipe}
    exec(code[0], variables)
    exec(next(text for text in code if text.startswith("config = recipe(")), variables)
    assert variables["config"] == recipe("seed")
    assert variables["config"] != replace(recipe("seed"), loss="bce+dice")


def test_the_demo_line_can_be_used():
    """The line that is to be uncommented for the demo gives settings that exist."""
    code = cells(FOLDER / "2_train.py")
    text, count = re.subn(r"^# (?=MODEL, )", "", code[0], flags=re.MULTILINE)
    assert count == 1
    variables: dict[str, Any] = {"recipe": recipe}
    exec(text, variables)
    exec(next(text for text in code if text.startswith("config = recipe(")), variables)
    config: TrainConfig = variables["config"]
    assert (config.model, config.epochs) == ("unet", 10)


def install_cell(script: Path) -> str:
    """The part of a notebook that installs the library."""
    (found,) = (text for text in cells(script) if "find_spec" in text)
    return found.partition("\n\nfrom hubmap_kit")[0]


def test_all_notebooks_install_the_library_alike():
    """The cell that installs the library is the same in all notebooks."""
    assert len({install_cell(script) for script in SCRIPTS}) == 1


@pytest.mark.parametrize(
    ("package", "attached", "installed"),
    [
        ("x.whl", False, ["x.whl"]),
        ("x.whl", True, ["--no-index", "--no-deps", "hubmap_kit-0.whl"]),
        ("hubmap-kit @ git+https://github.com/OWNER/hubmap-kit", True, ["--no-index", "--no-deps", "hubmap_kit-0.whl"]),
        ("hubmap-kit @ git+https://github.com/OWNER/hubmap-kit", False, None),
    ],
)
def test_installation(monkeypatch, tmp_path, package, attached, installed):
    """The library's wheel of an attached dataset is installed offline, else what PACKAGE names, if that is known."""
    mounted = tmp_path / "datasets" / "me" / "hubmap-kit"
    mounted.mkdir(parents=True)
    if attached:
        for name in ("a-1.whl", "hubmap_kit-0.whl"):
            (mounted / name).touch()
    commands: list[list[str]] = []
    find: Callable[..., Any] = lambda name: None  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    cell = install_cell(SCRIPTS[0])
    assert cell.count("/kaggle/input") == 1
    cell = cell.replace("/kaggle/input", str(tmp_path))
    if installed is None:
        with pytest.raises(SystemExit, match="set PACKAGE to the path of a wheel"):
            exec(cell, {"PACKAGE": package})
        assert not commands
        return
    exec(cell, {"PACKAGE": package})
    (command,) = commands
    assert [Path(part).name for part in command[5:]] == installed
    assert command[1:4] == ["-m", "pip", "install"]


def run_quietly(arguments: list[str], folder: Path, **changes: str) -> str:
    """Run Python in a folder without credentials and without a home; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    environment |= {"HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3", **changes}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def outputs(notebook: Path) -> list[dict[str, Any]]:
    """All outputs of a notebook that was run."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [output for cell in content["cells"] for output in cell.get("outputs", ())]


@pytest.mark.slow
def test_all_notebooks_run_on_the_demo(tmp_path):
    """From the data to a valid submission, one after the other, without credentials; each shows its pictures."""
    code = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    before = {path: path.read_bytes() for path in FOLDER.glob("*.ipynb")}
    run_quietly(["-c", code, str(FOLDER / "make.py"), "--run", str(tmp_path)], tmp_path)
    assert {path: path.read_bytes() for path in FOLDER.glob("*.ipynb")} == before
    for name, count, pages in (("1_data", 5, 1), ("2_train", 1, 0), ("3_results", 2, 2)):
        shown = outputs(tmp_path / f"{name}.ipynb")
        html = ["".join(output.get("data", {}).get("text/html", "")) for output in shown]
        assert sum(text.startswith("<iframe") for text in html) == pages
        assert sum("image/png" in output.get("data", ()) for output in shown) == count
        assert not any(output["output_type"] == "error" for output in shown)
    (data,) = (tmp_path / "work").glob("demo-*")
    answer = tmp_path / "work" / "submission.csv"
    assert not [problem for problem in validate(answer, data) if problem.severity == "error"]
    assert score(answer, data / "test_truth.csv")["dice"].mean() > 0.2


@pytest.mark.slow
def test_the_results_run_where_kaggle_mounts_things(demo, trained, tmp_path):
    """On Kaggle, with the competition and the weights attached, the results are those of the weights, DEMO unset."""
    attached = tmp_path / "kaggle" / "input"
    for place, target in ((f"competitions/{SLUG}", demo), ("datasets/me/hubmap-weights/cpu", trained)):
        (attached / place).parent.mkdir(parents=True)
        (attached / place).symlink_to(target)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import make; from pathlib import Path\n"
    code += "make.run(make.SCRIPTS[2], Path.cwd(), {'TTA': 'none'})"
    kaggle = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "HUBMAP_KAGGLE_ROOT": str(tmp_path / "kaggle")}
    run_quietly(["-c", code, str(FOLDER)], tmp_path, **kaggle)
    assert not [p for p in validate(tmp_path / "kaggle/working/submission.csv", demo) if p.severity == "error"]
    text = json.dumps(outputs(tmp_path / "3_results.ipynb"))
    assert "running on Kaggle" in text
    assert str(attached / "datasets/me/hubmap-weights/cpu") in text
