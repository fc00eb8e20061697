"""Tests of the input pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from hubmap_kit.augment import augment
from hubmap_kit.config import recipe
from hubmap_kit.dataset import PatchSampler
from hubmap_kit.patches import PatchStore


@pytest.mark.parametrize("free", [None, 10**12], ids=["disk", "memory"])
def test_batches_are_the_chosen_patches_in_order(store, monkeypatch, free):
    """The pipeline's batches are, in order, the chosen patches augmented one by one, from disk or memory."""
    monkeypatch.setattr("hubmap_kit.patches._free_memory", lambda: free)
    opened = PatchStore.open(store)
    config = recipe("fast", batch_size=4, steps_per_epoch=6, seed=11)
    sampler = PatchSampler(opened, opened.ids("train"), config)
    assert ("in memory" in sampler.where) == (free is not None)
    chosen = sampler.choose(2).tolist()
    number = 0
    for images, masks in sampler.batches(2).as_numpy_iterator():
        assert images.shape == (4, 64, 64, 3)
        assert masks.shape == (4, 64, 64)
        for image, mask in zip(images, masks, strict=True):
            image_id, y, x = chosen[number]
            rng = np.random.default_rng([11, 2, number])
            expected = augment(opened.read(image_id), (y, x), 64, config.augment, rng)
            assert np.array_equal(image, expected[0])
            assert np.array_equal(mask, expected[1])
            number += 1
    assert number == len(chosen) == 24


def test_room_is_that_of_the_stored_images(store):
    """The room for a patch, known from the table, is that of the stored image."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    sampler = PatchSampler(opened, ids, recipe("fast"))
    for image_id in ids:
        height, width = opened.read(image_id).shape[:2]
        assert sampler.room[image_id] == (height - 64, width - 64)
