"""Builders that several test files share."""

from __future__ import annotations

from pathlib import Path

from hubmap_kit.tables import Image


def an_image(image_id: int, path: Path, organ: str, pixel_size_um: float, shape: tuple[int, int]) -> Image:
    """The record of an image by HPA, as the row of a table would describe it."""
    return Image(image_id, organ, "HPA", shape, pixel_size_um, 4.0, path, image_id + 1)
