"""Outlines of a mask: rings along the borders of its pixels, SVG paths made of them, and their colours."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int64]

# Colours of outlines in every picture, as in reports/templates/page.css: light, on a dark casing.
TRUTH_RGB, PREDICTION_RGB, CASING_RGB = (255, 255, 255), (127, 214, 255), (26, 26, 26)


def rings(mask: npt.NDArray[np.generic]) -> list[_Ints]:
    """The outlines of a mask, exactly along the borders of its pixels.

    Pixel ``[y, x]`` lies between the corners ``(y, x)`` and ``(y + 1, x + 1)``. Foreground is on the right of a ring:
    outer borders run clockwise as seen on a screen, those of holes counterclockwise. By the even-odd rule the rings
    fill exactly the mask. Pixels that share only a corner are apart (4-connected), as in `hubmap_kit.regions`.

    Args:
        mask: ``(H, W)``, nonzero = foreground.

    Returns:
        For each ring its corners, ``(n, 2)`` int64 ``(y, x)``, the first one not repeated. Its sides are horizontal
        and vertical in turn.

    >>> [ring.tolist() for ring in rings(np.array([[0, 1, 1]]))]
    [[[0, 1], [0, 3], [1, 3], [1, 1]]]
    """
    on = np.pad(np.asarray(mask) != 0, 1)
    width = on.shape[1] - 1  # corners in a row
    turned = np.ascontiguousarray(on.T)
    y, low, high = _sides(on[1:] & ~on[:-1])  # foreground below
    east = y * width + low, y * width + high
    y, low, high = _sides(on[:-1] & ~on[1:])  # foreground above
    west = y * width + high, y * width + low
    x, low, high = _sides(turned[:-1] & ~turned[1:])  # foreground on the left
    south = low * width + x, high * width + x
    x, low, high = _sides(turned[1:] & ~turned[:-1])  # foreground on the right
    north = high * width + x, low * width + x
    sides = (east, west, south, north)
    first = np.cumsum([0, *(len(starts) for starts, _ in sides)])  # number of the first side of each direction
    # A side is followed by one to its right if there is one: so pixels stay apart that share only a corner.
    followers = ((2, 3), (3, 2), (1, 0), (0, 1))  # of east, west, south and north: to the right, to the left
    following = []
    for (_, ends), turns in zip(sides, followers, strict=True):
        right, left = (_beginning_at(ends, sides[turn][0], int(first[turn])) for turn in turns)
        following += np.where(right >= 0, right, left).tolist()
    corners = np.column_stack(np.divmod(np.concatenate([starts for starts, _ in sides]), width))
    found, seen = [], bytearray(len(following))
    for begin in range(len(east[0])):  # every ring has a side that goes east
        if seen[begin]:
            continue
        ring, side = [], begin
        while not seen[side]:
            seen[side] = 1
            ring.append(side)
            side = following[side]
        found.append(corners[ring])
    return found


def _sides(border: npt.NDArray[np.bool_]) -> tuple[_Ints, _Ints, _Ints]:
    """The straight lines of a border between the rows of a padded mask: their row, first and last corner."""
    flat = border.ravel()  # the padding keeps the lines of two rows apart
    changes = np.flatnonzero(flat[1:] != flat[:-1]).astype(np.int64) + 1
    row, start = np.divmod(changes[::2], border.shape[1])
    return row, start - 1, start - 1 + changes[1::2] - changes[::2]


def _beginning_at(corners: _Ints, starts: _Ints, first: int) -> _Ints:
    """For each corner the number of the side that begins there, the sides being numbered from `first`; -1 for none."""
    if len(starts) == 0:
        return np.full(len(corners), -1)
    order = np.argsort(starts)
    side = order[np.minimum(np.searchsorted(starts, corners, sorter=order), len(starts) - 1)]
    return np.where(starts[side] == corners, side + first, -1)


def simplify(ring: _Ints, tolerance_px: float) -> _Ints:
    """Leave out corners of a ring, such that it moves by at most `tolerance_px` (Douglas & Peucker 1973).

    Args:
        ring: ``(n, 2)`` corners.
        tolerance_px: Largest distance of a left-out corner from the new ring, in px.

    Returns:
        ``(m, 2)``, m at least 1.
    """
    points = cv2.approxPolyDP(ring.astype(np.int32)[:, None], tolerance_px, True)
    return np.asarray(points[:, 0], np.int64)


def svg_path(outlines: Sequence[_Ints]) -> str:
    """Rings as the ``d`` of an SVG path in image pixels, to be filled by the even-odd rule.

    >>> svg_path(rings(np.array([[0, 1, 1]])))
    'M1 0l2 0 0 1-2 0z'
    """
    parts = []
    for ring in outlines:
        y, x = ring[0].tolist()
        steps = np.diff(ring, axis=0)[:, ::-1].ravel().tolist()
        # A minus sign separates numbers as well as a space does.
        parts.append(f"M{x} {y}l{' '.join(map(str, steps)).replace(' -', '-')}z" if steps else f"M{x} {y}z")
    return "".join(parts)


def path_of(mask: npt.NDArray[np.generic], tolerance_px: float = 0.0) -> str:
    """The outlines of a mask as the ``d`` of an SVG path.

    Args:
        mask: ``(H, W)``, nonzero = foreground.
        tolerance_px: By how much an outline may move, in px. Rings that shrink to a line are left out then.

    Returns:
        The path, in image pixels; empty for an empty mask.

    >>> path_of(np.ones((2, 3)))
    'M0 0l3 0 0 2-3 0z'
    """
    found = rings(mask)
    if tolerance_px > 0:
        found = [ring for ring in (simplify(ring, tolerance_px) for ring in found) if len(ring) > 2]
    return svg_path(found)
