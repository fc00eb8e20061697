"""Tests of outlines: their rings fill exactly the mask they came from."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.ndimage import label

from hubmap_kit.outlines import path_of, rings, simplify, svg_path

masks = npst.arrays(np.uint8, st.tuples(st.integers(1, 13), st.integers(1, 11)), elements=st.integers(0, 1))


def filled(outlines, shape):
    """The mask inside rings, by the even-odd rule: a pixel is inside if an odd number of sides lies on its left."""
    crossings = np.zeros(shape, int)
    for ring in outlines:
        for (y, x), (next_y, next_x) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert (y == next_y) != (x == next_x), "sides are horizontal or vertical, and not empty"
            crossings[min(y, next_y) : max(y, next_y), x:] += 1
    return crossings % 2


def area(ring):
    """Area inside a ring, negative if it runs counterclockwise on a screen."""
    y, x = ring.T
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


@given(masks)
def test_rings_fill_the_mask(mask):
    """Rings give their mask again, whatever it looks like: holes, pixels that touch at a corner, borders."""
    assert np.array_equal(filled(rings(mask), mask.shape), mask)


@given(masks)
def test_outer_rings_are_regions_and_run_clockwise(mask):
    """There is one clockwise ring for each 4-connected region, and the areas add up to the mask's."""
    areas = [area(ring) for ring in rings(mask)]
    assert sum(each > 0 for each in areas) == label(mask)[1]
    assert sum(areas) == mask.sum()


def drawn(path):
    """The rings of an SVG path, as `svg_path` writes it."""
    found = []
    for start, steps in re.findall(r"M(-?\d+ -?\d+)l([^z]*)z", path):
        x, y = map(int, start.split())
        moves = np.array(re.findall(r"-?\d+", steps), int).reshape(-1, 2)
        points = np.cumsum(np.vstack(([x, y], moves)), axis=0)
        found.append(points[:, ::-1])
    return found


@given(masks)
def test_svg_path_holds_the_same_rings(mask):
    """The path of a mask, read back, fills the mask."""
    assert np.array_equal(filled(drawn(path_of(mask)), mask.shape), mask)


@given(masks, st.floats(0.5, 3))
def test_simplified_rings_stay_near(mask, tolerance):
    """A ring keeps some of its own corners, and each corner left out is near the new ring."""
    for ring in rings(mask):
        kept = simplify(ring, tolerance)
        assert {tuple(point) for point in kept.tolist()} <= {tuple(point) for point in ring.tolist()}
        starts, ends = kept.astype(float), np.roll(kept, -1, axis=0).astype(float)
        for point in ring:
            along = ends - starts
            length = np.maximum((along**2).sum(axis=1), 1e-12)
            share = np.clip(((point - starts) * along).sum(axis=1) / length, 0, 1)
            nearest = np.hypot(*(starts + share[:, None] * along - point).T).min()
            assert nearest <= tolerance + 1e-6


def test_no_mask_has_no_path():
    """An empty mask, and one whose regions are smaller than the tolerance, have an empty path."""
    assert path_of(np.zeros((5, 3))) == svg_path([]) == ""
    assert path_of(np.eye(3), tolerance_px=5) == ""


@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_a_full_mask_is_its_frame(shape):
    """The outline of a full mask is the frame of the image."""
    height, width = shape
    assert path_of(np.ones(shape)) == f"M0 0l{width} 0 0 {height}-{width} 0z"
