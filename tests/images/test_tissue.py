"""Tests of the rule that tells tissue from glass."""

from __future__ import annotations

import numpy as np

from hubmap_kit.images.tissue import is_background, tissue_of


def test_tissue_is_a_channel_below_the_limit():
    """A pixel is tissue if any channel is below 205, also in an image that is a view of another."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (31, 37, 3), np.uint8)
    assert (tissue_of(image) == (image.min(axis=2) < 205)).all()
    assert (tissue_of(image[3:17, 5:30]) == (image.min(axis=2) < 205)[3:17, 5:30]).all()


def test_background_has_less_than_a_thousandth_of_tissue():
    """A tile of 1000 pixels is background without a dark pixel, and tissue with one."""
    tile = np.full((25, 40, 3), 230, np.uint8)
    assert is_background(tile)
    tile[7, 11, 1] = 204
    assert not is_background(tile)
