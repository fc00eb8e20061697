"""Scores of a network on a store's images, as the competition scores: full resolution, each image on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import rle
from ..files import replacing
from ..images.scaling import resize
from ..models.losses import Loss
from ..prediction.ensemble import Member
from ..prediction.networks import probability_map
from ..preparation.store import PatchStore
from ..progress import track
from .devices import Devices
from .thresholds import REGION_UM2, THRESHOLDS, sweep, sweep_table


@dataclass(frozen=True)
class Evaluation:
    """Scores of images.

    Attributes:
        scores: Columns ``id``, ``organ``, ``dice`` in [0, 1] by the member's rule, and ``loss``, the training's loss on
            the image's blended probability map at the network's scale.
        sweep: Dice of each image by threshold and least region size, see `thresholds.sweep_table`; empty if the maps
            were not kept.
    """

    scores: pd.DataFrame
    sweep: pd.DataFrame


@dataclass(frozen=True)
class Evaluator:
    """Scores a network on images of a store. Several workers share the images, and each gets all scores.

    Attributes:
        store: Patch store; it holds the images and, as RLE, the true masks.
        member: The network, with the rule by which its maps become masks.
        loss: The training's loss.
        devices: The devices of the training.
    """

    store: PatchStore
    member: Member
    loss: Loss
    devices: Devices

    def score(self, ids: Sequence[int], *, maps: Path | None = None) -> Evaluation:
        """Score whole images.

        Args:
            ids: The images.
            maps: Folder for the probability maps at the network's scale, see `write_map`. If it is given, thresholds
                and least region sizes are swept too.
        """
        values = np.zeros((len(ids), 2))
        swept = np.zeros((len(ids) if maps else 0, len(THRESHOLDS), len(REGION_UM2)))
        own = range(self.devices.worker, len(ids), self.devices.workers)
        for number in track(own, len(ids), "score", lines=False):
            stored = self.store.images[ids[number]]
            image = stored.image
            truth = rle.parse(image.rle, image.shape)
            pixels = np.asarray(self.store.read(image.id))[: stored.shape[0], : stored.shape[1]]
            small = probability_map(np.ascontiguousarray(pixels[..., :3]), self.member, image.organ)
            clipped = np.clip(small, 1e-6, 1 - 1e-6)
            logits = np.log(clipped) - np.log1p(-clipped)
            large = resize(small, image.shape)
            found = self.member.rule.runs(large, image.organ, image.pixel_size_um)
            loss = float(self.loss(pixels[None, ..., 3].astype(np.float32), logits[None]))
            values[number] = rle.dice_of_runs(found, truth), loss
            if maps:
                write_map(maps / f"{image.id}.png", small)
                swept[number] = sweep(large, truth, image.pixel_size_um)
        values, swept = self.devices.sum(values), self.devices.sum(swept)
        organs = [self.store.images[i].image.organ for i in ids]
        scores = pd.DataFrame({"id": ids, "organ": organs, "dice": values[:, 0], "loss": values[:, 1]})
        return Evaluation(scores, sweep_table(ids, organs, swept) if maps else pd.DataFrame())


def write_map(path: Path, small: np.ndarray) -> None:
    """Write a probability map ``(h, w)`` float32 in [0, 1] as a PNG of 8 bits: 255 times the probability, rounded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", np.rint(small * 255).astype(np.uint8))
    if not encoded:
        raise ValueError(f"{path} cannot be encoded as PNG")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())


def read_map(path: Path) -> npt.NDArray[np.float32]:
    """Read what `write_map` wrote: ``(h, w)`` float32 in [0, 1].

    Raises:
        ValueError: The file is missing or damaged.
    """
    stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if stored is None:
        raise ValueError(f"{path} is missing or no PNG; train the run again")
    return np.asarray(stored, np.float32) / np.float32(255)
