"""Procedural tissue: five organs with their functional tissue units, drawn in µm and stained by optical density.

An organ is drawn as *layers*, one map for each substance that absorbs light (nuclei, epithelium, stroma, mucin and
basement membranes, blood), on a raster of at most `FINEST_UM`. A stain gives each layer its share of
each dye, and light follows Beer-Lambert: ``RGB = white * 10 ** -sum_k c_k * v_k``, with ``c_k`` the
concentration of dye k and ``v_k`` its optical density in red, green and blue. Light is averaged over
the image's own pixels last, so that a coarse image looks as a coarse scanner would show it.

Sources of the dye vectors: Ruifrok & Johnston, "Quantification of histochemical staining by color
deconvolution", Anal Quant Cytol Histol 23 (2001), for haematoxylin, eosin and DAB; G. Landini's Colour
Deconvolution plugin for ImageJ ("H PAS") for periodic acid-Schiff.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..images.stain import DAB, EOSIN, HAEMATOXYLIN
from .canvas import Canvas, noise
from .painters import PAINTERS

FINEST_UM = 0.6
LEAST_SHARE = 0.0005  # of an image, covered by units; Kaggle's least is 0.0007
CORE_RADIUS_UM = 500.0  # the Human Protein Atlas photographs tissue cores of 1 mm

SCHIFF = (0.175, 0.972, 0.155)

# For HuBMAP only, whose images come from several laboratories. The ranges are so wide that a network trained without
# regard to stain loses as much Dice as in the competition (docs/measurements.md has the figures).
HAEMATOXYLIN_UPTAKE = (0.45, 1.1)  # factor for the time a section was left in the dye
SECOND_UPTAKE = (0.6, 1.6)
SCANNER_CURVE = (0.75, 1.4)  # power of the light
SCANNER_BALANCE = 0.03  # standard deviation of the logarithm of each colour's light
BLUR_PER_UM = 0.15  # µm of blur for each µm of thickness above 4, because a thick section is not all in focus

# Concentration of (haematoxylin, second dye) in a layer at full density, for a section of 4 µm.
UPTAKE: dict[str, dict[str, tuple[float, float]]] = {
    "DAB": {"nuclei": (0.62, 0), "epithelium": (0.15, 0), "stroma": (0.13, 0), "mucin": (0.05, 0), "blood": (0.13, 0)},
    "PAS": {
        "nuclei": (0.62, 0.08),
        "epithelium": (0.03, 0.20),
        "stroma": (0.02, 0.17),
        "mucin": (0.02, 0.62),
        "blood": (0.06, 0.26),
    },
    "H&E": {
        "nuclei": (0.78, 0.10),
        "epithelium": (0.12, 0.30),
        "stroma": (0.03, 0.32),
        "mucin": (0.08, 0.10),
        "blood": (0.02, 0.58),
    },
}
SECOND_DYE = {stain: np.array(dye, np.float32) for stain, dye in {"DAB": DAB, "PAS": SCHIFF, "H&E": EOSIN}.items()}


def draw(
    organ: str,
    source: str,
    shape: tuple[int, int],
    pixel_um: float,
    thickness_um: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image of an organ and the mask of its functional tissue units.

    Args:
        organ: Key of `PAINTERS`.
        source: ``HPA`` (round core, haematoxylin and DAB) or ``Hubmap`` (PAS or H&E).
        shape: ``(height, width)`` in pixels.
        pixel_um: Side of a pixel in µm.
        thickness_um: Thickness of the section in µm.
        rng: Source of every random number.

    Returns:
        ``(H, W, 3)`` uint8 RGB image, and ``(H, W)`` uint8 mask in {0, 1} with at least one unit.
    """
    factor = int(np.ceil(pixel_um / FINEST_UM))
    fine = (shape[0] * factor, shape[1] * factor)
    canvas = Canvas(pixel_um / factor, _inside(source, fine, pixel_um / factor, rng), rng)
    PAINTERS[organ](canvas)
    mask = canvas.mask * (canvas.inside > 0)
    if mask.mean() < LEAST_SHARE:  # a field smaller than a unit may have missed it
        return draw(organ, source, shape, pixel_um, thickness_um, rng)
    light = _stained(canvas, source, thickness_um)
    if factor > 1:
        light = cv2.resize(light, shape[::-1], interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    light += 1.5 * rng.standard_normal(light.shape, np.float32)  # the camera's noise
    return np.clip(light + 0.5, 0, 255).astype(np.uint8), mask.astype(np.uint8)


def _inside(source: str, shape: tuple[int, int], pixel_um: float, rng: np.random.Generator) -> np.ndarray:
    """``(H, W)`` float32 distance in µm to the edge of the tissue: a round core (HPA) or, at times, a ragged side."""
    y, x = np.indices(shape, np.float32) * np.float32(pixel_um)
    height, width = shape[0] * pixel_um, shape[1] * pixel_um
    turn = rng.uniform(0, 2 * np.pi)
    sin, cos = np.float32(np.sin(turn)), np.float32(np.cos(turn))
    ragged = 5 * noise(shape, pixel_um, 30, rng) + 2.5 * noise(shape, pixel_um, 8, rng)
    if source == "HPA":
        off = rng.uniform(0, 0.75 if max(height, width) < 1.4 * CORE_RADIUS_UM else 0.1) * CORE_RADIUS_UM
        centre = height / 2 - off * sin, width / 2 - off * cos
        core: np.ndarray = CORE_RADIUS_UM - np.hypot(y - np.float32(centre[0]), x - np.float32(centre[1]))
        return core + ragged
    off = rng.uniform(0.2, 0.45) * min(height, width) if rng.random() < 0.35 else 1e4
    side: np.ndarray = np.float32(off) - (y - np.float32(height / 2)) * sin - (x - np.float32(width / 2)) * cos
    return side + 2 * ragged


def _stained(c: Canvas, source: str, thickness_um: float) -> np.ndarray:
    """``(H, W, 3)`` float32 RGB light, 0 to 255, through the stained section."""
    rng = c.rng
    stain = "DAB" if source == "HPA" else str(rng.choice(["PAS", "H&E"]))
    c.layers["nuclei"] *= np.clip(0.92 + 0.16 * c.noise(1.1), 0.4, 1.4)
    first, second = np.zeros((2, *c.inside.shape), np.float32)
    for name, (blue, other) in UPTAKE[stain].items():
        first += np.float32(blue * rng.normal(1, 0.08)) * c.layers[name]
        second += np.float32(other * rng.normal(1, 0.12)) * c.layers[name]
    if source != "HPA":
        first *= np.float32(np.exp(rng.uniform(*np.log(HAEMATOXYLIN_UPTAKE))))
        second *= np.float32(np.exp(rng.uniform(*np.log(SECOND_UPTAKE))))
    if stain == "DAB":
        second += _antibody(c)
    slow = 1 + 0.07 * c.noise(120)
    glass = np.clip(c.inside / 2, 0, 1)
    sigma = (0.4 + BLUR_PER_UM * max(thickness_um - 4, 0)) / c.pixel_um
    amount = np.float32((thickness_um / 4) ** 0.3) * slow * glass
    blue = cv2.GaussianBlur(first * amount * np.float32(rng.uniform(0.8, 1.25)), (0, 0), sigma)
    other = cv2.GaussianBlur(second * amount * np.float32(rng.uniform(0.8, 1.25)), (0, 0), sigma)
    grey = rng.uniform(0.03, 0.12) if stain == "DAB" else 0.0  # counterstain of the Atlas is paler and greyer
    dyes = np.array(HAEMATOXYLIN, np.float32) + grey * np.array([-0.5, -1.0, 1.0]), SECOND_DYE[stain]
    vectors = [dye + rng.normal(0, 0.025, 3) for dye in dyes]
    white = rng.uniform(238, 248) + rng.normal(0, 1, 3)
    density = [blue * np.float32(a) + other * np.float32(b) for a, b in zip(*vectors, strict=True)]
    light = np.stack(
        [np.float32(w) * np.exp(np.float32(-np.log(10)) * d) for w, d in zip(white, density, strict=True)], -1
    )
    return light if source == "HPA" else _scanned(light, rng)


def _scanned(light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The light as another laboratory's scanner shows it: its white balance and its curve from dark to bright."""
    balance = np.exp(rng.normal(0, SCANNER_BALANCE, 3)).astype(np.float32)
    curve = np.float32(np.exp(rng.uniform(*np.log(SCANNER_CURVE))))
    return 255 * balance * np.clip(light / 255, 0, 1) ** curve


def _antibody(c: Canvas) -> np.ndarray:
    """``(H, W)`` float32 concentration of DAB: an antibody that finds some compartments, strongly or hardly at all."""
    rng = c.rng
    strength = float(rng.choice([0.03, 0.15, 0.35, 0.8], p=[0.3, 0.3, 0.25, 0.15]))
    patchy = np.clip(0.7 + 0.3 * c.noise(25) + 0.2 * c.noise(5), 0.1, 1.5)
    found = 0.9 * c.layers["marked"] + 0.05 * c.layers["stroma"]
    for name in ("nuclei", "epithelium", "stroma"):
        found = found + np.float32(rng.random() ** 3) * c.layers[name]
    return np.float32(strength) * patchy * found
