"""The U-Net with a pretrainable encoder: segmentation-models' decoder on encoders of several libraries."""

from __future__ import annotations

import os

import keras

from .blocks import with_fused_normalization
from .encoders import ENCODERS
from .segmentation import build_unet

DECODER_STAGES = 5
LEAST_FILTERS = 16


def encoder_unet(name: str, weights: str | None, decoder_filters: int) -> tuple[keras.Model, list[keras.Layer]]:
    """Build a U-Net on an encoder.

    Args:
        name: One of `ENCODERS`.
        weights: ``imagenet`` (a download), the path of a weights file of the encoder without its classification head,
            as its library publishes it, or None for random weights.
        decoder_filters: Filters of the first of `DECODER_STAGES` decoder stages; each further one has half as many, at
            least `LEAST_FILTERS`.

    Returns:
        Model of ``(B, H, W, 3)`` normalised float to logits ``(B, H, W, 1)`` and the encoder's last
        features ``(B, H / 32, W / 32, c)``, H and W multiples of 32; and the encoder's layers.

    Raises:
        ValueError: The weights can be neither downloaded nor read, or do not fit the encoder.
    """
    encoder = _build_encoder(name, weights)
    filters = [max(LEAST_FILTERS, decoder_filters >> stage) for stage in range(DECODER_STAGES)]
    unet = build_unet(encoder, ENCODERS[name].skips, filters)
    network = with_fused_normalization(keras.Model(unet.input, [unet.output, encoder.output]))
    names = [layer.name for layer in encoder.layers if not isinstance(layer, keras.layers.InputLayer)]
    return network, [network.get_layer(name) for name in names]


def _build_encoder(name: str, weights: str | None) -> keras.Model:
    download = weights if weights == "imagenet" else None
    try:
        encoder = ENCODERS[name].build(download)
    except Exception as error:
        if not download:
            raise
        raise ValueError(
            f"the ImageNet weights of {name} cannot be downloaded ({error}); name a weights file with "
            "--encoder-weights PATH, or start from random weights with --encoder-weights none"
        ) from error
    if weights and not download:
        if not os.path.isfile(weights):
            raise ValueError(f"there is no weights file {weights}; name a file, imagenet or none")
        try:
            encoder.load_weights(weights)
        except Exception as error:
            raise ValueError(
                f"{weights} does not hold weights of {name} without its top ({type(error).__name__}: {error})"
            ) from error
    return encoder
