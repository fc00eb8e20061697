"""What is suspicious about a submission's masks, each with a sentence and its numbers. Nothing here reads an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .. import rle
from ..competition import AREA_SHARES, TABLES
from ..regions import Regions, region_areas
from ..tables import DataError, Image, scan_images
from ..words import percent
from .page import Flag

NEARLY_FULL = 0.9  # share of the image
RANGE_MARGIN = 2.0  # an area is outside its organ's range if it is so many times smaller or larger
ON_GLASS = 0.8  # share of a mask; true masks of real tissue have up to 0.66, as glands and vessels are hollow
HOLLOW = ("lung",)  # organs whose units are mostly air, which looks like glass
# True masks of the competition have up to 31 regions smaller than a cell's nucleus, stray pixels of the annotation.
SPECK_UM2 = 50.0
MOST_SPECKS = 50
LEAST_WRAPPED = 3  # columns
WRAPPED_SHARE = 0.7  # of the columns that are joined to the next one
# A mask that is one pixel off agrees better with another submission in nearly all images once it is moved.
OFF_SHARE, OFF_CERTAINTY, OFF_IMAGES = 0.9, 2.0, 4

_Runs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AreaRange:
    """Share of the image that the masks of an organ covered in training.

    Attributes:
        low, high: The smallest and the largest share, in [0, 1].
        images: Number of training images.
        where: Where they are from, for people.
    """

    low: float
    high: float
    images: int
    where: str

    def holds(self, share: float) -> bool:
        """Whether a share lies within the range, or so near that it means nothing."""
        return self.low / RANGE_MARGIN <= share <= self.high * RANGE_MARGIN

    def __str__(self) -> str:
        return f"{percent(self.low)} to {percent(self.high)}"


@dataclass(frozen=True)
class MaskFacts:
    """Numbers of one mask.

    Attributes:
        share: Share of the image that it covers, in [0, 1].
        regions: Number of its regions, 4-connected.
        specks: Number of regions below `SPECK_UM2`.
        joined: Number of columns that continue in the next one.
        too_early: Of these, columns that end with a single pixel: it seems to belong to the next column.
        too_late: Columns whose last pixel is the first one of the next column.
    """

    share: float
    regions: int
    specks: int
    joined: int
    too_early: int
    too_late: int


def facts_of(runs: _Runs, shape: tuple[int, int], pixel_size_um: float) -> MaskFacts:
    """Measure a mask on its RLE runs.

    Args:
        runs: ``(n, 2)`` int64, ``[start, stop)``, sorted, not overlapping.
        shape: ``(height, width)`` in px.
        pixel_size_um: Side of a pixel, in µm.
    """
    pieces, areas_px = region_areas(runs, shape)
    parts = (pieces[:, 1] - pieces[:, 0]) / areas_px  # they add up to 1 for each region
    small = areas_px * pixel_size_um**2 < SPECK_UM2
    return MaskFacts(
        share=rle.area(runs) / (shape[0] * shape[1]),
        regions=round(float(parts.sum())),
        specks=round(float(parts[small].sum())),
        **_wraps(runs, shape),
    )


def _wraps(runs: _Runs, shape: tuple[int, int]) -> dict[str, int]:
    """Columns that continue in the next one, and those that do so by a single pixel."""
    height, runs = shape[0], Regions(runs, shape).at_least(1)  # neighbours joined
    first, last = runs[:, 0] // height, (runs[:, 1] - 1) // height
    joined = runs[first != last]
    at_bottom = (joined[:, 0] // height + 1) * height - joined[:, 0]
    at_top = joined[:, 1] - (joined[:, 1] - 1) // height * height
    return {
        "joined": len(joined),
        "too_early": int(((at_bottom == 1) & (at_top > 1)).sum()),
        "too_late": int(((at_top == 1) & (at_bottom > 1)).sum()),
    }


def area_ranges(data: Path) -> dict[str, AreaRange]:
    """Range of the area of each organ, from ``train.csv`` of a competition folder, or else the competition's own."""
    try:
        images = scan_images(data, "train", check_files=False).images
    except DataError:
        images = []
    shares: dict[str, list[float]] = {}
    for image in images:
        area_px = rle.area(rle.parse(image.rle, image.shape))
        shares.setdefault(image.organ, []).append(area_px / (image.shape[0] * image.shape[1]))
    if shares:
        return {organ: AreaRange(min(of), max(of), len(of), TABLES["train"]) for organ, of in shares.items()}
    where = "the competition's training images"
    return {organ: AreaRange(low, high, images, where) for organ, (low, high, images) in AREA_SHARES.items()}


def flags_of(image: Image, facts: MaskFacts, known: AreaRange | None, glass: float | None) -> list[Flag]:
    """What is suspicious about one mask.

    Args:
        image: The image.
        facts: The mask's numbers.
        known: Range of the organ's area in training; None if it is not known.
        glass: Share of the mask that lies on glass; None if it is not known.
    """
    if facts.share == 0:
        return [Flag("empty", "The mask is empty, which scores 0.")]
    flags = []
    if facts.share > NEARLY_FULL:
        flags.append(Flag("full", f"The mask covers {percent(facts.share)} of the image."))
    elif known and not known.holds(facts.share):
        which = "less" if facts.share < known.low else "more"
        flags.append(
            Flag(
                "area",
                f"The mask covers {percent(facts.share)} of the image, {which} than any of the {known.images} training "
                f"images of {image.organ}, which have {known} ({known.where}).",
            )
        )
    if glass is not None and glass > ON_GLASS and image.organ not in HOLLOW:
        flags.append(Flag("background", f"{percent(glass)} of the mask lies on glass, where there is no tissue."))
    if facts.specks > MOST_SPECKS and 2 * facts.specks > facts.regions:
        size = f"smaller than a cell's nucleus ({SPECK_UM2:g} µm²)"
        flags.append(Flag("specks", f"{facts.specks} of its {facts.regions} regions are {size}."))
    for count, sides, remedy in (
        (facts.too_early, "bottom of one column and the rest at the top of the next", "one too low"),
        (facts.too_late, "top of one column and the rest at the bottom of the column before", "one too high"),
    ):
        if count >= LEAST_WRAPPED and count >= WRAPPED_SHARE * facts.joined:
            flags.append(
                Flag(
                    "off-by-one",
                    f"In {count} columns a single pixel lies at the {sides}: the starts in the RLE are {remedy}. "
                    "Pixels are numbered from 1.",
                )
            )
    return flags


def one_pixel_off(pairs: Sequence[tuple[_Runs, _Runs, tuple[int, int]]]) -> tuple[str, int, int, float] | None:
    """Whether nearly all masks agree better with others once they are moved by one pixel.

    Args:
        pairs: RLE runs of a mask, of the other mask of the same image, and ``(height, width)`` in px.

    Returns:
        The direction to move in, the number of images that agree better, the number of images, and the mean gain of
        Dice; None if it is not so.
    """
    pairs = [(mask, other, shape) for mask, other, shape in pairs if len(mask) and len(other)]
    if len(pairs) < OFF_IMAGES:
        return None
    found = []
    for words, of_height, more in (("up", 0, -1), ("down", 0, 1), ("to the left", -1, 0), ("to the right", 1, 0)):
        gains = []
        for mask, other, (height, width) in pairs:
            moved = np.clip(mask + of_height * height + more, 0, height * width)
            gains.append(rle.dice_of_runs(moved, other) - rle.dice_of_runs(mask, other))
        mean, better = float(np.mean(gains)), int(np.sum(np.array(gains) > 0))
        if better >= OFF_SHARE * len(pairs) and mean > OFF_CERTAINTY * np.std(gains, ddof=1) / np.sqrt(len(pairs)):
            found.append((words, better, len(pairs), mean))
    return max(found, key=lambda one: one[3], default=None)


def twins(masks: Mapping[int, str]) -> list[list[int]]:
    """Groups of images that have the same mask, which is not empty.

    Args:
        masks: RLE by image id.
    """
    ids: dict[str, list[int]] = {}
    for image_id, text in masks.items():
        if text.strip():
            ids.setdefault(text, []).append(image_id)
    return [group for group in ids.values() if len(group) > 1]
