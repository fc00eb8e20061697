"""Builders that several test files share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from hubmap_kit.competition import ByOrgan
from hubmap_kit.config import PrepareConfig, TrainConfig
from hubmap_kit.masks import MaskRule
from hubmap_kit.prediction.ensemble import Member
from hubmap_kit.recipes import recipe
from hubmap_kit.run import WEIGHTS, RunConfig
from hubmap_kit.tables import Image
from hubmap_kit.tiles import Predictor

GEOMETRY = PrepareConfig(patch_size=128, input_size=64)
# A training of three epochs of two steps, and the flags of the command that does it.
TINY = recipe("fast", filters=2, batch_size=4, epochs=3, steps_per_epoch=2, validate_every=2)
TINY_FLAGS = "--recipe fast --filters 2 --batch-size 4 --epochs 3 --steps-per-epoch 2 --validate-every 2".split()

# A run folder that hubmap-kit 0.3 trained, and the masks that it predicted of `tissue` in test_run.py.
FORMAT_2 = Path(__file__).parent / "data" / "run-format2"


def an_image(image_id: int, path: Path, organ: str, pixel_size_um: float, shape: tuple[int, int]) -> Image:
    """The record of an image by HPA, as the row of a table would describe it."""
    return Image(image_id, organ, "HPA", shape, pixel_size_um, 4.0, path, image_id + 1)


def write_run(folder: Path, weights: bytes = b"", **changes: Any) -> Path:
    """Write a run folder without training it: ``config.json``, and `weights` as its weights file.

    Args:
        folder: Folder to write.
        weights: Content of the weights file.
        changes: Fields of the `RunConfig`. All other fields are those of a finished run with the geometry `GEOMETRY`.
    """
    train = TrainConfig()
    fields: dict[str, Any] = {
        "prepare": GEOMETRY,
        "train": train,
        "network": train.network(),
        "finished": True,
    } | changes
    RunConfig(**fields).write(folder)
    (folder / WEIGHTS).write_bytes(weights)
    return folder


def write_images(folder: Path, rng: np.random.Generator) -> list[Image]:
    """Write an image of each organ, of several shapes, smaller and larger than a tile; ids are places in the list."""
    images = []
    shapes = {"kidney": (211, 307), "prostate": (97, 31), "largeintestine": (64, 64)}
    shapes |= {"spleen": (13, 503), "lung": (401, 149)}
    for number, (organ, shape) in enumerate(shapes.items()):
        noise = cv2.GaussianBlur(rng.random((*shape, 3)).astype(np.float32), (0, 0), 6)
        pixels = np.clip((noise - 0.5) * 2500 + 128, 0, 255).astype(np.uint8)
        path = folder / f"{number}.tiff"
        tifffile.imwrite(path, pixels, photometric="rgb")
        images.append(an_image(number, path, organ, 0.5, shape))
    return images


def smooth(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A predictor that sees more than one pixel: foreground is where a pixel and its surroundings are light."""
    blurred = np.stack([cv2.blur(tile[..., 1], (9, 9)) for tile in batch]).astype(np.float32)
    return blurred / np.float32(255)


def slow(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Like `smooth`, but takes at least 4 ms."""
    time.sleep(0.004)
    return smooth(batch)


def pixelwise(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A predictor that sees single pixels: foreground is white."""
    return np.asarray(batch.min(axis=-1) / 255, np.float32)


def a_member(um: float = 0.5, predict: Predictor = smooth, **changes: Any) -> Member:
    """A network without TensorFlow that sees every organ at the same pixel size, in µm."""
    settings: dict[str, Any] = {"tile_size": 64, "overlap": 0.25, "batch_size": 3, "rule": MaskRule.uniform(0.5)}
    return Member(predict=predict, network_um=ByOrgan({}, um), **settings | changes)
