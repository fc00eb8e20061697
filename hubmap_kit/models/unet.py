"""The plain U-Net."""

from __future__ import annotations

import keras
from keras import layers

from .blocks import decoder_block, double_convolution, encoder_block

STAGES = 4


def plain_unet(filters: int) -> keras.Model:
    """Build the plain U-Net: four stages down, four up; with 64 filters the classic one of 64 to 1024.

    Args:
        filters: Filters of the first stage; each further one doubles them.

    Returns:
        Model of ``(B, H, W, 3)`` normalised float to logits ``(B, H, W, 1)`` and the bottleneck's
        features ``(B, H / 16, W / 16, 16 filters)``; H and W are multiples of 16. Weights are random.
    """
    x = inputs = layers.Input((None, None, 3), name="normalised")
    skips = []
    for stage in range(STAGES):
        x, skip = encoder_block(x, filters * 2**stage, f"encoder_stage{stage}")
        skips.append(skip)
    x = features = double_convolution(x, filters * 2**STAGES, "bottleneck")
    for stage in reversed(range(STAGES)):
        x = decoder_block(x, skips[stage], filters * 2**stage, f"decoder_stage{stage}")
    return keras.Model(inputs, [layers.Conv2D(1, 1, name="logits")(x), features], name="unet")
