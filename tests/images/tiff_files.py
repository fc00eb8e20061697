"""TIFF files of every layout, for the tests of reading."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

Pixels = npt.NDArray[Any]

# Prime sides, never square; smaller than a tile in one case below, larger in the others.
HEIGHT, WIDTH = 73, 53
RGB: dict[str, Any] = {"photometric": "rgb", "metadata": None}
GREY: dict[str, Any] = {"photometric": "minisblack", "metadata": None}

DATA = os.environ.get("HUBMAP_DATA")
SAMPLES = Path(DATA, "tiff-samples") if DATA else None
needs_samples = pytest.mark.skipif(
    SAMPLES is None or not (SAMPLES / "index.csv").is_file(), reason="HUBMAP_DATA names no folder with tiff-samples/"
)


def picture(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Smooth colours (so that JPEG stays close) with another value in each corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    red = 20 + 200 * y / max(height - 1, 1)
    green = 10 + 150 * x / max(width - 1, 1)
    blue = 250 - 100 * y / max(height - 1, 1) - 90 * x / max(width - 1, 1)
    colours: Pixels = np.rint(np.stack([red, green, blue], axis=2)).astype(np.uint8)
    return colours


def grey_of(image: Pixels) -> Pixels:
    return np.repeat(image[..., :1], 3, axis=2)


def edit_tag(path: Path, names: tuple[str, str], change: Callable[[list[int]], list[int]]) -> None:
    """Rewrite a tag in place, the first of the names that the file has."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        tag = next(tags[name] for name in names if name in tags)
        value = list(tag.value) if tag.count > 1 else [tag.value]
        value = change(value)
        tag.overwrite(value if len(value) > 1 else value[0])


A = picture()
FIRST = np.ascontiguousarray(A.transpose(2, 0, 1))
ALPHA = np.dstack([A, np.arange(A[..., 0].size, dtype=np.uint8).reshape(HEIGHT, WIDTH)])
BITS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 == 0
# name: (data to write, options of tifffile.imwrite, image expected)
EXACT: dict[str, tuple[Pixels, dict[str, Any], Pixels]] = {
    "none": (A, RGB, A),
    "none in strips": (A, {**RGB, "rowsperstrip": 7}, A),
    "none in tiles": (A, {**RGB, "tile": (32, 16)}, A),
    "one tile larger than the image": (A, {**RGB, "tile": (128, 128)}, A),
    "lzw": (A, {**RGB, "compression": "lzw", "rowsperstrip": 7}, A),
    "lzw with predictor": (A, {**RGB, "compression": "lzw", "predictor": True}, A),
    "lzw in tiles": (A, {**RGB, "compression": "lzw", "tile": (32, 16)}, A),
    "deflate": (A, {**RGB, "compression": "zlib", "predictor": True, "rowsperstrip": 7}, A),
    "deflate in tiles": (A, {**RGB, "compression": "zlib", "tile": (16, 32)}, A),
    "packbits": (A, {**RGB, "compression": "packbits"}, A),
    "zstd": (A, {**RGB, "compression": "zstd"}, A),
    "planar": (FIRST, {**RGB, "planarconfig": "separate"}, A),
    "planar lzw in tiles": (FIRST, {**RGB, "planarconfig": "separate", "compression": "lzw", "tile": (16, 16)}, A),
    "big-endian": (A, {**RGB, "byteorder": ">"}, A),
    "BigTIFF": (A, {**RGB, "bigtiff": True}, A),
    "(1, 1, 3, H, W) planar": (FIRST[None, None], {"photometric": "rgb", "planarconfig": "separate"}, A),
    "(1, 1, 3, H, W) pages": (FIRST[None, None], {"photometric": "minisblack"}, A),
    "(1, 1, 3, H, W) ImageJ": (FIRST[None, None], {"imagej": True, "metadata": {"axes": "TZCYX"}}, A),
    "(1, 1, 3, H, W) OME": (FIRST[None, None], {"ome": True, "metadata": {"axes": "TZCYX"}}, A),
    "(3, H, W) pages": (FIRST, GREY, A),
    "(3, H, W) pages, deflate": (FIRST, {**GREY, "compression": "zlib"}, A),
    "(3, H, W) by axes": (FIRST, {"photometric": "minisblack", "metadata": {"axes": "CYX"}}, A),
    "(3, H, W) behind one header": (FIRST, {"photometric": "minisblack", "truncate": True}, A),
    "(H, W, 3) as grey samples": (A, {**GREY, "planarconfig": "contig"}, A),
    "(H, W, 3) as H grey pages": (A, {"photometric": "minisblack"}, A),
    "(3, H, 3) rows": (A[:3, :, :], RGB, A[:3]),
    "(3, H, 3) pages: last axis": (A[:3], {"photometric": "minisblack"}, A[:3]),
    "(3, H, 3) pages: by axes": (FIRST[:, :, :3], {"imagej": True, "metadata": {"axes": "CYX"}}, A[:, :3]),
    "RGBA unspecified": (ALPHA, {**RGB, "extrasamples": ["unspecified"]}, A),
    "RGBA unassociated": (ALPHA, {**RGB, "extrasamples": ["unassalpha"]}, A),
    "RGBA planar": (
        np.ascontiguousarray(ALPHA.transpose(2, 0, 1)),
        {**RGB, "planarconfig": "separate", "extrasamples": ["unassalpha"]},
        A,
    ),
    "grey": (A[..., 0], GREY, grey_of(A)),
    "grey, white is zero": (A[..., 0], {**GREY, "photometric": "miniswhite"}, 255 - grey_of(A)),
    "grey and alpha": (
        ALPHA[..., [0, 3]],
        {**GREY, "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        grey_of(A),
    ),
    "1 bit": (BITS, GREY, np.repeat(BITS[..., None], 3, axis=2) * np.uint8(255)),
    "palette": (
        A[..., 0],
        {
            "photometric": "palette",
            "colormap": np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1)),
            "metadata": None,
        },
        grey_of(A),
    ),
    "palette of 8-bit values": (
        A[..., 0],
        {"photometric": "palette", "colormap": np.tile(np.arange(256, dtype=np.uint16), (3, 1)), "metadata": None},
        grey_of(A),
    ),
    "16 bit": (A.astype(np.uint16) * 257, RGB, A),
    "16 bit rounds": (A.astype(np.uint16) * 257 + np.where(A < 255, 128, 0).astype(np.uint16), RGB, A),
    "16 bit big-endian lzw": (A.astype(np.uint16) * 257, {**RGB, "byteorder": ">", "compression": "lzw"}, A),
    "12 bit": (
        np.rint(A[..., 0] * (4095 / 255)).astype(np.uint16),
        {**GREY, "bitspersample": 12, "compression": "none"},
        grey_of(A),
    ),
    "float": (A.astype(np.float32) / 255, RGB, A),
    "half float grey": (BITS.astype(np.float16), GREY, np.repeat(BITS[..., None], 3, axis=2) * np.uint8(255)),
    "CMYK": (
        np.dstack([255 - A, np.zeros((HEIGHT, WIDTH), np.uint8)]),
        {"photometric": "separated", "metadata": None},
        A,
    ),
    "CMYK black": (np.full((5, 7, 4), 255, np.uint8), {"photometric": "separated"}, np.zeros((5, 7, 3), np.uint8)),
    "orientation is ignored": (A, {**RGB, "extratags": [(274, 3, 1, 6, True)]}, A),
    "1 x 1": (A[:1, :1], RGB, A[:1, :1]),
    "1 x W": (A[:1], {**RGB, "compression": "lzw"}, A[:1]),
    "H x 1": (A[:, :1], RGB, A[:, :1]),
    "1 x 1 grey": (A[:1, :1, 0], GREY, grey_of(A[:1, :1])),
    "wide": (picture(3, 40009), {**RGB, "compression": "zlib"}, picture(3, 40009)),
}

LAYOUTS: dict[str, dict[str, Any]] = {
    "none": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (32, 16)},
    "lzw": {"compression": "lzw", "rowsperstrip": 7},
    "deflate": {"compression": "zlib", "tile": (32, 16)},
    "jpeg strips": {"compression": "jpeg", "rowsperstrip": 8},
    "jpeg tiles": {"compression": "jpeg", "tile": (32, 16)},
    "jpeg": {"compression": "jpeg"},
}
