"""Resizing: an image is read and brought to the pixel size at which a network sees it.

Training and prediction both call `load_image`, so that they see the same pixels. Shapes are ``(height, width)``; an
image is ``(H, W, 3)`` uint8 RGB, a mask ``(H, W)`` uint8 in {0, 1}.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from ..machine import cores
from .tiff import read_image

cv2.setNumThreads(min(cores(), cv2.getNumThreads()))  # OpenCV does not know every quota of a container

_Values = TypeVar("_Values", npt.NDArray[np.uint8], npt.NDArray[np.float32])


def resize(image: _Values, shape: tuple[int, int]) -> _Values:
    """Resize an image or a probability map.

    A side that shrinks is averaged over areas, which keeps thin structures and does not alias. A side that grows is
    interpolated linearly, which, unlike cubic interpolation, never leaves the range of the values.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, uint8 or float32.
        shape: ``(height, width)`` wanted, in px.

    Returns:
        ``(height, width)`` or ``(height, width, C)`` of the same dtype; the input itself if it has this shape.

    Raises:
        ValueError: A side is below 1 px, or the array is neither uint8 nor float32 of two or three axes.
    """
    if image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.float32) or image.size == 0:
        raise ValueError(f"resize takes (H, W) or (H, W, C) of uint8 or float32, not {image.shape} of {image.dtype}")
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"cannot resize to {height} x {width} px: both sides must be at least 1 px")
    channels = image.shape[2:]
    resized: Any = image
    # Two steps, because OpenCV averages areas only if neither side grows.
    for target, how in (
        ((min(height, image.shape[0]), min(width, image.shape[1])), cv2.INTER_AREA),
        ((height, width), cv2.INTER_LINEAR),
    ):
        if resized.shape[:2] != target:
            resized = cv2.resize(resized, (target[1], target[0]), interpolation=how)
    result: _Values = resized.reshape(height, width, *channels)  # OpenCV drops a single channel
    return result


def resize_mask(mask: npt.NDArray[np.generic], shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize a mask: a pixel is foreground if at least half of its area is.

    Args:
        mask: ``(H, W)``, nonzero = foreground.
        shape: ``(height, width)`` wanted, in px.

    Returns:
        ``(height, width)`` uint8 in {0, 1}.

    Raises:
        ValueError: A side is below 1 px, or the mask does not have two axes.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask is (H, W), not {mask.shape}")
    share = resize((mask != 0).astype(np.float32), shape)
    return np.asarray(share >= 0.5, np.uint8)


def scaled_shape(shape: tuple[int, int], pixel_size_um: float, target_um: float) -> tuple[int, int]:
    """Shape of an image brought from one pixel size to another.

    Args:
        shape: ``(height, width)`` in px, each at least 1.
        pixel_size_um: Size of its pixels, in µm.
        target_um: Pixel size wanted, in µm; a larger one makes the image smaller.

    Returns:
        ``(height, width)`` in px, rounded, each at least 1.

    Raises:
        ValueError: A pixel size is not finite and positive, or a side is below 1 px.

    >>> scaled_shape((3000, 2000), 0.4, 1.6)
    (750, 500)
    """
    for name, size in (("pixel_size_um", pixel_size_um), ("target_um", target_um)):
        if not (math.isfinite(size) and size > 0):
            raise ValueError(f"{name} is {size}, but must be a positive number of µm; correct it in the table")
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}, but both sides must be at least 1 px")
    height, width = (max(1, round(side * pixel_size_um / target_um)) for side in shape)
    return height, width


def load_image(
    path: str | Path,
    pixel_size_um: float,
    target_um: float,
    expect_shape: tuple[int, int] | None = None,
    *,
    threads: int | None = None,
) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Read an image and bring it to the network's scale: the one way to do so, for training and prediction.

    Args:
        path: A TIFF, see `read_image`.
        pixel_size_um: Size of the file's pixels by the table, in µm.
        target_um: Pixel size at the network's scale, in µm.
        expect_shape: ``(height, width)`` by the table, in px; None accepts any.
        threads: Number of decoding threads; one per core by default.

    Returns:
        The image, ``(h, w, 3)`` uint8 RGB with ``(h, w) = scaled_shape(...)``, and the file's own ``(height, width)``.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It cannot be read, its shape is not the expected one, or a pixel size is not positive.
    """
    image = read_image(path, threads=threads, expect_shape=expect_shape)
    native = (image.shape[0], image.shape[1])
    return resize(image, scaled_shape(native, pixel_size_um, target_um)), native
