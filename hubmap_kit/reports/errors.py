"""What is wrong with a predicted mask, in numbers and in one line: missed units, extra area, the widest error."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ..words import percent

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
        widest: ``missed`` or ``extra``, whichever the widest error is; empty without any.
        widest_um: Diameter of the largest circle of pixels that are all missed or all extra.
        place: Where that circle lies, such as ``upper left``, or ``lower border`` if it reaches the image's border.
    """

    units: int
    missed_units: int
    missed: float
    extra: float
    widest: str
    widest_um: float
    place: str

    def __str__(self) -> str:
        parts = []
        if self.units == 1:
            parts.append("misses the unit" if self.missed_units else "finds the unit")
        elif self.units:
            missing = f"misses {self.missed_units} of" if self.missed_units else "finds all"
            parts.append(f"{missing} {self.units} units")
        if self.missed >= 0.005:
            parts.append(f"{percent(self.missed)} of the true area is missed")
        if self.extra >= 0.005:
            parts.append(f"{percent(self.extra)} of the predicted area is extra")
        if self.widest:
            parts.append(f"the widest error is {self.widest_um:.0f} µm across, {self.widest}, {self.place}")
        return "; ".join(parts) or "no error"


def errors(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], pixel_size_um: float) -> Errors:
    """Compare a predicted mask with the true one.

    Args:
        truth: ``(H, W)`` uint8 in {0, 1}.
        predicted: The same shape.
        pixel_size_um: Side of a pixel in um.

    >>> truth, predicted = np.zeros((2, 7, 9), np.uint8)
    >>> truth[:2, :3] = truth[4:, 6:] = predicted[:2, :4] = 1
    >>> str(errors(truth, predicted, 10.0)).split("; ")[:3]
    ['misses 1 of 2 units', '60 % of the true area is missed', '25 % of the predicted area is extra']
    >>> str(errors(truth, predicted, 10.0)).split("; ")[3]
    'the widest error is 30 µm across, missed, at the lower border'
    """
    truth, predicted = np.ascontiguousarray(truth), np.ascontiguousarray(predicted)
    regions, labels, stats, _ = cv2.connectedComponentsWithStats(truth)
    areas = stats[1:, cv2.CC_STAT_AREA]
    covered = np.bincount(labels[predicted > 0], minlength=regions)[1:]
    missed, extra = truth & (1 - predicted), predicted & (1 - truth)
    widest, radius_px, place = "", 0.0, ""
    for kind, mask in (("missed", missed), ("extra", extra)):
        # Beyond the image's border nothing is known, so no error goes on there.
        inside = cv2.distanceTransform(cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5)
        _, most, _, (x, y) = cv2.minMaxLoc(inside)
        if most > radius_px:
            widest, radius_px = kind, most
            place = _place(y - 1, x - 1, most, (truth.shape[0], truth.shape[1]))
    return Errors(
        units=regions - 1,
        missed_units=int((covered < FOUND * areas).sum()),
        missed=float(missed.sum() / max(1, truth.sum())),
        extra=float(extra.sum() / max(1, predicted.sum())),
        widest=widest,
        widest_um=max(1.0, 2 * radius_px - 1) * pixel_size_um,
        place=place,
    )


def _place(y: int, x: int, radius_px: float, shape: tuple[int, int]) -> str:
    """Where a circle lies in an image, in words."""
    gaps = {"upper": y, "lower": shape[0] - 1 - y, "left": x, "right": shape[1] - 1 - x}
    side = min(gaps, key=lambda name: gaps[name])
    if gaps[side] <= radius_px + 1:
        return f"at the {side} border"
    row, column = _ROWS[3 * y // shape[0]], _COLUMNS[3 * x // shape[1]]
    return "in the middle" if (row, column) == ("middle", "centre") else f"{row} {column}"
