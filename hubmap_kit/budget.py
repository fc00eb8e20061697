"""A time limit on prediction: what is left to do is made cheaper, step by step, rather than missed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from .images import scaled_shape
from .members import Job, Member, cost, groups_of, nearest_scale, networks_of
from .tiles import tile_starts


class Budget:
    """A time limit, and what is given up to keep it.

    The steps: no test-time augmentation; of each network's scales only the one nearest to its own; no
    overlap of tiles; one network of the ensemble less, and again, down to one. Whether a step is needed is
    judged before each image by the pace so far, in pixels that the networks saw per second of the clock,
    with a tenth to spare.
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
