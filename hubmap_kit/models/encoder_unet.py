"""The U-Net with a pretrainable encoder: segmentation-models' decoder on encoders of several libraries."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from . import MEAN, STD
from .blocks import with_fused_normalization

# segmentation-models looks for this when it is first imported; without it, it asks for a Keras
# module that Keras 3 no longer has.
os.environ.setdefault("SM_FRAMEWORK", "tf.keras")

with contextlib.redirect_stdout(io.StringIO()):  # it prints its framework on import
    from segmentation_models.backbones.backbones_factory import Backbones
    from segmentation_models.models import unet as sm_unet

# segmentation-models and the encoders it brings work with the modules they are given; TensorFlow's
# name for Keras still has the backend functions that they call.
_KERAS = {name: getattr(tf.keras, name) for name in ("backend", "layers", "models", "utils")}
sm_unet.backend, sm_unet.layers, sm_unet.models, sm_unet.keras_utils = _KERAS.values()


@dataclass(frozen=True)
class Encoder:
    """An encoder, and how it was trained on ImageNet.

    Attributes:
        build: Argument ``weights``, ``imagenet`` or None, to a model without its top of ``(B, H, W, 3)``
            normalised RGB to ``(B, H / 32, W / 32, c)``.
        skips: The last layers before each halving, at strides 16, 8, 4 and, but for ConvNeXt, 2.
        mean: That its training subtracted from RGB in [0, 1].
        std: By which it divided that.
    """

    build: Callable[..., keras.Model]
    skips: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _of_keras(name: str, **more: Any) -> Callable[..., keras.Model]:
    return partial(getattr(keras.applications, name), include_top=False, input_shape=(None, None, 3), **more)


def _of_segmentation_models(name: str) -> Callable[..., keras.Model]:
    return partial(Backbones.get_backbone, name, include_top=False, input_shape=(None, None, 3), **_KERAS)


def _convnext(name: str, weights: str | None) -> keras.Model:
    """A ConvNeXt whose stages end in layers ``stage0`` ... ``stage2``: its own end in sums that have no name."""
    encoder = _of_keras(name, include_preprocessing=False)(weights=weights)

    def call(layer: keras.Layer, *inputs: Any, **more: Any) -> Any:
        _, found, stage = layer.name.partition("_downsampling_block_")
        if found:
            inputs = (keras.layers.Identity(name=f"stage{stage}")(*inputs),)
        return layer(*inputs, **more)

    return keras.models.clone_model(encoder, clone_function=lambda layer: layer, call_function=call)


def _table() -> dict[str, Encoder]:
    """Every encoder by name; normalisations are from the source of the library that trained them."""
    table = {}
    for i in range(8):  # efficientnet 1.0.0: model.preprocess_input
        name = f"efficientnetb{i}"
        skips = Backbones.get_feature_layers(name, n=4)
        table[name] = Encoder(_of_segmentation_models(name), skips, MEAN, STD)
    last = {"b0": ("a", "b"), "b1": ("b", "c"), "b2": ("b", "c"), "b3": ("b", "c")}
    last |= {"s": ("b", "d"), "m": ("c", "e"), "l": ("d", "g")}
    for size, (half, quarter) in last.items():  # Keras: efficientnet_v2.EfficientNetV2, include_preprocessing
        skips = (
            "block6a_expand_activation",
            "block4a_expand_activation",
            f"block2{quarter}_expand_activation",
            f"block1{half}_project_activation",
        )
        build = _of_keras(f"EfficientNetV2{size.upper()}", include_preprocessing=False)
        centred = ((128 / 255,) * 3, (128 / 255,) * 3)
        table[f"efficientnetv2{size}"] = Encoder(build, skips, *((MEAN, STD) if size[0] == "b" else centred))
    for depth in (18, 34, 50, 101, 152):
        # image-classifiers': RGB as it is, normalised by a first BatchNormalization. Keras's own, which there are
        # from 50 layers on, want BGR.
        name = f"resnet{depth}"
        skips = Backbones.get_feature_layers(name, n=4)
        table[name] = Encoder(_of_segmentation_models(name), skips, (0.0,) * 3, (1 / 255,) * 3)
    for name, keras_name in {"mobilenet": "MobileNet", "mobilenetv2": "MobileNetV2"}.items():
        # Keras: imagenet_utils.preprocess_input, mode "tf".
        skips = Backbones.get_feature_layers(name, n=4)
        table[name] = Encoder(_of_keras(keras_name), skips, (0.5,) * 3, (0.5,) * 3)
    for size in ("tiny", "small", "base", "large"):  # Keras: convnext.PreStem
        build = partial(_convnext, f"ConvNeXt{size.capitalize()}")
        table[f"convnext{size}"] = Encoder(build, ("stage2", "stage1", "stage0"), MEAN, STD)
    return table


ENCODERS = _table()


def encoder_unet(name: str, weights: str | None, decoder_filters: int) -> tuple[keras.Model, list[keras.Layer]]:
    """Build a U-Net on an encoder.

    Args:
        name: One of `ENCODERS`.
        weights: ``imagenet`` (a download), the path of a weights file of the encoder without its top, as its
            library publishes it, or None for random weights.
        decoder_filters: Filters of the first of five decoder stages; each further one has half as
            many, at least 16.

    Returns:
        Model of ``(B, H, W, 3)`` normalised float to logits ``(B, H, W, 1)`` and the encoder's last
        features ``(B, H / 32, W / 32, c)``, H and W multiples of 32; and the encoder's layers.

    Raises:
        ValueError: The weights can be neither downloaded nor read, or do not fit the encoder.
    """
    encoder = _build_encoder(name, weights)
    unet = sm_unet.build_unet(
        encoder,
        sm_unet.DecoderUpsamplingX2Block,
        ENCODERS[name].skips,
        decoder_filters=[max(16, decoder_filters >> stage) for stage in range(5)],
        activation="linear",
    )
    network = with_fused_normalization(keras.Model(unet.input, [unet.output, encoder.output]))
    names = [layer.name for layer in encoder.layers if not isinstance(layer, keras.layers.InputLayer)]
    return network, [network.get_layer(name) for name in names]


def _build_encoder(name: str, weights: str | None) -> keras.Model:
    download = weights if weights == "imagenet" else None
    try:
        encoder = ENCODERS[name].build(weights=download)
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
