"""Augmentation of a training patch: one square cut out of a stored image, its colours changed, its picture made worse.

`TrainConfig.augment` lists the steps and the share of patches that each is done to; the tables here hold them. The
geometry is a single map of coordinates, so image and mask cannot part and pixels are interpolated once. A quarter turn
or flip maps pixels onto pixels exactly.

OpenCV does the work, not Keras's augmentation layers. On a busy machine of two cores those of Keras 3.13 took, in ms a
patch of 256 px, 4.1 to turn, 4.8 to scale, 15 to bend and 5.9 to change colours; here all geometry in one takes 0.5 of
one core, and the slowest change of colour 0.8. Their elastic layer moved masks otherwise than images, and from a
parallel `tf.data` map only the flip came out the same each time, because their seed is a counter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np

from ..config import AUGMENT_STEPS
from .scaling import resize
from .stain import DAB, EOSIN, HAEMATOXYLIN, METHODS, Look, restain, transfer

# Ranges are uniform, or where they are of factors uniform in their logarithm.
ELASTIC_NODES = (3, 8)  # a side, of the grid that is displaced
ELASTIC_SHIFT = (0.1, 0.25)  # of a node at most, in distances between nodes: neighbours never cross, nothing folds
MIXING_SIGMA = 0.35
STRENGTH = (0.6, 1.6)
GAMMA = (0.5, 1.8)
HED_AMOUNT = (0.6, 1.6)  # factor of the amount of each dye
HED_ADDED = (-0.05, 0.05)  # density, everywhere on tissue
HUE = (-0.1, 0.1)  # turn of the circle of colours
SATURATION = (0.5, 1.6)
BRIGHTNESS = (-0.12, 0.12)  # of the range from black to white
CONTRAST = (0.7, 1.4)
LIGHT_GAMMA = (0.7, 1.4)
COARSENING = (1.5, 4.5)
BLUR_SIGMA = (0.4, 2.0)  # px
NOISE_SIGMA = (2.0, 12.0)  # of 255
JPEG_QUALITY = (25, 85)
HOLES = (1, 4)
HOLE_SIDE = (1 / 16, 1 / 4)  # of the patch's side
CUTMIX_AREA = (0.1, 0.5)  # of the patch
CUTMIX_ASPECT = (0.5, 2.0)

_DYES = np.array([HAEMATOXYLIN, EOSIN, DAB]).T / np.linalg.norm([HAEMATOXYLIN, EOSIN, DAB], axis=1)
# The normal distribution in 256 equal parts: a random byte is a random part, seven times as fast as a normal number.
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)


def random_factor(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """A random factor, uniform in its logarithm between the limits."""
    return float(np.exp(rng.uniform(*np.log(limits))))


@lru_cache(maxsize=4)
def _grid(size: int) -> np.ndarray:
    """``(size, size, 2)`` float32: the (x, y) of each pixel of a patch."""
    y, x = np.indices((size, size), np.float32)
    return np.dstack((x, y))


def cut(
    pixels: np.ndarray,
    corner: tuple[float, float],
    size: int,
    *,
    quarter_turns: float = 0.0,
    flip: bool = False,
    scale: float = 1.0,
    bend: np.ndarray | None = None,
) -> np.ndarray:
    """Cut a turned, mirrored, scaled and bent square out of an image with its mask.

    Args:
        pixels: ``(h, w, 4)`` uint8: RGB, and the mask in {0, 1} or a soft one in 0 to 255.
        corner: ``(y, x)`` of the upright square's top left pixel; what lies outside of the image is mirrored.
        size: Side of the square in px.
        quarter_turns: Turn about the square's centre, in quarters of a circle.
        flip: Mirror left to right as well.
        scale: Above 1 the tissue looks larger.
        bend: ``(n, n, 2)`` float32, (x, y): displacements of n x n nodes spread over the patch, as shares of the
            patch's side.

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
    if bend is None:
        return cv2.warpAffine(
            pixels, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
        )
    bent = _grid(size) + cv2.resize(bend * np.float32(size), (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.remap(pixels, cv2.transform(bent, matrix), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def random_bend(rng: np.random.Generator) -> np.ndarray:
    """Displacements for `cut` that squeeze and stretch tissue smoothly, as cutting and mounting a section does.

    After Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural networks applied to visual document
    analysis", ICDAR, 958-963; on a coarse grid instead of a smoothed fine one, which looks alike and costs little.
    """
    nodes = int(rng.integers(*ELASTIC_NODES, endpoint=True))
    limit = rng.uniform(*ELASTIC_SHIFT) / nodes
    return rng.uniform(-limit, limit, (nodes, nodes, 2)).astype(np.float32)


def random_stain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the stain of an image in optical density.

    The density is multiplied by a random matrix near the identity and by a strength, its
    channels are sometimes shuffled or made equal, and sometimes bent by a gamma. Measured
    on glomeruli in a stain not trained on, this list took Dice from 0.813 to 0.883 (see the
    README's section on stain).
    """
    mixing = np.eye(3) + rng.normal(0, MIXING_SIGMA, (3, 3))
    mixing *= random_factor(STRENGTH, rng)
    if rng.random() < 0.3:
        mixing = mixing[rng.permutation(3)]
    if rng.random() < 0.15:
        mixing = np.repeat(mixing.mean(axis=0, keepdims=True), 3, axis=0)
    return restain(image, mixing, random_factor(GAMMA, rng) if rng.random() < 0.5 else None)


def random_hed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the amounts of haematoxylin, eosin and DAB: each by a factor, and by a little more or less everywhere.

    Tellez et al. 2018, "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks", IEEE Trans Med Imaging 37(9):2126-2136; the dyes of
    Ruifrok & Johnston 2001.
    """
    amounts = np.diag([random_factor(HED_AMOUNT, rng) for _ in range(3)])
    added = _DYES @ rng.uniform(*HED_ADDED, 3)
    return restain(image, np.column_stack((_DYES @ amounts @ np.linalg.inv(_DYES), added)))


def random_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change hue and saturation: colours turn about the axis of greys and move to or from it; greys stay."""
    turn, _ = cv2.Rodrigues(np.full(3, rng.uniform(*HUE) * 2 * np.pi / np.sqrt(3)))
    grey = np.full((3, 3), 1 / 3)
    return cv2.transform(image, grey + random_factor(SATURATION, rng) * (turn - grey))


def random_brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast about middle grey, and gamma of the light: one curve for red, green and blue."""
    light = (np.arange(256) / 255 - 0.5) * random_factor(CONTRAST, rng) + 0.5 + rng.uniform(*BRIGHTNESS)
    curve = np.clip(light, 0, 1) ** random_factor(LIGHT_GAMMA, rng)
    return cv2.LUT(image, np.rint(255 * curve).astype(np.uint8))


def random_coarsening(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Show an image as if its pixels had been larger: scaled down and up again.

    Images of a coarser pixel size than the network's, as HuBMAP's prostate at 6.263 um, look like this.
    """
    by = random_factor(COARSENING, rng)
    height, width = image.shape[:2]
    small = resize(image, (max(1, round(height / by)), max(1, round(width / by))))
    return resize(small, (height, width))


def random_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put an image out of focus by a Gaussian."""
    return cv2.GaussianBlur(image, (0, 0), random_factor(BLUR_SIGMA, rng))


def random_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add a sensor's Gaussian noise, in 256 steps out to 2.9 deviations."""
    drawn = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.add(
        image, cv2.LUT(drawn, np.rint(_NORMAL * random_factor(NOISE_SIGMA, rng)).astype(np.int16)), dtype=cv2.CV_8U
    )


def random_jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Store an image as JPEG of a random quality."""
    quality = int(rng.integers(*JPEG_QUALITY, endpoint=True))
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def cutout(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hide a few rectangles: filled with the patch's mean colour, and without mask.

    Where nothing can be seen nothing is annotated, so that a network does not learn to guess. The mean colour, because
    white would look like the lumen of a gland or alveolus, which belongs to its unit's mask.
    """
    image, mask = image.copy(), mask.copy()
    colour = np.rint(cv2.mean(image)[:3])
    for _ in range(rng.integers(*HOLES, endpoint=True)):
        height, width = (max(1, round(side * rng.uniform(*HOLE_SIDE))) for side in mask.shape)
        hole = _window(mask.shape, height, width, rng)
        image[hole], mask[hole] = colour, 0
    return image, mask


def cutmix(
    patch: tuple[np.ndarray, np.ndarray], donor: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a rectangle of one patch into another, with its mask, where it lies.

    Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features", ICCV,
    6023-6032.

    Args:
        patch: Image ``(H, W, 3)`` uint8 and mask ``(H, W)`` uint8; left as they are.
        donor: The same, of the same shape.
        rng: Source of randomness.

    Returns:
        A new image and mask.
    """
    height, width = patch[1].shape
    area, aspect = rng.uniform(*CUTMIX_AREA), random_factor(CUTMIX_ASPECT, rng)
    # Height over width is the aspect where the rectangle fits; where it does not, the area is kept.
    tall = float(np.clip(np.sqrt(area * aspect * height * width), area * height, height))
    window = _window(patch[1].shape, max(1, round(tall)), max(1, round(area * height * width / tall)), rng)
    image, mask = patch[0].copy(), patch[1].copy()
    image[window], mask[window] = donor[0][window], donor[1][window]
    return image, mask


def _window(shape: tuple[int, ...], height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A rectangle of that height and width somewhere in an array of that shape."""
    y, x = rng.integers(0, (shape[0] - height, shape[1] - width), endpoint=True)
    return slice(y, y + height), slice(x, x + width)


# What each step is, by what it needs. Arguments of `cut`, from a random source and the scale range: a turn that is
# listed beside quarter turns takes their place in its share of patches.
POSES: dict[str, Callable[[np.random.Generator, float], dict[str, Any]]] = {
    "flip": lambda rng, limit: {"flip": bool(rng.integers(2))},
    "quarter": lambda rng, limit: {"quarter_turns": int(rng.integers(4))},
    "turn": lambda rng, limit: {"quarter_turns": rng.uniform(0, 4)},
    "scale": lambda rng, limit: {"scale": random_factor((1 / limit, limit), rng)},
    "elastic": lambda rng, limit: {"bend": random_bend(rng)},
}
# Image to image, both (H, W, 3) uint8 RGB.
CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "stain": random_stain,
    "hed": random_hed,
    "colour": random_colour,
    "brightness": random_brightness,
    "coarse": random_coarsening,
    "blur": random_blur,
    "noise": random_noise,
    "jpeg": random_jpeg,
}
# Image and mask to image and mask.
COVERS: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "cutout": cutout
}


def augment(
    pixels: np.ndarray,
    corner: tuple[float, float],
    size: int,
    shares: Mapping[str, float],
    rng: np.random.Generator,
    *,
    scale_range: float = 1.33,
    look: Callable[[str], Look] | None = None,
    donors: Callable[[str, np.random.Generator], Look] | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cut a patch and augment it.

    Args:
        pixels: ``(h, w, 4)`` uint8: RGB, and the mask in {0, 1} or a soft one in 0 to 255.
        corner: ``(y, x)`` of the patch.
        size: Its side in px.
        shares: Step to the share of patches that it is done to, in that order; `TrainConfig.augment_shares`.
        rng: Source of randomness.
        scale_range: Most factor by which ``scale`` enlarges or shrinks.
        look: The look of the whole image by a method of `stain.METHODS`; for the steps of those names.
        donors: The look of a random other image by such a method.

    Returns:
        Image ``(size, size, 3)`` uint8, mask ``(size, size)`` uint8 of the range it had, and the factor by which the
        tissue was enlarged.

    Raises:
        ValueError: ``reinhard`` or ``macenko`` is listed without `look` and `donors`, or a step is unknown.
    """
    unknown = set(shares) - set(AUGMENT_STEPS)
    if unknown:
        raise ValueError(f"there is no augmentation {', '.join(unknown)}; choose among {', '.join(AUGMENT_STEPS)}")
    if set(shares) & set(METHODS) and (look is None or donors is None):
        raise ValueError(f"{' and '.join(METHODS)} imitate other images; give look and donors, or leave them out")
    chosen = [name for name, share in shares.items() if rng.random() < share]
    pose: dict[str, Any] = {}
    for name in chosen:
        if name in POSES:
            pose |= POSES[name](rng, scale_range)
    patch = cut(pixels, corner, size, **pose)
    image, mask = cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), cv2.extractChannel(patch, 3)
    for name in chosen:
        if name in CHANGES:
            image = CHANGES[name](image, rng)
        elif name in COVERS:
            image, mask = COVERS[name](image, mask, rng)
        elif look and donors and name in METHODS:
            image = transfer(image, look(name), donors(name, rng))
    return image, mask, pose.get("scale", 1.0)
