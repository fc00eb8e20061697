"""Tests of sampling and of the input pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from hubmap_kit.competition import ORGANS
from hubmap_kit.images.augment import augment
from hubmap_kit.preparation.store import MIN_MASK_SHARE, PatchStore, Written, begin_store, finish_store
from hubmap_kit.recipes import recipe
from hubmap_kit.training import dataset
from hubmap_kit.training.dataset import PatchSampler
from hubmap_kit.training.devices import Devices

ONE = Devices(tf.distribute.get_strategy())


def batches(sampler: PatchSampler, epoch: int) -> list[list[np.ndarray]]:
    return [[np.asarray(value) for value in batch] for batch in sampler.batches(epoch, ONE)]


@pytest.mark.parametrize("crops", ["grid", "random"])
def test_sampler_is_a_function_of_seed_and_epoch(store, crops):
    """The same seed and epoch give the same batches, another epoch others; shapes and types are fixed."""
    opened = PatchStore.open(store)
    config = recipe("fast", crops=crops, batch_size=4, steps_per_epoch=3, cutmix=0.5)
    sampler = PatchSampler(opened, opened.ids("train"), config)
    first, again, other = (batches(sampler, epoch) for epoch in (0, 0, 1))
    assert len(first) == 3
    for batch, same, different in zip(first, again, other, strict=True):
        images, masks, *_ = batch
        assert [array.shape for array in batch] == [(4, 64, 64, 3), (4, 64, 64), (4,), (4,)]
        assert [array.dtype.name for array in batch] == ["uint8", "uint8", "int32", "float32"]
        assert set(np.unique(masks)) <= {0, 255}
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(batch, same, strict=True))
        assert not np.array_equal(images, different[0])


@pytest.mark.parametrize("free", [None, 10**12], ids=["disk", "memory"])
def test_batches_are_the_chosen_patches_in_order(store, monkeypatch, free):
    """The pipeline's batches are, in order, the chosen patches augmented one by one, from disk or memory."""
    monkeypatch.setattr("hubmap_kit.preparation.store.free_memory", lambda: free)
    opened = PatchStore.open(store)
    config = recipe("fast", batch_size=4, steps_per_epoch=6, seed=11)
    sampler = PatchSampler(opened, opened.ids("train"), config)
    assert ("in memory" in sampler.where) == (free is not None)
    chosen = sampler.choose(2).tolist()
    number = 0
    for images, masks, organs, log2_um in batches(sampler, 2):
        for image, mask, organ, log2 in zip(images, masks, organs, log2_um, strict=True):
            _, image_id, y, x = chosen[number]
            rng = np.random.default_rng([11, 2, number, 0])
            shares = config.augment_shares()
            expected = augment(opened.read(image_id), (y, x), 64, shares, rng, scale_range=config.scale_range)
            assert np.array_equal(image, expected[0])
            assert np.array_equal(mask, expected[1] * 255)
            assert list(ORGANS)[organ] == opened.images[image_id].image.organ
            assert 2**log2 == pytest.approx(opened.images[image_id].network_um / expected[2], rel=1e-5)
            number += 1
    assert number == len(chosen) == 24


def test_devices_share_a_batch(store):
    """Two devices' parts, put together, are the batch of one device."""
    opened = PatchStore.open(store)
    config = recipe("fast", batch_size=4, steps_per_epoch=2, cutmix=0.5)
    sampler = PatchSampler(opened, opened.ids("train"), config, replicas=2)
    chosen = sampler.choose(0)
    whole = sampler._make(chosen, 0, range(8))
    parts = [sampler._make(chosen, 0, range(begin, begin + 2)) for begin in range(0, 8, 2)]
    for field, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.array_equal(field, np.concatenate(of_parts))


@pytest.mark.parametrize(("batch_size", "replicas"), [(5, 2), (2, 3)])
def test_a_batch_that_devices_cannot_share(store, batch_size, replicas):
    """A batch that does not divide by the devices is refused."""
    opened = PatchStore.open(store)
    with pytest.raises(ValueError, match=f"shared by {replicas} devices"):
        PatchSampler(opened, opened.ids("train"), recipe("fast", batch_size=batch_size), replicas)


def test_grid_takes_each_foreground_patch_once(store):
    """A pass over the grid has each patch with enough mask once, except those of an incomplete last batch."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    sampler = PatchSampler(opened, ids, recipe("seed", batch_size=2))
    chosen = [tuple(row) for row in sampler.choose(0)]
    patches = opened.patches[opened.patches["id"].isin(ids) & (opened.patches["mask_share"] >= MIN_MASK_SHARE)]
    assert len(set(chosen)) == len(chosen) == len(patches) // 2 * 2
    assert set(chosen) <= {(0, *row) for row in patches[["id", "y", "x"]].itertuples(index=False, name=None)}


def test_random_squares_are_balanced_over_organs(store):
    """Random squares come from every organ equally often and lie inside their image."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    sampler = PatchSampler(opened, ids, recipe("fast", batch_size=50, steps_per_epoch=10))
    chosen = sampler.choose(0)
    share = pd.Series([opened.images[i].image.organ for i in chosen[:, 1]]).value_counts(normalize=True)
    assert (np.abs(share - 1 / len(share)) < 0.08).all()
    for _, image_id, y, x in chosen:
        height, width = opened.read(image_id).shape[:2]
        assert 0 <= y <= height - 64
        assert 0 <= x <= width - 64


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_share_of_foreground_patches(store, share, monkeypatch):
    """With a share of 1 all squares lie over a foreground patch, within a quarter of a side; with 0 only a few do."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    monkeypatch.setattr(dataset, "FOREGROUND_SHARE", share)
    sampler = PatchSampler(opened, ids, recipe("fast", batch_size=50, steps_per_epoch=4))
    corners = {i: rows[["y", "x"]].to_numpy() for i, rows in sampler._sources[0].foreground.groupby("id")}
    near = [(np.abs(corners[i] - (y, x)).max(axis=1) <= 16).any() for _, i, y, x in sampler.choose(0) if i in corners]
    assert np.mean(near) == 1 if share else np.mean(near) < 1


def test_cutmix_pastes_from_the_same_organ(store, monkeypatch):
    """With cutmix on every patch, each is mixed with a patch of its own organ, whose mask comes with it."""
    opened = PatchStore.open(store)
    config = recipe("fast", batch_size=8, steps_per_epoch=1, cutmix=1.0)
    plain = PatchSampler(opened, opened.ids("train"), replace(config, cutmix=0.0))
    sampler = PatchSampler(opened, opened.ids("train"), config)
    seen: list[int] = []
    patch = sampler._patch

    def spy(row: np.ndarray, seed: list[int]) -> Any:
        seen.append(int(row[1]))
        return patch(row, seed)

    monkeypatch.setattr(sampler, "_patch", spy)
    chosen = sampler.choose(0)
    mixed, unmixed = sampler._make(chosen, 0, range(8)), plain._make(chosen, 0, range(8))
    assert len(seen) == 16
    organs = {i: stored.image.organ for i, stored in opened.images.items()}
    assert all(organs[own] == organs[other] for own, other in zip(seen[::2], seen[1::2], strict=True))
    for image, original in zip(mixed[0], unmixed[0], strict=True):
        assert 0.05 < (image == original).all(axis=-1).mean() < 0.95


@pytest.fixture
def soft(store, tmp_path):
    """A store of soft masks: of two images, probability 100 of 255 everywhere."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")[:2]
    begin_store(tmp_path, replace(opened.info, soft=True))
    written = {}
    for i in ids:
        pixels = np.array(opened.read(i))
        pixels[..., 3] = 100
        np.save(tmp_path / "images" / f"{i}.npy", pixels)
        patches = opened.patches[opened.patches["id"] == i][["y", "x", "mask_share"]]
        written[i] = Written({}, 0, opened.images[i].shape, list(patches.itertuples(index=False, name=None)))
    finish_store(tmp_path, replace(opened.info, soft=True), [opened.images[i] for i in ids], written)
    return tmp_path


@pytest.mark.parametrize("crops", ["grid", "random"])
def test_soft_masks_are_mixed_in(store, soft, crops):
    """The share of patches from the store of soft masks is as set, and their masks are its probabilities."""
    opened = PatchStore.open(store)
    config = recipe("fast", crops=crops, batch_size=50, steps_per_epoch=8, pseudo=str(soft))
    sampler = PatchSampler(opened, opened.ids("train"), config)
    chosen = sampler.choose(0)
    assert np.mean(chosen[:, 0]) == pytest.approx(0.25, abs=0.07)
    places = [int(place) for place in np.flatnonzero(chosen[:, 0])[:3]]
    for place in places:
        assert set(np.unique(sampler._make(chosen, 0, range(place, place + 1))[1])) == {100}


def test_soft_masks_of_another_geometry(store, soft):
    """A store of soft masks at another scale, or a store of true masks, is refused with the remedy."""
    opened = PatchStore.open(store)
    with pytest.raises(ValueError, match=r"does not hold soft masks.*hubmap-kit pseudo"):
        PatchSampler(opened, opened.ids("train"), recipe("fast", pseudo=str(store)))
    info = replace(opened.info, config=replace(opened.config, context="64"))
    other = replace(opened, info=info)
    with pytest.raises(ValueError, match=r"another geometry.*hubmap-kit pseudo"):
        PatchSampler(other, opened.ids("train"), recipe("fast", pseudo=str(soft)))


def test_stain_transfer_takes_looks_of_a_folder(store, demo):
    """Stain transfer imitates training images, or the test images of the folder that is named."""
    opened = PatchStore.open(store)
    settings = {"augment": "macenko", "batch_size": 4, "steps_per_epoch": 1}
    own = PatchSampler(opened, opened.ids("train"), recipe("fast", **settings))
    theirs = PatchSampler(opened, opened.ids("train"), recipe("fast", **settings, looks_from=str(demo)))
    chosen = own.choose(0)
    assert not np.array_equal(own._make(chosen, 0, range(4))[0], theirs._make(chosen, 0, range(4))[0])


def test_nothing_to_train_on(store):
    """A store whose patches hold too little mask gives an error that names the setting."""
    opened = PatchStore.open(store)
    opened.patches["mask_share"] = 0.0
    with pytest.raises(ValueError, match=r"holds 5% mask.*--context"):
        PatchSampler(opened, opened.ids("train"), recipe("fast"))


def test_room_is_that_of_the_stored_images(store):
    """The positions for a patch, computed from the table, are those of the stored image."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    sampler = PatchSampler(opened, ids, recipe("fast"))
    for image_id in ids:
        height, width = opened.read(image_id).shape[:2]
        assert sampler._sources[0].room[image_id] == (height - 64, width - 64)


def test_other_organs(store):
    """Organs that are not the competition's are numbered after it; the head that tells organs apart refuses them."""
    opened = PatchStore.open(store)
    images = {
        i: replace(each, image=replace(each.image, organ=f"bile {each.image.organ}"))
        for i, each in opened.images.items()
    }
    other = replace(opened, images=images)
    config = recipe("fast", batch_size=4, steps_per_epoch=3, cutmix=0.5)
    for batch, plain in zip(
        batches(PatchSampler(other, other.ids("train"), config), 0),
        batches(PatchSampler(opened, opened.ids("train"), config), 0),
        strict=True,
    ):
        np.testing.assert_array_equal(batch[0], plain[0])
        assert batch[2].min() >= len(ORGANS) > plain[2].max()
    with pytest.raises(ValueError, match=r"auxiliary is 0\.5, .* images of bile .*; train with --auxiliary 0"):
        PatchSampler(other, other.ids("train"), replace(config, auxiliary=0.5))


def test_images_that_are_never_trained_on(store):
    """Images without a patch of enough mask, which --crops grid never takes, are named."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    opened.patches.loc[opened.patches["id"] == ids[1], "mask_share"] = 0.0
    for crops, named in (("grid", True), ("random", False)):
        where = PatchSampler(opened, ids, recipe("fast", crops=crops, batch_size=2)).where
        said = f"warning: --crops grid never trains on 1 of them, which have no patch with 5% mask: {ids[1]}"
        assert (said in where) == named


@pytest.mark.parametrize("epochs", [2, 1])
def test_a_training_too_short_for_its_images(store, epochs):
    """If fewer patches are drawn than there are images, some are never trained on, and that is said."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    size = len(ids) // 2 + 1
    where = PatchSampler(opened, ids, recipe("fast", batch_size=size, steps_per_epoch=1, epochs=epochs)).where
    assert (f"warning: {size} patches in all are fewer than the images" in where) == (epochs == 1)
