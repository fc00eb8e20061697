"""Reading a TIFF of any layout as RGB: what is accepted, and the decoding of the whole file."""

from __future__ import annotations

import itertools
import logging
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from ..files import size_text
from ..machine import cores, free_memory
from .tiff_colours import to_rgb
from .tiff_errors import COPY, RESAVE, check_shape, naming, refuse
from .tiff_opencv import needs_opencv, read_opencv

# tifffile logs a line for every odd tag; these would hide the one error that says what to do.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

MAX_VALUES = 3 * 2**30  # OpenCV's limit of 2**30 px; more is a damaged header, or a slide too large for memory
MAX_BYTES = 2 * MAX_VALUES  # of all values, decoded
JPEG_HEAD = 1024  # bytes of JPEG data in which a marker of its colours is looked for


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
        expect_shape: ``(height, width)`` by the table, in px; None accepts any. Another one is refused before anything
            is decoded.

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
    _check_tags(page, shape)
    for stored in series.pages:
        _check_segments(tif, stored)
    return Stored(series, page, order, shape, needs_opencv(page, len(series.pages)))


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
    """Refuse to decode what the memory that is free does not hold; to be called within `naming`.

    Args:
        page: Their page.
        pixels: Number of pixels that are decoded at once.
    """
    needed = pixels * (page.samplesperpixel * page.dtype.itemsize + 3)  # as stored, and as RGB
    free = free_memory()
    if free is not None and needed > free:
        remedy = "save it in tiles (tifffile.imwrite(path, image, tile=(256, 256))), or use a computer with more memory"
        refuse(f"takes {size_text(needed)} of memory, and {size_text(free)} are free", remedy)


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


def _check_tags(page: Any, shape: tuple[int, int, int]) -> None:
    """Refuse a page whose tags say that it cannot become an RGB image of ``shape`` (rows, columns, samples)."""
    if min(shape) < 1 or math.prod(shape) > MAX_VALUES:
        size = " x ".join(map(str, shape))
        refuse(f"claims {size} values, not 1 to {MAX_VALUES} in all", f"{COPY}, or cut it into parts")
    if page.samplesperpixel > 1 and page.planarconfig not in (1, 2):
        refuse(f"has PlanarConfiguration {page.planarconfig}, not 1 or 2", COPY)
    if page.samplesperpixel > 1 and "BitsPerSample" not in page.tags:
        refuse(f"has no BitsPerSample for its {page.samplesperpixel} samples per pixel", RESAVE)
    kind = "" if page.dtype is None else page.dtype.kind
    if not (kind == "f" or (kind in ("b", "u") and page.dtype.itemsize <= 2)):
        refuse(f"holds samples of type {page.dtype}, not unsigned integers of 1 to 16 bits or floats", RESAVE)
    if (size := math.prod(shape) * page.dtype.itemsize) > MAX_BYTES:
        refuse(f"claims {size_text(size)} of pixels, more than {size_text(MAX_BYTES)}", RESAVE)


def _check_segments(tif: tifffile.TiffFile, page: Any) -> None:
    """Refuse missing or cut strips and tiles: tifffile would fill them with zeros, libjpeg with grey."""
    if page is None:
        refuse("lacks a page", COPY)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    wanted = 1 if page.keyframe.is_contiguous else math.prod(page.keyframe.chunked)
    if len(segments) < wanted:
        refuse(f"lists {len(segments)} of {wanted} strips or tiles", COPY)
    file = tif.filehandle
    if page.keyframe.compression == COMPRESSION.NONE and sum(page.databytecounts) >= 2 * _most_bytes(page.keyframe):
        held, most = sum(page.databytecounts), _most_bytes(page.keyframe)
        refuse(f"holds {held} bytes of pixels, and its tags describe at most {most}", RESAVE)
    for index, (offset, count) in enumerate(segments[:wanted]):
        if offset <= 0 or count <= 0:
            refuse(f"has no data for strip or tile {index} of {wanted}", COPY)
        if page.keyframe.is_contiguous:  # read as one
            count = page.keyframe.nbytes
        if offset + count > file.size:
            refuse(f"ends at byte {file.size}, within strip or tile {index} of {wanted}", COPY)
        if page.keyframe.compression == COMPRESSION.JPEG:
            # The end marker cannot occur inside the data; some writers leave a few bytes after it.
            tail = min(count, 64)
            file.seek(offset + count - tail)
            if b"\xff\xd9" not in file.read(tail):
                refuse(f"has no end of JPEG data in strip or tile {index} of {wanted}", COPY)
            file.seek(offset)
            _check_jpeg_colours(page.keyframe, file.read(min(count, JPEG_HEAD)))


def _most_bytes(page: Any) -> int:
    """Bytes that the pixels of a page take without compression, its last strip or tiles being whole."""
    values: int = math.prod(page.chunked) * math.prod(page.chunks)
    return math.ceil(values / 8) if page.dtype.kind == "b" else values * int(page.dtype.itemsize)


def _check_jpeg_colours(page: Any, head: bytes) -> None:
    """Refuse JPEG data whose Adobe marker contradicts the tags: readers show the one colours as the other.

    The marker's last byte is 0 for RGB and 1 for YCbCr (Adobe Technical Note 5116).
    """
    marker = re.search(rb"\xff\xee\x00\x0eAdobe.{6}(.)", head, re.DOTALL)
    if marker is None or page.samplesperpixel != 3:
        return
    stored = {b"\0": PHOTOMETRIC.RGB, b"\1": PHOTOMETRIC.YCBCR}.get(marker[1])
    if stored is not None and stored != page.photometric:
        said = getattr(page.photometric, "name", page.photometric)
        refuse(f"holds {stored.name} as JPEG data, and its tags say {said}", RESAVE)
