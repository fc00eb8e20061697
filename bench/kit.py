"""The kit's prediction, as the benchmarks call it.

``python -m bench.kit DATA RUN OUT`` is ``hubmap-kit predict`` with a network that costs nothing, so that it
measures the kit's own time and memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from hubmap_kit.config import PredictConfig, PrepareConfig, TrainConfig, organ_values
from hubmap_kit.masks import MaskRule
from hubmap_kit.prediction import networks
from hubmap_kit.prediction.ensemble import Member
from hubmap_kit.prediction.stream import predict_masks
from hubmap_kit.run import WEIGHTS, Run, RunConfig
from hubmap_kit.tables import Image
from hubmap_kit.tiles import Predictor

OVERLAP = 0.25


def make_member(predict: Predictor, tile: int, network_um: float, batch_size: int) -> Member:
    """A network and its geometry, the same for every organ, with threshold 0.5."""
    return Member(
        predict=predict,
        network_um=organ_values(network_um, network_um),
        tile_size=tile,
        overlap=OVERLAP,
        batch_size=batch_size,
        rule=MaskRule.uniform(0.5),
    )


def predict_all(files: list[Path], table: pd.DataFrame, member: Member) -> dict[int, str]:
    """Predict images to RLE by id, with the kit's pipeline.

    Args:
        files: One file per image.
        table: Their rows, in the same order, with ``test.csv``'s columns.
        member: The network.
    """
    jobs: list[Image] = []
    for file, (_, row) in zip(files, table.iterrows(), strict=True):
        shape = (int(row["img_height"]), int(row["img_width"]))
        jobs.append(
            Image(int(row["id"]), row["organ"], "HPA", shape, float(row["pixel_size"]), 4.0, file, len(jobs) + 2)
        )
    masks: dict[int, str] = {}
    for result in predict_masks(jobs, [member]):
        if result.error:
            raise result.error
        assert result.rle is not None
        masks[result.id] = result.rle
    return {job.id: masks[job.id] for job in jobs}


def free_predictor(tile: int) -> Predictor:
    """A predictor that costs nothing: one round unit in every tile, as smooth as a network's.

    On 3000² with tiles of 512 that makes some 6000 runs; of the real masks nine in ten have fewer.
    """
    y, x = (np.mgrid[:tile, :tile] + 0.5) / tile - 0.5
    unit = (1 / (1 + np.exp(40 * (np.hypot(y, x) - 0.1)))).astype(np.float32)
    made: dict[int, np.ndarray] = {}

    def predict(batch: np.ndarray) -> np.ndarray:
        if len(batch) not in made:
            made[len(batch)] = np.ascontiguousarray(np.broadcast_to(unit, (len(batch), tile, tile)))
        return made[len(batch)]

    return predict


def write_free_run(folder: Path, tile: int) -> None:
    """A run folder for `main`: the geometry is real, the weights are not."""
    train = TrainConfig(overlap=OVERLAP)
    RunConfig(PrepareConfig(patch_size=tile, input_size=tile), train, train.network()).write(folder)
    (folder / WEIGHTS).touch()


def main(data: str, run: str, out: str) -> int:
    """``hubmap-kit predict`` with the run's network replaced by `free_predictor`."""
    from hubmap_kit.cli import main as command_line

    def load_free(run: Run, config: PredictConfig) -> Member:
        tile = run.config.prepare.input_size
        return make_member(free_predictor(tile), tile, 0.4, config.batch_size or 2)

    networks.load_member = load_free
    return command_line(["predict", data, run, "--out", out])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
