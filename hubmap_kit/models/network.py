"""The networks: uint8 RGB in, logits out, normalisation inside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
from keras import layers

from ..competition import ORGANS
from .blocks import with_dropout
from .network_config import NetworkConfig
from .unet import plain_unet


def build_model(
    config: NetworkConfig,
    encoder_weights: str | None = None,
    *,
    compute_dtype: str | None = None,
    decoder_dropout: float = 0.0,
    synchronized: bool = False,
) -> tuple[keras.Model, list[keras.Layer]]:
    """Build a network.

    Args:
        config: Its layout.
        encoder_weights: ``imagenet`` (a download), the path of a weights file, or None for random weights.
        compute_dtype: ``float16`` or ``bfloat16`` for mixed precision: layers compute in it, while weights and
            outputs stay float32. None computes in float32.
        decoder_dropout: Share of a decoder stage's input channels that training sets to 0; in [0, 1). It adds no
            weights.
        synchronized: Whether BatchNormalization takes its statistics from the patches of all replicas of a
            `tf.distribute` strategy.

    Returns:
        Model of ``(B, H, W, 3)`` uint8 RGB to ``(B, H, W)`` float32 logits, H and W multiples of 32;
        and the layers of its pretrainable encoder (none in the plain U-Net). With auxiliary heads the
        model returns a dictionary of float32: ``logits`` as above; ``organ``, ``(B, 5)`` logits in the
        order of `ORGANS`; ``log2_um``, ``(B,)`` binary logarithm of the pixel size in µm.

    Raises:
        ValueError: Encoder weights that can be neither downloaded nor read.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{compute_dtype}" if compute_dtype else "float32")
    try:
        return _build(config, encoder_weights, decoder_dropout, synchronized)
    finally:
        keras.config.set_dtype_policy(policy)


def _build(
    config: NetworkConfig, encoder_weights: str | None, decoder_dropout: float, synchronized: bool
) -> tuple[keras.Model, list[keras.Layer]]:
    encoder: list[keras.Layer] = []
    if config.encoder is None:
        network = plain_unet(config.filters)
    else:
        from .encoder_unet import encoder_unet  # it loads segmentation-models

        network, encoder = encoder_unet(config.encoder, encoder_weights, config.filters)
    if decoder_dropout:
        network = with_dropout(network, decoder_dropout)
    x = inputs = layers.Input((None, None, 3), dtype="uint8", name="rgb")
    x = layers.Rescaling(
        [1 / (255 * std) for std in config.std],
        [-mean / std for mean, std in zip(config.mean, config.std, strict=True)],
        name="normalisation",
    )(x)
    logits, features = network(x)
    # Under mixed precision the outputs and everything after them stay in float32.
    logits = layers.Activation("linear", dtype="float32", name="logits_float32")(logits)
    outputs = logits = keras.ops.squeeze(logits, -1)
    if config.auxiliary:
        x = layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(features)
        organ = layers.Dense(len(ORGANS), dtype="float32", name="organ")(x)
        log2_um = layers.Dense(1, dtype="float32", name="log2_um")(x)
        outputs = {"logits": logits, "organ": organ, "log2_um": keras.ops.squeeze(log2_um, -1)}
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.synchronized = synchronized
    return keras.Model(inputs, outputs, name=config.model.replace("-", "_")), encoder


def load_model(config: NetworkConfig, weights: Path, *, compute_dtype: str | None = None) -> keras.Model:
    """Build a network and load all its weights from a run folder; nothing is downloaded.

    Args:
        config: Its layout.
        weights: Its weights file.
        compute_dtype: See `build_model`.

    Returns:
        Model of ``(B, H, W, 3)`` uint8 RGB to ``(B, H, W)`` float32 logits, without auxiliary heads.

    Raises:
        ValueError: The file is missing, damaged, of another network, or holds numbers that are not finite.
    """
    model, _ = build_model(config, compute_dtype=compute_dtype)
    try:
        model.load_weights(weights)
    except Exception as error:
        reason = str(error).partition("\n")[0]  # Keras lists every layer after it
        raise ValueError(
            f"{weights} cannot be loaded ({type(error).__name__}: {reason}); train the run again"
        ) from error
    for variable in model.weights:
        if not np.isfinite(np.asarray(variable)).all():
            raise ValueError(
                f"{weights} holds numbers that are not finite, in {variable.path}, and would predict nothing; train "
                "the run again, with a lower --learning-rate if its loss became nan"
            )
    return without_heads(model)


def without_heads(model: keras.Model) -> keras.Model:
    """The network without its auxiliary heads, a model from ``(B, H, W, 3)`` uint8 RGB to ``(B, H, W)`` logits."""
    return keras.Model(model.input, model.output["logits"]) if isinstance(model.output, dict) else model


def assign(variables: Iterable[keras.Variable], values: Iterable[np.ndarray]) -> None:
    """Set each variable to its value, in order."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
