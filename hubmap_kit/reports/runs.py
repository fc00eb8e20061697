"""What the report shows of a run, of a folder of folds or of an ensemble: one `Shown` each, whatever it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..images.scaling import resize
from ..masks import MaskRule
from ..run import (
    CONFIG,
    FOLDS,
    HISTORY,
    MAPS,
    OUT_OF_FOLD_SCORES,
    RESULTS_TABLE,
    SCORES,
    SWEEP,
    TEST_MAPS,
    FoldsConfig,
    Run,
    expand,
    read_map,
    read_table,
)
from ..words import count

HELD_OUT = ("validation", "test")


@dataclass
class Shown:
    """One column of the report.

    Attributes:
        label: Its name for people, unlike all others on the page.
        runs: Its run folders: one, the finished folds, or the members of an ensemble.
        rule: Threshold and least region size of each organ.
        splits: ``validation`` or ``test`` by id of the images that it did not train on.
        maps: Probability maps by id, at the network's scale; several are averaged.
        dice: Dice by id, as the training wrote it.
        loss: Loss by id.
        organs: Organ by id, where a table names it.
        sweep: Dice of each validation image by threshold and least region; None without a table.
        histories: One table of epochs for each run.
        results: Loss and Dice by split, as the training wrote them; None for folds and ensembles.
        notes: What a reader should know of it, one sentence each.
    """

    label: str
    runs: list[Run]
    rule: MaskRule
    splits: dict[int, str] = field(default_factory=dict)
    maps: dict[int, list[Path]] = field(default_factory=dict)
    dice: dict[int, float] = field(default_factory=dict)
    loss: dict[int, float] = field(default_factory=dict)
    organs: dict[int, str] = field(default_factory=dict)
    sweep: pd.DataFrame | None = None
    histories: list[pd.DataFrame] = field(default_factory=list)
    results: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)

    def map(self, image_id: int) -> npt.NDArray[np.float32]:
        """The probability map of an image, the mean of its members': ``(h, w)`` float32 in [0, 1]."""
        maps = [read_map(path) for path in self.maps[image_id]]
        alike = [resize(each, (maps[0].shape[0], maps[0].shape[1])) for each in maps]
        return np.asarray(np.mean(alike, axis=0), np.float32)


def open_all(paths: Sequence[Path], *, ensemble: bool) -> list[Shown]:
    """Open what a report is about.

    Args:
        paths: Run folders and folders of folds.
        ensemble: Whether to show them as one, besides each by itself.

    Raises:
        ValueError: A folder is no run, a table is damaged, or no image was held out by all of an ensemble.
    """
    labels = _labels(paths)
    shown = [_open(path, label) for path, label in zip(paths, labels, strict=True)]
    if ensemble and len(shown) > 1:
        shown.append(_joined(shown))
    return shown


def _labels(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders above them as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(each[-length:]) for each in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({number})" for number, label in enumerate(labels, start=1)]


def _open(path: Path, label: str) -> Shown:
    folds = (path / FOLDS).is_file() and not (path / CONFIG).is_file()
    runs = [Run.open(run) for run in expand([path])]
    shown = Shown(label, runs, runs[0].config.rule)
    for run in runs:
        history = read_table(run.folder / HISTORY, ["epoch"])
        if not run.config.finished:
            done = 0 if history is None else len(history)
            which = f"{run.folder.name} is " if folds else ""
            shown.notes.append(
                f"{which}unfinished, after {done} of {count(run.config.train.epochs, 'epoch')}; there are no scores yet"
            )
        if history is not None:
            shown.histories.append(history)
        _add_images(shown, run, ("validation",) if folds else HELD_OUT)
    if folds:
        _join_folds(shown, path)
    else:
        shown.results = read_table(runs[0].folder / RESULTS_TABLE, ["split"])
    sweeps = [read_table(run.folder / SWEEP, ["id", "organ", "threshold", "min_region_um2", "dice"]) for run in runs]
    found = [sweep for sweep in sweeps if sweep is not None]
    shown.sweep = pd.concat(found, ignore_index=True) if found else None
    without = len(shown.splits.keys() - shown.maps.keys())
    if without and all(run.config.finished for run in runs):
        shown.notes.append(
            f"the probability maps of {count(without, 'image')} are not in the run folder, so that their predicted "
            "outlines cannot be shown"
        )
    return shown


def _add_images(shown: Shown, run: Run, splits: Sequence[str]) -> None:
    """Add the images that a run did not train on."""
    scores = read_table(run.folder / SCORES, ["split", "id", "dice"])
    for split, folder in (("validation", MAPS), ("test", TEST_MAPS)):
        if split not in splits:
            continue
        for image_id in run.config.splits.get(split, []):
            shown.splits[image_id] = split
            path = run.folder / folder / f"{image_id}.png"
            if path.is_file():
                shown.maps[image_id] = [path]
    if scores is not None:
        _check_ids(run.folder / SCORES, scores, run)
        for row in scores[scores["id"].isin(list(shown.splits)) & (scores["split"] != "train")].to_dict("records"):
            shown.dice[int(row["id"])] = float(row["dice"])
            shown.organs[int(row["id"])] = str(row.get("organ", ""))
            if "loss" in row:
                shown.loss[int(row["id"])] = float(row["loss"])


def _check_ids(path: Path, table: pd.DataFrame, *runs: Run) -> None:
    """Refuse a damaged table of scores: one with an id that no run knows, or with an id twice."""
    known = {image_id for run in runs for ids in run.config.splits.values() for image_id in ids}
    wrong = table["id"][~table["id"].isin(list(known)) | table["id"].duplicated()]
    if known and len(wrong):
        rule = "which is in an earlier row too" if wrong.iloc[0] in known else f"which {CONFIG} does not name"
        raise ValueError(f"{path} has id {wrong.iloc[0]}, {rule}; restore it from a copy, or remove it")


def _join_folds(shown: Shown, path: Path) -> None:
    """Take the rule and the scores that were made on all folds together."""
    config = FoldsConfig.read(path)
    if config.rule is not None:
        shown.rule = config.rule
    scores = read_table(path / OUT_OF_FOLD_SCORES, ["id", "dice"])
    if scores is not None:
        _check_ids(path / OUT_OF_FOLD_SCORES, scores, *shown.runs)
        shown.dice.update({int(row["id"]): float(row["dice"]) for row in scores.to_dict("records")})
    note = f"{len(shown.runs)} of {config.folds} folds; each image is predicted by the fold that did not train on it"
    # No fold trained on the test images; their maps are averaged, as an ensemble of the folds predicts.
    for image_id in shown.runs[0].config.splits.get("test", []):
        maps = [run.folder / TEST_MAPS / f"{image_id}.png" for run in shown.runs]
        if all(map(Path.is_file, maps)):
            shown.splits[image_id], shown.maps[image_id] = "test", maps
    if "test" in shown.splits.values():
        note += ", and test images by all of them together"
    shown.notes.append(note)


def _joined(members: Sequence[Shown]) -> Shown:
    """Several columns as one: the mean of their maps, by the mean of their rules."""
    common = [i for i in members[0].maps if all(i in member.maps for member in members)]
    if not common:
        raise ValueError(
            "no image was held out by all of these runs, so that nothing can be shown of them as an ensemble; "
            "leave out --ensemble, or train them on the same split"
        )
    return Shown(
        "ensemble",
        [run for member in members for run in member.runs],
        MaskRule.mean([member.rule for member in members]),
        splits={i: members[0].splits[i] for i in common},
        maps={i: [path for member in members for path in member.maps[i]] for i in common},
        notes=[f"mean of the probability maps of {len(members)} columns, on the {len(common)} images held out by all"],
    )
