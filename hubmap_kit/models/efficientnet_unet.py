"""The EfficientNet U-Net: segmentation-models' decoder on EfficientNet and EfficientNetV2 encoders."""

from __future__ import annotations

import os
from typing import Any

import keras

# segmentation-models looks for this when it is first imported; without it, it asks for a Keras
# module that Keras 3 no longer has.
os.environ.setdefault("SM_FRAMEWORK", "tf.keras")

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):  # it prints its framework on import
    import segmentation_models as sm
    from segmentation_models.backbones.backbones_factory import Backbones

# What the skips of segmentation-models' EfficientNets are to EfficientNetV2: the last
# activation at each scale before the next stage halves it.
_V2_SKIPS = (
    "block6a_expand_activation",
    "block4a_expand_activation",
    "block2b_expand_activation",
    "block1a_project_activation",
)


def _v2_encoder(build: Any) -> Any:
    def encoder(input_shape: tuple, weights: str | None, include_top: bool = False, **_: Any) -> keras.Model:
        return build(input_shape=input_shape, weights=weights, include_top=include_top, include_preprocessing=False)

    return encoder


_V2 = {f"efficientnetv2b{_i}": getattr(keras.applications, f"EfficientNetV2B{_i}") for _i in range(4)}
for _name, _build in _V2.items():
    Backbones._models_update[_name] = [_v2_encoder(_build), lambda x: x]
    Backbones._default_feature_layers[_name] = _V2_SKIPS


def efficientnet_unet(encoder: str, encoder_weights: str | None) -> tuple[keras.Model, list[str]]:
    """Build the EfficientNet U-Net.

    Args:
        encoder: ``efficientnetb0`` ... ``efficientnetb7``, ``efficientnetv2b0`` ... ``efficientnetv2b3``.
        encoder_weights: ``imagenet`` (a download), the path of a weights file of the encoder
            without its top, or None for random weights.

    Returns:
        Model of ``(B, H, W, 3)`` normalised float to ``(B, H, W, 1)`` logits, H and W multiples
        of 32; and the names of the encoder's layers.

    Raises:
        ValueError: The weights can be neither downloaded nor read, or do not fit the encoder.
    """
    download = encoder_weights if encoder_weights == "imagenet" else None
    try:
        model = sm.Unet(encoder, classes=1, activation="linear", encoder_weights=download)
    except Exception as error:
        if not download:
            raise
        raise ValueError(
            f"the ImageNet weights of {encoder} cannot be downloaded ({error}); name a weights file with "
            "--encoder-weights PATH, or start from random weights with --encoder-weights none"
        ) from error
    names = [layer.name for layer in model.layers if not layer.name.startswith(("decoder_", "final_conv", "linear"))]
    if encoder_weights and not download:
        backbone = keras.Model(model.input, model.get_layer(names[-1]).output)
        _load_encoder(backbone, encoder, encoder_weights)
    return model, names


def _load_encoder(backbone: keras.Model, encoder: str, path: str) -> None:
    """Load an encoder's weights from a Keras file.

    Keras's own EfficientNetV2 files were saved with its preprocessing layers, so the plain
    encoder that receives them is built the same way and its weights copied over.
    """
    if not os.path.isfile(path):
        raise ValueError(f"there is no weights file {path}; name a file, imagenet or none")
    try:
        if encoder in _V2:
            whole = _V2[encoder](weights=None, include_top=False)
            whole.load_weights(path)
            weighted = [layer.get_weights() for layer in whole.layers if layer.weights]
            receivers = [layer for layer in backbone.layers if layer.weights]
            for layer, weights in zip(receivers, weighted, strict=True):
                layer.set_weights(weights)
        else:
            backbone.load_weights(path)
    except Exception as error:
        raise ValueError(
            f"{path} does not hold weights of {encoder} without its top ({type(error).__name__}: {error})"
        ) from error
