"""From the probability maps of an image's tiles to its mask, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..images.scaled_rows import RowResizer
from ..masks import MaskRule
from ..tables import Image
from ..tiles import Stitcher
from .ensemble import Member, Tiling


class Assembly:
    """Puts the mask of one image together from its tiles' probability maps.

    The tiles of each tiling are blended, and the blended rows are resized to the image's own size. The rows of all
    tilings are added up, and the sum becomes rows of the mask. Only a few rows of each step are held, and the edges of
    the mask.
    """

    def __init__(self, image: Image, tilings: Mapping[Tiling, Sequence[Member]]) -> None:
        """Begin a mask.

        Args:
            image: The image.
            tilings: Its tilings, each with the members that share it.

        Raises:
            ValueError: A member's rule has no thresholds.
        """
        members = [member for sharing in tilings.values() for member in sharing]
        rule = MaskRule.mean([member.rule for member in members])
        self._mask = rule.builder(image.organ, image.shape, image.pixel_size_um, maps=len(members))
        self._parts = []
        for tiling, sharing in tilings.items():
            shape = tiling.scaled(image).shape
            stitcher = Stitcher(shape, tiling.tile_size, tiling.overlap)
            self._parts.append((stitcher, RowResizer(shape, image.shape), len(sharing)))
        # Partial sums of rows that some tilings have reached and others have not.
        self._waiting = np.zeros((0, image.shape[1]), np.float32)
        self._reached = [0] * len(self._parts)
        self._done = 0

    def add(self, number: int, tile: npt.NDArray[np.float32] | None) -> None:
        """Add the next tile of a tiling.

        Args:
            number: Number of the tiling.
            tile: ``(tile, tile)`` float32 in [0, 1], the mean over the members that share it; None for zeros.

        Raises:
            ValueError: A value that is not finite.
        """
        stitcher, resizer, members = self._parts[number]
        rows = resizer.push(stitcher.add(tile))
        if len(self._parts) > 1:
            rows = self._sum(number, rows * np.float32(members))
        elif members > 1:
            rows *= np.float32(members)
        self._mask.add(rows)

    def _sum(self, number: int, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Add rows of a tiling; return the sums of the rows that all tilings have reached."""
        start = self._reached[number] - self._done
        missing = start + len(rows) - len(self._waiting)
        if missing > 0:
            self._waiting = np.concatenate((self._waiting, np.zeros((missing, self._waiting.shape[1]), np.float32)))
        self._waiting[start : start + len(rows)] += rows
        self._reached[number] += len(rows)
        complete = min(self._reached) - self._done
        ready, self._waiting = self._waiting[:complete], self._waiting[complete:]
        self._done += complete
        return ready

    @property
    def finished(self) -> bool:
        """Whether all tiles of all tilings were added."""
        return all(stitcher.finished for stitcher, _, _ in self._parts)

    def runs(self) -> npt.NDArray[np.int64]:
        """The mask as RLE runs, once all tiles were added; see `hubmap_kit.rle.mask_to_runs`."""
        return self._mask.runs()
