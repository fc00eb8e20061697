"""Encoder and decoder blocks of the plain U-Net (Ronneberger et al. 2015, arXiv 1505.04597).

With padding, so that the mask has the patch's size, and batch normalisation after each
convolution.
"""

from __future__ import annotations

import keras
from keras import layers


def double_convolution(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU: ``(B, h, w, c)`` to ``(B, h, w, filters)``."""
    for i in (1, 2):
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv{i}"
        )(x)
        # Trainings on a CPU are a few hundred steps, too few for Keras's momentum of 0.99.
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
    return x


def encoder_block(x: keras.KerasTensor, filters: int, name: str) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """A stage downwards.

    Returns:
        The stage's output at half the side, ``(B, h/2, w/2, filters)``, and its skip
        connection, ``(B, h, w, filters)``.
    """
    skip = double_convolution(x, filters, name)
    return layers.MaxPooling2D(2, name=f"{name}_pool")(skip), skip


def decoder_block(x: keras.KerasTensor, skip: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    """A stage upwards: ``(B, h, w, c)`` and its skip ``(B, 2h, 2w, s)`` to ``(B, 2h, 2w, filters)``."""
    x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same", name=f"{name}_up")(x)
    x = layers.Concatenate(name=f"{name}_concat")([x, skip])
    return double_convolution(x, filters, name)
