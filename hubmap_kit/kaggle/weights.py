"""The dataset ``hubmap-weights``: run folders for the inference kernel, each as one archive.

It holds ``<run>.zip`` for every run, ``dataset-metadata.json`` and the manifest ``hubmap-weights.json``, which has the
validation Dice of every run and the SHA-256 of each of its files. The runs of a folder of folds ``cv`` are
``cv-fold0.zip`` and so on. Kaggle unpacks an archive into a folder of its name, or leaves it packed;
`hubmap_kit.kaggle.session.find_runs` takes both.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import is_free, read_json, replacing_folder, sha256_of, write_json
from ..run import CONFIG, HISTORY, RESULTS, RESULTS_TABLE, SCORES, WEIGHTS, Run, expand
from .clone import DATASET_METADATA
from .names import WEIGHTS as WEIGHTS_DATASET

MANIFEST = f"{WEIGHTS_DATASET}.json"

# The files of a run folder that are packed: what prediction needs, and the results of the training.
_FILES = (CONFIG, WEIGHTS, HISTORY, RESULTS_TABLE, RESULTS, SCORES)


def build_weights(runs: Sequence[Path], out: Path, clone: Path) -> Path:
    """Build the dataset, ready to upload; the same runs give the same bytes.

    Args:
        runs: Folders of finished runs, no two with the same name, and folders of folds.
        out: Folder to make; an earlier dataset there is replaced.
        clone: The clone, which has the metadata.

    Returns:
        `out`.

    Raises:
        ValueError: A folder is no finished run, two have the same name, or `out` holds something else.
    """
    if not runs:
        raise ValueError("no run folder is given; name one with --run, or train one")
    if not (is_free(out) or (out / MANIFEST).is_file()):
        raise ValueError(f"{out} exists and holds no weights dataset; name another folder")
    named = [(_name(run, path), run) for path in runs for run in expand([path])]
    opened = {name: Run.open(run) for name, run in named}
    if len(opened) < len(named):
        raise ValueError(f"two of the runs {', '.join(map(str, runs))} have the same name; rename one folder")
    with replacing_folder(out) as part:
        entries = [_pack(name, run, part / f"{name}.zip") for name, run in sorted(opened.items())]
        write_json(part / MANIFEST, {"name": WEIGHTS_DATASET, "runs": entries})
        shutil.copyfile(clone / "datasets" / WEIGHTS_DATASET / DATASET_METADATA, part / DATASET_METADATA)
    return out


def unpack(dataset: Path, out: Path) -> Path:
    """Copy the dataset to `out` as Kaggle shows it: each archive unpacked into a folder of its name."""
    out.mkdir(parents=True)
    for path in dataset.iterdir():
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(out / path.stem)
        else:
            shutil.copyfile(path, out / path.name)
    return out


def holds_run(archive: Path) -> bool:
    """Whether a file is an archive of a run."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return {CONFIG, WEIGHTS} <= set(opened.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def check_run(run: Path, dataset: Path) -> None:
    """Compare a run with the dataset's manifest, if there is one that names the run.

    Args:
        run: The run folder, unpacked.
        dataset: The folder that held the run or its archive.

    Raises:
        ValueError: A file is missing or differs, or the manifest is damaged.
    """
    if not (dataset / MANIFEST).is_file():
        return
    try:
        files = {entry["name"]: dict(entry["files"]) for entry in read_json(dataset / MANIFEST)["runs"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{dataset / MANIFEST} is damaged ({error}); upload the dataset again") from error
    for name, sha256 in files.get(run.name, {}).items():
        if not (run / name).is_file() or sha256_of(run / name) != sha256:
            raise ValueError(
                f"{run / name} is missing or is not the file that {MANIFEST} describes; upload the dataset again"
            )


def _name(run: Path, path: Path) -> str:
    """A run's name in the dataset: its folder's name, or ``<folder>-<fold>`` for a fold of the folder `path`."""
    return run.resolve().name if run == path else f"{path.resolve().name}-{run.name}"


def _pack(name: str, run: Run, archive: Path) -> dict[str, Any]:
    """Write a run's archive, the same bytes for the same files; returns its entry of the manifest."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ValueError(f"a run cannot be called {name!r} on Kaggle: use letters, digits, '-', '_' and '.'")
    if not run.config.finished:
        raise ValueError(f"{run.folder} is not finished; go on with: hubmap-kit train … --resume")
    files = [run.folder / file for file in _FILES if (run.folder / file).is_file()]
    with zipfile.ZipFile(archive, "w") as opened:
        for path in files:
            opened.writestr(zipfile.ZipInfo(path.name), path.read_bytes())
    validation = run.config.results.get("validation", {})  # absent where that split was not scored
    return {
        "name": name,
        "file": archive.name,
        "validation_dice": validation.get("dice"),
        "files": {path.name: sha256_of(path) for path in files},
    }
