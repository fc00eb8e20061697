"""Run-length codec of the competition, and area, overlap and Dice on runs.

In a CSV a run is ``start length`` with pixels numbered from 1, top to bottom, then left to
right (column-major). Inside the kit runs are an ``(n, 2)`` int64 array of half-open, 0-based
``[start, stop)`` intervals in the same column-major order.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

__all__ = ["decode", "dice", "encode"]  # the public interface; the kit itself uses more

_INTEGER = re.compile(r"[+-]?[0-9]+")
_PIECE = 2**19  # px compared at once: what comes of them stays in the processor's cache
_PART = 2**16  # runs written at once: a list of Python's numbers takes many times the memory of the text


def encode(mask: np.ndarray) -> str:
    """Write a mask as the competition's RLE.

    Args:
        mask: ``(H, W)``, any dtype, nonzero = foreground.

    Returns:
        ``start length`` pairs separated by single spaces; ``""`` for an empty mask.

    Raises:
        ValueError: The mask is not two-dimensional.
    """
    return encode_runs(mask_to_runs(mask))


def encode_runs(runs: np.ndarray) -> str:
    """Write runs (``(n, 2)``, ``[start, stop)``) as the competition's RLE."""
    parts = []
    for first in range(0, len(runs), _PART):
        part = runs[first : first + _PART]
        pairs = np.column_stack((part[:, 0] + 1, part[:, 1] - part[:, 0]))
        parts.append(" ".join(map(str, pairs.ravel().tolist())))
    return " ".join(parts)


def decode(rle: str, shape: tuple[int, int]) -> np.ndarray:
    """Draw an RLE as a mask.

    Args:
        rle: ``start length`` pairs, 1-based and column-major; ``""`` is an empty mask.
        shape: ``(height, width)`` in pixels.

    Returns:
        ``(H, W)`` uint8 in {0, 1}, in column-major memory order (the order of the runs).

    Raises:
        ValueError: See `parse`.
    """
    height, width = _checked_shape(shape)
    edges = parse(rle, shape).ravel()
    lengths = np.diff(edges, prepend=0, append=height * width)
    values = np.zeros(len(lengths), np.uint8)
    values[1::2] = 1
    return np.repeat(values, lengths).reshape(width, height).T


def dice(a: str, b: str, shape: tuple[int, int]) -> float:
    """Dice of two RLE strings, computed on their runs.

    ``2 |A ∩ B| / (|A| + |B|)`` (Dice 1945); 1.0 where both are empty.

    Args:
        a: An RLE string.
        b: An RLE string.
        shape: ``(height, width)`` of both masks in pixels.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: See `parse`.
    """
    return dice_of_runs(parse(a, shape), parse(b, shape))


def parse(rle: str, shape: tuple[int, int]) -> np.ndarray:
    """Read and check an RLE string.

    Args:
        rle: ``start length`` pairs, 1-based and column-major.
        shape: ``(height, width)`` of the mask in pixels.

    Returns:
        Runs, ``(n, 2)`` int64, ``[start, stop)``, 0-based, sorted, not overlapping.

    Raises:
        ValueError: The value is not text, holds something that is not a whole number, an odd
            count of numbers, a zero or negative number, or a run that lies outside the mask,
            overlaps the one before it or is out of order.
    """
    height, width = _checked_shape(shape)
    if not isinstance(rle, str):
        raise ValueError(f"an RLE is text, not {rle!r}; write an empty string for an empty mask")
    # What is left without digits and spaces; a regular expression takes several times as long.
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
    # In this order: numbers within the mask cannot overflow when added.
    fits = numbers.min() >= 1 and numbers.max() <= size
    stops = starts + lengths if fits else starts
    if not (fits and stops[-1] <= size + 1 and (starts[1:] >= stops[:-1]).all()):
        _explain_runs(starts, lengths, (height, width))
    return np.column_stack((starts - 1, stops - 1))


def mask_to_runs(mask: np.ndarray) -> np.ndarray:
    """Runs of a mask.

    Args:
        mask: ``(H, W)``, any dtype, nonzero = foreground.

    Returns:
        ``(n, 2)`` int64, ``[start, stop)``, 0-based, column-major, sorted; neighbours joined.

    Raises:
        ValueError: The mask is not two-dimensional.
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
    """Runs of a mask that comes in bands of rows, from the top; only its edges are kept.

    Neighbouring rows are compared as they lie in memory and the edges found are then put in
    column-major order; transposing the mask first would cost more than all the rest.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Begin a mask.

        Args:
            shape: ``(height, width)`` of the whole mask in pixels.
        """
        self._height, self._width = _checked_shape(shape)
        self._done = 0
        self._first = self._last = np.zeros(0, bool)
        self._edges: list[np.ndarray] = []

    def add(self, band: np.ndarray) -> None:
        """Add the next rows.

        Args:
            band: ``(n, width)``, any dtype, nonzero = foreground; n may be 0.
        """
        step = max(1, _PIECE // self._width)
        for top in range(0, len(band), step):
            self._add(band[top : top + step])

    def _add(self, band: np.ndarray) -> None:
        on = band if band.dtype == np.bool_ else band != 0
        if self._done:
            self._edges.append(np.flatnonzero(on[0] != self._last) * self._height + self._done)
        else:
            self._first = on[0].copy()
        y, x = np.divmod(np.flatnonzero(on[1:] != on[:-1]), self._width)
        self._edges.append(x * self._height + y + self._done + 1)
        self._last = on[-1].copy()
        self._done += len(band)

    def runs(self) -> np.ndarray:
        """The runs, once all rows were added.

        Returns:
            ``(n, 2)`` int64, ``[start, stop)``, 0-based, column-major, sorted; neighbours joined.
        """
        assert self._done == self._height, f"{self._done} of {self._height} rows were added"
        # A column begins where the one before it ends: an edge at its top is one against that one's bottom.
        before = np.concatenate(([False], self._last[:-1]))
        end = [self._height * self._width] if self._last[-1] else np.zeros(0, np.int64)
        edges = np.concatenate((*self._edges, np.flatnonzero(self._first != before) * self._height, end))
        self._edges = []
        edges.sort()
        return edges.reshape(-1, 2).astype(np.int64, copy=False)


def area(runs: np.ndarray) -> int:
    """Count of foreground pixels of `runs` (``(n, 2)``, ``[start, stop)``)."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def overlap(a: np.ndarray, b: np.ndarray) -> int:
    """Count of pixels that two sets of runs share.

    Args:
        a: ``(n, 2)`` int64 runs, sorted, not overlapping.
        b: ``(m, 2)`` int64 runs, likewise.

    Returns:
        Pixels in both.
    """
    if len(a) == 0 or len(b) == 0:
        return 0
    lengths = b[:, 1] - b[:, 0]
    before = np.concatenate(([0], np.cumsum(lengths)))

    def covered(position: np.ndarray) -> np.ndarray:
        """Pixels of `b` that lie before each position."""
        run = np.searchsorted(b[:, 0], position, side="right") - 1
        inside = np.minimum(position - b[run, 0], lengths[run])
        return np.where(run < 0, 0, before[run] + inside)

    return int((covered(a[:, 1]) - covered(a[:, 0])).sum())


def dice_of_runs(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two sets of runs, in [0, 1]; 1.0 where both are empty."""
    total = area(a) + area(b)
    return 1.0 if total == 0 else 2 * overlap(a, b) / total


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"a mask's (height, width) is at least (1, 1), not {tuple(shape)}")
    return int(height), int(width)


def _explain_runs(starts: np.ndarray, lengths: np.ndarray, shape: tuple[int, int]) -> None:
    """Raise for the first run that breaks a rule."""
    height, width = shape
    size = height * width
    _first(starts < 1, lambda i: f"run {i + 1} starts at {starts[i]}; pixels are numbered from 1")
    _first(lengths < 1, lambda i: f"run {i + 1} has length {lengths[i]}; a length is at least 1")
    # Compare without adding, so that numbers near 2**63 cannot wrap round.
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


def _first(wrong: np.ndarray, message: Callable[[int], str]) -> None:
    """Raise ValueError with `message(index)` for the first wrong element, if any."""
    if wrong.any():
        raise ValueError("bad RLE: " + message(int(np.argmax(wrong))))


def _explain_token(rle: str) -> None:
    """Raise for the first token that is no positive whole number; white space other than ' ' too."""
    for token in re.split(" +", rle.strip(" ")):
        if not _INTEGER.fullmatch(token):
            hint = "; an empty mask is an empty field" if token.lower() == "nan" else ""
            raise ValueError(f"bad RLE: {token[:20]!r} is not a whole number{hint}")
        if not token.isdecimal():
            raise ValueError(f"bad RLE: {token[:20]!r} has a sign; starts and lengths are positive, without one")
