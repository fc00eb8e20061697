"""The networks: uint8 RGB in, logits out, normalisation inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras import layers

# ImageNet's mean and standard deviation of RGB in [0, 1]: what every pretrained encoder here was
# trained with (Keras's EfficientNetV2 B0-B3 and the `efficientnet` package agree).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def describe_model(model: str, encoder: str, filters: int) -> dict[str, Any]:
    """What `build_model` needs, as JSON values; a run folder keeps it."""
    about: dict[str, Any] = {"model": model}
    about |= {"filters": filters} if model == "unet" else {"encoder": encoder}
    return about | {"normalisation": {"mean": list(MEAN), "std": list(STD)}}


def build_model(about: dict[str, Any], encoder_weights: str | None = None) -> tuple[keras.Model, list[keras.Layer]]:
    """Build a network.

    Args:
        about: From `describe_model`.
        encoder_weights: ``imagenet``, the path of a weights file, or None for random weights.

    Returns:
        Model of ``(B, H, W, 3)`` uint8 RGB to ``(B, H, W)`` float32 logits, H and W multiples of
        32; and the layers of its pretrainable encoder (none in the plain U-Net).

    Raises:
        ValueError: Encoder weights that can be neither downloaded nor read.
    """
    encoder_names: list[str] = []
    if about["model"] == "unet":
        from .unet import plain_unet

        network = plain_unet(about["filters"])
    else:
        from .efficientnet_unet import efficientnet_unet

        network, encoder_names = efficientnet_unet(about["encoder"], encoder_weights)
    mean, std = about["normalisation"]["mean"], about["normalisation"]["std"]
    x = inputs = layers.Input((None, None, 3), dtype="uint8", name="rgb")
    x = layers.Rescaling(
        [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)], name="normalisation"
    )(x)
    x = network(x)
    # Under mixed precision the logits and all that follows stay in float32.
    x = layers.Activation("linear", dtype="float32", name="logits_float32")(x)
    model = keras.Model(inputs, keras.ops.squeeze(x, -1), name=about["model"].replace("-", "_"))
    return model, [network.get_layer(name) for name in encoder_names]


def load_model(about: dict[str, Any], weights: Path, *, half: bool = False) -> keras.Model:
    """Build a network and load all its weights from a run folder; nothing is downloaded.

    Args:
        about: From `describe_model`.
        weights: Its weights file.
        half: Compute in float16 where that is precise enough; the logits stay float32.

    Raises:
        ValueError: The file is missing, damaged, or of another network.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if half else "float32")
    try:
        model, _ = build_model(about)
    finally:
        keras.config.set_dtype_policy(policy)
    try:
        model.load_weights(weights)
    except Exception as error:
        raise ValueError(
            f"{weights} cannot be loaded ({type(error).__name__}: {error}); train the run again"
        ) from error
    return model
