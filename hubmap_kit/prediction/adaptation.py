"""Adaptation of a network to the images that it is about to predict, without their masks.

All images of one organ and source share a stain and a scanner. ``batchnorm`` re-estimates the statistics of the
network's BatchNormalization on them (Li et al. 2016, "Revisiting batch normalization for practical domain adaptation",
arXiv 1603.04779) and mixes these with the trained ones (Schneider et al. 2020, "Improving robustness against common
corruptions by covariate shift adaptation", arXiv 2006.16971). ``self-training`` trains the network a little on the
pixels of its own masks that it is sure of (Lee 2013, "Pseudo-label", ICML workshop). Afterwards the network is
restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..config import PredictConfig
from ..images.augment import augment
from ..models.network import assign
from ..tables import Image
from .ensemble import Member, nearest_scale, networks_of, predict_augmented, tilings_of
from .reading import tiles_of

OWN_SHARE = 0.5  # weight of the images' own BatchNormalization statistics; the run's have the rest
IMAGES = 24  # largest number of images that tiles are taken from, spread over the group
TILES = 4  # largest number of tiles per image
BATCH = 8  # tiles in a batch
SURE = 0.9  # a pixel is sure if its foreground or its background has at least this probability
STEPS = 40  # training steps of self-training
LEARNING_RATE = 1e-4  # of self-training
UNSURE = 128  # in a mask of 0 and 255: a pixel that is not sure
# Augmentations that map pixels onto pixels, so that sure and unsure pixels do not mix.
AUGMENT = {"flip": 1.0, "quarter": 1.0, "stain": 0.75}


@contextmanager
def adapted(members: Sequence[Member], images: Sequence[Image], config: PredictConfig) -> Iterator[None]:
    """Adapt the members' networks to images of one organ and source; when the block ends, they are as before.

    Args:
        members: The networks. One with several scales is adapted at the scale nearest to its training's.
        images: All images of the group. Those that cannot be read are left out; without any, nothing is changed.
        config: Its ``adapt`` says how; it is not none.
    """
    with ExitStack() as stack:
        for scales in networks_of(members):
            member = nearest_scale(scales)
            tiles = sample_tiles(member, images)
            if not len(tiles):
                continue
            variables = member.network.variables
            stack.callback(assign, variables, [np.array(variable) for variable in variables])
            if config.adapt == "batchnorm":
                reestimate(member.network, tiles, OWN_SHARE)
            else:
                self_train(member, tiles, STEPS)
        yield


def sample_tiles(member: Member, images: Sequence[Image]) -> npt.NDArray[np.uint8]:
    """Tiles of images, as a member sees them.

    Args:
        member: The network.
        images: Images of one organ; those that cannot be read are left out.

    Returns:
        ``(N, tile, tile, 3)`` uint8 RGB: at most `TILES` tiles of each of at most `IMAGES` images.
    """
    rng = np.random.default_rng(0)
    size = member.tile_size
    sampled = [np.empty((0, size, size, 3), np.uint8)]
    for place in np.linspace(0, len(images) - 1, min(IMAGES, len(images))):
        image = images[round(place)]
        (tiling,) = tilings_of([member], image.organ)
        with suppress(OSError, ValueError, MemoryError):  # the image's prediction reports the error
            chosen = rng.permutation(tiling.count(image))[:TILES]
            tiles = enumerate(tiles_of(image, [tiling], skip_background=False))
            sampled.append(np.stack([tile for number, (_, tile) in tiles if number in chosen and tile is not None]))
    return np.concatenate(sampled)


def reestimate(network: keras.Model, tiles: npt.NDArray[np.uint8], share: float) -> None:
    """Mix the statistics of a network's BatchNormalization with those of some tiles.

    Args:
        network: ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` logits; its BatchNormalization is changed.
        tiles: ``(N, tile, tile, 3)`` uint8.
        share: Weight of the tiles' statistics, which are the mean over batches; the trained ones have the rest.
    """
    norms = _layers(network, keras.layers.BatchNormalization)
    trained = [[np.array(norm.moving_mean), np.array(norm.moving_variance)] for norm in norms]
    with ExitStack() as stack:
        for dropout in _layers(network, keras.layers.Dropout):
            _change(stack, dropout, "rate", 0.0)
        for norm in norms:
            _change(stack, norm, "trainable", True)
            _change(stack, norm, "momentum", 0.0)
        for number, batch in enumerate(np.array_split(tiles, -(-len(tiles) // BATCH)), start=1):
            for norm in norms:
                norm.momentum = 1 - 1 / number  # so that the moving average is the mean over batches
            network(tf.constant(batch), training=True)
    for norm, (mean, variance) in zip(norms, trained, strict=True):
        norm.moving_mean.assign((1 - share) * mean + share * np.array(norm.moving_mean))
        norm.moving_variance.assign((1 - share) * variance + share * np.array(norm.moving_variance))


def self_train(member: Member, tiles: npt.NDArray[np.uint8], steps: int) -> None:
    """Train a network on the sure pixels of its own masks of some tiles, by cross-entropy.

    The masks are made once, before the first step. BatchNormalization is not changed.

    Args:
        member: The network; its weights are changed.
        tiles: ``(N, tile, tile, 3)`` uint8.
        steps: Training steps of `BATCH` tiles.
    """
    pixels = np.concatenate((tiles, _sure_masks(member, tiles)[..., None]), axis=-1)
    with ExitStack() as stack:
        for norm in _layers(member.network, keras.layers.BatchNormalization):
            _change(stack, norm, "trainable", False)
        step = _make_step(member.network)
        rng = np.random.default_rng(0)
        for _ in range(steps):
            chosen = rng.integers(len(pixels), size=BATCH)
            images, masks, _ = zip(
                *(augment(pixels[i], (0, 0), tiles.shape[1], AUGMENT, rng) for i in chosen), strict=True
            )
            step(tf.constant(np.stack(images)), tf.constant(np.stack(masks)))


def _sure_masks(member: Member, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A network's masks of some tiles: ``(N, tile, tile)`` uint8, 0, 255 or `UNSURE`."""
    maps = np.empty(tiles.shape[:3], np.float32)
    for first in range(0, len(tiles), member.batch_size):
        # Batches are always full: the last one is filled up with the first tiles.
        places = np.arange(first, first + member.batch_size) % len(tiles)
        maps[places] = predict_augmented(member, tiles[places])
    return np.select([maps >= SURE, maps <= 1 - SURE], [np.uint8(255), np.uint8(0)], np.uint8(UNSURE))


def _make_step(network: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """A compiled training step on images and `_sure_masks`."""
    variables = network.trainable_variables
    # With scaled losses, because the network may compute in float16.
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(LEARNING_RATE))
    optimizer.build(variables)

    def step(images: tf.Tensor, masks: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            sure = tf.cast(masks != UNSURE, tf.float32)
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(masks > UNSURE, tf.float32), logits)
            loss = optimizer.scale_loss(tf.math.divide_no_nan(tf.reduce_sum(sure * entropy), tf.reduce_sum(sure)))
        optimizer.apply(tape.gradient(loss, variables), variables)

    compiled: Callable[[tf.Tensor, tf.Tensor], None] = tf.function(step, jit_compile=False)
    return compiled


def _layers(model: keras.Model, kind: type[keras.Layer]) -> list[keras.Layer]:
    """The layers of a kind, including those of networks within the network."""
    found: list[keras.Layer] = []
    for layer in model.layers:
        found += _layers(layer, kind) if isinstance(layer, keras.Model) else [layer] * isinstance(layer, kind)
    return found


def _change(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack closes."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
