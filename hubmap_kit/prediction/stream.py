"""Prediction as a stream: images to masks through batches of one size, filled across the borders of images.

Three stages run side by side, each a generator: reading, rescaling and cutting tiles; the networks;
blending, growing to the image's own size, thresholding and encoding. Of an image only a row of tiles is
held, and the edges of its mask.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from .. import rle
from ..images.scaled_rows import RowResizer, ScaledRows, open_scaled
from ..images.scaling import resize, scaled_shape
from ..images.stain import Look, measure, transfer
from ..masks import MaskRule
from ..tiles import Stitcher, pad_to_tile, tile_starts
from .budget import Budget
from .ensemble import Geometry, Job, Member, Result, cost, groups_of, predict_augmented

T = TypeVar("T")

AHEAD = 2  # batches that wait between two stages
# A tile holds no tissue where fewer than this share of its pixels are darker than this in some channel.
TISSUE_SHARE, TISSUE_BELOW = 1e-3, 205
LOOK_SIDE = 1024  # px of the longer side, at most, of the copy on which an image's look is measured


class _Image:
    """An image on its way: what its tiles add up to, for every group of members that share tiles."""

    def __init__(self, job: Job, members: Sequence[Member]) -> None:
        self.job = job
        self.members = members
        # Each stage has its own, since they run in threads of their own.
        self.read_seconds = self.network_seconds = self.write_seconds = 0.0
        self.error: Exception | None = None
        self.told = False  # whether its result went out

    def begin(self, groups: dict[Geometry, list[Member]]) -> None:
        """Prepare for tiles; ValueError where the members do not know the organ."""
        job, members = self.job, self.members
        rule = MaskRule.mean([member.rule for member in members])
        self._mask = rule.builder(job.organ, job.shape, job.pixel_size_um, maps=len(members))
        self._parts = []
        for geometry, sharing in groups.items():
            shape = scaled_shape(job.shape, job.pixel_size_um, geometry.um)
            stitcher = Stitcher(shape, geometry.tile_size, geometry.overlap)
            self._parts.append((stitcher, RowResizer(shape, job.shape), len(sharing)))
        # Rows that some groups have given and others not yet.
        self._waiting = np.zeros((0, job.shape[1]), np.float32)
        self._given = [0] * len(self._parts)
        self._done = 0

    def add(self, part: int, tile: np.ndarray | None) -> None:
        """Add the next tile of a group; None for one without tissue."""
        stitcher, grow, weight = self._parts[part]
        rows = grow.push(stitcher.add(tile))
        if len(self._parts) > 1:
            rows = self._combine(part, rows * np.float32(weight))
        elif weight > 1:
            rows *= np.float32(weight)
        self._mask.add(rows)

    def _combine(self, part: int, rows: np.ndarray) -> np.ndarray:
        """Add rows of a group; returns those that all groups have given."""
        start = self._given[part] - self._done
        missing = start + len(rows) - len(self._waiting)
        if missing > 0:
            self._waiting = np.concatenate((self._waiting, np.zeros((missing, self._waiting.shape[1]), np.float32)))
        self._waiting[start : start + len(rows)] += rows
        self._given[part] += len(rows)
        complete = min(self._given) - self._done
        ready, self._waiting = self._waiting[:complete], self._waiting[complete:]
        self._done += complete
        return ready

    @property
    def finished(self) -> bool:
        return all(stitcher.finished for stitcher, _, _ in self._parts)

    def result(self) -> Result:
        begin = time.monotonic()
        text = None
        if not self.error:
            text = rle.encode_runs(self._mask.runs())
        self.write_seconds += time.monotonic() - begin
        seconds = self.read_seconds + self.network_seconds + self.write_seconds
        return Result(self.job.id, text, self.error, seconds, self.members)


@dataclass
class _Batch:
    """Tiles of one size from one or several images, and whose they are.

    Attributes:
        tiles: ``(B, tile, tile, 3)`` uint8.
        members: The networks that see them.
        owners: Image, its part, and the tile's place in `tiles`, or None where it holds no tissue.
    """

    tiles: np.ndarray
    members: list[Member]
    owners: list[tuple[_Image, int, int | None]] = field(default_factory=list)
    filled: int = 0


def predict_masks(
    jobs: Iterable[Job], members: Sequence[Member], *, budget: Budget | None = None, skip_background: bool = False
) -> Iterator[Result]:
    """Predict images; each result comes as soon as its image is finished, not always in the order of the jobs.

    An ensemble averages its members' maps at the image's own size, its thresholds and its least region sizes.

    Args:
        jobs: The images.
        members: The networks.
        budget: Keeps a time limit by giving up augmentation, overlap and members; see `Budget`.
        skip_background: Whether tiles without tissue are taken as background without a network.

    Yields:
        One result an image. An image that cannot be read has an error and does not stop the others.
    """
    with ExitStack() as stack:
        cut = stack.enter_context(closing(_ahead(_cut(jobs, members, budget, skip_background))))
        predicted = stack.enter_context(closing(_ahead(_predict(cut, budget))))
        yield from _finish(predicted)


def _cut(
    jobs: Iterable[Job], members: Sequence[Member], budget: Budget | None, skip_background: bool
) -> Iterator[_Batch | _Image]:
    """Read images and cut them into batches; an image that cannot be read comes by itself, with its error."""
    open_batches: dict[tuple, _Batch] = {}
    using = members
    for job in jobs:
        chosen = budget.choose(job) if budget else members
        if chosen is not using:  # what follows is predicted otherwise
            yield from _flush(open_batches)
            using = chosen
        image = _Image(job, using)
        try:
            if budget and budget.over:
                raise TimeoutError("not predicted, since the time limit is over; its mask is empty")
            groups = groups_of(using, job.organ)
            image.begin(groups)
            parts = list(groups.items())
            for part, tile in _timed(tiles_of(job, list(groups), skip_background), image):
                geometry, sharing = parts[part]
                size = geometry.tile_size
                key = (size, geometry.batch_size, *map(id, sharing))
                if key not in open_batches:
                    tiles = np.empty((geometry.batch_size, size, size, 3), np.uint8)
                    open_batches[key] = _Batch(tiles, sharing)
                batch = open_batches[key]
                if tile is None:
                    batch.owners.append((image, part, None))
                    continue
                batch.tiles[batch.filled] = tile
                batch.owners.append((image, part, batch.filled))
                batch.filled += 1
                if batch.filled == geometry.batch_size:
                    yield open_batches.pop(key)
        except (OSError, ValueError, MemoryError) as error:
            image.error = error
            yield image
    yield from _flush(open_batches)


def _flush(batches: dict[tuple, _Batch]) -> Iterator[_Batch]:
    for batch in batches.values():
        batch.tiles[batch.filled :] = batch.tiles[0] if batch.filled else 0
        yield batch
    batches.clear()


def tiles_of(job: Job, geometries: list[Geometry], skip_background: bool) -> Iterator[tuple[int, np.ndarray | None]]:
    """The tiles of an image, each geometry's in the order in which a `Stitcher` takes them.

    The geometries go down the image side by side, so that none has to wait for another's rows.

    Yields:
        Number of the geometry, and ``(tile, tile, 3)`` uint8; None for one without tissue that is to be skipped.
    """
    whole = None
    # The file is decoded once where it can be held.
    if len({geometry.um for geometry in geometries}) > 1 or any(geometry.look for geometry in geometries):
        with open_scaled(job.path, job.pixel_size_um, job.pixel_size_um, expect_shape=job.shape) as native:
            whole = None if native.streams else native.read(0, native.shape[0])
    looks = [_own_look(job, geometry, whole) for geometry in geometries]
    with ExitStack() as stack:
        bands = [
            stack.enter_context(closing(_bands(job, number, geometry, whole)))
            for number, geometry in enumerate(geometries)
        ]
        for _, number, band in heapq.merge(*bands, key=lambda item: item[0]):
            geometry, look = geometries[number], looks[number]
            for x in tile_starts(band.shape[1], geometry.tile_size, geometry.overlap):
                tile = band[:, x : x + geometry.tile_size]
                if skip_background and _is_background(tile):
                    yield number, None
                elif look and geometry.look:
                    yield number, transfer(tile, look, geometry.look)
                else:
                    yield number, tile


def _own_look(job: Job, geometry: Geometry, whole: np.ndarray | None) -> Look | None:
    """What the image looks like, at the geometry's scale as in training; None where that is not asked for."""
    if not geometry.look:
        return None
    um = max(geometry.um, job.pixel_size_um * max(job.shape) / LOOK_SIDE)
    with _open(job, um, whole) as small:
        return measure(small.read(0, small.shape[0]), geometry.look.method)


def _bands(
    job: Job, number: int, geometry: Geometry, whole: np.ndarray | None
) -> Generator[tuple[float, int, np.ndarray], None, None]:
    """Rows of tiles, from the top: how far down they begin, a fraction; the number; ``(tile, w, 3)`` uint8."""
    size = geometry.tile_size
    with _open(job, geometry.um, whole) as image:
        height = image.shape[0]
        for y in tile_starts(max(height, size), size, geometry.overlap):
            band = image.read(int(y), min(int(y) + size, height))
            yield y / height, number, pad_to_tile(band, size)


def _open(job: Job, um: float, whole: np.ndarray | None) -> ScaledRows:
    """The image's rows at a scale, from `whole`, the image as stored, where that is there."""
    if whole is None:
        return open_scaled(job.path, job.pixel_size_um, um, expect_shape=job.shape)
    shape = scaled_shape(job.shape, job.pixel_size_um, um)
    return ScaledRows(resize(whole, shape), job.shape, shape)


def _timed(items: Iterator[T], image: _Image) -> Iterator[T]:
    """Add what each item takes to the image's seconds of reading."""
    while True:
        begin = time.monotonic()
        item = next(items, None)
        image.read_seconds += time.monotonic() - begin
        if item is None:
            return
        yield item


def _is_background(tile: np.ndarray) -> bool:
    return (tile.min(axis=2) < TISSUE_BELOW).mean() < TISSUE_SHARE


def _predict(
    items: Iterator[_Batch | _Image], budget: Budget | None
) -> Iterator[tuple[_Batch, np.ndarray | None] | _Image]:
    """Let the networks see each batch; the mean of their maps, ``(B, tile, tile)``, goes with it."""
    for item in items:
        if isinstance(item, _Image):
            yield item
            continue
        maps = None
        begin = time.monotonic()
        if item.filled:
            maps = predict_augmented(item.members[0], item.tiles)
            if len(item.members) > 1:
                for member in item.members[1:]:
                    maps = maps + predict_augmented(member, item.tiles)
                maps /= np.float32(len(item.members))
        elapsed = time.monotonic() - begin
        for image, _, place in item.owners:
            image.network_seconds += elapsed / item.filled if place is not None else 0.0
        if budget:
            budget.count(item.filled * cost(item.members, item.tiles.shape[1]))
        yield item, maps


def _finish(items: Iterator[tuple[_Batch, np.ndarray | None] | _Image]) -> Iterator[Result]:
    """Put the tiles' maps together to masks."""
    for item in items:
        if isinstance(item, _Image):
            item.told = True
            yield item.result()
            continue
        batch, maps = item
        for image, part, place in batch.owners:
            if image.told:
                continue
            begin = time.monotonic()
            try:
                image.add(part, None if place is None or maps is None else maps[place])
            except (ValueError, MemoryError) as error:
                image.error = error
            image.write_seconds += time.monotonic() - begin
            if image.finished or image.error:
                image.told = True
                yield image.result()


_END = object()


def _ahead(items: Iterator[T], depth: int = AHEAD) -> Generator[T, None, None]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of its reader."""
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    break
            put(_END)
        except BaseException as error:
            put(error)
        finally:
            close = getattr(items, "close", None)
            if close:
                close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
