"""A training step: phases of freezing, the optimizer, gradients over all devices, and the weights' moving average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..config import TrainConfig
from ..models.hardware import memory_errors
from ..models.losses import Loss, auxiliary_loss
from ..words import count
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


class Step:
    """A training step: a function of the fields of a `Batch`, shared by the devices, that returns the batch's loss.

    When the memory of a device is full, the step does the same batch again in twice as many parts, one after the
    other, down to one patch a part. It adds up their gradients and applies them once, so that optimizer, moving
    average and checkpoint do not notice.

    A loss of the whole batch, such as Dice, needs the outputs of all parts. A step in parts therefore computes all
    outputs first, and then the gradients part by part, with the same dropout: a third more operations, and the
    gradients of the whole batch, whatever the loss. Only BatchNormalization differs: it normalises each part with
    the part's own statistics, and its moving statistics move once for each part. They may also have moved in a step
    that failed; weights have not.

    With several devices the error stays, since a step that fails on one device can leave the others waiting for it.
    Therefore a training on several GPUs finds `parts` with one of them before it begins.

    Attributes:
        parts: Number of parts in which each batch is done.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        config: TrainConfig,
        devices: Devices,
        loss: Loss,
        parts: int = 1,
    ) -> None:
        """Make a step; it is compiled when it is first called.

        Args:
            model: The network; layers that are frozen now are not trained.
            optimizer: Its optimizer.
            config: Settings.
            devices: The devices.
            loss: See `hubmap_kit.models.losses.make_loss`.
            parts: Number of parts to begin with.
        """
        self.parts = parts
        self._devices = devices
        variables = model.trainable_variables
        # What a prediction changes: moving statistics and the state of dropout. The others are frozen kernels.
        self._state = [variable for variable in model.non_trainable_variables if len(variable.shape) < 2]

        def loss_of(outputs: Any, masks: tf.Tensor, organs: tf.Tensor, log2_um: tf.Tensor) -> tuple[tf.Tensor, ...]:
            """The loss, and what to take gradients of."""
            logits = outputs["logits"] if config.auxiliary else outputs
            probabilities = tf.cast(masks, tf.float32) / 255
            value = loss(probabilities + config.label_smoothing * (0.5 - probabilities), logits)
            if config.auxiliary:
                value += config.auxiliary * auxiliary_loss(organs, log2_um, outputs)
            # Each device has the loss of the whole batch, and the gradients of all devices are added up.
            return value, optimizer.scale_loss(value / devices.replicas)

        def whole(images: tf.Tensor, *truth: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                value, scaled = loss_of(model(images, training=True), *truth)
            gradients = tape.gradient(scaled, variables)
            with tf.control_dependencies([tf.group(*gradients)]):  # a step that fails has not changed a weight
                optimizer.apply([tf.identity(gradient) for gradient in gradients], variables)
            return value

        def forward(images: tf.Tensor, begin: tf.Tensor, size: int) -> Any:
            return model(_part(images, begin, size), training=True)

        def of_outputs(outputs: list[Any], *truth: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
            """The loss of a batch, and its gradients by the outputs."""
            joined = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *outputs)
            with tf.GradientTape() as tape:
                tape.watch(joined)
                value, scaled = loss_of(joined, *truth)
            return value, tape.gradient(scaled, tf.nest.flatten(joined))

        def backward(
            sums: list[tf.Tensor], images: tf.Tensor, by_outputs: list[tf.Tensor], begin: tf.Tensor, size: int
        ) -> list[tf.Tensor]:
            """Add the gradients of a part."""
            with tf.GradientTape() as tape:
                outputs = tf.nest.flatten(model(_part(images, begin, size), training=True))
            given = [_part(gradient, begin, size) for gradient in by_outputs]
            gradients = tape.gradient(outputs, variables, output_gradients=given)
            return [total + gradient for total, gradient in zip(sums, gradients, strict=True)]

        def on_devices(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any) -> Any:
                return devices.strategy.run(function, args=arguments)

            compiled: Callable[..., Any] = tf.function(run, jit_compile=False)
            return compiled

        self._whole = on_devices(whole)
        self._forward = on_devices(forward)
        self._of_outputs = on_devices(of_outputs)
        self._zeros = on_devices(lambda: [tf.zeros_like(variable) for variable in variables])
        self._backward = on_devices(backward)
        self._apply = on_devices(lambda gradients: optimizer.apply(gradients, variables))

    def __call__(self, images: tf.Tensor, masks: tf.Tensor, organs: tf.Tensor, log2_um: tf.Tensor) -> tf.Tensor:
        """Train on a batch, the fields of a `Batch` for each device.

        Raises:
            MemoryError: The memory is full, and there are several devices.
            ValueError: The memory is too small for one patch at a time.
        """
        while True:
            try:
                with memory_errors():
                    values = (self._in_parts if self.parts > 1 else self._whole)(images, masks, organs, log2_um)
                return self._devices.strategy.experimental_local_results(values)[0]
            except MemoryError as error:
                self._halve(images, error)

    def _halve(self, images: tf.Tensor, error: MemoryError) -> None:
        """Double the parts; raises if that cannot help."""
        if self._devices.replicas > 1:
            raise error
        patches, side_px, *_ = self._shape(images)
        if self.parts == patches:
            raise ValueError(
                f"the memory is too small to train on one patch of {side_px} px at a time, so a smaller --batch-size "
                "does not help; prepare with a smaller --input-size, or train with a smaller --encoder or fewer "
                "--decoder-filters (--filters of the plain U-Net)"
            ) from error
        self.parts = min(2 * self.parts, patches)
        size = f"{'at most ' * bool(patches % self.parts)}{-(-patches // self.parts)}"
        done = f"does its {count(patches, 'patch')} of a batch in {self.parts} parts of {size}"
        print(f"the memory is full: each device {done}", flush=True)

    def _shape(self, images: tf.Tensor) -> tuple[int, ...]:
        """Shape of the images of one device."""
        return tuple(self._devices.strategy.experimental_local_results(images)[0].shape)

    def _in_parts(self, images: tf.Tensor, *truth: tf.Tensor) -> tf.Tensor:
        """Train on a batch in parts; returns the devices' losses."""
        patches = self._shape(images)[0]
        sizes = [patches // self.parts + (part < patches % self.parts) for part in range(self.parts)]
        parts = [(tf.constant(begin - size), size) for begin, size in zip(accumulate(sizes), sizes, strict=True)]
        state = [np.array(variable) for variable in self._state]
        outputs = [self._forward(images, *part) for part in parts]
        for variable, value in zip(self._state, state, strict=True):
            variable.assign(value)
        values, by_outputs = self._of_outputs(outputs, *truth)
        sums = self._zeros()
        for part in parts:
            sums = self._backward(sums, images, by_outputs, *part)
        self._apply(sums)
        return values


def _part(values: tf.Tensor, begin: tf.Tensor, size: int) -> tf.Tensor:
    """``size`` rows of a tensor from ``begin``, with a static shape."""
    return tf.slice(values, [begin] + [0] * (len(values.shape) - 1), [size, *values.shape[1:]])


def average_weights(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[np.ndarray]:
    """Replace the weights of a model by their moving average; returns the weights before."""
    raw = [np.array(variable) for variable in model.trainable_variables]
    optimizer.finalize_variable_values(model.trainable_variables)
    return raw
