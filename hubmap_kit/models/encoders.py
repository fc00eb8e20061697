"""The encoders that the U-Net can be built on: one table.

To add an encoder, add an entry to `ENCODERS`. Keras and TensorFlow are imported when an encoder is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..lazy import Lazy

if TYPE_CHECKING:
    import keras

    from . import segmentation
else:
    keras, segmentation = Lazy("keras"), Lazy(f"{__package__}.segmentation")

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and std of each channel

# Mean and standard deviation of ImageNet's RGB in [0, 1].
IMAGENET: Normalisation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Encoder:
    """An encoder, and how it was pretrained on ImageNet.

    Attributes:
        build: Builds it without its classification head, given ``imagenet`` (a download) or None for random weights:
            ``(B, H, W, 3)`` normalised float to ``(B, H / 32, W / 32, c)``.
        skips: Names of the last layers before each halving, at strides 16, 8, 4 and 2 (ConvNeXt has none at 2).
        mean: Per-channel mean of its pretraining, for RGB in [0, 1].
        std: Per-channel standard deviation of its pretraining, for RGB in [0, 1].
    """

    build: Callable[[str | None], keras.Model]
    skips: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def _keras_application(name: str, weights: str | None, **more: Any) -> keras.Model:
    build = getattr(keras.applications, name)
    return build(include_top=False, input_shape=(None, None, 3), weights=weights, **more)


def _convnext(name: str, weights: str | None) -> keras.Model:
    """A ConvNeXt with a named layer, ``stage0`` to ``stage2``, at the end of each stage; Keras leaves these unnamed."""
    encoder = _keras_application(name, weights, include_preprocessing=False)

    def call(layer: keras.Layer, *inputs: Any, **more: Any) -> Any:
        _, found, stage = layer.name.partition("_downsampling_block_")
        if found:
            inputs = (keras.layers.Identity(name=f"stage{stage}")(*inputs),)
        return layer(*inputs, **more)

    return keras.models.clone_model(encoder, clone_function=lambda layer: layer, call_function=call)


def _efficientnet(name: str) -> Encoder:
    """An EfficientNet of the library efficientnet 1.0.0, normalised as in its model.preprocess_input."""
    skips = tuple(f"block{block}a_expand_activation" for block in (6, 4, 3, 2))
    return Encoder(partial(_of_segmentation_models, name), skips, *IMAGENET)


def _of_segmentation_models(name: str, weights: str | None) -> keras.Model:
    return segmentation.build_encoder(name, weights)


def _efficientnetv2(size: str, last: str, normalisation: Normalisation) -> Encoder:
    """An EfficientNetV2 of Keras, normalised as its include_preprocessing does.

    Args:
        size: ``b0`` and so on.
        last: Letters of the last units of blocks 1 and 2.
        normalisation: Mean and standard deviation of its pretraining.
    """
    skips = (
        "block6a_expand_activation",
        "block4a_expand_activation",
        f"block2{last[1]}_expand_activation",
        f"block1{last[0]}_project_activation",
    )
    name = f"EfficientNetV2{size.upper()}"
    return Encoder(partial(_keras_application, name, include_preprocessing=False), skips, *normalisation)


def _resnet(name: str) -> Encoder:
    """A ResNet of the library image-classifiers; its first BatchNormalization normalises RGB in [0, 255].

    Keras has ResNets from 50 layers up only, and they expect BGR.
    """
    skips = ("stage4_unit1_relu1", "stage3_unit1_relu1", "stage2_unit1_relu1", "relu0")
    return Encoder(partial(_of_segmentation_models, name), skips, (0.0,) * 3, (1 / 255,) * 3)


# Scales RGB to [-1, 1], as imagenet_utils.preprocess_input does in mode "tf".
_CENTRED: Normalisation = (0.5,) * 3, (0.5,) * 3
# Scales RGB to about [-1, 1], as the larger EfficientNetV2 of Keras do: (x - 128) / 128.
_CENTRED_AT_128: Normalisation = (128 / 255,) * 3, (128 / 255,) * 3

ENCODERS: dict[str, Encoder] = {
    **{name: _efficientnet(name) for name in (f"efficientnetb{i}" for i in range(8))},
    "efficientnetv2b0": _efficientnetv2("b0", "ab", IMAGENET),
    "efficientnetv2b1": _efficientnetv2("b1", "bc", IMAGENET),
    "efficientnetv2b2": _efficientnetv2("b2", "bc", IMAGENET),
    "efficientnetv2b3": _efficientnetv2("b3", "bc", IMAGENET),
    "efficientnetv2s": _efficientnetv2("s", "bd", _CENTRED_AT_128),
    "efficientnetv2m": _efficientnetv2("m", "ce", _CENTRED_AT_128),
    "efficientnetv2l": _efficientnetv2("l", "dg", _CENTRED_AT_128),
    **{name: _resnet(name) for name in (f"resnet{depth}" for depth in (18, 34, 50, 101, 152))},
    "mobilenet": Encoder(
        partial(_keras_application, "MobileNet"), tuple(f"conv_pw_{i}_relu" for i in (11, 5, 3, 1)), *_CENTRED
    ),
    "mobilenetv2": Encoder(
        partial(_keras_application, "MobileNetV2"), tuple(f"block_{i}_expand_relu" for i in (13, 6, 3, 1)), *_CENTRED
    ),
    # ConvNeXt of Keras, normalised as in its PreStem.
    **{
        f"convnext{size}": Encoder(
            partial(_convnext, f"ConvNeXt{size.capitalize()}"), ("stage2", "stage1", "stage0"), *IMAGENET
        )
        for size in ("tiny", "small", "base", "large")
    },
}
