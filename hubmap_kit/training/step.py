"""A training step: phases of freezing, the optimizer, gradients over all devices, and the weights' moving average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from ..config import TrainConfig
from ..models.losses import Loss, auxiliary_loss
from .devices import Devices


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one optimizer.

    Attributes:
        first: First epoch, counted from 0.
        stop: The epoch after the last.
        learning_rate: Adam's rate at its start.
        frozen: Whether the encoder is frozen.
    """

    first: int
    stop: int
    learning_rate: float
    frozen: bool


def pretrained(config: TrainConfig) -> bool:
    """Whether a training starts from pretrained weights."""
    return config.model != "unet" and config.encoder_weights != "none"


def phases(config: TrainConfig) -> list[Phase]:
    """The phases of a training: a pretrained encoder is frozen first, a random one never."""
    freeze = min(config.freeze_epochs, config.epochs) if pretrained(config) else 0
    if not freeze:
        return [Phase(0, config.epochs, config.learning_rate, False)]
    plan = [Phase(0, freeze, config.learning_rate, True)]
    if freeze < config.epochs:
        plan.append(Phase(freeze, config.epochs, config.finetune_learning_rate, False))
    return plan


def freeze_encoder(encoder: list[keras.Layer], frozen: bool, with_batchnorm: bool) -> None:
    """Freeze or unfreeze an encoder's layers.

    Args:
        encoder: Its layers.
        frozen: Whether to freeze.
        with_batchnorm: Whether BatchNormalization is frozen too: then its scale and offset stay
            and it normalises with its stored statistics; otherwise it goes on learning both.
    """
    for layer in encoder:
        layer.trainable = not frozen or (not with_batchnorm and isinstance(layer, keras.layers.BatchNormalization))


def make_optimizer(phase: Phase, config: TrainConfig, steps: int, half: str | None) -> keras.optimizers.Optimizer:
    """Adam for a phase.

    Args:
        phase: The phase.
        config: Settings.
        steps: Steps an epoch.
        half: What the network computes in besides float32; in float16 the loss must be enlarged.
    """
    total = (phase.stop - phase.first) * steps
    warmup = min(config.warmup_steps, total - 1)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else phase.learning_rate,
        total - warmup,
        alpha=0.01 if config.schedule == "cosine" else 1.0,  # what is left of the rate at the end
        warmup_target=phase.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.Adam(rate, use_ema=config.ema > 0, ema_momentum=config.ema or 0.99)
    return keras.optimizers.LossScaleOptimizer(optimizer) if half == "float16" else optimizer


def make_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, config: TrainConfig, devices: Devices, loss: Loss
) -> Callable:
    """A compiled training step: a batch, shared by the devices, to its loss."""
    variables = model.trainable_variables
    replicas = devices.replicas

    def train_replica(images: tf.Tensor, masks: tf.Tensor, organs: tf.Tensor, log2_um: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            logits = outputs["logits"] if config.auxiliary else outputs
            value = loss(tf.cast(masks, tf.float32) / 255, logits)
            if config.auxiliary:
                value += config.auxiliary * auxiliary_loss(organs, log2_um, outputs)
            # On each device this is the loss of the whole batch, and the gradients of all will be added.
            scaled = optimizer.scale_loss(value / replicas)
        gradients = tape.gradient(scaled, variables)
        if config.clip_norm:
            gradients = _clip(gradients, optimizer, config.clip_norm, replicas)
        optimizer.apply(gradients, variables)
        return value

    @tf.function(jit_compile=False)
    def step(images: tf.Tensor, masks: tf.Tensor, organs: tf.Tensor, log2_um: tf.Tensor) -> tf.Tensor:
        values = devices.strategy.run(train_replica, args=(images, masks, organs, log2_um))
        return devices.strategy.experimental_local_results(values)[0]

    return step


def _clip(
    gradients: list[tf.Tensor], optimizer: keras.optimizers.Optimizer, norm: float, replicas: int
) -> list[tf.Tensor]:
    """Scale gradients down to a norm, taken over all devices: Keras's own clipping would see one device's part."""
    if replicas > 1:
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    scale = optimizer.scale_loss(tf.constant(1.0))  # by which a loss in half precision was enlarged
    clipped, _ = tf.clip_by_global_norm(gradients, norm * scale)
    return [gradient / replicas for gradient in clipped]


def average_weights(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[np.ndarray]:
    """Put the moving average of the weights in their place; returns the weights."""
    raw = [np.array(variable) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    return raw
