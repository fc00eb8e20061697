"""Tests of polygons compared with masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import corner_mask
from hypothesis import given
from hypothesis import strategies as st

from hubmap_kit import rle
from hubmap_kit.reports.inspect_annotations import agreement, annotation_path, polygon_runs, read_polygons


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 2**31))
def test_a_mask_one_row_off_agrees(height, width, seed):
    """A mask agrees fully with itself and with itself one pixel of the RLE later or earlier, but for its ends."""
    mask = corner_mask((height, width), np.random.default_rng(seed))
    runs = rle.mask_to_runs(mask)
    assert agreement(runs, runs, mask.shape) == 1
    moved = rle.mask_to_runs(np.roll(mask.T.ravel(), 1).reshape(width, height).T)
    assert agreement(runs, moved, mask.shape) >= 1 - 2 / max(1, mask.sum())


def test_the_demo_agrees(demo):
    """The polygons of the demo are its masks."""
    from hubmap_kit.tables import read_images

    for image in read_images(demo, "train"):
        polygons = polygon_runs(read_polygons(annotation_path(demo, image.id)), image.shape)
        assert agreement(rle.parse(image.rle, image.shape), polygons, image.shape) > 0.98


def test_other_polygons_disagree():
    """A square beside the mask shares nothing with it; half of the mask is a Dice of two thirds."""
    mask = np.zeros((31, 37), np.uint8)
    mask[5:15, 5:25] = 1
    runs = rle.mask_to_runs(mask)
    square = [np.array([[26, 20], [30, 20], [30, 25], [26, 25]], np.int32)]
    assert agreement(runs, polygon_runs(square, mask.shape), mask.shape) == 0
    half = [np.array([[5, 5], [14, 5], [14, 14], [5, 14]], np.int32)]
    assert agreement(runs, polygon_runs(half, mask.shape), mask.shape) == pytest.approx(2 / 3)


def test_polygons_are_read_as_written(tmp_path):
    """Points are rounded, and an empty polygon is left out."""
    path = tmp_path / "1.json"
    path.write_text(json.dumps([[[1, 2], [3.6, 4], [5, 6]], []]), encoding="utf-8")
    (polygon,) = read_polygons(path)
    assert polygon.tolist() == [[1, 2], [4, 4], [5, 6]]


@pytest.mark.parametrize(
    "text", ['{"a": 1}', "[1]", "[[1, 2]]", '[[["x", 1]]]', "[[[1, 2], [3]]]", "[[[1e9, 2]]]", "["]
)
def test_other_files_are_refused(tmp_path, text):
    """A file that holds no polygons raises an error that names it."""
    path = tmp_path / "17.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"17\.json"):
        read_polygons(path)
