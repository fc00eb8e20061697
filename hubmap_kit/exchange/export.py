"""Masks of a submission as files that other programs open: ``hubmap-kit export``.

::

    masks/{name}.png          0 and 255, at the image's own size
    geojson/{name}.geojson    one annotation for each unit; opens in QuPath
    overlays/{name}.jpg       the image with the outlines of its units

Images of a folder that `hubmap-kit import` made have their names again, others their ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .. import rle
from ..cluster import spread
from ..competition import ID, ORGANS, RLE, table_path
from ..files import filling, is_free
from ..images import read_image
from ..outlines import CASING_RGB, PREDICTION_RGB, rings
from ..progress import track
from ..tables import DataError, Image, Problem, check_ids, read_cells, read_images
from .geojson import write_annotations

FORMATS = ("png", "geojson", "overlay")
FOLDERS = {"png": "masks", "geojson": "geojson", "overlay": "overlays"}
WIDTH_SHARE = 1 / 600  # of an outline, of the image's longer side
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        images: Number of images.
        units: Number of their units.
        folders: The folders that were written.
    """

    images: int
    units: int
    folders: list[Path]


def export(
    submission: Path, data: Path, out: Path, *, formats: Sequence[str] = FORMATS, split: str = "test"
) -> Exported:
    """Write the masks of a submission as files.

    Args:
        submission: A CSV with ``id`` and ``rle``; other columns are ignored, so that ``train.csv`` is one too.
        data: The competition folder that it predicts.
        out: A new or empty folder. It appears when all its files are written.
        formats: Some of `FORMATS`.
        split: ``test`` or ``train``: whose images they are.

    Raises:
        DataError: Every problem of the submission or of the tables; or every image that cannot be read, for overlays.
        ValueError: `out` is in use.
    """
    if not is_free(out):
        raise ValueError(f"{out} exists and is not an empty folder; name another one")
    images = {image.id: image for image in read_images(data, split, check_files="overlay" in formats)}
    masks = _read_masks(submission, images, table_path(data, split).name)
    _check_names([images[image_id] for image_id in masks])
    with filling(out) as part:
        for kind in formats:
            (part / FOLDERS[kind]).mkdir()
        problems, units = [], 0
        write = partial(_write, part, formats)
        jobs = [(images[image_id], text) for image_id, text in masks.items()]
        for (image, _), result in track(spread(write, jobs), len(jobs), "export"):
            if isinstance(result, (OSError, ValueError)):
                problems.append(image.problem(str(result), "replace the image, or export without overlay"))
            elif isinstance(result, Exception):
                raise result
            else:
                units += result
        if problems:
            raise DataError(sorted(problems, key=lambda problem: problem.row or 0))
    return Exported(len(masks), units, [out / FOLDERS[kind] for kind in formats])


def _read_masks(submission: Path, images: dict[int, Image], table: str) -> dict[int, str]:
    """The checked RLE of each row, by image id."""
    cells = read_cells(submission, (ID, RLE))
    problems = check_ids(submission.name, cells[ID])
    if cells.empty:
        problems.append(Problem("error", submission.name, None, "has no rows", "predict again"))
    bad = {problem.row for problem in problems}
    masks = {}
    for row, text_id, text in zip(cells.index, cells[ID], cells[RLE], strict=True):
        if row in bad:
            continue
        image_id = int(text_id)
        if image_id not in images:
            rule, remedy = f"id {image_id} is not in {table}", "name the data it was predicted from, and its --split"
            problems.append(Problem("error", submission.name, row, rule, remedy, image_id))
            continue
        try:
            rle.parse(text, images[image_id].shape)
        except ValueError as error:
            problems.append(Problem("error", submission.name, row, str(error), "correct the mask's runs", image_id))
        masks[image_id] = text
    if problems:
        raise DataError(sorted(problems, key=lambda problem: problem.row or 0))
    return masks


def _check_names(images: Sequence[Image]) -> None:
    """Refuse names that cannot be names of files, or that two images share."""
    counts = Counter(file_name(image).casefold() for image in images)
    problems = []
    for image in images:
        name = file_name(image)
        if counts[name.casefold()] > 1:
            problems.append(image.problem("names.csv gives this name to several images", "give each its own"))
        elif Path(name).name != name or name == ".." or "\\" in name:
            problems.append(image.problem("names.csv gives a name that is a path", "leave out its folders"))
    if problems:
        raise DataError(problems)


def file_name(image: Image) -> str:
    """The name of an image's files, without their ending: its own name, or its id."""
    return image.name or str(image.id)


def _write(part: Path, formats: Sequence[str], job: tuple[Image, str]) -> int:
    """Write the files of one image; returns the number of its units."""
    image, text = job
    mask = np.ascontiguousarray(rle.decode(text, image.shape))
    name = file_name(image)
    if "png" in formats:
        _save(part / FOLDERS["png"] / f"{name}.png", mask * np.uint8(255), [])
    if "overlay" in formats:
        pixels = read_image(image.path, threads=1, expect_shape=image.shape)
        draw_outlines(pixels, mask)
        _save(part / FOLDERS["overlay"] / f"{name}.jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if "geojson" in formats:
        return write_annotations(
            part / FOLDERS["geojson"] / f"{name}.geojson",
            mask,
            name=name,
            label=ORGANS[image.organ].ftu if image.organ in ORGANS else image.organ,
            colour=PREDICTION_RGB,
            pixel_size_um=image.pixel_size_um,
        )
    return cv2.connectedComponents(mask, connectivity=4)[0] - 1


def draw_outlines(pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> None:
    """Draw the outlines of a mask into an image, along the borders of its pixels.

    Args:
        pixels: ``(H, W, 3)`` uint8 RGB; it is changed.
        mask: ``(H, W)``, nonzero = foreground.
    """
    width = max(1, round(max(mask.shape) * WIDTH_SHARE))
    # OpenCV counts from the centre of a pixel, half a pixel from its corner; it takes halves as whole numbers (shift).
    lines = [(2 * ring[:, ::-1] - 1).astype(np.int32) for ring in rings(mask)]
    for colour, thickness in ((CASING_RGB, width + 2), (PREDICTION_RGB, width)):
        cv2.polylines(pixels, lines, True, colour, thickness, cv2.LINE_AA, shift=1)


def _save(path: Path, picture: npt.NDArray[np.uint8], options: Sequence[int]) -> None:
    encoded, data = cv2.imencode(path.suffix, picture, options)
    if not encoded:
        raise ValueError(f"{path.name} cannot be encoded")
    path.write_bytes(data.tobytes())
