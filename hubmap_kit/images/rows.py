"""Rows of an image from the top, where the whole would not fit: read, brought to the network's scale, and back.

What a large image costs in memory then depends on its width and on the height of its strips or tiles, not on its
area. Small images, and files that can only be decoded whole, are held whole behind the same methods.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import tifffile
from scipy.sparse import csr_array

from .scaling import load_image, resize, scaled_shape
from .tiff import Stored, check, check_shape, decode, naming, to_rgb

LARGE = 64 * 2**20  # native px up to which an image is held whole: 192 MB
BAND = 8 * 2**20  # values decoded at once, at least: enough strips to keep every core busy
PIECE = 2**20  # values resampled at once, about: as float32 they take 4 MB on the way


class RowReader:
    """Rows of a TIFF: exactly those of `hubmap_kit.images.read_image`, decoded by strips or tiles.

    All that `read_image` checks before decoding is checked on opening. Strips or tiles are decoded on all cores, as
    many rows of them at once as make `BAND` values, at least one, and the last such band is kept: each is decoded
    once where rows are read from the top. Not thread-safe.

    Held whole from the first `read` on, with `streams` false, is what has no parts (a single compressed strip), spans
    several pages (one for each channel), is volumetric, or only OpenCV decodes (imagecodecs is missing).

    Attributes:
        path: The file.
        shape: ``(height, width)`` in px, as stored.
        streams: Whether reading takes no more memory than a band.
    """

    def __init__(self, path: str | Path) -> None:
        """Open and check a file.

        Args:
            path: A TIFF, see `read_image`.

        Raises:
            OSError: The file cannot be opened.
            ValueError: As `read_image`: the file, the rule and the remedy.
        """
        self.path = Path(path)
        with self.path.open("rb"):
            pass
        with naming(self.path), ExitStack() as stack:
            self._tif = stack.enter_context(tifffile.TiffFile(self.path, is_ome=False))
            self._stored = check(self._tif)
            self._pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
            self._to_close = stack.pop_all()
        height, width, samples = self._stored.shape
        self.shape = (height, width)
        step = _step(self._stored)
        self.streams = step < height
        self._height = min(height, step * max(1, BAND // (step * width * samples))) if self.streams else height
        self._first = -1  # row at which the band begins
        self._band = np.empty((0, width, 3), np.uint8)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and drop what is kept."""
        self._band = self._band[:0].copy()
        self._to_close.close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: First row, in px.
            stop: Row behind the last, at most the height.

        Returns:
            ``(stop - start, W, 3)`` uint8 RGB, ``read_image(path)[start:stop]``.

        Raises:
            ValueError: Rows outside the image, or a file that cannot be decoded: named, with rule and remedy.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} are asked for, but {self.path} has rows 0 to {self.shape[0]}")
        rows = np.empty((stop - start, self.shape[1], 3), np.uint8)
        at = start
        while at < stop:
            first = at // self._height * self._height
            if first != self._first:
                self._first, self._band = -1, self._band[:0].copy()  # never two bands in memory
                with naming(self.path):
                    self._band = self._decode(first, min(first + self._height, self.shape[0]))
                self._first = first
            end = min(stop, first + self._height)
            rows[at - start : end - start] = self._band[at - first : end - first]
            at = end
        return rows

    def _decode(self, first: int, stop: int) -> np.ndarray:
        """Decode ``[first, stop)``, whole strips or tiles: ``(stop - first, W, 3)`` uint8 RGB."""
        if not self.streams:
            return decode(self._tif, self._stored)
        page, file = self._stored.page, self._tif.filehandle
        planes, _, height, width, samples = page.shaped  # planar files have planes of one sample each
        data = np.empty((planes, stop - first, width, samples), page.dtype)
        if page.is_final:  # the values themselves, row after row
            stored = page.dtype.newbyteorder(self._tif.byteorder)
            for plane in range(planes):
                file.seek(page.dataoffsets[0] + (plane * height + first) * data[0, 0].nbytes)
                data[plane] = np.frombuffer(file.read(data[plane].nbytes), stored).reshape(data[plane].shape)
        else:
            rows, columns = page.chunks[:2]
            down, across = math.ceil(height / rows), math.ceil(width / columns)
            decode_segment, tables = page.decode, page.jpegtables  # made on first use, so not by several threads

            def place(index: int) -> None:
                with self._lock:
                    file.seek(page.dataoffsets[index])
                    encoded = file.read(page.databytecounts[index])
                part, (plane, _, y, x, _), _ = decode_segment(encoded, index, jpegtables=tables)
                data[plane, y - first : y - first + rows, x : x + columns] = part[0, : height - y, : width - x]

            wanted = range(first // rows * across, math.ceil(stop / rows) * across)
            for _ in self._pool.map(place, (plane * down * across + i for plane in range(planes) for i in wanted)):
                pass
        return to_rgb(data.transpose(1, 2, 0, 3).reshape(stop - first, width, -1), page)


def _step(stored: Stored) -> int:
    """Rows that a file allows to decode by themselves: 1 px, a strip's or a tile's, or the image's height."""
    series, page, _, (height, width, samples), opencv = stored
    simple = (page.imagelength, page.imagewidth, page.samplesperpixel, page.imagedepth) == (height, width, samples, 1)
    if opencv or len(series.pages) > 1 or not simple or page.jpegheader is not None:  # such JPEG is Hamamatsu's NDPI
        return height
    if page.is_contiguous:
        return 1 if page.is_final else height
    return min(height, page.chunks[0])


class MapRows:
    """Resizing by rows from the top, by the rule of `hubmap_kit.images.scaling.resize`: the whole is never needed.

    Each row that comes out depends on its own source rows alone, so any division of the source gives the same bits.
    They differ from `resize` by rounding: below 1e-5 for values in [0, 1].
    """

    def __init__(self, shape: tuple[int, int], target: tuple[int, int]) -> None:
        """Set up.

        Args:
            shape: ``(h, w)`` of the source, in px.
            target: ``(H, W)`` wanted, in px.

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
        self._kept: np.ndarray | None = None  # source rows up to `_pushed` that are still needed

    def push(self, rows: np.ndarray) -> np.ndarray:
        """Take the next rows of the source, and give the rows that are complete with them.

        Args:
            rows: ``(n, w)`` or ``(n, w, C)``, float32 or uint8; memory is taken for n rows as float32.

        Returns:
            ``(m, W)`` or ``(m, W, C)`` float32, the next rows of the target; m may be 0, and all rows have been given
            when the source is complete. Where nothing changes, it is the rows pushed.

        Raises:
            ValueError: Rows of another width, or more of them than the source has.
        """
        if rows.shape[1] != self._shape[1] or self._pushed + len(rows) > self._shape[0]:
            raise ValueError(f"{rows.shape} is pushed behind {self._pushed} rows of {self._shape}; push each row once")
        kept = rows if self._kept is None else np.concatenate([self._kept, rows])
        self._pushed += len(rows)
        top = self._pushed - len(kept)
        start, stop = self._done, int(np.searchsorted(self._last, self._pushed))
        needed = self._first[stop] if stop < len(self._first) else self._pushed
        self._done, self._kept = stop, kept[needed - top :].copy()
        if start == stop:
            return np.empty((0, self._target[1], *rows.shape[2:]), np.float32)
        low, high = self._first[start], self._last[stop - 1] + 1
        source = kept[low - top : high - top].astype(np.float32, copy=False)
        if self._shape[0] != self._target[0]:
            source = self._weights[start:stop, low:high] @ source.reshape(len(source), -1)
        source = source.reshape(stop - start, *rows.shape[1:])
        if len(source) == 1:  # a single row is placed less precisely by OpenCV than the same row among others
            source = np.repeat(source, 2, axis=0)
        return resize(source, (len(source), self._target[1]))[: stop - start]


def _weights(source: int, target: int) -> csr_array:
    """Share of each source row in each target row: ``(target, source)`` float32, few of them not 0.

    Area average where the side shrinks, else linear between the centres of pixels. As in OpenCV
    (`computeResizeAreaTab` in imgproc/src/resize.cpp) a part of an area up to 1e-3 px is left out.
    """
    scale = 1 / (target / source)
    i = np.arange(target)[:, None]
    if target < source:
        low = i * scale
        high = np.minimum(low + scale, source)  # not (i + 1) * scale, which OpenCV rounds to the other side of 1e-3
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
    """Rows of an image at the network's scale, from the top; `open_scaled` makes it.

    Attributes:
        native: ``(H, W)`` of the file, in px.
        shape: ``(h, w)`` at the network's scale, in px.
        streams: Whether the image is decoded as its rows are asked for; else it is held whole.
    """

    def __init__(self, source: RowReader | np.ndarray, native: tuple[int, int], shape: tuple[int, int]) -> None:
        """Set up.

        Args:
            source: An open file to stream, or the whole image at the network's scale, ``(h, w, 3)`` uint8 RGB.
            native: ``(H, W)`` of the file, in px.
            shape: ``(h, w)`` at the network's scale, in px.
        """
        self.native, self.shape, self.streams = native, shape, isinstance(source, RowReader)
        self._source = source
        self._map = None if native == shape else MapRows(native, shape)
        widest = max(native[1], shape[0] / native[0] * max(native[1], shape[1]))  # values a native row takes, / 3
        self._step = max(1, int(PIECE / 3 / widest))  # native rows at once
        self._native_end = 0  # native rows read
        self._parts = [(0, np.empty((0, shape[1], 3), np.uint8))]  # first row and rows, adjacent: what is kept

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if isinstance(self._source, RowReader):
            self._source.close()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows; where the image streams, those above `start` cannot be read again.

        Args:
            start: First row at the network's scale.
            stop: Row behind the last, at most the height.

        Returns:
            ``(stop - start, w, 3)`` uint8 RGB, C-contiguous; not to be written to: the next call takes from it.

        Raises:
            ValueError: Rows outside the image or dropped before, or a file that cannot be decoded.
        """
        first = self._parts[0][0]
        if not first <= start < stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} are asked for, but there are rows {first} to {self.shape[0]}")
        if not isinstance(self._source, RowReader):
            return self._source[start:stop]
        rows = np.empty((stop - start, self.shape[1], 3), np.uint8)
        parts, below = self._parts, []
        self._parts = [(self.shape[0], rows[:0])]  # nothing to read, should an error end this call half-way
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
        self, stop: int, parts: list[tuple[int, np.ndarray]], reader: RowReader
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Give the parts that were kept, then new ones until one reaches `stop`."""
        yield from parts
        end = parts[-1][0] + len(parts[-1][1])
        while end < stop:
            yield end, (part := self._next(reader))
            end += len(part)

    def _next(self, reader: RowReader) -> np.ndarray:
        """Read the next native rows: the rows made of them, ``(n, w, 3)`` uint8; n may be 0."""
        start, self._native_end = self._native_end, min(self._native_end + self._step, self.native[0])
        rows = reader.read(start, self._native_end)
        if self._map is None:
            return rows
        rows = self._map.push(rows)
        return np.rint(rows, out=rows).astype(np.uint8)


def open_scaled(
    path: str | Path, pixel_size_um: float, target_um: float, expect_shape: tuple[int, int] | None = None
) -> ScaledRows:
    """Open an image to read its rows at the network's scale: the row-wise sibling of `load_image`.

    Up to `LARGE` native px, and where a file cannot be decoded by parts, the rows are those of `load_image`; else
    they are within one grey level of them, and the same however they are asked for.

    Args:
        path: A TIFF, see `hubmap_kit.images.read_image`.
        pixel_size_um: Size of its pixels by the table, in µm.
        target_um: The working pixel size, in µm.
        expect_shape: ``(height, width)`` by the table, in px; ``None`` accepts any.

    Returns:
        The rows, to be closed.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It cannot be read, its shape is not the expected one, or a pixel size is not positive.
    """
    reader = RowReader(path)
    try:
        native = reader.shape
        shape = scaled_shape(native, pixel_size_um, target_um)
        if reader.streams and math.prod(native) > LARGE:
            check_shape(path, native, expect_shape)
            return ScaledRows(reader, native, shape)
    except Exception:
        reader.close()
        raise
    reader.close()
    image, _ = load_image(path, pixel_size_um, target_um, expect_shape)
    return ScaledRows(image, native, shape)
