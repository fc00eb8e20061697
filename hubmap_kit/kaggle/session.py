"""Finding the competition, the runs and an unfinished training in a session on Kaggle.

Kaggle's sessions mount attached sources in more than one way. Newer ones show a competition at
``/kaggle/input/competitions/<slug>`` and a dataset at ``/kaggle/input/datasets/<owner>/<slug>``; others show both at
``/kaggle/input/<slug>``.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..competition import SAMPLE_SUBMISSION, SLUG, TABLES
from ..run import CHECKPOINT, CONFIG, FOLD, FOLDS, WEIGHTS, FoldsConfig
from .weights import check_run, holds_run

_TABLES = {TABLES["test"], SAMPLE_SUBMISSION}
_TRAINED = {CHECKPOINT, WEIGHTS}


def find_competition(root: Path) -> Path:
    """Find the competition folder.

    Args:
        root: ``/kaggle/input``.

    Returns:
        The folder that holds ``test.csv`` and ``sample_submission.csv``: the one at which Kaggle mounts the
        competition, or else the only one anywhere below `root`.

    Raises:
        ValueError: There is none, or there are several and it is unclear which is meant.
    """
    places = [root / "competitions" / SLUG, root / SLUG]
    for place in places:
        if all((place / name).is_file() for name in _TABLES):
            return place
    found = [folder for folder, names in _walk(root) if names >= _TABLES]
    if len(found) == 1:
        return found[0]
    looked = f"{' and '.join(map(str, places))}, then below {root}"
    if found:
        raise ValueError(f"looked in {looked}: {', '.join(map(str, found))} could all be meant; attach only one")
    raise ValueError(
        f"the competition's data is missing: no test.csv beside a sample_submission.csv in {looked}; "
        f"attach the competition {SLUG} (competition_sources in kernel-metadata.json)"
    )


def find_runs(root: Path, names: Sequence[str] | None = None) -> list[Path]:
    """Find the run folders in datasets and kernel output: the folders with a configuration and weights.

    An archive of a run that Kaggle left packed is unpacked into a temporary folder. A run of the dataset
    ``hubmap-weights`` is compared with the manifest of that dataset.

    Args:
        root: ``/kaggle/input``.
        names: Names of the run folders to use, or None for all. The name of a folder of folds stands for its folds.

    Returns:
        The folders, sorted by their paths; with `names`, in the order of the names.

    Raises:
        ValueError: There is no run folder, `names` is empty, none or several have one of the names, or a file is not
            the one that the manifest describes.
    """
    found: list[Path] = []
    unfinished: list[Path] = []
    for folder, files in _walk(root):
        if files >= {CONFIG, WEIGHTS}:
            (unfinished if CHECKPOINT in files else found).append(folder)
        found += [folder / file for file in sorted(files) if file.endswith(".zip") and holds_run(folder / file)]
    if unfinished and not found:
        raise ValueError(f"the training in {unfinished[0]} is not finished; push the training kernel again")
    if not found:
        raise ValueError(
            f"no run folder, with {CONFIG} and {WEIGHTS}, anywhere below {root}; "
            "attach the dataset hubmap-weights (dataset_sources in kernel-metadata.json)"
        )
    chosen = found
    if names is not None:
        if not names:
            raise ValueError("no run folder is named; name one, or None for all that are attached")
        chosen = []
        for name in names:
            same = [place for place in found if _name(place) == name]
            same = same or [place for place in found if _folder_of_folds(place) == name]
            if not same or len(set(map(_name, same))) < len(same):
                what = "several run folders have" if same else "no run folder has"
                raise ValueError(f"{what} the name {name!r}; there are {', '.join(map(str, found))}")
            chosen += same
    return [_checked(place) for place in chosen]


def _name(place: Path) -> str:
    """Name of a run, by its folder or archive."""
    return place.name.removesuffix(".zip")


def _folder_of_folds(place: Path) -> str | None:
    """Name of the folder of folds that a run belongs to: ``cv`` for ``cv/fold0`` and for the dataset's ``cv-fold0``."""
    if FOLD.fullmatch(_name(place)):
        return place.parent.name
    folder, _, fold = _name(place).rpartition("-")
    return folder if FOLD.fullmatch(fold) else None


def _checked(place: Path) -> Path:
    """The folder of a run, unpacked if necessary, after a comparison with the manifest of its dataset."""
    run = place
    if place.is_file():
        run = Path(tempfile.mkdtemp(prefix="hubmap-run-"), place.stem)
        with zipfile.ZipFile(place) as archive:
            archive.extractall(run)
    check_run(run, place.parent)
    return run


def find_unfinished(root: Path) -> Path | None:
    """Find the training that an earlier version of the kernel did not finish, in its attached output.

    A finished training is ignored, and a line says so.

    Args:
        root: ``/kaggle/input``.

    Returns:
        The run folder, with a configuration and a checkpoint, or the folder of folds; None if there is none.

    Raises:
        ValueError: There is more than one.
    """
    runs: dict[Path, bool] = {}
    for folder, files in _walk(root):  # a folder before its subfolders
        if FOLDS in files:
            runs[folder] = not FoldsConfig.read(folder).finished
        elif CONFIG in files and files & _TRAINED and folder.parent not in runs:
            runs[folder] = CHECKPOINT in files
    found = [folder for folder, unfinished in runs.items() if unfinished]
    if len(found) > 1:
        raise ValueError(
            f"{', '.join(map(str, found))} are all unfinished trainings; attach only the one to go on with "
            "(kernel_sources in kernel-metadata.json)"
        )
    for folder, unfinished in runs.items():
        if not unfinished:
            print(f"the training in {folder} is finished: ignored")
    return found[0] if found else None


def _walk(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """Each folder below `root`, sorted, with the names of its files; folders of images are left out."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(set(subfolders) - {"train_images", "test_images", "train_annotations"})
        yield Path(folder), set(files)
