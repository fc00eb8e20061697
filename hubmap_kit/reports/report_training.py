"""What the report says of the trainings: curves, thresholds, settings, and where each run came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..config import PrepareConfig, TrainConfig, flag_of
from ..files import size_text
from ..recipes import RECIPES, recipe
from ..run import kept_epoch
from ..words import count, duration
from .runs import Shown


def training(shown: Shown) -> dict[str, Any]:
    """Curves of loss and Dice, with the epoch of unfreezing and the kept one."""
    loss: list[dict[str, Any]] = []
    dice: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    several = len(shown.histories) > 1
    for number, history in enumerate(shown.histories):
        name = f"{shown.runs[number].folder.name} " if several else ""
        for column, label in (("train_loss", "training"), ("validation_loss", "validation")):
            if points := _points(history, column):
                loss.append({"label": f"{name}{label}", "points": points, "kind": number if several else len(loss)})
        if points := _points(history, "validation_dice"):
            dice.append({"label": f"{name}mean", "points": points, "kind": number if several else 0})
        for column in () if several else [str(c) for c in history if str(c).startswith("validation_dice_")]:
            organ = {"label": column.removeprefix("validation_dice_"), "points": _points(history, column)}
            dice.append(organ | {"kind": len(dice)})
        if several:
            continue
        frozen = history.get("frozen", pd.Series(0.0, history.index)).astype(float)
        thawed = history["epoch"][(frozen == 0) & (frozen.shift() == 1)]
        marks += [{"x": int(epoch), "label": "encoder unfrozen"} for epoch in thawed]
        if (kept := kept_epoch(records(history))) is not None:
            marks.append({"x": kept, "label": f"epoch {kept} kept"})
    kept_of_folds = [
        f"{run.folder.name} {kept_epoch(records(history))}"
        for run, history in zip(shown.runs, shown.histories, strict=False)
        if several
    ]
    return {
        "label": shown.label,
        "loss": loss,
        "dice": [one for one in dice if one["points"]],
        "marks": marks,
        "note": f"Epochs kept: {', '.join(kept_of_folds)}." if kept_of_folds else "",
    }


def _points(history: pd.DataFrame, column: str) -> list[tuple[int, float]]:
    if column not in history:
        return []
    rows = history.dropna(subset=[column])
    return [(int(epoch), float(value)) for epoch, value in zip(rows["epoch"], rows[column], strict=True)]


def records(history: pd.DataFrame) -> list[dict[str, Any]]:
    """One dictionary for each epoch of ``history.csv``."""
    return [{str(key): value for key, value in row.items()} for row in history.to_dict("records")]


def epochs_s(shown: Shown) -> float:
    """Time of all epochs and their validations, in s."""
    names = ("seconds", "validation_seconds")
    return sum(float(history[name].sum()) for history in shown.histories for name in names if name in history)


def threshold_curves(shown: Shown) -> dict[str, Any]:
    """Mean Dice of each organ by threshold, at the least region that the rule has, and the chosen threshold."""
    assert shown.sweep is not None
    series: list[dict[str, Any]] = []
    organs_at: dict[float, list[str]] = {}
    for number, (organ, rows) in enumerate(shown.sweep.groupby("organ")):
        threshold, least = shown.rule.of(str(organ))
        areas = rows["min_region_um2"].unique() if "min_region_um2" in rows else np.zeros(1)
        nearest = areas[np.argmin(np.abs(areas - least))]
        curve = rows[rows.get("min_region_um2", 0.0) == nearest].groupby("threshold")["dice"].mean()
        label = f"{organ}, {count(rows['id'].nunique(), 'image')}"
        series.append({"label": label, "points": [(float(x), float(y)) for x, y in curve.items()], "kind": number})
        organs_at.setdefault(round(threshold, 3), []).append(str(organ))
    marks = [
        {"x": x, "label": f"{x:g}, " + ("all" if len(organs) == len(series) > 1 else ", ".join(organs))}
        for x, organs in sorted(organs_at.items())
    ]
    regions = [
        f"{organ} {shown.rule.of(organ)[1]:.0f} µm²"
        for organs in organs_at.values()
        for organ in organs
        if shown.rule.of(organ)[1]
    ]
    tried = shown.sweep["threshold"].round(3)
    ends = ((float(tried.min()), "lowest"), (float(tried.max()), "highest"))
    notes = [f"{x:g} is the {end} threshold that was tried." for x, end in ends if x in organs_at]
    if regions:
        notes.append(f"Smaller regions are dropped: {', '.join(regions)}.")
    return {"label": shown.label, "series": series, "marks": marks, "note": " ".join(notes)}


def results(shown: Shown) -> dict[str, Any]:
    """Loss and Dice by split, as the training wrote them."""
    assert shown.results is not None
    rows = [
        ["–" if value != value else value if isinstance(value, str) else f"{value:.4g}" for value in row.values()]
        for row in shown.results.to_dict("records")
    ]
    return {"label": shown.label, "head": [str(name) for name in shown.results], "rows": rows}


def settings(columns: Sequence[Shown]) -> dict[str, Any]:
    """The settings in which a column differs from its recipe, or from another column."""
    shown = [column for column in columns if column.label != "ensemble" or len(columns) == 1]
    given, usual = [], []
    for column in shown:
        config = column.runs[0].config
        base = recipe(config.recipe) if config.recipe in RECIPES else TrainConfig()
        folds = {"fold": "each"} if len(column.runs) > 1 else {}
        usual.append({**vars(PrepareConfig()), **vars(base), **folds})
        given.append({**vars(config.prepare), **vars(config.train), **folds})
    prepared = vars(PrepareConfig())
    rows = []
    for name in given[0]:
        values = [each[name] for each in given]
        changed = [value != each[name] for value, each in zip(values, usual, strict=True)]
        if not (any(changed) or len(set(map(str, values))) > 1):
            continue
        source = "default" if name in prepared and name != "seed" else "recipe"
        cells = [
            f"{_text(value)} ({source}: {_text(each[name])})" if differs else _text(value)
            for value, each, differs in zip(values, usual, changed, strict=True)
        ]
        rows.append({"name": flag_of(PrepareConfig if source == "default" else TrainConfig, name), "cells": cells})
    return {"columns": [column.label for column in shown], "rows": rows}


def _text(value: object) -> str:
    return "none" if value is None or value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def facts(columns: Sequence[Shown]) -> dict[str, Any]:
    """Where each column came from, what it took, and with which versions."""
    rows: dict[str, list[str]] = {}
    for column in columns:
        config = column.runs[0].config
        network = f"{config.network.model} {config.network.encoder or ''}".strip()
        seconds = epochs_s(column)
        memory = max((run.config.peak_memory_bytes or 0 for run in column.runs), default=0)
        epochs = [
            f"{len(history)} of {run.config.train.epochs}, kept {kept_epoch(records(history))}"
            + ("" if run.config.finished else ", unfinished")
            for run, history in zip(column.runs, column.histories, strict=False)
        ]
        facts = {
            "recipe": config.recipe or "–",
            "network": network,
            "folders": ", ".join(run.folder.name for run in column.runs),
            "begun": config.created.replace("T", " ").replace("+00:00", " UTC") or "–",
            "epochs": "; ".join(epochs) or "–",
            "images": ", ".join(f"{len(ids)} {split}" for split, ids in config.splits.items()),
            "training": duration(seconds) if seconds else "–",
            "devices": config.devices or "–",
            "peak memory": size_text(memory) if memory else "–",
            "data": config.data or "–",
            "hubmap-kit": config.kit + (f", commit {config.commit[:12]}" if config.commit else ""),
            "versions": ", ".join(f"{name} {version}" for name, version in config.versions.items()) or "–",
        }
        for name, value in facts.items():
            rows.setdefault(name, []).append(value)
    return {"columns": [column.label for column in columns], "rows": rows}
