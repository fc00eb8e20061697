"""Connected regions of a mask, found on its RLE runs: the mask is never drawn."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt


class Regions:
    """The regions of a mask and their areas; they are found once, when first needed.

    Pixels that share an edge belong to one region (4-connected), as in ``scipy.ndimage.label``.

    Example:
        >>> regions = Regions(np.array([[0, 2], [3, 4], [6, 8]]), (3, 3))  # columns 110, 100, 110
        >>> regions.at_least(6).tolist()
        []
        >>> regions.at_least(5).tolist()
        [[0, 2], [3, 4], [6, 8]]
    """

    def __init__(self, runs: npt.NDArray[np.int64], shape: tuple[int, int]) -> None:
        """Take the mask.

        Args:
            runs: ``(n, 2)`` int64, ``[start, stop)``, 0-based, column-major, sorted, not overlapping.
            shape: ``(height, width)`` of the mask in px.
        """
        self._runs, self._shape = _joined(runs), shape

    @cached_property
    def _areas(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        return region_areas(self._runs, self._shape)

    def at_least(self, least_px: int) -> npt.NDArray[np.int64]:
        """Keep the regions of at least `least_px` pixels: runs as in `__init__`, neighbours joined."""
        if least_px <= 1:  # a region has at least one pixel
            return self._runs
        pieces, areas = self._areas
        return _joined(pieces[areas >= least_px])


def region_areas(
    runs: npt.NDArray[np.int64], shape: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """A mask's runs, each with the area of its region; regions are 4-connected, see `Regions`.

    Args:
        runs: ``(n, 2)`` int64, ``[start, stop)``, 0-based, column-major, sorted, not overlapping.
        shape: ``(height, width)`` of the mask in px.

    Returns:
        The runs, split where a column ends, ``(m, 2)`` int64, sorted; and for each the area of its region in px,
        ``(m,)`` float64.

    >>> pieces, areas = region_areas(np.array([[0, 2], [3, 4], [8, 9]]), (3, 3))  # columns 110, 100, 001
    >>> areas.tolist()
    [3.0, 3.0, 1.0]
    """
    # Imported here: SciPy starts slowly, and a push, which reads runs and makes no masks, works without it.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    pieces = _split(_joined(runs), shape[0])
    count = len(pieces)
    if count == 0:
        return pieces, np.zeros(0)
    starts, stops = pieces.T
    # The neighbours of a piece in the next column are the pieces that it overlaps when moved there: `[first, last)`.
    first = np.searchsorted(stops, starts + shape[0], side="right")
    last = np.searchsorted(starts, stops + shape[0], side="left")
    ends = np.concatenate(([0], np.cumsum(last - first)))
    right = np.arange(ends[-1]) - np.repeat(ends[:-1] - first, last - first)
    links = csr_array((np.ones(len(right), np.int8), right, ends), shape=(count, count))
    region = connected_components(links, directed=False)[1]
    return pieces, np.asarray(np.bincount(region, weights=stops - starts)[region], np.float64)


def area_px(area_um2: float, pixel_size_um: float) -> int:
    """An area in µm², in pixels of the side `pixel_size_um` (µm), rounded.

    >>> area_px(1000.0, 0.4)
    6250
    """
    return round(area_um2 / pixel_size_um**2)


def _split(runs: npt.NDArray[np.int64], height: int) -> npt.NDArray[np.int64]:
    """Split runs where a column of the mask ends."""
    first, last = runs[:, 0] // height, (runs[:, 1] - 1) // height
    columns = last - first + 1
    run = np.repeat(np.arange(len(runs)), columns)
    column = np.arange(len(run)) - np.repeat(np.cumsum(columns) - columns - first, columns)
    return np.column_stack((np.maximum(runs[run, 0], column * height), np.minimum(runs[run, 1], (column + 1) * height)))


def _joined(runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Join runs that touch."""
    if len(runs) == 0:
        return runs
    apart = runs[1:, 0] > runs[:-1, 1]
    return np.column_stack((runs[np.append(True, apart), 0], runs[np.append(apart, True), 1]))
