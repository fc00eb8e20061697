"""Tests of regions found on runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from hubmap_kit import rle
from hubmap_kit.regions import Regions, area_px, region_areas

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=17), elements=st.integers(0, 1))


def without_small(mask: np.ndarray, least_px: int) -> np.ndarray:
    """The result of labelling the mask itself."""
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return mask * (areas[labels] >= least_px).astype(np.uint8)


def spiral() -> np.ndarray:
    """A spiral, one region whose arms do not touch: its pieces are joined late."""
    mask = np.zeros((11, 13), np.uint8)
    mask[0] = mask[:, -1] = mask[-1] = mask[2:, 0] = mask[2, :-2] = mask[2:9, -3] = mask[8, 2:-2] = 1
    return mask


@given(MASKS, st.integers(0, 40))
@example(np.ones((7, 5), np.uint8), 35)
@example(np.ones((7, 5), np.uint8), 36)
@example(np.zeros((5, 7), np.uint8), 3)
@example(np.array([[0, 1], [0, 1], [1, 0]], np.uint8), 2)  # a run goes on at the top of the next column
@example(np.array([[1, 0], [0, 1], [1, 1]], np.uint8), 2)  # regions that touch at a corner
@example(spiral(), 60)
def test_small_regions_are_dropped(mask, least_px):
    """The regions that stay are those that labelling the mask and counting pixels leaves, as runs."""
    found = Regions(rle.mask_to_runs(mask), mask.shape).at_least(least_px)
    np.testing.assert_array_equal(found, rle.mask_to_runs(without_small(mask, least_px)))


def test_a_full_image_of_prime_sides(rng):
    """Noise of 211 x 307 px, with regions from one pixel to most of the image, as labelling leaves it."""
    for share in (0.3, 0.55, 0.62, 0.9):
        mask = (rng.random((211, 307)) < share).astype(np.uint8)
        mask[[0, 0, -1, -1], [0, -1, 0, -1]] = 1
        for least_px in (2, 7, 100, 10_000):
            found = Regions(rle.mask_to_runs(mask), mask.shape).at_least(least_px)
            np.testing.assert_array_equal(found, rle.mask_to_runs(without_small(mask, least_px)))


@pytest.mark.parametrize("least_px", [0, 5])
def test_runs_that_touch(least_px):
    """Runs that an RLE writes in two are one, and count as one."""
    runs = np.array([[0, 2], [2, 3], [3, 5], [34, 40]])
    assert Regions(runs, (11, 13)).at_least(least_px).tolist() == [[0, 5], [34, 40]]


def test_area_of_each_part():
    """Each column's part of a region has the area of the whole region."""
    mask = np.zeros((5, 7), np.uint8)
    mask[1:4, 2:4] = mask[4, 0] = mask[0, 6] = 1
    pieces, areas = region_areas(rle.mask_to_runs(mask), mask.shape)
    assert pieces.tolist() == [[4, 5], [11, 14], [16, 19], [30, 31]]
    assert areas.tolist() == [1, 6, 6, 1]


def test_area_in_pixels():
    """An area in um2 is as many pixels as their size says, rounded."""
    assert area_px(1000.0, 0.4) == 6250
    assert area_px(1000.0, 6.263) == 25
    assert area_px(0.0, 0.4) == 0
