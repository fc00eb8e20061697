"""Tests of hubmap_kit.images.scaling."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
from hypothesis import given

from hubmap_kit.images import scaling as images
from hubmap_kit.images import tiff

# Prime sides, never square; smaller than a tile in one case below, larger in the others.
HEIGHT, WIDTH = 73, 53
RGB = {"photometric": "rgb", "metadata": None}
GREY = {"photometric": "minisblack", "metadata": None}

DATA = os.environ.get("HUBMAP_DATA")
SAMPLES = Path(DATA, "tiff-samples") if DATA else None
needs_samples = pytest.mark.skipif(
    SAMPLES is None or not (SAMPLES / "index.csv").is_file(), reason="HUBMAP_DATA names no folder with tiff-samples/"
)


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth colours (so that JPEG stays close) with another value in each corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    red = 20 + 200 * y / max(height - 1, 1)
    green = 10 + 150 * x / max(width - 1, 1)
    blue = 250 - 100 * y / max(height - 1, 1) - 90 * x / max(width - 1, 1)
    return np.rint(np.stack([red, green, blue], axis=2)).astype(np.uint8)


def grey_of(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[..., :1], 3, axis=2)


def read_or_error(path: Path) -> np.ndarray | str:
    """What `read_image` promises for any file: an image, or one error that names the file."""
    try:
        image = images.read_image(path)
    except (ValueError, OSError) as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert str(path) in message
        return message
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    return image


def edit_tag(path: Path, names: tuple[str, str], change: Callable[[list[int]], list[int]]) -> None:
    """Rewrite a tag in place, the first of the names that the file has."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages[0].tags
        tag = next(tags[name] for name in names if name in tags)
        value = list(tag.value) if tag.count > 1 else [tag.value]
        value = change(value)
        tag.overwrite(value if len(value) > 1 else value[0])


A = picture()
FIRST = np.ascontiguousarray(A.transpose(2, 0, 1))
ALPHA = np.dstack([A, np.arange(A[..., 0].size, dtype=np.uint8).reshape(HEIGHT, WIDTH)])
BITS = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 == 0
# name: (data to write, options of tifffile.imwrite, image expected)
EXACT: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]] = {
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


@pytest.mark.parametrize("name", EXACT)
def test_every_layout_reads_to_the_exact_pixels(tmp_path: Path, name: str) -> None:
    """Whatever the layout, the pixels come back in their places, channels in RGB order, to the last value."""
    data, options, expected = EXACT[name]
    path = tmp_path / "image.tiff"
    if options.get("compression") == "none":
        options = {k: v for k, v in options.items() if k != "compression"}
    tifffile.imwrite(path, data, **options)
    image = read_or_error(path)
    assert not isinstance(image, str), image
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("cut", [{"tile": (32, 32)}, {"rowsperstrip": 16}, {}], ids=["tiles", "strips", "one strip"])
def test_jpeg_reads_in_true_colours(tmp_path: Path, cut: dict[str, Any], subsampling: str) -> None:
    """JPEG is close to what was written, and both readers agree within two levels."""
    path = tmp_path / "image.tiff"
    jpeg = {"compression": "jpeg", "compressionargs": {"level": 95, "subsampling": subsampling}}
    tifffile.imwrite(path, A, **RGB, **jpeg, **cut)
    image = images.read_image(path)
    assert np.abs(image.astype(int) - A).mean(axis=(0, 1)).max() <= 3
    other = tiff._read_opencv(path, A.shape)  # type: ignore[arg-type]
    assert np.abs(image.astype(int) - other).max() <= 2


def test_jpeg_of_rgb_is_not_taken_for_ycbcr(tmp_path: Path) -> None:
    """JPEG that stores RGB itself reads in true colours too."""
    path = tmp_path / "image.tiff"
    jpeg = {"compression": "jpeg", "compressionargs": {"level": 95, "outcolorspace": "rgb"}}
    tifffile.imwrite(path, A, **RGB, **jpeg, tile=(32, 32))
    assert np.abs(images.read_image(path).astype(int) - A).mean(axis=(0, 1)).max() <= 3


@pytest.mark.parametrize("name", ["none", "none in tiles", "lzw", "lzw in tiles", "deflate", "planar", "packbits"])
def test_both_readers_agree(tmp_path: Path, name: str) -> None:
    """Without loss tifffile and OpenCV give the same pixels, so that falling back changes nothing."""
    data, options, expected = EXACT[name]
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, data, **options)
    np.testing.assert_array_equal(tiff._read_opencv(path, expected.shape), expected)  # type: ignore[arg-type]


def test_ycbcr_without_jpeg_is_converted(tmp_path: Path) -> None:
    """YCbCr is turned to RGB, not shown as if it were RGB, also where no JPEG decoder does it."""
    path = tmp_path / "image.tiff"
    ycc = cv2.cvtColor(A, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    for compression in (None, "lzw"):
        full = [(530, 3, 2, (1, 1), True)]  # YCbCrSubSampling: none
        tifffile.imwrite(path, ycc, photometric="ycbcr", compression=compression, extratags=full, metadata=None)
        assert np.abs(images.read_image(path).astype(int) - A).max() <= 3


def test_pyramids_and_thumbnails_are_left_out(tmp_path: Path) -> None:
    """Of a pyramid (by SubIFD or by pages) and of an image with a thumbnail, the full image is read."""
    small = np.ascontiguousarray(A[::2, ::2])
    for name, below in (("subifd", True), ("pages", False)):
        path = tmp_path / f"{name}.tiff"
        with tifffile.TiffWriter(path) as writer:
            writer.write(A, **RGB, subifds=1 if below else None)
            writer.write(small, **RGB, subfiletype=1 if below else 0)
        np.testing.assert_array_equal(images.read_image(path), A)


# --- what is refused ------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[np.ndarray, dict[str, Any], str]] = {
    "two pages": (np.stack([A, A]), RGB, "holds 2 pages"),
    "five grey pages": (np.zeros((5, HEIGHT, WIDTH), np.uint8), GREY, "holds 5 pages"),
    "int16": (A.astype(np.int16), RGB, "int16"),
    "uint32": (A.astype(np.uint32), RGB, "uint32"),
    "complex": (A[..., 0].astype(np.complex64), GREY, "complex64"),
    "float above 1": (A.astype(np.float32), RGB, r"floats from 20 to|floats from 10 to"),
    "float NaN": (np.full((5, 7, 3), np.nan, np.float32), RGB, "nan"),
    "LAB": (A, {"photometric": "cielab", "metadata": None}, "CIELAB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_rgb_image_is_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    """Data that cannot be shown as RGB without guessing is an error with file, rule and remedy."""
    data, options, words = REFUSED[name]
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, data, **options)
    error = read_or_error(path)
    assert isinstance(error, str)
    assert re.search(words, error)
    assert re.search("save it as|keep one image|scale them", error)


def test_pages_of_two_sizes_are_refused(tmp_path: Path) -> None:
    """Two unrelated images in one file are an error, not a choice of one."""
    path = tmp_path / "image.tiff"
    with tifffile.TiffWriter(path) as writer:
        writer.write(A, **RGB)
        writer.write(np.ascontiguousarray(A.transpose(1, 0, 2)), **RGB)
    error = read_or_error(path)
    assert isinstance(error, str)
    assert "holds 2 pages" in error


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    """A missing file and a folder are an OSError that names the path."""
    with pytest.raises(FileNotFoundError, match=r"missing\.tiff"):
        images.read_image(tmp_path / "missing.tiff")
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        images.read_image(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"II*\0", b"id,rle\n10078,1 2\n", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_files_that_are_no_tiff(tmp_path: Path, content: bytes) -> None:
    """An empty file, a bare header, a text or a PNG with the wrong name is an error that names the file."""
    path = tmp_path / "image.tiff"
    path.write_bytes(content)
    assert isinstance(read_or_error(path), str)


@pytest.mark.parametrize("back_to", [0, 1])
def test_pages_in_a_circle_are_an_error(tmp_path: Path, back_to: int) -> None:
    """A chain of pages that leads back to itself is an error at once, not an endless loop."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, FIRST, **GREY)
    with tifffile.TiffFile(path) as tif:
        offsets = [page.offset for page in tif.pages]
    content = bytearray(path.read_bytes())
    last = offsets[-1]
    link = last + 2 + 12 * int.from_bytes(content[last : last + 2], "little")
    assert content[link : link + 4] == bytes(4)
    content[link : link + 4] = offsets[back_to].to_bytes(4, "little")
    path.write_bytes(content)
    error = read_or_error(path)
    assert isinstance(error, str)
    assert "leads back" in error


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


@pytest.mark.parametrize("name", LAYOUTS)
def test_truncated_files_are_errors(tmp_path: Path, name: str) -> None:
    """A file that ends early, anywhere in its data, is an error; half an image is never passed off as whole."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, **LAYOUTS[name])
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        start, end = page.dataoffsets[0], page.dataoffsets[-1] + page.databytecounts[-1]
    for stop in (1, 4, 8, 100, start, start + 1, (start + end) // 2, end - 20, end - 1):
        path.write_bytes(whole[:stop])
        assert isinstance(read_or_error(path), str), f"cut at {stop} of {len(whole)}"


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("none", "jpeg", "strips")])
def test_missing_segments_are_errors(tmp_path: Path, name: str) -> None:
    """A strip or tile without an offset, without bytes or with half its bytes is an error, not a black patch."""
    path = tmp_path / "image.tiff"
    offsets, counts = ("TileOffsets", "StripOffsets"), ("TileByteCounts", "StripByteCounts")
    for names, factor in ((offsets, 0), (counts, 0), (counts, 0.5)):
        tifffile.imwrite(path, A, **RGB, **LAYOUTS[name])
        edit_tag(path, names, lambda v, f=factor: [*v[:2], int(v[2] * f), *v[3:]])  # type: ignore[misc]
        assert isinstance(read_or_error(path), str)


def test_damaged_lzw_is_an_error(tmp_path: Path) -> None:
    """Damage within LZW data is an error with either reader, though OpenCV itself returns an image."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, compression="lzw", rowsperstrip=16)
    edit_tag(path, ("StripByteCounts", ""), lambda v: [v[0], v[1] // 2, *v[2:]])
    assert cv2.imread(str(path)) is not None
    assert isinstance(read_or_error(path), str)
    with pytest.raises(ValueError, match="cannot decode it whole"):
        tiff._read_opencv(path, A.shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LAYOUTS)
def test_absurd_dimensions_are_errors(tmp_path: Path, name: str) -> None:
    """A header that claims 4 billion rows or columns is an error at once, not a loss of memory."""
    path = tmp_path / "image.tiff"
    for tag in ("ImageLength", "ImageWidth"):
        tifffile.imwrite(path, A, **RGB, **LAYOUTS[name])
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages[0].tags[tag].overwrite(2**32 - 1, dtype=4)
        assert isinstance(read_or_error(path), str)


@pytest.mark.parametrize("name", LAYOUTS)
def test_flipped_bytes_give_an_image_or_one_error(tmp_path: Path, name: str) -> None:
    """Whatever byte is wrong, the answer is a proper image or a ValueError that names the file."""
    rng = np.random.default_rng(len(name))
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, picture(37, 23), **RGB, **LAYOUTS[name])
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        header = tif.pages[0].dataoffsets[0]
    for case in range(45):
        damaged = np.frombuffer(whole, np.uint8).copy()
        # Two thirds of the hits go to the tags, where a single byte does most harm.
        place = rng.integers(0, header if case % 3 else len(whole), size=1 + case % 4)
        damaged[place] = rng.integers(0, 256, size=place.size)
        path.write_bytes(damaged.tobytes())
        read_or_error(path)


# --- without imagecodecs ---------------------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["imagecodecs"] = None
import numpy as np
from hubmap_kit.images import read_image
for path in sys.argv[1:]:
    try:
        np.save(path + ".npy", read_image(path))
    except ValueError as error:
        print(error)
"""


def test_without_imagecodecs(tmp_path: Path) -> None:
    """Without imagecodecs LZW and JPEG are read all the same, damage is still noticed, the rest names the remedy."""
    deflate = {"compression": "zlib", "predictor": True}
    files: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "none": (A, RGB),
        "deflate": (A, {**RGB, **deflate}),
        "lzw": (A, {**RGB, "compression": "lzw", "predictor": True, "rowsperstrip": 7}),
        "lzw-tiles": (A, {**RGB, "compression": "lzw", "tile": (32, 16)}),
        "lzw-planar": (FIRST, {**RGB, "compression": "lzw", "planarconfig": "separate"}),
        "lzw-grey": (A[..., 0], {**GREY, "compression": "lzw"}),
        "jpeg-tiles": (A, {**RGB, "compression": "jpeg", "tile": (32, 32)}),
        "jpeg-strips": (A, {**RGB, "compression": "jpeg", "rowsperstrip": 16}),
        "bad-lzw": (A, {**RGB, "compression": "lzw", "rowsperstrip": 16}),
        "bad-jpeg": (A, {**RGB, "compression": "jpeg", "tile": (32, 32)}),
        "turned-lzw": (A, {**RGB, "compression": "lzw", "extratags": [(274, 3, 1, 6, True)]}),
        "rgba-lzw": (ALPHA, {**RGB, "compression": "lzw", "extrasamples": ["unassalpha"]}),
        "3-bit": (A[..., 0] >> 5, {**GREY, "bitspersample": 3}),
    }
    paths = {name: tmp_path / f"{name}.tiff" for name in files}
    for name, (data, options) in files.items():
        tifffile.imwrite(paths[name], data, **options)
    for name in ("bad-lzw", "bad-jpeg"):
        edit_tag(paths[name], ("TileByteCounts", "StripByteCounts"), lambda v: [v[0], v[1] // 2, *v[2:]])
    command = [sys.executable, "-c", WITHOUT, *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    errors = [line.removeprefix(str(tmp_path))[1:] for line in done.stdout.splitlines()]
    refused = ["bad-lzw", "bad-jpeg", "turned-lzw", "rgba-lzw", "3-bit"]
    assert [line.split(".tiff: ")[0] for line in errors] == refused
    assert all("install imagecodecs" in line for line in errors if not line.startswith("bad-jpeg"))
    for name, (data, _) in files.items():
        if name in refused:
            continue
        image = np.load(f"{paths[name]}.npy")
        if name.startswith("jpeg"):
            assert np.abs(image.astype(int) - images.read_image(paths[name])).max() <= 2
        else:
            np.testing.assert_array_equal(image, grey_of(A) if data.ndim == 2 else A)


# --- the sample files ------------------------------------------------------------------------------------------


@needs_samples
def test_sample_files_of_every_kind() -> None:
    """Each sample gives an image of its own size or one error; those of 8-bit RGB give their very pixels."""
    assert SAMPLES is not None
    with (SAMPLES / "index.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert rows
    for row in rows:
        image = read_or_error(SAMPLES / row["file"])
        signed = row["dtype"].startswith("int") or row["dtype"] in ("uint32", "uint64")
        assert isinstance(image, str) == signed, row
        if isinstance(image, str):
            continue
        shape = [int(n) for n in re.findall(r"\d+", row["shape"])]
        assert image.shape[:2] == tuple(n for n, axis in zip(shape, row["axes"], strict=True) if axis in "YX")
        if (
            row["dtype"] == "uint8"
            and row["photometric"] == "RGB"
            and row["axes"] == "YXS"
            and "b-contig" not in row["file"]
        ):
            np.testing.assert_array_equal(image, tifffile.imread(SAMPLES / row["file"])[..., :3])


# --- pixel size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(73, 53), (31, 17), (149, 211), (31, 211), (1, 1), (1, 500)])
def test_resize_keeps_places_type_and_range(shape: tuple[int, int], dtype: type) -> None:
    """Rows stay rows, corners stay in their corners, no value leaves the range of the input."""
    image = A.astype(dtype)
    for source in (image, image[..., 0], image[..., :1]):
        out = images.resize(source, shape)
        assert out.shape == (*shape, *source.shape[2:])
        assert out.dtype == dtype
        assert out.min() >= source.min()
        assert out.max() <= source.max()
        if min(shape) > 16:
            corners = np.abs(out[:: shape[0] - 1, :: shape[1] - 1].astype(float) - source[::72, ::52])
            assert corners.max() < 12


def test_resize_averages_areas() -> None:
    """Halving averages 2 x 2 pixels, so that one-pixel stripes turn grey; also where the other side grows."""
    stripes = np.zeros((34, 22), np.float32)
    stripes[::2] = 1
    assert np.all(images.resize(stripes, (17, 11)) == 0.5)
    assert np.all(images.resize(stripes, (17, 37)) == 0.5)


def test_resize_beyond_the_range_of_short(tmp_path: Path) -> None:
    """Sides above 32767 px, the limit of some of OpenCV's functions, are resized like others."""
    long = picture(5, 40009)
    out = images.resize(long, (3, 20005))
    assert np.abs(out[::2, ::20004].astype(int) - long[::4, ::40008]).max() < 60
    assert images.resize(out, (5, 40009)).shape == long.shape
    assert images.resize(long.transpose(1, 0, 2), (39989, 3)).shape == (39989, 3, 3)


def test_resize_refuses() -> None:
    """A side of 0 px, an empty image and another dtype are errors."""
    with pytest.raises(ValueError, match="at least 1 px"):
        images.resize(A, (0, 5))
    with pytest.raises(ValueError, match="float64"):
        images.resize(A.astype(np.float64), (5, 5))
    with pytest.raises(ValueError, match="takes"):
        images.resize(A[:0], (5, 5))
    with pytest.raises(ValueError, match="a mask is"):
        images.resize_mask(A, (5, 5))


def test_resize_mask_keeps_what_covers_half_a_pixel() -> None:
    """A mask stays {0, 1}, keeps its four corners, and a pixel counts where half of it is covered."""
    mask = np.zeros((34, 22), np.uint8)
    mask[:2, :2] = mask[:2, -2:] = mask[-2:, :2] = mask[-2:, -2:] = 255
    mask[10, 10:12] = 1  # half of one pixel
    mask[20, 10] = 1  # a quarter of one
    small = images.resize_mask(mask, (17, 11))
    assert small.dtype == np.uint8
    assert sorted(zip(*np.nonzero(small), strict=True)) == [(0, 0), (0, 10), (5, 5), (16, 0), (16, 10)]
    assert small.max() == 1
    np.testing.assert_array_equal(images.resize_mask(small, (17, 11)), small)
    np.testing.assert_array_equal(images.resize_mask(images.resize_mask(small, (51, 33)), (17, 11)), small)


sides = st.integers(1, 40000)
sizes = st.floats(0.01, 100)


@given(sides, sides, sizes, sizes)
def test_scaled_shape_keeps_the_size_in_um(height: int, width: int, pixel: float, target: float) -> None:
    """Each side keeps its length in µm to within half a target pixel, and at least one pixel."""
    scaled = images.scaled_shape((height, width), pixel, target)
    for side, new in zip((height, width), scaled, strict=True):
        assert isinstance(new, int)
        assert new >= 1
        assert new == 1 or abs(new * target - side * pixel) <= target * 0.5001
    assert images.scaled_shape((height, width), pixel, pixel) == (height, width)


@pytest.mark.parametrize("bad", [0, -0.4, float("nan"), float("inf")])
def test_scaled_shape_refuses_impossible_pixel_sizes(bad: float) -> None:
    """A pixel size that is zero, negative or no number is an error that names it."""
    with pytest.raises(ValueError, match="pixel_size_um"):
        images.scaled_shape((5, 7), bad, 0.4)
    with pytest.raises(ValueError, match="target_um"):
        images.scaled_shape((5, 7), 0.4, bad)
    with pytest.raises(ValueError, match="at least 1 px"):
        images.scaled_shape((0, 7), 0.4, 0.4)


def test_load_image_brings_an_image_to_the_working_pixel_size(tmp_path: Path) -> None:
    """The image comes at the target's scale together with the shape of its file."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB)
    image, native = images.load_image(path, 0.4, 0.8, (HEIGHT, WIDTH))
    assert native == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(image, images.resize(A, images.scaled_shape((HEIGHT, WIDTH), 0.4, 0.8)))
    same, _ = images.load_image(path, 0.4, 0.4)
    np.testing.assert_array_equal(same, A)


def test_load_image_checks_the_shape_of_the_table(tmp_path: Path) -> None:
    """A file that is not of the table's shape is an error with the file, both shapes and a remedy."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB)
    with pytest.raises(ValueError, match=r"73 x 53 .* 53 x 73; correct") as caught:
        images.load_image(path, 0.4, 0.4, (WIDTH, HEIGHT))
    assert str(path) in str(caught.value)


# --- stain space -------------------------------------------------------------------------------------------------


def test_optical_density_and_back_is_exact() -> None:
    """All 256 values survive the way to optical density and back; white is 0."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    density = images.optical_density(image)
    assert density.dtype == np.float32
    np.testing.assert_allclose(density, -np.log10((image.astype(float) + 1) / 256), atol=1e-6)
    assert density.max() == pytest.approx(2.40824)
    assert density[-1, -1] == 0
    np.testing.assert_array_equal(images.from_optical_density(density), image)
    np.testing.assert_array_equal(images.from_optical_density(np.array([-1.0, 9.0])), [255, 0])


def test_optical_density_wants_uint8() -> None:
    """An image that was already scaled to [0, 1] is an error, not a wrong density."""
    with pytest.raises(ValueError, match="float32"):
        images.optical_density(A.astype(np.float32))
