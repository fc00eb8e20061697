"""A small competition in Kaggle's layout, with drawn tissue instead of patients' and the answers beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import tifffile

from ..competition import (
    HEIGHT,
    ID,
    ORGAN,
    ORGANS,
    PIXEL_SIZE,
    RLE,
    SAMPLE_SUBMISSION,
    SOURCE,
    SOURCES,
    THICKNESS,
    WIDTH,
    image_path,
    table_path,
)
from ..config import SettingError
from ..files import filling, is_free
from ..machine import cores
from ..progress import track
from ..rle import encode
from .painters import PAINTERS
from .tissue import draw

TRAIN_PIXEL_UM = 0.4
LEAST_SIZE, LARGEST_SIZE = 128, 4096
LEAST_SIDE = 97  # px; the least side of any image
COARSE_UM = 2.0  # images with larger pixels show more tissue, or units would be a few pixels wide
LARGEST_ID = 32767
SPLITS = ("train", "test", "hidden")

TEST_COLUMNS = [ID, ORGAN, SOURCE, HEIGHT, WIDTH, PIXEL_SIZE, THICKNESS]
TRUTH_COLUMNS = [ID, ORGAN, SOURCE, HEIGHT, WIDTH, RLE]


def write_demo(folder: Path, *, train: int = 40, test: int = 20, size: int = 1024, seed: int = 0) -> None:
    """Write a small competition: tables, images and masks like Kaggle's, and the truth of its test set.

    Training images are square, with pixels of 0.4 µm, and immunostained (HPA). Half of the test images
    are of this kind; the others have the shape, pixel size and stain (PAS or H&E) of HuBMAP. The organs take
    turns, so any five images of a split show all five. Each mask holds at least one unit, whole where
    the field has room: 1024 px are 410 µm, about two units across, so that masks cover more of the
    image than Kaggle's means (kidney 3 %, prostate 15 %, large intestine 19 %, spleen 10 %, lung 2 %);
    at ``size=3000`` they come close.

    One seed and the same arguments give the same bytes, with the same versions of the libraries.
    The 60 default images take 15 to 30 s on two cores and 145 MB.

    Args:
        folder: New or empty folder; its files appear when all are written.
        train: Training images, at least 5.
        test: Test images, at least 1.
        size: Side of the training images in pixels, 128 to 4096.
        seed: Any whole number from 0.

    Raises:
        ValueError: An argument is out of range, the ids do not suffice, or the folder is in use.
    """
    _check("test", test, 1, LARGEST_ID - 1 - 5, "a test set holds an image and each image has its own id")
    _check("train", train, 5, LARGEST_ID - 1 - test, "all five organs need an image and each image its own id")
    _check("size", size, LEAST_SIZE, LARGEST_SIZE, "units are 60 to 450 µm and a pixel is 0.4 µm")
    _check("seed", seed, 0, None, "NumPy's seeds are not negative")
    folder = Path(folder).resolve()
    if not is_free(folder):
        raise ValueError(f"{folder} exists and is not an empty folder; name another one")
    with filling(folder) as part:
        _write(part, _plan(train, test, size, seed), seed)


def _check(name: str, value: int, least: int, most: int | None, reason: str) -> None:
    if not least <= value or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise SettingError(name, f"is {value}; {reason}: give a whole number {span}")


def _plan(train: int, test: int, size: int, seed: int) -> pd.DataFrame:
    """The plan of the images: a row for each, with its split and its number within the split."""
    rng = np.random.default_rng(seed)
    organs = [organ for organ in ORGANS if organ in PAINTERS]
    ids = iter(rng.permutation(np.arange(1, LARGEST_ID))[: train + test].tolist())
    rows = []
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            organ = organs[number % len(organs)]
            source = SOURCES[(number + 1) % 2] if split == "test" else "HPA"
            pixel_um = ORGANS[organ].pixel_size_um[source]
            height, width = (size, size) if source == "HPA" else _hubmap_shape(size, pixel_um, rng)
            rows.append(
                {
                    ID: next(ids),
                    ORGAN: organ,
                    SOURCE: source,
                    HEIGHT: height,
                    WIDTH: width,
                    PIXEL_SIZE: pixel_um,
                    THICKNESS: ORGANS[organ].thickness_um[source],
                    "age": float(rng.integers(21, 85)),
                    "sex": str(rng.choice(["Male", "Female"])),
                    "split": split,
                    "number": number,
                }
            )
    return pd.DataFrame(rows)


def _hubmap_shape(size: int, pixel_um: float, rng: np.random.Generator) -> tuple[int, int]:
    """Odd, unequal (height, width) in px that show about as much tissue as a training image.

    Coarse pixels show a field 1.6 to 2.4 times as wide; the area stays within ``(1.5 * size) ** 2`` px.
    """
    wider = rng.uniform(1.6, 2.4) if pixel_um > COARSE_UM else 1.0
    side = min(size * TRAIN_PIXEL_UM / pixel_um * wider, 1.45 * size)
    aspect = rng.uniform(1.06, 1.3) ** rng.choice([-0.5, 0.5])
    height, width = (max(int(length) | 1, LEAST_SIDE) for length in (side * aspect, side / aspect))
    return height, width + 2 * (height == width)


def _write(folder: Path, plan: pd.DataFrame, seed: int) -> None:
    for name in ("train_images", "test_images", "train_annotations"):
        (folder / name).mkdir()
    plan = draw_images(plan, seed, lambda *drawn: _write_image(folder, *drawn))
    train, test = (plan[plan["split"] == split] for split in ("train", "test"))
    write_table(table_path(folder, "train"), train[[*TEST_COLUMNS, RLE, "age", "sex"]])
    write_table(folder / "test_truth.csv", test[TRUTH_COLUMNS])
    write_test_tables(folder, test)


def draw_images(
    plan: pd.DataFrame, seed: int, save: Callable[[dict[str, Any], np.ndarray, np.ndarray], None]
) -> pd.DataFrame:
    """Draw the image of each row of a plan, on all cores.

    Args:
        plan: Columns `TEST_COLUMNS`, ``split`` (one of `SPLITS`) and ``number``, the image's number
            within its split; number and seed decide what is drawn.
        seed: Seed of every image.
        save: Called, in threads, with a row, its image ``(H, W, 3)`` uint8 RGB and its mask ``(H, W)`` uint8 in {0, 1}.

    Returns:
        The plan by id, with the masks in a column ``rle``.
    """

    def make(row: dict[str, Any]) -> str:
        key = (SPLITS.index(row["split"]), row["number"])
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        shape = row[HEIGHT], row[WIDTH]
        image, mask = draw(row[ORGAN], row[SOURCE], shape, row[PIXEL_SIZE], row[THICKNESS], rng)
        save(row, image, mask)
        return encode(mask)

    rows = [{str(key): value for key, value in row.items()} for row in plan.to_dict("records")]
    with ThreadPoolExecutor(cores()) as pool:  # OpenCV and zlib release the interpreter lock
        masks: Iterator[str] = pool.map(make, rows)
        try:
            plan = plan.assign(**{RLE: list(track(masks, len(rows), "draw"))})
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return plan.sort_values(ID)


def _write_image(folder: Path, row: dict[str, Any], image: np.ndarray, mask: np.ndarray) -> None:
    """Write one image, and the polygons of a training image."""
    path = image_path(folder, row["split"], row[ID])
    write_tiff(path, image)
    if row["split"] == "train":
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        polygons = [outline[:, 0].tolist() for outline in outlines]
        (folder / "train_annotations" / f"{row[ID]}.json").write_text(json.dumps(polygons), encoding="utf-8")


def write_tiff(path: Path, image: np.ndarray) -> None:
    """Write an ``(H, W, 3)`` uint8 RGB image as a TIFF that any reader reads."""
    tifffile.imwrite(path, image, photometric="rgb", compression="zlib", rowsperstrip=256, metadata=None)


def write_test_tables(folder: Path, test: pd.DataFrame) -> None:
    """Write ``test.csv`` and ``sample_submission.csv`` of a table with `TEST_COLUMNS`."""
    write_table(table_path(folder, "test"), test[TEST_COLUMNS])
    write_table(folder / SAMPLE_SUBMISSION, test[[ID]].assign(**{RLE: "12 34"}))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV in the format of Kaggle's."""
    table.to_csv(path, index=False, lineterminator="\n")
