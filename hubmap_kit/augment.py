"""Augmentation of a training patch: one square cut out of a stored image, and its stain changed.

The geometry is a single affine map, so image and mask cannot part and pixels are interpolated
once. A quarter turn or flip maps pixels onto pixels exactly.
"""

from __future__ import annotations

import cv2
import numpy as np

from .images import optical_density, resize

MIXING_SIGMA = 0.35
STRENGTH = (0.6, 1.6)
GAMMA = (0.5, 1.8)
SCALE = (0.75, 1.33)
COARSENING = (1.5, 4.5)
STAIN_SHARE = 0.75
COARSE_SHARE = 0.25
# Pixels stained at a time: 96 KB of density stay in the cache and, below malloc's 128 KB, in the process. Whole
# patches of 256 px spent a third of their time on pages that the system took back and gave again.
BAND = 8192


def cut(
    pixels: np.ndarray,
    corner: tuple[float, float],
    size: int,
    *,
    quarter_turns: float = 0.0,
    flip: bool = False,
    scale: float = 1.0,
) -> np.ndarray:
    """Cut a turned, mirrored and scaled square out of an image with its mask.

    Args:
        pixels: ``(h, w, 4)`` uint8: RGB, and the mask in {0, 1}.
        corner: ``(y, x)`` of the upright square's top left pixel; what lies outside of the image is mirrored.
        size: Side of the square in px.
        quarter_turns: Turn about the square's centre, in quarters of a circle.
        flip: Mirror left to right as well.
        scale: Above 1 the tissue looks larger.

    Returns:
        ``(size, size, 4)`` uint8.
    """
    middle = (size - 1) / 2
    angle = quarter_turns * np.pi / 2
    cos, sin = np.round([np.cos(angle), np.sin(angle)], 12)
    # From a pixel of the patch to one of the image, in cv2's (x, y).
    turn = np.array([[cos, -sin], [sin, cos]]) / scale
    if flip:
        turn = turn @ np.diag([-1.0, 1.0])
    centre = np.array([corner[1] + middle, corner[0] + middle])
    matrix = np.column_stack((turn, centre - turn @ [middle, middle]))
    return cv2.warpAffine(
        pixels, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )


def random_stain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the stain of an image in optical density.

    The density is multiplied by a random matrix near the identity and by a strength, its
    channels are sometimes shuffled or made equal, and sometimes bent by a gamma. Measured
    on glomeruli in a stain not trained on, this list took Dice from 0.813 to 0.883 (see the
    README's section on stain).

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        rng: Source of randomness.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    mixing = np.eye(3) + rng.normal(0, MIXING_SIGMA, (3, 3))
    mixing *= np.exp(rng.uniform(*np.log(STRENGTH)))
    if rng.random() < 0.3:
        mixing = mixing[rng.permutation(3)]
    if rng.random() < 0.15:
        mixing = np.repeat(mixing.mean(axis=0, keepdims=True), 3, axis=0)
    gamma = np.exp(rng.uniform(*np.log(GAMMA))) if rng.random() < 0.5 else None
    mixing = mixing.astype(np.float32)
    stained = np.empty_like(image)
    rows = max(1, BAND // image.shape[1])
    for top in range(0, len(image), rows):
        density = cv2.transform(optical_density(image[top : top + rows]), mixing)
        # Not down to zero, whose logarithm takes OpenCV ten times as long.
        np.maximum(density, 1e-12, out=density)
        if gamma is not None:
            cv2.log(density, dst=density)
            density *= np.float32(gamma)
            cv2.exp(density, dst=density)
        # As `from_optical_density`, which is exact but slower, up to rounding: 256 * 10 ** -density - 1.
        density *= np.float32(-np.log(10))
        cv2.exp(density, dst=density)
        cv2.addWeighted(density, 256, density, 0, -1, dst=stained[top : top + rows], dtype=cv2.CV_8U)
    return stained


def random_coarsening(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Show an image as if its pixels had been larger: scaled down and up again.

    Images of a coarser pixel size than the network's, as HuBMAP's prostate at 6.263 um, look like this.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        rng: Source of randomness.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    factor = np.exp(rng.uniform(*np.log(COARSENING)))
    height, width = image.shape[:2]
    small = resize(image, (max(1, round(height / factor)), max(1, round(width / factor))))
    return resize(small, (height, width))


def augment(
    pixels: np.ndarray, corner: tuple[float, float], size: int, level: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a patch and augment it.

    Args:
        pixels: ``(h, w, 4)`` uint8: RGB, and the mask in {0, 1}.
        corner: ``(y, x)`` of the patch.
        size: Its side in px.
        level: ``none``; ``geometry``, quarter turns and flips; ``stain``, any turn, flips and scale, on most
            patches `random_stain` and on some `random_coarsening`.
        rng: Source of randomness.

    Returns:
        Image ``(size, size, 3)`` uint8 and mask ``(size, size)`` uint8 in {0, 1}.
    """
    if level == "none":
        patch = cut(pixels, corner, size)
    elif level == "geometry":
        patch = cut(pixels, corner, size, quarter_turns=int(rng.integers(4)), flip=bool(rng.integers(2)))
    else:
        scale = float(np.exp(rng.uniform(*np.log(SCALE))))
        patch = cut(pixels, corner, size, quarter_turns=rng.uniform(0, 4), flip=bool(rng.integers(2)), scale=scale)
    image, mask = cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), cv2.extractChannel(patch, 3)
    if level == "stain" and rng.random() < STAIN_SHARE:
        image = random_stain(image, rng)
    if level == "stain" and rng.random() < COARSE_SHARE:
        image = random_coarsening(image, rng)
    return image, mask
