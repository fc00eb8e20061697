"""Tests of reading TIFFs whole."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from tiff_files import (
    ALPHA,
    EXACT,
    FIRST,
    GREY,
    HEIGHT,
    LAYOUTS,
    RGB,
    SAMPLES,
    WIDTH,
    A,
    edit_tag,
    grey_of,
    needs_samples,
    picture,
)

from hubmap_kit.images import read_image
from hubmap_kit.images.tiff_opencv import read_opencv
from hubmap_kit.images.tiff_rows import RowReader


def read_or_error(path: Path) -> np.ndarray | str:
    """What `read_image` promises for any file: an image, or one error that names the file."""
    try:
        image = read_image(path)
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
    jpeg: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 95, "subsampling": subsampling}}
    tifffile.imwrite(path, A, **RGB, **jpeg, **cut)
    image = read_image(path)
    assert np.abs(image.astype(int) - A).mean(axis=(0, 1)).max() <= 3
    other = read_opencv(path, A.shape)
    assert np.abs(image.astype(int) - other).max() <= 2


def test_jpeg_of_rgb_is_not_taken_for_ycbcr(tmp_path: Path) -> None:
    """JPEG that stores RGB itself reads in true colours too."""
    path = tmp_path / "image.tiff"
    jpeg: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 95, "outcolorspace": "rgb"}}
    tifffile.imwrite(path, A, **RGB, **jpeg, tile=(32, 32))
    assert np.abs(read_image(path).astype(int) - A).mean(axis=(0, 1)).max() <= 3


@pytest.mark.parametrize("name", ["none", "none in tiles", "lzw", "lzw in tiles", "deflate", "planar", "packbits"])
def test_both_readers_agree(tmp_path: Path, name: str) -> None:
    """Without loss tifffile and OpenCV give the same pixels, so that falling back changes nothing."""
    data, options, expected = EXACT[name]
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, data, **options)
    np.testing.assert_array_equal(read_opencv(path, expected.shape), expected)


def test_ycbcr_without_jpeg_is_converted(tmp_path: Path) -> None:
    """YCbCr is turned to RGB, not shown as if it were RGB, also where no JPEG decoder does it."""
    path = tmp_path / "image.tiff"
    ycc = cv2.cvtColor(A, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    for compression in (None, "lzw"):
        full = [(530, 3, 2, (1, 1), True)]  # YCbCrSubSampling: none
        tifffile.imwrite(path, ycc, photometric="ycbcr", compression=compression, extratags=full, metadata=None)
        assert np.abs(read_image(path).astype(int) - A).max() <= 3


def test_pyramids_and_thumbnails_are_left_out(tmp_path: Path) -> None:
    """Of a pyramid (by SubIFD or by pages) and of an image with a thumbnail, the full image is read."""
    small = np.ascontiguousarray(A[::2, ::2])
    for name, below in (("subifd", True), ("pages", False)):
        path = tmp_path / f"{name}.tiff"
        with tifffile.TiffWriter(path) as writer:
            writer.write(A, **RGB, subifds=1 if below else None)
            writer.write(small, **RGB, subfiletype=1 if below else 0)
        np.testing.assert_array_equal(read_image(path), A)


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
        read_image(tmp_path / "missing.tiff")
    with pytest.raises(OSError, match=re.escape(tmp_path.name)):
        read_image(str(tmp_path))


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
        read_opencv(path, A.shape)


@pytest.mark.parametrize("name", LAYOUTS)
def test_absurd_dimensions_are_errors(tmp_path: Path, name: str) -> None:
    """A header that claims 4 billion rows or columns is an error at once, not a loss of memory."""
    path = tmp_path / "image.tiff"
    for tag in ("ImageLength", "ImageWidth"):
        tifffile.imwrite(path, A, **RGB, **LAYOUTS[name])
        with tifffile.TiffFile(path, mode="r+") as tif:
            tif.pages.first.tags[tag].overwrite(2**32 - 1, dtype=4)
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
            assert np.abs(image.astype(int) - read_image(paths[name])).max() <= 2
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


def rows_of(path: Path) -> np.ndarray:
    """The image, read a few rows at a time."""
    with RowReader(path) as reader:
        height = reader.shape[0]
        return np.concatenate([reader.read(top, min(top + 7, height)) for top in range(0, height, 7)])


each_way = pytest.mark.parametrize("read", [read_image, rows_of], ids=["whole", "by rows"])


def ycbcr(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., (0, 2, 1)])


@each_way
@pytest.mark.parametrize("cut", [{}, {"tile": (32, 16)}], ids=["whole", "tiles"])
def test_aperio_jpeg_2000_of_ycbcr_becomes_rgb(tmp_path, cut, read):
    """Aperio writes YCbCr as JPEG 2000 and says RGB in the tag; OpenSlide converts by the compression, and so do we."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, ycbcr(A), **RGB, compression="aperio_jp2000_ycbc", **cut)
    assert np.abs(read(path).astype(int) - A).max() <= 8


@each_way
@pytest.mark.parametrize(("says", "tag", "right"), [(1, "rgb", False), (0, "rgb", True), (2, "rgb", True)])
def test_jpeg_whose_adobe_marker_contradicts_the_tag_is_refused(tmp_path, says, tag, right, read):
    """Readers disagree about such a file, so none of the two pictures is taken."""
    jpeg = imagecodecs.jpeg8_encode(A, level=95, colorspace="rgb", outcolorspace="rgb")
    at = jpeg.find(b"Adobe")
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([says])
    plain = jpeg if at < 0 else jpeg[: at - 4] + jpeg[at + 12 :]
    path = tmp_path / "image.tiff"
    rgb = {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}, **RGB}
    tifffile.imwrite(path, iter([bytes(plain[:2] + adobe + plain[2:])]), shape=A.shape, dtype=np.uint8, **rgb)
    if right:
        assert np.abs(read(path).astype(int) - A).max() <= 8
    else:
        with pytest.raises(ValueError, match=r"holds YCBCR as JPEG data, and its tags say RGB; save it"):
            read(path)


def without_bits(path: Path) -> None:
    """Take BitsPerSample out of a little-endian TIFF: its entry becomes one of a private tag."""
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    entries = [bytes(data[first + 2 + 12 * i : first + 14 + 12 * i]) for i in range(count)]
    (bits,) = (entry for entry in entries if entry[:2] == b"\x02\x01")
    entries.remove(bits)
    data[first + 2 : first + 2 + 12 * count] = b"".join([*entries, b"\xff\xfe" + bits[2:]])
    path.write_bytes(data)


@each_way
def test_colours_without_bits_per_sample_are_refused(tmp_path, read):
    """By the specification they would have one bit; read so, 8-bit pixels become noise."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, rowsperstrip=7)
    without_bits(path)
    with pytest.raises(ValueError, match="has no BitsPerSample for its 3 samples per pixel"):
        read(path)


@each_way
def test_grey_without_bits_per_sample_is_refused_where_it_holds_more(tmp_path, read):
    """One sample of one bit is a legal default, but not with the bytes of eight."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A[..., 0], **GREY, rowsperstrip=7)
    without_bits(path)
    with pytest.raises(ValueError, match=r"holds 3869 bytes of pixels, and its tags describe at most"):
        read(path)


@each_way
def test_the_image_is_found_among_pages(tmp_path, read):
    """A page marked as reduced is not the image, even if it comes first; nor is the picture of a label or a slide."""
    image = picture(200, 150)
    first = tmp_path / "thumbnail-first.tiff"
    with tifffile.TiffWriter(first) as tif:
        tif.write(picture(50, 38), **RGB, subfiletype=1)
        tif.write(image, **RGB)
    wide = tmp_path / "wide-macro.tiff"
    with tifffile.TiffWriter(wide) as tif:
        for page in (image, picture(40, 90), picture(60, 180)):
            tif.write(page, **RGB)
    for path in (first, wide):
        np.testing.assert_array_equal(read(path), image)


@each_way
@pytest.mark.parametrize("shapes", [[(50, 38), (200, 150)], [(200, 150), (190, 160)]])
def test_two_pages_that_may_both_be_the_image_are_refused(tmp_path, shapes, read):
    """Nothing says which of them is meant."""
    path = tmp_path / "image.tiff"
    with tifffile.TiffWriter(path) as tif:
        for shape in shapes:
            tif.write(picture(*shape), **RGB)
    with pytest.raises(ValueError, match="2 pages of different kinds; keep one image per file"):
        read(path)


@each_way
def test_ycbcr_with_packbits_is_read(tmp_path, read):
    """OpenCV and Pillow read it, and agree."""
    path = tmp_path / "image.tiff"
    extra = [(530, "H", 2, (1, 1), True)]
    tifffile.imwrite(path, ycbcr(A), photometric="ycbcr", compression="packbits", metadata=None, extratags=extra)
    assert np.abs(read(path).astype(int) - A).max() <= 3


@pytest.mark.parametrize("compression", ["zstd", "aperio_jp2000_rgb"])
def test_imagecodecs_is_not_named_where_it_is_installed(tmp_path, compression):
    """What no decoder understands is named as such; to install what is there would not help."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, ycbcr(A), **RGB, compression=compression)
    edit_tag(path, ("PhotometricInterpretation", ""), lambda _: [6])
    message = read_or_error(path)
    assert isinstance(message, str)
    assert "YCbCr colours with compression" in message
    assert "install" not in message
