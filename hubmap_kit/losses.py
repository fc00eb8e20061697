"""Losses from logits, in float32."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def binary_cross_entropy(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean binary cross-entropy of every pixel.

    Args:
        masks: ``(B, H, W)`` float32 in {0, 1}.
        logits: ``(B, H, W)`` float32.

    Returns:
        Scalar float32, at least 0.
    """
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(masks, logits))


def dice_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """One minus the soft Dice of the whole batch (Milletari et al. 2016, arXiv 1606.04797, without squares).

    Taken over the batch rather than a patch, so that a patch without mask does not swing it.

    Args:
        masks: ``(B, H, W)`` float32 in {0, 1}.
        logits: ``(B, H, W)`` float32.

    Returns:
        Scalar float32 in [0, 1].
    """
    probabilities = tf.sigmoid(logits)
    both = tf.reduce_sum(masks * probabilities)
    return 1 - (2 * both + 1) / (tf.reduce_sum(masks) + tf.reduce_sum(probabilities) + 1)


def make_loss(name: str) -> Loss:
    """The loss of a `TrainConfig`: ``bce``, ``dice``, or ``bce+dice``, their sum."""
    parts = [{"bce": binary_cross_entropy, "dice": dice_loss}[part] for part in name.split("+")]
    return lambda masks, logits: tf.add_n([part(masks, logits) for part in parts])
