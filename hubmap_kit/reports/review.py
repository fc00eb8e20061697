"""The page about a submission, before it is sent: what is wrong, what is suspicious, and its masks over the images."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import rle
from ..competition import ORGANS
from ..run import Run, expand
from ..submission import (
    problems_path,
    progress_path,
    read_masks,
    read_problems,
    read_truth,
    validate,
)
from ..tables import DataError, Image, Problem, scan_images
from ..words import count, listed, percent
from .page import MAX_MB, Card, Column, Flag, Layer, write_page
from .pictures import Drawn, Subject, draw
from .review_fit import ARRANGEMENTS, SHIFTED, Fit, Misfit, fit, misfit, misfit_of_one
from .review_flags import AreaRange, MaskFacts, area_ranges, facts_of, flags_of, one_pixel_off, twins

_TEMPLATE = "review.html.j2"
TRUTH, PREDICTION, OTHER = "truth", "prediction", "other"  # layers
CHANGED = 0.5  # Dice between two submissions below which an image is pointed out
_MOST_PICTURES = 6  # of a kind of flag, above the grid
_MOST_PROBLEMS = 200  # listed on the page
# Headings of flags by kind, in the order in which the page has them.
_HEADINGS = {
    "invalid": "Breaks a rule",
    "prediction": "Could not be predicted",
    "unreadable": "Cannot be shown",
    **{key: f"Fits better {words}" for key, words in ARRANGEMENTS.items()},
    "off-by-one": "RLE off by one",
    "twins": "Same mask as another image",
    "empty": "Empty mask",
    "full": "Nearly the whole image",
    "background": "Mask on glass",
    "area": "Area outside the organ's range in training",
    "specks": "Many tiny regions",
    "changed": "Little in common with the other submission",
}

_Runs = npt.NDArray[np.int64]
_SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Something about the submission as a whole.

    Attributes:
        severity: How bad it is.
        text: One sentence.
        short: A few words for the verdict, if it changes that.
    """

    severity: Literal["error", "warning", "note"]
    text: str
    short: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


@dataclass(frozen=True)
class Review:
    """What a review found.

    Attributes:
        verdict: The verdict in one line.
        problems: Every problem of `hubmap_kit.submission.validate`.
        findings: What was found about the submission as a whole.
        page: The page, its size, and what was lowered or left out, in one line.
    """

    verdict: str
    problems: list[Problem]
    findings: list[Finding]
    page: str

    @property
    def valid(self) -> bool:
        """Whether the submission is valid."""
        return all(problem.severity != "error" for problem in self.problems)


@dataclass(frozen=True)
class _Masks:
    """The good rows of one submission, or the truth.

    Attributes:
        name: Its name for people.
        texts: RLE by image id, in the file's order.
        runs: RLE runs by image id.
    """

    name: str
    texts: Mapping[int, str] = field(default_factory=dict)
    runs: Mapping[int, _Runs] = field(default_factory=dict)

    def dice(self, image_id: int, other: _Masks | None) -> float | None:
        """Dice with another mask of the same image, if both are known."""
        if other is None or image_id not in self.runs or image_id not in other.runs:
            return None
        return rle.dice_of_runs(self.runs[image_id], other.runs[image_id])


@dataclass(frozen=True)
class _Subject:
    """A submission and everything it is compared with.

    Attributes:
        images: The images of the test set whose row of the table is good.
        masks: The submission.
        other: The submission it is compared with.
        truth: The true masks.
        ranges: Area of each organ in training.
    """

    images: Sequence[Image]
    masks: _Masks
    other: _Masks | None
    truth: _Masks | None
    ranges: Mapping[str, AreaRange]

    @cached_property
    def facts(self) -> dict[int, MaskFacts]:
        """Numbers of each mask, by image id."""
        return {
            image.id: facts_of(self.masks.runs[image.id], image.shape, image.pixel_size_um)
            for image in self.images
            if image.id in self.masks.runs
        }


def write_review(
    submission: Path,
    data: Path,
    out: Path,
    *,
    against: Path | None = None,
    truth: Path | None = None,
    runs: Sequence[Path] = (),
    earlier: Sequence[tuple[str, Path]] = (),
    max_mb: float = MAX_MB,
    folder: bool = False,
    most_images: int | None = None,
) -> Review:
    """Write the page about a submission. It is written for a submission with errors too, from the rows that are good.

    Args:
        submission: The CSV.
        data: Competition folder; its test part is read, and ``train.csv`` if there is one.
        out: HTML file to write.
        against: Another submission of the same images.
        truth: A CSV with ``id,rle,img_height,img_width``.
        runs: Run folders that the submission was predicted with.
        earlier: Name and CSV of earlier submissions, which this one should not repeat.
        max_mb: Size of the page to keep to, in MB.
        folder: Write the pictures to a folder beside the page.
        most_images: Show at most so many images, the suspicious ones first; None for all.

    Returns:
        What was found.

    Raises:
        DataError: `against` or `truth` cannot be read.
        ValueError: A run cannot be read, or `max_mb` is not above 0.
    """
    problems = validate(submission, data)
    try:
        images = scan_images(data, "test", check_files=False).images
    except DataError:
        images = []
    shapes = {image.id: image.shape for image in images}
    texts, mask_runs, _ = read_masks(submission, shapes)
    names = _names(submission, against)
    subject = _Subject(
        images=images,
        masks=_Masks(names[0], texts, mask_runs),
        other=_read_other(against, names[1], shapes) if against else None,
        truth=_read_true(truth, shapes) if truth else None,
        ranges=area_ranges(data),
    )
    findings = [*_beside(submission), *_runs_findings(runs, images), *_repeats(subject, submission, earlier)]
    flags = _flags(subject, problems, submission)
    chosen = _chosen(subject, flags, most_images)
    if len(chosen) < len(images):
        findings.append(Finding("note", f"{len(chosen)} of {len(images)} images are shown, the suspicious ones first."))
    with tempfile.TemporaryDirectory() as pictures:
        drawn = draw(
            [_drawing(subject, image) for image in chosen],
            Path(pictures),
            measure=lambda pixels, one: _measure(subject, pixels, one.image),
        )
        findings += _measured_flags(subject, drawn, flags)
        findings += _off_by_a_pixel(subject)
        findings.sort(key=lambda finding: _SEVERITIES.index(finding.severity))
        cards = _cards(subject, drawn, flags)
        verdict = _verdict(subject, problems, findings, flags)
        layers = [(TRUTH, subject.truth), (PREDICTION, subject.masks), (OTHER, subject.other)]
        page = write_page(
            out,
            _TEMPLATE,
            title=f"Review of {submission.name}",
            cards=cards,
            layers=[Layer(key, masks.name) for key, masks in layers if masks],
            columns=_columns(subject),
            content=_content(subject, verdict, problems, findings, cards, runs),
            max_mb=max_mb,
            folder=folder,
        )
    return Review(verdict, problems, findings, page)


def _names(submission: Path, against: Path | None) -> tuple[str, str]:
    """Names of the two submissions that differ."""
    if against is None or against.name != submission.name:
        return f"prediction ({submission.name})", f"other ({against.name})" if against else ""
    return f"prediction ({submission})", f"other ({against})"


def _read_other(path: Path, name: str, shapes: Mapping[int, tuple[int, int]]) -> _Masks:
    texts, runs, problems = read_masks(path, shapes)
    if not runs and (errors := [problem for problem in problems if problem.severity == "error"]):
        raise DataError(errors)
    return _Masks(name, texts, runs)


def _read_true(path: Path, shapes: Mapping[int, tuple[int, int]]) -> _Masks:
    """The true masks of the images that have the size that the truth says."""
    texts, runs, true_shapes = read_truth(path)
    fitting = [image_id for image_id, shape in shapes.items() if true_shapes.get(image_id) == shape]
    return _Masks("truth", {i: texts[i] for i in fitting}, {i: runs[i] for i in fitting})


def _beside(submission: Path) -> list[Finding]:
    """What the files beside a submission say."""
    progress, found = progress_path(submission), []
    if progress.is_file():
        done = max(0, progress.read_text(encoding="utf-8").count("\n") - 1)
        text = f"{progress.name} lies beside it: the prediction is unfinished, {done} masks were predicted. "
        found.append(Finding("warning", text + "Run the same hubmap-kit predict again, and it goes on."))
    if problems := read_problems(submission):
        text = f"The prediction reported {count(len(problems), 'problem')}; see below and"
        found.append(Finding("warning", f"{text} {problems_path(submission).name}."))
    return found


def _runs_findings(runs: Sequence[Path], images: Sequence[Image]) -> list[Finding]:
    """What the runs that predicted it say."""
    found, seen = [], set()
    opened = [Run.open(run) for run in expand(runs)]
    for run in opened:
        if not run.config.finished:
            found.append(Finding("warning", f"The training of the run {run.folder} is not finished."))
        seen |= set(run.config.results.get("train", {}))
    if seen:
        for organ in sorted({image.organ for image in images} - seen):
            found.append(Finding("warning", f"No run was trained on {organ}: do not rely on its masks."))
    return found


def _repeats(subject: _Subject, submission: Path, earlier: Sequence[tuple[str, Path]]) -> list[Finding]:
    """Earlier submissions with the same masks."""
    found = []
    others = [] if subject.other is None else [(subject.other.name, subject.other.texts)]
    for name, path in earlier:
        if path.is_file() and path.resolve() != submission.resolve():
            others.append((name, read_masks(path, {image.id: image.shape for image in subject.images})[0]))
    mine = {image_id: text for image_id, text in subject.masks.texts.items() if text.strip()}
    for name, texts in others:
        same = sum(texts.get(image_id) == text for image_id, text in mine.items())
        if mine and same == len(mine):
            found.append(Finding("warning", f"{_all(same)} the same as in {name}: it would score the same."))
        elif 2 * same > len(mine):
            found.append(Finding("note", f"{same} of {len(mine)} masks are the same as in {name}."))
    return found


def _all(count: int) -> str:
    return "The only mask is" if count == 1 else f"All {count} masks are"


def _flags(subject: _Subject, problems: Sequence[Problem], submission: Path) -> dict[int, list[Flag]]:
    """Flags of each image that need no picture, by image id."""
    flags: dict[int, list[Flag]] = {image.id: [] for image in subject.images}
    for problem in problems:
        if problem.severity == "error" and problem.image_id in flags:
            flags[problem.image_id].append(Flag("invalid", f"{problem.rule}; {problem.remedy}.", "error"))
    for problem in read_problems(submission):
        if problem.image_id in flags:
            flags[problem.image_id].append(Flag("prediction", f"{problem.rule}; {problem.remedy}."))
    for image in subject.images:
        if image.id in subject.facts:
            flags[image.id] += flags_of(image, subject.facts[image.id], subject.ranges.get(image.organ), None)
        between = subject.masks.dice(image.id, subject.other)
        if between is not None and between < CHANGED and subject.other:
            text = f"Dice with {subject.other.name} is {between:.3f}: the masks have little in common."
            flags[image.id].append(Flag("changed", text, "note"))
    for group in twins(subject.masks.texts):
        for image_id in group:
            others = [str(other) for other in group if other != image_id]
            text = f"It has the same mask as {'image' if len(others) == 1 else 'images'} {listed(others)}."
            flags[image_id].append(Flag("twins", text))
    return flags


def _chosen(subject: _Subject, flags: Mapping[int, Sequence[Flag]], most: int | None) -> list[Image]:
    """The images that the page shows, in their order: all, or the suspicious ones first and then a regular sample."""
    images = list(subject.images)
    if most is None or len(images) <= most:
        return images
    flagged = [image for image in images if flags[image.id]][:most]
    plain = [image for image in images if not flags[image.id]]
    places = np.linspace(0, len(plain) - 1, most - len(flagged)).round().astype(int)
    kept = {image.id for image in flagged} | {plain[place].id for place in places if plain}
    return [image for image in images if image.id in kept]


def _drawing(subject: _Subject, image: Image) -> Subject:
    """What is drawn of an image: the outlines that it has, and the largest difference between two of them."""
    layers = ((TRUTH, subject.truth), (PREDICTION, subject.masks), (OTHER, subject.other))
    masks = {key: of.texts[image.id] for key, of in layers if of and image.id in of.texts}
    compare = next((pair for pair in ((TRUTH, PREDICTION), (OTHER, PREDICTION)) if set(pair) <= masks.keys()), None)
    return Subject(image, masks, compare=compare)


def _measure(subject: _Subject, pixels: npt.NDArray[np.uint8], image: Image) -> Fit | None:
    """How well the mask of an image fits its tissue; None if that cannot be measured."""
    runs, order = subject.masks.runs.get(image.id), list(subject.masks.texts)
    if runs is None or pixels.shape[:2] != image.shape:
        return None

    def neighbour(step: int) -> _Runs | None:
        """The mask of the row before or after, if it fits into this image."""
        place = order.index(image.id) + step
        if not 0 <= place < len(order):
            return None
        try:
            return rle.parse(subject.masks.texts[order[place]], image.shape)
        except ValueError:
            return None

    return fit(pixels, runs, before=neighbour(-1), after=neighbour(1))


def _measured_flags(subject: _Subject, drawn: Sequence[Drawn], flags: Mapping[int, list[Flag]]) -> list[Finding]:
    """Add the flags that need pictures; returns what the images together say."""
    fits = {one.subject.image.id: one.measured for one in drawn if one.measured is not None}
    common = misfit(list(fits.values()))
    for one in drawn:
        image = one.subject.image
        if one.error:
            flags[image.id].append(Flag("unreadable", f"The image cannot be shown: {one.error}."))
        if image.id not in fits:
            continue
        glass = fits[image.id].glass
        with_glass = flags_of(image, subject.facts[image.id], subject.ranges.get(image.organ), glass)
        flags[image.id] += [flag for flag in with_glass if flag not in flags[image.id]]
        better = _of_one(common, fits[image.id])
        if better:
            text = (
                f"The mask fits the tissue better {better.words()}: the tissue explains {percent(better.arranged)} of "
                f"it then, and {percent(better.as_it_is)} as it is."
            )
            flags[image.id].append(Flag(better.key, text, "warning" if common else "note"))
    if common is None:
        return []
    text = (
        f"{common.better} of {common.images} masks fit the tissue better {common.words()}: the tissue explains "
        f"{percent(common.arranged)} of them then, and {percent(common.as_it_is)} as they are. {_cause(common)}"
    )
    return [Finding("error", text, f"masks that fit better {common.words()}")]


def _of_one(common: Misfit | None, one: Fit) -> Misfit | None:
    """What an image's mask prefers: the arrangement that most of the submission prefers, or else its own."""
    if common is None:
        return misfit_of_one(one)
    if common.key == SHIFTED:
        return None  # all images are meant
    arranged = one.arranged.get(common.key, 0.0)
    if arranged <= one.as_it_is:
        return None
    return Misfit(common.key, 1, 1, one.as_it_is, arranged)


def _cause(common: Misfit) -> str:
    """Where such a mistake usually comes from."""
    if common.key.startswith("row-"):
        return "Are the rows in another order than the ids?"
    if common.key == SHIFTED:
        return "Was the prediction made with padding that was not removed?"
    if common.key == next(iter(ARRANGEMENTS)):
        return "An RLE goes down the columns: write it with hubmap_kit.rle.encode."
    return "Was a flip or turn of test-time augmentation not undone?"


def _off_by_a_pixel(subject: _Subject) -> list[Finding]:
    """Whether the masks are one pixel off against the other submission or the truth."""
    found = []
    for other in (subject.other, subject.truth):
        if other is None:
            continue
        pairs = [
            (subject.masks.runs[image.id], other.runs[image.id], image.shape)
            for image in subject.images
            if image.id in subject.masks.runs and image.id in other.runs
        ]
        if off := one_pixel_off(pairs):
            direction, better, images, gain = off
            text = f"{better} of {images} masks agree better with {other.name} if they are moved one pixel {direction}"
            found.append(Finding("warning", f"{text} (mean Dice +{gain:.4f}). Pixels of an RLE are numbered from 1."))
    return found


def _cards(subject: _Subject, drawn: Sequence[Drawn], flags: Mapping[int, Sequence[Flag]]) -> list[Card]:
    """The cards: the worst flags first, then the largest changes, then the lowest Dice."""
    cards = []
    for one in drawn:
        image = one.subject.image
        own = sorted(flags[image.id], key=lambda flag: _SEVERITIES.index(flag.severity))
        facts = subject.facts.get(image.id)
        dice, other_dice = _dice(subject, image.id)
        between = subject.masks.dice(image.id, subject.other)
        values = {
            "area": None if facts is None else 100 * facts.share,
            "regions": None if facts is None else facts.regions,
            "between": between,
            "other_dice": other_dice,
            "change": None if dice is None or other_dice is None else dice - other_dice,
        }
        weight = sum(10.0 ** (2 - _SEVERITIES.index(flag.severity)) for flag in own)
        change = 0.0 if between is None else 1 - between
        cards.append(
            Card(
                one,
                dice=dice,
                flags=own,
                values=values,
                note=_note(values),
                wanted=weight + change + (0.0 if dice is None else (1 - dice) / 10),
            )
        )
    return sorted(cards, key=lambda card: -card.wanted)


def _note(values: Mapping[str, float | None]) -> str:
    parts = []
    if values["area"] is not None:
        parts.append(f"{percent(values['area'] / 100)} of the image")
    if values["between"] is not None:
        parts.append(f"Dice {values['between']:.3f} with the other")
    if values["change"] is not None:
        parts.append(f"{values['change']:+.3f} against the truth")
    return ", ".join(parts)


def _dice(subject: _Subject, image_id: int) -> tuple[float | None, float | None]:
    """Dice of the mask and of the other submission's with the truth."""
    if subject.truth is None:
        return None, None
    other = None if subject.other is None else subject.other.dice(image_id, subject.truth)
    return subject.masks.dice(image_id, subject.truth), other


def _columns(subject: _Subject) -> list[Column]:
    """Columns of the table of all images that have values."""
    columns = [Column("area", "area", 2, "%"), Column("regions", "regions", 0)]
    if subject.other:
        columns.append(Column("between", "Dice with the other"))
        if subject.truth:
            columns += [Column("other_dice", "Dice of the other"), Column("change", "change of Dice")]
    return columns


def _verdict(
    subject: _Subject,
    problems: Sequence[Problem],
    findings: Sequence[Finding],
    flags: Mapping[int, Sequence[Flag]],
) -> str:
    """The verdict in one line."""
    errors = sum(problem.severity == "error" for problem in problems)
    parts = [f"not valid, {count(errors, 'error')}" if errors else "valid"]
    if warnings := len(problems) - errors:
        parts.append(count(warnings, "warning"))
    parts += [finding.short for finding in findings if finding.short]
    if images := sum(any(flag.severity != "note" for flag in own) for own in flags.values()):
        parts.append(f"flags on {count(images, 'image')}")
    elif parts == ["valid"] and not findings:
        parts.append("nothing suspicious")
    text = ", ".join(parts)
    if subject.truth:
        dice, other = zip(*(_dice(subject, image.id) for image in subject.images), strict=True) or ((), ())
        if known := [one for one in dice if one is not None]:
            text += f"; mean Dice {statistics.fmean(known):.4f}"
            if len(known) < len(subject.images):
                text += f" of {len(known)} images"
            if theirs := [one for one in other if one is not None]:
                text += f", the other {statistics.fmean(theirs):.4f}"
    return text


def _content(
    subject: _Subject,
    verdict: str,
    problems: Sequence[Problem],
    findings: Sequence[Finding],
    cards: Sequence[Card],
    runs: Sequence[Path],
) -> dict[str, Any]:
    """What the template reads."""
    bad = "error" in [*(problem.severity for problem in problems), *(finding.severity for finding in findings)]
    sources = sorted({card.drawn.subject.image.source for card in cards})
    return {
        "verdict": verdict,
        "severity": "error" if bad else "warning" if any(one.severity != "note" for one in findings) else "ok",
        "numbers": _numbers(subject),
        "findings": findings,
        "kinds": _kinds(cards),
        "problems": problems[:_MOST_PROBLEMS],
        "more_problems": len(problems[_MOST_PROBLEMS:]),
        "organs": _organ_rows(subject, runs),
        "organ_columns": _organ_columns(subject, runs),
        "charts": _charts(subject, cards, sources),
        "sources": sources,
    }


def _numbers(subject: _Subject) -> list[dict[str, str]]:
    """The few large numbers at the top."""
    facts = list(subject.facts.values())
    empty = sum(one.share == 0 for one in facts)
    numbers = [
        {"label": "images in the test set", "value": str(len(subject.images)), "text": ""},
        {"label": "masks", "value": str(len(facts) - empty), "text": f"{empty} empty" if empty else ""},
    ]
    dice = _mean(_dice(subject, image.id)[0] for image in subject.images)
    other = _mean(_dice(subject, image.id)[1] for image in subject.images)
    between = _mean(subject.masks.dice(image.id, subject.other) for image in subject.images)
    if dice is not None:
        text = "" if other is None else f"the other: {other:.4f}"
        numbers.append({"label": "mean Dice", "value": f"{dice:.4f}", "text": text})
    if between is not None:
        numbers.append({"label": "mean Dice with the other", "value": f"{between:.4f}", "text": ""})
    return numbers


def _kinds(cards: Sequence[Card]) -> list[dict[str, Any]]:
    """Flags by kind: some with pictures, the others as links."""
    kinds: dict[str, list[tuple[Card, Flag]]] = {}
    for card in cards:
        for flag in card.flags:
            kinds.setdefault(flag.key, []).append((card, flag))
    found = []
    for key in sorted(kinds, key=list(_HEADINGS).index):
        of = kinds[key]
        items = [
            {
                "key": card.key,
                "name": f"{card.drawn.subject.image.id}, {card.drawn.subject.image.organ}",
                "text": flag.text,
            }
            for card, flag in of
        ]
        found.append(
            {
                "heading": _HEADINGS[key],
                "count": len({card.key for card, _ in of}),
                "pictured": items[:_MOST_PICTURES],
                "others": items[_MOST_PICTURES:],
            }
        )
    return found


def _charts(subject: _Subject, cards: Sequence[Card], sources: Sequence[str]) -> list[dict[str, Any]]:
    """Strip charts by organ: area, and Dice with the truth and with the other submission, as far as they are known."""
    wanted = [
        ("Share of the image that the mask covers", "area", 0.0, None, "%"),
        ("Dice", "dice", 0.0, 1.0, ""),
        ("Dice with the other submission", "between", 0.0, 1.0, ""),
        ("Change of Dice against the other submission", "change", None, None, ""),
    ]
    charts = []
    for title, key, low, high, unit in wanted:
        groups: dict[str, list[dict[str, Any]]] = {}
        for card in cards:
            value = card.dice if key == "dice" else card.values[key]
            if value is not None:
                groups.setdefault(card.drawn.subject.image.organ, []).append(_dot(card, value, unit, sources))
        if not groups:
            continue
        values = [dot["value"] for of in groups.values() for dot in of]
        if low is None:
            high = max(map(abs, [*values, 0.01]))
            low = -high
        labels = {
            organ: f"{organ}, in training {subject.ranges[organ]}"
            if key == "area" and organ in subject.ranges
            else organ
            for organ in groups
        }
        charts.append(
            {
                "title": title,
                "groups": [{"label": labels[organ], "dots": groups[organ]} for organ in _in_order(groups)],
                "low": low,
                "high": max(values) if high is None else high,
                "unit": unit,
            }
        )
    return charts


def _dot(card: Card, value: float | str, unit: str, sources: Sequence[str]) -> dict[str, Any]:
    """A dot of a chart."""
    image = card.drawn.subject.image
    text = f"{image.id}, {image.organ}, {image.source}: {value:.3g} {unit}".rstrip()
    return {"key": card.key, "value": value, "text": text, "kind": sources.index(image.source)}


def _in_order(organs: Iterable[str]) -> list[str]:
    """Organs in the competition's order, others after them."""
    known = list(ORGANS)
    return sorted(organs, key=lambda organ: (known.index(organ) if organ in known else len(known), organ))


def _organ_columns(subject: _Subject, runs: Sequence[Path]) -> list[dict[str, str]]:
    """Columns of the table by organ that have values."""
    columns = {"images": "Images", "empty": "Empty", "area": "Median area", "range": "Area in training"}
    if subject.truth:
        columns["dice"] = "Dice"
    if subject.truth and subject.other:
        columns["other_dice"] = "Dice of the other"
    if subject.other:
        columns["between"] = "Dice with the other"
    if runs:
        columns["validation"] = "Dice of the runs in validation"
    return [{"key": key, "label": label} for key, label in columns.items()]


def _organ_rows(subject: _Subject, runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The table by organ."""
    validation = [Run.open(run).config.results.get("validation", {}) for run in expand(runs)]
    rows = []
    for organ in _in_order({image.organ for image in subject.images}):
        of = [image for image in subject.images if image.organ == organ]
        shares = [subject.facts[image.id].share for image in of if image.id in subject.facts]
        expected = [results[organ] for results in validation if organ in results]
        known = subject.ranges.get(organ)
        rows.append(
            {
                "organ": organ,
                "images": len(of),
                "empty": sum(share == 0 for share in shares),
                "area": percent(statistics.median(shares)) if shares else "–",
                "range": f"{known} ({known.images} images)" if known else "–",
                "dice": _mean(_dice(subject, image.id)[0] for image in of),
                "other_dice": _mean(_dice(subject, image.id)[1] for image in of),
                "between": _mean(subject.masks.dice(image.id, subject.other) for image in of),
                "validation": _mean(expected),
            }
        )
    return rows


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
