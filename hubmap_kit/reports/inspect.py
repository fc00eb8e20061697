"""The page about a competition folder, before anything is trained: oddities, numbers, training against test images."""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import rle
from ..cluster import spread
from ..competition import SAMPLE_SUBMISSION, TABLES, image_path, table_path
from ..progress import track
from ..tables import DataError, Image, Problem, read_sample_submission, remarks, scan_images
from ..words import count
from .inspect_annotations import agreement, annotation_path, polygon_runs, read_polygons
from .inspect_flags import KINDS, POLYGONS_DICE, Seen, find_copies, find_flags
from .inspect_image import SPECK_UM2, ImageMeasures, measure_image
from .inspect_shift import Shift, field_um, find_shifts
from .page import MAX_MB, Card, Column, Flag, Layer, write_page
from .pictures import Drawn, Subject, draw

TRUTH, POLYGONS = "truth", "polygons"
LAYERS = {TRUTH: "mask of train.csv", POLYGONS: "polygons of train_annotations"}
COLUMNS = (
    Column("pixel", "pixel size", 4, "µm"),
    Column("field", "field", 0, "µm"),
    Column("tissue", "tissue", 0, "%"),
    Column("mask", "mask", 1, "%"),
    Column("white", "mask without tissue", 0, "%"),
    Column("units", "units", 0),
    Column("unit", "median unit", 0, "µm²"),
    Column("border", "units at the border", 0),
    Column("specks", "specks", 0),
    Column("near", "hue distance to training", 2),
)
PICTURED = 24  # flags of a kind that are shown with a picture; the others are linked
NEAR_PICTURED = 6  # pairs of a test image and the nearest training image that are shown at once
LISTED = 50  # problems of the tables that are shown
NAMED = 4  # kinds of flags that the verdict names
BINS = 24  # of a histogram

_SPLIT_NAMES = {"train": "training", "test": "test"}


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        line: The page's path and size, and what was lowered or left out.
        problems: Problems of the tables, and every flag that is an error.
        flags: Flags of each image that has some, by split and id.
        images: Number of images on the page.
        trains: Whether there are training images.
    """

    line: str
    problems: list[Problem]
    flags: dict[tuple[str, int], list[Flag]]
    images: int
    trains: bool


@dataclass(frozen=True)
class _Part:
    """The images of one split, and what is wrong with its table.

    Attributes:
        images: Every image whose row says what it is, the damaged ones too.
        problems: Problems of the table.
        missing: What the page says if there is no such part, or else empty.
    """

    images: list[Image]
    problems: list[Problem]
    missing: str = ""


def write_inspection(data: Path, out: Path, *, max_mb: float = MAX_MB, folder: bool = False) -> Inspection:
    """Write the page.

    Args:
        data: Competition folder; its train or its test part may be missing.
        out: HTML file to write; its folder is made.
        max_mb: See `hubmap_kit.reports.page.write_page`.
        folder: See there.

    Raises:
        DataError: The folder has neither part.
        ValueError: See `hubmap_kit.reports.page.write_page`.
    """
    parts = {split: _read_part(data, split) for split in TABLES}
    # Both parts read names.csv.
    problems = list(dict.fromkeys(problem for part in parts.values() for problem in part.problems))
    if all(part.missing for part in parts.values()):
        rule = f"holds neither {' nor '.join(TABLES.values())}" if data.is_dir() else "there is no such folder"
        raise DataError([Problem("error", str(data), None, rule, "name a folder in the competition's layout")])
    problems += _sample_problems(data, parts["test"])
    rows = [(split, image) for split, part in parts.items() for image in part.images]
    polygons = _compare_polygons(data, [image for image in parts["train"].images if image.rle])
    subjects = [Subject(image, _masks(split, image, polygons)) for split, image in rows]
    with tempfile.TemporaryDirectory(prefix="hubmap-kit-") as scratch:
        drawn = draw(subjects, Path(scratch), measure=_measure)
        seen = [_seen(split, image, one, polygons, problems) for (split, image), one in zip(rows, drawn, strict=True)]
        cards, content = _page(data, parts, seen, drawn, problems)
        shown = [layer for layer in LAYERS if any(layer in subject.masks for subject in subjects)]
        line = write_page(
            out,
            "inspect.html.j2",
            title=f"Data: {data.resolve().name}",
            cards=cards,
            layers=[Layer(key, LAYERS[key]) for key in shown],
            columns=COLUMNS,
            content=content,
            max_mb=max_mb,
            folder=folder,
        )
    flags = {(card.split, card.drawn.subject.image.id): list(card.flags) for card in cards if card.flags}
    problems += [
        card.drawn.subject.image.problem(flag.text.rstrip("."), "look at it on the page")
        for card in cards
        for flag in card.flags
        if flag.severity == "error" and flag.key != "row"
    ]
    return Inspection(line, problems, flags, len(cards), bool(parts["train"].images))


def _read_part(data: Path, split: str) -> _Part:
    table = table_path(data, split)
    pictures = image_path(data, split, 0).parent
    files = {path.stem: path for path in pictures.glob("*.tiff")} if pictures.is_dir() else {}
    if not table.exists():
        if not files:
            return _Part([], [], f"There is no {table.name}: the page has no {_SPLIT_NAMES[split]} images.")
        rule = f"there is no such file, but {pictures.name} holds {len(files)} images"
        missing = f"There is no {table.name}: the {count(len(files), 'file')} of {pictures.name} cannot be shown."
        return _Part([], [Problem("error", table.name, None, rule, "restore the table")], missing)
    try:
        scan = scan_images(data, split)
    except DataError as error:
        return _Part([], error.problems)
    problems = [*scan.problems, *remarks([*scan.images, *scan.damaged])]
    extra = sorted(set(files) - {str(image_id) for image_id in scan.rows})
    if extra:
        rule = f"{count(len(extra), 'file')} of {pictures.name} without a row: {', '.join(extra[:5])}"
        more = ", …" if len(extra) > 5 else ""
        problems.append(Problem("warning", table.name, None, rule + more, "add the rows or move the files away"))
    images = sorted([*scan.images, *scan.damaged], key=lambda image: image.row)
    return _Part([_drawable(image) for image in images], problems)


def _drawable(image: Image) -> Image:
    """The image, without its mask if that cannot be read."""
    try:
        rle.parse(image.rle, image.shape)
    except ValueError:
        return replace(image, rle="")
    return image


def _sample_problems(data: Path, test: _Part) -> list[Problem]:
    """What is wrong with ``sample_submission.csv``: its ids are those of ``test.csv``."""
    if test.missing or not test.images:
        return []
    try:
        ids = set(read_sample_submission(data))
    except DataError as error:
        return [problem.as_warning() for problem in error.problems]
    other = ids ^ {image.id for image in test.images}
    if not other:
        return []
    rule = f"{count(len(other), 'id')} in only one of it and {TABLES['test']}, such as {min(other)}"
    return [Problem("warning", SAMPLE_SUBMISSION, None, rule, f"it needs the ids of {TABLES['test']}")]


@dataclass(frozen=True)
class _Compared:
    """The polygons of an image: their mask as RLE if it differs, and the Dice; or why they cannot be read."""

    dice: float | None = None
    rle: str = ""
    error: str = ""


def _compare_polygons(data: Path, images: Sequence[Image]) -> dict[int, _Compared]:
    """The polygons of all images that have some, by id."""
    have = [image for image in images if annotation_path(data, image.id).is_file()]

    def compare(image: Image) -> _Compared:
        try:
            polygons = polygon_runs(read_polygons(annotation_path(data, image.id)), image.shape)
        except ValueError as error:
            return _Compared(error=str(error))
        dice = agreement(rle.parse(image.rle, image.shape), polygons, image.shape)
        return _Compared(dice, rle.encode_runs(polygons) if dice < POLYGONS_DICE else "")

    compared = {}
    for image, outcome in track(spread(compare, have), len(have), "polygons") if have else ():
        if isinstance(outcome, Exception):
            raise outcome
        compared[image.id] = outcome
    return compared


def _masks(split: str, image: Image, polygons: Mapping[int, _Compared]) -> dict[str, str]:
    masks = {TRUTH: image.rle} if split == "train" and image.rle else {}
    if split == "train" and image.id in polygons and polygons[image.id].rle:
        masks[POLYGONS] = polygons[image.id].rle
    return masks


def _measure(pixels: npt.NDArray[np.uint8], subject: Subject) -> ImageMeasures:
    image, mask = subject.image, None
    if TRUTH in subject.masks and pixels.shape[:2] == image.shape:
        mask = rle.decode(subject.masks[TRUTH], image.shape)
    return measure_image(pixels, mask, image.pixel_size_um)


def _seen(
    split: str, image: Image, drawn: Drawn, polygons: Mapping[int, _Compared], problems: Sequence[Problem]
) -> Seen:
    compared = polygons.get(image.id, _Compared()) if split == "train" else _Compared()
    own = tuple(p for p in problems if p.file == TABLES[split] and p.row == image.row)
    return Seen(split, image, drawn.measured, drawn.error, own, compared.dice, compared.error)


def _page(
    data: Path, parts: Mapping[str, _Part], seen: Sequence[Seen], drawn: Sequence[Drawn], problems: Sequence[Problem]
) -> tuple[list[Card], dict[str, Any]]:
    """The cards of the page, flagged ones first, and what its template reads."""
    pairs = find_copies(seen)
    flags = find_flags(seen, pairs)
    shifts = find_shifts(seen)
    near = {one.test: one for shift in shifts for one in shift.near}
    related: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for pair in pairs:
        related[pair.first].append(("shows the same", _key(seen[pair.second])))
        related[pair.second].append(("shows the same", _key(seen[pair.first])))
    for number, one in near.items():
        related[number].append(("nearest training image", _key(seen[one.train])))
    order = sorted(range(len(seen)), key=lambda n: (-_badness(flags[n]), *_place(seen[n])))
    cards = [
        Card(
            # What a flag says is not said again.
            replace(drawn[n], error="") if {"file", "row"} & {flag.key for flag in flags[n]} else drawn[n],
            split=seen[n].split,
            flags=flags[n],
            values=_values(seen[n], near[n].distance if n in near else None),
            related=related[n],
            wanted=_badness(flags[n]),
            group=seen[n].split,
        )
        for n in order
    ]
    flagged = sum(any(flag.severity != "note" for flag in of) for of in flags)
    content = {
        "verdict": _verdict(flags, problems),
        "severity": _severity(flags, problems),
        "missing": [part.missing for part in parts.values() if part.missing],
        "problems": [asdict(problem) for problem in problems[:LISTED]],
        "more_problems": len(problems) - len(problems[:LISTED]),
        "numbers": _numbers(seen, flagged),
        "flags": _flag_sections(seen, flags),
        "speck_um2": f"{SPECK_UM2:g}",
        "groups": _group_rows(seen),
        "charts": _charts(seen),
        "shifts": [_shift_content(shift, seen) for shift in shifts],
        "stain": _stain_dots(seen) if shifts else [],
    }
    return cards, content


def _place(one: Seen) -> tuple[str, str, str, int]:
    return one.image.organ, one.image.source, one.split, one.image.id


def _key(one: Seen) -> str:
    """The key of its card."""
    return f"{one.split}-{one.image.id}"


def _badness(flags: Sequence[Flag]) -> int:
    return sum({"error": 100, "warning": 10, "note": 1}[flag.severity] for flag in flags)


def _verdict(flags: Sequence[Sequence[Flag]], problems: Sequence[Problem]) -> str:
    """One line: how many images need a look, and why; how many problems the tables have."""
    kinds = Counter(key for of in flags for key in {flag.key for flag in of if flag.severity != "note"})
    flagged = sum(any(flag.severity != "note" for flag in of) for of in flags)
    if flagged:
        why = ", ".join(f"{number} × {KINDS[key].short}" for key, number in kinds.most_common(NAMED))
        why += " and more" if len(kinds) > NAMED else ""
        text = f"{flagged} of {count(len(flags), 'image')} {'needs' if flagged == 1 else 'need'} a look: {why}."
    else:
        text = f"None of {count(len(flags), 'image')} needs a look."
    bad = Counter(problem.severity for problem in problems)
    if bad:
        counts = " and ".join(count(bad[severity], severity) for severity in ("error", "warning") if bad[severity])
        text += f" The tables have {counts}."
    return text


def _severity(flags: Sequence[Sequence[Flag]], problems: Sequence[Problem]) -> str:
    """The worst of all flags and problems; ``ok`` if there are none."""
    found = {flag.severity for of in flags for flag in of} | {problem.severity for problem in problems}
    return next((severity for severity in ("error", "warning") if severity in found), "ok")


def _values(one: Seen, near: float | None) -> dict[str, float | str | None]:
    measures, mask = one.measures, one.mask
    values: dict[str, float | str | None] = {
        "pixel": one.image.pixel_size_um,
        "field": field_um(one),
        "tissue": 100 * measures.tissue_share if measures else None,
        "near": near,
    }
    if mask:
        values |= {
            "mask": 100 * mask.share,
            "white": 100 * mask.white,
            "units": len(mask.units_um2),
            "unit": float(np.median(mask.units_um2)) if len(mask.units_um2) else None,
            "border": mask.touching,
            "specks": mask.specks,
        }
    return values


def _numbers(seen: Sequence[Seen], flagged: int) -> list[dict[str, str]]:
    """The large numbers at the top."""
    splits = [(f"{_SPLIT_NAMES[split]} images", sum(one.split == split for one in seen)) for split in TABLES]
    organs = len({one.image.organ for one in seen})
    units = sum(len(one.mask.units_um2) for one in seen if one.mask)
    counts = (*splits, ("organs", organs), ("units", units), ("need a look", flagged))
    return [{"label": label, "value": f"{count:,}", "text": ""} for label, count in counts]


def _flag_sections(seen: Sequence[Seen], flags: Sequence[Sequence[Flag]]) -> list[dict[str, Any]]:
    """The flags by kind, each kind with its images."""
    sections = []
    order = sorted(range(len(seen)), key=lambda n: _place(seen[n]))
    for key, kind in KINDS.items():
        entries = [
            {"key": _key(seen[n]), "name": f"{seen[n].image.organ}, {seen[n].name}", "text": flag.text}
            for n in order
            for flag in flags[n]
            if flag.key == key
        ]
        if entries:
            sections.append({"heading": kind.heading, "entries": entries[:PICTURED], "others": entries[PICTURED:]})
    return sections


def _group_rows(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """The numbers of each organ, source and split."""
    rows = []
    for (organ, source, split), members in itertools.groupby(sorted(seen, key=_place), lambda one: _place(one)[:3]):
        group = list(members)
        masks = [one.mask for one in group if one.mask]
        units = np.concatenate([mask.units_um2 for mask in masks]) if masks else np.zeros(0)
        rows.append(
            {
                "organ": organ,
                "source": source,
                "split": split,
                "images": len(group),
                "height": _span([one.image.shape[0] for one in group], 0),
                "width": _span([one.image.shape[1] for one in group], 0),
                "pixel": _span([one.image.pixel_size_um for one in group], 4),
                "field": _span([field_um(one) for one in group], 0),
                "mask": _span([100 * mask.share for mask in masks], 1),
                "units": _span([len(mask.units_um2) for mask in masks], 0),
                "unit": f"{np.median(units):,.0f}" if len(units) else "",
                "across": f"{2 * math.sqrt(np.median(units) / math.pi):.0f}" if len(units) else "",
                "border": f"{sum(mask.touching > 0 for mask in masks)}" if masks else "",
                "specks": f"{sum(mask.specks for mask in masks):,}" if masks else "",
            }
        )
    return rows


def _span(values: Sequence[float], digits: int) -> str:
    """The middle of some values and how far they reach: ``3 (1–12)``; only the value if there is one.

    >>> _span([2.0, 3.0, 10.0], 0), _span([0.4, 0.4], 4), _span([], 1)
    ('3 (2–10)', '0.4', '')
    """
    if not values:
        return ""

    def text(value: float) -> str:
        return f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"

    low, middle, high = map(text, (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def _dot(one: Seen, value: float, text: str, kind: int) -> dict[str, Any]:
    return {"key": _key(one), "value": value, "text": f"{one.name}: {text}", "kind": kind}


def _charts(seen: Sequence[Seen]) -> dict[str, Any]:
    """What the charts of the numbers draw."""
    organs = sorted({one.image.organ for one in seen})
    sources = sorted({one.image.source for one in seen if one.mask})
    of = {organ: [one for one in seen if one.image.organ == organ] for organ in organs}
    splits = list(TABLES)
    areas, pixels, fields, heats, across = [], [], [], [], {}
    for organ, ones in of.items():
        masked = [(one, mask) for one in ones if (mask := one.mask)]
        dots = [_dot(o, 100 * m.share, f"mask {100 * m.share:.3g} %", sources.index(o.image.source)) for o, m in masked]
        if dots:
            areas.append({"label": organ, "dots": dots})
            heat = np.mean([mask.heat for _, mask in masked], axis=0)
            most = float(heat.max())
            text = f"{len(masked)} masks; the darkest place is covered in {100 * most:.0f} % of them"
            heats.append({"organ": organ, "grid": (heat / most if most else heat).round(3).tolist(), "text": text})
            units = np.concatenate([mask.units_um2 for _, mask in masked])
            if len(units):
                across[organ] = 2 * np.sqrt(units / np.pi)
        pixels.append(
            {
                "label": organ,
                "dots": [
                    _dot(one, one.image.pixel_size_um, f"pixel {one.image.pixel_size_um:g} µm", splits.index(one.split))
                    for one in ones
                ],
            }
        )
        fields.append(
            {
                "label": organ,
                "dots": [
                    _dot(one, field_um(one), f"field {field_um(one):.0f} µm", splits.index(one.split)) for one in ones
                ],
            }
        )
    histogram = []
    if across:
        end = float(np.percentile(np.concatenate(list(across.values())), 99))
        edges = np.linspace(0, end, BINS + 1)
        for organ, values in across.items():
            counts = np.histogram(np.minimum(values, end), edges)[0]
            histogram.append({"label": organ, "counts": counts.tolist(), "edges": edges.round(1).tolist()})
    return {
        "areas": areas,
        "pixels": pixels,
        "fields": fields,
        "heats": heats,
        "units": histogram,
        "sources": sources,
        "splits": [_SPLIT_NAMES[split] for split in splits],
        "areas_high": _highest(areas),
        "pixels_high": _highest(pixels),
        "fields_high": _highest(fields),
    }


def _highest(groups: Sequence[Mapping[str, Any]]) -> float:
    return max((dot["value"] for group in groups for dot in group["dots"]), default=1.0)


def _stain_dots(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """By organ, where each image's stain lies: yellow against blue, and red against green, in optical density."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in seen:
        if one.measures and one.measures.look.values:
            _, x, y = one.measures.look.values[:3]
            groups[one.image.organ].append(
                {"key": _key(one), "x": x, "y": y, "text": one.name, "kind": list(TABLES).index(one.split)}
            )
    return [{"organ": organ, "dots": groups[organ]} for organ in sorted(groups)]


def _shift_content(shift: Shift, seen: Sequence[Seen]) -> dict[str, Any]:
    pairs = [
        {
            "distance": one.distance,
            "unlike": one.distance > shift.limit,
            "test": {"key": _key(seen[one.test]), "name": seen[one.test].name},
            "train": {"key": _key(seen[one.train]), "name": seen[one.train].name},
        }
        for one in shift.near
    ]
    return {
        "organ": shift.organ,
        "sentences": shift.sentences,
        "usual": None if math.isnan(shift.usual) else shift.usual,
        "pairs": pairs[:NEAR_PICTURED],
        "others": pairs[NEAR_PICTURED:],
    }
