"""Tests of the blocks that networks are built of."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from hubmap_kit.models.blocks import BatchNormalization, with_fused_normalization


def pair(rng, channels=5, **settings):
    """Keras's layer and ours, with the same weights, none of them at its initial value."""
    made = [
        kind(momentum=0.7, epsilon=2e-3, **settings) for kind in (keras.layers.BatchNormalization, BatchNormalization)
    ]
    for layer in made:
        layer.build((None, None, None, channels))
    values = [rng.uniform(0.5, 2, value.shape).astype(np.float32) for value in made[0].get_weights()]
    for layer in made:
        layer.set_weights(values)
    return made


def step(layer, x, wanted, training):
    """Outputs, the gradients of a loss by inputs and weights, and the weights after it."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=training)
        loss = tf.reduce_sum(wanted * tf.cast(outputs, tf.float32))
    gradients = tape.gradient(loss, [x, *layer.trainable_variables])
    return [np.asarray(value) for value in (outputs, *gradients, *layer.get_weights())]


@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("mode", ["training", "frozen", "inference"])
def test_values_gradients_and_statistics_are_keras(mode, settings, rng):
    """Outputs, gradients and moving statistics are those of Keras's layer, of few pixels (15) too."""
    x = rng.normal(3, 2, (1, 3, 5, 5)).astype(np.float32)
    wanted = rng.normal(0, 1, x.shape).astype(np.float32)
    layers = pair(rng, **settings)
    for layer in layers:
        layer.trainable = mode != "frozen"
    keras_, ours = (step(layer, x, wanted, mode != "inference") for layer in layers)
    assert len(keras_) == len(ours)
    for expected, found in zip(keras_, ours, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_keeps_statistics_in_float32(half, rng):
    """Half-precision inputs give half-precision outputs; statistics are computed and kept in float32."""
    x = rng.normal(3, 2, (4, 8, 8, 5)).astype(np.float32)
    plain, ours = pair(rng, dtype=f"mixed_{half}")
    outputs = [layer(tf.cast(x, half), training=True) for layer in (plain, ours)]
    assert outputs[1].dtype == half
    expected, found = (np.asarray(tf.cast(value, tf.float32)) for value in outputs)
    np.testing.assert_allclose(found, expected, atol=0.05)
    for expected, found in zip(plain.get_weights(), ours.get_weights(), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_network_is_the_same_with_it(rng):
    """All BatchNormalization is replaced and nothing else; weights and outputs keep their values."""
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, [keras.layers.ReLU()(x), x])
    model.set_weights([rng.uniform(0.5, 2, value.shape) for value in model.get_weights()])
    fused = with_fused_normalization(model)
    assert type(fused.get_layer("norm")) is BatchNormalization
    assert [type(layer) for layer in fused.layers if layer.name != "norm"] == [
        type(layer) for layer in model.layers if layer.name != "norm"
    ]
    image = rng.normal(0, 1, (1, 7, 5, 3)).astype(np.float32)
    for expected, found in zip(model(image), fused(image), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
