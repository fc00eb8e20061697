"""A run folder: what a training writes and a prediction reads.

::

    config.json           settings, geometry, network, thresholds, looks, splits, versions, results
    model.weights.h5      the best weights
    history.csv           one row an epoch
    scores.csv            Dice and loss of every image, by split
    results.csv, .txt     the table of loss and Dice by split
    validation/{id}.png   probability maps of the validation images, at the network's scale
    sweep.csv             Dice of each of them by threshold and least region size
    checkpoint.npz        the state after the last epoch, until the training is finished

A training that a time limit ended is such a folder with the checkpoint and without scores and results:
its weights are the best so far, and ``finished`` in ``config.json`` is false.

A folder of folds (see `hubmap_kit.training.folds`) holds the runs ``fold0``, ``fold1`` and so on. Wherever a run is
asked for, it stands for those that are finished.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import PrepareConfig, TrainConfig
from .files import read_json

FORMAT = 2
CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
CHECKPOINT = "checkpoint.npz"
HISTORY, SCORES = "history.csv", "scores.csv"
RESULTS_TABLE, RESULTS = "results.csv", "results.txt"
SWEEP = "sweep.csv"
MAPS = "validation"  # folder
FOLD = re.compile(r"fold(\d+)")
FOLDS = "folds.json"
OUT_OF_FOLD, OUT_OF_FOLD_SCORES = "oof.csv", "oof_scores.csv"


@dataclass(frozen=True)
class Run:
    """A run folder, open for reading.

    Attributes:
        folder: The run folder.
        about: ``config.json``.
    """

    folder: Path
    about: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run folder that holds weights.

        Raises:
            ValueError: The folder is no run, has no weights yet, or is of another format.
        """
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is not a run folder: it has no {name}; make one with: hubmap-kit train")
        about = read_json(folder / CONFIG)
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ValueError(f"{folder / CONFIG} has another format than this version reads ({FORMAT}); train again")
        missing = [key for key in ("prepare", "train", "network", "thresholds", "min_region_um2") if key not in about]
        if missing:
            raise ValueError(f"{folder / CONFIG} lacks {', '.join(missing)}; it is damaged: train again")
        return cls(folder, about)

    @property
    def weights(self) -> Path:
        """The best weights."""
        return self.folder / WEIGHTS

    @property
    def prepare(self) -> PrepareConfig:
        """Geometry the run was trained with."""
        return PrepareConfig(**self.about["prepare"])

    @property
    def train(self) -> TrainConfig:
        """Settings the run was trained with."""
        return TrainConfig(**self.about["train"])

    @property
    def thresholds(self) -> dict[str, float]:
        """Probability from which a pixel is foreground, by organ."""
        return self.about["thresholds"]

    @property
    def min_region_um2(self) -> dict[str, float]:
        """Area in um² below which a region of a mask is dropped, by organ."""
        return self.about["min_region_um2"]

    @property
    def looks(self) -> dict[str, dict[str, list[float]]]:
        """Values of the `hubmap_kit.images.stain.Look` of the training images, by method and organ."""
        return self.about.get("looks", {})


def expand(paths: Iterable[Path]) -> list[Path]:
    """Put the finished folds in the place of each folder of folds.

    Args:
        paths: Run folders and folders of folds.

    Returns:
        Run folders; a path that is no folder of folds stays as it is.

    Raises:
        ValueError: A folder of folds holds no finished one.
    """
    runs: list[Path] = []
    for path in paths:
        folds = {int(found[1]): fold for fold in path.glob("fold*") if (found := FOLD.fullmatch(fold.name))}
        if (path / CONFIG).is_file() or not folds:
            runs.append(path)
            continue
        unfinished = [fold.name for _, fold in sorted(folds.items()) if not is_finished(fold)]
        if len(unfinished) == len(folds):
            raise ValueError(f"none of the folds in {path} is finished; train them, or name another folder")
        if unfinished:
            print(f"{path}: without {', '.join(unfinished)}, which the training has not finished", flush=True)
        runs += [fold for _, fold in sorted(folds.items()) if fold.name not in unfinished]
    return runs


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished training, or one of folds that are all finished."""
    try:
        return bool(read_json(folder / (FOLDS if (folder / FOLDS).is_file() else CONFIG)).get("finished"))
    except (OSError, ValueError, AttributeError):
        return False
