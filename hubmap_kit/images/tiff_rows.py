"""Rows of a TIFF from the top, decoded by strips or tiles: for images that do not fit in memory."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import tifffile

from ..machine import cores
from .tiff import Stored, check, check_memory, decode
from .tiff_colours import to_rgb
from .tiff_errors import naming

VALUES_AT_ONCE = 8 * 2**20  # least number of values decoded at once: enough strips to keep every core busy


class RowReader:
    """Reads rows of a TIFF; they are exactly those of `hubmap_kit.images.read_image`.

    Opening a file makes all the checks that `read_image` makes before decoding. Reading decodes a band of whole strips
    or tiles, of at least `VALUES_AT_ONCE` values, on all cores, and keeps it for the next call. Reading rows from the
    top therefore decodes each strip or tile once. Not thread-safe.

    Some files can only be decoded whole: a single compressed strip, an image on several pages (one per channel), a
    volumetric one, or one that only OpenCV decodes (imagecodecs is missing). The first `read` decodes them, and they
    are held until `close`.

    Attributes:
        path: The file.
        shape: ``(height, width)`` in px, as stored.
        streams: Whether the file is read band by band; if not, it is held whole.
    """

    def __init__(self, path: str | Path, expect_shape: tuple[int, int] | None = None) -> None:
        """Open and check a file.

        Args:
            path: A TIFF, see `read_image`.
            expect_shape: ``(height, width)`` in the table, in px; None accepts any.

        Raises:
            OSError: The file cannot be opened.
            ValueError: As `read_image`: the file, the rule and the remedy.
        """
        self.path = Path(path)
        with self.path.open("rb"):
            pass
        with naming(self.path), ExitStack() as stack:
            self._tif = stack.enter_context(tifffile.TiffFile(self.path, is_ome=False))
            self._stored = check(self._tif, expect_shape)
            self._pool = stack.enter_context(ThreadPoolExecutor(cores()))
            self._to_close = stack.pop_all()
        height, width, samples = self._stored.shape
        self.shape = (height, width)
        step = _least_rows(self._stored)
        self.streams = step < height
        steps = max(1, VALUES_AT_ONCE // (step * width * samples))
        self._band_height = min(height, step * steps) if self.streams else height
        self._first = -1  # first row of the band
        self._band = np.empty((0, width, 3), np.uint8)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and drop the band."""
        self._band = self._band[:0].copy()
        self._to_close.close()

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Read rows.

        Args:
            start: First row.
            stop: Row after the last one, at most the height.

        Returns:
            ``(stop - start, W, 3)`` uint8 RGB, ``read_image(path)[start:stop]``.

        Raises:
            ValueError: Rows outside the image, or a file that cannot be decoded; the error names the file, the rule
                and the remedy.
        """
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} are outside {self.path}, which has rows 0 to {self.shape[0]}")
        rows = np.empty((stop - start, self.shape[1], 3), np.uint8)
        at = start
        while at < stop:
            first = at // self._band_height * self._band_height
            if first != self._first:
                self._first, self._band = -1, self._band[:0].copy()  # never two bands in memory
                with naming(self.path):
                    self._band = self._decode(first, min(first + self._band_height, self.shape[0]))
                self._first = first
            end = min(stop, first + self._band_height)
            rows[at - start : end - start] = self._band[at - first : end - first]
            at = end
        return rows

    def _decode(self, first: int, stop: int) -> npt.NDArray[np.uint8]:
        """Decode rows ``[first, stop)``, which are whole strips or tiles: ``(stop - first, W, 3)`` uint8 RGB."""
        if not self.streams:
            return decode(self._tif, self._stored)
        page, file = self._stored.page, self._tif.filehandle
        check_memory(page, (stop - first) * self.shape[1])
        planes, _, height, width, samples = page.shaped  # planar files have planes of one sample each
        data = np.empty((planes, stop - first, width, samples), page.dtype)
        if page.is_final:  # no compression: the values row after row
            stored = page.dtype.newbyteorder(self._tif.byteorder)
            for plane in range(planes):
                file.seek(page.dataoffsets[0] + (plane * height + first) * data[0, 0].nbytes)
                data[plane] = np.frombuffer(file.read(data[plane].nbytes), stored).reshape(data[plane].shape)
        else:
            rows, columns = page.chunks[:2]
            down, across = math.ceil(height / rows), math.ceil(width / columns)
            # Both are made on first use, which must not happen in several threads at once.
            decode_segment, tables = page.decode, page.jpegtables

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


def _least_rows(stored: Stored) -> int:
    """Number of rows that can be decoded alone: 1, those of a strip or a tile, or all rows of the image."""
    series, page, _, (height, width, samples), opencv = stored
    simple = (page.imagelength, page.imagewidth, page.samplesperpixel, page.imagedepth) == (height, width, samples, 1)
    if opencv or len(series.pages) > 1 or not simple or page.jpegheader is not None:  # JPEG like Hamamatsu's NDPI
        return height
    if page.is_contiguous:
        return 1 if page.is_final else height
    return min(height, int(page.chunks[0]))
