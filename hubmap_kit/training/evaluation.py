"""Scores of a network on a store's images, as the competition scores: full resolution, each image on its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from .. import rle
from ..files import replacing
from ..images.scaling import resize
from ..metrics import dice_by_organ
from ..models.losses import Loss
from ..prediction.ensemble import Member
from ..prediction.networks import probability_map
from ..preparation.store import PatchStore
from ..progress import track
from .devices import Devices
from .thresholds import REGION_UM2, THRESHOLDS, sweep, sweep_table


@dataclass(frozen=True)
class Evaluation:
    """What came of scoring images.

    Attributes:
        scores: Columns ``id``, ``organ``, ``dice`` in [0, 1] by the member's rule, and
            ``loss``, the training's loss on the image's blended probability map at the network's scale.
        sweep: Dice of each image by threshold and least region size, see `thresholds.sweep`; empty unless
            asked for.
    """

    scores: pd.DataFrame
    sweep: pd.DataFrame


def evaluate(
    store: PatchStore,
    ids: list[int],
    member: Member,
    loss: Loss,
    devices: Devices,
    *,
    maps: Path | None = None,
) -> Evaluation:
    """Score whole images; several workers share them, and each gets all scores.

    Args:
        store: Patch store; it holds the images and, as RLE, the true masks.
        ids: Images to score.
        member: The network.
        loss: The training's loss.
        devices: What the training runs on.
        maps: Folder for the probability maps at the network's scale, ``{id}.png`` (8 bits, 255 times the
            probability); where given, thresholds and region sizes are swept too.
    """
    values = np.zeros((len(ids), 2))
    swept = np.zeros((len(ids) if maps else 0, len(THRESHOLDS), len(REGION_UM2)))
    for number in track(range(devices.worker, len(ids), devices.workers), len(ids), "score", lines=False):
        stored = store.images[ids[number]]
        image = stored.image
        truth = rle.parse(image.rle, image.shape)
        pixels = np.asarray(store.read(image.id))[: stored.shape[0], : stored.shape[1]]
        small = probability_map(np.ascontiguousarray(pixels[..., :3]), member)
        clipped = np.clip(small, 1e-6, 1 - 1e-6)
        logits = np.log(clipped) - np.log1p(-clipped)
        values[number, 1] = float(loss(pixels[None, ..., 3].astype(np.float32), logits[None]))
        large = resize(small, image.shape)
        um = image.pixel_size_um
        found = member.rule.runs(large, image.organ, um)
        values[number, 0] = rle.dice_of_runs(found, truth)
        if maps:
            write_map(maps / f"{image.id}.png", small)
            swept[number] = sweep(large, truth, um)
    values, swept = devices.sum(values), devices.sum(swept)
    organs = [store.images[i].image.organ for i in ids]
    scores = pd.DataFrame({"id": ids, "organ": organs, "dice": values[:, 0], "loss": values[:, 1]})
    return Evaluation(scores, sweep_table(ids, organs, swept) if maps else pd.DataFrame())


def write_map(path: Path, small: np.ndarray) -> None:
    """Write a probability map ``(h, w)`` float32 in [0, 1] as an 8-bit PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", np.rint(small * 255).astype(np.uint8))
    if not encoded:
        raise ValueError(f"{path} cannot be encoded as PNG")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())


def read_map(path: Path) -> np.ndarray:
    """Read what `write_map` wrote: ``(h, w)`` float32 in [0, 1].

    Raises:
        ValueError: The file is missing or damaged.
    """
    stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if stored is None:
        raise ValueError(f"{path} is missing or no PNG; train the run again")
    return stored.astype(np.float32) / 255


def results_by_split(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean loss and Dice of each split, and Dice of each organ, of a table ``split, id, organ, dice, loss``."""
    rows = []
    for split, part in scores.groupby("split", sort=False):
        row = {"split": split, "images": len(part), "loss": part["loss"].mean(), "dice": part["dice"].mean()}
        rows.append(row | dice_by_organ(part))
    return pd.DataFrame(rows)
