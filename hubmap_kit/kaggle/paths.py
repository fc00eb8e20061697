"""Where things lie on Kaggle, whose sessions mount their sources in more than one way.

Newer sessions show a competition at ``/kaggle/input/competitions/<slug>`` and a dataset at
``/kaggle/input/datasets/<owner>/<slug>``, others both at ``/kaggle/input/<slug>``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..competition import SLUG
from ..run import CONFIG, WEIGHTS

_TABLES = {"test.csv", "sample_submission.csv"}


def find_competition(root: Path) -> Path:
    """Find the competition folder.

    Args:
        root: ``/kaggle/input``.

    Returns:
        The folder that holds ``test.csv`` and ``sample_submission.csv``: at one of the places of the
        competition's slug, or else the only one anywhere below `root`.

    Raises:
        ValueError: There is none, or more than one that could be meant.
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
    """Find the run folders: those with a configuration and weights, in datasets or kernel output.

    Args:
        root: ``/kaggle/input``.
        names: Names of the run folders to use; None for all.

    Returns:
        The folders, sorted.

    Raises:
        ValueError: There is none, or a name is not among them or is that of several.
    """
    found = [folder for folder, files in _walk(root) if files >= {CONFIG, WEIGHTS}]
    if not found:
        raise ValueError(
            f"no run folder, with {CONFIG} and {WEIGHTS}, anywhere below {root}; "
            "attach the dataset hubmap-weights (dataset_sources in kernel-metadata.json)"
        )
    if names is None:
        return found
    chosen = []
    for name in names:
        same = [folder for folder in found if folder.name == name]
        if len(same) != 1:
            what = "several run folders have" if same else "no run folder has"
            raise ValueError(f"{what} the name {name!r}; there are {', '.join(map(str, found))}")
        chosen += same
    return chosen


def _walk(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """Each folder below `root` with the names of its files, sorted; image folders are passed over."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(set(subfolders) - {"train_images", "test_images", "train_annotations"})
        yield Path(folder), set(files)
