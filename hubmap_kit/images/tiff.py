"""Any TIFF to RGB: which reader decodes what, and what is refused."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import cv2
import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

# tifffile logs a line for every odd tag; they would bury the one error that says what to do.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

# Who reads what. Milliseconds for 3000 x 3000 x 3 on two cores: tifffile with one thread, with two,
# OpenCV (4.13 and 5.0 agree); the last column is OpenCV's time over that of the choice.
#   none, contiguous             4    -   35   tifffile, one thread     8
#   none, tiles                 15   16   24   tifffile, one thread     1.6
#   LZW, strips or tiles       180   91   98   tifffile, all cores      1.1
#   deflate                     74   46  150   tifffile, all cores      3.3
#   JPEG, strips or tiles       50   32   60   tifffile, all cores      1.9
# On a single thread OpenCV is 1.8 times faster with LZW. It is not chosen for that, because it hands out
# damaged strips, half decoded, as if nothing had happened. It steps in for these only, where tifffile lacks
# the decoder (imagecodecs is not installed), and is listened to while it reads.
OPENCV_INSTEAD = {COMPRESSION.LZW, COMPRESSION.JPEG}
# Without JPEG nobody turns YCbCr to RGB but libtiff, inside OpenCV.
OPENCV_YCBCR = {COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.DEFLATE, COMPRESSION.ADOBE_DEFLATE}

MAX_VALUES = 3 * 2**30  # OpenCV's limit of 2**30 px; more is a damaged header, or a slide too large for memory
GREY = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)
RESAVE = "save it as 8-bit RGB, e.g. tifffile.imwrite(path, image, photometric='rgb')"
COPY = "copy or download the file again"
INSTALL = "install imagecodecs (pip install imagecodecs), or save it without compression"

_stderr = threading.Lock()


class _Refused(ValueError):
    """A rule that the file breaks, and the remedy; `naming` puts the file's name in front."""


def _refuse(rule: str, remedy: str) -> NoReturn:
    raise _Refused(f"{rule}; {remedy}")


def read_image(path: str | Path, *, threads: int | None = None) -> np.ndarray:
    """Read a TIFF of any layout as RGB.

    Strips or tiles, contiguous or planar, channels last or first (planar, on three pages, or ``(1, 1, 3, H, W)``),
    BigTIFF, either byte order. What is not 8-bit RGB is converted:

    - Further samples are dropped. Alpha too: it is not composited, so the colours are the stored ones.
    - Grey is repeated to three channels, MINISWHITE is inverted, a palette is applied, CMYK becomes
      ``(255 - C)(255 - K) / 255`` and so on, YCbCr becomes RGB.
    - Unsigned integers of 1 to 16 bits are scaled from the full range of BitsPerSample to 0-255 (so 16 bits by
      1/257; 12-bit data in a file that says 16 comes out dark). Floats must lie in [0, 1].
    - The Orientation tag is ignored: masks refer to the pixels as stored.
    - Reduced pages (a pyramid, a thumbnail) are left out. Where nothing but the shape tells the axes apart,
      as in ``(3, H, 3)``, the last one holds the channels.

    Args:
        path: The file.
        threads: That decode its strips or tiles; one a core by default.

    Returns:
        ``(H, W, 3)`` uint8 RGB, C-contiguous and writable.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no TIFF, damaged, incomplete, or holds something that is no RGB image; names the file,
            the rule and the remedy. A segment that is missing or cut short is an error, never filled in.
    """
    path = Path(path)
    with path.open("rb"):  # a missing file, a folder or missing rights: Python's own error names the file
        pass
    with naming(path), tifffile.TiffFile(path, is_ome=False) as tif:  # OME metadata may pull in other files
        return decode(tif, check(tif), threads)


def check_shape(path: str | Path, shape: tuple[int, int], expected: tuple[int, int] | None) -> None:
    """Refuse an image that is not of the table's shape.

    Args:
        path: The file, for the message.
        shape: Its ``(height, width)``, in px.
        expected: ``(height, width)`` by the table, in px; ``None`` accepts any.

    Raises:
        ValueError: The shapes differ.
    """
    if expected is not None and shape != tuple(expected):
        raise ValueError(
            f"{path}: is {shape[0]} x {shape[1]} px (height x width), but the table says "
            f"{expected[0]} x {expected[1]}; correct img_height and img_width there, or replace the file"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file that could be opened into one ValueError: its name, rule and remedy."""
    try:
        yield
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file can raise anything: struct.error, MemoryError, codecs' own errors
        remedy = INSTALL if "'imagecodecs'" in str(error) else f"it is damaged or no TIFF: {COPY}"
        raise ValueError(f"{path}: cannot be read as TIFF ({type(error).__name__}: {error}); {remedy}") from error


class Stored(NamedTuple):
    """What a file holds that has passed every check that needs no decoding.

    Attributes:
        series: The pages that make up the image, by tifffile.
        page: Their key page, whose tags hold for all of them.
        order: Order of the series' axes that makes it ``(..., rows, columns, samples)``.
        shape: ``(height, width, samples)``, in px.
        opencv: Whether OpenCV has to read it.
    """

    series: Any
    page: Any
    order: list[int]
    shape: tuple[int, int, int]
    opencv: bool


def check(tif: tifffile.TiffFile) -> Stored:
    """Check all of a file that can be checked before anything is decoded; to be called within `naming`."""
    _check_pages(tif)
    if not tif.series:
        _refuse("holds no image", COPY)
    series, *others = tif.series
    page = series.keyframe
    for other in (o.keyframe for o in others):
        smaller = other.imagelength < page.imagelength and other.imagewidth < page.imagewidth
        if not (smaller or other.is_reduced or other.is_mask):
            _refuse(f"holds {len(tif.pages)} pages of different kinds", "keep one image a file")
    order, shape = _layout(series.axes, series.shape, len(tif.pages))
    _check_tags(page, shape)
    for stored in series.pages:
        _check_segments(tif, stored)
    return Stored(series, page, order, shape, _opencv_reads(page, len(series.pages)))


def decode(tif: tifffile.TiffFile, stored: Stored, threads: int | None = None) -> np.ndarray:
    """Decode a checked file whole; to be called within `naming`.

    Args:
        tif: The open file.
        stored: What `check` made of it.
        threads: See `read_image`.

    Returns:
        ``(H, W, 3)`` uint8 RGB, C-contiguous and writable.
    """
    series, page, order, shape, opencv = stored
    if opencv:
        return _read_opencv(Path(tif.filehandle.path), shape)
    # Threads gain nothing where there is nothing to decode.
    workers = 1 if page.compression == COMPRESSION.NONE else threads or os.cpu_count()
    data = series.asarray(maxworkers=workers).reshape(series.shape)
    return to_rgb(data.transpose(order).reshape(shape), page)


def _check_pages(tif: tifffile.TiffFile) -> None:
    """Refuse pages that lead back to an earlier one, which tifffile would follow for ever."""
    seen: set[int] = set()
    for index in itertools.count():
        try:
            offset = tif.pages[index].offset
        except IndexError:
            return
        if offset in seen:
            _refuse(f"page {index} leads back to an earlier one", COPY)
        seen.add(offset)


def _layout(axes: str, shape: tuple[int, ...], pages: int) -> tuple[list[int], tuple[int, int, int]]:
    """Say which of a file's axes are rows, columns and samples, before anything is decoded.

    Args:
        axes: One letter an axis, by tifffile: Y, X, S samples, C channels; any other letter is a stack.
        shape: Length of each axis.
        pages: How many pages the file holds, for the message.

    Returns:
        The order that makes the data ``(..., rows, columns, samples)``, and that shape without its leading ones.
    """
    if "Y" not in axes or "X" not in axes:
        _refuse(f"has axes {axes} {shape}, not rows and columns", RESAVE)
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
        _refuse(f"holds {pages} pages, an image of axes {axes} {shape}", "keep one image a file")
    order = [rows, columns] if samples < 0 else [rows, columns, samples]
    ones = [i for i in range(len(axes)) if i not in order]
    return ones + order, (shape[rows], shape[columns], 1 if samples < 0 else shape[samples])


def _check_tags(page: Any, shape: tuple[int, int, int]) -> None:
    """Refuse, by its tags alone, what cannot become an RGB image of ``shape`` (rows, columns, samples)."""
    if min(shape) < 1 or math.prod(shape) > MAX_VALUES:
        size = " x ".join(map(str, shape))
        _refuse(f"claims {size} values, not 1 to {MAX_VALUES} in all", f"{COPY}, or cut it into parts")
    if page.samplesperpixel > 1 and page.planarconfig not in (1, 2):
        _refuse(f"has PlanarConfiguration {page.planarconfig}, not 1 or 2", COPY)
    kind = "" if page.dtype is None else page.dtype.kind
    if not (kind == "f" or (kind in ("b", "u") and page.dtype.itemsize <= 2)):
        _refuse(f"holds samples of type {page.dtype}, not unsigned integers of 1 to 16 bits or floats", RESAVE)


def _check_segments(tif: tifffile.TiffFile, page: Any) -> None:
    """Refuse missing or cut strips and tiles, which tifffile fills with zeros or libjpeg with grey."""
    if page is None:
        _refuse("lacks a page", COPY)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    wanted = 1 if page.keyframe.is_contiguous else math.prod(page.keyframe.chunked)
    if len(segments) < wanted:
        _refuse(f"lists {len(segments)} of {wanted} strips or tiles", COPY)
    file = tif.filehandle
    for index, (offset, count) in enumerate(segments[:wanted]):
        if offset <= 0 or count <= 0:
            _refuse(f"has no data for strip or tile {index} of {wanted}", COPY)
        if page.keyframe.is_contiguous:  # read as one
            count = page.keyframe.nbytes
        if offset + count > file.size:
            _refuse(f"ends at byte {file.size}, within strip or tile {index} of {wanted}", COPY)
        if page.keyframe.compression == COMPRESSION.JPEG:
            # The end marker cannot occur inside the data; behind it some writers leave a few bytes.
            tail = min(count, 64)
            file.seek(offset + count - tail)
            if b"\xff\xd9" not in file.read(tail):
                _refuse(f"has no end of JPEG data in strip or tile {index} of {wanted}", COPY)


def _opencv_reads(page: Any, pages: int) -> bool:
    """Say whether OpenCV has to read the page; raise where nobody can."""
    ycbcr = page.photometric == PHOTOMETRIC.YCBCR
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        decodes = True
    except KeyError:
        decodes = False
    if decodes and not (ycbcr and page.compression != COMPRESSION.JPEG):
        return False
    kind = (page.photometric, page.samplesperpixel)
    plain = kind in ((PHOTOMETRIC.RGB, 3), (PHOTOMETRIC.MINISBLACK, 1), (PHOTOMETRIC.YCBCR, 3))
    upright = page.tags.valueof(274, 1) == 1  # OpenCV turns the others round, or fails
    known = page.compression in OPENCV_INSTEAD or (ycbcr and page.compression in OPENCV_YCBCR)
    if known and plain and upright and page.bitspersample == 8 and pages == 1 and page.index == 0:
        return True
    name = getattr(page.compression, "name", page.compression)
    _refuse(f"compression {name} of this layout has no decoder here", f"{INSTALL}, or {RESAVE}")


def _read_opencv(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    # OpenCV returns a damaged image with nothing but a line on stderr, written by C++: only the file descriptor
    # itself tells. The lock keeps two readers from redirecting it at once.
    with _stderr, tempfile.TemporaryFile() as log:
        saved, level = os.dup(2), cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
        os.dup2(log.fileno(), 2)
        try:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            cv2.utils.logging.setLogLevel(level)
        log.seek(0)
        lines = log.read().splitlines()
    trouble = b" ".join(line for line in lines if re.search(rb"TIFF_Error|JPEGLib", line)).decode(errors="replace")
    if trouble or image is None:
        _refuse(f"OpenCV cannot decode it whole ({trouble[:200]})", f"{COPY}, or {INSTALL}")
    for line in lines:  # what other threads wrote meanwhile
        if b"TIFF" not in line:
            os.write(2, line + b"\n")
    if image.shape[:2] != shape[:2]:
        _refuse(f"OpenCV reads {image.shape[:2]} px, its tags say {shape[:2]}", RESAVE)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def to_rgb(data: np.ndarray, page: Any) -> np.ndarray:
    """Turn stored samples ``(H, W, S)`` to ``(H, W, 3)`` uint8 RGB by the page's photometric interpretation.

    Pixel by pixel, so that any part of an image gives the same part of the result. To be called within `naming`.
    """
    photometric, samples = page.photometric, data.shape[2]
    if photometric == PHOTOMETRIC.PALETTE and samples == 1 and page.colormap is not None and data.dtype.kind in "bu":
        colours = page.colormap.astype(np.uint32)
        # The specification wants 16 bits; some writers store 8.
        colours = colours if colours.max() < 256 else (colours + 128) // 257
        return np.ascontiguousarray(colours.T.astype(np.uint8)[data[..., 0].astype(np.intp)])
    data = _to_uint8(data, page)
    if photometric == PHOTOMETRIC.SEPARATED and samples >= 4 and page.tags.valueof(332, 1) == 1:
        cmy, key = 255 - data[..., :3].astype(np.uint16), 255 - data[..., 3:4].astype(np.uint16)
        return ((cmy * key + 127) // 255).astype(np.uint8)
    if photometric == PHOTOMETRIC.MINISWHITE:
        data = 255 - data
    if photometric in (*GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR) and samples >= 3:
        return np.ascontiguousarray(data[..., :3])
    if photometric in GREY:
        return np.repeat(data[..., :1], 3, axis=2)
    name = getattr(photometric, "name", photometric)
    _refuse(f"colours of kind {name} with {samples} samples a pixel are not understood", RESAVE)


def _to_uint8(data: np.ndarray, page: Any) -> np.ndarray:
    if data.dtype.kind == "f":
        low, high = data.min(), data.max()
        if not (low >= 0 and high <= 1):  # false for NaN as well
            _refuse(f"holds floats from {low:g} to {high:g}, not in [0, 1]", f"scale them, or {RESAVE}")
        return np.rint(data.astype(np.float32) * 255).astype(np.uint8)
    # Bits of different width (such as 5, 6, 5) come out of tifffile already scaled to the data type.
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8 * data.dtype.itemsize
    if bits == 8:
        return data
    table = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
    return table[data.astype(np.uint16)]
