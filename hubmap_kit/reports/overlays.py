"""A sheet of predicted images, the worst first: each with its true and its predicted outlines, and its Dice."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from .. import rle
from ..competition import ID, RLE
from ..files import replacing
from ..images import read_image
from ..images.scaling import resize
from ..outlines import CASING_RGB, PREDICTION_RGB, TRUTH_RGB, rings
from ..submission import COLUMNS, score
from ..tables import Image, read_cells, read_images

_Colour = tuple[int, int, int]
_CAPTION = 26  # height of the line of text under an image, in px
_LEGEND = 34  # height of the line on top of the sheet, in px
_GAP = 8  # between two images, in px
_DASH, _PAUSE = 7, 5  # of a dashed line, in px
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (34, 38, 44)


def contact_sheet(data: Path, submission: Path, truth: Path, out: Path, *, cell: int = 320, columns: int = 5) -> None:
    """Draw the test images of a competition folder into one PNG, those with the lowest Dice first.

    True outlines are solid, predicted ones dashed; under an image stand its id, organ, source and Dice, in it a bar of
    100 µm or, if that is longer than a third of the image, of 10 µm.

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
    images = {image.id: image for image in read_images(data, "test")}
    scores = score(submission, truth)
    scores = scores[scores[ID].isin(list(images))].sort_values(["dice", ID])
    runs = [read_cells(path, COLUMNS).set_index(ID)[RLE] for path in (truth, submission)]
    cells = []
    for image_id, dice in zip(scores[ID], scores["dice"], strict=True):
        image = images[int(image_id)]
        cells.append(_cell(image, [texts[str(image_id)] for texts in runs], f"{dice:.3f}", cell))
    columns = min(columns, len(cells))
    lines = -(-len(cells) // columns)
    height, width = cell + _CAPTION + _GAP, cell + _GAP
    sheet = np.full((_LEGEND + lines * height, columns * width + _GAP, 3), 255, np.uint8)
    _draw_legend(sheet)
    for number, picture in enumerate(cells):
        y, x = _LEGEND + number // columns * height, _GAP + number % columns * width
        sheet[y : y + len(picture), x : x + cell] = picture
    with replacing(out) as part:
        if not cv2.imwrite(str(part), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{out} cannot be written")


def _cell(image: Image, masks: list[str], dice: str, side: int) -> npt.NDArray[np.uint8]:
    """One image with the outlines of its true and its predicted mask: ``(side + caption, side, 3)`` uint8."""
    pixels = read_image(image.path)
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    picture = np.ascontiguousarray(resize(pixels, (max(1, round(height * scale)), max(1, round(width * scale)))))
    for text, colour, dashed in zip(masks, (TRUTH_RGB, PREDICTION_RGB), (False, True), strict=True):
        for ring in rings(rle.decode(text, (height, width))):
            _draw(picture, np.rint(ring[:, ::-1] * scale).astype(np.int32), colour, dashed=dashed)
    _draw_scale(picture, scale / image.pixel_size_um)
    result = np.full((side + _CAPTION, side, 3), 255, np.uint8)
    top, left = (side - picture.shape[0]) // 2, (side - picture.shape[1]) // 2
    result[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    caption = f"{image.id} {image.organ} {image.source}"
    cv2.putText(result, caption, (2, side + 18), _FONT, 0.42, _INK, 1, cv2.LINE_AA)
    cv2.putText(result, dice, (side - 42, side + 18), _FONT, 0.46, _INK, 1, cv2.LINE_AA)
    return result


def _draw(picture: npt.NDArray[np.uint8], ring: npt.NDArray[np.int32], colour: _Colour, *, dashed: bool) -> None:
    """Draw a closed line, light on a dark casing."""
    cv2.polylines(picture, [ring[:, None]], True, CASING_RGB, 4, cv2.LINE_AA)
    if not dashed:
        cv2.polylines(picture, [ring[:, None]], True, colour, 2, cv2.LINE_AA)
        return
    closed = np.vstack([ring, ring[:1]]).astype(np.float64)
    length = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    for start in np.arange(0, length[-1], _DASH + _PAUSE):
        along = np.linspace(start, min(start + _DASH, length[-1]), _DASH)
        points = np.column_stack([np.interp(along, length, closed[:, axis]) for axis in (0, 1)])
        cv2.polylines(picture, [np.rint(points).astype(np.int32)[:, None]], False, colour, 2, cv2.LINE_AA)


def _draw_scale(picture: npt.NDArray[np.uint8], px_per_um: float) -> None:
    """Draw a bar of 100 or 10 µm into the lower left corner, with its length."""
    um = 100 if 100 * px_per_um < picture.shape[1] / 3 else 10
    y, stop = picture.shape[0] - 8, 8 + round(um * px_per_um)
    for colour, thickness in ((CASING_RGB, 5), (TRUTH_RGB, 2)):
        cv2.line(picture, (8, y), (stop, y), colour, thickness)
        cv2.putText(picture, f"{um} um", (8, y - 6), _FONT, 0.38, colour, max(1, thickness - 2), cv2.LINE_AA)


def _draw_legend(sheet: npt.NDArray[np.uint8]) -> None:
    """Explain the lines on top of the sheet."""
    left = _GAP
    for name, colour, dashed in (("truth", TRUTH_RGB, False), ("prediction", PREDICTION_RGB, True)):
        line = np.array([[left + 4, 17], [left + 54, 17]], np.int32)
        _draw(sheet, line, colour, dashed=dashed)
        cv2.putText(sheet, name, (left + 66, 22), _FONT, 0.48, _INK, 1, cv2.LINE_AA)
        left += 90 + 9 * len(name)
    cv2.putText(sheet, "lowest Dice first", (left, 22), _FONT, 0.48, _INK, 1, cv2.LINE_AA)
