"""Reading a TIFF of any layout as RGB: what is accepted, and the decoding of the whole file."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from tifffile import COMPRESSION

from ..files import size_text
from ..machine import cores, free_memory
from .tiff_checks import check_decoded, check_segments, check_tags
from .tiff_colours import to_rgb
from .tiff_errors import COPY, RESAVE, check_shape, naming, refuse
from .tiff_opencv import needs_opencv, read_opencv

# tifffile logs a line for every odd tag; these would hide the one error that says what to do.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


def read_image(
    path: str | Path, *, threads: int | None = None, expect_shape: tuple[int, int] | None = None
) -> npt.NDArray[np.uint8]:
    """Read a TIFF of any layout as RGB.

    Strips or tiles, contiguous or planar, channels last or first (planar, on three pages, or ``(1, 1, 3, H, W)``),
    BigTIFF, either byte order. What is not 8-bit RGB is converted:

    - Further samples are dropped. An alpha channel is dropped too and not composited: the colours are those stored.
    - Grey is repeated to three channels, MINISWHITE is inverted, a palette is applied, YCbCr becomes RGB, and CMYK
      becomes RGB by ``(255 - C)(255 - K) / 255`` and so on.
    - Unsigned integers of 1 to 16 bits are scaled from the full range of BitsPerSample to 0-255: 16 bits by 1/257,
      so that 12-bit data in a file that says 16 comes out dark. Floats must lie in [0, 1].
    - The Orientation tag is ignored: masks refer to the pixels as stored.
    - Reduced pages (a pyramid, a thumbnail) are left out. If the axes differ only by their length, as in
      ``(3, H, 3)``, the last axis holds the channels.

    Args:
        path: The file.
        threads: Number of decoding threads; one per core by default.
        expect_shape: ``(height, width)`` in the table, in px; another shape is refused before anything is decoded.
            None accepts any.

    Returns:
        ``(H, W, 3)`` uint8 RGB, C-contiguous and writable.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no TIFF, damaged, incomplete, or holds nothing that can become RGB; the error names the file,
            the rule and the remedy. A strip or tile that is missing or cut short is an error, never filled in.
    """
    path = Path(path)
    with path.open("rb"):  # a missing file, a folder or missing rights: Python's own error names the file
        pass
    with naming(path), tifffile.TiffFile(path, is_ome=False) as tif:  # OME metadata may pull in other files
        return decode(tif, check(tif, expect_shape), threads)


class Stored(NamedTuple):
    """A file that has passed every check that needs no decoding.

    Attributes:
        series: The pages that make up the image, as read by tifffile.
        page: Their key page; its tags hold for all of them.
        order: Order in which the series' axes are ``(..., rows, columns, samples)``.
        shape: ``(height, width, samples)``, in px.
        opencv: Whether OpenCV has to read it.
    """

    series: Any
    page: Any
    order: list[int]
    shape: tuple[int, int, int]
    opencv: bool


def check(tif: tifffile.TiffFile, expect_shape: tuple[int, int] | None = None) -> Stored:
    """Check everything that can be checked before decoding; to be called within `naming`.

    Args:
        tif: The open file.
        expect_shape: See `read_image`.
    """
    _check_pages(tif)
    if not tif.series:
        refuse("holds no image", COPY)
    series = _the_image(tif)
    page = series.keyframe
    order, shape = _layout(series.axes, series.shape, len(tif.pages))
    check_shape(shape[:2], expect_shape)
    check_tags(page, shape)
    for stored in series.pages:
        check_segments(tif, stored)
    opencv = needs_opencv(page, len(series.pages))
    if not opencv:
        check_decoded(page)
    return Stored(series, page, order, shape, opencv)


def decode(tif: tifffile.TiffFile, stored: Stored, threads: int | None = None) -> npt.NDArray[np.uint8]:
    """Decode a whole file; to be called within `naming`.

    Args:
        tif: The open file.
        stored: The result of `check`.
        threads: See `read_image`.

    Returns:
        ``(H, W, 3)`` uint8 RGB, C-contiguous and writable.
    """
    series, page, order, shape, opencv = stored
    check_memory(page, shape[0] * shape[1])
    if opencv:
        return read_opencv(Path(tif.filehandle.path), shape)
    # Threads gain nothing without compression.
    workers = 1 if page.compression == COMPRESSION.NONE else threads or cores()
    data = series.asarray(maxworkers=workers).reshape(series.shape)
    return to_rgb(data.transpose(order).reshape(shape), page)


def check_memory(page: Any, pixels: int) -> None:
    """Refuse to decode more pixels than the free memory holds; to be called within `naming`.

    Args:
        page: The page.
        pixels: Number of pixels that are decoded at once.
    """
    needed = pixels * (page.samplesperpixel * page.dtype.itemsize + 3)  # as stored, and as RGB
    free = free_memory()
    if free is not None and needed > free:
        remedy = "save it in tiles (tifffile.imwrite(path, image, tile=(256, 256))), or use a computer with more memory"
        refuse(f"needs {size_text(needed)} of memory, but {size_text(free)} are free", remedy)


def _check_pages(tif: tifffile.TiffFile) -> None:
    """Refuse a page that leads back to an earlier one: tifffile would go round for ever."""
    seen: set[int] = set()
    for index in itertools.count():
        try:
            offset = tif.pages[index].offset
        except IndexError:
            return
        if offset in seen:
            refuse(f"page {index} leads back to an earlier one", COPY)
        seen.add(offset)


def _the_image(tif: tifffile.TiffFile) -> Any:
    """The series of pages that is the image: the first one that is not marked as reduced or as a mask.

    Others may be pictures of the slide or its label, with at most half as many pixels.
    """
    whole = [each for each in tif.series if not (each.keyframe.is_reduced or each.keyframe.is_mask)]
    series, *others = whole or tif.series
    pixels = series.keyframe.imagelength * series.keyframe.imagewidth
    for other in (each.keyframe for each in others):
        smaller = other.imagelength < series.keyframe.imagelength and other.imagewidth < series.keyframe.imagewidth
        if not (smaller or 2 * other.imagelength * other.imagewidth <= pixels):
            refuse(f"holds {len(tif.pages)} pages of different kinds", "keep one image per file")
    return series


def _layout(axes: str, shape: tuple[int, ...], pages: int) -> tuple[list[int], tuple[int, int, int]]:
    """Find out which axes of a file are rows, columns and samples, before anything is decoded.

    Args:
        axes: One letter per axis, as named by tifffile: Y, X, S samples, C channels; any other letter is a stack.
        shape: Length of each axis.
        pages: Number of pages in the file, for the message.

    Returns:
        The order in which the axes are ``(..., rows, columns, samples)``; and ``(rows, columns, samples)`` in px.
    """
    if "Y" not in axes or "X" not in axes:
        refuse(f"has axes {axes} {shape}, not rows and columns", RESAVE)
    rows, columns = axes.index("Y"), axes.index("X")
    stacks = [i for i, letter in enumerate(axes) if letter not in "YXS" and shape[i] > 1]
    samples = axes.find("S")
    if samples < 0 and len(stacks) == 1:
        stack = stacks.pop()
        if shape[columns] == 3 and not (axes[stack] == "C" and shape[stack] == 3):
            rows, columns, samples = stack, rows, columns
        elif shape[stack] == 3:
            samples = stack
        else:
            stacks = [stack]
    if stacks:
        refuse(f"holds {pages} pages, an image of axes {axes} {shape}", "keep one image per file")
    order = [rows, columns] if samples < 0 else [rows, columns, samples]
    ones = [i for i in range(len(axes)) if i not in order]
    return ones + order, (shape[rows], shape[columns], 1 if samples < 0 else shape[samples])
