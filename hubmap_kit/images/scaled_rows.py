"""Row-wise reading and resizing of images that do not fit in memory.

The memory that a large image takes depends on its width and on the height of its strips or tiles, not on its area.
Small images, and files that can only be decoded whole, are held whole and read by the same methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from ..tables import Image
from .scaling import load_image, resize, scaled_shape
from .tiff_rows import RowReader

HELD_WHOLE_PX = 64 * 2**20  # largest image, in px of the file, that is held whole: 192 MB
VALUES_AT_ONCE = 2**20  # values resampled at once, roughly: 4 MB as float32

_Rows = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class RowResizer:
    """Resizes an image or a map row by row from the top, by the rule of `hubmap_kit.images.scaling.resize`.

    Each target row depends only on its own source rows, so any division of the source gives the same bits. They
    differ from those of `resize` by rounding: by less than 1e-5 for values in [0, 1].
    """

    def __init__(self, shape: tuple[int, int], target: tuple[int, int]) -> None:
        """Begin an image.

        Args:
            shape: ``(h, w)`` of the source, in px.
            target: ``(H, W)`` of the target, in px.

        Raises:
            ValueError: A side is below 1 px.
        """
        if min(*shape, *target) < 1:
            raise ValueError(f"cannot resize {shape} to {target} px: all sides must be at least 1 px")
        self._shape, self._target = shape, target
        self._weights = _weights(shape[0], target[0])
        ends = self._weights.indptr
        self._first = self._weights.indices[ends[:-1]]  # source rows of each target row
        self._last = self._weights.indices[ends[1:] - 1]
        self._pushed = self._done = 0
        self._kept: _Rows | None = None  # source rows up to `_pushed` that are still needed

    def push(self, rows: _Rows) -> npt.NDArray[np.float32]:
        """Take the next rows of the source; return the target rows that are complete with them.

        Args:
            rows: ``(n, w)`` or ``(n, w, C)``, float32 or uint8. They are converted to float32 in memory.

        Returns:
            ``(m, W)`` or ``(m, W, C)`` float32, the next rows of the target; m may be 0. With the last source row the
            target is complete. If the shapes are the same, these are the rows that were pushed.

        Raises:
            ValueError: Rows of another width, or more rows than the source has.
        """
        if rows.shape[1] != self._shape[1] or self._pushed + len(rows) > self._shape[0]:
            raise ValueError(f"rows {rows.shape} follow {self._pushed} rows of {self._shape}; push each row once")
        kept = rows if self._kept is None else np.concatenate([self._kept, rows])
        self._pushed += len(rows)
        top = self._pushed - len(kept)
        start, stop = self._done, int(np.searchsorted(self._last, self._pushed))
        needed = self._first[stop] if stop < len(self._first) else self._pushed
        self._done, self._kept = stop, kept[needed - top :].copy()
        if start == stop:
            return np.empty((0, self._target[1], *rows.shape[2:]), np.float32)
        low, high = self._first[start], self._last[stop - 1] + 1
        source: npt.NDArray[np.float32] = kept[low - top : high - top].astype(np.float32, copy=False)
        if self._shape[0] != self._target[0]:
            source = self._weights[start:stop, low:high] @ source.reshape(len(source), -1)
        source = source.reshape(stop - start, *rows.shape[1:])
        if len(source) == 1:  # OpenCV interpolates a single row less precisely than the same row among others
            source = np.repeat(source, 2, axis=0)
        return resize(source, (len(source), self._target[1]))[: stop - start]


def _weights(source: int, target: int) -> Any:
    """Share of each source row in each target row: a sparse ``(target, source)`` float32 array.

    The shares are those of an area average if the side shrinks, else of linear interpolation between the centres of
    pixels. As in OpenCV (`computeResizeAreaTab` in imgproc/src/resize.cpp), a part of an area up to 1e-3 px is left
    out.
    """
    scale = 1 / (target / source)
    i = np.arange(target)[:, None]
    if target < source:
        low = i * scale
        # Not (i + 1) * scale: it can round to the other side of 1e-3 than in OpenCV.
        high = np.minimum(low + scale, source)
        index = np.floor(low).astype(np.int64) + np.arange(math.ceil(scale) + 1)
        share = np.minimum(high, index + 1) - np.maximum(low, index)
        share = np.where(share > 1e-3, share / (high - low), 0)
    else:
        place = np.clip((i + 0.5) * scale - 0.5, 0, source - 1)
        index = np.floor(place).astype(np.int64) + np.arange(2)
        share = 1 - np.abs(place - index)
    row, column = np.nonzero(share)
    return csr_array((share[row, column].astype(np.float32), (row, index[row, column])), shape=(target, source))


class ScaledRows:
    """Rows of an image at the network's scale, from the top; made by `open_scaled`.

    Attributes:
        native: ``(H, W)`` of the file, in px.
        shape: ``(h, w)`` at the network's scale, in px.
        streams: Whether `read` decodes the file; if not, the image is held whole.
    """

    def __init__(
        self, source: RowReader | npt.NDArray[np.uint8], native: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        """Take an image.

        Args:
            source: An open file to stream, or the whole image at the network's scale, ``(h, w, 3)`` uint8 RGB.
            native: ``(H, W)`` of the file, in px.
            shape: ``(h, w)`` at the network's scale, in px.
        """
        self.native, self.shape, self.streams = native, shape, isinstance(source, RowReader)
        self._source = source
        self._map = None if native == shape else RowResizer(native, shape)
        widest = max(native[1], shape[0] / native[0] * max(native[1], shape[1]))  # px, for one row of the file
        self._step = max(1, int(VALUES_AT_ONCE / 3 / widest))  # rows of the file at once
        self._native_end = 0  # rows of the file that were read
        # The rows that are kept, in adjacent parts: the first row of each part, and its rows.
        self._parts = [(0, np.empty((0, shape[1], 3), np.uint8))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._source, RowReader):
            self._source.close()

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read rows. If the image streams, rows above `start` are dropped and cannot be read again.

        Args:
            start: First row at the network's scale.
            stop: Row after the last one, at most the height.

        Returns:
            ``(stop - start, w, 3)`` uint8 RGB, C-contiguous, read-only: the next call may overwrite it.

        Raises:
            ValueError: Rows outside the image, rows that were dropped, or a file that cannot be decoded.
        """
        first = self._parts[0][0]
        if not first <= start < stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} cannot be read; there are rows {first} to {self.shape[0]}")
        if not isinstance(self._source, RowReader):
            return self._source[start:stop]
        rows = np.empty((stop - start, self.shape[1], 3), np.uint8)
        parts, below = self._parts, []
        self._parts = [(self.shape[0], rows[:0])]  # if an error ends this call, nothing can be read any more
        for top, part in self._down_to(stop, parts, self._source):
            low, high = max(start, top), min(stop, top + len(part))
            if low < high:
                rows[low - start : high - start] = part[low - top : high - top]
            if top + len(part) > stop:
                below.append((max(stop, top), part[max(0, stop - top) :]))
        rows.flags.writeable = False
        self._parts = [(start, rows), *below]
        return rows

    def _down_to(
        self, stop: int, parts: list[tuple[int, npt.NDArray[np.uint8]]], reader: RowReader
    ) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yield the parts that were kept, then new ones until one reaches `stop`."""
        yield from parts
        end = parts[-1][0] + len(parts[-1][1])
        while end < stop:
            yield end, (part := self._next(reader))
            end += len(part)

    def _next(self, reader: RowReader) -> npt.NDArray[np.uint8]:
        """Read the next rows of the file; return the rows made of them, ``(n, w, 3)`` uint8; n may be 0."""
        start, self._native_end = self._native_end, min(self._native_end + self._step, self.native[0])
        rows = reader.read(start, self._native_end)
        if self._map is None:
            return rows
        resized = self._map.push(rows)
        return np.rint(resized, out=resized).astype(np.uint8)


def open_scaled(
    path: str | Path, pixel_size_um: float, target_um: float, expect_shape: tuple[int, int] | None = None
) -> ScaledRows:
    """Open an image to read its rows at the network's scale: `load_image` for images that do not fit in memory.

    Up to `HELD_WHOLE_PX` px, and if a file can only be decoded whole, the rows are those of `load_image`. Otherwise
    they differ from them by at most one grey level, and do not depend on the portions in which they are read.

    Args:
        path: A TIFF, see `hubmap_kit.images.read_image`.
        pixel_size_um: Size of the file's pixels by the table, in µm.
        target_um: Pixel size at the network's scale, in µm.
        expect_shape: ``(height, width)`` by the table, in px; None accepts any.

    Returns:
        The rows; close them after use.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It cannot be read, its shape is not the expected one, or a pixel size is not positive.
    """
    reader = RowReader(path, expect_shape)
    try:
        native = reader.shape
        shape = scaled_shape(native, pixel_size_um, target_um)
        if math.prod(shape) > HELD_WHOLE_PX or (reader.streams and math.prod(native) > HELD_WHOLE_PX):
            return ScaledRows(reader, native, shape)
    except Exception:
        reader.close()
        raise
    reader.close()
    image, _ = load_image(path, pixel_size_um, target_um, expect_shape)
    return ScaledRows(image, native, shape)


@dataclass(frozen=True)
class ScaledImage:
    """An image of the table at the scale at which a network sees it.

    Attributes:
        image: The image.
        network_um: Pixel size at the network's scale, in µm.
    """

    image: Image
    network_um: float

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)`` at the network's scale, in px, see `scaled_shape`."""
        return scaled_shape(self.image.shape, self.image.pixel_size_um, self.network_um)

    def open(self) -> ScaledRows:
        """Open the file to read its rows at this scale; raises as `open_scaled`."""
        return open_scaled(self.image.path, self.image.pixel_size_um, self.network_um, self.image.shape)
