"""Tissue or glass: the kit's one rule, for prediction and for the pages."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

# Background: fewer than TISSUE_SHARE of the pixels have a channel below TISSUE_BELOW.
TISSUE_SHARE, TISSUE_BELOW = 1e-3, 205


def tissue_of(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Pixels that are darker than glass.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.

    Returns:
        ``(H, W)`` bool: whether a channel is below `TISSUE_BELOW`. Hollows in the tissue look like glass.

    >>> tissue_of(np.array([[[255, 204, 255], [205, 255, 255]]], np.uint8)).tolist()
    [[True, False]]
    """
    # Many times faster than NumPy's minimum over the channels.
    bright: Any = cv2.inRange(image, (TISSUE_BELOW,) * 3, (255,) * 3)
    return np.asarray(bright == 0)


def is_background(image: npt.NDArray[np.uint8]) -> bool:
    """Whether an image or tile ``(H, W, 3)`` uint8 RGB holds no tissue: less than `TISSUE_SHARE` of its pixels."""
    return bool(tissue_of(image).mean() < TISSUE_SHARE)
