"""Tests of thresholds and least region sizes chosen out of fold."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from hubmap_kit import rle
from hubmap_kit.competition import ORGANS
from hubmap_kit.config import TrainConfig
from hubmap_kit.masks import MaskRule
from hubmap_kit.tables import Image
from hubmap_kit.training.thresholds import (
    LEAST_IMAGES,
    LEAST_KEPT,
    REGION_UM2,
    THRESHOLDS,
    choose,
    dice_at,
    first_rule,
    sweep,
    sweep_table,
)

SHAPE = (len(THRESHOLDS), len(REGION_UM2))
DEFAULTS = MaskRule.uniform(0.45, 12.0)


def plain_dice(mask: np.ndarray, truth: np.ndarray) -> float:
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else 1.0


def test_sweep_is_thresholding_labelling_and_scoring(rng):
    """Each value is the Dice of the mask at that threshold without its small regions."""
    noise = np.clip(ndimage.gaussian_filter(rng.random((211, 157)), 3) * 6 - 2.6, 0, 1).astype(np.float32)
    noise[5, : len(THRESHOLDS)] = THRESHOLDS  # a pixel at the threshold is foreground
    truth = noise > 0.47
    truth[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    pixel_size_um = 2.3
    found = sweep(noise, rle.mask_to_runs(truth), pixel_size_um)
    assert found.shape == SHAPE
    for i, threshold in enumerate(THRESHOLDS):
        mask = noise >= threshold
        labels, _ = ndimage.label(mask)
        areas = np.bincount(labels.ravel())
        for j, um2 in enumerate(REGION_UM2):
            kept = mask & (areas[labels] >= round(um2 / pixel_size_um**2))
            assert found[i, j] == pytest.approx(plain_dice(kept, truth))
    assert len(np.unique(found.round(6))) > SHAPE[0] * 3  # the region sizes matter


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_sweep_of_flat_maps(value):
    """A map without foreground scores 0 against a mask and 1 against none; a full one the other way round."""
    flat = np.full((61, 83), value, np.float32)
    full, empty = (rle.mask_to_runs(np.full(flat.shape, on)) for on in (True, False))
    assert (sweep(flat, full, 10.0) == value).all()
    assert (sweep(flat, empty, 10.0) == 1 - value).all()


def annotated(organ: str, *sides: int, pixel_size_um: float = 2.0) -> Image:
    """An image whose true mask has squares of these sides in px, apart from each other."""
    mask, x = np.zeros((100, 1000), np.uint8), 0
    for side in sides:
        mask[:side, x : x + side] = 1
        x += side + 1
    return Image(1, organ, "HPA", mask.shape, pixel_size_um, None, Path("1.tiff"), 2, rle.encode(mask))


def least_regions(*images: Image) -> dict[str, float]:
    """The least region sizes to begin with."""
    return dict(first_rule(images, TrainConfig()).min_region_um2)


def test_least_regions_spare_the_units():
    """The largest size is taken that nearly keeps the true masks; crumbs beside the units do not matter."""
    kidney = [annotated("kidney", 90, 23, 1), annotated("kidney", 40)]  # 2116 um2 and more, and a crumb of 4 um2
    lung = [annotated("lung", 90, 90), annotated("lung", 10)]  # one image has 400 um2 only
    assert least_regions(*kidney, *lung) == {"kidney": 2000.0, "lung": 250.0}


def test_least_regions_drop_what_hardly_counts():
    """A small unit in a large mask is given up as long as the mean Dice stays above the bound."""
    side = 90
    for small in (3, 20):
        dice = 2 * side**2 / (2 * side**2 + small**2)
        found = least_regions(annotated("spleen", side, small))["spleen"]
        assert (found > 4 * small**2) == (dice >= LEAST_KEPT)


def test_least_regions_without_masks():
    """Images without a unit say nothing about its size."""
    empty = replace(annotated("lung", 1), rle="")
    assert least_regions(empty) == {"lung": 0.0}
    assert least_regions(*[empty] * 9, annotated("lung", 10)) == {"lung": 250.0}


def test_without_tuning_no_region_is_dropped():
    """With tune off, the rule is the threshold alone."""
    rule = first_rule([annotated("lung", 90)], TrainConfig(tune=False, threshold=0.3))
    assert rule == MaskRule.uniform(0.3, organs=["lung"])


def peak(at: float, size: float, *, height: float = 0.9) -> np.ndarray:
    """Dice that falls evenly with the distance from a threshold, and with each size further from the best."""
    fall = np.abs(np.array(THRESHOLDS) - at)[:, None]
    steps = np.abs(np.arange(len(REGION_UM2)) - REGION_UM2.index(size))[None, :]
    return height - fall - 0.05 * steps


def table_of(*images: tuple[int, str, np.ndarray], copies: int = LEAST_IMAGES) -> pd.DataFrame:
    """The sweep table of images, given as id, organ and Dice. Each comes several times, enough to choose on."""
    many = [(10 * i + copy, organ, dice) for i, organ, dice in images for copy in range(copies)]
    ids, organs, dice = zip(*many, strict=True)
    return sweep_table(ids, organs, np.stack(dice))


def chosen_of(dice: np.ndarray) -> tuple[float, float]:
    """The pair that is chosen on images that are all alike."""
    choice = choose(table_of((1, "lung", dice)), DEFAULTS)
    return choice.thresholds["lung"], choice.min_region_um2["lung"]


def test_a_table_has_a_row_for_each_image_and_pair():
    """The value of a pair stands in its row, and the images keep their order."""
    dice = np.arange(2 * np.prod(SHAPE)).reshape(2, *SHAPE) / 1000
    table = sweep_table([7, 3], ["lung", "spleen"], dice)
    assert list(table.columns) == ["id", "organ", "threshold", "min_region_um2", "dice"]
    assert len(table) == dice.size
    assert table["id"].unique().tolist() == [7, 3]
    (row,) = table.query("id == 3 and threshold == 0.25 and min_region_um2 == 500").to_dict("records")
    assert (row["organ"], row["dice"]) == ("spleen", dice[1, 3, 2])


def test_the_best_mean_over_images_is_chosen():
    """Images count alike, whichever fold's table they are from."""
    folds = [
        table_of((1, "lung", peak(0.3, 500.0)), (3, "spleen", peak(0.65, 0.0))),
        table_of((2, "lung", peak(0.5, 500.0, height=0.7))),
    ]
    choice = choose(pd.concat(folds), DEFAULTS)
    assert choice.thresholds == {**DEFAULTS.thresholds, "lung": 0.4, "spleen": 0.65}
    assert choice.min_region_um2 == {**DEFAULTS.min_region_um2, "lung": 500.0, "spleen": 0.0}


def test_dice_of_the_choice():
    """Each image has the Dice of its organ's pair, in the table's order, from a file too."""
    table = table_of((9, "spleen", peak(0.65, 0.0)), (2, "lung", peak(0.5, 500.0)), (1, "lung", peak(0.3, 500.0)))
    choice = choose(table, DEFAULTS)
    text = table.to_csv(index=False, float_format="%.6f")
    for read in (table, pd.read_csv(io.StringIO(text))):
        assert dice_at(read, choice) == pytest.approx(np.repeat([0.9, 0.8, 0.8], LEAST_IMAGES))


def test_organs_without_images():
    """An organ without images keeps its pair."""
    table = table_of((1, "lung", peak(0.3, 500.0)))
    choice = choose(table, DEFAULTS)
    assert set(choice.thresholds) == set(choice.min_region_um2) == set(ORGANS)
    assert (choice.thresholds["kidney"], choice.min_region_um2["kidney"]) == (0.45, 12.0)
    assert choose(table.iloc[:0], DEFAULTS) == DEFAULTS


def test_few_images_choose_nothing():
    """An organ with too few images keeps its pair, however much better another one is."""
    for copies, threshold in ((LEAST_IMAGES - 1, 0.45), (LEAST_IMAGES, 0.8)):
        choice = choose(table_of((1, "lung", peak(0.8, 500.0)), copies=copies), DEFAULTS)
        assert choice.thresholds["lung"] == threshold
        assert choice.min_region_um2["lung"] == (12.0 if threshold == 0.45 else 500.0)


@pytest.mark.parametrize(("against", "threshold"), [(1, 0.3), (4, 0.45)])
def test_images_that_disagree_choose_nothing(against, threshold):
    """An organ keeps its pair if some images gain and others lose, so that the mean gain is within its error."""
    images = [(i, "lung", peak(0.3, 0.0)) for i in range(1, 7)]
    images += [(i, "lung", peak(0.55, 0.0)) for i in range(11, 11 + against)]
    choice = choose(table_of(*images, copies=1), DEFAULTS)
    assert choice.thresholds["lung"] == threshold


def test_a_lucky_threshold_is_not_taken():
    """A single high point between low neighbours loses against a broad hill that is a little lower."""
    dice = peak(0.65, 0.0, height=0.8)
    dice[THRESHOLDS.index(0.2)] = 0.82
    assert dice.max() == dice[THRESHOLDS.index(0.2), 0]
    assert chosen_of(dice)[0] == 0.65


@pytest.mark.parametrize("at", [THRESHOLDS[0], THRESHOLDS[-1]])
def test_the_ends_of_the_grid(at):
    """The lowest and the highest threshold are chosen where they are best."""
    assert chosen_of(peak(at, 0.0))[0] == at


@pytest.mark.parametrize(("gain", "size"), [(0.0009, 0.0), (0.0011, 1000.0)])
def test_a_small_gain_drops_nothing(gain, size):
    """Regions are dropped only where that gains more than a thousandth."""
    dice = np.repeat(peak(0.4, 0.0)[:, :1], len(REGION_UM2), axis=1)
    dice[:, REGION_UM2.index(1000.0)] += gain
    assert chosen_of(dice) == (0.4, size)


def test_the_middle_of_a_plateau():
    """The middle one of equally good thresholds is taken, or the lower of the two in the middle."""
    for low, high, middle in ((0.3, 0.7, 0.5), (0.3, 0.65, 0.45)):
        dice = np.zeros(SHAPE)
        plateau = slice(THRESHOLDS.index(low), THRESHOLDS.index(high) + 1)
        # One end is better, by less than counts; beyond the ends Dice falls off steeply.
        dice[plateau] = np.linspace(0.8, 0.8005, len(THRESHOLDS[plateau]))[:, None]
        assert chosen_of(dice)[0] == middle


def test_tables_from_files():
    """Tables of folds that went through CSV are put together as those that did not."""
    table = table_of((1, "lung", peak(0.3, 500.0)))
    other = table_of((2, "lung", peak(0.5, 500.0, height=0.7)))
    stored = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    stored.loc[::2, "threshold"] += 1e-16  # as another reader of numbers may do
    assert (stored["threshold"] != table["threshold"]).any()
    choice = choose(pd.concat([stored, other]), DEFAULTS)
    assert (choice.thresholds["lung"], choice.min_region_um2["lung"]) == (0.4, 500.0)


def test_tables_of_different_grids():
    """Folds that tried different thresholds are refused: their means would not be of the same images."""
    one, other = (table_of((i, "lung", peak(0.3, 500.0))) for i in (1, 2))
    with pytest.raises(ValueError, match="lung were not all tried with the same thresholds"):
        choose(pd.concat([one, other[other["threshold"] > 0.2]]), DEFAULTS)
    with pytest.raises(ValueError, match="train the folds again"):
        choose(one.iloc[1:], DEFAULTS)
