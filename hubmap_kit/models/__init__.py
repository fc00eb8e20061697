"""The networks: uint8 RGB in, logits out, normalisation inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ..competition import ORGANS
from ..config import TrainConfig

# ImageNet's mean and standard deviation of RGB in [0, 1]; the plain U-Net, which was trained with
# nothing yet, takes them as any others.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def describe_model(config: TrainConfig) -> dict[str, Any]:
    """What `build_model` needs, as JSON values; a run folder keeps it."""
    about: dict[str, Any] = {"model": config.model, "auxiliary": config.auxiliary > 0}
    if config.model == "unet":
        return about | {"filters": config.filters, "normalisation": {"mean": list(MEAN), "std": list(STD)}}
    from .encoder_unet import ENCODERS

    encoder = ENCODERS[config.encoder]
    return about | {
        "encoder": config.encoder,
        "decoder_filters": config.decoder_filters,
        "normalisation": {"mean": list(encoder.mean), "std": list(encoder.std)},
    }


def build_model(
    about: dict[str, Any], encoder_weights: str | None = None, *, half: str | None = None
) -> tuple[keras.Model, list[keras.Layer]]:
    """Build a network.

    In the scope of a `tf.distribute` strategy of several replicas, BatchNormalization takes its
    statistics from the patches of all of them.

    Args:
        about: From `describe_model`.
        encoder_weights: ``imagenet``, the path of a weights file, or None for random weights.
        half: ``float16`` or ``bfloat16`` to compute in where that is precise enough; weights and outputs stay
            float32.

    Returns:
        Model of ``(B, H, W, 3)`` uint8 RGB to ``(B, H, W)`` float32 logits, H and W multiples of 32;
        and the layers of its pretrainable encoder (none in the plain U-Net). With auxiliary heads the
        model gives a dictionary of float32: ``logits``, as before; ``organ``, ``(B, 5)`` logits in the
        order of `ORGANS`; ``log2_um``, ``(B,)`` binary logarithm of the pixel size in um.

    Raises:
        ValueError: Encoder weights that can be neither downloaded nor read.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{half}" if half else "float32")
    try:
        return _build(about, encoder_weights)
    finally:
        keras.config.set_dtype_policy(policy)


def _build(about: dict[str, Any], encoder_weights: str | None) -> tuple[keras.Model, list[keras.Layer]]:
    encoder: list[keras.Layer] = []
    if about["model"] == "unet":
        from .unet import plain_unet

        network = plain_unet(about["filters"])
    else:
        from .encoder_unet import encoder_unet

        network, encoder = encoder_unet(about["encoder"], encoder_weights, about["decoder_filters"])
    mean, std = about["normalisation"]["mean"], about["normalisation"]["std"]
    x = inputs = layers.Input((None, None, 3), dtype="uint8", name="rgb")
    x = layers.Rescaling(
        [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)], name="normalisation"
    )(x)
    logits, features = network(x)
    # Under mixed precision the outputs and all that follows stay in float32.
    logits = layers.Activation("linear", dtype="float32", name="logits_float32")(logits)
    outputs = logits = keras.ops.squeeze(logits, -1)
    if about["auxiliary"]:
        x = layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(features)
        organ = layers.Dense(len(ORGANS), dtype="float32", name="organ")(x)
        log2_um = layers.Dense(1, dtype="float32", name="log2_um")(x)
        outputs = {"logits": logits, "organ": organ, "log2_um": keras.ops.squeeze(log2_um, -1)}
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        for layer in network.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.synchronized = True
    return keras.Model(inputs, outputs, name=about["model"].replace("-", "_")), encoder


def load_model(about: dict[str, Any], weights: Path, *, half: str | None = None) -> keras.Model:
    """Build a network and load all its weights from a run folder; nothing is downloaded.

    Args:
        about: From `describe_model`.
        weights: Its weights file.
        half: ``float16`` or ``bfloat16`` to compute in where that is precise enough; the logits stay float32.

    Returns:
        Model of ``(B, H, W, 3)`` uint8 RGB to ``(B, H, W)`` float32 logits, without auxiliary heads.

    Raises:
        ValueError: The file is missing, damaged, or of another network.
    """
    model, _ = build_model(about, half=half)
    try:
        model.load_weights(weights)
    except Exception as error:
        raise ValueError(
            f"{weights} cannot be loaded ({type(error).__name__}: {error}); train the run again"
        ) from error
    return masks_alone(model)


def masks_alone(model: keras.Model) -> keras.Model:
    """A network without its auxiliary heads: `build_model`'s to one of ``(B, H, W)`` logits."""
    return keras.Model(model.input, model.output["logits"]) if isinstance(model.output, dict) else model


def assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
    """Give variables their values back."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
