"""Adaptation of a network to the tissue it is about to predict, without its masks: offline, at prediction.

All images of one organ and source share a stain and a scanner. Either the statistics of the network's
BatchNormalization are re-estimated on them (Li et al. 2016, "Revisiting batch normalization for practical domain
adaptation", arXiv 1603.04779) and mixed with the trained ones (Schneider et al. 2020, "Improving robustness against
common corruptions by covariate shift adaptation", arXiv 2006.16971), or the network is trained a little on those of
its own masks that it is sure of (Lee 2013, "Pseudo-label", ICML workshop). Afterwards it is as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..config import PredictConfig
from ..images.augment import augment
from ..images.scaling import scaled_shape
from ..models.network import assign
from ..tiles import grid
from .ensemble import Job, Member, groups_of, nearest_scale, networks_of, predict_augmented
from .stream import tiles_of

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
        members: The networks; one that sees images at several scales is adapted at that nearest to its training's.
        jobs: All images of the group. One that cannot be read is left out; without any, nothing is changed.
        config: ``adapt`` (not none), ``adapt_share`` and ``adapt_steps`` are taken.
    """
    with ExitStack() as stack:
        for sharing in networks_of(members).values():
            member = nearest_scale(sharing)
            tiles = sample_tiles(member, jobs)
            if not len(tiles):
                continue
            variables = member.network.variables
            stack.callback(assign, variables, [np.array(variable) for variable in variables])
            if config.adapt == "batchnorm":
                reestimate(member.network, tiles, config.adapt_share)
            else:
                self_train(member, tiles, config.adapt_steps)
        yield


def sample_tiles(member: Member, jobs: Sequence[Job]) -> np.ndarray:
    """Tiles of images as a member sees them, in the training's colours where it has its looks.

    Args:
        member: The network.
        jobs: Images of one organ; one that cannot be read is left out.

    Returns:
        ``(N, tile, tile, 3)`` uint8 RGB: of `IMAGES` images at most, at most `TILES` each.
    """
    rng = np.random.default_rng(0)
    size = member.tile_size
    sampled = [np.empty((0, size, size, 3), np.uint8)]
    for place in np.linspace(0, len(jobs) - 1, min(IMAGES, len(jobs))):
        job = jobs[round(place)]
        (geometry,) = groups_of([member], job.organ)
        with suppress(OSError, ValueError, MemoryError):  # its prediction says what is wrong with it
            count = len(grid(scaled_shape(job.shape, job.pixel_size_um, geometry.um), size, geometry.overlap))
            chosen = rng.permutation(count)[:TILES]
            tiles = enumerate(tiles_of(job, [geometry], skip_background=False))
            sampled.append(np.stack([tile for number, (_, tile) in tiles if number in chosen and tile is not None]))
    return np.concatenate(sampled)


def reestimate(network: keras.Model, tiles: np.ndarray, share: float) -> None:
    """Mix the statistics of BatchNormalization with those of some tiles.

    Args:
        network: ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` logits; its BatchNormalization is changed.
        tiles: ``(N, tile, tile, 3)`` uint8.
        share: Weight of the tiles' statistics, the mean over batches; the trained ones have the rest.
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


def self_train(member: Member, tiles: np.ndarray, steps: int) -> None:
    """Train a network on its own masks of some tiles, where it is sure of them, by cross-entropy.

    The masks are those of before the first step. BatchNormalization stays as it is.

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


def _sure_masks(member: Member, tiles: np.ndarray) -> np.ndarray:
    """A network's masks of some tiles: ``(N, tile, tile)`` uint8, 0, 255 or `UNSURE`."""
    maps = np.empty(tiles.shape[:3], np.float32)
    for first in range(0, len(tiles), member.batch_size):
        places = np.arange(first, first + member.batch_size) % len(tiles)  # full batches; the last begins anew
        maps[places] = predict_augmented(member, tiles[places])
    return np.select([maps >= SURE, maps <= 1 - SURE], [np.uint8(255), np.uint8(0)], np.uint8(UNSURE))


def _make_step(network: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], None]:
    """A compiled training step on images and `_sure_masks`."""
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

    return step


def _layers(model: keras.Model, kind: type[keras.Layer]) -> list[keras.Layer]:
    """The layers of a kind, those of networks within the network too."""
    found = []
    for layer in model.layers:
        found += _layers(layer, kind) if isinstance(layer, keras.Model) else [layer] * isinstance(layer, kind)
    return found


def _change(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack closes."""
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
