"""Run-length encoding (RLE) of the competition; area, overlap and Dice of masks, computed on their RLE runs.

In a CSV an RLE run is ``start length``; pixels are numbered from 1, top to bottom, then left to right (column-major).
Inside the kit RLE runs are an ``(n, 2)`` int64 array of half-open intervals ``[start, stop)``, numbered from 0, in the
same order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decode", "dice", "encode"]  # the public interface; the kit itself uses more

_INTEGER = re.compile(r"[+-]?[0-9]+")
_PIXELS_AT_ONCE = 2**19  # pixels compared at once: the results stay in the processor's cache
_RUNS_AT_ONCE = 2**16  # runs written at once: a list of Python numbers takes many times the memory of the text
_Runs = npt.NDArray[np.int64]  # (n, 2): [start, stop)


def encode(mask: npt.ArrayLike) -> str:
    """Write a mask as the competition's RLE.

    Args:
        mask: ``(H, W)``, any dtype, nonzero = foreground.

    Returns:
        ``start length`` pairs separated by single spaces; ``""`` for an empty mask.

    Raises:
        ValueError: The mask is not two-dimensional.

    >>> encode(np.array([[0, 1, 1], [1, 1, 0]]))
    '2 4'
    """
    return encode_runs(mask_to_runs(mask))


def encode_runs(runs: _Runs) -> str:
    """Write RLE runs (``(n, 2)``, ``[start, stop)``) as the competition's RLE.

    >>> encode_runs(np.array([[1, 5], [8, 9]]))
    '2 4 9 1'
    """
    parts = []
    for first in range(0, len(runs), _RUNS_AT_ONCE):
        part = runs[first : first + _RUNS_AT_ONCE]
        pairs = np.column_stack((part[:, 0] + 1, part[:, 1] - part[:, 0]))
        parts.append(" ".join(map(str, pairs.ravel().tolist())))
    return " ".join(parts)


def decode(rle: str, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Decode an RLE to a mask.

    Args:
        rle: ``start length`` pairs, 1-based and column-major; ``""`` is an empty mask.
        shape: ``(height, width)`` in pixels.

    Returns:
        ``(H, W)`` uint8 in {0, 1}, in column-major memory order.

    Raises:
        ValueError: The RLE is malformed, or a run is outside the mask, overlaps another or is out of order.

    >>> decode("2 4", (2, 3))
    array([[0, 1, 1],
           [1, 1, 0]], dtype=uint8)
    """
    return decode_runs(parse(rle, shape), shape)


def decode_runs(runs: _Runs, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Draw RLE runs (``(n, 2)``, ``[start, stop)``) as a mask ``(H, W)`` uint8, in column-major memory order.

    >>> decode_runs(np.array([[1, 5]]), (2, 3))
    array([[0, 1, 1],
           [1, 1, 0]], dtype=uint8)
    """
    height, width = _checked_shape(shape)
    edges = runs.ravel()
    lengths = np.append(edges, height * width)
    lengths[1:] -= edges
    values = np.zeros(len(lengths), np.uint8)
    values[1::2] = 1
    return np.repeat(values, lengths).reshape(width, height).T


def dice(a: str, b: str, shape: tuple[int, int]) -> float:
    """Dice of two RLE strings, computed on their runs.

    ``2 |A ∩ B| / (|A| + |B|)`` (Dice 1945, "Measures of the amount of ecologic association between species", Ecology
    26:297-302); 1.0 if both masks are empty.

    Args:
        a: An RLE string.
        b: An RLE string.
        shape: ``(height, width)`` of both masks in pixels.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: As `decode` does, for either string.

    >>> dice("1 4", "3 4", (2, 3))
    0.5
    """
    return dice_of_runs(parse(a, shape), parse(b, shape))


def parse(rle: str, shape: tuple[int, int]) -> _Runs:
    """Read and check an RLE string.

    Args:
        rle: ``start length`` pairs, 1-based and column-major.
        shape: ``(height, width)`` of the mask in pixels.

    Returns:
        Runs, ``(n, 2)`` int64, ``[start, stop)``, 0-based, sorted, not overlapping.

    Raises:
        ValueError: The value is not text, holds something that is not a whole number, an odd count of numbers, a zero
            or negative number, or a run that lies outside the mask, overlaps the one before it or is out of order.

    >>> parse("2 4 9 1", (3, 3)).tolist()
    [[1, 5], [8, 9]]
    """
    height, width = _checked_shape(shape)
    if not isinstance(rle, str):
        raise ValueError(f"an RLE is text, not {rle!r}; write an empty string for an empty mask")
    # Remove digits and spaces: anything left is an error. A regular expression takes several times as long.
    if not rle.isascii() or rle.encode("ascii").translate(None, b"0123456789 "):
        _explain_token(rle)
    numbers = np.fromstring(rle, dtype=np.int64, sep=" ") if rle.strip() else np.zeros(0, np.int64)
    if len(numbers) % 2:
        raise ValueError(
            f"an RLE holds pairs 'start length', but this one has an odd count of numbers ({len(numbers)})"
        )
    starts, lengths = numbers[::2], numbers[1::2]
    size = height * width
    if len(numbers) == 0:
        return np.zeros((0, 2), np.int64)
    # Checked first, because only numbers within the mask cannot overflow when they are added.
    fits = numbers.min() >= 1 and numbers.max() <= size
    stops = starts + lengths if fits else starts
    if not (fits and stops[-1] <= size + 1 and (starts[1:] >= stops[:-1]).all()):
        _explain_runs(starts, lengths, (height, width))
    return np.column_stack((starts - 1, stops - 1))


def mask_to_runs(mask: npt.ArrayLike) -> _Runs:
    """RLE runs of a mask.

    Args:
        mask: ``(H, W)``, any dtype, nonzero = foreground.

    Returns:
        ``(n, 2)`` int64, ``[start, stop)``, 0-based, column-major, sorted; neighbours joined.

    Raises:
        ValueError: The mask is not two-dimensional.

    >>> mask_to_runs(np.array([[0, 1, 1], [1, 1, 0]])).tolist()
    [[1, 5]]
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions (height, width), not shape {mask.shape}")
    if mask.size == 0:
        return np.zeros((0, 2), np.int64)
    builder = RunBuilder((mask.shape[0], mask.shape[1]))
    builder.add(mask)
    return builder.runs()


class RunBuilder:
    """RLE runs of a mask that comes in bands of rows, from the top; only the mask's edges are kept.

    Neighbouring rows are compared as they lie in memory, and the edges are put in column-major order at the end:
    transposing the mask first would take longer than everything else.

    Example:
        >>> builder = RunBuilder((2, 3))
        >>> builder.add(np.array([[0, 1, 1]]))
        >>> builder.add(np.array([[1, 1, 0]]))
        >>> builder.runs().tolist()
        [[1, 5]]
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Begin a mask.

        Args:
            shape: ``(height, width)`` of the whole mask in pixels.
        """
        self._height, self._width = _checked_shape(shape)
        self._done = 0
        self._first = self._last = np.zeros(0, bool)
        self._edges: list[npt.NDArray[np.intp]] = []

    def add(self, band: npt.NDArray[Any]) -> None:
        """Add the next rows.

        Args:
            band: ``(n, width)``, any dtype, nonzero = foreground; n may be 0.
        """
        step = max(1, _PIXELS_AT_ONCE // self._width)
        for top in range(0, len(band), step):
            self._add(band[top : top + step])

    def _add(self, band: npt.NDArray[Any]) -> None:
        on = band if band.dtype == np.bool_ else band != 0
        if self._done:
            self._edges.append(np.flatnonzero(on[0] != self._last) * self._height + self._done)
        else:
            self._first = on[0].copy()
        y, x = np.divmod(np.flatnonzero(on[1:] != on[:-1]), self._width)
        self._edges.append(x * self._height + y + self._done + 1)
        self._last = on[-1].copy()
        self._done += len(band)

    def runs(self) -> _Runs:
        """The RLE runs, once all rows were added; to be called once.

        Returns:
            ``(n, 2)`` int64, ``[start, stop)``, 0-based, column-major, sorted; neighbours joined.
        """
        assert self._done == self._height, f"{self._done} of {self._height} rows were added"
        # A column continues the column before it, so its top pixel is compared with the bottom pixel of that one.
        before = np.concatenate(([False], self._last[:-1]))
        end = [self._height * self._width] if self._last[-1] else np.zeros(0, np.int64)
        edges = np.concatenate((*self._edges, np.flatnonzero(self._first != before) * self._height, end))
        self._edges = []
        edges.sort()
        return edges.reshape(-1, 2).astype(np.int64, copy=False)


def area(runs: _Runs) -> int:
    """Number of foreground pixels of RLE runs (``(n, 2)``, ``[start, stop)``).

    >>> area(np.array([[1, 5], [8, 9]]))
    5
    """
    return int((runs[:, 1] - runs[:, 0]).sum())


def overlap(a: _Runs, b: _Runs) -> int:
    """Number of pixels that two masks share.

    Args:
        a: ``(n, 2)`` int64 RLE runs, sorted, not overlapping.
        b: ``(m, 2)`` int64 RLE runs, sorted, not overlapping.

    Returns:
        Number of pixels in both.

    >>> overlap(np.array([[1, 5], [8, 9]]), np.array([[3, 20]]))
    3
    """
    if len(a) == 0 or len(b) == 0:
        return 0
    lengths = b[:, 1] - b[:, 0]
    before = np.concatenate(([0], np.cumsum(lengths)))

    def covered(position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number of pixels of `b` before each position."""
        run = np.searchsorted(b[:, 0], position, side="right") - 1
        inside = np.minimum(position - b[run, 0], lengths[run])
        return np.where(run < 0, 0, before[run] + inside)

    return int((covered(a[:, 1]) - covered(a[:, 0])).sum())


def dice_of_runs(a: _Runs, b: _Runs) -> float:
    """Dice of two masks, given as RLE runs, in [0, 1]; 1.0 if both are empty.

    >>> dice_of_runs(np.array([[0, 4]]), np.array([[2, 6]]))
    0.5
    """
    total = area(a) + area(b)
    return 1.0 if total == 0 else 2 * overlap(a, b) / total


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"a mask's (height, width) is at least (1, 1), not {tuple(shape)}")
    return int(height), int(width)


def _explain_runs(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], shape: tuple[int, int]) -> None:
    """Raise for the first run that breaks a rule."""
    height, width = shape
    size = height * width
    _first(starts < 1, lambda i: f"run {i + 1} starts at {starts[i]}; pixels are numbered from 1")
    _first(lengths < 1, lambda i: f"run {i + 1} has length {lengths[i]}; a length is at least 1")
    # Compared without adding, because numbers near 2**63 would wrap round.
    _first(
        (starts > size) | (lengths > size - starts + 1),
        lambda i: f"run {i + 1} ({starts[i]} {lengths[i]}) leaves the mask of {height} x {width} = {size} pixels",
    )
    stops = starts + lengths
    _first(
        starts[1:] < stops[:-1],
        lambda i: (
            f"run {i + 2} ({starts[i + 1]} {lengths[i + 1]}) "
            + ("overlaps" if starts[i + 1] >= starts[i] else "starts before")
            + f" run {i + 1} ({starts[i]} {lengths[i]}); sort the runs and join those that overlap"
        ),
    )


def _first(wrong: npt.NDArray[np.bool_], message: Callable[[int], str]) -> None:
    """Raise ValueError with `message(index)` for the first wrong element, if any."""
    if wrong.any():
        raise ValueError("bad RLE: " + message(int(np.argmax(wrong))))


def _explain_token(rle: str) -> None:
    """Raise for the first token that is not a positive whole number, or white space other than a blank."""
    for token in re.split(" +", rle.strip(" ")):
        if not _INTEGER.fullmatch(token):
            hint = "; an empty mask is an empty field" if token.lower() == "nan" else ""
            raise ValueError(f"bad RLE: {token[:20]!r} is not a whole number{hint}")
        if not token.isdecimal():
            raise ValueError(f"bad RLE: {token[:20]!r} has a sign; starts and lengths are positive, without one")
