"""A time limit on prediction: what is left to do is made cheaper, step by step, rather than missed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..images.scaling import scaled_shape
from ..tiles import tile_starts
from .ensemble import Job, Member, cost, groups_of, nearest_scale, networks_of


class Budget:
    """A time limit, and what is given up to keep it.

    The steps: no test-time augmentation; of each network's scales only the one nearest to its own; no
    overlap of tiles; one network of the ensemble less, and again, down to one. Whether a step is needed is
    judged before each image by the pace so far, in pixels that the networks saw per second of the clock,
    with a tenth to spare. Pauses, in which networks are adapted, do not count for the pace, and there is none
    for which these images would have to be made cheaper.
    """

    SPARE = 0.1

    def __init__(self, seconds: float, jobs: Sequence[Job], members: Sequence[Member]) -> None:
        """Begin to count.

        Args:
            seconds: The limit, from now.
            jobs: All images.
            members: The networks.
        """
        self._end = time.monotonic() + seconds
        self._steps = _steps(members)
        self._step = 0
        self._work = {job.id: [_work(job, using) for _, using in self._steps] for job in jobs}
        self._left = [sum(works) for works in zip(*self._work.values(), strict=True)]  # px, by step
        self._images = len(self._work)
        self._cut = self._seen = 0.0  # px, of images given out and of batches predicted
        self._first: tuple[float, float] | None = None  # when the first batch was done, and its px
        self._longest = 0.0  # s, of the pauses so far

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return time.monotonic() > self._end

    def count(self, pixels: float) -> None:
        """Count a batch that was predicted."""
        self._seen += pixels
        # The first batch may have compiled a network and says nothing of the pace.
        self._first = self._first or (time.monotonic(), self._seen)

    def pause_fits(self) -> bool:
        """Whether a pause as long as the longest so far leaves enough time for all images; the first one does."""
        return not self.over and self._step == 0 and self._needed(0) <= self._spare_seconds(self._longest)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """A time in which no image is predicted."""
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self._longest = max(self._longest, seconds)
        if self._first:
            self._first = (self._first[0] + seconds, self._first[1])

    def choose(self, job: Job) -> Sequence[Member]:
        """The networks and settings for the next image; the same object as long as they stay the same."""
        before = self._step
        while self._step + 1 < len(self._steps) and self._needed(self._step) > self._spare_seconds():
            self._step += 1
        if self._step != before:
            left = (self._end - time.monotonic()) / 60
            now = self._steps[self._step][0]
            print(f"{self._images} images and {left:.1f} minutes are left: from here on {now}", flush=True)
        works = self._work[job.id]
        self._left = [left - work for left, work in zip(self._left, works, strict=True)]
        self._images -= 1
        self._cut += works[self._step]
        return self._steps[self._step][1]

    def _needed(self, step: int) -> float:
        """Seconds for all that is left to do, with a step's settings; 0 as long as there is no pace to tell by."""
        if self._first is None or self._seen <= self._first[1]:
            return 0.0
        pace = (self._seen - self._first[1]) / (time.monotonic() - self._first[0])
        return (max(0.0, self._cut - self._seen) + self._left[step]) / pace

    def _spare_seconds(self, pause: float = 0.0) -> float:
        """Seconds that are left for images, after a pause, with a tenth to spare."""
        return (self._end - time.monotonic() - pause) * (1 - self.SPARE)


def _steps(members: Sequence[Member]) -> list[tuple[str, Sequence[Member]]]:
    """What is done, from all that was asked for to the least: a name, and the networks with their settings."""
    steps: list[tuple[str, Sequence[Member]]] = [("all that was asked for", members)]
    given_up: list[str] = []

    def add(what: str, using: list[Member]) -> None:
        given_up.append(what)
        steps.append((", ".join(given_up), using))

    if any(member.tta != "none" for member in members):
        add("no test-time augmentation", [replace(member, tta="none") for member in members])
    networks = networks_of(steps[-1][1])
    if len(networks) < len(members):
        add("one scale", [nearest_scale(scales) for scales in networks.values()])
    if any(member.overlap for member in members):
        add("no overlap of tiles", [replace(member, overlap=0.0) for member in steps[-1][1]])
    cheapest = steps[-1][1]
    for count in range(len(networks) - 1, 0, -1):
        steps.append((", ".join((*given_up, f"{count} of {len(networks)} networks")), cheapest[:count]))
    return steps


def _work(job: Job, members: Sequence[Member]) -> float:
    """Pixels that the networks will see of an image."""
    total = 0.0
    for geometry, sharing in groups_of(members, job.organ).items():
        shape = scaled_shape(job.shape, job.pixel_size_um, geometry.um)
        size = geometry.tile_size
        rows, columns = (len(tile_starts(max(side, size), size, geometry.overlap)) for side in shape)
        total += rows * columns * cost(sharing, size)
    return total
