"""Prediction as a stream: images to masks, in batches of one size that are filled across the borders of images.

Three stages run side by side, each a generator in a thread of its own: reading, rescaling and cutting tiles
(`reading`); the networks; blending, resizing, thresholding and encoding (`assembly`). Of each image only a row of
tiles is held, and the edges of its mask.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .. import rle
from ..tables import Image
from .ahead import run_ahead
from .assembly import Assembly
from .budget import Budget
from .ensemble import Member, pixels_seen, predict_augmented, tilings_of
from .reading import tiles_of

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """The outcome of one image.

    Attributes:
        id: The image's id.
        rle: Its mask; None if it could not be predicted.
        error: Why it could not be predicted, else None.
        seconds: Time that the stages took for it: reading, its share of its batches, assembly. Stages overlap.
        members: The members that predicted it.
    """

    id: int
    rle: str | None
    error: Exception | None
    seconds: float
    members: Sequence[Member]


class _Passage:
    """One image on its way through the stages.

    Whatever goes wrong with it is kept as its error and costs this image alone.
    """

    def __init__(self, image: Image, members: Sequence[Member]) -> None:
        self.image = image
        self.members = members
        self.assembly: Assembly | None = None
        # Each stage counts its own seconds, since the stages run in threads of their own.
        self.read_s = self.network_s = self.write_s = 0.0
        self.error: Exception | None = None
        self.emitted = False  # whether the result was yielded

    def result(self) -> Result:
        begin = time.monotonic()
        text = None
        try:
            if not self.error:
                assert self.assembly is not None
                text = rle.encode_runs(self.assembly.runs())
        except Exception as error:
            self.error = error
        self.write_s += time.monotonic() - begin
        return Result(self.image.id, text, self.error, self.read_s + self.network_s + self.write_s, self.members)


@dataclass
class _Batch:
    """Tiles of one size, from one or several images.

    Attributes:
        tiles: ``(B, tile, tile, 3)`` uint8.
        members: The members that see them.
        owners: For each tile its image, the number of its tiling, and its place in `tiles`; the place is None for a
            tile without tissue.
        filled: Number of places that hold a tile.
    """

    tiles: npt.NDArray[np.uint8]
    members: Sequence[Member]
    owners: list[tuple[_Passage, int, int | None]] = field(default_factory=list)
    filled: int = 0


def predict_masks(
    images: Iterable[Image], members: Sequence[Member], *, budget: Budget | None = None, skip_background: bool = False
) -> Generator[Result, None, None]:
    """Predict images. Each result comes as soon as its image is finished, not always in the order of the images.

    An ensemble averages its members' probability maps at the image's own size, and their rules for masks.

    Args:
        images: The images.
        members: The networks.
        budget: Keeps a time limit by giving up augmentation, scales, overlap and networks; see `Budget`.
        skip_background: Whether tiles without tissue are background, without running the network on them.

    Yields:
        One result per image. An image that cannot be predicted has an error and does not stop the others.

    Raises:
        ValueError: A network's answer has another shape than it promises.
    """
    with ExitStack() as stack:
        cut = stack.enter_context(closing(run_ahead(_cut(images, members, budget, skip_background))))
        predicted = stack.enter_context(closing(run_ahead(_predict(cut, budget))))
        yield from _finish(predicted)


def _cut(
    images: Iterable[Image], members: Sequence[Member], budget: Budget | None, skip_background: bool
) -> Iterator[_Batch | _Passage]:
    """Read images and cut them into batches; an image that cannot be read is yielded by itself, with its error."""
    open_batches: dict[tuple[int, ...], _Batch] = {}
    using = members
    for image in images:
        chosen = budget.choose(image) if budget else members
        if chosen is not using:  # the batches so far are predicted by other members
            yield from _flush(open_batches)
            using = chosen
        passage = _Passage(image, using)
        cut_px = 0.0
        try:
            tilings = tilings_of(using, image.organ)
            passage.assembly = Assembly(image, tilings)
            parts = list(tilings.items())
            if budget and budget.over:
                raise TimeoutError("not predicted, since the time limit is over")
            for number, tile in _timed(tiles_of(image, list(tilings), skip_background), passage):
                if budget and budget.over:
                    raise TimeoutError("not predicted to its end, since the time limit is over")
                tiling, sharing = parts[number]
                size = tiling.tile_size
                key = (size, tiling.batch_size, *map(id, sharing))
                if key not in open_batches:
                    open_batches[key] = _Batch(np.empty((tiling.batch_size, size, size, 3), np.uint8), sharing)
                batch = open_batches[key]
                if tile is None:
                    batch.owners.append((passage, number, None))
                    continue
                batch.tiles[batch.filled] = tile
                batch.owners.append((passage, number, batch.filled))
                batch.filled += 1
                cut_px += pixels_seen(sharing, size)
                if batch.filled == tiling.batch_size:
                    yield open_batches.pop(key)
        except Exception as error:
            passage.error = error
            yield passage
        if budget:
            budget.correct(image, cut_px)
    yield from _flush(open_batches)


def _flush(batches: dict[tuple[int, ...], _Batch]) -> Iterator[_Batch]:
    for batch in batches.values():
        batch.tiles[batch.filled :] = batch.tiles[0] if batch.filled else 0
        yield batch
    batches.clear()


def _timed(items: Iterator[T], passage: _Passage) -> Iterator[T]:
    """Add the time that each item takes to the image's seconds of reading."""
    while True:
        begin = time.monotonic()
        item = next(items, None)
        passage.read_s += time.monotonic() - begin
        if item is None:
            return
        yield item


def _predict(
    items: Iterator[_Batch | _Passage], budget: Budget | None
) -> Iterator[tuple[_Batch, npt.NDArray[np.float32] | None] | _Passage]:
    """Run the networks on each batch, and yield with it the mean of their maps, ``(B, tile, tile)``."""
    for item in items:
        if isinstance(item, _Passage):
            yield item
            continue
        maps = None
        begin = time.monotonic()
        try:
            if item.filled:
                maps = predict_augmented(item.members[0], item.tiles)
                if len(item.members) > 1:
                    for member in item.members[1:]:
                        maps = maps + predict_augmented(member, item.tiles)
                    maps /= np.float32(len(item.members))
        except MemoryError as error:
            for passage, *_ in item.owners:
                passage.error = error
        elapsed = time.monotonic() - begin
        for passage, _, place in item.owners:
            passage.network_s += elapsed / item.filled if place is not None else 0.0
        if budget:
            budget.count(item.filled * pixels_seen(item.members, item.tiles.shape[1]))
        yield item, maps


def _finish(items: Iterator[tuple[_Batch, npt.NDArray[np.float32] | None] | _Passage]) -> Iterator[Result]:
    """Put the maps of the tiles together to masks."""
    for item in items:
        if isinstance(item, _Passage):
            if not item.emitted:
                item.emitted = True
                yield item.result()
            continue
        batch, maps = item
        for passage, number, place in batch.owners:
            if passage.emitted:
                continue
            assert passage.assembly is not None
            begin = time.monotonic()
            try:
                if not passage.error:
                    passage.assembly.add(number, None if place is None or maps is None else maps[place])
            except Exception as error:
                passage.error = error
            passage.write_s += time.monotonic() - begin
            if passage.assembly.finished or passage.error:
                passage.emitted = True
                yield passage.result()
