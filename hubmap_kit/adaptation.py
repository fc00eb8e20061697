"""Adaptation of a network to the tissue it is about to predict, without its masks: offline, at prediction.

All images of one organ and source share a stain and a scanner. Either the statistics of the network's
BatchNormalization are re-estimated on them (Li et al. 2016, "Revisiting batch normalization for practical domain
adaptation", arXiv 1603.04779) and mixed with the trained ones, or the network is trained a little on those of its own
masks that it is sure of (Lee 2013, "Pseudo-label", ICML workshop). Afterwards it is as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import keras
import numpy as np
import tensorflow as tf

from .augment import augment
from .config import PredictConfig
from .members import Job, Member, predict_augmented
from .rows import open_scaled
from .tiles import pad_to_tile

IMAGES = 24  # of a group, at most, spread over all of it
TILES = 4  # of an image, at most
BATCH = 8  # tiles
SURE = 0.9  # probability of being right from which a pixel is learned from
LEARNING_RATE = 1e-4
UNSURE = 128  # in a mask of 0 and 255: a pixel that is not learned from
# Steps that map pixels onto pixels, so that sure and unsure ones do not mix.
AUGMENT = {"flip": 1.0, "quarter": 1.0, "stain": 0.75}


@contextmanager
def adapted(members: Sequence[Member], jobs: Sequence[Job], config: PredictConfig) -> Iterator[None]:
    """Adapt the members' networks to images of one organ and source; when the block ends they are as before.

    Args:
        members: The networks; several may share one, at several scales: it is adapted at the first one's.
        jobs: All images of the group. One that cannot be read is left out.
        config: ``adapt``, ``adapt_share`` and ``adapt_steps`` are taken.
    """
    networks = {id(member.network): member for member in reversed(members)}
    with ExitStack() as stack:
        for member in networks.values():
            tiles = sample_tiles(member, jobs)
            if len(tiles):
                stack.callback(_restore, member.network, [np.array(value) for value in member.network.variables])
                if config.adapt == "batchnorm":
                    reestimate(member.network, tiles, config.adapt_share)
                else:
                    self_train(member, tiles, config.adapt_steps)
        yield


def sample_tiles(member: Member, jobs: Sequence[Job]) -> np.ndarray:
    """Tiles of images as a member sees them.

    Args:
        member: The network.
        jobs: Images of one organ.

    Returns:
        ``(N, tile, tile, 3)`` uint8 RGB, at most `IMAGES` times `TILES`.
    """
    rng = np.random.default_rng(0)
    size = member.tile_size
    tiles = []
    places = np.linspace(0, len(jobs) - 1, min(IMAGES, len(jobs)))
    for job in (jobs[round(place)] for place in places):
        try:
            with open_scaled(
                job.path, job.pixel_size_um, member.network_um[job.organ], expect_shape=job.shape
            ) as image:
                height, width = image.shape[:2]
                count = min(TILES, -(-height // size) * -(-width // size))
                rows = sorted(int(rng.integers(max(height - size, 0) + 1)) for _ in range(count))
                for y in rows:
                    band = pad_to_tile(image.read(y, min(y + size, height)), size)
                    x = int(rng.integers(band.shape[1] - size + 1))
                    tiles.append(band[:size, x : x + size])
        except (OSError, ValueError, MemoryError):
            continue  # its prediction says what is wrong with it
    return np.stack(tiles) if tiles else np.empty((0, size, size, 3), np.uint8)


def reestimate(network: keras.Model, tiles: np.ndarray, share: float) -> None:
    """Mix the statistics of BatchNormalization with those of some tiles.

    Args:
        network: ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` logits; its BatchNormalization is changed.
        tiles: ``(N, tile, tile, 3)`` uint8.
        share: Weight of the tiles' statistics, the mean over batches; the trained ones have the rest.
    """
    layers = list(_layers(network))
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    trained = [[np.array(norm.moving_mean), np.array(norm.moving_variance)] for norm in norms]
    momenta = [norm.momentum for norm in norms]
    trainable = [norm.trainable for norm in norms]
    dropouts = [(layer, layer.rate) for layer in layers if isinstance(layer, keras.layers.Dropout)]
    try:
        for dropout, _ in dropouts:
            dropout.rate = 0.0
        for norm in norms:
            norm.trainable = True
        batches = np.array_split(tiles, -(-len(tiles) // BATCH))
        for number, batch in enumerate(batches, start=1):
            for norm in norms:
                norm.momentum = 1 - 1 / number  # so that the moving average is the mean over batches
            network(tf.constant(batch), training=True)
        for norm, (mean, variance) in zip(norms, trained, strict=True):
            norm.moving_mean.assign((1 - share) * mean + share * np.array(norm.moving_mean))
            norm.moving_variance.assign((1 - share) * variance + share * np.array(norm.moving_variance))
    finally:
        for dropout, rate in dropouts:
            dropout.rate = rate
        for norm, momentum, was in zip(norms, momenta, trainable, strict=True):
            norm.momentum, norm.trainable = momentum, was


def self_train(member: Member, tiles: np.ndarray, steps: int) -> None:
    """Train a network on its own masks of some tiles, where it is sure of them.

    The masks are those of before the first step. BatchNormalization keeps its statistics.

    Args:
        member: The network; its weights are changed.
        tiles: ``(N, tile, tile, 3)`` uint8.
        steps: Training steps of `BATCH` tiles.
    """
    size = tiles.shape[1]
    maps = np.empty(tiles.shape[:3], np.float32)
    for first in range(0, len(tiles), member.batch_size):
        places = np.arange(first, first + member.batch_size) % len(tiles)  # full batches; the last begins anew
        maps[places] = predict_augmented(member, tiles[places])
    masks = np.select([maps >= SURE, maps <= 1 - SURE], [np.uint8(255), np.uint8(0)], np.uint8(UNSURE))
    pixels = np.concatenate((tiles, masks[..., None]), axis=-1)
    network = member.network
    was = [(layer, layer.trainable) for layer in _layers(network)]
    for layer, _ in was:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    variables = network.trainable_variables
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(LEARNING_RATE))  # it may be of float16
    optimizer.build(variables)

    @tf.function(jit_compile=False)
    def step(images: tf.Tensor, masks: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            sure = tf.cast(masks != UNSURE, tf.float32)
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(masks > UNSURE, tf.float32), logits)
            loss = optimizer.scale_loss(tf.math.divide_no_nan(tf.reduce_sum(sure * entropy), tf.reduce_sum(sure)))
        optimizer.apply(tape.gradient(loss, variables), variables)

    rng = np.random.default_rng(0)
    for _ in range(steps):
        chosen = rng.integers(len(pixels), size=BATCH)
        made = [augment(pixels[i], (0, 0), size, AUGMENT, rng) for i in chosen]
        step(
            tf.constant(np.stack([image for image, *_ in made])), tf.constant(np.stack([mask for _, mask, *_ in made]))
        )
    for layer, trainable in was:
        layer.trainable = trainable


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    """All layers, those of networks within the network too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _restore(network: keras.Model, values: list[np.ndarray]) -> None:
    for variable, value in zip(network.variables, values, strict=True):
        variable.assign(value)
