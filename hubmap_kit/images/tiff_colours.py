"""Stored samples of a TIFF to 8-bit RGB."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tifffile import COMPRESSION, PHOTOMETRIC

from .tiff_errors import RESAVE, refuse

GREY = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)


def to_rgb(data: npt.NDArray[Any], page: Any) -> npt.NDArray[np.uint8]:
    """Convert stored samples to RGB by the page's photometric interpretation; to be called within `naming`.

    Each pixel is converted by itself, so that a part of an image gives the same part of the result.

    Args:
        data: ``(H, W, S)``, samples as stored.
        page: The page, by tifffile.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: Colours that are not understood, or floats outside [0, 1].
    """
    photometric, samples = page.photometric, data.shape[2]
    if photometric == PHOTOMETRIC.PALETTE and samples == 1 and page.colormap is not None and data.dtype.kind in "bu":
        colours = page.colormap.astype(np.uint32)
        # The specification says 16 bits; some writers store 8.
        colours = colours if colours.max() < 256 else (colours + 128) // 257
        return np.ascontiguousarray(colours.T.astype(np.uint8)[data[..., 0].astype(np.intp)])
    values = _to_uint8(data, page)
    by_compression = page.compression == COMPRESSION.APERIO_JP2000_YCBC  # as OpenSlide does
    if by_compression and samples == 3 and photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(values[..., (0, 2, 1)]), cv2.COLOR_YCrCb2RGB), np.uint8)
    if photometric == PHOTOMETRIC.SEPARATED and samples >= 4 and page.tags.valueof(332, 1) == 1:
        cmy, key = 255 - values[..., :3].astype(np.uint16), 255 - values[..., 3:4].astype(np.uint16)
        return ((cmy * key + 127) // 255).astype(np.uint8)
    if photometric == PHOTOMETRIC.MINISWHITE:
        values = 255 - values
    if photometric in (*GREY, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR) and samples >= 3:
        return np.ascontiguousarray(values[..., :3])
    if photometric in GREY:
        return np.repeat(values[..., :1], 3, axis=2)
    name = getattr(photometric, "name", photometric)
    refuse(f"colours of kind {name} with {samples} samples per pixel are not understood", RESAVE)


def _to_uint8(data: npt.NDArray[Any], page: Any) -> npt.NDArray[np.uint8]:
    if data.dtype.kind == "f":
        low, high = data.min(), data.max()
        if not (low >= 0 and high <= 1):  # false for NaN as well
            refuse(f"holds floats from {low:g} to {high:g}, not in [0, 1]", f"scale them, or {RESAVE}")
        return np.asarray(np.rint(data.astype(np.float32) * 255), np.uint8)
    # Samples of different width (such as 5, 6 and 5 bits) were scaled to the data type by tifffile.
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8 * data.dtype.itemsize
    if bits == 8:
        return data.astype(np.uint8, copy=False)
    table = np.asarray(np.rint(np.arange(2**bits) * (255 / (2**bits - 1))), np.uint8)
    return table[data.astype(np.uint16)]
