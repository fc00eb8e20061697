"""Tests of resizing, and of bringing images to the network's scale."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import tifffile
from hypothesis import given
from tiff_files import HEIGHT, RGB, WIDTH, A, picture

from hubmap_kit.images.scaling import load_image, resize, resize_mask, scaled_shape


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(73, 53), (31, 17), (149, 211), (31, 211), (1, 1), (1, 500)])
def test_resize_keeps_places_type_and_range(shape: tuple[int, int], dtype: type) -> None:
    """Rows stay rows, corners stay in their corners, no value leaves the range of the input."""
    image: np.ndarray = A.astype(dtype)
    for source in (image, image[..., 0], image[..., :1]):
        out = resize(source, shape)
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
    assert np.all(resize(stripes, (17, 11)) == 0.5)
    assert np.all(resize(stripes, (17, 37)) == 0.5)


def test_resize_beyond_the_range_of_short(tmp_path: Path) -> None:
    """Sides above 32767 px, the limit of some of OpenCV's functions, are resized like others."""
    long = picture(5, 40009)
    out = resize(long, (3, 20005))
    assert np.abs(out[::2, ::20004].astype(int) - long[::4, ::40008]).max() < 60
    assert resize(out, (5, 40009)).shape == long.shape
    assert resize(long.transpose(1, 0, 2), (39989, 3)).shape == (39989, 3, 3)


def test_resize_refuses() -> None:
    """A side of 0 px, an empty image and another dtype are errors."""
    with pytest.raises(ValueError, match="at least 1 px"):
        resize(A, (0, 5))
    with pytest.raises(ValueError, match="float64"):
        resize(A.astype(np.float64), (5, 5))  # type: ignore[type-var]
    with pytest.raises(ValueError, match="takes"):
        resize(A[:0], (5, 5))
    with pytest.raises(ValueError, match="a mask is"):
        resize_mask(A, (5, 5))


def test_resize_mask_keeps_what_covers_half_a_pixel() -> None:
    """A mask stays {0, 1}, keeps its four corners, and a pixel counts where half of it is covered."""
    mask = np.zeros((34, 22), np.uint8)
    mask[:2, :2] = mask[:2, -2:] = mask[-2:, :2] = mask[-2:, -2:] = 255
    mask[10, 10:12] = 1  # half of one pixel
    mask[20, 10] = 1  # a quarter of one
    small = resize_mask(mask, (17, 11))
    assert small.dtype == np.uint8
    assert sorted(zip(*np.nonzero(small), strict=True)) == [(0, 0), (0, 10), (5, 5), (16, 0), (16, 10)]
    assert small.max() == 1
    np.testing.assert_array_equal(resize_mask(small, (17, 11)), small)
    np.testing.assert_array_equal(resize_mask(resize_mask(small, (51, 33)), (17, 11)), small)


sides = st.integers(1, 40000)
sizes = st.floats(0.01, 100)


@given(sides, sides, sizes, sizes)
def test_scaled_shape_keeps_the_size_in_um(height: int, width: int, pixel: float, target: float) -> None:
    """Each side keeps its length in µm to within half a target pixel, and at least one pixel."""
    scaled = scaled_shape((height, width), pixel, target)
    for side, new in zip((height, width), scaled, strict=True):
        assert isinstance(new, int)
        assert new >= 1
        assert new == 1 or abs(new * target - side * pixel) <= target * 0.5001
    assert scaled_shape((height, width), pixel, pixel) == (height, width)


@pytest.mark.parametrize("bad", [0, -0.4, float("nan"), float("inf")])
def test_scaled_shape_refuses_impossible_pixel_sizes(bad: float) -> None:
    """A pixel size that is zero, negative or no number is an error that names it."""
    with pytest.raises(ValueError, match="pixel_size_um"):
        scaled_shape((5, 7), bad, 0.4)
    with pytest.raises(ValueError, match="target_um"):
        scaled_shape((5, 7), 0.4, bad)
    with pytest.raises(ValueError, match="at least 1 px"):
        scaled_shape((0, 7), 0.4, 0.4)


def test_load_image_brings_an_image_to_the_working_pixel_size(tmp_path: Path) -> None:
    """The image comes at the target's scale together with the shape of its file."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB)
    image, native = load_image(path, 0.4, 0.8, (HEIGHT, WIDTH))
    assert native == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(image, resize(A, scaled_shape((HEIGHT, WIDTH), 0.4, 0.8)))
    same, _ = load_image(path, 0.4, 0.4)
    np.testing.assert_array_equal(same, A)


def test_load_image_checks_the_shape_of_the_table(tmp_path: Path) -> None:
    """A file that is not of the table's shape is an error with the file, both shapes and a remedy."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, A, **RGB)
    with pytest.raises(ValueError, match=r"73 x 53 .* 53 x 73; correct") as caught:
        load_image(path, 0.4, 0.4, (WIDTH, HEIGHT))
    assert str(path) in str(caught.value)
