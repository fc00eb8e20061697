"""How images compare with each other: copies, outliers, and the training image with the nearest stain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..images.stain import Look

SAME_PICTURE = 0.93  # least correlation of two pictures of one image; 0.985 for two sizes, at most 0.86 for two images
# Least spread of an optical density that is taken for the spread of a group, so that images which are all but equal
# have no outliers. A grey level is 0.004 in the middle of the range.
LEAST_SPREAD_OD = 0.04

# What a small and a large value of a ``reinhard`` look mean; density is high for the colours that are absorbed.
_LOOK_WORDS = (
    ("paler", "darker"),
    ("yellower", "bluer"),
    ("redder", "greener"),
    ("more even in darkness", "more uneven in darkness"),
    ("with less difference between yellow and blue", "with more difference between yellow and blue"),
    ("with less difference between red and green", "with more difference between red and green"),
)

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Copy:
    """Two images that show the same.

    Attributes:
        first: Number of the earlier image.
        second: Number of the later image.
        correlation: Correlation of their small pictures, -1 to 1.
        turned: Whether one is the other turned or mirrored.
    """

    first: int
    second: int
    correlation: float
    turned: bool


def copies(pictures: Sequence[npt.NDArray[np.float32]], least: float = SAME_PICTURE) -> list[Copy]:
    """All pairs of images that show the same, also turned or mirrored.

    Args:
        pictures: For each image ``(n, n)`` float32 with mean 0 and length 1, see
            `hubmap_kit.reports.inspect_image.picture_of`; one that is all 0 is like no other.
        least: Least correlation of a pair.

    Returns:
        The pairs in order.
    """
    if len(pictures) < 2:
        return []
    stack = np.stack(pictures)
    flat = stack.reshape(len(stack), -1)
    upright = flat @ flat.T
    turned = np.full_like(upright, -1)
    for turns in range(4):
        for mirrored in (False, True):
            if turns or mirrored:
                laid = np.rot90(stack, turns, (1, 2))
                laid = laid[:, :, ::-1] if mirrored else laid
                np.maximum(turned, flat @ laid.reshape(len(stack), -1).T, out=turned)
    best = np.maximum(upright, turned)
    first, second = np.nonzero(np.triu(best >= least, 1))
    return [
        Copy(i, j, float(best[i, j]), bool(turned[i, j] > upright[i, j]))
        for i, j in zip(first.tolist(), second.tolist(), strict=True)
    ]


def robust_z(values: npt.ArrayLike, least_spread: float) -> _Floats:
    """How many spreads each value lies from the middle of all.

    The middle is the median, the spread 1.4826 times the median distance from it, which is the standard deviation of
    normal values (Hampel 1974, "The influence curve and its role in robust estimation", J Am Stat Assoc 69:383-393).

    Args:
        values: ``(n,)`` or ``(n, k)``: each column by itself.
        least_spread: Least spread that is assumed.

    Returns:
        Same shape.

    >>> robust_z([1, 2, 3, 4, 100], 0.1).round(1).tolist()
    [-1.3, -0.7, 0.0, 0.7, 65.4]
    """
    values = np.asarray(values, np.float64)
    away = values - np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(away), axis=0)
    return np.asarray(away / np.maximum(spread, least_spread))


def stain_distances(looks: Sequence[Look]) -> list[tuple[float, str]]:
    """How far each image's stain lies from the middle of all, and by what.

    Args:
        looks: By ``reinhard``, all with values; at least one.

    Returns:
        For each image the root mean square of its look's values in spreads, see `robust_z`, at least 0; and the value
        that lies farthest, in words.
    """
    z = robust_z([look.values for look in looks], LEAST_SPREAD_OD)
    farthest = np.abs(z).argmax(axis=1).tolist()
    words = [_LOOK_WORDS[value][int(of[value] > 0)] for of, value in zip(z, farthest, strict=True)]
    return list(zip(np.sqrt((z**2).mean(axis=1)).tolist(), words, strict=True))


def nearest(
    hues: Sequence[npt.NDArray[np.float32]], among: Sequence[npt.NDArray[np.float32]], *, same: bool = False
) -> tuple[npt.NDArray[np.intp], _Floats]:
    """The images of another list whose hues are nearest, and how far they are.

    Args:
        hues: Of each image, see `hubmap_kit.reports.inspect_image.hues_of`.
        among: Where to look; at least one, or two if `same`.
        same: Whether both lists are the same: then an image is not its own neighbour.

    Returns:
        For each image the number of the nearest in `among`, and their Hellinger distance, ``(n,)`` each: 0 if the
        hues are the same, 1 if no hue is in both.
    """
    a, b = (np.array(group, np.float64).reshape(len(group), -1) for group in (hues, among))
    # The sum of the products of two images is the share of hues that they have in common.
    distance = np.sqrt(np.clip(1 - a @ b.T, 0, 1))
    if same:
        np.fill_diagonal(distance, np.inf)
    found = distance.argmin(axis=1)
    return found, distance[np.arange(len(a)), found]
