"""Inputs of the benchmarks: the competition's masks if ``HUBMAP_DATA`` names their folder, else drawn tissue."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile

from hubmap_kit import rle
from hubmap_kit.competition import ORGANS
from hubmap_kit.demo.tissue import draw
from hubmap_kit.demo.write import TEST_COLUMNS

COMPRESSIONS = {"none": None, "LZW": "lzw", "deflate": "zlib", "JPEG tiles": "jpeg"}


@functools.cache
def masks(count: int | None) -> tuple[str, pd.DataFrame]:
    """A name for the masks, and their table with columns ``id``, ``rle``, ``img_height``, ``img_width``.

    They are the first `count` masks of ``competition/train.csv`` in the folder that ``HUBMAP_DATA`` names; without
    that variable, at most 20 drawn masks of 3000 x 3000 px.
    """
    csv.field_size_limit(2**31 - 1)
    root = os.environ.get("HUBMAP_DATA")
    if root and (path := Path(root) / "competition" / "train.csv").is_file():
        table = pd.read_csv(path, keep_default_na=False)[["id", "rle", "img_height", "img_width"]][:count]
        return f"{len(table)} real masks", table

    def draw_mask(seed: int) -> str:
        organ = list(ORGANS)[seed % len(ORGANS)]
        mask = draw(organ, "HPA", (1000, 1000), 1.2, 4, np.random.default_rng(seed))[1]
        # Blurred before the threshold, so that the enlarged outline is smooth and not a staircase.
        large = cv2.GaussianBlur(cv2.resize(mask * 255, (3000, 3000), interpolation=cv2.INTER_LINEAR), (0, 0), 3)
        return rle.encode(large > 127)

    seeds = range(20 if count is None else min(count, 20))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(draw_mask, seeds))
    table = pd.DataFrame({"id": list(seeds), "rle": texts, "img_height": 3000, "img_width": 3000})
    return f"{len(table)} drawn masks", table


@functools.cache
def drawn(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A square of drawn tissue, ``(side, side, 3)`` uint8, and its mask; beyond 1500 px both are mirrored."""
    core = min(side, 1500)
    image, mask = draw("largeintestine", "HPA", (core, core), 0.4, 4, np.random.default_rng(0))
    pad = (0, side - core)
    return np.pad(image, (pad, pad, (0, 0)), mode="symmetric"), np.pad(mask, (pad, pad), mode="symmetric")


def write_tiff(path: Path, image: np.ndarray, kind: str = "none") -> Path:
    """Write an image in one of `COMPRESSIONS`: JPEG in tiles of 256 px, the others in strips."""
    layout = {"tile": (256, 256)} if kind == "JPEG tiles" else {"rowsperstrip": 64}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, photometric="rgb", compression=COMPRESSIONS[kind], metadata=None, **layout)
    return path


def write_large_tiff(path: Path, side: int, tile: int = 512) -> None:
    """Write a tiled TIFF with JPEG compression of any size, tile by tile, without ever holding all of it in memory."""
    texture = drawn(2048)[0]

    def tiles() -> Iterator[np.ndarray]:
        for y in range(0, side, tile):
            for x in range(0, side, tile):
                top, left = y % 2048, x % 2048
                yield texture[top : top + tile, left : left + tile]

    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side, 3),
        dtype=np.uint8,
        photometric="rgb",
        compression="jpeg",
        tile=(tile, tile),
        metadata=None,
    )


def table_of(shapes: dict[int, tuple[int, int]], pixel_um: float = 0.4) -> pd.DataFrame:
    """A table with `TEST_COLUMNS` of images with these shapes, by id."""
    rows = [(i, "largeintestine", "HPA", height, width, pixel_um, 4) for i, (height, width) in shapes.items()]
    return pd.DataFrame(rows, columns=TEST_COLUMNS)
