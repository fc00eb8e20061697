"""A time limit on prediction: near the limit the remaining images are predicted by cheaper settings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..tables import Image
from .ensemble import Member, nearest_scale, networks_of, pixels_seen, tilings_of

GIANT = 100  # times the usual work; among the competition's images only a mistaken pixel size makes such a difference


class Budget:
    """A time limit, and the settings that keep it.

    Settings are given up in this order: test-time augmentation; all scales of a network but the one nearest to its
    training's; the overlap of tiles; then one network of the ensemble after the other, down to one. Before each image
    the time for the remaining ones is estimated from the pace so far (pixels that the networks saw per second), and
    settings are given up until that time fits, with a tenth to spare.

    Adaptation of networks is a pause: it is left out of the pace, and skipped if it would force cheaper settings.
    """

    SPARE = 0.1

    def __init__(self, time_limit_s: float, images: Sequence[Image], members: Sequence[Member]) -> None:
        """Begin to count.

        Args:
            time_limit_s: The limit, in seconds from now.
            images: The images to predict, without those that are known to fail.
            members: The networks.
        """
        self._end = time.monotonic() + time_limit_s
        self._levels = levels(members)
        self._level = 0
        # Pixels that the networks will see at each level: of each image, and of all images that are left.
        self._work = {image.id: [work_of(image, using) for _, using in self._levels] for image in images}
        self._left: list[float] = [sum(works) for works in zip(*self._work.values(), strict=True)]
        self._images_left = len(self._work)
        self._chosen = self._seen = 0.0  # pixels of the images begun, and of the batches predicted
        self._first: tuple[float, float] | None = None  # time after the first batch, and its pixels
        self._longest_pause_s = 0.0

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return time.monotonic() > self._end

    def count(self, pixels: float) -> None:
        """Count a batch that was predicted, by the pixels that the networks saw."""
        self._seen += pixels
        # The first batch may have compiled a network, so it does not count for the pace.
        self._first = self._first or (time.monotonic(), self._seen)

    def pause_fits(self) -> bool:
        """Whether a pause as long as the longest one so far leaves time for all images; always before the first."""
        return not self.over and self._level == 0 and self.needed_s() <= self._available_s(self._longest_pause_s)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """A pause, in which no image is predicted."""
        begin = time.monotonic()
        yield
        pause_s = time.monotonic() - begin
        self._longest_pause_s = max(self._longest_pause_s, pause_s)
        if self._first:
            self._first = (self._first[0] + pause_s, self._first[1])

    def choose(self, image: Image) -> Sequence[Member]:
        """The members for the next image; the same object as before unless settings are given up."""
        before = self._level
        while self._level + 1 < len(self._levels) and self.needed_s() > self._available_s():
            self._level += 1
        if self._level != before:
            left_min = (self._end - time.monotonic()) / 60
            settings = self._levels[self._level][0]
            print(
                f"{self._images_left} images and {left_min:.1f} minutes are left: from here on {settings}", flush=True
            )
        works = self._work.setdefault(image.id, [0.0] * len(self._levels))
        self._left = [left - work for left, work in zip(self._left, works, strict=True)]
        self._images_left -= 1
        self._chosen += works[self._level]
        return self._levels[self._level][1]

    def correct(self, image: Image, pixels: float) -> None:
        """Replace the estimated work of an image, once it was cut into tiles or failed, by what the networks see.

        Args:
            image: The image, the last one that members were chosen for.
            pixels: What the networks will have seen of it, in pixels, copies included.
        """
        self._chosen += pixels - self._work[image.id][self._level]

    def needed_s(self) -> float:
        """Seconds needed for all that is left, with the present settings; 0 until the first batches have been timed."""
        if self._first is None or self._seen <= self._first[1]:
            return 0.0
        pace = (self._seen - self._first[1]) / (time.monotonic() - self._first[0])  # pixels per second
        return (max(0.0, self._chosen - self._seen) + self._left[self._level]) / pace

    def _available_s(self, pause_s: float = 0.0) -> float:
        """Seconds that are left for images after a pause, with a tenth to spare."""
        return (self._end - time.monotonic() - pause_s) * (1 - self.SPARE)


def giants(images: Sequence[Image], members: Sequence[Member]) -> set[int]:
    """Ids of the images whose work is at least `GIANT` times the median."""
    works = {image.id: work_of(image, members) for image in images}
    usual = statistics.median_low(works.values()) if works else 0.0
    return {image_id for image_id, work in works.items() if work >= GIANT * usual}


def levels(members: Sequence[Member]) -> list[tuple[str, Sequence[Member]]]:
    """The levels of saving, from all settings to the cheapest: a name, and the members with their settings."""
    found: list[tuple[str, Sequence[Member]]] = [("all settings", members)]
    given_up: list[str] = []

    def give_up(setting: str, using: list[Member]) -> None:
        given_up.append(setting)
        found.append((", ".join(given_up), using))

    if any(member.tta != "none" for member in members):
        give_up("no test-time augmentation", [replace(member, tta="none") for member in members])
    networks = networks_of(found[-1][1])
    if len(networks) < len(members):
        give_up("one scale", [nearest_scale(scales) for scales in networks])
    if any(member.overlap for member in members):
        give_up("no overlap of tiles", [replace(member, overlap=0.0) for member in found[-1][1]])
    cheapest = found[-1][1]
    for count in range(len(networks) - 1, 0, -1):
        found.append((", ".join((*given_up, f"{count} of {len(networks)} networks")), cheapest[:count]))
    return found


def work_of(image: Image, members: Sequence[Member]) -> float:
    """Number of pixels that the networks see of an image, copies included."""
    tilings = tilings_of(members, image.organ).items()
    return sum((tiling.count(image) * pixels_seen(sharing, tiling.tile_size) for tiling, sharing in tilings), 0.0)
