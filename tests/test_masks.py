"""Tests of the rule that turns probability maps into masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from hubmap_kit import rle
from hubmap_kit.competition import ORGANS
from hubmap_kit.masks import MaskBuilder, MaskRule


def mask_of(probability, threshold, least_px):
    """The mask by thresholding the map and labelling the regions of the mask."""
    mask = probability >= np.float32(threshold)
    labels, count = ndimage.label(mask)
    return mask & (np.bincount(labels.ravel(), minlength=count + 1)[labels] >= least_px)


@given(
    st.integers(0, 99),
    st.sampled_from([0.3, 0.5, 0.62]),
    st.sampled_from([0, 3, 11]),
    st.lists(st.integers(0, 23), max_size=4),
)
def test_mask_of_a_map_whole_or_in_bands(seed, threshold, least_px, cuts):
    """The mask is what labelling leaves, in pixels of the image's own size, whole or in bands of rows."""
    probability = np.random.default_rng(seed).random((23, 19), np.float32)
    probability[[0, 0, -1, -1], [0, -1, 0, -1]] = 1
    um = 0.7
    rule = MaskRule({"lung": threshold}, {"lung": least_px * um**2})
    expected = rle.mask_to_runs(mask_of(probability, threshold, least_px))
    np.testing.assert_array_equal(rule.runs(probability, "lung", um), expected)
    builder = rule.builder("lung", (23, 19), um)
    for rows in np.split(probability, sorted(cuts)):
        builder.add(rows)
    np.testing.assert_array_equal(builder.runs(), expected)


def test_sum_of_several_maps(rng):
    """The sum of three maps is compared with three times the threshold."""
    maps = rng.random((3, 23, 19), np.float32)
    builder = MaskRule({"lung": 0.4}).builder("lung", (23, 19), 0.5, maps=3)
    builder.add(maps.sum(axis=0))
    np.testing.assert_array_equal(builder.runs(), rle.mask_to_runs(maps.sum(axis=0) >= np.float32(1.2000000000000002)))


def test_several_areas_of_one_map(rng):
    """One builder gives the masks of several least areas, in any order."""
    probability = rng.random((61, 83), np.float32)
    builder = MaskBuilder((61, 83), 2.0, 0.45)
    builder.add(probability)
    for least_px in (5, 0, 40, 2):
        expected = rle.mask_to_runs(mask_of(probability, 0.45, least_px))
        np.testing.assert_array_equal(builder.runs(4.0 * least_px), expected)


def test_mean_of_rules():
    """An ensemble's rule has the mean of its members' numbers; a member has its own mean for an unknown organ."""
    rules = [MaskRule({"lung": 0.4, "kidney": 0.6}, {"lung": 90.0}), MaskRule({"lung": 0.5}, {"kidney": 7.0})]
    assert MaskRule.mean(rules) == MaskRule({"lung": 0.45, "kidney": 0.55}, {"lung": 45.0, "kidney": 0.0})


def test_one_number_for_all_organs():
    """A number that overrides the rule holds for every organ, those that the rule does not know too."""
    rule = MaskRule({"lung": 0.4}, {"lung": 90.0})
    assert rule.override() == rule
    assert rule.override(threshold=0.0) == MaskRule(dict.fromkeys(ORGANS, 0.0), {"lung": 90.0})
    assert rule.override(min_region_um2=0.0) == MaskRule({"lung": 0.4}, dict.fromkeys(ORGANS, 0.0))
    assert rule.override(0.3, 5.0) == MaskRule.uniform(0.3, 5.0)
    assert MaskRule({"liver": 0.4}).override(min_region_um2=5.0).of("liver") == (0.4, 5.0)
    assert rule.override(0.3, 5.0).of("liver") == (0.3, 5.0)


def test_an_organ_that_the_rule_does_not_know():
    """An organ that the training did not see has the means of those it saw; a rule without any is an error."""
    probability = np.array([[0.45, 0.55, 0.65]], np.float32)
    rule = MaskRule({"lung": 0.4, "kidney": 0.8}, {"kidney": 4.0})
    assert rule.runs(probability, "liver", 1.0).tolist() == []  # 1 px of 1 um² is below 2 um²
    assert rule.runs(probability, "liver", 2.0).tolist() == [[2, 3]]
    with pytest.raises(ValueError, match=r"the run has no thresholds; .*--threshold 0\.5"):
        MaskRule({}).runs(probability, "liver", 0.4)


def test_json_form():
    """A rule is read back from JSON, also among other keys; JSON without a rule is refused."""
    rule = MaskRule({"lung": 0.4, "kidney": 0.55}, {"lung": 90.0})
    assert MaskRule.from_json(json.loads(json.dumps(rule.to_json())) | {"format": 3}) == rule
    for damaged in ({}, {"thresholds": {"lung": 0.4}}, {"thresholds": 0.4, "min_region_um2": {}}):
        with pytest.raises(ValueError, match="it needs thresholds and min_region_um2"):
            MaskRule.from_json(damaged)
    with pytest.raises(ValueError, match="it needs thresholds"):
        MaskRule.from_json({"thresholds": {"lung": "much"}, "min_region_um2": {}})


def test_least_area_is_in_um2_of_the_images_own_pixels():
    """A region below the least area, in µm² at the image's own pixel size, is not in the mask."""
    probability = np.zeros((23, 29), np.float32)
    probability[2:7, 3:8] = 0.9  # 25 px of 4 µm²: 100 µm²
    probability[12:20, 11:20] = 0.9  # 72 px: 288 µm²
    for least_um2, pixels in ((0.0, 97), (100.0, 97), (104.0, 72), (294.0, 0)):
        assert rle.area(MaskRule({"lung": 0.5}, {"lung": least_um2}).runs(probability, "lung", 2.0)) == pixels
    assert len(MaskRule({"lung": 0.95}).runs(probability, "lung", 2.0)) == 0
