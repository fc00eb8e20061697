"""What one image shows by itself: its tissue, its stain, its mask, and a small picture to compare it with others."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .. import rle
from ..images.stain import LEAST_TISSUE, OPPONENT, TISSUE, Look, optical_density
from ..images.stain import measure as measure_look
from ..images.tissue import tissue_of
from .review_fit import Fit, fit

SPECK_UM2 = 50.0  # a region below this is a speck, not a unit; the smallest units, crypts, have about 700 µm²
ON_GLASS = 0.05  # a unit lies on glass if less of it is tissue; on real tissue no unit has less than 0.2
HUES_SIDE, HUES_END = 24, 0.8  # parts along each axis of the hues, and the largest hue
HEAT_SIDE = 24  # cells across a map of where masks lie
PICTURE_SIDE = 32  # px; side of the small picture
_SAMPLE_SIDE = 1024  # px; tissue is measured on a raster of at most this many pixels along each side

_Image = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MaskMeasures:
    """What a mask looks like.

    Attributes:
        share: Share of the image that it covers, in [0, 1].
        units_um2: Area of each unit, in µm²; a unit is a 4-connected region of at least `SPECK_UM2`.
        specks: Number of smaller regions.
        touching: Number of units that touch the image's border.
        on_glass: Number of units of which less than `ON_GLASS` is tissue.
        glass_share: Share of the mask that lies in these units, in [0, 1].
        white: Share of the mask's pixels that are not tissue, in [0, 1]: glass, but also hollows within units.
        heat: ``(HEAT_SIDE, HEAT_SIDE)`` float32 in [0, 1]: the share of each part of the image that it covers.
        fit: How well it fits the tissue, as it is and turned; None where that cannot be told.
    """

    share: float
    units_um2: npt.NDArray[np.float64]
    specks: int
    touching: int
    on_glass: int
    glass_share: float
    white: float
    heat: _Floats
    fit: Fit | None


@dataclass(frozen=True)
class ImageMeasures:
    """What an image looks like. It takes a few kilobytes.

    Attributes:
        shape: ``(height, width)`` of the file, in px.
        sha256: SHA-256 of shape and pixels, in hexadecimal: equal for equal images in files of different kinds.
        picture: See `picture_of`.
        hues: See `hues_of`; None if it shows too little tissue.
        look: Its stain; see `hubmap_kit.images.stain.Look`. Without values if it shows too little tissue.
        tissue_share: Share of its pixels that are tissue, in [0, 1].
        contrast: Standard deviation of its grey levels, 0 to 127.5.
        mask: Of its mask; None if it has none, or one of another shape.
    """

    shape: tuple[int, int]
    sha256: str
    picture: _Floats
    hues: _Floats | None
    look: Look
    tissue_share: float
    contrast: float
    mask: MaskMeasures | None


def measure_image(pixels: _Image, mask: _Image | None, pixel_size_um: float) -> ImageMeasures:
    """Measure an image and its mask.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` uint8 in {0, 1}; None if there is none.
        pixel_size_um: Side of a pixel, in µm.
    """
    shape = (pixels.shape[0], pixels.shape[1])
    step = -(-max(shape) // _SAMPLE_SIDE)
    sample = np.ascontiguousarray(pixels[::step, ::step])
    tissue = tissue_of(sample)
    digest = hashlib.sha256(str(shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return ImageMeasures(
        shape=shape,
        sha256=digest.hexdigest(),
        picture=picture_of(pixels),
        hues=hues_of(np.ascontiguousarray(sample[::4, ::4])),
        look=measure_look(pixels, "reinhard"),
        tissue_share=float(tissue.mean()),
        contrast=float(np.asarray(cv2.cvtColor(sample, cv2.COLOR_RGB2GRAY)).std()),
        mask=None if mask is None else measure_mask(mask, pixel_size_um, pixels, tissue),
    )


def picture_of(pixels: _Image) -> _Floats:
    """A small grey picture to recognise an image by: sharpened, so that it shows texture and not the outline of tissue.

    Two pictures of the same image have a correlation near 1, whatever its size, compression or brightness.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.

    Returns:
        ``(PICTURE_SIDE, PICTURE_SIDE)`` float32 with mean 0 and length 1; all 0 for an image of one colour. The sum of
        the products of two pictures is their correlation.
    """
    side = (PICTURE_SIDE, PICTURE_SIDE)
    grey = np.asarray(cv2.resize(pixels, side, interpolation=cv2.INTER_AREA), np.float32).mean(axis=2)
    # Without this, any two round pieces of tissue on glass would be alike.
    grey -= cv2.GaussianBlur(grey, (0, 0), PICTURE_SIDE / 8)
    grey -= grey.mean()
    length = float(np.linalg.norm(grey))
    return np.asarray(grey / length if length > 0.05 * PICTURE_SIDE else np.zeros_like(grey), np.float32)


def hues_of(pixels: _Image) -> _Floats | None:
    """Which dyes an image shows: how often each hue occurs in its tissue, whatever its strength.

    The hue of a pixel is its optical density along two axes, yellow against blue and red against green, divided by the
    density along the third, lightness (`hubmap_kit.images.stain.OPPONENT`). On real tissue these hues tell a
    stain that was not in training better than means and deviations of density do, or than the two stains of Macenko:
    of 22 images in Masson's trichrome 20 lie beyond 95 % of the distances among 61 in PAS and PASM; by means, 7.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB.

    Returns:
        ``(HUES_SIDE, HUES_SIDE)`` float32, the square root of the share of each hue, so that half the squared
        difference of two of them is the square of their Hellinger distance; None for fewer than `LEAST_TISSUE` pixels
        of tissue.
    """
    opponent = np.asarray(cv2.transform(optical_density(pixels), OPPONENT)).reshape(-1, 3)
    darkness = opponent[:, 0] / np.float32(np.sqrt(3))
    opponent = opponent[(darkness >= TISSUE[0]) & (darkness < TISSUE[1])]
    if len(opponent) < LEAST_TISSUE:
        return None
    hues = opponent[:, 1:] / opponent[:, :1]
    first, second = np.clip((hues / HUES_END + 1) * HUES_SIDE / 2, 0, HUES_SIDE - 1).astype(np.intp).T
    counts = np.bincount(first * HUES_SIDE + second, minlength=HUES_SIDE**2).astype(np.float32)
    # Neighbouring hues are nearly the same.
    counts = np.asarray(cv2.GaussianBlur(counts.reshape(HUES_SIDE, HUES_SIDE), (0, 0), 1.0), np.float32)
    return np.asarray(np.sqrt(counts / counts.sum()), np.float32)


def measure_mask(mask: _Image, pixel_size_um: float, pixels: _Image, tissue: npt.NDArray[np.bool_]) -> MaskMeasures:
    """Measure a mask.

    Args:
        mask: ``(H, W)`` uint8 in {0, 1}.
        pixel_size_um: Side of a pixel, in µm.
        pixels: Its image, ``(H, W, 3)`` uint8 RGB.
        tissue: Its tissue on a regular raster from the first pixel, ``(h, w)`` bool.
    """
    mask = np.ascontiguousarray(mask)
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    left, top, width, height, area_px = boxes[1:].T
    areas_um2 = area_px.astype(np.float64) * pixel_size_um**2
    units = areas_um2 >= SPECK_UM2
    touching = (left == 0) | (top == 0) | (left + width == mask.shape[1]) | (top + height == mask.shape[0])
    step = -(-mask.shape[0] // tissue.shape[0])
    seen = labels[::step, ::step]
    sampled = np.bincount(seen.ravel(), minlength=count)[1:]
    tissue_px = np.bincount(seen.ravel(), weights=tissue.ravel(), minlength=count)[1:]
    glass = units & (sampled > 0) & (tissue_px < ON_GLASS * sampled)
    total = int(area_px.sum())
    return MaskMeasures(
        share=total / mask.size,
        units_um2=areas_um2[units],
        specks=int((~units).sum()),
        touching=int((touching & units).sum()),
        on_glass=int(glass.sum()),
        glass_share=float(area_px[glass].sum() / total) if total else 0.0,
        white=float(1 - tissue_px.sum() / max(1, sampled.sum())),
        heat=_small(mask, HEAT_SIDE),
        fit=fit(pixels, rle.mask_to_runs(mask)),
    )


def _small(mask: _Image, side: int) -> _Floats:
    """A mask as the share of each of ``side * side`` equal parts that it covers, float32 in [0, 1]."""
    small = cv2.resize(mask * np.uint8(255), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)
