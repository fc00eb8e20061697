"""Masks as polygons along the borders of their pixels, and polygons as masks; both ways exact.

A polygon is a list of rings, the outer border first and then the borders of its holes. A ring is ``(n, 2)``, the
corners ``(y, x)`` in px, the first one not repeated. Pixel ``[y, x]`` lies between the corners ``(y, x)`` and
``(y + 1, x + 1)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from ..outlines import rings

Ring: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]
Polygon: TypeAlias = Sequence[Ring]


def to_polygons(mask: npt.NDArray[np.generic]) -> list[list[npt.NDArray[np.int64]]]:
    """The units of a mask as polygons that keep to the borders of its pixels.

    Pixels that share an edge belong to one unit (4-connected), as in `hubmap_kit.regions`. Each polygon is valid as
    OGC's Simple Features define it: no ring touches itself, and two rings touch only at single corners. The outer
    border runs clockwise on a screen, those of holes counterclockwise.

    Args:
        mask: ``(H, W)``, nonzero = foreground.

    Returns:
        One polygon for each unit, from the top.

    >>> [[ring.tolist() for ring in polygon] for polygon in to_polygons(np.array([[0, 1, 1]]))]
    [[[[0, 1], [0, 3], [1, 3], [1, 1]]]]
    """
    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask != 0).view(np.uint8), connectivity=4)
    units: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(count)]
    for ring in rings(mask):
        y, x = ring[0].tolist()  # a ring begins with a side that has foreground below it
        units[labels[y, x]] += _cut(ring)
    # The first unit is the background. The outer border of a unit is its only ring of a positive area.
    return [sorted(unit, key=lambda ring: signed_area(ring) < 0) for unit in units[1:]]


def _cut(ring: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Cut a ring at the corners where it meets itself, which are corners that two pixels share only diagonally."""
    parts, path, places = [], list[tuple[int, int]](), dict[tuple[int, int], int]()
    for y, x in ring.tolist():
        corner = y, x
        if corner in places:
            start = places[corner]
            parts.append(path[start:])
            for passed in path[start:]:
                del places[passed]
            del path[start:]
        places[corner] = len(path)
        path.append(corner)
    return [np.array(part, np.int64) for part in (path, *parts)]


def signed_area(ring: Ring) -> float:
    """Area of a ring in px; negative if it runs counterclockwise on a screen.

    >>> signed_area(np.array([[0, 0], [0, 3], [2, 3], [2, 0]]))
    6.0
    """
    y, x = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def to_runs(polygons: Iterable[Polygon], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """RLE runs of the mask that polygons cover: the pixels whose centre lies in any of them.

    A point lies in a polygon if a line from it to the outside crosses the polygon's rings an odd number of times
    (even-odd rule). A centre on a left or upper border counts as inside, one on a right or lower border as outside.
    What lies beyond the image is cut off.

    Args:
        polygons: The polygons. A ring may run either way.
        shape: ``(height, width)`` of the mask in px.

    Returns:
        ``(n, 2)`` int64, ``[start, stop)``, 0-based, column-major, sorted; neighbours joined.

    >>> to_runs([[np.array([[0.2, 0.0], [0.2, 2.0], [2.4, 2.0], [2.4, 0.0]])]], (3, 4)).tolist()
    [[0, 2], [3, 5]]
    """
    covered = [np.zeros((0, 2), np.int64)]
    for polygon in polygons:
        # A ring is closed, so it crosses the line of centres of each column an even number of times.
        marks = np.concatenate([_crossings(np.asarray(ring, np.float64), shape) for ring in polygon])
        marks.sort()
        covered.append(marks.reshape(-1, 2))
    runs = np.concatenate(covered)
    runs = runs[runs[:, 0] < runs[:, 1]]
    if len(runs) == 0:
        return runs
    starts, stops = runs[np.argsort(runs[:, 0], kind="stable")].T
    reached = np.maximum.accumulate(stops)
    apart = starts[1:] > reached[:-1]
    return np.column_stack((starts[np.append(True, apart)], reached[np.append(apart, True)]))


def _crossings(ring: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Where a ring crosses the lines through the centres of the columns: the first pixel below, in the order of RLE."""
    height, width = shape
    after = np.roll(ring, -1, axis=0)
    # From left to right, so that a side that two polygons share has the same crossings in both.
    leftwards = (ring[:, 1] > after[:, 1])[:, None]
    (y0, x0), (y1, x1) = np.where(leftwards, after, ring).T, np.where(leftwards, ring, after).T
    first, stop = (np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64) for x in (x0, x1))
    counts = stop - first
    side = np.repeat(np.arange(len(ring)), counts)
    column = np.arange(len(side)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    y = y0[side] + (column + 0.5 - x0[side]) * ((y1 - y0)[side] / (x1 - x0)[side])
    marks: npt.NDArray[np.int64] = column * height + np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64)
    return marks
