"""Losses from logits, in float32, over the global batch, which is that of all replicas together.

To add a loss, write its function here and put it in `LOSSES`. TensorFlow is imported when a loss is computed, so that
the names can be listed without it.

Every sum over the batch goes through `total`, so each replica holds the value that one process would compute from the
whole batch. In the backward pass `total` adds up the gradients of all replicas' losses in each replica. Divide the loss
by the number of replicas, and the gradients summed over the replicas are exactly those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..lazy import Lazy

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
else:
    keras, tf = Lazy("keras"), Lazy("tensorflow")

Loss = Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]
LARGEST_WEIGHT = 1e6  # of a loss in a sum

# Lin et al. 2017 (arXiv 1708.02002), table 1b: the best pair there.
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2
# Salehi et al. 2017 (arXiv 1706.05721), table 1: a missed pixel weighs more than a false one.
TVERSKY_ALPHA, TVERSKY_BETA = 0.3, 0.7


def total(*sums: tf.Tensor) -> list[tf.Tensor]:
    """Add up scalars over all replicas, differentiably and in one reduction; with one replica they stay as they are."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return list(sums)
    summed: list[tf.Tensor] = tf.unstack(context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(sums)))
    return summed


def _mean(values: tf.Tensor) -> tf.Tensor:
    """Mean of the values of all replicas; replicas may hold different numbers of values."""
    value, count = total(tf.reduce_sum(values), tf.cast(tf.size(values), tf.float32))
    return value / count


def binary_cross_entropy(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean binary cross-entropy of every pixel.

    Args:
        masks: ``(B, H, W)`` float32 in [0, 1].
        logits: ``(B, H, W)`` float32.

    Returns:
        Scalar float32, at least 0.
    """
    return _mean(tf.nn.sigmoid_cross_entropy_with_logits(masks, logits))


def focal_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean focal loss of every pixel: cross-entropy that counts less where the network is already sure.

    ``alpha (1 - p)^gamma (-log p)`` of foreground and ``(1 - alpha) p^gamma (-log(1 - p))`` of background (Lin et al.
    2017, arXiv 1708.02002, equation 5); a soft mask mixes the two.

    Args:
        masks: ``(B, H, W)`` float32 in [0, 1].
        logits: ``(B, H, W)`` float32.

    Returns:
        Scalar float32, at least 0.
    """
    # softplus(-x) is -log p, without a logarithm of 0.
    foreground = FOCAL_ALPHA * tf.sigmoid(-logits) ** FOCAL_GAMMA * tf.nn.softplus(-logits)
    background = (1 - FOCAL_ALPHA) * tf.sigmoid(logits) ** FOCAL_GAMMA * tf.nn.softplus(logits)
    return _mean(masks * foreground + (1 - masks) * background)


def tversky_loss(
    masks: tf.Tensor, logits: tf.Tensor, alpha: float = TVERSKY_ALPHA, beta: float = TVERSKY_BETA
) -> tf.Tensor:
    """One minus the soft Tversky index of the whole batch (Salehi et al. 2017, arXiv 1706.05721, equation 3).

    It is taken over the batch, because a single patch without mask would swing it. One pixel is added to numerator and
    denominator, so that a batch without mask has an index.

    Args:
        masks: ``(B, H, W)`` float32 in [0, 1].
        logits: ``(B, H, W)`` float32.
        alpha: Weight of false foreground.
        beta: Weight of missed foreground.

    Returns:
        Scalar float32 in [0, 1].
    """
    probabilities = tf.sigmoid(logits)
    both, false, missed = total(
        tf.reduce_sum(masks * probabilities),
        tf.reduce_sum((1 - masks) * probabilities),
        tf.reduce_sum(masks * (1 - probabilities)),
    )
    return 1 - (both + 1) / (both + alpha * false + beta * missed + 1)


def dice_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """One minus the soft Dice of the whole batch (Milletari et al. 2016, arXiv 1606.04797, without squares).

    It is taken over the batch, because a single patch without mask would swing it.

    Args:
        masks: ``(B, H, W)`` float32 in [0, 1].
        logits: ``(B, H, W)`` float32.

    Returns:
        Scalar float32 in [0, 1].
    """
    probabilities = tf.sigmoid(logits)
    both, mask, found = total(tf.reduce_sum(masks * probabilities), tf.reduce_sum(masks), tf.reduce_sum(probabilities))
    return 1 - (2 * both + 1) / (mask + found + 1)


def lovasz_loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Mean Lovasz hinge of every image (Berman et al. 2018, arXiv 1705.08790, equation 9 and algorithm 1).

    The convex extension of the Jaccard loss: pixels are sorted by their hinge error, and each is weighed by how much
    the Jaccard loss grows when it is added.

    Args:
        masks: ``(B, H, W)`` float32 in [0, 1]; foreground from 0.5.
        logits: ``(B, H, W)`` float32.

    Returns:
        Scalar float32, at least 0.
    """
    pixels = tf.reduce_prod(tf.shape(masks)[1:])
    truth = tf.cast(tf.reshape(masks, (-1, pixels)) >= 0.5, tf.float32)
    errors = 1 - tf.reshape(logits, (-1, pixels)) * (2 * truth - 1)
    errors, order = tf.math.top_k(errors, k=pixels)
    truth = tf.gather(truth, order, axis=1, batch_dims=1)
    area = tf.reduce_sum(truth, 1, keepdims=True)
    # Never 0, because the first pixel always belongs to the union.
    union = area + tf.cumsum(1 - truth, 1)
    jaccard_loss = 1 - (area - tf.cumsum(truth, 1)) / union
    growth = jaccard_loss - tf.pad(jaccard_loss[:, :-1], ((0, 0), (1, 0)))
    return _mean(tf.reduce_sum(tf.nn.relu(errors) * growth, 1))


LOSSES: dict[str, Loss] = {
    "bce": binary_cross_entropy,
    "dice": dice_loss,
    "focal": focal_loss,
    "tversky": tversky_loss,
    "lovasz": lovasz_loss,
}


def loss_terms(text: str) -> dict[str, float]:
    """Parse a weighted sum of losses.

    Returns:
        Loss to its weight.

    Raises:
        ValueError: An unknown loss, one that comes twice, or a weight that is not above 0.

    >>> loss_terms("bce+0.5*lovasz")
    {'bce': 1.0, 'lovasz': 0.5}
    """
    terms: dict[str, float] = {}
    for part in text.split("+"):
        weight, sep, name = part.strip().rpartition("*")
        name = name.strip()
        if name not in LOSSES or name in terms:
            raise ValueError(
                f"{part.strip()!r} is not a loss, or comes twice; write a sum of {', '.join(LOSSES)}, "
                "such as bce+dice or bce+0.5*lovasz"
            )
        try:
            terms[name] = float(weight) if sep else 1.0
        except ValueError:
            terms[name] = math.nan
        if not 0 < terms[name] <= LARGEST_WEIGHT:
            raise ValueError(f"{part.strip()!r}: the weight must be a number above 0, and at most {LARGEST_WEIGHT:g}")
    return terms


def make_loss(text: str) -> Loss:
    """The loss of a `TrainConfig`: a weighted sum such as ``bce+0.5*lovasz``.

    Args:
        text: See `loss_terms`.

    Returns:
        Function of masks ``(B, H, W)`` in [0, 1] and logits ``(B, H, W)``, each of any numeric type, to a float32
        scalar.

    Raises:
        ValueError: The text is no sum of losses.
    """
    terms = loss_terms(text)

    def loss(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        masks, logits = tf.cast(masks, tf.float32), tf.cast(logits, tf.float32)
        return tf.add_n([weight * LOSSES[name](masks, logits) for name, weight in terms.items()])

    return loss


def auxiliary_loss(organs: tf.Tensor, log2_um: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Mean loss of the heads for organ and pixel size.

    It is the cross-entropy of the organ, in nats, plus the Huber loss of the pixel size in octaves. The Huber loss is
    quadratic up to a factor of 2 and linear beyond, so that an image of an unusual pixel size does not dominate.

    Args:
        organs: ``(B,)`` integer, index into `hubmap_kit.competition.ORGANS`.
        log2_um: ``(B,)`` float, binary logarithm of the pixel size in µm at which the network sees the patch.
        outputs: Outputs of the network: ``organ``, ``(B, 5)`` logits, and ``log2_um``, ``(B,)``.

    Returns:
        Scalar float32, at least 0.
    """
    organ = tf.nn.sparse_softmax_cross_entropy_with_logits(organs, tf.cast(outputs["organ"], tf.float32))
    true, found = tf.cast(log2_um, tf.float32), tf.cast(outputs["log2_um"], tf.float32)
    # Keras takes the mean over the last axis.
    return _mean(organ + keras.losses.huber(true[:, None], found[:, None]))
