"""Tests of resizing by rows, and of the rows of an image at the network's scale."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import zlib
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from tiff_files import RGB, A, edit_tag

from hubmap_kit.images import scaled_rows, tiff_rows
from hubmap_kit.images.scaled_rows import RowResizer, open_scaled
from hubmap_kit.images.scaling import load_image, resize

sides = st.integers(1, 60)


def by_rows(source: np.ndarray, target: tuple[int, int], cuts: list[int]) -> np.ndarray:
    """`RowResizer` with the source divided at the cuts."""
    resizer = RowResizer((source.shape[0], source.shape[1]), target)
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
    """Up, down or mixed, the map is within 1e-5 of resize's, and the same bits however the rows were pushed."""
    source = np.random.default_rng(seed).random(shape, np.float32)
    whole = by_rows(source, target, [])
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(by_rows(source, target, cuts), whole)
    np.testing.assert_array_equal(by_rows(source, target, list(range(shape[0]))), whole)
    np.testing.assert_allclose(whole, resize(source, target), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(751, 499), (1501, 251)])
@pytest.mark.parametrize("target", [(3001, 1999), (1000, 997), (211, 1009), (1501, 251)])
def test_large_maps_by_rows(shape: tuple[int, int], target: tuple[int, int]) -> None:
    """Places stay exact to 1e-5 of a value far from the origin, and all rows come."""
    source = np.random.default_rng(5).random(shape, np.float32)
    result = by_rows(source, target, list(range(0, shape[0], 101)))
    np.testing.assert_allclose(result, resize(source, target), atol=1e-5, rtol=0)


def test_rows_come_as_soon_as_they_are_complete() -> None:
    """Half the source makes nearly half the target, so only a few rows are held back."""
    resizer = RowResizer((40, 31), (160, 124))
    assert resizer.push(np.zeros((20, 31), np.float32)).shape == (78, 124)
    assert resizer.push(np.zeros((0, 31), np.float32)).shape == (0, 124)
    assert resizer.push(np.zeros((20, 31), np.float32)).shape == (82, 124)


def test_resizing_by_rows_refuses() -> None:
    """Rows of another width, too many of them and an empty side are errors."""
    resizer = RowResizer((5, 7), (10, 14))
    with pytest.raises(ValueError, match=r"rows \(2, 6\) follow 0 rows"):
        resizer.push(np.zeros((2, 6), np.float32))
    resizer.push(np.zeros((4, 7), np.float32))
    with pytest.raises(ValueError, match="follow 4 rows"):
        resizer.push(np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="at least 1 px"):
        RowResizer((5, 7), (0, 7))


# --- images at the network's scale -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of noise in tiles, where every error shows."""
    path = tmp_path_factory.mktemp("noise") / "image.tiff"
    data = np.random.default_rng(3).integers(0, 256, (211, 157, 3), np.uint8)
    tifffile.imwrite(path, data, **RGB, compression="zlib", tile=(32, 48))
    return path


def stream(patch: pytest.MonkeyPatch, values_at_once: int) -> None:
    """Stream images of any size, a few rows at once."""
    patch.setattr(scaled_rows, "HELD_WHOLE_PX", 0)
    patch.setattr(tiff_rows, "VALUES_AT_ONCE", 1)
    patch.setattr(scaled_rows, "VALUES_AT_ONCE", values_at_once)


def test_small_images_are_those_of_load_image(noise: Path) -> None:
    """Up to HELD_WHOLE_PX the rows are the very bytes of load_image, in any order."""
    whole, native = load_image(noise, 0.4, 0.7)
    with open_scaled(noise, 0.4, 0.7, (211, 157)) as image:
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
    """Streamed rows are within one grey level of load_image, and the same bytes, however many rows are read at once."""
    whole, native = load_image(noise, 1.0, target_um)
    with pytest.MonkeyPatch.context() as patch:
        stream(patch, piece)
        with open_scaled(noise, 1.0, target_um) as image:
            assert (image.native, image.shape, image.streams) == (native, whole.shape[:2], True)
            at_once = image.read(0, image.shape[0])
        assert at_once.shape == whole.shape
        assert np.abs(at_once.astype(int) - whole).max() <= 1
        with open_scaled(noise, 1.0, target_um) as image:
            start = 0
            for further, count in calls:
                start = min(start + further, image.shape[0] - 1)
                stop = min(start + count, image.shape[0])
                np.testing.assert_array_equal(image.read(start, stop), at_once[start:stop])
            if start:
                with pytest.raises(ValueError, match=f"there are rows {start} to"):
                    image.read(start - 1, start)


def test_no_rows_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a damaged part no further rows can be read, rather than rows in the wrong place."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB, compression="lzw", rowsperstrip=16)
    edit_tag(path, ("StripByteCounts", ""), lambda v: [*v[:2], v[2] // 2, *v[3:]])
    stream(monkeypatch, 500)
    with open_scaled(path, 1.0, 1.0) as image:
        np.testing.assert_array_equal(image.read(0, 20), A[:20])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            image.read(10, 40)
        with pytest.raises(ValueError, match="there are rows 73 to 73"):
            image.read(10, 40)


def test_another_shape_than_the_table_says(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed or not, a file of another shape than the table's is the same error, as are bad pixel sizes."""
    messages = set()
    for large in (scaled_rows.HELD_WHOLE_PX, 0):
        monkeypatch.setattr(scaled_rows, "HELD_WHOLE_PX", large)
        with pytest.raises(ValueError, match=r"211 x 157 .* 157 x 211; correct") as caught:
            open_scaled(noise, 0.4, 0.4, (157, 211))
        messages.add(str(caught.value))
        with pytest.raises(ValueError, match="pixel_size_um"):
            open_scaled(noise, 0, 0.4)
    assert len(messages) == 1


# --- memory ----------------------------------------------------------------------------------------------------

PEAK = """
import sys
from hubmap_kit.images.scaled_rows import open_scaled

def peak():  # MB; not ru_maxrss, which counts the process that started this one
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

def stream(path, target_um):
    with open_scaled(path, 1.0, target_um) as image:
        assert image.streams
        height, step = image.shape[0], 384
        for start in range(0, height, step):
            image.read(start, min(start + 512, height))

before = peak()
for target_um in sys.argv[2:]:
    stream(sys.argv[1], float(target_um))
print(peak() - before)
"""


@pytest.mark.slow
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
