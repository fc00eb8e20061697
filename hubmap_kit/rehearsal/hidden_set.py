"""A drawn stand-in for the hidden test set, on which Kaggle scores the inference kernel.

Kaggle's hidden set has some 550 images of 160 to 4500 px per side, by both data sources and not always square. The rest
is assumed: half of the images are HPA, with 3000 px per side as nearly all training images. The others are HuBMAP and
show about 1 mm whatever the pixel size, so that prostate has 160 px and large intestine 4500. All organs are equally
frequent. `HIDDEN` holds one image of each usual kind, which stands for many of the 550, and others for unusual shapes
and forms of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import tifffile

from ..competition import HEIGHT, ID, ORGAN, ORGANS, PIXEL_SIZE, SOURCE, THICKNESS, WIDTH, image_path
from ..demo.write import LARGEST_ID, TRUTH_COLUMNS, draw_images, write_table, write_test_tables, write_tiff


@dataclass(frozen=True)
class HiddenImage:
    """One image to draw.

    Attributes:
        organ: Key of `ORGANS`.
        source: One of `SOURCES`.
        shape: ``(height, width)`` in px.
        form: Key of `FORMS`.
        stands_for: How many images of Kaggle's hidden set are taken to be like it.
    """

    organ: str
    source: str
    shape: tuple[int, int]
    form: str
    stands_for: int


CORRUPT = "cut in the middle"

HIDDEN = (
    HiddenImage("largeintestine", "Hubmap", (1009, 911), "deflate, tiles", 1),  # smaller than a tile of 410 µm
    HiddenImage("largeintestine", "Hubmap", (4500, 4500), "uncompressed", 55),
    HiddenImage("kidney", "HPA", (3000, 3000), "LZW", 255),
    HiddenImage("kidney", "Hubmap", (2003, 1999), "deflate", 55),
    HiddenImage("kidney", "Hubmap", (733, 509), "channels first", 1),
    HiddenImage("prostate", "Hubmap", (160, 160), "LZW", 55),
    HiddenImage("prostate", "Hubmap", (163, 211), "RGBA", 1),
    HiddenImage("prostate", "HPA", (1103, 1103), "BigTIFF", 5),
    HiddenImage("largeintestine", "HPA", (1021, 1019), "big-endian", 5),
    HiddenImage("spleen", "Hubmap", (2023, 2023), "uncompressed", 55),  # the size of the one public test image
    HiddenImage("spleen", "Hubmap", (523, 541), CORRUPT, 0),
    HiddenImage("spleen", "HPA", (1511, 1511), "planar", 5),
    HiddenImage("lung", "Hubmap", (1321, 1327), "JPEG", 51),
    HiddenImage("lung", "Hubmap", (701, 997), "planar", 1),
    HiddenImage("lung", "HPA", (1013, 1009), "deflate, tiles", 5),
)


def write_hidden(folder: Path, truth: Path, seed: int, images: Sequence[HiddenImage] = HIDDEN) -> pd.DataFrame:
    """Draw the hidden test set.

    `HIDDEN` takes 15 to 25 s on two cores, and 145 MB.

    Args:
        folder: New folder for ``test.csv``, ``test_images/`` and ``sample_submission.csv``.
        truth: CSV to write, outside of `folder`: ``id,organ,data_source,img_height,img_width,rle``.
        seed: Any whole number from 0.
        images: What to draw, in the order of the ids.

    Returns:
        The images by ``id``, with ``form`` and ``stands_for``.
    """
    rng = np.random.default_rng(seed)
    ids = LARGEST_ID + 1 + np.sort(rng.choice(10_000, len(images), replace=False))  # above all ids of the demo
    plan = pd.DataFrame(
        {
            ID: image_id,
            ORGAN: image.organ,
            SOURCE: image.source,
            HEIGHT: image.shape[0],
            WIDTH: image.shape[1],
            PIXEL_SIZE: ORGANS[image.organ].pixel_size_um[image.source],
            THICKNESS: ORGANS[image.organ].thickness_um[image.source],
            "form": image.form,
            "stands_for": image.stands_for,
            "split": "hidden",
            "number": number,
        }
        for number, (image_id, image) in enumerate(zip(ids.tolist(), images, strict=True))
    )
    (folder / "test_images").mkdir(parents=True)

    def save(row: dict[str, Any], image: np.ndarray, _: np.ndarray) -> None:
        FORMS[row["form"]](image_path(folder, "test", row[ID]), image)

    largest_first = (plan[HEIGHT] * plan[WIDTH]).sort_values(ascending=False).index
    plan = draw_images(plan.loc[largest_first], seed, save)
    write_table(truth, plan[TRUTH_COLUMNS])
    write_test_tables(folder, plan)
    return plan.set_index(ID)[["form", "stands_for"]]


def _opencv(compression: int) -> Callable[[Path, np.ndarray], None]:
    """A writer of strips by OpenCV, which has the codecs that tifffile takes from imagecodecs."""

    def write(path: Path, image: np.ndarray) -> None:
        # libtiff wants a multiple of 8 rows in a strip of JPEG data.
        options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_ROWSPERSTRIP, 64]
        if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options):
            raise OSError(f"{path} cannot be written")

    return write


def _tifffile(**options: Any) -> Callable[[Path, np.ndarray], None]:
    """A writer of RGB by tifffile."""

    def write(path: Path, image: np.ndarray) -> None:
        tifffile.imwrite(path, image, photometric="rgb", metadata=None, **options)

    return write


def _planar(path: Path, image: np.ndarray) -> None:
    """Red, green and blue one after the other, on one page."""
    _tifffile(planarconfig="separate", compression="zlib")(path, np.moveaxis(image, -1, 0))


def _channels_first(path: Path, image: np.ndarray) -> None:
    """``(1, 1, 3, H, W)``: three grey pages."""
    tifffile.imwrite(path, np.moveaxis(image, -1, 0)[None, None], photometric="minisblack")


def _rgba(path: Path, image: np.ndarray) -> None:
    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    _tifffile(extrasamples=["unassalpha"], compression="zlib")(path, np.concatenate([image, alpha], axis=2))


def _cut(path: Path, image: np.ndarray) -> None:
    write_tiff(path, image)
    os.truncate(path, path.stat().st_size // 2)


# Writers of an image to a path, for each form that `read_image` reads and that can be written without imagecodecs.
FORMS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "uncompressed": _tifffile(),
    "deflate": write_tiff,
    "deflate, tiles": _tifffile(compression="zlib", tile=(256, 256)),
    "LZW": _opencv(cv2.IMWRITE_TIFF_COMPRESSION_LZW),
    "JPEG": _opencv(cv2.IMWRITE_TIFF_COMPRESSION_JPEG),
    "BigTIFF": _tifffile(bigtiff=True),
    "big-endian": _tifffile(byteorder=">"),
    "planar": _planar,
    "channels first": _channels_first,
    "RGBA": _rgba,
    CORRUPT: _cut,
}
