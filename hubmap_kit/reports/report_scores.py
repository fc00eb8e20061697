"""What the report says of the scores: the verdict, its numbers, and each image by organ, source and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import rle
from ..words import count, duration
from .pictures import Subject
from .report_training import epochs_s, facts, records, results, settings, threshold_curves, training
from .runs import Shown

TRUTH = "truth"  # layer of the true mask; those of predicted masks are run0, run1 and so on
LOW = 0.5  # Dice below which an image is flagged
MOST = 12  # images in the table of those that differ most
CLEAR = 2.0  # standard errors from which the difference of two columns is clear
_RANKS = {1: ("only one",), 2: ("worst", "best"), 3: ("worst", "median", "best")}


def score_table(columns: Sequence[Shown], subjects: Sequence[Subject]) -> pd.DataFrame:
    """One row for each image.

    Returns:
        Columns ``id``, ``organ``, ``source``, ``split``; ``everything``, the Dice of a mask of the whole image;
        ``dice0``, ``dice1`` and so on by column; and ``change``, the largest difference between two of these.
    """
    rows = []
    for subject in subjects:
        image = subject.image
        splits = [shown.splits[image.id] for shown in columns if image.id in shown.splits]
        row = {"id": image.id, "organ": image.organ, "source": image.source, "split": splits[0] if splits else ""}
        if image.row:
            share = rle.area(rle.parse(image.rle, image.shape)) / (image.shape[0] * image.shape[1])
            row["everything"] = 2 * share / (1 + share)
        for number, shown in enumerate(columns):
            dice = shown.dice.get(image.id)
            if dice is None and (mask := subject.masks.get(f"run{number}")) is not None:
                dice = rle.dice(subject.masks[TRUTH], mask, image.shape)
            row |= {f"dice{number}": np.nan if dice is None else dice}
        rows.append(row)
    names = dice_names(columns)
    table = pd.DataFrame(rows, columns=["id", "organ", "source", "split", "everything", *names])
    return table.assign(change=table[names].max(axis=1) - table[names].min(axis=1))


def dice_names(columns: Sequence[Shown]) -> list[str]:
    """Names of the columns of `score_table` that hold the Dice of each column of the report."""
    return [f"dice{number}" for number in range(len(columns))]


def extremes(table: pd.DataFrame) -> dict[str, list[int]]:
    """The worst, the median and the best image of each organ by the first column's Dice, each once."""
    result = {}
    for organ, part in table.dropna(subset=["dice0"]).sort_values(["dice0", "id"]).groupby("organ", sort=False):
        ids = part["id"].tolist()
        result[str(organ)] = list(dict.fromkeys([ids[0], ids[len(ids) // 2], ids[-1]]))
    return dict(sorted(result.items()))


def content(columns: Sequence[Shown], table: pd.DataFrame, notes: Mapping[str, str], why: str) -> dict[str, Any]:
    """What the template reads.

    Args:
        columns: What the report shows.
        table: See `score_table`.
        notes: What is wrong with each image in the first column, by the key of its card.
        why: Why there are no pictures; empty if there are some.
    """
    scores = table.set_index("id")["dice0"].to_dict()
    pictured = {
        organ: [
            {"key": str(i), "text": f"{name} {scores[i]:.3f}", "note": notes[str(i)]}
            for name, i in zip(_RANKS[len(ids)], ids, strict=True)
        ]
        for organ, ids in extremes(table).items()
    }
    return {
        "verdict": _verdict(columns[0], table) if len(columns) == 1 else _verdict_of_several(columns, table),
        "unfinished": any(not run.config.finished for shown in columns for run in shown.runs),
        "numbers": _numbers(columns[0], table) if len(columns) == 1 else _numbers_of_several(columns, table),
        "notes": [*_notes(columns, table), *([f"There are no pictures: {why}."] if why else [])],
        "columns": [shown.label for shown in columns],
        "comparison": _comparison(columns, table),
        "differences": _differences(columns, table),
        "sources": sorted(table["source"].unique()),
        "strips": _strips(columns, table),
        "extremes": pictured,
        "training": [training(shown) for shown in columns if shown.histories],
        "thresholds": [threshold_curves(shown) for shown in columns if shown.sweep is not None],
        "results": [results(shown) for shown in columns if shown.results is not None],
        "settings": settings(columns),
        "facts": facts(columns),
    }


def _verdict(shown: Shown, table: pd.DataFrame) -> str:
    scored = table.dropna(subset=["dice0"])
    if scored.empty:
        return _verdict_without_scores(shown)
    by_organ = scored.groupby("organ")["dice0"].mean().sort_values()
    low = int((scored["dice0"] < LOW).sum())
    parts = [
        f"Mean Dice {scored['dice0'].mean():.3f} on {count(len(scored), 'image')} that the network did not train on"
    ]
    if little := _little(scored, "dice0"):
        parts.append(little)
    if len(by_organ) > 1:
        (worst, lowest), (best, highest) = ((str(o), float(by_organ[o])) for o in by_organ.index[[0, -1]])
        parts.append(f"best {best} {highest:.3f}, worst {worst} {lowest:.3f}")
    parts.append(f"{count(low, 'image')} below {LOW}")
    return "; ".join(parts) + "."


def _verdict_without_scores(shown: Shown) -> str:
    """What the history says of a training that has no scores yet."""
    validated = [
        (int(row["epoch"]), float(row["validation_dice"]))
        for history in shown.histories
        for row in records(history)
        if row.get("validation_dice", np.nan) == row.get("validation_dice", np.nan)
    ]
    if not validated or len(shown.histories) > 1:
        return f"{shown.label} has no scores yet."
    epoch, dice = max(validated, key=lambda pair: (pair[1], pair[0]))
    return f"{shown.label} is unfinished: its best mean validation Dice is {dice:.3f} so far, after epoch {epoch}."


def _little(scored: pd.DataFrame, name: str) -> str:
    """That a column's Dice is no higher than without a network, if it is not; else empty."""
    known = scored.dropna(subset=["everything", name])
    if known.empty or known[name].mean() > known["everything"].mean():
        return ""
    return f"no better than a mask of every whole image, which gives {known['everything'].mean():.3f}"


def _two_best(columns: Sequence[Shown], common: pd.DataFrame) -> tuple[int, int]:
    """Numbers of the columns with the highest and the second highest mean Dice."""
    first, second, *_ = np.argsort([-common[name].mean() for name in dice_names(columns)], kind="stable").tolist()
    return first, second


def _verdict_of_several(columns: Sequence[Shown], table: pd.DataFrame) -> str:
    """Whether the best column is clearly better than the next one, by the differences of the images that all have."""
    common = table.dropna(subset=dice_names(columns))
    if common.empty:
        return "No image has a Dice of all of these runs, so that they cannot be compared."
    first, second = _two_best(columns, common)
    gain = (common[f"dice{first}"] - common[f"dice{second}"]).to_numpy(np.float64)
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    clear = gain.mean() > CLEAR * error
    best, other = columns[first].label, columns[second].label
    means = f"mean Dice {common[f'dice{first}'].mean():.3f} against {common[f'dice{second}'].mean():.3f}"
    how = f"{best} is better than {other}" if clear else f"{best} is not clearly better than {other}"
    spread = f" ± {error:.3f} (standard error)" if np.isfinite(error) else ""
    where = f"on the {count(len(common), 'image')} that none of the runs trained on"
    return f"{how}: {means} {where}, a difference of {gain.mean():.3f}{spread}."


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
    if seconds := epochs_s(shown):
        items.append({"label": "training time", "value": duration(seconds), "text": shown.runs[0].config.devices})
    return items[:4]


def _numbers_of_several(columns: Sequence[Shown], table: pd.DataFrame) -> list[dict[str, str]]:
    common = table.dropna(subset=dice_names(columns))
    if common.empty:
        return []
    first, second = _two_best(columns, common)
    items = [
        {"label": f"mean Dice, {columns[n].label}", "value": f"{common[f'dice{n}'].mean():.3f}", "text": ""}
        for n in (first, second)
    ]
    gain = common[f"dice{first}"] - common[f"dice{second}"]
    for one, won in ((first, int((gain > 0).sum())), (second, int((gain < 0).sum()))):
        items.append(
            {"label": f"images better with {columns[one].label}", "value": str(won), "text": f"of {len(gain)}"}
        )
    return items


def _notes(columns: Sequence[Shown], table: pd.DataFrame) -> list[str]:
    notes = [f"{shown.label}: {note}." for shown in columns for note in shown.notes]
    if len(columns) > 1:
        little = [(shown.label, _little(table, name)) for shown, name in zip(columns, dice_names(columns), strict=True)]
        notes += [f"{label}: its Dice is {text}." for label, text in little if text]
    for shown in columns:
        seen = [run.config.results["train"] for run in shown.runs if "train" in run.config.results]
        if seen and shown.histories:  # an ensemble has none
            mean = np.mean([result["dice"] for result in seen])
            notes.append(f"{shown.label}: its mean Dice on its training images is {mean:.3f}; they are not shown here.")
    if any(_tuned(shown) and shown.dice for shown in columns):
        notes.append(
            "Thresholds and least regions are chosen on the validation images, where that helps clearly, so the "
            "validation Dice is a little too high. Nothing is chosen on test images."
        )
    notes.append("Dice is computed as in the competition: of each image's mask at full resolution, then averaged.")
    return notes


def _tuned(shown: Shown) -> bool:
    return any(run.config.train.tune for run in shown.runs)


def _comparison(columns: Sequence[Shown], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean Dice of several columns side by side, on the images that all of them have."""
    names = dice_names(columns)
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


def _differences(columns: Sequence[Shown], table: pd.DataFrame) -> list[dict[str, Any]]:
    """The images whose Dice differs most between the columns."""
    if len(columns) < 2:
        return []
    names = dice_names(columns)
    rows = []
    for row in table.dropna(subset=names).nlargest(MOST, "change").to_dict("records"):
        values = [float(row[name]) for name in names]
        about = {"key": str(row["id"]), "organ": row["organ"], "source": row["source"], "change": float(row["change"])}
        rows.append(about | {"values": values, "best": int(np.argmax(values))})
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
        rows = table.assign(value=np.asarray(strip.pop("values"), np.float64)).dropna(subset=["value"])
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
                ],
            }
            for organ, part in rows.groupby("organ")
        ]
    return strips
