"""Tests of the adaptation of networks to the images they are about to predict."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tifffile
from builders import an_image
from keras import layers
from test_predict import masks_of, write_run

from hubmap_kit import submission
from hubmap_kit.competition import ByOrgan
from hubmap_kit.config import PredictConfig
from hubmap_kit.images.stain import Look
from hubmap_kit.masks import MaskRule
from hubmap_kit.models import network as models
from hubmap_kit.models.network import build_model, load_model
from hubmap_kit.prediction import adaptation, networks
from hubmap_kit.prediction import predict as inference
from hubmap_kit.prediction.adaptation import adapted, reestimate, sample_tiles, self_train
from hubmap_kit.prediction.ensemble import Member
from hubmap_kit.prediction.journal import Journal
from hubmap_kit.prediction.stream import predict_masks
from hubmap_kit.recipes import recipe
from hubmap_kit.tables import Image

TILE = 32
NETWORK = recipe("fast", filters=2).network()
LOOK = Look("reinhard", (0.5, 0.1, 0.0, 0.2, 0.1, 0.1))


def tiny() -> keras.Model:
    """A network like the kit's: a network within a network, with dropout and BatchNormalization."""
    keras.utils.set_random_seed(1)
    x = inner = layers.Input((None, None, 3))
    for i in range(2):
        x = layers.Dropout(0.5)(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{i}")(x)
    inner = keras.Model(inner, x)
    inputs = layers.Input((None, None, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(1, 3, padding="same", kernel_initializer=keras.initializers.RandomNormal(stddev=3.0))(inner(x))
    model = keras.Model(inputs, keras.ops.squeeze(x, -1))
    for norm in norms_of(model):
        norm.moving_mean.assign([0.2, -0.3, 0.5])
        norm.moving_variance.assign([0.5, 2.0, 0.1])
    return model


def norms_of(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    found = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    return sorted(found, key=lambda layer: layer.name)


def state(model: keras.Model) -> list[np.ndarray]:
    return [np.array(variable) for variable in model.variables]


def settings(model: keras.Model) -> list[tuple[Any, ...]]:
    """The settings of the layers that an adaptation may change for a while."""
    names = ("name", "trainable", "momentum", "rate")
    return [tuple(getattr(layer, name, None) for name in names) for layer in model._flatten_layers()]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def member_of(network: keras.Model, **changes) -> Member:
    member = Member(
        predict=networks.make_predictor(network),
        network_um=ByOrgan({}, 0.8),
        tile_size=TILE,
        overlap=0.25,
        batch_size=2,
        rule=MaskRule.uniform(0.5),
        network=network,
    )
    return replace(member, **changes)


@pytest.fixture
def tiles(rng) -> np.ndarray:
    """Two batches of tiles; each tile is one colour with some noise."""
    colours = rng.integers(40, 216, (11, 1, 1, 3))
    return np.asarray(colours + rng.integers(-40, 40, (11, TILE, TILE, 3)), np.uint8)


@pytest.fixture
def write_striped_image(tmp_path, rng):
    """A function that writes an image of random stripes and returns its record."""

    def write(image_id: int, shape: tuple[int, int]) -> Image:
        path = tmp_path / f"{image_id}.tiff"
        image = rng.integers(60, 256, (*shape, 3), np.uint8) // rng.integers(1, 4, (shape[0], 1, 1), np.uint8)
        tifffile.imwrite(path, image, photometric="rgb")
        return an_image(image_id, path, "lung", 0.4, shape)

    return write


@pytest.fixture
def images(write_striped_image) -> list[Image]:
    """Images of a few tiles each, with prime sides; the second is smaller than a tile."""
    return [write_striped_image(i, shape) for i, shape in enumerate([(127, 211), (31, 59), (197, 101)])]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_statistics_are_mixed_with_the_mean_over_batches(tiles, share):
    """The statistics are a weighted mean: `share` of the mean over batches of the layer's input, the rest trained."""
    model = tiny()
    reestimate(model, tiles, share)
    batches = [batch / 255 for batch in (tiles[:6], tiles[6:])]
    seen = [[batch.mean((0, 1, 2)), batch.var((0, 1, 2))] for batch in batches]
    mean, variance = np.mean(seen, axis=0)
    first, second = norms_of(model)
    np.testing.assert_allclose(first.moving_mean, share * mean + (1 - share) * np.array([0.2, -0.3, 0.5]), atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, share * variance + (1 - share) * np.array([0.5, 2.0, 0.1]), 1e-4)
    # The input of the second layer was normalised by the statistics of its batch, so its mean is 0.
    np.testing.assert_allclose(second.moving_mean, (1 - share) * np.array([0.2, -0.3, 0.5]), atol=1e-4)


def test_only_statistics_are_reestimated(tiles):
    """All other weights, and the names and training settings of the layers, stay as they were; frozen layers too."""
    model = tiny()
    norms = norms_of(model)
    norms[0].trainable = False
    before, set_to = state(model), settings(model)
    reestimate(model, tiles, 0.5)
    assert settings(model) == set_to
    changed = [v.path for v, old in zip(model.variables, before, strict=True) if not np.array_equal(v, old)]
    assert sorted(changed) == sorted(v.path for norm in norms for v in (norm.moving_mean, norm.moving_variance))


def test_layers_are_as_before_after_an_error(tiles, monkeypatch):
    """An adaptation that fails half-way leaves each layer's dropout, momentum and freezing as they were."""
    model = tiny()
    norms_of(model)[0].trainable = False
    set_to = settings(model)
    with pytest.raises(ValueError, match="expected shape"):
        reestimate(model, tiles.repeat(2, axis=-1), 0.5)  # six channels
    assert settings(model) == set_to
    monkeypatch.setattr(adaptation, "augment", lambda *_: [][0])
    with pytest.raises(IndexError):
        self_train(member_of(model), tiles, 1)
    assert settings(model) == set_to


@pytest.mark.parametrize("looks", [{}, {"lung": LOOK}], ids=["as they are", "in the training's colours"])
def test_tiles_are_such_as_the_network_sees(images, looks):
    """A sample holds a few different tiles of each image, as they are predicted, and always the same ones."""
    seen: list[np.ndarray] = []
    member = member_of(tiny(), looks=looks)

    def spy(batch):
        seen.extend(batch.copy())
        return member.predict(batch)

    watched = replace(member, predict=spy)
    for number, image in enumerate(images):
        seen.clear()
        assert all(result.rle is not None for result in predict_masks([image], [watched]))
        kinds = {tile.tobytes() for tile in seen}
        sampled = sample_tiles(member, [image])
        assert sampled.shape == ((4, 1, 4)[number], TILE, TILE, 3)
        assert {tile.tobytes() for tile in sampled} <= kinds
        assert len({tile.tobytes() for tile in sampled}) == len(sampled) <= len(kinds)
        assert np.array_equal(sampled, sample_tiles(member, [image]))


def test_images_are_spread_over_all_and_unreadable_ones_left_out(images, tmp_path, monkeypatch):
    """Of many images some are taken, from the first to the last; missing, damaged and mis-sized ones are left out."""
    monkeypatch.setattr(adaptation, "IMAGES", 3)
    member = member_of(tiny())
    (tmp_path / "damaged").write_bytes(b"II*\0 broken")
    bad = [replace(images[0], path=tmp_path / "missing"), replace(images[0], path=tmp_path / "damaged")]
    bad.append(replace(images[0], shape=(127, 210)))
    assert sample_tiles(member, bad).shape == (0, TILE, TILE, 3)
    assert sample_tiles(member, []).shape == (0, TILE, TILE, 3)
    many = [images[1], *bad[:2], images[1], *bad[:2], images[1]]  # the first, the middle and the last
    assert len(sample_tiles(member, many)) == 3
    assert len(sample_tiles(member, [*many[:-1], bad[0]])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["batchnorm", "self-training"])
def test_networks_are_restored(images, adapt, monkeypatch):
    """Inside the block every network predicts differently; after it all variables are the same to the bit."""
    members = [member_of(tiny()), member_of(tiny())]
    before = [state(member.network) for member in members]
    config = PredictConfig(adapt=adapt)
    monkeypatch.setattr(adaptation, "STEPS", 2)
    batch = sample_tiles(members[0], images)[:2]
    plain = members[0].predict(batch)
    with adapted(members, images, config):
        for member, values in zip(members, before, strict=True):
            assert not same(state(member.network), values)
            assert np.abs(member.predict(batch) - plain).max() > 1e-4
    assert all(same(state(member.network), values) for member, values in zip(members, before, strict=True))
    with pytest.raises(KeyError, match="inside"), adapted(members, images, config):
        raise KeyError("inside")
    assert all(same(state(member.network), values) for member, values in zip(members, before, strict=True))
    assert np.array_equal(members[0].predict(batch), plain)


@pytest.mark.slow
def test_networks_are_restored_after_an_adaptation_that_failed(images, monkeypatch):
    """If the second network cannot be adapted, both networks are as before."""
    members = [member_of(tiny()), member_of(tiny())]
    before = [state(member.network) for member in members]

    def half(network, tiles, share):
        reestimate(network, tiles, share)
        if network is members[1].network:
            raise MemoryError

    monkeypatch.setattr(adaptation, "reestimate", half)
    with pytest.raises(MemoryError), adapted(members, images, PredictConfig(adapt="batchnorm")):
        pytest.fail("not reached")
    assert all(same(state(member.network), values) for member, values in zip(members, before, strict=True))


def test_a_network_is_adapted_once_for_all_scales(images):
    """A network with several scales is adapted at the scale nearest to its training's."""
    member, other = member_of(tiny()), member_of(tiny())
    with adapted([member], images, PredictConfig(adapt="batchnorm")):
        expected = state(member.network)
    for scales in ((0.5, 1.0, 2.0), (2.0, 1.0), (1.0,)):
        members = [each.at_scale(scale) for each in (member, other) for scale in scales]
        with adapted(members, images, PredictConfig(adapt="batchnorm")):
            assert same(state(member.network), expected)
            assert same(state(other.network), expected)


@pytest.mark.parametrize("adapt", ["batchnorm", "self-training"])
def test_nothing_happens_without_tiles(images, adapt):
    """If no image can be read, the networks stay as they are."""
    member = member_of(tiny())
    before = state(member.network)
    with adapted([member], [replace(images[0], shape=(1, 1))], PredictConfig(adapt=adapt)):
        assert same(state(member.network), before)


def entropy(network: keras.Model, tiles: np.ndarray, masks: np.ndarray) -> float:
    """Mean cross-entropy of a network on the pixels of masks that are not NaN."""
    value = tf.nn.sigmoid_cross_entropy_with_logits(np.nan_to_num(masks), network(tf.constant(tiles), training=False))
    return float(np.mean(np.array(value)[~np.isnan(masks)]))


@pytest.mark.slow
def test_self_training_sharpens_what_is_sure(tiles, tmp_path):
    """A network (here in float16) gets surer of the pixels that it was sure of; BatchNormalization does not change."""
    keras.utils.set_random_seed(3)
    model, _ = build_model(NETWORK)
    *_, kernel, _ = model.trainable_variables
    kernel.assign(kernel * 8)
    model.save_weights(tmp_path / "model.weights.h5")
    network = load_model(NETWORK, tmp_path / "model.weights.h5", compute_dtype="float16")
    member = member_of(network)
    maps = np.concatenate([member.predict(tiles[i : i + 2]) for i in range(0, 11, 2)])
    masks = np.select([maps >= 0.9, maps <= 0.1], [np.float32(1), np.float32(0)], np.float32(np.nan))
    assert 0.02 < np.isnan(masks).mean() < 0.98
    loss, set_to = entropy(network, tiles, masks), settings(network)
    frozen = [norm.get_weights() for norm in norms_of(network)]
    self_train(member, tiles, 8)
    assert entropy(network, tiles, masks) < loss
    assert all(same(norm.get_weights(), values) for norm, values in zip(norms_of(network), frozen, strict=True))
    assert settings(network) == set_to


@pytest.mark.slow
def test_a_network_that_is_sure_of_nothing_learns_nothing(tiles):
    """A network does not learn from pixels with a probability between 0.1 and 0.9; a few sure pixels are enough."""
    network = tiny()
    *_, kernel, bias = network.trainable_variables
    kernel.assign(kernel * 0.01)
    before = [np.array(variable) for variable in network.trainable_variables]
    self_train(member_of(network), tiles, 3)
    assert same(network.trainable_variables, before)
    bias.assign([2.5])
    before[-1] = np.array(bias)
    self_train(member_of(network), tiles, 3)
    assert not same(network.trainable_variables, before)


@pytest.mark.slow
@pytest.mark.parametrize("adapt", ["batchnorm", "self-training"])
def test_prediction(demo, tmp_path, monkeypatch, adapt):
    """A submission by adapted networks is valid, differs from a plain one, and is the same after an interruption."""
    data = tmp_path / "data"
    shutil.copytree(demo, data, ignore=shutil.ignore_patterns("train*"))
    table = pd.read_csv(data / "test.csv", dtype=str).assign(data_source="HPA")
    table.assign(organ=["lung", "lung", "kidney", "lung", "kidney"]).to_csv(data / "test.csv", index=False)
    run = write_run(tmp_path / "run", network=NETWORK)
    keras.utils.set_random_seed(2)
    build_model(NETWORK)[0].save_weights(run / "model.weights.h5")
    if adapt == "self-training":  # compiled anew each time
        monkeypatch.setattr(models, "load_model", lambda *_, compute_dtype: tiny())
    monkeypatch.setattr(adaptation, "STEPS", 2)
    config = PredictConfig(adapt=adapt, threshold=0.5)
    out, whole, real = tmp_path / "out.csv", tmp_path / "whole.csv", Journal.add
    inference.predict(data, [run], whole, config)
    assert not [problem for problem in submission.validate(whole, data) if problem.severity == "error"]
    inference.predict(data, [run], tmp_path / "plain.csv", replace(config, adapt="none"))
    assert masks_of(whole) != masks_of(tmp_path / "plain.csv")

    def killed(journal, image, mask):
        real(journal, image, mask)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        inference.predict(data, [run], out, config)
    monkeypatch.setattr(Journal, "add", real)
    inference.predict(data, [run], out, config)
    assert masks_of(out) == masks_of(whole)
