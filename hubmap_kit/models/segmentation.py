"""The library segmentation-models (with its efficientnet and image-classifiers), made to run on Keras 3."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence

import keras
import tensorflow as tf

# segmentation-models reads this when it is first imported; its default is a Keras module that Keras 3 no longer has.
os.environ.setdefault("SM_FRAMEWORK", "tf.keras")

with contextlib.redirect_stdout(io.StringIO()):  # it prints its framework on import
    from segmentation_models.backbones.backbones_factory import Backbones
    from segmentation_models.models import unet

# segmentation-models and its encoders use the Keras modules that they are given. tf.keras still has the backend
# functions that they call; keras.backend does not.
_KERAS = {name: getattr(tf.keras, name) for name in ("backend", "layers", "models", "utils")}
unet.backend, unet.layers, unet.models, unet.keras_utils = _KERAS.values()


def build_encoder(name: str, weights: str | None) -> keras.Model:
    """Build one of the library's encoders.

    Args:
        name: Its name in segmentation-models.
        weights: ``imagenet`` (a download), or None for random weights.

    Returns:
        Model of ``(B, H, W, 3)`` normalised float to ``(B, H / 32, W / 32, c)``.
    """
    return Backbones.get_backbone(name, include_top=False, input_shape=(None, None, 3), weights=weights, **_KERAS)


def build_unet(encoder: keras.Model, skips: Sequence[str], decoder_filters: Sequence[int]) -> keras.Model:
    """Put segmentation-models' U-Net decoder on an encoder.

    Args:
        encoder: The encoder.
        skips: Names of the layers that the decoder is joined to, deepest first.
        decoder_filters: Filters of each decoder stage.

    Returns:
        Model of the encoder's input to logits ``(B, H, W, 1)``.
    """
    return unet.build_unet(
        encoder, unet.DecoderUpsamplingX2Block, skips, decoder_filters=decoder_filters, activation="linear"
    )
