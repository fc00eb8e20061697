"""Scores of a network on a store's images, as the competition scores: full resolution, each image on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .. import rle
from ..images.scaling import resize
from ..models.losses import Loss
from ..prediction.ensemble import Member
from ..prediction.networks import probability_map
from ..preparation.store import PatchStore
from ..progress import track
from ..run import write_map
from .devices import Devices
from .thresholds import REGION_UM2, THRESHOLDS, sweep, sweep_table


@dataclass(frozen=True)
class Evaluation:
    """Scores of images.

    Attributes:
        scores: Columns ``id``, ``organ``, ``dice`` in [0, 1] by the member's rule, and ``loss``, the training's loss on
            the image's blended probability map at the network's scale.
        sweep: Dice of each image by threshold and least region size, see `thresholds.sweep_table`; empty if none
            was made.
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

    def score(self, ids: Sequence[int], *, maps: Path | None = None, tries: bool = False) -> Evaluation:
        """Score whole images.

        Args:
            ids: The images.
            maps: Folder for the probability maps at the network's scale, see `hubmap_kit.run.write_map`.
            tries: Whether to sweep thresholds and least region sizes.
        """
        values = np.zeros((len(ids), 2))
        swept = np.zeros((len(ids) if tries else 0, len(THRESHOLDS), len(REGION_UM2)))
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
            if tries:
                swept[number] = sweep(large, truth, image.pixel_size_um)
        values, swept = self.devices.sum(values), self.devices.sum(swept)
        organs = [self.store.images[i].image.organ for i in ids]
        scores = pd.DataFrame({"id": ids, "organ": organs, "dice": values[:, 0], "loss": values[:, 1]})
        return Evaluation(scores, sweep_table(ids, organs, swept) if tries else pd.DataFrame())
