"""The page about runs: scores and pictures of every image that they did not train on, curves, thresholds, settings."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import rle
from ..cluster import spread
from ..config import PrepareConfig, TrainConfig
from ..files import size_text
from ..images.scaling import resize
from ..progress import track
from ..recipes import RECIPES, recipe
from ..run import CONFIG, kept_epoch, write_map
from ..tables import DataError, Image, scan_images
from ..words import count, duration
from .errors import Errors, errors
from .page import MAX_MB, Card, Column, Flag, Layer, write_page
from .pictures import Drawn, Subject, draw
from .runs import Shown, open_all

TRUTH = "truth"
LOW = 0.5  # Dice below which an image is flagged
EMPTY = Errors(0, 0, 0.0, 0.0, "", 0.0, "")


def write_report(
    runs: Sequence[Path],
    out: Path,
    *,
    data: Path | None = None,
    ensemble: bool = False,
    max_mb: float = MAX_MB,
    folder: bool = False,
) -> str:
    """Write the page.

    Args:
        runs: Run folders, and folders of folds; each is one column, side by side with the others.
        out: HTML file to write.
        data: Competition folder that the runs were trained on; by default the one that the first run names. Where it is
            missing, the page has no pictures, and says so.
        ensemble: Whether to show the runs as one too: the mean of their probability maps.
        max_mb: See `hubmap_kit.reports.page.write_page`.
        folder: See there.

    Returns:
        One line: the page, its size, and what was left out.

    Raises:
        ValueError: A folder is no run, or a table in it is damaged.
    """
    columns = open_all(runs, ensemble=ensemble)
    images, why = _images(columns, data)
    with tempfile.TemporaryDirectory(prefix="hubmap-report-") as scratch:
        subjects = _subjects(columns, images, Path(scratch))
        drawn = (
            draw(subjects, Path(scratch) / "pictures", measure=_measure)
            if not why
            else _undrawn(subjects, Path(scratch))
        )
        table = _table(columns, subjects)
        cards = _cards(columns, drawn, table)
        return write_page(
            out,
            "report.html.j2",
            title=f"Report: {', '.join(shown.label for shown in columns)}",
            cards=cards,
            layers=[Layer(TRUTH, "truth"), *(Layer(f"run{n}", shown.label) for n, shown in enumerate(columns))],
            columns=_table_columns(columns),
            content=_content(columns, table, why),
            max_mb=max_mb,
            folder=folder,
        )


def _images(columns: Sequence[Shown], data: Path | None) -> tuple[list[Image], str]:
    """The images that were held out, and why there are no pictures of them; empty if there are some."""
    ids = {image_id for shown in columns for image_id in (*shown.splits, *shown.dice)}
    if not ids:
        return [], "no image was held out, so there is nothing to show but the training"
    named = data or next((Path(run.config.data) for shown in columns for run in shown.runs if run.config.data), None)
    why = "it is not known where the images of these runs are; name the competition folder with --data"
    if named is not None:
        try:
            found = {image.id: image for image in scan_images(named, "train").images}
        except DataError as error:
            why = f"the images cannot be shown ({error.problems[0].rule}); name their competition folder with --data"
        else:
            if known := [found[i] for i in sorted(ids) if i in found]:
                return known, ""
            why = f"{named} holds none of these images; name the folder that the runs were trained on with --data"
    organs = {i: organ for shown in columns for i, organ in shown.organs.items()}
    unknown = [Image(i, organs.get(i, "unknown"), "", (1, 1), 1.0, 1.0, Path(), 0) for i in sorted(ids)]
    return unknown, why


def _subjects(columns: Sequence[Shown], images: Sequence[Image], scratch: Path) -> list[Subject]:
    """The masks and maps of each image, by column."""
    subjects: dict[int, Subject] = {}
    for image, outcome in track(spread(partial(_subject, columns, scratch), images), len(images), "masks", lines=False):
        if isinstance(outcome, Exception):
            raise outcome
        subjects[image.id] = outcome
    return [subjects[image.id] for image in images]


def _subject(columns: Sequence[Shown], scratch: Path, image: Image) -> Subject:
    masks, maps, thresholds = {TRUTH: image.rle}, {}, {}
    for number, shown in enumerate(columns):
        if image.id not in shown.maps or not image.row:
            continue
        layer, small = f"run{number}", shown.map(image.id)
        found = shown.rule.runs(resize(small, image.shape), image.organ, image.pixel_size_um)
        masks[layer], thresholds[layer] = rle.encode_runs(found), shown.rule.of(image.organ)[0]
        maps[layer], *others = shown.maps[image.id]
        if others:
            maps[layer] = scratch / f"{image.id}-{layer}.png"
            write_map(maps[layer], small)
    compare = (TRUTH, next(iter(maps))) if maps else None
    return Subject(image, masks, maps, thresholds, compare)


def _measure(pixels: npt.NDArray[np.uint8], subject: Subject) -> dict[str, Errors]:
    """What is wrong with each predicted mask."""
    shape = (pixels.shape[0], pixels.shape[1])
    if shape != subject.image.shape:
        return {}
    masks = {layer: rle.decode(text, shape) for layer, text in subject.masks.items()}
    truth = masks.pop(TRUTH)
    return {layer: errors(truth, mask, subject.image.pixel_size_um) for layer, mask in masks.items()}


def _undrawn(subjects: Sequence[Subject], pictures: Path) -> list[Drawn]:
    """The subjects without pictures."""
    return [Drawn(subject, pictures / "none", "", subject.image.shape) for subject in subjects]


def _table(columns: Sequence[Shown], subjects: Sequence[Subject]) -> pd.DataFrame:
    """One row for each image: id, organ, source, split, and ``dice0``, ``dice1`` and so on by column."""
    rows = []
    for subject in subjects:
        image = subject.image
        splits = [shown.splits[image.id] for shown in columns if image.id in shown.splits]
        row = {"id": image.id, "organ": image.organ, "source": image.source, "split": splits[0] if splits else ""}
        for number, shown in enumerate(columns):
            dice = shown.dice.get(image.id)
            if dice is None and (mask := subject.masks.get(f"run{number}")) is not None:
                dice = rle.dice(subject.masks[TRUTH], mask, image.shape)
            row |= {f"dice{number}": np.nan if dice is None else dice}
        rows.append(row)
    names = ["id", "organ", "source", "split", *(f"dice{number}" for number in range(len(columns)))]
    return pd.DataFrame(rows, columns=names)


def _cards(columns: Sequence[Shown], drawn: Sequence[Drawn], table: pd.DataFrame) -> list[Card]:
    """The cards, the worst first; with several columns those first that changed most."""
    wanted = {image_id: 2.0 - rank for ids in _extremes(table).values() for rank, image_id in enumerate(ids)}
    cards = []
    for one, row in zip(drawn, table.to_dict("records"), strict=True):
        found: Mapping[str, Errors] = one.measured or {}
        first = found.get("run0")
        dice = row["dice0"]
        values: dict[str, float | str | None] = {"loss": columns[0].loss.get(row["id"])}
        if first:
            values |= {"missed": 100 * first.missed, "extra": 100 * first.extra, "units": first.units}
            values |= {"missed_units": first.missed_units}
        for number in range(1, len(columns)):
            values |= {f"dice{number}": row[f"dice{number}"], f"change{number}": row[f"dice{number}"] - dice}
        flags = []
        if one.subject.masks.get("run0") == "":
            flags.append(Flag("empty", "The predicted mask is empty.", "error"))
        elif dice < LOW:
            flags.append(Flag("low", f"Dice is below {LOW}."))
        cards.append(
            Card(
                one,
                split=row["split"],
                dice=None if np.isnan(dice) else float(dice),
                flags=flags,
                values=values,
                note=f"{str(first)[0].upper()}{str(first)[1:]}." if first else "",
                wanted=wanted.get(row["id"], 0.0),
            )
        )
    change = "change1" if len(columns) > 1 else ""

    def order(card: Card) -> tuple[float, float]:
        moved = card.values.get(change)
        moved = moved if isinstance(moved, float) and moved == moved else 0.0
        return -abs(moved), 2.0 if card.dice is None else card.dice

    return sorted(cards, key=order)


def _table_columns(columns: Sequence[Shown]) -> list[Column]:
    result = []
    for number, shown in list(enumerate(columns))[1:]:
        result += [Column(f"dice{number}", f"Dice {shown.label}"), Column(f"change{number}", "change")]
    return [
        *result,
        Column("missed", "missed", 1, "% of the truth"),
        Column("extra", "extra", 1, "% of the prediction"),
        Column("units", "units", 0),
        Column("missed_units", "units missed", 0),
        Column("loss", "loss"),
    ]


def _extremes(table: pd.DataFrame) -> dict[str, list[int]]:
    """The worst, the median and the best image of each organ by the first column's Dice, each once."""
    result = {}
    for organ, part in table.dropna(subset=["dice0"]).sort_values(["dice0", "id"]).groupby("organ", sort=False):
        ids = part["id"].tolist()
        result[str(organ)] = list(dict.fromkeys([ids[0], ids[len(ids) // 2], ids[-1]]))
    return dict(sorted(result.items()))


def _content(columns: Sequence[Shown], table: pd.DataFrame, why: str) -> dict[str, Any]:
    """What the template reads."""
    scores = table.set_index("id")["dice0"].to_dict()
    extremes = {
        organ: [
            {"key": str(i), "text": f"{name} {scores[i]:.3f}"}
            for name, i in zip(("worst", "median", "best") if len(ids) > 2 else ("worst", "best"), ids, strict=False)
        ]
        for organ, ids in _extremes(table).items()
    }
    return {
        "verdict": _verdict(columns[0], table),
        "unfinished": any(not run.config.finished for shown in columns for run in shown.runs),
        "numbers": _numbers(columns[0], table),
        "notes": [*_notes(columns), *([f"There are no pictures: {why}."] if why else [])],
        "columns": [shown.label for shown in columns],
        "comparison": _comparison(columns, table),
        "sources": sorted(table["source"].unique()),
        "strips": _strips(columns, table),
        "extremes": extremes,
        "training": [_training(shown) for shown in columns if shown.histories],
        "thresholds": [_thresholds(shown) for shown in columns if shown.sweep is not None],
        "results": [_results(shown) for shown in columns if shown.results is not None],
        "settings": _settings(columns),
        "facts": _facts(columns),
    }


def _verdict(shown: Shown, table: pd.DataFrame) -> str:
    scored = table.dropna(subset=["dice0"])
    if scored.empty:
        return f"{shown.label} has no scores yet."
    by_organ = scored.groupby("organ")["dice0"].mean().sort_values()
    low = int((scored["dice0"] < LOW).sum())
    parts = [f"Mean Dice {scored['dice0'].mean():.3f} on {len(scored)} images that the network did not train on"]
    if len(by_organ) > 1:
        (worst, lowest), (best, highest) = ((str(o), float(by_organ[o])) for o in by_organ.index[[0, -1]])
        parts.append(f"best {best} {highest:.3f}, worst {worst} {lowest:.3f}")
    parts.append(f"{count(low, 'image')} below {LOW}")
    return "; ".join(parts) + "."


def _numbers(shown: Shown, table: pd.DataFrame) -> list[dict[str, str]]:
    scored = table.dropna(subset=["dice0"])
    items = []
    for split, part in scored.groupby("split", sort=False):
        text = "thresholds were chosen on them" if split == "validation" and _tuned(shown) else ""
        items.append(
            {"label": f"{split} Dice, {len(part)} images", "value": f"{part['dice0'].mean():.3f}", "text": text}
        )
    if not scored.empty:
        items.append({"label": "median Dice", "value": f"{scored['dice0'].median():.3f}", "text": ""})
        low = int((scored["dice0"] < LOW).sum())
        items.append({"label": f"images below {LOW}", "value": str(low), "text": f"of {len(scored)}"})
    if seconds := sum(float(history.get("seconds", pd.Series(dtype=float)).sum()) for history in shown.histories):
        items.append({"label": "training time", "value": duration(seconds), "text": shown.runs[0].config.devices})
    return items[:4] if len(items) > 4 else items


def _tuned(shown: Shown) -> bool:
    return any(run.config.train.tune for run in shown.runs)


def _notes(columns: Sequence[Shown]) -> list[str]:
    notes = [f"{shown.label}: {note}." for shown in columns for note in shown.notes]
    for shown in columns:
        seen = [run.config.results["train"] for run in shown.runs if "train" in run.config.results]
        if seen:
            mean = np.mean([result["dice"] for result in seen])
            notes.append(
                f"{shown.label}: mean Dice of its training images, which it has seen, {mean:.3f}; not shown here."
            )
    if any(map(_tuned, columns)):
        notes.append(
            "Thresholds and least regions are chosen on the validation images, where that helps clearly; their Dice is "
            "therefore a little too high. Nothing is chosen on test images."
        )
    notes.append("Dice is the competition's: full resolution, thresholded, of each image by itself, then averaged.")
    return notes


def _comparison(columns: Sequence[Shown], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean Dice of several columns side by side, on the images that all of them have."""
    names = [f"dice{number}" for number in range(len(columns))]
    common = table.dropna(subset=names)
    if len(columns) < 2 or common.empty:
        return []
    groups: list[tuple[str, pd.DataFrame]] = [("all", common)]
    groups += [(str(organ), part) for organ, part in common.groupby("organ")]
    if common["source"].nunique() > 1:
        groups += [(str(source), part) for source, part in common.groupby("source")]
    rows = []
    for label, part in groups:
        means = [float(part[name].mean()) for name in names]
        rows.append({"label": label, "images": len(part), "values": means, "best": int(np.argmax(means))})
    return rows


def _strips(columns: Sequence[Shown], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Every image as a dot, by organ: the Dice of each column, then the change from the first column to each other."""
    sources = sorted(table["source"].unique())
    strips: list[dict[str, Any]] = []
    for number, shown in enumerate(columns):
        strips.append({"title": f"Dice of {shown.label}", "values": table[f"dice{number}"], "low": 0.0, "high": 1.0})
    for number, shown in list(enumerate(columns))[1:]:
        change = table[f"dice{number}"] - table["dice0"]
        most = max(0.05, float(change.abs().max()) if change.notna().any() else 0.05)
        title = f"Change of Dice from {columns[0].label} to {shown.label}"
        strips.append({"title": title, "values": change, "low": -most, "high": most})
    for strip in strips:
        rows = table.assign(value=np.asarray(strip.pop("values"), np.float64))
        strip["groups"] = [
            {
                "label": str(organ),
                "dots": [
                    {
                        "key": str(row["id"]),
                        "value": float(row["value"]),
                        "text": f"{row['id']}, {row['organ']} {row['source']} {row['split']}: {row['value']:.3f}",
                        "kind": sources.index(row["source"]),
                    }
                    for row in part.to_dict("records")
                    if not np.isnan(row["value"])
                ],
            }
            for organ, part in rows.groupby("organ")
        ]
    return strips


def _training(shown: Shown) -> dict[str, Any]:
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
        if (kept := kept_epoch(_records(history))) is not None:
            marks.append({"x": kept, "label": f"epoch {kept} kept"})
    kept_of_folds = [
        f"{run.folder.name} {kept_epoch(_records(history))}"
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


def _records(history: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in history.to_dict("records")]


def _thresholds(shown: Shown) -> dict[str, Any]:
    """Mean Dice of each organ by threshold, at the least region that the rule has, and the chosen threshold."""
    assert shown.sweep is not None
    series, marks = [], []
    for number, (organ, rows) in enumerate(shown.sweep.groupby("organ")):
        least = shown.rule.of(str(organ))[1]
        areas = rows["min_region_um2"].unique() if "min_region_um2" in rows else np.zeros(1)
        nearest = areas[np.argmin(np.abs(areas - least))]
        curve = rows[rows.get("min_region_um2", 0.0) == nearest].groupby("threshold")["dice"].mean()
        points = [(float(x), float(y)) for x, y in curve.items()]
        series.append({"label": str(organ), "points": points, "kind": number})
        marks.append({"x": shown.rule.of(str(organ))[0], "label": str(organ)})
    return {"label": shown.label, "series": series, "marks": marks}


def _results(shown: Shown) -> dict[str, Any]:
    """Loss and Dice by split, as the training wrote them."""
    assert shown.results is not None
    rows = [
        ["–" if value != value else value if isinstance(value, str) else f"{value:.4g}" for value in row.values()]
        for row in shown.results.to_dict("records")
    ]
    return {"label": shown.label, "head": [str(name) for name in shown.results], "rows": rows}


def _settings(columns: Sequence[Shown]) -> dict[str, Any]:
    """The settings in which a column differs from its recipe, or from another column."""
    shown = [column for column in columns if column.label != "ensemble" or len(columns) == 1]
    given, usual = [], []
    for column in shown:
        config = column.runs[0].config
        base = recipe(config.recipe) if config.recipe in RECIPES else TrainConfig()
        usual.append({**vars(PrepareConfig(patch_size=config.prepare.patch_size)), **vars(base)})
        given.append({**vars(config.prepare), **vars(config.train)})
    rows = []
    for name in given[0]:
        values = [each[name] for each in given]
        changed = [value != each[name] for value, each in zip(values, usual, strict=True)]
        if not (any(changed) or len(set(map(str, values))) > 1):
            continue
        cells = [
            f"{_text(value)} (recipe: {_text(each[name])})" if differs else _text(value)
            for value, each, differs in zip(values, usual, changed, strict=True)
        ]
        rows.append({"name": f"--{name.replace('_', '-')}", "cells": cells})
    return {"columns": [column.label for column in shown], "rows": rows}


def _text(value: object) -> str:
    return "none" if value is None or value == "" else str(value).lower() if isinstance(value, bool) else str(value)


def _facts(columns: Sequence[Shown]) -> dict[str, Any]:
    """Where each column came from, what it took, and with which versions."""
    rows: dict[str, list[str]] = {}
    for column in columns:
        config = column.runs[0].config
        network = f"{config.network.model} {config.network.encoder or ''}".strip()
        seconds = sum(float(history.get("seconds", pd.Series(dtype=float)).sum()) for history in column.histories)
        memory = max((run.config.peak_memory or 0 for run in column.runs), default=0)
        facts = {
            "recipe": config.recipe or "–",
            "network": network,
            "folders": ", ".join(run.folder.name for run in column.runs),
            "begun": config.created.replace("T", " ").replace("+00:00", " UTC") or "–",
            "epochs": ", ".join(str(run.config.epochs or f"unfinished, {CONFIG} only") for run in column.runs),
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
