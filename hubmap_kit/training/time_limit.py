"""The time limit of a training, and an estimate of whether another epoch fits."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .devices import Devices
from .evaluation import Evaluator


class TimeLimit:
    """A limit that runs from the moment it is made.

    Args:
        seconds: Time in which to finish; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def exists(self) -> bool:
        """Whether there is a limit."""
        return self._end < math.inf

    @property
    def left_s(self) -> float:
        """Seconds that are left, below 0 once the limit is over; infinite if there is none."""
        return self._end - time.monotonic()

    def is_below(self, needed_s: float, devices: Devices) -> bool:
        """Whether less time is left than is needed, by the clock of the first worker, which decides for all."""
        return bool(devices.sum(np.array(devices.worker == 0 and self.left_s < needed_s)))


def needed_s(rows: Sequence[Mapping[str, Any]], ids: Mapping[str, list[int]], evaluator: Evaluator) -> float:
    """Seconds for another epoch, its validation and the final scores, judged by the slowest epoch and validation.

    Args:
        rows: Rows of ``history.csv`` for the epochs of this session. Another session may have been on another computer.
        ids: Images by split.
        evaluator: Measures the time of one image, if no row has a validation.
    """
    validated = [row["validation_seconds"] for row in rows if "validation_seconds" in row]
    image_s = max(validated) / len(ids["validation"]) if validated else _image_s(evaluator, ids["train"][0])
    images = len(ids["validation"]) + sum(map(len, ids.values()))
    return float(max(row["seconds"] for row in rows) + image_s * images)


def _image_s(evaluator: Evaluator, image_id: int) -> float:
    """Seconds to score an image; the first time compiles the network, and does not count."""
    evaluator.score([image_id])
    begin = time.monotonic()
    evaluator.score([image_id])
    return time.monotonic() - begin
