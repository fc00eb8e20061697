"""Images: read, brought to the working pixel size, and their optical density.

Training and inference both call `load_image`, so that they cannot see different pixels. Shapes are
``(height, width)``; an image is ``(H, W, 3)`` uint8 RGB, a mask ``(H, W)`` uint8 in {0, 1}.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np

from .tiff import check_shape, read_image


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize an image or a probability map.

    A side that shrinks is averaged over areas, which keeps thin structures and does not alias; a side that grows
    is interpolated linearly, which unlike a cubic never leaves the range of the values.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, uint8 or float32.
        shape: ``(height, width)`` wanted, in px.

    Returns:
        ``(height, width)`` or ``(height, width, C)`` of the same dtype; the input itself where it fits already.

    Raises:
        ValueError: A side is below 1 px, or the array is neither uint8 nor float32 of two or three axes.
    """
    if image.ndim not in (2, 3) or image.dtype not in (np.uint8, np.float32) or image.size == 0:
        raise ValueError(f"resize takes (H, W) or (H, W, C) of uint8 or float32, not {image.shape} of {image.dtype}")
    height, width = shape
    if height < 1 or width < 1:
        raise ValueError(f"cannot resize to {height} x {width} px: both sides must be at least 1 px")
    channels = image.shape[2:]
    # Two steps, because OpenCV averages areas only where neither side grows.
    for target, how in (
        ((min(height, image.shape[0]), min(width, image.shape[1])), cv2.INTER_AREA),
        ((height, width), cv2.INTER_LINEAR),
    ):
        if image.shape[:2] != target:
            image = cv2.resize(image, (target[1], target[0]), interpolation=how)
    return image.reshape(height, width, *channels)  # OpenCV drops a single channel


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a mask: a pixel is foreground where at least half of it is.

    Args:
        mask: ``(H, W)``, nonzero = foreground.
        shape: ``(height, width)`` wanted, in px.

    Returns:
        ``(height, width)`` uint8 in {0, 1}.

    Raises:
        ValueError: A side is below 1 px, or the mask has not two axes.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask is (H, W), not {mask.shape}")
    return (resize((mask != 0).astype(np.float32), shape) >= 0.5).astype(np.uint8)


def scaled_shape(shape: tuple[int, int], pixel_size_um: float, target_um: float) -> tuple[int, int]:
    """Shape of an image brought from one pixel size to another.

    Args:
        shape: ``(height, width)`` in px, each at least 1.
        pixel_size_um: Size of its pixels, in µm.
        target_um: Size wanted, in µm; larger makes the image smaller.

    Returns:
        ``(height, width)`` in px, rounded, each at least 1.

    Raises:
        ValueError: A pixel size is not finite and positive, or a side is below 1 px.
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
) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image and bring it to the working pixel size: the one way in, for training and inference.

    Args:
        path: A TIFF, see `read_image`.
        pixel_size_um: Size of its pixels by the table, in µm.
        target_um: The working pixel size, in µm.
        expect_shape: ``(height, width)`` by the table, in px; ``None`` accepts any.
        threads: That decode it; one a core by default.

    Returns:
        The image ``(h, w, 3)`` uint8 RGB with ``(h, w) = scaled_shape(...)``, and the file's own ``(height, width)``.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It cannot be read, its shape is not the expected one, or a pixel size is not positive.
    """
    image = read_image(path, threads=threads)
    native = (image.shape[0], image.shape[1])
    check_shape(path, native, expect_shape)
    return resize(image, scaled_shape(native, pixel_size_um, target_um)), native


# Ruifrok & Johnston 2001, "Quantification of histochemical staining by color deconvolution", Anal Quant Cytol
# Histol 23:291-299: OD = -log10(I / I0). One is added, as 0 has no logarithm; I0 is then 256.
_DENSITY = -np.log10((np.arange(256) + 1) / 256).astype(np.float32)


def optical_density(image: np.ndarray) -> np.ndarray:
    """Optical density by Beer-Lambert, in which the amounts of stain add up (Ruifrok & Johnston 2001).

    Args:
        image: ``(H, W, 3)`` uint8 RGB (any shape will do).

    Returns:
        Same shape, float32: ``-log10((I + 1) / 256)``, from 0 (white) to 2.408 (black).

    Raises:
        ValueError: The image is not uint8.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"optical density is defined for uint8 images, not {image.dtype}; convert it first")
    # On a row of pixels, because OpenCV takes no more than four axes; many times faster than NumPy's indexing.
    return cv2.LUT(image.reshape(1, -1), _DENSITY).reshape(image.shape)


def from_optical_density(density: np.ndarray) -> np.ndarray:
    """Image of an optical density: the inverse of `optical_density`, exact to the pixel.

    Args:
        density: Float, any shape; values beyond 0 to 2.408 are clipped to white and black.

    Returns:
        Same shape, uint8.
    """
    image = np.exp(np.asarray(density, dtype=np.float32) * np.float32(-math.log(10))) * 256 - 1
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
