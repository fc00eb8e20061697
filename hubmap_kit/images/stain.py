"""Stain: changed in optical density, and the look of an image, measured and given to another.

Both methods of transfer are one affine map of optical density, which `restain` does for single pixels: a tile can be
given a look by its whole image's; glass stays as it is. An image keeps its texture; only its colours change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .scaling import optical_density

METHODS = ("reinhard", "macenko")
# Ruifrok & Johnston 2001 (see `optical_density`): density of a dye in red, green and blue.
HAEMATOXYLIN, EOSIN, DAB = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776)

# Mean density over red, green and blue. Glass has 0.01 to 0.036 in the competition's images, and their pale tissue 0.1:
# the 0.15 from which Macenko et al. measure would leave a tenth of it. Above 2 are black margins, no tissue.
GLASS = 0.03
TISSUE = (0.1, 2.0)
LEAST_TISSUE = 200  # pixels below which nothing is measured
SAMPLE = 1 << 16  # pixels measured, on a regular raster
GAIN = 3.0  # a spread or an amount of stain is changed by this factor at most, because noise grows with it
LEAST_SPREAD = 0.01  # density; of an image of one colour
LEAST_ANGLE = math.radians(10)  # between two stains; haematoxylin stands 39 degrees from eosin and 37 from DAB
# Reinhard et al. take the colours apart by these axes: lightness, yellow against blue, red against green.
OPPONENT = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
# Pixels stained at a time: 96 KB of density stay in the cache and, below malloc's 128 KB, in the process. Whole
# patches of 256 px spent a third of their time on pages that the system took back and gave again.
BAND = 8192


@dataclass(frozen=True)
class Look:
    """What makes the colours of an image, in optical density.

    Attributes:
        method: Of `METHODS`.
        values: Empty where there was too little tissue to tell: such a look is neither given nor taken.
            ``reinhard``: mean in lightness, yellow against blue, red against green (`OPPONENT`), then their standard
            deviations. ``macenko``: red, green and blue of the first stain (haematoxylin, where there is some), those
            of the second, both of length 1, then the 99th percentile of the amount of each.

    Raises:
        ValueError: An unknown method, or values that are not its number of finite ones.
    """

    method: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        check_method(self.method)
        object.__setattr__(self, "values", tuple(map(float, self.values)))  # JSON knows no tuple
        wanted = {"reinhard": 6, "macenko": 8}[self.method]
        if len(self.values) not in (0, wanted) or not all(map(math.isfinite, self.values)):
            raise ValueError(f"a {self.method} look has {wanted} finite values, or none, not {self.values}")


def check_method(method: str) -> None:
    """Check the name of a method.

    Raises:
        ValueError: It is none of `METHODS`.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r} to take a look by; choose one of {', '.join(METHODS)}")


def restain(image: np.ndarray, matrix: np.ndarray, gamma: float | None = None) -> np.ndarray:
    """Change an image by an affine map of its optical density.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        matrix: ``(3, 3)``; or ``(3, 4)`` with what is added in the last column, which changes tissue alone: it fades
            in from `GLASS` to `TISSUE`.
        gamma: Power to which the density is raised afterwards.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    on_tissue = matrix.shape[1] == 4
    change = (matrix - np.eye(3, 4) if on_tissue else matrix).astype(np.float32)
    fade = np.array([[1 / 3, 1 / 3, 1 / 3, -GLASS]] * 3, np.float32) / np.float32(TISSUE[0] - GLASS)
    stained = np.empty_like(image)
    rows = max(1, BAND // image.shape[1])
    for top in range(0, len(image), rows):
        original = optical_density(image[top : top + rows])
        density = cv2.transform(original, change)
        if on_tissue:
            share = cv2.transform(original, fade)
            density *= np.clip(share, 0, 1, out=share)
            density += original
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


def measure(image: np.ndarray, method: str) -> Look:
    """Measure the look of an image on a sample of its tissue.

    ``reinhard`` is Reinhard, Ashikhmin, Gooch & Shirley 2001, "Color transfer between images", IEEE Comput Graph Appl
    21(5):34-41. Its axes are theirs, taken of optical density instead of the eye's cones: both are logarithms of
    light, but of density white is zero, and no conversion of colour spaces is needed.

    ``macenko`` is Macenko et al. 2009, "A method for normalizing histology slides for quantitative analysis", ISBI,
    1107-1110. The stains are the first and last hundredth by angle in the plane of the two largest singular vectors,
    and first of them is the one that absorbs red most, as haematoxylin does beside eosin, DAB, Schiff's reagent and
    silver. Stains that are nearly the same, as in an image of one colour, are held 10 degrees apart.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        method: Of `METHODS`.

    Returns:
        The look; without values where fewer than `LEAST_TISSUE` pixels of the sample are tissue.

    Raises:
        ValueError: An unknown method.
    """
    check_method(method)
    step = math.ceil(math.sqrt(image.shape[0] * image.shape[1] / SAMPLE))
    density = optical_density(np.ascontiguousarray(image[::step, ::step])).reshape(-1, 3)
    darkness = density @ np.full(3, 1 / 3, np.float32)
    density = density[(darkness >= TISSUE[0]) & (darkness < TISSUE[1])].astype(np.float64)
    if len(density) < LEAST_TISSUE:
        return Look(method, ())
    if method == "reinhard":
        opponent = density @ OPPONENT.T
        return Look(method, (*opponent.mean(axis=0), *np.maximum(opponent.std(axis=0), LEAST_SPREAD)))
    plane = np.linalg.eigh(density.T @ density)[1][:, :0:-1]  # the larger first
    plane[:, 0] *= np.sign(plane[:, 0].sum())  # a vector's sign is the library's whim
    angles = np.arctan2(*(density @ plane).T[::-1])
    low, high = np.percentile(angles, (1, 99))
    spread = np.array([-1, 1]) * max(high - low, LEAST_ANGLE) / 2
    angles = (low + high) / 2 + spread
    stains = np.column_stack((np.cos(angles), np.sin(angles))) @ plane.T
    stains = stains[np.argsort(-stains[:, 0])]
    amounts = np.percentile(density @ np.linalg.pinv(stains), 99, axis=0)
    return Look(method, (*stains.ravel(), *amounts))


def transfer(image: np.ndarray, source: Look, target: Look) -> np.ndarray:
    """Give an image the look of another.

    Each pixel is changed for itself, spreads and amounts by a factor of at most `GAIN`. What ``macenko`` does not
    explain by two stains is kept. With one look for both the image stays as it is, up to rounding (1 of 255).

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        source: Its look, or the look of the whole that it is a tile of.
        target: The look wanted, by the same method.

    Returns:
        ``(H, W, 3)`` uint8 RGB; the image itself where a look has no values.

    Raises:
        ValueError: The looks are by different methods.
    """
    if source.method != target.method:
        raise ValueError(f"looks by {source.method} and {target.method}; measure both by the same method")
    if not (source.values and target.values):
        return image
    old, new = np.array(source.values), np.array(target.values)
    if source.method == "reinhard":
        gain = np.clip(new[3:] / old[3:], 1 / GAIN, GAIN)
        linear = OPPONENT.T @ (gain[:, None] * OPPONENT)
        added = OPPONENT.T @ (new[:3] - gain * old[:3])
        return restain(image, np.column_stack((linear, added)))
    gain = np.clip(new[6:] / old[6:], 1 / GAIN, GAIN)
    apart = np.linalg.inv(_stain_space(old[:6]))
    linear = _stain_space(new[:6]) @ np.diag([*gain, 1]) @ apart
    return restain(image, np.column_stack((linear, np.zeros(3))))


def _stain_space(stains: np.ndarray) -> np.ndarray:
    """``(3, 3)``: in its columns two stains, and a vector of length 1 that stands upright on both."""
    first, second = stains.reshape(2, 3)
    upright = np.cross(first, second)
    return np.column_stack((first, second, upright / np.linalg.norm(upright)))


def average(looks: Sequence[Look]) -> Look:
    """The look amid several: the median of each value, in which a few odd images do not count.

    Args:
        looks: By one method; those without values do not count.

    Returns:
        A look by that method, its stains again of length 1; without values where none has any.

    Raises:
        ValueError: There is no look, or they are by different methods.
    """
    methods = {look.method for look in looks}
    if len(methods) != 1:
        raise ValueError(f"{len(looks)} looks by {sorted(methods)}; average one or more looks by the same method")
    (method,) = methods
    values = [look.values for look in looks if look.values]
    if not values:
        return Look(method, ())
    middle = np.median(values, axis=0)
    if method == "macenko":
        stains = middle[:6].reshape(2, 3)
        middle[:6] = (stains / np.linalg.norm(stains, axis=1, keepdims=True)).ravel()
    return Look(method, tuple(middle))
