"""Tests of masks as polygons and back."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Outline
from scipy import ndimage

from hubmap_kit import rle
from hubmap_kit.exchange.polygons import signed_area, to_polygons, to_runs

SHAPES = st.tuples(st.integers(1, 13), st.integers(1, 11))
MASKS = arrays.arrays(np.bool_, SHAPES, fill=st.nothing())


def mask_of(polygons, shape):
    return rle.decode(rle.encode_runs(to_runs(polygons, shape)), shape)


@given(MASKS)
def test_any_mask_comes_back(mask):
    """A mask becomes polygons and is the same mask again, each unit by itself too."""
    polygons = to_polygons(mask)
    np.testing.assert_array_equal(mask_of(polygons, mask.shape), mask)
    labels, count = ndimage.label(mask)
    assert len(polygons) == count
    for number, polygon in enumerate(polygons, start=1):
        np.testing.assert_array_equal(mask_of([polygon], mask.shape), labels == number)
        assert sum(map(signed_area, polygon)) == (labels == number).sum()


@given(MASKS)
def test_polygons_are_valid(mask):
    """One outer border, clockwise on a screen; holes the other way; no ring meets itself; no corner of 180 degrees."""
    for outer, *holes in to_polygons(mask):
        assert signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            assert len(set(map(tuple, ring.tolist()))) == len(ring) >= 4
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert ((steps[:, 0] == 0) != (np.roll(steps, 1, axis=0)[:, 0] == 0)).all()
        # Two holes share at most a corner, and no chain of shared corners cuts the polygon's inside in two.
        shared = Counter(corner for ring in (outer, *holes) for corner in map(tuple, ring.tolist()))
        assert max(shared.values()) <= 2


def test_pixels_that_share_a_corner():
    """Pixels that touch only diagonally are units of their own; a pocket that is closed diagonally is a hole."""
    assert len(to_polygons(np.eye(3))) == 3
    pocket = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 1, 1], [1, 1, 0, 0]])
    (polygon,) = to_polygons(pocket)
    assert [len(ring) for ring in polygon] == [6, 6]
    np.testing.assert_array_equal(mask_of([polygon], (4, 4)), pocket)


RINGS = st.lists(st.tuples(*[st.floats(-3, 16, width=32)] * 2), min_size=3, max_size=7)


@given(RINGS)
def test_a_pixel_is_covered_if_its_centre_is(corners):
    """Any ring, also one that crosses itself or leaves the image, covers the centres that are inside it."""
    shape = (11, 13)
    ring = np.array(corners, np.float64)
    centres = np.argwhere(np.ones(shape)) + 0.5
    found = mask_of([[ring]], shape).ravel()
    for (y, x), inside in zip(centres, found, strict=True):
        if distance(ring, y, x) > 1e-6:  # on the border either answer is right
            assert inside == winding_parity(ring, y, x)


def winding_parity(ring, y, x):
    """Whether a ray upwards crosses the ring an odd number of times, side by side in plain Python."""
    crossings = 0
    for (y0, x0), (y1, x1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if (x0 <= x) != (x1 <= x):
            crossings += y0 + (x - x0) / (x1 - x0) * (y1 - y0) < y
    return crossings % 2


def distance(ring, y, x):
    """Least distance of a point from the ring's sides."""
    a, b = ring, np.roll(ring, -1, axis=0)
    side, point = b - a, np.array([y, x]) - a
    length = (side**2).sum(axis=1)
    t = np.clip((point * side).sum(axis=1) / np.where(length > 0, length, 1), 0, 1)
    return np.sqrt(((point - t[:, None] * side) ** 2).sum(axis=1)).min()


@pytest.mark.parametrize("seed", range(5))
def test_as_matplotlib_fills_it(seed):
    """A star-shaped outline covers the same pixels as in matplotlib, which knows nothing of ours."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    radii = rng.uniform(5, 45, 40)
    ring = np.column_stack((51 + radii * np.sin(angles), 47 + radii * np.cos(angles)))
    shape = (101, 97)
    centres = np.argwhere(np.ones(shape)) + 0.5
    expected = Outline(np.vstack((ring, ring[:1]))).contains_points(centres).reshape(shape)
    np.testing.assert_array_equal(mask_of([[ring]], shape), expected)


def test_polygons_that_overlap_or_touch():
    """Overlapping polygons are joined, and a side that two share belongs to exactly one of them."""
    left = np.array([[0, 0], [0, 5.5], [7, 2.5], [7, 0]])
    right = np.array([[0, 5.5], [0, 9], [7, 9], [7, 2.5]])
    shape = (7, 9)
    parts = [mask_of([[ring]], shape) for ring in (left, right)]
    np.testing.assert_array_equal(parts[0] + parts[1], np.ones(shape))
    np.testing.assert_array_equal(mask_of([[left], [left + 0.25], [right]], shape), np.ones(shape))


def test_no_polygons():
    """No polygon, one outside the image and one between two centres cover nothing."""
    beside = np.array([[0, 20], [0, 22], [3, 22], [3, 20]])
    thin = np.array([[0, 0.6], [0, 1.4], [3, 1.4], [3, 0.6]])
    for polygons in ([], [[beside]], [[thin]]):
        assert to_runs(polygons, (3, 4)).shape == (0, 2)
