"""Training images against test images, organ by organ: stain, size of a pixel, width of the field."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .inspect_alike import nearest
from .inspect_flags import Seen

LIKE = 95  # percentile of the distances among training images up to which a test image is like them
SAME = 1.1  # sizes that differ by a smaller factor are the same
COARSER = 1.5  # from this factor on, another size of the pixel changes what can be seen


@dataclass(frozen=True)
class Near:
    """The training image whose stain is nearest to that of a test image.

    Attributes:
        test: Number of the test image.
        train: Number of the training image.
        distance: Hellinger distance of their hues, 0 to 1; see `hubmap_kit.reports.inspect_image.hues_of`.
    """

    test: int
    train: int
    distance: float


@dataclass(frozen=True)
class Shift:
    """How far the test images of an organ lie from its training images.

    Attributes:
        organ: The organ.
        train: Number of training images.
        test: Number of test images.
        near: For each test image that shows tissue its nearest training image, the farthest first.
        usual: Median distance of a training image to the nearest other one; NaN below three images.
        limit: Distance up to which a test image is like the training images; NaN below three.
        unlike: Number of test images beyond it.
        pixel_um: Median size of a pixel, of training and test images, in µm; NaN where there are none.
        field_um: The same of the field's width, as the side of a square of its area.
        sentences: What it means, in words.
    """

    organ: str
    train: int
    test: int
    near: tuple[Near, ...]
    usual: float
    limit: float
    unlike: int
    pixel_um: tuple[float, float]
    field_um: tuple[float, float]
    sentences: tuple[str, ...]


def field_um(one: Seen) -> float:
    """The side of a square of the area that an image shows, in µm."""
    return math.sqrt(math.prod(one.measures.shape if one.measures else one.image.shape)) * one.image.pixel_size_um


def find_shifts(seen: Sequence[Seen]) -> list[Shift]:
    """Compare the two splits, for each organ of which there is a test image; none if there are no training images.

    Args:
        seen: The images of both splits.
    """
    if not {"train", "test"} <= {one.split for one in seen}:
        return []
    return [_shift(seen, organ) for organ in sorted({one.image.organ for one in seen if one.split == "test"})]


def _shift(seen: Sequence[Seen], organ: str) -> Shift:
    numbers = {
        split: [n for n, one in enumerate(seen) if one.split == split and one.image.organ == organ]
        for split in ("train", "test")
    }
    train, test = (
        {n: hues for n in numbers[split] if (hues := _hues(seen[n])) is not None} for split in ("train", "test")
    )
    near: list[Near] = []
    if train and test:
        found, distances = nearest(list(test.values()), list(train.values()))
        names = list(train)
        near = [Near(n, names[i], float(d)) for n, i, d in zip(test, found.tolist(), distances, strict=True)]
        near.sort(key=lambda one: -one.distance)
    usual = limit = math.nan
    if len(train) >= 3:
        among = nearest(list(train.values()), list(train.values()), same=True)[1]
        usual, limit = float(np.median(among)), float(np.percentile(among, LIKE))
    unlike = sum(one.distance > limit for one in near)
    pixel_um = _medians(numbers, [one.image.pixel_size_um for one in seen])
    fields_um = _medians(numbers, [field_um(one) for one in seen])
    sentences: list[str] = []
    if not numbers["train"]:
        sentences.append(f"There is no training image of {organ}: a network will not have seen this organ.")
    else:
        if near and not math.isnan(limit):
            sentences.append(_stain_sentence(near, usual, unlike))
        sentences.append(_size_sentence("A pixel", "large", pixel_um))
        sentences.append(_size_sentence("The field", "wide", fields_um))
        if not math.isnan(limit):
            sentences.append(_meaning(unlike / max(1, len(near)), pixel_um))
    counts = len(numbers["train"]), len(numbers["test"])
    return Shift(organ, *counts, tuple(near), usual, limit, unlike, pixel_um, fields_um, tuple(sentences))


def _hues(one: Seen) -> npt.NDArray[np.float32] | None:
    return one.measures.hues if one.measures else None


def _medians(numbers: Mapping[str, Sequence[int]], values: Sequence[float]) -> tuple[float, float]:
    train, test = (
        float(np.median([values[n] for n in numbers[split]])) if numbers[split] else math.nan
        for split in ("train", "test")
    )
    return train, test


def _stain_sentence(near: Sequence[Near], usual: float, unlike: int) -> str:
    middle = float(np.median([one.distance for one in near]))
    images = "test image is" if len(near) == 1 else "test images are"
    return (
        f"{unlike} of {len(near)} {images} stained unlike the training images: the nearest one is {middle:.2f} away "
        f"in hue (median; 0: same hues, 1: none in common), among training images it is {usual:.2f}."
    )


def _size_sentence(what: str, how: str, sizes_um: tuple[float, float]) -> str:
    factor = sizes_um[1] / sizes_um[0]
    train, test = (f"{size:.0f}" if size >= 100 else f"{size:.3g}" for size in sizes_um)
    if max(factor, 1 / factor) < SAME:
        return f"{what} is as {how} in both: {train} µm."
    return f"{what} is {factor:.2g} times as {how} in test images: {train} µm in training, {test} µm in test."


def _meaning(unlike: float, pixel_um: tuple[float, float]) -> str:
    """What to make of it."""
    reasons = []
    if unlike > 0.5:
        reasons.append("of another stain")
    factor = pixel_um[1] / pixel_um[0]
    if factor > COARSER:
        reasons.append("coarser")
    elif factor < 1 / COARSER:
        reasons.append("finer")
    if not reasons:
        return "So held-out training images should tell how well a network does on most of these test images."
    remedy = "stain augmentation" if unlike > 0.5 else "augmentation of scale"
    return (
        f"So a score on held-out training images says too little: test images are {' and '.join(reasons)}. "
        f"Train with {remedy}, and look at the predictions."
    )
