"""A contact sheet of predicted images: each with its true outlines, its predicted ones, and its Dice."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np

from .. import rle
from ..competition import ID, RLE
from ..files import replacing
from ..images import read_image
from ..images.scaling import resize, resize_mask
from ..submission import COLUMNS, score
from ..tables import read_cells, read_images

TRUTH_RGB, PREDICTION_RGB = (0, 230, 0), (255, 30, 30)
_CAPTION = 24  # height of the line of text under an image, in px


def contact_sheet(data: Path, submission: Path, truth: Path, out: Path, *, cell: int = 320, columns: int = 6) -> None:
    """Draw the test images of a competition folder, one organ after the other, into one PNG.

    True outlines are green, predicted ones red; under an image stand its id, organ, source and Dice.

    Args:
        data: Competition folder; its test part is read.
        submission: The CSV that predicts it.
        truth: A CSV with ``id,rle,img_height,img_width``.
        out: The PNG to write.
        cell: Longer side of an image on the sheet, in px.
        columns: Largest number of images in a line.

    Raises:
        DataError: A table has a problem.
        OSError, ValueError: An image cannot be read.
    """
    images = sorted(read_images(data, "test"), key=lambda image: (image.organ, image.source))
    scores = score(submission, truth)
    dice = dict(zip(scores["id"], scores["dice"], strict=True))
    runs = [read_cells(path, COLUMNS).set_index(ID)[RLE] for path in (truth, submission)]
    rows: list[list[np.ndarray]] = []
    for _, of_organ in itertools.groupby(images, key=lambda image: image.organ):
        cells = []
        for image in of_organ:
            pixels = read_image(image.path)
            masks = [rle.decode(texts[str(image.id)], (pixels.shape[0], pixels.shape[1])) for texts in runs]
            caption = f"{image.id} {image.organ} {image.source}  Dice {dice[image.id]:.3f}"
            cells.append(_cell(pixels, masks, caption, cell))
        rows += [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = max(len(row) for row in rows)
    blank = np.full((cell + _CAPTION, cell, 3), 255, np.uint8)
    sheet = np.vstack([np.hstack(row + [blank] * (width - len(row))) for row in rows])
    with replacing(out) as part:
        if not cv2.imwrite(str(part), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{out} cannot be written")


def _cell(image: np.ndarray, masks: list[np.ndarray], caption: str, side: int) -> np.ndarray:
    """One image with the outlines of its true and its predicted mask: ``(side + caption, side, 3)`` uint8."""
    inner = side - 4
    height, width = image.shape[:2]
    scale = inner / max(height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    picture = np.ascontiguousarray(resize(image, shape))
    for mask, colour in zip(masks, (TRUTH_RGB, PREDICTION_RGB), strict=True):
        outlines, _ = cv2.findContours(resize_mask(mask, shape), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, outlines, -1, colour, 1, cv2.LINE_AA)
    result = np.full((side + _CAPTION, side, 3), 255, np.uint8)
    result[2 : 2 + shape[0], 2 : 2 + shape[1]] = picture
    cv2.putText(result, caption, (4, side + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return result
