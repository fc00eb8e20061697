"""The pictures of a page: each image read once, drawn small, large and in native pixels, with outlines of its masks.

What is drawn lies in files of a temporary folder until the page is written, so that memory does not grow with the
number of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .. import rle
from ..cluster import spread
from ..files import read_json, write_json
from ..images import read_image
from ..images.scaling import resize, resize_mask
from ..outlines import rings, simplify, svg_path
from ..progress import track
from ..tables import Image

THUMB_PX = 256  # longer side of the picture on a card
VIEW_PX = (
    2048,
    1024,
)  # longer sides of the picture in the viewer, of which a page takes the largest that it has room for
FEW = 40  # up to so many images are drawn in the first of these sizes too
CROP_PX = 512  # side of the part in native pixels
MAP_PX = 320  # longer side of a probability map
QUALITIES = (70, 50, 30)  # of WebP, from 0 to 100, of which a page takes the best that it has room for
MAP_QUALITY = 80
# Outlines may move by this share of the longer side: 1 px of the competition's 3000 px, and 1 px of a card's picture.
FINE, COARSE = 1 / 3000, 1 / THUMB_PX
MANY_EDGES = 100_000  # border pixels along the rows; the competition's masks have at most 40,106
LONGEST_PATH = 200_000  # characters; a mask of noise is drawn more coarsely until its outline is shorter

_Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Subject:
    """What is to be drawn of one image.

    Attributes:
        image: The image.
        masks: RLE by layer, such as ``truth`` and ``prediction``, at the size that the image's row of the table says.
        maps: PNGs of probability maps by layer, such as ``validation/{id}.png`` of a run folder.
        thresholds: Threshold of each map, in [0, 1].
        compare: The two layers, reference first, on whose largest difference the part in native pixels is centred. By
            default it is centred on where the first mask has most foreground.
    """

    image: Image
    masks: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, Path] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    compare: tuple[str, str] | None = None


@dataclass(frozen=True)
class Drawn:
    """The pictures of one image, as files.

    Attributes:
        subject: What was drawn.
        stem: The files' path without its end.
        error: Why the image or its masks could not be drawn; empty if all were.
        shape: ``(height, width)`` of the file in px; that of the table if the file cannot be read.
        crop: ``(y, x, height, width)`` in px of the part in native pixels; None if the image cannot be read.
        sizes: Bytes of each picture, by kind (``thumb``, ``crop``, ``view2048``, ``view1024``) and quality.
        maps: Layers that have a probability map.
        measured: What the page's own `measure` returned; None if the image cannot be read.
    """

    subject: Subject
    stem: Path
    error: str
    shape: tuple[int, int]
    crop: _Box | None = None
    sizes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    maps: tuple[str, ...] = ()
    measured: Any = None

    def picture(self, kind: str, quality: int) -> Path:
        """The WebP of a kind and quality that `sizes` lists."""
        return _picture_path(self.stem, kind, quality)

    def map(self, layer: str) -> Path:
        """The grey WebP of a layer's probability map: 255 times the probability, longer side at most `MAP_PX`."""
        return _map_path(self.stem, layer)

    def outlines(self) -> dict[str, dict[str, str]]:
        """SVG paths by layer: ``fine`` for the viewer, ``coarse`` for a card; none if the image cannot be read."""
        path = _outlines_path(self.stem)
        outlines: dict[str, dict[str, str]] = read_json(path) if path.is_file() else {}
        return outlines


def draw(
    subjects: Sequence[Subject],
    folder: Path,
    *,
    measure: Callable[[npt.NDArray[np.uint8], Subject], Any] | None = None,
    label: str = "draw",
) -> list[Drawn]:
    """Draw images, several at once; an image that cannot be read is named in `Drawn.error`.

    Args:
        subjects: The images.
        folder: Folder for the files.
        measure: Called with ``(pixels, subject)`` for each image that can be read, in several threads; pixels are
            ``(H, W, 3)`` uint8 RGB. So no image is read twice.
        label: Name of the step on the progress line.

    Returns:
        What was drawn, in the order of `subjects`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    views = VIEW_PX if len(subjects) <= FEW else VIEW_PX[1:]
    job = partial(_draw, subjects, folder, views, measure)
    drawn: dict[int, Drawn] = {}
    for number, outcome in track(spread(job, range(len(subjects))), len(subjects), label):
        if isinstance(outcome, Exception):
            raise outcome
        drawn[number] = outcome
    return [drawn[number] for number in range(len(subjects))]


def _draw(
    subjects: Sequence[Subject],
    folder: Path,
    views: Sequence[int],
    measure: Callable[[npt.NDArray[np.uint8], Subject], Any] | None,
    number: int,
) -> Drawn:
    subject, stem = subjects[number], folder / str(number)
    image = subject.image
    try:
        pixels = read_image(image.path, threads=1)
    except (OSError, ValueError) as error:
        return Drawn(subject, stem, str(error), image.shape)
    shape, faults = (pixels.shape[0], pixels.shape[1]), []
    masks: dict[str, npt.NDArray[np.uint8]] = {}
    if shape == image.shape:
        for layer, text in subject.masks.items():
            try:
                masks[layer] = rle.decode(text, shape)
            except ValueError as error:
                faults.append(f"its {layer} cannot be drawn: {error}")
    else:
        faults.append(
            f"{image.path} has {shape[0]} x {shape[1]} px, and its row of the table says "
            f"{image.shape[0]} x {image.shape[1]}; correct img_height and img_width, or the file"
        )
    crop = _crop(masks, subject.compare, shape)
    y, x, height, width = crop
    pictures = {"crop": pixels[y : y + height, x : x + width]}
    longest = max(shape)
    for side in views:
        if longest > CROP_PX:  # else the crop is the whole image
            pictures[f"view{side}"] = _shrunk(pixels, side)
    pictures["thumb"] = _shrunk(pictures.get(f"view{views[-1]}", pixels), THUMB_PX)
    sizes, maps = {}, []
    for kind, picture in pictures.items():
        for quality in QUALITIES if kind in ("thumb", "crop") else QUALITIES[:1]:
            sizes[kind, quality] = _write(_picture_path(stem, kind, quality), picture, quality)
    for layer, path in subject.maps.items():
        probability = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if probability is None:
            faults.append(f"its probability map {path} is missing or no PNG")
            continue
        _write(_map_path(stem, layer), _shrunk(np.asarray(probability, np.uint8), MAP_PX), MAP_QUALITY)
        maps.append(layer)
    write_json(
        _outlines_path(stem),
        {layer: {"fine": _path(mask, FINE), "coarse": _path(mask, COARSE)} for layer, mask in masks.items()},
    )
    measured = measure(pixels, subject) if measure else None
    return Drawn(subject, stem, "; ".join(faults), shape, crop, sizes, tuple(maps), measured)


def _picture_path(stem: Path, kind: str, quality: int) -> Path:
    return stem.with_name(f"{stem.name}-{kind}-{quality}.webp")


def _map_path(stem: Path, layer: str) -> Path:
    return stem.with_name(f"{stem.name}-map-{layer}.webp")


def _outlines_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}-outlines.json")


def _crop(masks: Mapping[str, npt.NDArray[np.uint8]], compare: tuple[str, str] | None, shape: tuple[int, int]) -> _Box:
    """The part of an image that shows the largest difference of two masks, or else most of the first mask."""
    height, width = (min(CROP_PX, side) for side in shape)
    wanted = None
    if compare and all(layer in masks for layer in compare):
        wanted = masks[compare[0]] ^ masks[compare[1]]
    if masks and (wanted is None or not wanted.any()):
        wanted = next(iter(masks.values()))
    if wanted is None or not wanted.any():
        return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width
    # Foreground in each window, at a sixteenth of the size: quick, and near enough for a window of 512 px.
    step = 16
    small = resize(
        np.ascontiguousarray(wanted) * np.uint8(255), (math.ceil(shape[0] / step), math.ceil(shape[1] / step))
    )
    window = (max(1, width // step), max(1, height // step))
    share = cv2.boxFilter(small, cv2.CV_32F, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(int(np.argmax(share)), share.shape)
    top = min(max(0, int(y) * step + step // 2 - height // 2), shape[0] - height)
    left = min(max(0, int(x) * step + step // 2 - width // 2), shape[1] - width)
    return top, left, height, width


def _shrunk(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """An image whose longer side is at most `side`."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    return resize(image, (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))))


def _write(path: Path, image: npt.NDArray[np.uint8], quality: int) -> int:
    """Write a WebP of RGB or grey; returns its bytes."""
    encoded, data = cv2.imencode(
        ".webp", image if image.ndim == 2 else image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality]
    )
    if not encoded:
        raise ValueError(f"{path} cannot be encoded as WebP")
    path.write_bytes(data.tobytes())
    return data.size


def _path(mask: npt.NDArray[np.uint8], share: float) -> str:
    """The outline of a mask; more coarsely, if it would be longer than `LONGEST_PATH`."""
    tolerance_px, scale = share * max(mask.shape), 1
    while np.count_nonzero(mask[:, 1:] != mask[:, :-1]) > MANY_EDGES:  # noise: its rings alone would take minutes
        scale *= 2
        mask = resize_mask(mask, (math.ceil(mask.shape[0] / 2), math.ceil(mask.shape[1] / 2)))
    outlines = rings(mask)
    while True:
        simple = [ring * scale for each in outlines if len(ring := simplify(each, tolerance_px / scale)) > 2]
        path = svg_path(simple)
        if len(path) <= LONGEST_PATH:
            return path
        tolerance_px *= 2
