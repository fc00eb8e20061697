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

FINETUNE_LEARNING_RATE = 5e-4  # after the encoder is unfrozen


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
        plan.append(Phase(freeze, config.epochs, FINETUNE_LEARNING_RATE, False))
    return plan


def freeze_encoder(encoder: list[keras.Layer], frozen: bool) -> None:
    """Freeze or unfreeze an encoder's layers.

    A frozen BatchNormalization keeps its scale and offset, and normalises with its stored statistics.
    """
    for layer in encoder:
        layer.trainable = not frozen


class Adam(keras.optimizers.Adam):  # type: ignore[misc]  # Keras has no types
    """Keras's Adam, with a factor for the learning rate of each variable. The factor does not change weight decay."""

    factors: list[float]  # in the order of the variables that it is built for

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Change a variable by a step along its gradient."""
        super().update_step(gradient, variable, learning_rate * self.factors[self._get_variable_index(variable)])


def make_optimizer(
    model: keras.Model, encoder: list[keras.Layer], phase: Phase, config: TrainConfig, steps: int, dtype: str | None
) -> keras.optimizers.Optimizer:
    """Adam for a phase, or AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with a weight decay.

    Args:
        model: The network; the optimizer does not train layers that are frozen now.
        encoder: Layers of its pretrainable encoder.
        phase: The phase.
        config: Settings.
        steps: Steps in an epoch.
        dtype: See `hubmap_kit.models.hardware.compute_dtype`. With ``float16`` the loss is scaled up before gradients
            are taken, since small ones would become 0.
    """
    rate = keras.optimizers.schedules.CosineDecay(
        phase.learning_rate,
        (phase.stop - phase.first) * steps,
        alpha=0.01 if config.schedule == "cosine" else 1.0,  # share of the learning rate that is left at the end
    )
    adam = Adam(rate, weight_decay=config.weight_decay or None, use_ema=config.ema > 0, ema_momentum=config.ema or 0.99)
    variables = model.trainable_variables
    adam.exclude_from_weight_decay([variable for variable in variables if len(variable.shape) < 2])
    of_encoder = {id(variable) for layer in encoder for variable in layer.trainable_variables}
    adam.factors = [config.encoder_rate if id(variable) in of_encoder else 1.0 for variable in variables]
    optimizer = keras.optimizers.LossScaleOptimizer(adam) if dtype == "float16" else adam
    optimizer.build(variables)
    return optimizer


def make_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, config: TrainConfig, devices: Devices, loss: Loss
) -> Callable[..., tf.Tensor]:
    """Compile a training step: a function of the fields of a `Batch`, shared by the devices, that returns its loss."""
    variables = model.trainable_variables
    replicas = devices.replicas

    def train_replica(images: tf.Tensor, masks: tf.Tensor, organs: tf.Tensor, log2_um: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            logits = outputs["logits"] if config.auxiliary else outputs
            probabilities = tf.cast(masks, tf.float32) / 255
            value = loss(probabilities + config.label_smoothing * (0.5 - probabilities), logits)
            if config.auxiliary:
                value += config.auxiliary * auxiliary_loss(organs, log2_um, outputs)
            # Each device has the loss of the whole batch, and the gradients of all devices are added up.
            scaled = optimizer.scale_loss(value / replicas)
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return value

    def step(images: tf.Tensor, masks: tf.Tensor, organs: tf.Tensor, log2_um: tf.Tensor) -> tf.Tensor:
        values = devices.strategy.run(train_replica, args=(images, masks, organs, log2_um))
        return devices.strategy.experimental_local_results(values)[0]

    compiled: Callable[..., tf.Tensor] = tf.function(step, jit_compile=False)
    return compiled


def average_weights(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[np.ndarray]:
    """Replace the weights of a model by their moving average; returns the weights before."""
    raw = [np.array(variable) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    return raw
