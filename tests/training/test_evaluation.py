"""Tests of scoring a network on a store's images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from hubmap_kit import rle
from hubmap_kit.competition import ByOrgan
from hubmap_kit.masks import MaskRule
from hubmap_kit.models.losses import make_loss
from hubmap_kit.prediction.ensemble import Member
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.run import read_map, write_map
from hubmap_kit.training.devices import Devices
from hubmap_kit.training.evaluation import Evaluator
from hubmap_kit.training.thresholds import REGION_UM2, THRESHOLDS

ONE = Devices(tf.distribute.get_strategy())


def flat_member(opened: PatchStore, value: float, threshold: float) -> Member:
    """A network that answers one probability everywhere."""
    return Member(
        lambda b: np.full(b.shape[:3], value, np.float32), ByOrgan({}, 0.4), 64, 0.25, 2, MaskRule.uniform(threshold)
    )


def all_foreground(store) -> PatchStore:
    opened = PatchStore.open(store)
    full = {
        i: replace(stored, image=replace(stored.image, rle=rle.encode(np.ones(stored.image.shape))))
        for i, stored in opened.images.items()
    }
    return replace(opened, images=full)


def test_evaluation_is_the_competitions_score(store):
    """Evaluation thresholds the map at full resolution: all of a full mask is found just below the map's value."""
    opened = all_foreground(store)
    ids = opened.ids("train")[:3]
    loss = make_loss("bce+dice")
    assert list(Evaluator(opened, flat_member(opened, 0.4, 0.39), loss, ONE).score(ids).scores["dice"]) == [1.0] * 3
    assert list(Evaluator(opened, flat_member(opened, 0.4, 0.41), loss, ONE).score(ids).scores["dice"]) == [0.0] * 3


def test_the_loss_is_the_trainings(store):
    """The loss of an image is that of its blended map at the network's scale."""
    opened = PatchStore.open(store)
    image_id = opened.ids("train")[0]
    height, width = opened.images[image_id].shape
    mask = opened.read(image_id)[:height, :width, 3].astype(np.float64)
    expected = -(mask * np.log(0.4) + (1 - mask) * np.log(0.6)).mean()
    scores = Evaluator(opened, flat_member(opened, 0.4, 0.5), make_loss("bce"), ONE).score([image_id]).scores
    assert scores["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_maps_and_sweep(store, tmp_path):
    """Given a folder for maps, evaluation keeps each map, and the Dice of every threshold and least region size."""
    opened = all_foreground(store)
    ids = opened.ids("train")[:2]
    evaluation = Evaluator(opened, flat_member(opened, 0.42, 0.5), make_loss("bce"), ONE).score(
        ids, maps=tmp_path / "maps", tries=True
    )
    assert len(evaluation.sweep) == 2 * len(THRESHOLDS) * len(REGION_UM2)
    found = evaluation.sweep.groupby("threshold")["dice"].max()
    assert (found[found.index < 0.42] == 1).all()
    assert (found[found.index > 0.43] == 0).all()
    for image_id in ids:
        kept = read_map(tmp_path / "maps" / f"{image_id}.png")
        assert kept.shape == opened.images[image_id].shape
        assert np.allclose(kept, 0.42, atol=0.5 / 255)


def test_map_round_trip(tmp_path, rng):
    """A map comes back within half a step of 8 bits; one that is missing or cut is named."""
    small = rng.random((31, 47)).astype(np.float32)
    path = tmp_path / "deep" / "1.png"
    write_map(path, small)
    assert np.abs(read_map(path) - small).max() <= 0.5 / 255 + 1e-6
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"1\.png is missing or no PNG"):
        read_map(path)
