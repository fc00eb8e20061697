"""Fixtures: images to predict."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from builders import an_image

from hubmap_kit.tables import Image

ORGANS = ["kidney", "prostate", "largeintestine", "spleen", "lung"]
SHAPES = [(211, 307), (97, 31), (64, 64), (13, 503), (401, 149)]


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> list[Image]:
    """An image of each organ, of several shapes, smaller and larger than a tile; its id is its place in the list."""
    made = []
    for number, (organ, shape) in enumerate(zip(ORGANS, SHAPES, strict=True)):
        noise = cv2.GaussianBlur(rng.random((*shape, 3)).astype(np.float32), (0, 0), 6)
        pixels = np.clip((noise - 0.5) * 2500 + 128, 0, 255).astype(np.uint8)
        path = tmp_path / f"{number}.tiff"
        tifffile.imwrite(path, pixels, photometric="rgb")
        made.append(an_image(number, path, organ, 0.5, shape))
    return made
