"""Tests of hubmap_kit.images.rows."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from test_scaling import ALPHA, EXACT, FIRST, LAYOUTS, RGB, SAMPLES, A, edit_tag, needs_samples, picture

from hubmap_kit.images import rows, tiff
from hubmap_kit.images import scaling as images

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
    with rows.RowReader(path) as reader:
        height = reader.shape[0]
        bands = [reader.read(start, min(start + step, height)) for start in range(0, height, step)]
    return np.concatenate(bands), reader.streams


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of strips or tiles at once, however small."""
    monkeypatch.setattr(rows, "BAND", 1)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", FORMS)
def test_rows_are_those_of_the_whole_image(tmp_path: Path, name: str) -> None:
    """Whatever the layout and the rows asked for, the pixels are those of read_image; what can stream does."""
    data, options = FORMS[name]
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, data, **options)
    whole = images.read_image(path)
    image, streams = read_in_bands(path)
    np.testing.assert_array_equal(image, whole)
    assert streams == (name not in NOT_STREAMED)
    with rows.RowReader(path) as reader:
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
    with rows.RowReader(path) as reader:
        page = reader._stored.page
        plain = page.decode
        monkeypatch.setattr(page, "decode", lambda data, index, **o: decoded.append(index) or plain(data, index, **o))
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
    """An image, or the ValueError that names the file."""
    try:
        return read(path)
    except ValueError as error:
        message = str(error)
    assert str(path) in message
    return message


def compare(path: Path) -> None:
    """`RowReader` and `read_image` agree on a file: the same pixels, or each an error."""
    whole = read_or_error(images.read_image, path)
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
        for read in (images.read_image, rows.RowReader):
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
    with rows.RowReader(path) as reader:
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
    with rows.RowReader(path) as reader:
        np.testing.assert_array_equal(reader.read(0, 40), A[:40])
        with pytest.raises(ValueError, match="floats from"):
            reader.read(0, 41)


def test_what_only_opencv_decodes_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without imagecodecs LZW is read whole, by OpenCV, and handed out by rows all the same."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, compression="lzw", rowsperstrip=7)
    monkeypatch.setattr(tiff, "_opencv_reads", lambda page, pages: True)
    image, streams = read_in_bands(path)
    assert not streams
    np.testing.assert_array_equal(image, A)


def test_files_that_cannot_be_opened_or_read(tmp_path: Path) -> None:
    """A missing file is an OSError, a text file a ValueError with its name, rows outside the image one too."""
    with pytest.raises(FileNotFoundError, match=r"missing\.tiff"):
        rows.RowReader(tmp_path / "missing.tiff")
    path = tmp_path / "image.tiff"
    path.write_text("id,rle\n")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        rows.RowReader(path)
    tifffile.imwrite(path, A, **RGB)
    with rows.RowReader(path) as reader:
        for start, stop in ((-1, 5), (5, 4), (0, HEIGHT + 1)):
            with pytest.raises(ValueError, match=f"rows 0 to {HEIGHT}"):
                reader.read(start, stop)


# --- resizing by rows ------------------------------------------------------------------------------------------

sides = st.integers(1, 60)


def by_rows(source: np.ndarray, target: tuple[int, int], cuts: list[int]) -> np.ndarray:
    """`MapRows` with the source divided at the cuts."""
    resizer = rows.MapRows(source.shape[:2], target)  # type: ignore[arg-type]
    edges = [0, *sorted(cut % (len(source) + 1) for cut in cuts), len(source)]
    return np.concatenate([resizer.push(source[a:b]) for a, b in itertools.pairwise(edges)])


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.lists(st.integers(0, 60), max_size=6), st.integers(0, 9))
@example((31, 29), (97, 101), [30], 0)
@example((53, 47), (17, 13), [1, 2, 3], 1)
@example((53, 13), (17, 47), [52], 2)
@settings(max_examples=300)
def test_resizing_by_rows_is_resizing(
    shape: tuple[int, int], target: tuple[int, int], cuts: list[int], seed: int
) -> None:
    """Up, down or mixed, the map is that of resize to 1e-5, and the same bits however it was pushed."""
    source = np.random.default_rng(seed).random(shape, np.float32)
    whole = by_rows(source, target, [])
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(by_rows(source, target, cuts), whole)
    np.testing.assert_array_equal(by_rows(source, target, list(range(shape[0]))), whole)
    np.testing.assert_allclose(whole, images.resize(source, target), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(751, 499), (1501, 251)])
@pytest.mark.parametrize("target", [(3001, 1999), (1000, 997), (211, 1009), (1501, 251)])
def test_large_maps_by_rows(shape: tuple[int, int], target: tuple[int, int]) -> None:
    """Places stay exact to 1e-5 of a value far from the origin, and all rows come."""
    source = np.random.default_rng(5).random(shape, np.float32)
    result = by_rows(source, target, list(range(0, shape[0], 101)))
    np.testing.assert_allclose(result, images.resize(source, target), atol=1e-5, rtol=0)


def test_rows_come_as_soon_as_they_are_complete() -> None:
    """Half the source gives nearly half the target, so that no more than a few rows are held back."""
    resizer = rows.MapRows((40, 31), (160, 124))
    assert resizer.push(np.zeros((20, 31), np.float32)).shape == (78, 124)
    assert resizer.push(np.zeros((0, 31), np.float32)).shape == (0, 124)
    assert resizer.push(np.zeros((20, 31), np.float32)).shape == (82, 124)


def test_resizing_by_rows_refuses() -> None:
    """Rows of another width, too many of them and an empty side are errors."""
    resizer = rows.MapRows((5, 7), (10, 14))
    with pytest.raises(ValueError, match=r"\(2, 6\) is pushed"):
        resizer.push(np.zeros((2, 6), np.float32))
    resizer.push(np.zeros((4, 7), np.float32))
    with pytest.raises(ValueError, match="behind 4 rows"):
        resizer.push(np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="at least 1 px"):
        rows.MapRows((5, 7), (0, 7))


# --- images at the network's scale -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of noise in tiles, where every error shows."""
    path = tmp_path_factory.mktemp("noise") / "image.tiff"
    data = np.random.default_rng(3).integers(0, 256, (211, 157, 3), np.uint8)
    tifffile.imwrite(path, data, **RGB, compression="zlib", tile=(32, 48))
    return path


def test_small_images_are_those_of_load_image(noise: Path) -> None:
    """Up to LARGE px the rows are the very bytes of load_image, in any order."""
    whole, native = images.load_image(noise, 0.4, 0.7)
    with rows.open_scaled(noise, 0.4, 0.7, (211, 157)) as image:
        assert (image.native, image.shape, image.streams) == (native, whole.shape[:2], False)
        np.testing.assert_array_equal(image.read(50, 90), whole[50:90])
        np.testing.assert_array_equal(image.read(0, 70), whole[:70])


@given(
    st.sampled_from([1.0, 2.0, 0.5, 0.37, 1.61, 3.3, 11.0, 1000.0]),
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 70)), max_size=8),
    st.sampled_from([1, 500, 3000, 10**6]),
)
@settings(max_examples=40)
def test_large_images_by_rows(noise: Path, target_um: float, calls: list[tuple[int, int]], piece: int) -> None:
    """Streamed rows are within one grey level of load_image, and the same bytes however they are asked for."""
    whole, native = images.load_image(noise, 1.0, target_um)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("LARGE", 0), ("BAND", 1), ("PIECE", piece)):
            patch.setattr(rows, name, value)
        with rows.open_scaled(noise, 1.0, target_um) as image:
            assert (image.native, image.shape, image.streams) == (native, whole.shape[:2], True)
            at_once = image.read(0, image.shape[0])
        assert at_once.shape == whole.shape
        assert np.abs(at_once.astype(int) - whole).max() <= 1
        with rows.open_scaled(noise, 1.0, target_um) as image:
            start = 0
            for further, count in calls:
                start = min(start + further, image.shape[0] - 1)
                stop = min(start + count, image.shape[0])
                np.testing.assert_array_equal(image.read(start, stop), at_once[start:stop])
            if start:
                with pytest.raises(ValueError, match=f"there are rows {start} to"):
                    image.read(start - 1, start)


def test_no_rows_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a damaged part is reached nothing more is handed out, rather than rows in the wrong place."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, compression="lzw", rowsperstrip=16)
    edit_tag(path, ("StripByteCounts", ""), lambda v: [*v[:2], v[2] // 2, *v[3:]])
    for name, value in (("LARGE", 0), ("BAND", 1), ("PIECE", 500)):
        monkeypatch.setattr(rows, name, value)
    with rows.open_scaled(path, 1.0, 1.0) as image:
        np.testing.assert_array_equal(image.read(0, 20), A[:20])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            image.read(10, 40)
        with pytest.raises(ValueError, match="there are rows 73 to 73"):
            image.read(10, 40)


def test_another_shape_than_the_table_says(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed or not, a file of another shape than the table's is the same error, as are bad pixel sizes."""
    messages = set()
    for large in (rows.LARGE, 0):
        monkeypatch.setattr(rows, "LARGE", large)
        with pytest.raises(ValueError, match=r"211 x 157 .* 157 x 211; correct") as caught:
            rows.open_scaled(noise, 0.4, 0.4, (157, 211))
        messages.add(str(caught.value))
        with pytest.raises(ValueError, match="pixel_size_um"):
            rows.open_scaled(noise, 0, 0.4)
    assert len(messages) == 1


# --- memory ----------------------------------------------------------------------------------------------------

PEAK = """
import sys
from hubmap_kit.images import rows

def peak():  # MB; not ru_maxrss, which counts the process that started this one
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

def stream(path, target_um):
    with rows.open_scaled(path, 1.0, target_um) as image:
        assert image.streams
        height, step = image.shape[0], 384
        for start in range(0, height, step):
            image.read(start, min(start + 512, height))

before = peak()
for target_um in sys.argv[2:]:
    stream(sys.argv[1], float(target_um))
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_area(tmp_path: Path) -> None:
    """An image of 108 Mpx (309 MB) is read at its own scale and at half of it in less than 120 MB."""
    path = tmp_path / "image.tiff"
    tiles = np.random.default_rng(0).integers(0, 4, (3, 512, 512, 3), np.uint8) * 60
    encoded = [zlib.compress(tile.tobytes(), 1) for tile in tiles]
    count = -(-12000 // 512) * -(-9000 // 512)
    tifffile.imwrite(
        path,
        (encoded[i % 3] for i in range(count)),
        shape=(12000, 9000, 3),
        dtype=np.uint8,
        tile=(512, 512),
        compression="zlib",
        **RGB,
    )
    command = [sys.executable, "-c", PEAK, str(path), "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) < 120
