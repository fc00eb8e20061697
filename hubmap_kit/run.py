"""A run folder: what a training writes and a prediction reads.

::

    config.json           `RunConfig`: settings, network, thresholds, stain looks, splits, versions, results
    model.weights.h5      the best weights
    history.csv           one row per epoch
    scores.csv            Dice and loss of every image, by split
    results.csv, .txt     the table of loss and Dice by split
    validation/{id}.png   probability maps of the validation images, at the network's scale
    test/{id}.png         those of the test images
    sweep.csv             Dice of each validation image by threshold and least region size
    report.html           the page about the run
    pace.json             time of a step and of the whole training; in a folder of folds, of the newest fold
    checkpoint.npz        the state after the last epoch, until the training is finished

A training that a time limit ended has a checkpoint, but no scores and no results. Its weights are the best so far,
and ``finished`` in ``config.json`` is false.

A folder of folds (see `hubmap_kit.training.folds`) holds the runs ``fold0``, ``fold1`` and so on, and `FoldsConfig` in
``folds.json``. Every command that takes a run takes such a folder too, and uses its finished folds.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from . import __version__
from .config import WORKING_UM, PrepareConfig, TrainConfig, organ_text, organ_values
from .files import check_types, number, read_object, read_rows, replacing, whole_number, write_json
from .masks import MaskRule
from .models.network_config import NetworkConfig
from .words import listed

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

FORMAT = 3  # of config.json and folds.json; format 2 is read too
CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
CHECKPOINT = "checkpoint.npz"
HISTORY, SCORES = "history.csv", "scores.csv"
RESULTS_TABLE, RESULTS = "results.csv", "results.txt"
SWEEP = "sweep.csv"
MAPS, TEST_MAPS = "validation", "test"  # folders
REPORT = "report.html"
FOLD = re.compile(r"fold(\d+)")
FOLDS = "folds.json"
OUT_OF_FOLD, OUT_OF_FOLD_SCORES = "oof.csv", "oof_scores.csv"

AGAIN = "train again, or restore it from a copy"

MOST = 1e15  # of any number in a table

T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig:
    """Content of a run folder's ``config.json``: what later stages need to know about a training.

    Attributes:
        prepare: Settings of the patch store the run was trained on.
        train: Settings of the training.
        network: Layout of the network, from which it is built again.
        rule: Threshold and least region size of each organ, chosen on the validation images unless ``train.tune`` is
            off.
        looks: Values of the average `hubmap_kit.images.stain.Look` of the training images, by method and organ.
        splits: Image ids of the splits ``train``, ``validation`` and ``test``.
        recipe: Name of the recipe the settings came from.
        kit: Version of hubmap-kit that wrote the run.
        created: When the training began, as ISO 8601 in UTC.
        versions: Versions of Python and of the libraries the training began with.
        finished: Whether the training is finished.
        epochs: Number of epochs of a finished training.
        results: Mean loss, mean Dice and Dice by organ of each split that was scored.
        data: Competition folder whose training images were prepared, absolute; empty if it is not known.
        commit: Commit of the kit that wrote the run; empty if it is not known.
        devices: What it was trained on, in words.
        peak_memory_bytes: Most memory that the training held; None if it is not known.
        sources: Who made the training images; empty if it is not known.
        train_images: Number of training images, by ``organ`` and ``source`` and then by name; empty if it is not known.
    """

    prepare: PrepareConfig
    train: TrainConfig
    network: NetworkConfig
    rule: MaskRule = field(default_factory=lambda: MaskRule.uniform(0.5))
    looks: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    splits: Mapping[str, list[int]] = field(default_factory=dict)
    recipe: str = ""
    kit: str = __version__
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False
    epochs: int | None = None
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    data: str = ""
    commit: str = ""
    devices: str = ""
    peak_memory_bytes: int | None = None
    sources: list[str] = field(default_factory=list)
    train_images: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> RunConfig:
        """Read the ``config.json`` of a run folder, of this format or of format 2.

        Raises:
            ValueError: The file is missing or damaged, or of a format that this version does not know.
        """
        return read_object(folder / CONFIG, cls._from_json, AGAIN, formats=(2, FORMAT))

    def write(self, folder: Path) -> None:
        """Write the ``config.json`` of a run folder."""
        write_json(folder / CONFIG, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json`` as JSON values."""
        values: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        rule: dict[str, Any] = values.pop("rule")
        return values | rule

    @classmethod
    def _from_json(cls, values: Mapping[str, Any]) -> RunConfig:
        given = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        looks = {
            method: {organ: tuple(map(float, of_organ)) for organ, of_organ in by_organ.items()}
            for method, by_organ in values.get("looks", {}).items()
        }
        parts = {
            "prepare": read_prepare(values["prepare"]),
            "train": read_train(values["train"]),
            "network": NetworkConfig.from_json(values["network"]),
            "rule": MaskRule.from_json({key: values[key] for key in ("thresholds", "min_region_um2")}),
        }
        given |= parts | {"looks": looks}
        check_types(cls, given)
        return cls(**given)


@dataclass(frozen=True)
class FoldsConfig:
    """Content of ``folds.json`` in a folder of folds.

    Attributes:
        folds: Number of folds.
        finished: Whether all of them are trained.
        rule: Threshold and least region size of each organ, chosen on the validation images of all folds. Each fold's
            run has them too. None until all folds are finished.
    """

    folds: int
    finished: bool = False
    rule: MaskRule | None = None

    @classmethod
    def read(cls, folder: Path) -> FoldsConfig:
        """Read the ``folds.json`` of a folder of folds, of this format or of format 2.

        Raises:
            ValueError: The file is missing or damaged, or of a format that this version does not know.
        """
        # Format 2 did not number this file.
        return read_object(folder / FOLDS, cls._from_json, AGAIN, formats=(2, FORMAT), unnumbered=2)

    def write(self, folder: Path) -> None:
        """Write the ``folds.json`` of a folder of folds."""
        rule = self.rule.to_json() if self.rule else {}
        write_json(folder / FOLDS, {"format": FORMAT, "folds": self.folds, "finished": self.finished, **rule})

    @classmethod
    def _from_json(cls, values: Mapping[str, Any]) -> FoldsConfig:
        rule = MaskRule.from_json(values) if "thresholds" in values else None
        given = {"folds": values["folds"], "finished": values["finished"], "rule": rule}
        check_types(cls, given)
        return cls(**given)


# Settings of earlier versions that are constants now, with the values they have now.
CONSTANTS: dict[str, Any] = {
    "min_mask_share": 0.05,
    "freeze_batchnorm": True,
    "finetune_learning_rate": 5e-4,
    "warmup_steps": 0,
    "clip_norm": 0.0,
    "foreground_share": 0.7,
    "pseudo_share": 0.25,
}
_GONE = CONSTANTS.keys() | {"jobs", "deterministic"}


def turned_constants(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an earlier version that are constants now but had another value, with that value, by name."""
    return {name: values[name] for name, value in CONSTANTS.items() if values.get(name, value) != value}


def read_prepare(values: Mapping[str, Any]) -> PrepareConfig:
    """Settings of a patch store as this version or an earlier one wrote them.

    The working pixel size of earlier versions becomes a context, so that the network sees each organ at exactly
    the same pixel size. Settings that no longer exist are left out.

    Raises:
        KeyError: The size of a patch is not among them.
        ValueError: A setting of another type or out of bounds.
    """
    values = {"patch_size": values["patch_size"], "input_size": values["input_size"], **values}
    if "pixel_size_um" in values:
        working_um = organ_values(values.pop("pixel_size_um"), WORKING_UM)
        patch_size = values["patch_size"]
        contexts = working_um.map(lambda um: um * patch_size)
        if (context_um := values.pop("context_um")) is not None:
            contexts = organ_values(context_um, contexts)
        values.pop("whole")  # the patch size is already that of the largest image
        if contexts != PrepareConfig(patch_size=values["patch_size"]).contexts_um():
            values["context"] = organ_text(contexts)
    elif "context" not in values:
        raise KeyError("context")
    return _settings(PrepareConfig, values)


def read_train(values: Mapping[str, Any]) -> TrainConfig:
    """Settings of a training as this version or an earlier one wrote them; settings that no longer exist are left out.

    Raises:
        ValueError: A setting of another type or out of bounds.
    """
    values = {"model": values["model"], **values}
    if "looks" in values:
        values["looks_from"] = values.pop("looks")
    return _settings(TrainConfig, values)


def _settings(kind: type[T], values: Mapping[str, Any]) -> T:
    if unknown := sorted(name for name in values if name not in _GONE and not _has(kind, name)):
        _say_ignored(", ".join(unknown))
    known = {name: value for name, value in values.items() if _has(kind, name)}
    check_types(kind, known)
    return kind(**known)


@functools.cache  # once, however often the file is read
def _say_ignored(names: str) -> None:
    print(f"warning: ignored the settings {names}, which only a newer hubmap-kit knows", flush=True)


def _has(kind: Any, name: str) -> bool:
    return name in {each.name for each in fields(kind)}


@dataclass(frozen=True)
class Run:
    """A run folder, open for reading.

    Attributes:
        folder: The run folder.
        config: Its ``config.json``.
    """

    folder: Path
    config: RunConfig

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run folder that holds weights.

        Raises:
            ValueError: The folder is no run or has no weights yet, or its ``config.json`` cannot be read.
        """
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} is not a run folder: it has no {name}; make one with: hubmap-kit train")
        return cls(folder, RunConfig.read(folder))

    @property
    def weights(self) -> Path:
        """The best weights."""
        return self.folder / WEIGHTS


def check_place(folder: Path, *, resume: bool) -> None:
    """Check that a training may write to a folder, before anything is done.

    Args:
        folder: Run folder, or folder of folds, to write.
        resume: Whether a training in it is to go on.

    Raises:
        ValueError: It is a file, holds other things, or holds a training that is not to go on.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and a run is a folder; name another place")
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if any(name in found for name in (CONFIG, CHECKPOINT, FOLDS)):
        if not resume:
            raise ValueError(f"{folder} holds a training already; go on with --resume, or name another folder")
    elif visible := [name for name in found if not name.startswith(".")]:
        listed = ", ".join([*visible[:3], *(["..."] if len(visible) > 3 else [])])
        raise ValueError(f"{folder} holds other files ({listed}); name an empty or new folder for the run")


def expand(paths: Iterable[Path]) -> list[Path]:
    """Replace each folder of folds by its finished folds.

    Args:
        paths: Run folders and folders of folds.

    Returns:
        Run folders; a path that is no folder of folds stays as it is.

    Raises:
        ValueError: No fold of a folder of folds is finished, or the ``config.json`` of a fold cannot be read.
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
        wanted = range(FoldsConfig.read(path).folds) if (path / FOLDS).is_file() else range(0)
        if not wanted:
            print(f"warning: {path}: has no {FOLDS}, so that folds may be missing; restore it from a copy", flush=True)
        if left_out := unfinished + [f"fold{number}" for number in wanted if number not in folds]:
            names = listed(sorted(left_out, key=lambda name: int(name.removeprefix("fold"))))
            print(f"warning: {path}: {names} left out, since the training is not finished", flush=True)
        runs += [fold for _, fold in sorted(folds.items()) if fold.name not in unfinished]
    return runs


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished training, of one run or of all folds.

    Raises:
        ValueError: Its ``config.json`` or ``folds.json`` cannot be read.
    """
    if (folder / FOLDS).is_file():
        return FoldsConfig.read(folder).finished
    return (folder / CONFIG).is_file() and RunConfig.read(folder).finished


def kept_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch whose weights a training kept: the last of those with the best validation Dice.

    Args:
        history: Rows of ``history.csv``; a value that is missing is None or NaN.

    Returns:
        Its number, from 1; that of the last epoch if none was validated; None without an epoch.

    >>> kept_epoch([{"epoch": 1}, {"epoch": 2, "validation_dice": 0.7}, {"epoch": 3, "validation_dice": 0.6}])
    2
    """
    validated = [
        (row["validation_dice"], row["epoch"])
        for row in history
        if row.get("validation_dice") is not None and row["validation_dice"] == row["validation_dice"]
    ]
    if not validated:
        return int(history[-1]["epoch"]) if history else None
    return int(max(validated)[1])


def read_table(path: Path, needed: Sequence[str]) -> pd.DataFrame | None:
    """A table of a run folder; None if there is no such file.

    Args:
        path: The file.
        needed: Columns that it must have, with a value in each row. Cells of other columns may be empty.

    Returns:
        Text in the columns ``split`` and ``organ``, whole numbers in ``id``, ``fold`` and ``epoch``, else numbers. An
        empty cell is NaN.

    Raises:
        ValueError: It is damaged; the text names it, with the row.
    """
    if not path.is_file():
        return None
    import pandas as pd  # here, because the command line reads this module at its start

    again = "restore it from a copy, or remove it"
    rows: list[dict[str, Any]] = []
    for row, cells in enumerate(read_rows(path, needed, again), start=2):
        try:
            rows.append({name: _cell(cells, name, needed=name in needed) for name in cells})
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}; {again}") from error
    return pd.DataFrame(rows, columns=None if rows else list(needed))


def _cell(cells: Mapping[str, str], name: str, *, needed: bool) -> str | int | float:
    """A cell of a run folder's table, in the type of its column."""
    if not cells[name] and not needed:
        return "" if name in ("split", "organ") else math.nan
    if name in ("split", "organ"):
        if not cells[name]:
            raise ValueError(f"{name} is empty; it must be a word")
        return cells[name]
    if name in ("id", "fold"):
        return whole_number(cells, name)
    if name == "epoch":
        return whole_number(cells, name, 1, 10**6)
    if name.endswith("loss") and cells[name] in ("inf", "-inf"):
        return math.nan  # an infinite loss cannot be drawn
    share = "dice" in name or name == "threshold"
    return number(cells, name, 0, 1) if share else number(cells, name, -MOST, MOST)


def write_map(path: Path, small: np.ndarray) -> None:
    """Write a probability map ``(h, w)`` float32 in [0, 1] as a PNG of 8 bits: 255 times the probability, rounded."""
    import cv2  # here and below, because the command line reads this module at its start
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", np.rint(small * 255).astype(np.uint8))
    if not encoded:
        raise ValueError(f"{path} cannot be encoded as PNG")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())


def read_map(path: Path) -> npt.NDArray[np.float32]:
    """Read what `write_map` wrote: ``(h, w)`` float32 in [0, 1].

    Raises:
        ValueError: The file is missing or damaged.
    """
    import cv2
    import numpy as np

    stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if stored is None:
        raise ValueError(f"{path} is missing or no PNG; train the run again")
    return np.asarray(stored, np.float32) / np.float32(255)
