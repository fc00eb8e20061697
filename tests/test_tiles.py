"""Tests of tile grid, window and stitching."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubmap_kit.tiles import blending_window, grid, pad_to_tile, predict_tiled, tile_starts


def identity(batch):
    """The red channel as a probability."""
    return batch[..., 0].astype(np.float32) / 255


@given(st.integers(1, 5000), st.integers(1, 700), st.floats(0, 0.95))
def test_starts_cover_the_axis(length, tile, overlap):
    """Tiles begin at 0, end with the axis, and neighbours overlap at least as asked."""
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    if length <= tile:
        assert len(starts) == 1
        return
    assert starts[-1] == length - tile
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert gaps.max() <= max(1, int(tile * (1 - overlap))) + 0.5


def test_starting_designs_grid():
    """A 3000 px image gives 3 x 3 patches of 1024 px, as at 750 px and 256 px."""
    assert len(grid((3000, 3000), 1024, 0.0)) == 9
    assert grid((750, 750), 256, 0.0).tolist() == [[y, x] for y in (0, 247, 494) for x in (0, 247, 494)]


@settings(max_examples=60)
@given(
    st.integers(1, 97),
    st.integers(1, 131),
    st.sampled_from([16, 31, 64]),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    st.integers(1, 5),
)
def test_identity_predictor_gives_the_image_back(height, width, tile, overlap, batch):
    """Whatever the image's size, the stitched map is the image: every pixel covered, no seams."""
    image = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    result = predict_tiled(image, identity, tile_size=tile, overlap=overlap, batch_size=batch)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, image[..., 0] / 255, atol=2e-6)


def test_batches_have_one_shape():
    """The predictor sees batches of one shape, so that it is compiled once."""
    shapes = set()

    def spy(batch):
        shapes.add((batch.shape, batch.dtype))
        return identity(batch)

    for shape in ((211, 97), (31, 503), (8, 8)):
        predict_tiled(np.zeros((*shape, 3), np.uint8), spy, tile_size=64, overlap=0.25, batch_size=4)
    assert shapes == {((4, 64, 64, 3), np.dtype(np.uint8))}


def test_blending_hides_what_tiles_do_at_their_border():
    """A predictor that is wrong by 1 in the outer eighth of a tile is wrong by far less once blended."""

    def bad_border(batch):
        out = np.zeros(batch.shape[:3], np.float32)
        out[:, :8] = out[:, -8:] = out[:, :, :8] = out[:, :, -8:] = 1
        return out

    result = predict_tiled(np.zeros((256, 320, 3), np.uint8), bad_border, tile_size=64, overlap=0.5, batch_size=4)
    assert result[8:-8, 8:-8].max() < 0.1


def test_window_is_symmetric_and_positive():
    """The window is mirror-symmetric, largest in the middle and never 0."""
    window = blending_window(31)
    assert np.allclose(window, window[::-1])
    assert window.argmax() == 15
    assert window.min() >= 1e-3


def test_padding_mirrors():
    """A small image is mirrored up to a tile, a large one is handed on as it is."""
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert pad_to_tile(image, 4).tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]]
    assert pad_to_tile(image, 2) is image


@pytest.mark.parametrize(
    ("image", "predict", "change", "rule"),
    [
        (np.zeros((9, 9), np.uint8), identity, {}, r"\(H, W, 3\)"),
        (np.zeros((9, 9, 3), np.float32), identity, {}, "uint8"),
        (np.zeros((9, 9, 3), np.uint8), lambda b: b, {}, "predictor gave"),
        (np.zeros((9, 9, 3), np.uint8), lambda b: np.full(b.shape[:3], np.nan), {}, "not finite"),
        (np.zeros((9, 9, 3), np.uint8), identity, {"overlap": 1.0}, "overlap"),
        (np.zeros((9, 9, 3), np.uint8), identity, {"batch_size": 0}, "batch_size"),
        (np.zeros((9, 9, 3), np.uint8), identity, {"tile_size": 0}, "at least 1 px"),
    ],
)
def test_wrong_arguments(image, predict, change, rule):
    """Each wrong argument is named."""
    with pytest.raises(ValueError, match=rule):
        predict_tiled(image, predict, **{"tile_size": 8, "overlap": 0.25, "batch_size": 2} | change)
