"""What is wrong with a predicted mask, in numbers and in one line: units missed, area extra, where the worst lies."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

FOUND = 0.5  # share of a unit's area from which it counts as found
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True)
class Errors:
    """The difference of a predicted mask to the true one.

    Attributes:
        units: Number of connected regions of the true mask (8-connected).
        missed_units: Those of which less than half is predicted.
        missed: Share of the true area that is not predicted, in [0, 1]; 0 without true area.
        extra: Share of the predicted area that is not true, in [0, 1]; 0 without predicted area.
        largest: ``missed`` or ``extra``, of which kind the largest connected error is; empty without any.
        largest_um2: Its area in um2.
        place: Where it lies in the image, such as ``upper left``.
    """

    units: int
    missed_units: int
    missed: float
    extra: float
    largest: str
    largest_um2: float
    place: str

    def __str__(self) -> str:
        parts = []
        if self.missed_units:
            parts.append(f"misses {self.missed_units} of {self.units} units")
        if self.missed >= 0.005:
            parts.append(f"{self.missed:.0%} of the true area is missed")
        if self.extra >= 0.005:
            parts.append(f"{self.extra:.0%} of the prediction is extra")
        if self.largest:
            area = f"{self.largest_um2 / 1e6:.2f} mm²" if self.largest_um2 >= 1e4 else f"{self.largest_um2:.0f} µm²"
            parts.append(f"the largest error is {area} {self.largest}, {self.place}")
        return "; ".join(parts) or "no error"


def errors(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], pixel_size_um: float) -> Errors:
    """Compare a predicted mask with the true one.

    Args:
        truth: ``(H, W)`` uint8 in {0, 1}.
        predicted: The same shape.
        pixel_size_um: Side of a pixel in um.

    >>> truth, predicted = np.zeros((2, 6, 9), np.uint8)
    >>> truth[:2, :3] = truth[4:, 6:] = predicted[:2, :4] = 1
    >>> found = str(errors(truth, predicted, 1.0))
    >>> found.split("; ")[:3]
    ['misses 1 of 2 units', '50% of the true area is missed', '25% of the prediction is extra']
    >>> found.split("; ")[3]
    'the largest error is 6 µm² missed, lower right'
    """
    truth, predicted = np.ascontiguousarray(truth), np.ascontiguousarray(predicted)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(truth)
    areas = stats[1:, cv2.CC_STAT_AREA]
    covered = np.bincount(labels[predicted > 0], minlength=count)[1:]
    missed, extra = truth & (1 - predicted), predicted & (1 - truth)
    largest, most, place = "", 0, ""
    for kind, mask in (("missed", missed), ("extra", extra)):
        _, _, stats, centres = cv2.connectedComponentsWithStats(mask)
        if len(stats) > 1:
            number = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
            if stats[number, cv2.CC_STAT_AREA] > most:
                largest, most = kind, int(stats[number, cv2.CC_STAT_AREA])
                place = _place(centres[number], (truth.shape[0], truth.shape[1]))
    return Errors(
        units=count - 1,
        missed_units=int((covered < FOUND * areas).sum()),
        missed=float(missed.sum() / max(1, truth.sum())),
        extra=float(extra.sum() / max(1, predicted.sum())),
        largest=largest,
        largest_um2=most * pixel_size_um**2,
        place=place,
    )


def _place(centre: npt.NDArray[np.float64], shape: tuple[int, int]) -> str:
    """Where a point ``(x, y)`` lies in an image, in words."""
    row = _ROWS[min(2, int(3 * centre[1] / shape[0]))]
    column = _COLUMNS[min(2, int(3 * centre[0] / shape[1]))]
    return "in the middle" if (row, column) == ("middle", "centre") else f"{row} {column}"
