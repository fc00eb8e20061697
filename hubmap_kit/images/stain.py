"""Stain in optical density: change it, measure an image's look, and give the look to another image.

A transfer by either method is one affine map of optical density. `restain` applies it to each pixel by itself, so a
tile can be changed by the look of its whole image. Texture and glass stay as they are; only colours change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

METHODS = ("reinhard", "macenko")
# Density of a dye in red, green and blue: Ruifrok & Johnston 2001, see `optical_density`.
HAEMATOXYLIN, EOSIN, DAB = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776)

# Mean density over red, green and blue. In the competition's images glass has 0.01 to 0.036 and pale tissue 0.1; the
# limit of Macenko et al., 0.15, would drop nine tenths of pale tissue. Above 2 lie black margins.
GLASS = 0.03
TISSUE = (0.1, 2.0)
LEAST_TISSUE = 200  # least number of tissue pixels that are measured
SAMPLE = 1 << 16  # largest number of pixels that are measured, on a regular raster
GAIN = 3.0  # largest factor by which a spread or an amount of stain is changed, because noise grows with it
LEAST_SPREAD = 0.01  # least standard deviation of density; an image of one colour has none
LEAST_ANGLE = math.radians(10)  # between two stains; haematoxylin is 39 degrees from eosin and 37 from DAB
# The axes of Reinhard et al.: lightness, yellow against blue, red against green.
OPPONENT = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
# Their density takes 96 KB, which fits the cache and malloc's limit of 128 KB. Restaining whole patches of 256 px spent
# a third of its time on memory that the system took back and gave again.
PIXELS_AT_ONCE = 8192


# Ruifrok & Johnston 2001, "Quantification of histochemical staining by color deconvolution", Anal Quant Cytol
# Histol 23:291-299: OD = -log10(I / I0). One is added to I, because 0 has no logarithm; I0 is then 256.
_DENSITY = -np.log10((np.arange(256) + 1) / 256).astype(np.float32)


def optical_density(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Optical density by Beer-Lambert; the densities of several stains add up (Ruifrok & Johnston 2001).

    Args:
        image: ``(H, W, 3)`` uint8 RGB, or any other shape.

    Returns:
        Same shape, float32: ``-log10((I + 1) / 256)``, from 0 (white) to 2.408 (black).

    Raises:
        ValueError: The image is not uint8.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"optical density is defined for uint8 images, not {image.dtype}; convert it first")
    # As one row of values, because OpenCV takes at most four axes; many times faster than NumPy's indexing.
    return np.asarray(cv2.LUT(image.reshape(1, -1), _DENSITY), np.float32).reshape(image.shape)


def from_optical_density(density: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """The inverse of `optical_density`, exact to the grey level.

    Args:
        density: Float, any shape; values outside 0 to 2.408 are clipped to white and black.

    Returns:
        Same shape, uint8.
    """
    levels: npt.NDArray[np.float32] = np.exp(np.asarray(density, np.float32) * np.float32(-math.log(10))) * 256 - 1
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)


@dataclass(frozen=True)
class Look:
    """The statistics of an image's colours, in optical density.

    Attributes:
        method: One of `METHODS`.
        values: Empty if too little tissue was found; `transfer` then returns the image unchanged.
            For ``reinhard``: the means along the axes of `OPPONENT` (lightness, yellow against blue, red against
            green), then the standard deviations. For ``macenko``: red, green and blue of the first stain
            (haematoxylin, if there is some), those of the second stain, both vectors of length 1, then the 99th
            percentile of the amount of each stain.

    Raises:
        ValueError: An unknown method, or not as many finite values as the method has.
    """

    method: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        check_method(self.method)
        object.__setattr__(self, "values", tuple(map(float, self.values)))  # JSON has lists only
        wanted = {"reinhard": 6, "macenko": 8}[self.method]
        if len(self.values) not in (0, wanted) or not all(map(math.isfinite, self.values)):
            raise ValueError(f"a {self.method} look has {wanted} finite values, or none, not {self.values}")


def check_method(method: str) -> None:
    """Check the name of a method.

    Raises:
        ValueError: It is not one of `METHODS`.
    """
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r} to measure a look; choose one of {', '.join(METHODS)}")


def restain(
    image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.floating], gamma: float | None = None
) -> npt.NDArray[np.uint8]:
    """Change an image by an affine map of its optical density.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        matrix: ``(3, 3)``, a linear map; or ``(3, 4)``, an affine map whose last column is added. An affine map
            changes tissue only: it fades in from `GLASS` to `TISSUE`.
        gamma: Power to which the density is raised afterwards.

    Returns:
        ``(H, W, 3)`` uint8 RGB.
    """
    on_tissue = matrix.shape[1] == 4
    change = (matrix - np.eye(3, 4) if on_tissue else matrix).astype(np.float32)
    fade = np.array([[1 / 3, 1 / 3, 1 / 3, -GLASS]] * 3, np.float32) / np.float32(TISSUE[0] - GLASS)
    stained = np.empty_like(image)
    rows = max(1, PIXELS_AT_ONCE // image.shape[1])
    for top in range(0, len(image), rows):
        original = optical_density(image[top : top + rows])
        density: Any = cv2.transform(original, change)
        if on_tissue:
            share: Any = cv2.transform(original, fade)
            density *= np.clip(share, 0, 1, out=share)
            density += original
        # Not zero: its logarithm takes OpenCV ten times as long.
        np.maximum(density, 1e-12, out=density)
        if gamma is not None:
            cv2.log(density, dst=density)
            density *= np.float32(gamma)
            cv2.exp(density, dst=density)
        # 256 * 10 ** -density - 1. `from_optical_density` is exact, but slower.
        density *= np.float32(-np.log(10))
        cv2.exp(density, dst=density)
        cv2.addWeighted(density, 256, density, 0, -1, dst=stained[top : top + rows], dtype=cv2.CV_8U)
    return stained


def measure(image: npt.NDArray[np.uint8], method: str) -> Look:
    """Measure the look of a whole image; see `measure_bands`."""
    return measure_bands([image], (image.shape[0], image.shape[1]), method)


def measure_bands(
    bands: Iterable[npt.NDArray[np.uint8]], shape: tuple[int, int], method: str, *, least_side: int = 1
) -> Look:
    """Measure the look of an image on a sample of its tissue.

    Training, pseudo-labels and prediction measure each image by this function at the network's scale, mirrored up to
    the network's input size, so that the same image has the same look.

    The sample is a regular raster of at most `SAMPLE` pixels. Each band adds the raster's pixels that lie in it, so
    the sample, and the look to its last bit, is the same however the image is divided into bands. Memory is taken for
    one band and the sample, whatever the size of the image.

    ``reinhard``: Reinhard, Ashikhmin, Gooch & Shirley 2001, "Color transfer between images", IEEE Comput Graph Appl
    21(5):34-41. The axes are theirs, applied to optical density instead of the responses of the eye's cones. Both are
    logarithms of light, but with density white is zero, and no conversion of colour spaces is needed.

    ``macenko``: Macenko et al. 2009, "A method for normalizing histology slides for quantitative analysis", ISBI,
    1107-1110. The stains lie at the first and 99th percentile of the angle in the plane of the two largest singular
    vectors. The first stain is the one that absorbs more red, as haematoxylin does beside eosin, DAB, Schiff's reagent
    and silver. Stains that are nearly the same, as in an image of one colour, are set 10 degrees apart.

    Args:
        bands: The image's rows from the top, in bands ``(n, W, 3)`` uint8 RGB.
        shape: ``(height, width)`` of the image, in px.
        method: One of `METHODS`.
        least_side: Mirror a smaller image up to this side, in px, as `hubmap_kit.tiles.pad_to_tile` does.

    Returns:
        The look; without values if fewer than `LEAST_TISSUE` pixels of the sample are tissue.

    Raises:
        ValueError: An unknown method.
    """
    check_method(method)
    density = optical_density(_raster(bands, shape, least_side)).reshape(-1, 3)
    darkness = density @ np.full(3, 1 / 3, np.float32)
    return _look_of((density[(darkness >= TISSUE[0]) & (darkness < TISSUE[1])]).astype(np.float64), method)


def _raster(bands: Iterable[npt.NDArray[np.uint8]], shape: tuple[int, int], least_side: int) -> npt.NDArray[np.uint8]:
    """The pixels of an image on a regular raster, see `measure_bands`: ``(h, w, 3)`` uint8, at most `SAMPLE`."""
    height, width = (max(side, least_side) for side in shape)
    step = math.ceil(math.sqrt(height * width / SAMPLE))
    y, x = (np.pad(np.arange(n), (0, max(0, least_side - n)), mode="symmetric")[::step] for n in shape)
    sample = np.empty((len(y), len(x), 3), np.uint8)
    top = 0
    for band in bands:
        here = (y >= top) & (y < top + len(band))
        sample[here] = band[y[here] - top][:, x]
        top += len(band)
    assert top == shape[0], f"{top} of {shape[0]} rows were given"
    return sample


def _look_of(density: npt.NDArray[np.float64], method: str) -> Look:
    """The look of tissue pixels with the density ``(n, 3)``."""
    if len(density) < LEAST_TISSUE:
        return Look(method, ())
    if method == "reinhard":
        opponent = density @ OPPONENT.T
        return Look(method, (*opponent.mean(axis=0), *np.maximum(opponent.std(axis=0), LEAST_SPREAD)))
    plane = np.linalg.eigh(density.T @ density)[1][:, :0:-1]  # the two largest, the largest first
    plane[:, 0] *= np.sign(plane[:, 0].sum())  # the sign of an eigenvector is arbitrary
    angles = np.arctan2(*(density @ plane).T[::-1])
    low, high = np.percentile(angles, (1, 99))
    spread = np.array([-1, 1]) * max(high - low, LEAST_ANGLE) / 2
    angles = (low + high) / 2 + spread
    stains = np.column_stack((np.cos(angles), np.sin(angles))) @ plane.T
    stains = stains[np.argsort(-stains[:, 0])]
    amounts = np.percentile(density @ np.linalg.pinv(stains), 99, axis=0)
    return Look(method, (*stains.ravel(), *amounts))


def transfer(image: npt.NDArray[np.uint8], source: Look, target: Look) -> npt.NDArray[np.uint8]:
    """Give an image the look of another image.

    Each pixel is changed by itself. Spreads and amounts change by a factor of at most `GAIN`. Density that the two
    stains of ``macenko`` do not explain is kept. If both looks are the same, the image stays as it is, up to rounding
    (1 of 255).

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        source: Its look; for a tile, the look of its whole image.
        target: The look wanted, measured by the same method.

    Returns:
        ``(H, W, 3)`` uint8 RGB; the image itself if one of the looks has no values.

    Raises:
        ValueError: The looks are by different methods.
    """
    if source.method != target.method:
        raise ValueError(
            f"one look was measured by {source.method}, the other by {target.method}; measure both by the same method"
        )
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


def _stain_space(stains: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``(3, 3)``: its columns are two stains and the unit vector orthogonal to both."""
    first, second = stains.reshape(2, 3)
    orthogonal = np.cross(first, second)
    return np.column_stack((first, second, orthogonal / np.linalg.norm(orthogonal)))


def average(looks: Sequence[Look]) -> Look:
    """The average of several looks: the median of each value, so that a few odd images do not count.

    Args:
        looks: Measured by the same method; those without values are left out.

    Returns:
        A look by that method, its stains scaled back to length 1; without values if no look has any.

    Raises:
        ValueError: There is no look, or they were measured by different methods.
    """
    methods = {look.method for look in looks}
    if len(methods) != 1:
        raise ValueError(
            f"there are {len(looks)} looks, measured by {sorted(methods)}; average one or more of the same method"
        )
    (method,) = methods
    values = [look.values for look in looks if look.values]
    if not values:
        return Look(method, ())
    middle = np.median(values, axis=0)
    if method == "macenko":
        stains = middle[:6].reshape(2, 3)
        middle[:6] = (stains / np.linalg.norm(stains, axis=1, keepdims=True)).ravel()
    return Look(method, tuple(middle))
