"""Building blocks of the networks: a faster BatchNormalization, and the plain U-Net's encoder and decoder.

The plain U-Net (Ronneberger et al. 2015, arXiv 1505.04597) pads here, so that the mask has the patch's size, and
normalises after each convolution.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers


class BatchNormalization(layers.BatchNormalization):  # type: ignore[misc]  # Keras has no types
    """Keras's layer, with the same weights, statistics and values, as one fused TensorFlow operation.

    Keras 3 uses some ten operations, each of which reads the whole batch. The fused one cannot join the statistics of
    several replicas, so there the layer falls back to Keras's way.
    """

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None) -> tf.Tensor:
        """``(B, H, W, c)`` to the same shape; see Keras's layer."""
        if self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        learns = bool(training and self.trainable)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs,
            self.gamma if self.scale else tf.ones_like(self.moving_mean),
            self.beta if self.center else tf.zeros_like(self.moving_mean),
            mean=None if learns else self.moving_mean,
            variance=None if learns else self.moving_variance,
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            # The fused operation returns the unbiased variance (n - 1); Keras stores the biased one (n).
            count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:-1]), tf.float32)
            for moving, found in ((self.moving_mean, mean), (self.moving_variance, variance * (count - 1) / count)):
                moving.assign(moving * self.momentum + found * (1 - self.momentum))
        return outputs


def with_fused_normalization(model: keras.Model) -> keras.Model:
    """A copy of a network, weights included, with this module's `BatchNormalization` in place of Keras's."""

    def copy(layer: keras.Layer) -> keras.Layer:
        kind = BatchNormalization if type(layer) is layers.BatchNormalization else type(layer)
        return kind.from_config(layer.get_config())

    fused = keras.models.clone_model(model, clone_function=copy)
    fused.set_weights(model.get_weights())
    return fused


def with_dropout(model: keras.Model, share: float) -> keras.Model:
    """The same layers, with dropout of whole channels after each join of a decoder stage with its skip connection."""

    def call(layer: keras.Layer, *inputs: Any, **more: Any) -> Any:
        outputs = layer(*inputs, **more)
        stage, joins, _ = layer.name.partition("_concat")
        if joins and stage.startswith("decoder_stage"):
            outputs = layers.SpatialDropout2D(share, name=f"{stage}_dropout")(outputs)
        return outputs

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def double_convolution(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU: ``(B, h, w, c)`` to ``(B, h, w, filters)``."""
    for i in (1, 2):
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv{i}"
        )(x)
        # A training on a CPU has a few hundred steps, too few for Keras's momentum of 0.99.
        x = BatchNormalization(momentum=0.9, name=f"{name}_bn{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
    return x


def encoder_block(x: keras.KerasTensor, filters: int, name: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """One stage of the encoder.

    Returns:
        The stage's output, ``(B, h/2, w/2, filters)``, and its skip connection, ``(B, h, w, filters)``.
    """
    skip = double_convolution(x, filters, name)
    return layers.MaxPooling2D(2, name=f"{name}_pool")(skip), skip


def decoder_block(x: keras.KerasTensor, skip: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """One stage of the decoder: ``(B, h, w, c)`` and its skip ``(B, 2h, 2w, s)`` to ``(B, 2h, 2w, filters)``."""
    x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same", name=f"{name}_up")(x)
    x = layers.Concatenate(name=f"{name}_concat")([x, skip])
    return double_convolution(x, filters, name)
