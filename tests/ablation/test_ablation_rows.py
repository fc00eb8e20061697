"""Tests of the rows of an ablation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hubmap_kit.ablation.rows import BASE, ROWS, plan
from hubmap_kit.config import PredictConfig, PrepareConfig, TrainConfig
from hubmap_kit.recipes import STRONG, recipe

GEOMETRIES = [
    PrepareConfig(folds=2),
    PrepareConfig(folds=2, patch_size=1021, context="408.4,prostate=1327.3"),
    PrepareConfig(folds=2, context="317,kidney=512.3"),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("name", "size"), [("finer", 352), ("coarser", 192)])
def test_the_same_tissue_in_more_or_fewer_pixels(geometry, name, size):
    """The context in um is the base's, and its pixels are smaller or larger."""
    changed = ROWS[name].geometry(geometry)
    assert changed.input_size == size
    assert changed.contexts_um() == geometry.contexts_um()
    wanted = {organ: um * 256 / size for organ, um in geometry.network_um().items()}
    assert changed.network_um() == pytest.approx(wanted, rel=1e-12)
    assert not ROWS[name].keeps_pixels


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("name", "factor"), [("context-small", 0.5), ("context-large", 2)])
def test_more_or_less_tissue_at_the_same_pixel_size(geometry, name, factor):
    """The pixels are of the base's size in um, the context is a multiple of it, and a step has as many pixels."""
    changed = ROWS[name].geometry(geometry)
    assert changed.input_size == 256 * factor
    assert changed.network_um() == pytest.approx(geometry.network_um(), rel=1e-12)
    wanted = {organ: um * factor for organ, um in geometry.contexts_um().items()}
    assert changed.contexts_um() == pytest.approx(wanted, rel=1e-12)
    assert ROWS[name].keeps_pixels


@pytest.mark.parametrize("name", ROWS)
def test_changes_are_settings(name):
    """Every row's settings exist and are within their bounds, with the smallest patches and with whole images too."""
    row = ROWS[name]
    for geometry in (PrepareConfig(input_size=32), PrepareConfig(context="whole")):
        assert row.geometry(geometry).input_size % 32 == 0
    for base in (TrainConfig(), recipe("default")):
        row.training(base).augment_shares()
    replace(PredictConfig(), **row.predict)
    assert bool(row.train or row.augment) + bool(row.predict) + bool(row.special) <= 1


@pytest.mark.parametrize(
    ("base", "name", "augment", "cutmix"),
    [
        ("flip,stain=0.75,coarse=0.25", "no-stain", {"flip": 1}, 0),
        ("flip,stain=0.75", "hed", {"flip": 1, "hed": 0.75, "colour": 0.5, "brightness": 0.5}, 0),
        ("flip,cutout=0.2", "no-cutout", {"flip": 1}, 0),
        ("flip", "cutout", {"flip": 1, "cutout": 0.2}, 0.3),
        ("brightness=0.3", "optics", {"brightness": 0.3, "blur": 0.2, "noise": 0.2, "jpeg": 0.2}, 0),
        ("noise", "no-optics", {}, 0),
    ],
)
def test_augmentations_are_changed_and_kept(base, name, augment, cutmix):
    """A row adds augmentations to the base's or leaves some out, lowers the share of none, and keeps the others."""
    changed = ROWS[name].training(TrainConfig(augment=base))
    assert (changed.augment_shares(), changed.cutmix) == (augment, cutmix)


def test_a_strong_base_is_not_made_stronger():
    """Rows that add what the base has are left out, those that leave it out are done; and the other way round."""
    geometry, with_it, without = PrepareConfig(folds=2), {"strong", "optics", "elastic", "cutout"}, {"mild"}
    without |= {"no-optics", "no-elastic", "no-cutout"}
    strong = plan(geometry, TrainConfig(augment=STRONG, cutmix=0.3), [*with_it, *without])
    assert {BASE, *without} == set(strong)
    assert {BASE, *with_it} == set(plan(geometry, TrainConfig(), [*with_it, *without]))


def test_rows_come_in_the_tables_order():
    """The base always comes first, and each requested row is done once."""
    geometry, config = PrepareConfig(folds=2), TrainConfig()
    assert plan(geometry, config, ["flips", "bce", "flips"]) == [BASE, "bce", "flips"]
    assert plan(geometry, config, [BASE]) == [BASE]
    assert plan(geometry, config, []) == [BASE]


def test_rows_that_change_nothing_are_left_out():
    """A row whose settings the base has already is not trained again."""
    geometry, config = PrepareConfig(folds=2), TrainConfig(ema=0.98, loss="bce", decoder_filters=256)
    left_out = {"ema", "bce", "decoder-256", "mild", "no-optics", "no-elastic", "no-cutout"}
    assert plan(geometry, config, None) == [name for name in ROWS if name not in left_out]
    whole = plan(PrepareConfig(folds=2, context="whole"), config, None)
    assert set(ROWS) - set(whole) == left_out | {"context-small", "context-large"}
    smallest = plan(PrepareConfig(folds=2, input_size=32), config, None)
    assert set(ROWS) - set(smallest) == left_out | {"context-small", "coarser", "finer"}


@pytest.mark.parametrize(
    ("folds", "fold", "rows", "rule"),
    [
        (2, 0, ["flips", "flops", "nope"], "no row 'flops', 'nope'; choose among base, finer"),
        (0, None, None, "fold 0, but there are 0 folds; give --folds 2 or more"),
        (2, 2, None, "fold 2, but there are 2 folds; give --folds 3 or more"),
    ],
)
def test_rows_and_folds_that_there_are_not(folds, fold, rows, rule):
    """Unknown rows and an unknown fold are named, with the remedy."""
    with pytest.raises(ValueError, match=rule):
        plan(PrepareConfig(folds=folds), TrainConfig(fold=fold), rows)
