"""Tests of what is suspicious about a submission's masks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from builders import an_image
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from hubmap_kit import rle
from hubmap_kit.competition import AREA_SHARES, ORGANS
from hubmap_kit.reports.review_flags import (
    LEAST_WRAPPED,
    MOST_SPECKS,
    AreaRange,
    area_ranges,
    facts_of,
    flags_of,
    one_pixel_off,
    twins,
)
from hubmap_kit.tables import read_images

RANGE = AreaRange(0.1, 0.3, 12, "train.csv")
masks = arrays(np.uint8, st.tuples(st.integers(1, 23), st.integers(1, 19)), elements=st.integers(0, 1))


def flags(mask, *, organ="kidney", um=1.0, known=RANGE, glass=None):
    """The flags of a mask, by key."""
    image = an_image(5, Path("test_images/5.tiff"), organ, um, mask.shape)
    return {
        flag.key: flag.text for flag in flags_of(image, facts_of(rle.mask_to_runs(mask), mask.shape, um), known, glass)
    }


def blob(shape=(101, 83), height=40, width=40):
    mask = np.zeros(shape, np.uint8)
    mask[30 : 30 + height, 20 : 20 + width] = 1
    return mask


@given(masks, st.floats(0.2, 20))
def test_facts_are_those_of_the_drawn_mask(mask, um):
    """Area, regions and specks are those that scipy counts on the drawn mask."""
    facts = facts_of(rle.mask_to_runs(mask), mask.shape, um)
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel())[1:] * um**2
    assert facts.share == pytest.approx(mask.mean())
    assert facts.regions == count
    assert facts.specks == (areas < 50).sum()


@given(masks)
def test_joined_columns_are_those_of_the_drawn_mask(mask):
    """Columns that continue in the next one, and those that do so by one pixel, are counted as on the drawn mask."""
    facts = facts_of(rle.mask_to_runs(mask), mask.shape, 1.0)
    padded = np.pad(mask, ((1, 1), (0, 0)))
    joined = (mask[-1, :-1] & mask[0, 1:]).astype(bool)
    inner = mask.all(axis=0)  # a full column joins its neighbours in one RLE run
    if not inner.any():
        single_below, single_above = padded[-3, :-1] == 0, padded[2, 1:] == 0
        assert facts.joined == joined.sum()
        assert facts.too_early == (joined & single_below & ~single_above).sum()
        assert facts.too_late == (joined & single_above & ~single_below).sum()


def test_a_good_mask_has_no_flag():
    """A mask of usual area in one piece is not suspicious."""
    assert flags(blob()) == {}


def test_empty_and_full_masks():
    """An empty mask and one of nearly the whole image have one flag each."""
    assert list(flags(np.zeros((31, 37)))) == ["empty"]
    full = np.ones((31, 37))
    full[:2] = 0
    assert flags(full) == {"full": "The mask covers 94 % of the image."}


def test_area_outside_the_range():
    """An area far from those of training is named with both numbers; one a little outside is not."""
    assert flags(blob(width=8)) == {
        "area": "The mask covers 3.8 % of the image, less than any of the 12 training images of kidney, which have "
        "10 % to 30 % (train.csv)."
    }
    assert "more than any" in flags(blob(height=70, width=80), known=AreaRange(0.01, 0.02, 3, "train.csv"))["area"]
    assert flags(blob(width=13)) == {}
    assert flags(blob(width=8), known=None) == {}


def test_mask_on_glass():
    """A mask on glass is flagged, but not that of an organ whose units are air."""
    assert flags(blob(), glass=0.9) == {"background": "90 % of the mask lies on glass, where there is no tissue."}
    assert flags(blob(), glass=0.5) == {}
    assert flags(blob(), glass=0.9, organ="lung") == {}


def test_specks():
    """Many tiny regions are flagged, but not a few, nor those of an image with coarse pixels."""
    mask = blob(shape=(211, 223), height=60, width=100)
    mask[100:200:4, 100:220:4] = 1
    count = 25 * 30
    assert flags(mask)["specks"] == f"{count} of its {count + 1} regions are smaller than a cell's nucleus (50 µm²)."
    assert "specks" not in flags(mask, um=8.0)
    few = blob(shape=(211, 223), height=60, width=100)
    few[100, 100 : 100 + 2 * MOST_SPECKS : 2] = 1
    assert "specks" not in flags(few)


@pytest.mark.parametrize(("moved", "remedy"), [(-1, "one too low"), (1, "one too high")])
def test_starts_off_by_one(moved, remedy):
    """A mask along the border whose RLE starts are off by one is flagged, and the right one is not."""
    mask = np.zeros((101, 83), np.uint8)
    mask[:40, 20:60] = mask[-30:, 5:70] = 1
    mask[50, 50] = 1
    mask[:, 30] = 0
    one_side = mask.copy()
    one_side[slice(-30, None) if moved < 0 else slice(None, 40)] = 0
    runs = rle.mask_to_runs(one_side) + moved
    wrong = rle.decode_runs(runs, one_side.shape)
    assert flags(one_side) == {}
    found = flags(wrong)
    assert list(found) == ["off-by-one"]
    assert remedy in found["off-by-one"]


def test_a_few_joined_columns_are_not_suspicious():
    """Two columns that happen to continue by a pixel in the next one are no flag."""
    mask = blob()
    mask[-1, 10:13] = 1
    mask[:5, 11:13] = 1
    assert LEAST_WRAPPED > 2
    assert flags(mask) == {}


def test_masks_one_pixel_off():
    """Masks that are another submission's, moved by a pixel, are found with the way back; independent ones are not."""
    rng = np.random.default_rng(4)
    pairs = []
    for _ in range(5):
        mask = ndimage.gaussian_filter(rng.standard_normal((71, 83)), 5) > 0
        pairs.append((mask, mask))

    def moved(y, x):
        return [(rle.mask_to_runs(np.roll(a, (y, x), (0, 1))), rle.mask_to_runs(b), (71, 83)) for a, b in pairs]

    assert one_pixel_off(moved(0, 0)) is None
    off, off_left = one_pixel_off(moved(1, 0)), one_pixel_off(moved(0, -1))
    assert off
    assert off_left
    direction, better, images, gain = off
    assert (direction, better, images) == ("up", 5, 5)
    assert gain > 0.01
    assert off_left[0] == "to the right"
    assert one_pixel_off(moved(1, 0)[:2]) is None
    assert one_pixel_off([(runs[:0], other, shape) for runs, other, shape in moved(1, 0)]) is None


def test_twins():
    """Images with the same mask are grouped; empty masks are not."""
    assert twins({1: "1 2", 2: "", 3: "1 2", 4: "", 5: "3 4"}) == [[1, 3]]


def test_ranges_are_those_of_train_csv(demo, tmp_path):
    """Ranges come from train.csv if there is one, and from the competition otherwise."""
    ranges = area_ranges(demo)
    for organ, known in ranges.items():
        images = [image for image in read_images(demo, "train") if image.organ == organ]
        shares = [rle.decode(image.rle, image.shape).mean() for image in images]
        assert (known.low, known.high, known.images) == pytest.approx((min(shares), max(shares), len(shares)))
    elsewhere = area_ranges(tmp_path)
    assert list(elsewhere) == list(ORGANS)
    assert (elsewhere["lung"].low, elsewhere["lung"].high, elsewhere["lung"].images) == AREA_SHARES["lung"]


def test_the_competitions_ranges():
    """The constants are those of the competition's own train.csv."""
    folder = Path(os.environ.get("HUBMAP_DATA", "nowhere"), "competition")
    if not (folder / "train.csv").is_file():
        pytest.skip("HUBMAP_DATA names no folder with competition/train.csv")
    for organ, known in area_ranges(folder).items():
        assert (round(known.low, 4), round(known.high, 4), known.images) == AREA_SHARES[organ]
