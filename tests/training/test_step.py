"""Tests of phases, freezing, the optimizer and the training step."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from hubmap_kit.config import TrainConfig
from hubmap_kit.models.losses import make_loss
from hubmap_kit.models.network import assign, build_model
from hubmap_kit.recipes import recipe
from hubmap_kit.training.devices import Devices
from hubmap_kit.training.step import Phase, average_weights, freeze_encoder, make_optimizer, make_step, phases

ONE = Devices(tf.distribute.get_strategy())
PHASE = Phase(0, 10, 1e-2, False)


def batch(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    images = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    masks = 255 * (images[..., 0] > 128).astype(np.uint8)
    return images, masks, np.array([0, 3], np.int32), np.array([0.5, 1.5], np.float32)


def tiny(**changes) -> TrainConfig:
    return recipe("fast", **({"filters": 2, "schedule": "constant", "ema": 0.0} | changes))


def stepper(config: TrainConfig, phase: Phase = PHASE, steps: int = 1, half: str | None = None):
    """A small network, its optimizer and its step."""
    keras.utils.set_random_seed(0)
    model, encoder = build_model(config.network(), compute_dtype=half)
    optimizer = make_optimizer(model, encoder, phase, config, steps, half)
    return model, optimizer, make_step(model, optimizer, config, ONE, make_loss(config.loss))


def weights(model: keras.Model) -> np.ndarray:
    return np.concatenate([np.array(v).ravel() for v in model.trainable_variables])


def test_phases():
    """A pretrained encoder is frozen for ten epochs, then trained at the lower rate; a random one never is frozen."""
    seed = recipe("seed")
    assert phases(seed) == [Phase(0, 10, 1e-3, True), Phase(10, 60, 5e-4, False)]
    assert phases(recipe("seed", encoder_weights="none")) == [Phase(0, 60, 1e-3, False)]
    assert phases(recipe("seed", model="unet")) == [Phase(0, 60, 1e-3, False)]
    assert phases(recipe("seed", epochs=4)) == [Phase(0, 4, 1e-3, True)]


@pytest.mark.slow
def test_freezing(rng):
    """A frozen encoder keeps its weights through a step, those of its BatchNormalization too."""
    config = recipe("default", encoder="efficientnetb0", freeze_epochs=1, auxiliary=0.0)
    model, encoder = build_model(config.network())
    freeze_encoder(encoder, True)
    optimizer = make_optimizer(model, encoder, phases(config)[0], config, 1, None)
    before = {id(layer): layer.get_weights() for layer in encoder}
    make_step(model, optimizer, config, ONE, make_loss(config.loss))(*batch(rng))
    for layer in encoder:
        for old, new in zip(before[id(layer)], layer.get_weights(), strict=True):
            assert np.array_equal(old, new), layer.name
    freeze_encoder(encoder, False)
    assert all(layer.trainable for layer in encoder)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1e-2, 1e-2, 1e-2]), ("cosine", [1e-2, (1e-2 + 1e-4) / 2, 1e-4])],
)
def test_learning_rate(schedule, expected):
    """The rate stays, or falls along a cosine to a hundredth."""
    rate = stepper(tiny(schedule=schedule), steps=10)[1]._learning_rate
    assert [float(rate(step)) for step in (0, 50, 100)] == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.slow
def test_average_of_the_weights(rng):
    """The moving average is that of the weights after each step; taking it and going back changes nothing."""
    config = tiny(ema=0.6)
    model, optimizer, step = stepper(config)
    average = None
    for _ in range(3):
        step(*batch(rng))
        average = weights(model) if average is None else 0.6 * average + 0.4 * weights(model)
    before = weights(model)
    raw = average_weights(model, optimizer)
    assert weights(model) == pytest.approx(average, abs=1e-5)
    assign(model.trainable_variables, raw)
    assert np.array_equal(weights(model), before)


@pytest.mark.slow
def test_half_precision_trains(rng):
    """In float16 with a scaled loss the loss is near float32's and falls."""
    data = batch(rng)
    _, _, single = stepper(tiny())
    first = float(single(*data))
    _, optimizer, step = stepper(tiny(), half="float16")
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    losses = [float(step(*data)) for _ in range(12)]
    assert losses[0] == pytest.approx(first, rel=2e-2)
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_auxiliary_heads_are_trained(rng):
    """With auxiliary heads the loss is larger by their weighted losses, and they learn."""
    config = tiny(auxiliary=0.5)
    model, _, step = stepper(config)
    data = batch(rng)
    outputs = model(data[0], training=True)
    masks = make_loss(config.loss)(data[1].astype(np.float32) / 255, outputs["logits"])
    losses = [float(step(*data)) for _ in range(15)]
    assert losses[0] > float(masks)
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_weight_decay_takes_from_kernels_only(rng):
    """A step with weight decay leaves each kernel smaller by its share, and offsets and factors as they are without."""
    data = batch(rng)
    results = {}
    for decay in (0.0, 0.5):
        model, _, step = stepper(tiny(weight_decay=decay))
        before = [np.array(v) for v in model.trainable_variables]
        step(*data)
        results[decay] = [np.array(v) for v in model.trainable_variables]
    for old, plain, decayed in zip(before, results[0.0], results[0.5], strict=True):
        assert decayed == pytest.approx(plain - (0.5 * 1e-2 * old if old.ndim > 1 else 0), abs=1e-6)


@pytest.mark.parametrize("half", [None, "float16"])
def test_encoder_rate_slows_the_encoder(half):
    """The encoder's first step is as long as its rate says, and the decoder's as without it."""
    encoder, decoder = keras.layers.Dense(3), keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((4,)), encoder, decoder])
    optimizer = make_optimizer(model, [encoder], PHASE, tiny(encoder_rate=0.1), 1, half)
    before = [np.array(v) for v in model.trainable_variables]
    gradients = [optimizer.scale_loss(tf.ones(v.shape)) for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    # The first step of Adam is the learning rate times the gradient's sign.
    moved = [old - np.array(v) for v, old in zip(model.trainable_variables, before, strict=True)]
    for step, rate in zip(moved, [1e-3, 1e-3, 1e-2, 1e-2], strict=True):
        assert step == pytest.approx(np.full(step.shape, rate), rel=1e-2)


@pytest.mark.slow
def test_label_smoothing_draws_the_masks_to_one_half(rng):
    """The loss of a step is that of the masks drawn towards 1/2."""
    data = batch(rng)
    model, _, step = stepper(tiny(label_smoothing=0.2))
    masks = 0.1 + 0.8 * data[1].astype(np.float32) / 255
    expected = float(make_loss("bce+dice")(masks, model(data[0], training=True)))
    assert float(step(*data)) == pytest.approx(expected, rel=1e-5)
