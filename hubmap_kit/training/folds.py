"""The results of all folds together: out-of-fold masks, scores and thresholds.

A training of all folds (``all_folds`` of `hubmap_kit.training.train.train`) writes::

    fold0/, fold1/, ...    one run folder for each fold
    folds.json             how many folds, whether all are finished, and the thresholds and least region sizes chosen on
                           all of them, which each run has too; see `hubmap_kit.run.FoldsConfig`
    oof.csv                id, rle: the mask by the network that did not see the image
    oof_scores.csv         fold, id, organ, dice
    results.txt            mean Dice of the folds' images, by organ
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from .. import rle
from ..files import replacing, write_text
from ..images.scaling import resize
from ..metrics import score_text
from ..preparation.store import PatchStore
from ..run import MAPS, OUT_OF_FOLD, OUT_OF_FOLD_SCORES, RESULTS, SWEEP, FoldsConfig, Run, read_map, read_table
from .thresholds import choose, first_rule


def join_folds(store: PatchStore, runs: Path) -> None:
    """Choose thresholds on the validation images of all folds, and write the out-of-fold masks and scores.

    Args:
        store: The store the folds were trained on.
        runs: Folder of folds, all finished.
    """
    opened = [Run.open(runs / f"fold{fold}") for fold in range(store.config.folds)]
    rule = opened[0].config.rule
    if opened[0].config.train.tune:
        columns = ["id", "organ", "threshold", "min_region_um2", "dice"]
        sweep = pd.concat([read_table(run.folder / SWEEP, columns) for run in opened], ignore_index=True)
        images = [stored.image for stored in store.images.values() if stored.fold >= 0]
        rule = choose(sweep, first_rule(images, opened[0].config.train))
        for run in opened:
            replace(run.config, rule=rule).write(run.folder)
    masks, scores = [], []
    for fold, run in enumerate(opened):
        for image_id in run.config.splits["validation"]:
            image = store.images[image_id].image
            large = resize(read_map(run.folder / MAPS / f"{image_id}.png"), image.shape)
            found = rule.runs(large, image.organ, image.pixel_size_um)
            dice = rle.dice_of_runs(found, rle.parse(image.rle, image.shape))
            masks.append((image_id, rle.encode_runs(found)))
            scores.append((fold, image_id, image.organ, dice))
    table = pd.DataFrame(scores, columns=["fold", "id", "organ", "dice"])
    with replacing(runs / OUT_OF_FOLD) as part:
        pd.DataFrame(masks, columns=["id", "rle"]).to_csv(part, index=False)
    with replacing(runs / OUT_OF_FOLD_SCORES) as part:
        table.to_csv(part, index=False, float_format="%.6f")
    FoldsConfig(len(opened), finished=True, rule=rule).write(runs)
    write_text(runs / RESULTS, f"out of {len(opened)} folds\n{score_text(table)}\n")
