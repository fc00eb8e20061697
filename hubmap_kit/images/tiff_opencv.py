"""OpenCV as a second reader of TIFFs, for what tifffile cannot decode."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from .tiff_errors import COPY, RESAVE, decoder_remedy, refuse

# Time to read 3000 x 3000 x 3 px on two cores, in ms: tifffile with one thread, with two, OpenCV (4.13 and 5.0 agree);
# then the choice, and OpenCV's time divided by that of the choice.
#   none, contiguous             4    -   35   tifffile, one thread     8
#   none, tiles                 15   16   24   tifffile, one thread     1.6
#   LZW, strips or tiles       180   91   98   tifffile, all cores      1.1
#   deflate                     74   46  150   tifffile, all cores      3.3
#   JPEG, strips or tiles       50   32   60   tifffile, all cores      1.9
# With a single thread OpenCV is 1.8 times faster for LZW. It is not the choice, because it returns damaged strips,
# half decoded, without an error. It reads only these two compressions, and only where tifffile lacks the decoder
# (imagecodecs is not installed); what it prints meanwhile is checked.
OPENCV_INSTEAD = {COMPRESSION.LZW, COMPRESSION.JPEG}
# YCbCr without JPEG is converted to RGB by libtiff alone, which is inside OpenCV.
OPENCV_YCBCR = {
    COMPRESSION.NONE,
    COMPRESSION.LZW,
    COMPRESSION.PACKBITS,
    COMPRESSION.DEFLATE,
    COMPRESSION.ADOBE_DEFLATE,
}
# libtiff notices damage in these, imagecodecs does not.
OPENCV_BILEVEL = {COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4}

_stderr = threading.Lock()


def needs_opencv(page: Any, pages: int) -> bool:
    """Whether OpenCV has to read a page, because tifffile cannot; to be called within `naming`.

    Args:
        page: The page, by tifffile.
        pages: Number of pages of the image.

    Raises:
        ValueError: Neither of the two can read it.
    """
    ycbcr = page.photometric == PHOTOMETRIC.YCBCR
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        decodes = True
    except KeyError:
        decodes = False
    bilevel = page.compression in OPENCV_BILEVEL
    # Aperio's compression says what the colours are, whatever the tag says.
    own = page.compression in (COMPRESSION.JPEG, COMPRESSION.APERIO_JP2000_YCBC)
    if decodes and not bilevel and (own or not ycbcr):
        return False
    kind = (page.photometric, page.samplesperpixel)
    plain = kind in ((PHOTOMETRIC.RGB, 3), (PHOTOMETRIC.MINISBLACK, 1), (PHOTOMETRIC.YCBCR, 3))
    plain = plain or (bilevel and kind == (PHOTOMETRIC.MINISWHITE, 1))
    upright = page.tags.valueof(274, 1) not in range(2, 9)  # OpenCV rotates images of other orientations, or fails
    known = page.compression in OPENCV_INSTEAD or (ycbcr and page.compression in OPENCV_YCBCR)
    if (
        (known or bilevel)
        and plain
        and upright
        and page.bitspersample == (1 if bilevel else 8)
        and pages == 1
        and page.index == 0
    ):
        return True
    name = getattr(page.compression, "name", page.compression)
    if decodes and ycbcr:
        refuse(f"YCbCr colours with compression {name} in this layout are not understood", RESAVE)
    refuse(f"compression {name} of this layout has no decoder here", decoder_remedy())


def read_opencv(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Read a whole file with OpenCV; to be called within `naming`.

    Args:
        path: The file.
        shape: ``(height, width, samples)`` by its tags.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: It is damaged, or OpenCV reads another shape.
    """
    # OpenCV reports a damaged image only by a line on stderr, which its C++ code writes to the file descriptor.
    # The lock keeps two readers from redirecting the descriptor at the same time.
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
    said = [re.search(rb"(?:TIFF_Error|JPEGLib) *(.*)", line) for line in lines]
    trouble = b"; ".join(match[1] for match in said if match).decode(errors="replace")
    if trouble or image is None:
        refuse(f"OpenCV cannot decode it whole ({trouble[:200]})", f"{COPY}, or {decoder_remedy()}")
    for line in lines:  # other threads wrote these meanwhile
        if b"TIFF" not in line:
            os.write(2, line + b"\n")
    if image.shape[:2] != shape[:2]:
        refuse(f"OpenCV reads {image.shape[:2]} px, its tags say {shape[:2]}", RESAVE)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
