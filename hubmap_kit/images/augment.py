"""Augmentation of a training patch: a square is cut out of a stored image, and its shape, colours and sharpness change.

`STEPS` is the table of all augmentations; `TrainConfig.augment` lists some of them, with the share of patches that each
is done to. To add one, write its function here and put it in the table. The names can be listed without OpenCV or
NumPy, which are imported at their first use.

The geometry is a single map of coordinates, so image and mask stay together and pixels are interpolated once. A quarter
turn or flip maps pixels onto pixels exactly.

OpenCV does the work, not Keras's augmentation layers. On a busy machine with two cores, Keras 3.13 took, in ms per
patch of 256 px, 4.1 to turn, 4.8 to scale, 15 to bend and 5.9 to change colours. All geometry together takes 0.5 here,
on one core, and the slowest change of colour 0.8. Keras's elastic layer moved masks differently from images, and in a
parallel `tf.data` map only its flip was reproducible, because the layers' seed is a counter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from ..lazy import Lazy

if TYPE_CHECKING:
    import cv2
    import numpy as np

    from . import scaling, stain
else:
    cv2, np = Lazy("cv2"), Lazy("numpy")
    scaling, stain = Lazy(f"{__package__}.scaling"), Lazy(f"{__package__}.stain")

# Values are drawn uniformly from these ranges; factors are drawn uniformly in their logarithm.
ELASTIC_NODES = (3, 8)  # nodes on a side of the grid that is displaced
ELASTIC_SHIFT = (0.1, 0.25)  # largest shift of a node, in distances between nodes; below 0.5, so nothing folds
MIXING_SIGMA = 0.35  # standard deviation of each entry of the mixing matrix
STRENGTH = (0.6, 1.6)  # factor of the density
GAMMA = (0.5, 1.8)  # exponent of the density
HED_AMOUNT = (0.6, 1.6)  # factor of the amount of each dye
HED_ADDED = (-0.05, 0.05)  # density that is added everywhere on tissue
HUE = (-0.1, 0.1)  # turn of the circle of colours
SATURATION = (0.5, 1.6)  # factor
BRIGHTNESS = (-0.12, 0.12)  # added, as a share of the range from black to white
CONTRAST = (0.7, 1.4)  # factor
LIGHT_GAMMA = (0.7, 1.4)  # exponent of the light
COARSENING = (1.5, 4.5)  # factor of the pixel size
BLUR_SIGMA = (0.4, 2.0)  # px
NOISE_SIGMA = (2.0, 12.0)  # in grey levels, 0 to 255
JPEG_QUALITY = (25, 85)
GLASS_EDGE = (-0.1, 0.4)  # distance of the tissue's edge from the patch's centre, in sides of the patch
GLASS_NODES = (3, 8)  # nodes on a side of the grid that bends the edge
GLASS_BEND = (0.05, 0.25)  # largest shift of the edge, in sides of the patch
GLASS_TINT = 4.0  # standard deviation of its red, green and blue about the patch's brightest, in grey levels
DEBRIS_NODES = (8, 40)  # nodes on a side of the grid whose peaks are debris
DEBRIS_SHARE = (0.0, 0.05)  # of the glass
HOLES = (1, 4)  # rectangles in a patch
HOLE_SIDE = (1 / 16, 1 / 4)  # of the patch's side
CUTMIX_AREA = (0.1, 0.5)  # of the patch
CUTMIX_ASPECT = (0.5, 2.0)  # height over width


@cache
def _dyes() -> np.ndarray:
    """Optical density of red, green and blue (rows) of haematoxylin, eosin and DAB (columns), each of length 1."""
    dyes = np.array([stain.HAEMATOXYLIN, stain.EOSIN, stain.DAB])
    unit: np.ndarray = dyes.T / np.linalg.norm(dyes, axis=1)
    return unit


@cache
def _normal() -> np.ndarray:
    """``(256,)`` float32: the middles of 256 equal parts of the normal distribution.

    A random byte picks one of them, seven times as fast as a normal number is drawn.
    """
    from statistics import NormalDist  # here, because the command line imports this module to list the steps

    return np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], np.float32)


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
        corner: ``(y, x)`` of the upright square's top left pixel in px; outside of the image the image is mirrored.
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
    places = cv2.transform(bent, matrix)  # (x, y) in the image of each pixel of the patch; one map, so map2 is None
    return cv2.remap(pixels, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)  # type: ignore[call-overload,no-any-return]


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

    The density is multiplied by a random matrix near the identity and by a strength; sometimes its channels are
    shuffled or made equal, and sometimes it is raised to a power.
    """
    mixing = np.eye(3) + rng.normal(0, MIXING_SIGMA, (3, 3))
    mixing *= random_factor(STRENGTH, rng)
    if rng.random() < 0.3:
        mixing = mixing[rng.permutation(3)]
    if rng.random() < 0.15:
        mixing = np.repeat(mixing.mean(axis=0, keepdims=True), 3, axis=0)
    return stain.restain(image, mixing, random_factor(GAMMA, rng) if rng.random() < 0.5 else None)


def random_hed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the amounts of haematoxylin, eosin and DAB: each by a factor, and by a little more or less everywhere.

    Tellez et al. 2018, "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks", IEEE Trans Med Imaging 37(9):2126-2136; the dyes of
    Ruifrok & Johnston 2001.
    """
    amounts = np.diag([random_factor(HED_AMOUNT, rng) for _ in range(3)])
    added = _dyes() @ rng.uniform(*HED_ADDED, 3)
    return stain.restain(image, np.column_stack((_dyes() @ amounts @ np.linalg.inv(_dyes()), added)))


def random_colour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change hue and saturation: colours turn about the axis of greys and move towards or away from it; greys stay."""
    turn, _ = cv2.Rodrigues(np.full(3, rng.uniform(*HUE) * 2 * np.pi / np.sqrt(3)))
    grey = np.full((3, 3), 1 / 3)
    return cv2.transform(image, grey + random_factor(SATURATION, rng) * (turn - grey))


def random_brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast about middle grey, and gamma of the light: one curve for red, green and blue."""
    light = (np.arange(256) / 255 - 0.5) * random_factor(CONTRAST, rng) + 0.5 + rng.uniform(*BRIGHTNESS)
    curve = np.clip(light, 0, 1) ** random_factor(LIGHT_GAMMA, rng)
    return cv2.LUT(image, np.rint(255 * curve).astype(np.uint8))


def random_coarsening(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale an image down and up again, as if its pixels had been larger.

    Images with a coarser pixel size than the network's, such as HuBMAP's prostate at 6.263 µm, look like this.
    """
    by = random_factor(COARSENING, rng)
    height, width = image.shape[:2]
    small = scaling.resize(image, (max(1, round(height / by)), max(1, round(width / by))))
    return scaling.resize(small, (height, width))


def random_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put an image out of focus by a Gaussian."""
    return cv2.GaussianBlur(image, (0, 0), random_factor(BLUR_SIGMA, rng))


def random_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise, as a sensor does; it takes 256 values, up to 2.9 standard deviations."""
    drawn = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
    return cv2.add(
        image, cv2.LUT(drawn, np.rint(_normal() * random_factor(NOISE_SIGMA, rng)).astype(np.int16)), dtype=cv2.CV_8U
    )


def random_jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Store an image as JPEG of a random quality."""
    quality = int(rng.integers(*JPEG_QUALITY, endpoint=True))
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded a line above
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def random_glass(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Let the tissue end at a wavy edge: empty glass lies beyond it, with some debris, and without mask.

    Few training patches show glass. A network that has seen little of it takes the glass between tissue and debris for
    a lumen, and so for a part of a unit.
    """
    height, width = mask.shape
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)
    bend = rng.uniform(*GLASS_BEND) * _waves(mask.shape, GLASS_NODES, rng)
    glass = np.cos(angle) * x + np.sin(angle) * y[:, None] + bend > rng.uniform(*GLASS_EDGE)
    waves = _waves(mask.shape, DEBRIS_NODES, rng)
    empty = glass & (waves <= np.quantile(waves[::4, ::4], 1 - rng.uniform(*DEBRIS_SHARE)))
    # A pixel at the edge of the tissue is partly glass.
    part = cv2.GaussianBlur(empty.astype(np.float32), (0, 0), 0.7)[..., None]
    brightest = np.percentile(image[::4, ::4], 98, axis=(0, 1))
    colour = np.clip(brightest + rng.normal(0, GLASS_TINT, 3), 0, 255).astype(np.float32)
    return np.rint(image + part * (colour - image)).astype(np.uint8), np.where(glass, np.uint8(0), mask)


def _waves(shape: tuple[int, ...], nodes: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Smooth random values of about -1 to 1: a coarse grid of uniform ones, made finer: ``(H, W)`` float32."""
    side = int(rng.integers(*nodes, endpoint=True))
    coarse = rng.uniform(-1, 1, (side, side)).astype(np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def cutout(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Hide a few rectangles: filled with the patch's mean colour, and without mask.

    A hidden unit loses its mask, so that a network does not learn to guess. The colour is the mean, because white would
    look like the lumen of a gland or alveolus, which belongs to its unit's mask.
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
    """Paste a rectangle of one patch, with its mask, into the same place of another.

    Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features", ICCV,
    6023-6032.

    Args:
        patch: Image ``(H, W, 3)`` uint8 and mask ``(H, W)`` uint8; they are not changed.
        donor: Another image and mask of the same shape.
        rng: Source of randomness.

    Returns:
        A new image and mask.
    """
    height, width = patch[1].shape
    area, aspect = rng.uniform(*CUTMIX_AREA), random_factor(CUTMIX_ASPECT, rng)
    # If a rectangle of this aspect is longer than the patch, it is shortened, and its area is kept.
    tall = float(np.clip(np.sqrt(area * aspect * height * width), area * height, height))
    window = _window(patch[1].shape, max(1, round(tall)), max(1, round(area * height * width / tall)), rng)
    image, mask = patch[0].copy(), patch[1].copy()
    image[window], mask[window] = donor[0][window], donor[1][window]
    return image, mask


def _window(shape: tuple[int, ...], height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """A rectangle of that height and width somewhere in an array of that shape."""
    y, x = rng.integers(0, (shape[0] - height, shape[1] - width), endpoint=True)
    return slice(y, y + height), slice(x, x + width)


class Kind(Enum):
    """What an augmentation's function takes and returns.

    Images are ``(H, W, 3)`` uint8 RGB, masks ``(H, W)`` uint8; `rng` is the source of randomness.
    """

    POSE = "(rng, scale_range) to arguments of `cut`: where and how the patch is cut out"
    LOOK = "(image, look, other look) to image: the stain of another image"
    IMAGE = "(image, rng) to image"
    COVER = "(image, mask, rng) to image and mask"


@dataclass(frozen=True)
class Step:
    """An augmentation: its kind, and the function that does it."""

    kind: Kind
    do: Callable[..., Any]


def _imitate(image: np.ndarray, look: stain.Look, other: stain.Look) -> np.ndarray:
    return stain.transfer(image, look, other)


# In the order in which they are done. If both `quarter` and `turn` are drawn for a patch, `turn` wins.
STEPS: dict[str, Step] = {
    "flip": Step(Kind.POSE, lambda rng, scale_range: {"flip": bool(rng.integers(2))}),
    "quarter": Step(Kind.POSE, lambda rng, scale_range: {"quarter_turns": int(rng.integers(4))}),
    "turn": Step(Kind.POSE, lambda rng, scale_range: {"quarter_turns": rng.uniform(0, 4)}),
    "scale": Step(Kind.POSE, lambda rng, scale_range: {"scale": random_factor((1 / scale_range, scale_range), rng)}),
    "elastic": Step(Kind.POSE, lambda rng, scale_range: {"bend": random_bend(rng)}),
    "glass": Step(Kind.COVER, random_glass),
    "reinhard": Step(Kind.LOOK, _imitate),
    "macenko": Step(Kind.LOOK, _imitate),
    "stain": Step(Kind.IMAGE, random_stain),
    "hed": Step(Kind.IMAGE, random_hed),
    "colour": Step(Kind.IMAGE, random_colour),
    "brightness": Step(Kind.IMAGE, random_brightness),
    "coarse": Step(Kind.IMAGE, random_coarsening),
    "blur": Step(Kind.IMAGE, random_blur),
    "noise": Step(Kind.IMAGE, random_noise),
    "jpeg": Step(Kind.IMAGE, random_jpeg),
    "cutout": Step(Kind.COVER, cutout),
}
IMITATIONS = tuple(name for name, step in STEPS.items() if step.kind is Kind.LOOK)  # methods of `stain.measure`


def augment(
    pixels: np.ndarray,
    corner: tuple[float, float],
    size: int,
    shares: Mapping[str, float],
    rng: np.random.Generator,
    *,
    scale_range: float = 1.33,
    look: Callable[[str], stain.Look] | None = None,
    donors: Callable[[str, np.random.Generator], stain.Look] | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cut a patch and augment it.

    Args:
        pixels: ``(h, w, 4)`` uint8: RGB, and the mask in {0, 1} or a soft one in 0 to 255.
        corner: ``(y, x)`` of the patch's top left pixel in px.
        size: Its side in px.
        shares: Name in `STEPS` to the share of patches that it is done to, in the order of the table; see
            `TrainConfig.augment_shares`.
        rng: Source of randomness.
        scale_range: Largest factor by which ``scale`` enlarges or shrinks.
        look: Returns the look of the whole image, measured by the given method of `IMITATIONS`; needed if one of these
            is listed.
        donors: Returns the look of a random other image, measured by the given method.

    Returns:
        Image ``(size, size, 3)`` uint8, mask ``(size, size)`` uint8 of the range it had, and the factor by which the
        tissue was enlarged.

    Raises:
        ValueError: ``reinhard`` or ``macenko`` is listed without `look` and `donors`, or a step is unknown.
    """
    if unknown := set(shares) - STEPS.keys():
        raise ValueError(f"there is no augmentation {', '.join(unknown)}; choose among {', '.join(STEPS)}")
    if shares.keys() & set(IMITATIONS) and (look is None or donors is None):
        raise ValueError(f"{' and '.join(IMITATIONS)} imitate other images; give look and donors, or leave them out")
    chosen = [name for name, share in shares.items() if rng.random() < share]
    pose: dict[str, Any] = {}
    for name in chosen:
        if STEPS[name].kind is Kind.POSE:
            pose |= STEPS[name].do(rng, scale_range)
    patch = cut(pixels, corner, size, **pose)
    image, mask = cv2.cvtColor(patch, cv2.COLOR_RGBA2RGB), cv2.extractChannel(patch, 3)
    for name in chosen:
        step = STEPS[name]
        if step.kind is Kind.IMAGE:
            image = step.do(image, rng)
        elif step.kind is Kind.COVER:
            image, mask = step.do(image, mask, rng)
        elif step.kind is Kind.LOOK and look and donors:
            image = step.do(image, look(name), donors(name, rng))
    return image, mask, pose.get("scale", 1.0)
