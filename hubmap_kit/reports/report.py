"""The page about runs: scores and pictures of every image that they did not train on, curves, thresholds, settings."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import rle
from ..cluster import spread
from ..images.scaling import resize
from ..progress import track
from ..run import write_map
from ..tables import DataError, Image, scan_images
from .errors import Errors, errors
from .page import MAX_MB, Card, Column, Flag, Layer, write_page
from .pictures import Drawn, Subject, draw
from .report_scores import LOW, TRUTH, content, extremes, score_table
from .runs import Shown, open_all


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
        table = score_table(columns, subjects)
        cards = _cards(columns, drawn, table)
        notes = {card.key: _note(columns[:1], card.drawn.measured or {}) for card in cards}
        return write_page(
            out,
            "report.html.j2",
            title=f"Report: {', '.join(shown.label for shown in columns)}",
            cards=cards,
            layers=[Layer(TRUTH, "truth"), *(Layer(f"run{n}", shown.label) for n, shown in enumerate(columns))],
            columns=_table_columns(columns),
            content=content(columns, table, notes, why),
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


def _cards(columns: Sequence[Shown], drawn: Sequence[Drawn], table: pd.DataFrame) -> list[Card]:
    """The cards, the worst first; with several columns those first that changed most."""
    wanted = {image_id: 2.0 - rank for ids in extremes(table).values() for rank, image_id in enumerate(ids)}
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
                note=_note(columns, found),
                wanted=wanted.get(row["id"], 0.0),
            )
        )
    change = table.set_index("id")["change"].fillna(0.0).to_dict()

    def order(card: Card) -> tuple[float, float]:
        return -change[card.drawn.subject.image.id], 2.0 if card.dice is None else card.dice

    return sorted(cards, key=order)


def _note(columns: Sequence[Shown], found: Mapping[str, Errors]) -> str:
    """What is wrong with an image's masks, in one line."""
    texts = [(shown.label, str(found[layer])) for n, shown in enumerate(columns) if (layer := f"run{n}") in found]
    if len(columns) == 1:
        return " ".join(f"{text[0].upper()}{text[1:]}." for _, text in texts)
    return " ".join(f"{label}: {text}." for label, text in texts)


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
