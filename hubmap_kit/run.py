"""A run folder: what a training writes and a prediction reads.

::

    config.json           settings, geometry, network, thresholds, splits, versions, results
    model.weights.h5      the best weights
    history.csv           one row an epoch
    scores.csv            Dice and loss of every image, by split
    results.csv, .txt     the table of loss and Dice by split
    checkpoint.npz        the state after the last epoch, until the training is finished

A training that a time limit ended is such a folder with the checkpoint and without scores and results:
its weights are the best so far, and ``finished`` in ``config.json`` is false.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import PrepareConfig, TrainConfig
from .files import read_json

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.weights.h5"


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
        missing = [key for key in ("prepare", "train", "network", "thresholds") if key not in about]
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
