"""Tests of phases, freezing, the optimizer and the training step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hubmap_kit.config import TrainConfig
from hubmap_kit.models.blocks import BatchNormalization
from hubmap_kit.models.losses import auxiliary_loss, make_loss
from hubmap_kit.models.network import assign, build_model
from hubmap_kit.recipes import recipe
from hubmap_kit.run import Run
from hubmap_kit.training import loop
from hubmap_kit.training.devices import Devices
from hubmap_kit.training.step import Phase, Step, average_weights, freeze_encoder, make_optimizer, phases
from hubmap_kit.training.train import train

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
    return model, optimizer, Step(model, optimizer, config, ONE, make_loss(config.loss))


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
    Step(model, optimizer, config, ONE, make_loss(config.loss))(*batch(rng))
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


LOSSES = tiny(auxiliary=0.5, label_smoothing=0.1, loss="bce+dice+0.5*lovasz+tversky")


def small_network(*, normalised: bool) -> keras.Model:
    """Three heads on one convolution, without BatchNormalization and dropout or with both; an odd side in px."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((37, 37, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="tanh")(keras.layers.Rescaling(1 / 255)(x))
    if normalised:
        x = keras.layers.SpatialDropout2D(0.5)(BatchNormalization(momentum=0.9)(x))
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Reshape((37, 37))(keras.layers.Conv2D(1, 1)(x))
    size = keras.layers.Reshape(())(keras.layers.Dense(1)(pooled))
    return keras.Model(inputs, {"logits": logits, "organ": keras.layers.Dense(5)(pooled), "log2_um": size})


def five(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A batch of five patches; one has no mask."""
    images = rng.integers(0, 256, (5, 37, 37, 3), np.uint8)
    masks = 255 * (images[..., 0] > np.array([250, 128, 30, 60, 256])[:, None, None]).astype(np.uint8)
    return images, masks, np.array([0, 3, 4, 1, 1], np.int32), np.linspace(-1, 2, 5, dtype=np.float32)


def variables_of(model: keras.Model) -> np.ndarray:
    return np.concatenate([np.array(v, np.float64).ravel() for v in model.variables])


def train_in_parts(parts: int, data: tuple[np.ndarray, ...], half: str | None = None) -> tuple[list[float], np.ndarray]:
    """Losses of three steps in parts, and the weights afterwards."""
    model = small_network(normalised=False)
    plain = keras.optimizers.SGD(0.1)
    optimizer = keras.optimizers.LossScaleOptimizer(plain) if half else plain
    optimizer.build(model.trainable_variables)
    step = Step(model, optimizer, LOSSES, ONE, make_loss(LOSSES.loss), parts)
    return [float(step(*data)) for _ in range(3)], variables_of(model)


@pytest.mark.slow
@pytest.mark.parametrize("half", [None, "float16"])
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_have_the_gradients_of_the_batch(rng, parts, half):
    """Each loss, smoothed masks and the other heads train in unequal parts as in one, also with a scaled loss."""
    data = five(rng)
    losses, trained = train_in_parts(1, data, half)
    in_parts = train_in_parts(parts, data, half)
    assert losses[2] < losses[0]
    assert in_parts[0] == pytest.approx(losses, rel=1e-5)
    assert in_parts[1] == pytest.approx(trained, abs=2e-6)


@pytest.mark.slow
def test_parts_draw_dropout_once_and_normalise_by_themselves(rng):
    """A step in parts is that of all parts under one tape: one dropout, and statistics of a part, moved once for it."""
    images, masks, organs, log2_um = five(rng)
    loss = make_loss(LOSSES.loss)
    expected = small_network(normalised=True)
    with tf.GradientTape() as tape:
        halves = [expected(part, training=True) for part in (images[:3], images[3:])]
        outputs = {name: tf.concat([half[name] for half in halves], 0) for name in halves[0]}
        value = loss(0.05 + 0.9 * masks.astype(np.float32) / 255, outputs["logits"])
        value += 0.5 * auxiliary_loss(organs, log2_um, outputs)
    gradients = tape.gradient(value, expected.trainable_variables)
    for variable, gradient in zip(expected.trainable_variables, gradients, strict=True):
        variable.assign(variable - 0.1 * gradient)
    model = small_network(normalised=True)
    before = variables_of(model)
    optimizer = keras.optimizers.SGD(0.1)
    found = Step(model, optimizer, LOSSES, ONE, loss, 2)(images, masks, organs, log2_um)
    assert float(found) == pytest.approx(float(value), rel=1e-5)
    assert variables_of(model) == pytest.approx(variables_of(expected), abs=1e-5)
    assert not np.allclose(variables_of(model), before, atol=1e-3)


@pytest.fixture(name="hold")
def fixture_hold(monkeypatch) -> Callable[[int], None]:
    """A function that sets how many patches a training step can hold; TensorFlow raises its error for more."""
    normalise = BatchNormalization.call

    def hold(most: int) -> None:
        def check(patches: np.int32) -> None:
            if patches > most:
                raise MemoryError  # a ResourceExhaustedError once it left TensorFlow

        def call(self: Any, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
            if training:
                with tf.control_dependencies([tf.numpy_function(check, [tf.shape(inputs)[0]], ())]):
                    inputs = tf.identity(inputs)
            return normalise(self, inputs, training=training, mask=mask)

        monkeypatch.setattr(BatchNormalization, "call", call)

    return hold


@pytest.mark.slow
def test_full_memory_halves_the_batch(store: Path, tmp_path, hold, monkeypatch, capsys):
    """When the memory is full, a training says so once, goes on in parts through its phases, and ends."""
    monkeypatch.setattr(loop, "phases", lambda _: [Phase(0, 1, 1e-3, False), Phase(1, 2, 1e-3, False)])
    hold(2)
    train(store, tmp_path / "run", recipe("fast", filters=2, batch_size=8, epochs=2, steps_per_epoch=2))
    printed = capsys.readouterr().out
    assert "fewer than 10 images to train on" in printed
    lines = [line for line in printed.splitlines() if "memory is full" in line]
    done = "the memory is full: each device does its 8 patches of a batch in"
    assert lines == [f"{done} {parts} parts of {8 // parts}" for parts in (2, 4)]
    assert Run.open(tmp_path / "run").config.finished


@pytest.mark.slow
def test_too_little_memory_for_a_patch(rng, hold, capsys):
    """When one patch is too much, an error names what helps, and no weight has changed."""
    hold(0)
    model, _, step = stepper(tiny())
    before = weights(model)
    with pytest.raises(ValueError, match=r"one patch of 64 px .* smaller --batch-size does not help"):
        step(*batch(rng))
    assert np.array_equal(weights(model), before)
    done = "the memory is full: each device does its 2 patches of a batch in 2 parts of 1\n"
    assert capsys.readouterr().out == done


@pytest.mark.slow
def test_several_devices_do_not_halve(rng, hold, monkeypatch):
    """Memory that is full in a step of several devices stays an error, because the others would wait."""
    hold(0)
    _, _, step = stepper(tiny())
    monkeypatch.setattr(Devices, "replicas", 2)
    with pytest.raises(MemoryError):
        step(*batch(rng))
    assert step.parts == 1
