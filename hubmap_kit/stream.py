"""Prediction as a stream: images to masks through batches of one size, filled across the borders of images.

Three stages run side by side, each a generator: reading, rescaling and cutting tiles; the networks;
blending, growing to the image's own size, thresholding and encoding. Of an image only a row of tiles is
held, and the edges of its mask.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from . import rle
from .images import resize, scaled_shape
from .rows import MapRows, ScaledRows, open_scaled
from .tiles import Predictor, Stitcher, check_prediction, pad_to_tile, tile_starts

T = TypeVar("T")

AHEAD = 2  # batches that wait between two stages
# A tile holds no tissue where fewer than this share of its pixels are darker than this in some channel.
TISSUE_SHARE, TISSUE_BELOW = 1e-3, 205


@dataclass(frozen=True)
class Job:
    """An image to predict.

    Attributes:
        id: Its id.
        path: Its file.
        organ: Its organ.
        pixel_size_um: Size of its pixels, in µm.
        shape: Its ``(height, width)`` by the table, in px.
    """

    id: int
    path: Path
    organ: str
    pixel_size_um: float
    shape: tuple[int, int]


@dataclass(frozen=True)
class Member:
    """One network of an ensemble and the geometry it was trained with.

    Attributes:
        predict: ``(B, tile, tile, 3)`` uint8 to ``(B, tile, tile)`` float32 in [0, 1].
        network_um: Pixel size in µm at which it sees each organ.
        tile_size: Side of a tile in px at the network's scale.
        overlap: Least overlap of tiles, a fraction.
        batch_size: Tiles a batch.
        thresholds: Probability from which a pixel is foreground, by organ.
        tta: Test-time augmentation, of `AUGMENTATIONS`.
    """

    predict: Predictor
    network_um: dict[str, float]
    tile_size: int
    overlap: float
    batch_size: int
    thresholds: dict[str, float]
    tta: str = "none"


@dataclass(frozen=True)
class Result:
    """What came of an image.

    Attributes:
        id: Its id.
        rle: Its mask; None where it could not be predicted.
        error: Why not, else None.
        seconds: Work on it in all stages, which overlap: reading, its share of its batches, and writing.
        members: The networks and their settings that were used.
    """

    id: int
    rle: str | None
    error: Exception | None
    seconds: float
    members: Sequence[Member]


# Each turns or mirrors the two image axes of (B, H, W, ...) and is undone by its second half.
_FLIPS: list[tuple[Any, Any]] = [
    (lambda t: t, lambda t: t),
    (lambda t: t[:, ::-1], lambda t: t[:, ::-1]),
    (lambda t: t[:, :, ::-1], lambda t: t[:, :, ::-1]),
    (lambda t: t[:, ::-1, ::-1], lambda t: t[:, ::-1, ::-1]),
]
_TURNED: list[tuple[Any, Any]] = [
    (lambda t, f=forth: f(t.swapaxes(1, 2)), lambda t, b=back: b(t).swapaxes(1, 2)) for forth, back in _FLIPS
]
AUGMENTATIONS = {"none": _FLIPS[:1], "flips": _FLIPS, "d4": _FLIPS + _TURNED}


def predict_augmented(member: Member, batch: np.ndarray) -> np.ndarray:
    """Average a network over mirrored (``flips``: 4) or also turned (``d4``: 8) copies of a batch.

    Args:
        member: The network.
        batch: ``(B, tile, tile, 3)`` uint8.

    Returns:
        ``(B, tile, tile)`` float32 in [0, 1].

    Raises:
        ValueError: The network's answer has another shape.
    """
    ways = AUGMENTATIONS[member.tta]
    if len(ways) == 1:
        return check_prediction(member.predict(batch), batch)
    total = np.zeros(batch.shape[:3], np.float32)
    for forth, back in ways:
        total += back(check_prediction(member.predict(np.ascontiguousarray(forth(batch))), batch))
    return total / np.float32(len(ways))


@dataclass(frozen=True)
class _Geometry:
    """What members must have in common to share an image's tiles."""

    um: float
    tile_size: int
    overlap: float
    batch_size: int


def _groups(members: Sequence[Member], organ: str) -> dict[_Geometry, list[Member]]:
    groups: dict[_Geometry, list[Member]] = {}
    for member in members:
        geometry = _Geometry(member.network_um[organ], member.tile_size, member.overlap, member.batch_size)
        groups.setdefault(geometry, []).append(member)
    return groups


class _Image:
    """An image on its way: what its tiles add up to, for every group of members that share tiles."""

    def __init__(self, job: Job, members: Sequence[Member], groups: dict[_Geometry, list[Member]]) -> None:
        self.job = job
        self.members = members
        # Each stage has its own, since they run in threads of their own.
        self.read_seconds = self.network_seconds = self.write_seconds = 0.0
        self.error: Exception | None = None
        self.told = False  # whether its result went out
        threshold = float(np.mean([member.thresholds[job.organ] for member in members]))
        self._least = threshold * len(members)
        self._runs = rle.RunBuilder(job.shape)
        self._parts = []
        for geometry, sharing in groups.items():
            shape = scaled_shape(job.shape, job.pixel_size_um, geometry.um)
            stitcher = Stitcher(shape, geometry.tile_size, geometry.overlap)
            self._parts.append((stitcher, MapRows(shape, job.shape), len(sharing)))
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
        self._runs.add(rows >= self._least)

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
        text = None if self.error else rle.encode_runs(self._runs.runs())
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

    An ensemble averages its members' maps at the image's own size, and its thresholds.

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
        groups = _groups(using, job.organ)
        image = _Image(job, using, groups)
        try:
            if budget and budget.over:
                raise TimeoutError("not predicted, since the time limit is over; its mask is empty")
            parts = list(groups.items())
            for part, tile in _timed(_tiles(job, [geometry for geometry, _ in parts]), image):
                geometry, sharing = parts[part]
                size = geometry.tile_size
                key = (size, geometry.batch_size, *map(id, sharing))
                if key not in open_batches:
                    tiles = np.empty((geometry.batch_size, size, size, 3), np.uint8)
                    open_batches[key] = _Batch(tiles, sharing)
                batch = open_batches[key]
                if skip_background and _is_background(tile):
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


def _tiles(job: Job, geometries: list[_Geometry]) -> Iterator[tuple[int, np.ndarray]]:
    """The tiles of an image, geometry by geometry, each in the order in which a `Stitcher` takes them.

    Yields:
        Number of the geometry, and ``(tile, tile, 3)`` uint8.
    """
    scales = {geometry.um for geometry in geometries}
    whole = None
    if len(scales) > 1:  # the file is decoded once where it can be held
        with open_scaled(job.path, job.pixel_size_um, job.pixel_size_um, expect_shape=job.shape) as native:
            whole = None if native.streams else native.read(0, native.shape[0])
    for number, geometry in enumerate(geometries):
        size = geometry.tile_size
        with _open(job, geometry.um, whole) as image:
            height, width = image.shape
            starts_y, starts_x = (tile_starts(max(side, size), size, geometry.overlap) for side in (height, width))
            for y in starts_y:
                band = pad_to_tile(image.read(int(y), min(int(y) + size, height)), size)
                for x in starts_x:
                    yield number, band[:, x : x + size]


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
            budget.count(item.filled * _cost(item.members, item.tiles.shape[1]))
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


def _cost(members: Sequence[Member], tile: int) -> float:
    """Pixels that the networks see for one tile, all copies counted."""
    return float(sum(len(AUGMENTATIONS[member.tta]) for member in members) * tile**2)


class Budget:
    """A time limit: what is left to do is made cheaper, step by step, rather than missed.

    The steps: no test-time augmentation; no overlap of tiles; one network of the ensemble less, and
    again, down to one. Whether a step is needed is judged before each image by the pace so far, in
    pixels that the networks saw per second of the clock, with a tenth to spare.
    """

    SPARE = 0.1

    def __init__(self, seconds: float, jobs: Sequence[Job], members: Sequence[Member]) -> None:
        """Begin to count.

        Args:
            seconds: The limit, from now.
            jobs: All images.
            members: The networks.
        """
        self._begin = time.monotonic()
        self._seconds = seconds
        self._steps = _steps(members)
        self._step = 0
        self._work = {job.id: [_work(job, using) for _, using in self._steps] for job in jobs}
        self._left = [sum(works) for works in zip(*self._work.values(), strict=True)]  # px, by step
        self._images = len(self._work)
        self._cut = self._seen = 0.0  # px, of images given out and of batches predicted
        self._first: tuple[float, float] | None = None  # when the first batch was done, and its px

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return time.monotonic() - self._begin > self._seconds

    def count(self, pixels: float) -> None:
        """Count a batch that was predicted."""
        self._seen += pixels
        # The first batch may have compiled a network and says nothing of the pace.
        self._first = self._first or (time.monotonic(), self._seen)

    def choose(self, job: Job) -> Sequence[Member]:
        """The networks and settings for the next image; the same object as long as they stay the same."""
        if self._first and self._seen > self._first[1]:
            pace = (self._seen - self._first[1]) / (time.monotonic() - self._first[0])
            left = self._seconds - (time.monotonic() - self._begin)
            under_way = max(0.0, self._cut - self._seen)
            before = self._step
            while self._step + 1 < len(self._steps):
                if (under_way + self._left[self._step]) / pace <= left * (1 - self.SPARE):
                    break
                self._step += 1
            if self._step != before:
                print(
                    f"{self._images} images and {left / 60:.1f} minutes are left: from here on "
                    f"{self._steps[self._step][0]}",
                    flush=True,
                )
        works = self._work[job.id]
        self._left = [left - work for left, work in zip(self._left, works, strict=True)]
        self._images -= 1
        self._cut += works[self._step]
        return self._steps[self._step][1]


def _steps(members: Sequence[Member]) -> list[tuple[str, Sequence[Member]]]:
    """What is done, from all that was asked for to the least: a name, and the networks with their settings."""
    steps: list[tuple[str, Sequence[Member]]] = [("all that was asked for", members)]
    if any(member.tta != "none" for member in members):
        steps.append(("no test-time augmentation", [replace(member, tta="none") for member in members]))
    if any(member.overlap for member in members):
        least = [replace(member, tta="none", overlap=0.0) for member in members]
        steps.append(("no test-time augmentation and no overlap of tiles", least))
    for count in range(len(members) - 1, 0, -1):
        name = f"no test-time augmentation, no overlap of tiles, and {count} of {len(members)} networks"
        steps.append((name, steps[-1][1][:count]))
    return steps


def _work(job: Job, members: Sequence[Member]) -> float:
    """Pixels that the networks will see of an image."""
    total = 0.0
    for geometry, sharing in _groups(members, job.organ).items():
        shape = scaled_shape(job.shape, job.pixel_size_um, geometry.um)
        size = geometry.tile_size
        rows, columns = (len(tile_starts(max(side, size), size, geometry.overlap)) for side in shape)
        total += rows * columns * _cost(sharing, size)
    return total


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
