"""Tests of what is measured of one image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import corner_mask
from hypothesis import given
from hypothesis import strategies as st

from hubmap_kit.demo.tissue import draw
from hubmap_kit.images.stain import DAB, HAEMATOXYLIN, from_optical_density
from hubmap_kit.reports.inspect_alike import copies
from hubmap_kit.reports.inspect_image import HEAT_SIDE, hues_of, measure_image, picture_of


def tissue(shape, rng, organ="largeintestine"):
    """Drawn tissue and its mask."""
    return draw(organ, "HPA", shape, 0.4, 4, rng)


def of_mask(pixels, mask, pixel_size_um):
    """The measures of a mask."""
    found = measure_image(pixels, mask, pixel_size_um).mask
    assert found
    return found


@given(st.integers(29, 90), st.integers(29, 90), st.integers(0, 2**31))
def test_mask_measures_add_up(height, width, seed):
    """Units and specks together are all regions, their areas the mask's, and the heat's mean is its share."""
    rng = np.random.default_rng(seed)
    coarse = corner_mask((height // 5, width // 5), rng)
    mask = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    found = of_mask(pixels, mask, 3.0)
    count, _, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    areas = boxes[1:, cv2.CC_STAT_AREA] * 9.0
    assert found.share == mask.mean()
    assert sorted(found.units_um2) == sorted(areas[areas >= 50])
    assert found.specks + len(found.units_um2) == count - 1
    assert found.heat.shape == (HEAT_SIDE, HEAT_SIDE)
    assert found.heat.mean() == pytest.approx(mask.mean(), abs=0.02)


def test_units_at_the_border_are_counted(rng):
    """A unit at each of the four sides touches the border, one inside does not, and a speck is no unit."""
    mask = np.zeros((211, 307), np.uint8)
    for y, x in ((0, 50), (191, 70), (90, 0), (100, 287), (95, 150)):
        mask[y : y + 20, x : x + 20] = 1
    mask[0, 0] = 1
    found = of_mask(tissue(mask.shape, rng)[0], mask, 0.5)
    assert (found.touching, len(found.units_um2), found.specks) == (4, 5, 1)


@pytest.mark.parametrize("shape", [(211, 307), (1511, 1021)])
def test_a_unit_on_glass_is_found(shape, rng):
    """Of two equal units one lies on tissue and one on glass: half of the mask, also where the image is sampled."""
    image = rng.integers(100, 200, (*shape, 3), np.uint8)
    image[:, shape[1] // 2 :] = 240
    mask = np.zeros(shape, np.uint8)
    mask[100:160, 20:80] = mask[100:160, -80:-20] = 1
    found = of_mask(image, mask, 0.5)
    assert (found.on_glass, len(found.units_um2), found.glass_share, found.white) == (1, 2, 0.5, 0.5)


def test_blank_images_have_no_measures_that_divide_by_zero():
    """An image of one colour has no contrast, no look, hues and fit, and is like no other."""
    blank = np.full((97, 131, 3), 255, np.uint8)
    found = measure_image(blank, np.pad(np.ones((31, 37), np.uint8), ((10, 56), (10, 84))), 0.5)
    assert (found.contrast, found.tissue_share, found.look.values, found.hues) == (0, 0, (), None)
    assert found.mask
    assert found.mask.fit is None
    assert not found.picture.any()
    assert not copies([found.picture, found.picture])


@pytest.mark.parametrize("turns", range(4))
def test_copies_are_found_whatever_was_done_to_them(turns, rng):
    """A copy that was turned, made smaller, darker and saved with loss is found; other tissue of the organ is not."""
    image, _ = tissue((601, 503), rng)
    other, _ = tissue((601, 503), rng)
    small = cv2.resize(np.ascontiguousarray(np.rot90(image, turns)), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    copy = np.asarray(cv2.imdecode(cv2.imencode(".jpg", (small * 0.8).astype(np.uint8))[1], cv2.IMREAD_COLOR), np.uint8)
    (pair,) = copies([picture_of(image), picture_of(other), picture_of(copy)])
    assert (pair.first, pair.second, pair.turned) == (0, 2, turns > 0)


def test_hues_tell_dyes_and_not_their_strength(rng):
    """Twice the dye has the same hues; another dye shares hardly any."""
    amount = rng.uniform(0.3, 0.5, (101, 103, 1))
    blue, strong, brown = (
        np.asarray(hues_of(from_optical_density(amount * factor * np.array(dye))))
        for factor, dye in ((1, HAEMATOXYLIN), (2, HAEMATOXYLIN), (1, DAB))
    )
    assert (blue * blue).sum() == pytest.approx(1, abs=1e-5)
    assert (blue * strong).sum() > 0.95
    assert (blue * brown).sum() < 0.1
