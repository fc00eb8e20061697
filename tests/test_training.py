"""Tests of losses, sampling and training."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from hubmap_kit import rle, training
from hubmap_kit.config import RECIPES, TrainConfig, recipe
from hubmap_kit.dataset import PatchSampler
from hubmap_kit.losses import binary_cross_entropy, dice_loss, make_loss
from hubmap_kit.members import Member
from hubmap_kit.models import build_model, describe_model
from hubmap_kit.patches import PatchStore
from hubmap_kit.run import Run
from hubmap_kit.training import Phase

TINY = recipe("fast", filters=2, batch_size=4, epochs=3, steps_per_epoch=2, validate_every=1)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A finished training of three epochs of two steps."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    training.train(store, folder, TINY, recipe="fast")
    return folder


def test_losses_against_their_formulas(rng):
    """Cross-entropy and Dice loss from logits equal the textbook's from probabilities."""
    masks = (rng.random((3, 5, 7)) < 0.4).astype(np.float32)
    logits = rng.normal(0, 2, masks.shape).astype(np.float32)
    p = 1 / (1 + np.exp(-logits))
    bce = -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()
    dice = 1 - (2 * (masks * p).sum() + 1) / (masks.sum() + p.sum() + 1)
    assert float(binary_cross_entropy(masks, logits)) == pytest.approx(bce, rel=1e-5)
    assert float(dice_loss(masks, logits)) == pytest.approx(dice, rel=1e-5)
    assert float(make_loss("bce+dice")(masks, logits)) == pytest.approx(bce + dice, rel=1e-5)


def test_losses_stay_finite():
    """Logits of any size, and masks without a pixel, give a finite loss."""
    for masks in (tf.zeros((1, 8, 8)), tf.ones((1, 8, 8))):
        for logit in (-1e4, 1e4):
            assert np.isfinite(float(make_loss("bce+dice")(masks, tf.fill((1, 8, 8), logit))))


@pytest.mark.parametrize("crops", ["grid", "random"])
def test_sampler_is_a_function_of_seed_and_epoch(store, crops):
    """The same seed and epoch give the same batches, another epoch others; shapes are fixed."""
    opened = PatchStore.open(store)
    config = recipe("fast", crops=crops, batch_size=4, steps_per_epoch=3)
    sampler = PatchSampler(opened, opened.ids("train"), config)
    first, again, other = (list(sampler.batches(epoch).as_numpy_iterator()) for epoch in (0, 0, 1))
    assert len(first) == 3
    for (image, mask), (image2, mask2), (image3, _) in zip(first, again, other, strict=True):
        assert image.shape == (4, 64, 64, 3)
        assert mask.shape == (4, 64, 64)
        assert image.dtype == mask.dtype == np.uint8
        assert np.array_equal(image, image2)
        assert np.array_equal(mask, mask2)
        assert not np.array_equal(image, image3)


def test_grid_takes_each_foreground_patch_once(store):
    """One pass over the grid is every patch with enough mask of the training images, once, save a last part batch."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    sampler = PatchSampler(opened, ids, recipe("seed", batch_size=2))
    chosen = [tuple(row) for row in sampler.choose(0)]
    patches = opened.patches[opened.patches["id"].isin(ids) & (opened.patches["mask_share"] >= 0.01)]
    assert len(set(chosen)) == len(chosen) == len(patches) // 2 * 2
    assert set(chosen) <= set(patches[["id", "y", "x"]].itertuples(index=False, name=None))


def test_random_squares_are_balanced_over_organs(store):
    """Random squares come from every organ equally often and lie inside their image."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    sampler = PatchSampler(opened, ids, recipe("fast", batch_size=50, steps_per_epoch=10))
    chosen = sampler.choose(0)
    share = opened.images.loc[chosen[:, 0], "organ"].value_counts(normalize=True)
    assert (np.abs(share - 1 / len(share)) < 0.08).all()
    for image_id, y, x in chosen:
        height, width = opened.read(image_id).shape[:2]
        assert 0 <= y <= height - 64
        assert 0 <= x <= width - 64


def test_nothing_to_train_on(store):
    """A store whose patches hold too little mask gives an error that names the setting."""
    opened = PatchStore.open(store)
    opened.patches["mask_share"] = 0.0
    with pytest.raises(ValueError, match="--min-mask-share"):
        PatchSampler(opened, opened.ids("train"), TINY)


def test_evaluation_is_the_competitions_score(store):
    """Evaluation thresholds the map at full resolution: all of a full mask is found just below the map's value."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")[:3]
    opened.images["rle"] = [rle.encode(np.ones((row.img_height, row.img_width))) for row in opened.images.itertuples()]
    thresholds = dict.fromkeys(opened.images["organ"], 0.39)
    member = Member(lambda b: np.full(b.shape[:3], 0.4, np.float32), {}, 64, 0.25, 2, thresholds)
    assert list(training.evaluate(opened, ids, member, TINY)["dice"]) == [1.0] * 3
    thresholds.update(dict.fromkeys(thresholds, 0.41))
    assert list(training.evaluate(opened, ids, member, TINY)["dice"]) == [0.0] * 3


def test_phases():
    """A pretrained encoder is frozen for ten epochs, then trained at the lower rate; a random one never is frozen."""
    seed = RECIPES["seed"]
    assert training.phases(seed, True) == [Phase(0, 10, 1e-3, True), Phase(10, 60, 5e-4, False)]
    assert training.phases(seed, False) == [Phase(0, 60, 1e-3, False)]
    assert training.phases(recipe("seed", epochs=4), True) == [Phase(0, 4, 1e-3, True)]


@pytest.mark.parametrize("with_batchnorm", [True, False])
def test_freezing(with_batchnorm, rng):
    """A frozen encoder keeps its weights through a step; its BatchNormalization as well, or not, as chosen."""
    model, encoder = build_model(describe_model("efficientnet-unet", "efficientnetb0", 0))
    training.freeze_encoder(encoder, True, with_batchnorm)
    config = recipe("default", freeze_epochs=1)
    optimizer = training._make_optimizer(training.phases(config, True)[0], config, 1)
    before = {id(layer): layer.get_weights() for layer in encoder}
    step = training._make_step(model, optimizer, config)
    step(rng.integers(0, 256, (2, 64, 64, 3), np.uint8), np.ones((2, 64, 64), np.uint8))
    changed = {
        type(layer).__name__
        for layer in encoder
        for old, new in zip(before[id(layer)], layer.get_weights(), strict=True)
        if not np.array_equal(old, new)
    }
    assert changed == (set() if with_batchnorm else {"BatchNormalization"})
    training.freeze_encoder(encoder, False, with_batchnorm)
    assert all(layer.trainable for layer in encoder)


def test_run_folder(trained, store):
    """A finished run holds weights, settings, history, scores and results that agree with each other."""
    run = Run.open(trained)
    assert run.train == TINY
    assert run.about["finished"]
    assert not (trained / "checkpoint.npz").exists()
    history = pd.read_csv(trained / "history.csv")
    assert list(history["epoch"]) == [1, 2, 3]
    results = pd.read_csv(trained / "results.csv").set_index("split")
    scores = pd.read_csv(trained / "scores.csv")
    assert dict(scores.groupby("split")["dice"].mean()) == pytest.approx(dict(results["dice"]), abs=1e-5)
    assert results.loc["validation", "dice"] == pytest.approx(history["validation_dice"].max(), abs=1e-4)
    assert run.about["results"]["test"]["dice"] == pytest.approx(results.loc["test", "dice"], abs=1e-5)
    assert list(results["images"]) == [len(run.about["splits"][split]) for split in results.index]
    assert "validation" in (trained / "results.txt").read_text()
    text = (trained / "config.json").read_text()
    assert json.loads(text)["network"]["normalisation"]["mean"][0] == 0.485


def test_a_run_is_not_overwritten(trained, store):
    """A second training into the same folder is refused, and resuming a finished one changes nothing."""
    before = (trained / "model.weights.h5").read_bytes()
    with pytest.raises(ValueError, match="--resume"):
        training.train(store, trained, TINY)
    training.train(store, trained, TINY, resume=True)
    assert (trained / "model.weights.h5").read_bytes() == before


def test_killed_training_resumes_to_the_same_result(trained, store, tmp_path):
    """A training killed after its first epoch goes on and ends with the history of one that was not."""
    settings = "--recipe fast --filters 2 --batch-size 4 --epochs 3 --steps-per-epoch 2 --validate-every 1".split()
    command = [sys.executable, "-m", "hubmap_kit", "train", str(store), str(tmp_path / "run"), *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoint.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    with pytest.raises(ValueError, match="another filters"):
        training.train(store, tmp_path / "run", replace(TINY, filters=3), resume=True)
    training.train(store, tmp_path / "run", TINY, resume=True)
    columns = ["epoch", "train_loss", "validation_dice"]
    expected, found = (pd.read_csv(folder / "history.csv")[columns] for folder in (trained, tmp_path / "run"))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_training_learns(store, tmp_path):
    """Two hundred steps on six images lower the loss by more than a third: gradients reach the weights."""
    config = replace(TINY, filters=8, epochs=8, steps_per_epoch=25, validate_every=8)
    training.train(store, tmp_path / "run", replace(config, learning_rate=5e-3, augment="none"))
    losses = pd.read_csv(tmp_path / "run" / "history.csv")["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0] * 0.65


def test_recipes_are_settings():
    """Each contracted recipe exists, changes are applied, and unknown names are refused."""
    assert set(RECIPES) == {"seed", "default", "cpu", "fast"}
    assert RECIPES["default"] == TrainConfig()
    assert recipe("seed", epochs=2).epochs == 2
    with pytest.raises(ValueError, match="no recipe 'x'"):
        recipe("x")
