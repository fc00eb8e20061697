"""Tests of reading TIFFs by rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tiff_files import ALPHA, EXACT, FIRST, LAYOUTS, RGB, SAMPLES, A, edit_tag, needs_samples, picture

from hubmap_kit.images import read_image, tiff, tiff_rows

HEIGHT, WIDTH = A.shape[:2]

# Further forms, lossy ones among them: name: (data to write, options of tifffile.imwrite).
FORMS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "jpeg in tiles": (A, {**RGB, "compression": "jpeg", "tile": (32, 16)}),
    "jpeg in strips": (A, {**RGB, "compression": "jpeg", "rowsperstrip": 8}),
    "jpeg 4:2:0": (A, {**RGB, "compression": "jpeg", "compressionargs": {"subsampling": "420"}, "tile": (32, 32)}),
    "jpeg of rgb": (A, {**RGB, "compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}, "tile": (16, 16)}),
    "big-endian BigTIFF in tiles": (A, {**RGB, "byteorder": ">", "bigtiff": True, "tile": (16, 32)}),
    "deflate with predictor in tiles": (A, {**RGB, "compression": "zlib", "predictor": True, "tile": (16, 32)}),
    "RGBA lzw in tiles": (ALPHA, {**RGB, "compression": "lzw", "tile": (16, 16), "extrasamples": ["unassalpha"]}),
    "16 bit big-endian": (A.astype(np.uint16) * 257, {**RGB, "byteorder": ">"}),
    "16 bit deflate in strips": (
        A.astype(np.uint16) * 251,
        {**RGB, "compression": "zlib", "predictor": True, "rowsperstrip": 5},
    ),
    "planar deflate in strips": (
        FIRST,
        {**RGB, "planarconfig": "separate", "compression": "zlib", "rowsperstrip": 7},
    ),
    "one tile a row": (A, {**RGB, "compression": "zlib", "tile": (16, 64)}),
    "floats in tiles": (A.astype(np.float32) / 255, {**RGB, "compression": "zlib", "tile": (16, 16)}),
    **{name: (data, {k: v for k, v in o.items() if str(v) != "none"}) for name, (data, o, _) in EXACT.items()},
}
NOT_STREAMED = {
    "lzw with predictor",  # tifffile's default of one strip for an image this small
    "packbits",
    "zstd",
    "16 bit big-endian lzw",
    "one tile larger than the image",
    "1 bit",
    "12 bit",
    "1 x 1",
    "1 x W",
    "1 x 1 grey",
    "(3, H, W) pages",
    "(3, H, W) pages, deflate",
    "(3, H, W) by axes",
    "(3, H, W) behind one header",
    "(H, W, 3) as H grey pages",
    "(3, H, 3) pages: last axis",
    "(3, H, 3) pages: by axes",
    "(1, 1, 3, H, W) pages",
    "(1, 1, 3, H, W) ImageJ",
    "(1, 1, 3, H, W) OME",
}


def read_in_bands(path: Path, step: int = 7) -> tuple[np.ndarray, bool]:
    """All rows of a file, a few at a time, and whether it streams."""
    with tiff_rows.RowReader(path) as reader:
        height = reader.shape[0]
        bands = [reader.read(start, min(start + step, height)) for start in range(0, height, step)]
    return np.concatenate(bands), reader.streams


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of strips or tiles at once, however small."""
    monkeypatch.setattr(tiff_rows, "VALUES_AT_ONCE", 1)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", FORMS)
def test_rows_are_those_of_the_whole_image(tmp_path: Path, name: str) -> None:
    """Whatever the layout and the portions, the rows are those of read_image, streamed if the file allows it."""
    data, options = FORMS[name]
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, data, **options)
    whole = read_image(path)
    image, streams = read_in_bands(path)
    np.testing.assert_array_equal(image, whole)
    assert streams == (name not in NOT_STREAMED)
    with tiff_rows.RowReader(path) as reader:
        assert reader.shape == whole.shape[:2]
        for start, stop in ((len(whole) // 2, len(whole)), (0, len(whole)), (1, 1), (len(whole) - 1, len(whole))):
            np.testing.assert_array_equal(reader.read(start, stop), whole[start:stop])


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", ["deflate in tiles", "planar lzw in tiles", "16 bit deflate in strips"])
def test_each_segment_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Reading from the top decodes each strip or tile a single time."""
    data, options = FORMS[name]
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, data, **options)
    decoded: list[int] = []
    with tiff_rows.RowReader(path) as reader:
        page = reader._stored.page
        plain = page.decode

        def decode(data: Any, index: int, **options: Any) -> Any:
            decoded.append(index)
            return plain(data, index, **options)

        monkeypatch.setattr(page, "decode", decode)
        for row in range(HEIGHT):
            reader.read(row, row + 1)
        assert sorted(decoded) == list(range(len(page.dataoffsets)))


@pytest.mark.usefixtures("narrow")
@needs_samples
def test_sample_files_by_rows() -> None:
    """Each sample that is an image gives the same pixels by rows, and each other an error."""
    assert SAMPLES is not None
    files = sorted(path for path in SAMPLES.rglob("*") if path.is_file() and path.name != "index.csv")
    assert files
    for path in files:
        compare(path)


def read_or_error(read: Callable[[Path], np.ndarray], path: Path) -> np.ndarray | str:
    """The image, or the ValueError that names the file."""
    try:
        return read(path)
    except ValueError as error:
        message = str(error)
    assert str(path) in message
    return message


def compare(path: Path) -> None:
    """`RowReader` and `read_image` agree on a file: the same pixels, or each an error."""
    whole = read_or_error(read_image, path)
    image = read_or_error(lambda path: read_in_bands(path)[0], path)
    if isinstance(whole, str) or isinstance(image, str):
        assert isinstance(whole, str) == isinstance(image, str), (whole, image)
    else:
        np.testing.assert_array_equal(image, whole, err_msg=path.name)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", LAYOUTS)
def test_damaged_files_are_refused_alike(tmp_path: Path, name: str) -> None:
    """A file that is cut, or has a wrong byte anywhere, is read or refused by rows as it is as a whole."""
    rng = np.random.default_rng(len(name))
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, picture(37, 23), **RGB, **LAYOUTS[name])
    whole = path.read_bytes()
    for stop in (1, 8, 100, len(whole) // 2):
        path.write_bytes(whole[:stop])
        messages = []
        for read in (read_image, tiff_rows.RowReader):
            with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
                read(path)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    for case in range(45):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[rng.integers(0, 400 if case % 3 else len(whole), size=1 + case % 4)] = rng.integers(0, 256)
        path.write_bytes(damaged.tobytes())
        compare(path)


@pytest.mark.usefixtures("narrow")
def test_a_damaged_segment_is_an_error_when_it_is_reached(tmp_path: Path) -> None:
    """Rows above a damaged strip come out; those of the strip are a ValueError with the file and a remedy."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, compression="lzw", rowsperstrip=16)
    edit_tag(path, ("StripByteCounts", ""), lambda v: [v[0], v[1] // 2, *v[2:]])
    with tiff_rows.RowReader(path) as reader:
        np.testing.assert_array_equal(reader.read(0, 16), A[:16])
        for _ in range(2):
            with pytest.raises(ValueError, match=re.escape(str(path)) + r".*(copy|download)"):
                reader.read(0, 17)
        np.testing.assert_array_equal(reader.read(32, 37), A[32:37])


@pytest.mark.usefixtures("narrow")
def test_floats_out_of_range_are_refused_by_rows(tmp_path: Path) -> None:
    """A float above 1 is an error in the band that holds it."""
    path = tmp_path / "image.tiff"
    data = A.astype(np.float32) / 255
    data[40, 3, 1] = 2
    tifffile.imwrite(path, data, **RGB, compression="zlib", rowsperstrip=8)
    with tiff_rows.RowReader(path) as reader:
        np.testing.assert_array_equal(reader.read(0, 40), A[:40])
        with pytest.raises(ValueError, match="floats from"):
            reader.read(0, 41)


def test_what_only_opencv_decodes_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without imagecodecs LZW is read whole, by OpenCV, and handed out by rows all the same."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, compression="lzw", rowsperstrip=7)
    monkeypatch.setattr(tiff, "needs_opencv", lambda page, pages: True)
    image, streams = read_in_bands(path)
    assert not streams
    np.testing.assert_array_equal(image, A)


def test_files_that_cannot_be_opened_or_read(tmp_path: Path) -> None:
    """A missing file is an OSError, a text file a ValueError with its name, rows outside the image one too."""
    with pytest.raises(FileNotFoundError, match=r"missing\.tiff"):
        tiff_rows.RowReader(tmp_path / "missing.tiff")
    path = tmp_path / "image.tiff"
    path.write_text("id,rle\n")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        tiff_rows.RowReader(path)
    tifffile.imwrite(path, A, **RGB)
    with tiff_rows.RowReader(path) as reader:
        for start, stop in ((-1, 5), (5, 4), (0, HEIGHT + 1)):
            with pytest.raises(ValueError, match=f"has rows 0 to {HEIGHT}"):
                reader.read(start, stop)
