"""Builders that several test files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubmap_kit.config import PrepareConfig, TrainConfig
from hubmap_kit.run import WEIGHTS, RunConfig
from hubmap_kit.tables import Image

GEOMETRY = PrepareConfig(patch_size=128, input_size=64)


def an_image(image_id: int, path: Path, organ: str, pixel_size_um: float, shape: tuple[int, int]) -> Image:
    """The record of an image by HPA, as the row of a table would describe it."""
    return Image(image_id, organ, "HPA", shape, pixel_size_um, 4.0, path, image_id + 1)


def write_run(folder: Path, weights: bytes = b"", **changes: Any) -> Path:
    """Write a run folder without training it: ``config.json``, and `weights` in the place of its weights.

    Args:
        folder: Folder to write.
        weights: Content of the weights file.
        changes: Fields of the `RunConfig`. It is of a finished run of the geometry `GEOMETRY` otherwise.
    """
    train = TrainConfig()
    fields = {"prepare": GEOMETRY, "train": train, "network": train.network(), "finished": True} | changes
    RunConfig(**fields).write(folder)
    (folder / WEIGHTS).write_bytes(weights)
    return folder
