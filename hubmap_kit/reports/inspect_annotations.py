"""The polygons of ``train_annotations/{id}.json``, compared with the masks of ``train.csv``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .. import rle
from ..files import read_json

_Runs = npt.NDArray[np.int64]


def annotation_path(folder: Path, image_id: int) -> Path:
    """The polygons of a training image: ``train_annotations/{id}.json``."""
    return folder / "train_annotations" / f"{image_id}.json"


def read_polygons(path: Path) -> list[npt.NDArray[np.int32]]:
    """Read the polygons of an image: a list of polygons, each a list of points ``[x, y]`` in px.

    Returns:
        For each polygon its points, ``(n, 2)`` int32 ``(x, y)``, rounded.

    Raises:
        ValueError: The file cannot be read or holds something else; the text names the file.
    """
    polygons = []
    for number, points in enumerate(_list(read_json(path), path), start=1):
        try:
            polygon = np.asarray(_list(points, path), np.float64)
        except (OverflowError, TypeError, ValueError):
            polygon = np.zeros((0, 3))
        if polygon.size == 0 and polygon.shape == (0,):
            continue
        if polygon.ndim != 2 or polygon.shape[1] != 2 or not (np.abs(polygon) < 2**15).all():
            raise ValueError(f"{path}: polygon {number} is not a list of points [x, y] in pixels; correct the file")
        polygons.append(np.rint(polygon).astype(np.int32))
    return polygons


def polygon_runs(polygons: list[npt.NDArray[np.int32]], shape: tuple[int, int]) -> _Runs:
    """Polygons as a mask: their pixels, those of the border included.

    Filled this way, and one row further up, the polygons of the competition are the masks of its ``train.csv``, to the
    pixel.

    Args:
        polygons: See `read_polygons`. Where they overlap, the mask is their union.
        shape: ``(height, width)`` of the image in px; what lies outside is cut off.

    Returns:
        ``(n, 2)`` int64 RLE runs.

    >>> polygon_runs([np.array([[1, 0], [2, 0], [2, 1]], np.int32)], (2, 3)).tolist()
    [[2, 3], [4, 6]]
    """
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [polygon.reshape(-1, 1, 2)], 1)
    return rle.mask_to_runs(mask)


def agreement(truth: _Runs, polygons: _Runs, shape: tuple[int, int]) -> float:
    """Dice of a mask and its polygons in [0, 1], the best of three: as they are, and the mask one row down or up.

    The competition's RLE lies one row above its polygons, because its host counted pixels from 0.

    Args:
        truth: ``(n, 2)`` int64 RLE runs of the mask.
        polygons: Those of the polygons.
        shape: ``(height, width)`` in px.
    """
    size = shape[0] * shape[1]
    return max(rle.dice_of_runs(np.clip(truth + moved, 0, size), polygons) for moved in (0, 1, -1))


def _list(value: object, path: Path) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{path} is not a list of polygons; correct or remove the file")
    return value
