"""What the notebooks need besides the stages: where they run, their settings, their data and their runs.

The notebooks are made from the scripts in ``notebooks/`` and run on Kaggle, on Colab or on this computer.
"""

from __future__ import annotations

import html
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .kaggle.credentials import sign_in
from .kaggle.manifest import MANIFEST, Manifest
from .kaggle.session import find_competition, find_runs
from .kernels import INPUT, WORKING, install_missing
from .run import expand, is_finished

CHANGES = "HUBMAP_NOTEBOOK"  # environment variable: a JSON object of setting to value
DRIVE = Path("/content/drive")  # where Colab mounts Google Drive
LARGEST_PAGE = 8_000_000  # bytes of a page that is shown inside a notebook, which keeps a copy of it


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a notebook with the changes that the environment variable HUBMAP_NOTEBOOK names.

    Args:
        given: The notebook's variables; those in capitals are its settings.

    Returns:
        The settings, with the changes.

    Raises:
        ValueError: The variable holds no JSON object, or names a setting that the notebook does not have.

    >>> settings({"PATCH_SIZE": 1024, "path": "x"})
    {'PATCH_SIZE': 1024}
    """
    known = {name: value for name, value in given.items() if name.isupper() and not name.startswith("_")}
    text = os.environ.get(CHANGES, "{}")
    try:
        changes = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{CHANGES} is not valid JSON ({error}); write it as " + '{"SETTING": value}') from error
    if not isinstance(changes, dict):
        raise ValueError(f"{CHANGES} is {text}; it must be a JSON object, as " + '{"SETTING": value}')
    if unknown := sorted(changes.keys() - known.keys()):
        raise ValueError(f"{CHANGES} names {', '.join(unknown)}; the notebook's settings are {', '.join(known)}")
    return known | changes


def begin(variables: dict[str, Any]) -> Path:
    """Begin a notebook: change its settings as HUBMAP_NOTEBOOK says, and make its work folder.

    With the dataset hubmap-kit attached on Kaggle, the wheels that Kaggle's image lacks are installed. So call it
    before anything else is imported from the library.

    Args:
        variables: The notebook's ``globals()``; settings are changed in it.

    Returns:
        See `work_folder`.

    Raises:
        ValueError: See `settings`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # leaves TensorFlow's start-up notes out of the notebook
    variables |= settings(variables)
    folder = work_folder()
    if host() == "Kaggle":
        for path in sorted(INPUT.rglob(MANIFEST))[:1]:
            if installed := install_missing(path.parent, Manifest.read(path.parent)):
                print("installed:", *installed)
    print(f"running on {host()}; files go to {folder}")
    return folder


def host() -> Literal["Kaggle", "Colab", "this computer"]:
    """Where this Python runs."""
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        return "Kaggle"
    return "Colab" if _colab() else "this computer"


def work_folder() -> Path:
    """The folder for all that the notebooks write: Kaggle's output, or ``work`` in the current folder."""
    folder = WORKING if host() == "Kaggle" else Path.cwd() / "work"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_folder(name: str = "run", *, drive: bool = False) -> Path:
    """The folder of the run that the notebooks train and read.

    Args:
        name: Its name.
        drive: On Colab, take a folder on Google Drive, which outlives the session; elsewhere without effect.
    """
    colab = _colab()
    if drive and colab:
        importlib.import_module("google.colab.drive").mount(str(DRIVE))
        return DRIVE / "MyDrive" / "hubmap-kit" / name
    return work_folder() / name


def competition(*, demo: bool, images: int = 20, size: int = 2048, data: str | None = None) -> Path:
    """Find the competition's data, download it, or draw a small one in its place.

    Args:
        demo: Draw the demo; it needs no credentials. An earlier one of the same size is used again.
        images: Training images of the demo; it has half as many test images.
        size: Side of its training images in px.
        data: Folder with the competition's data; by default the one attached on Kaggle, or a download.

    Returns:
        A folder in the competition's layout.

    Raises:
        ValueError: The data is not attached on Kaggle, there are no credentials, or Kaggle refuses.
    """
    if demo:
        folder = work_folder() / f"demo-{images}-{size}"
        if not folder.exists():
            from .demo.write import write_demo

            write_demo(folder, train=images, test=max(1, images // 2), size=size)
        return folder
    if data:
        return Path(data)
    if host() == "Kaggle":
        return find_competition(INPUT)
    if source := sign_in():
        print(f"credentials: {source}")
    from .kaggle.connection import Connection
    from .kaggle.data import fetch
    from .kaggle.failures import NO_CREDENTIALS

    if not source:
        raise ValueError(f"{NO_CREDENTIALS}; or set DEMO = True, which needs none")
    folder = work_folder() / "data"
    fetch(Connection.connect(), folder)
    return folder


def runs(name: str = "run", *, drive: bool = False) -> list[Path]:
    """The run folders that the results are about: the one of the training notebook, or those attached on Kaggle.

    Args:
        name: See `run_folder`.
        drive: See `run_folder`.

    Returns:
        Folders of finished runs; none if nothing is trained yet.

    Raises:
        ValueError: A run cannot be read.
    """
    own = run_folder(name, drive=drive)
    if is_finished(own):
        return expand([own])
    if host() == "Kaggle":
        return find_runs(INPUT)
    return []


@dataclass(frozen=True)
class Frame:
    """A page that a notebook shows when it is the value of a cell.

    Attributes:
        path: The page, one HTML file.
        height_px: Height of the frame.
    """

    path: Path
    height_px: int = 800

    def _repr_html_(self) -> str:
        name = html.escape(str(self.path))
        if self.path.stat().st_size > LARGEST_PAGE:
            return f"<p>{name} is too large to be shown here; open it in a browser.</p>"
        text = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe title="{name}" srcdoc="{text}" width="100%" height="{self.height_px}"></iframe>'


def _colab() -> bool:
    try:
        importlib.import_module("google.colab")
    except ImportError:
        return False
    return True
