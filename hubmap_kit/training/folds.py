"""Training of all folds, and what only all of them together tell: out-of-fold masks, scores and thresholds.

::

    fold0/, fold1/, ...    a run folder each
    folds.json             how many folds, whether all are finished, and the thresholds and least region sizes chosen
                           on all of them, which each run has too
    oof.csv                id, rle: masks by the network that did not see the image
    oof_scores.csv         fold, id, organ, dice
    results.txt            mean Dice of the folds' images, by organ
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pandas as pd

from .. import rle
from ..config import TrainConfig
from ..files import replacing, write_text
from ..images.scaling import resize
from ..metrics import score_text
from ..preparation.store import PatchStore
from ..run import FOLDS, MAPS, OUT_OF_FOLD, OUT_OF_FOLD_SCORES, RESULTS, SWEEP, FoldsConfig, Run
from .evaluation import read_map
from .thresholds import choose
from .train import train


def train_folds(
    patches: Path,
    runs: Path,
    config: TrainConfig,
    *,
    recipe: str = "default",
    resume: bool = False,
    time_limit: float | None = None,
) -> bool:
    """Train each fold of a store; one that is finished is not trained again when resuming.

    Args:
        patches: Patch store, prepared with folds.
        runs: Folder to write; see the module's docstring.
        config: Settings; `fold` is set by this function.
        recipe: Name of the recipe they came from, for the record.
        resume: Go on with what an earlier call began.
        time_limit: Seconds from now in which to finish, see `training.train`; a fold that does not fit is not begun.

    Returns:
        Whether all folds are finished.

    Raises:
        ValueError: A store without folds; and as `training.train`.
    """
    begin = time.monotonic()
    store = PatchStore.open(patches)
    if not store.config.folds:
        raise ValueError(f"{patches} has no folds; prepare it with --folds 5, or train without --all-folds")
    if (runs / FOLDS).is_file() and not resume:
        raise ValueError(f"{runs} holds a training of folds already; go on with --resume, or name another folder")
    FoldsConfig(store.config.folds).write(runs)
    for fold in range(store.config.folds):
        left = None if time_limit is None else time_limit - (time.monotonic() - begin)
        if left is not None and left < 0:
            print(f"stopped before fold {fold}: the time limit is over; {runs} is kept, go on with --resume")
            return False
        print(f"fold {fold} of {store.config.folds}", flush=True)
        run = runs / f"fold{fold}"
        if not train(patches, run, replace(config, fold=fold), recipe=recipe, resume=resume, time_limit=left):
            return False
    print(join_folds(store, runs))
    return True


def join_folds(store: PatchStore, runs: Path) -> str:
    """Choose thresholds on the validation images of all folds, and write the out-of-fold masks and scores.

    Args:
        store: The store the folds were trained on.
        runs: Folder of folds, all finished.

    Returns:
        The scores, as text.
    """
    opened = [Run.open(runs / f"fold{fold}") for fold in range(store.config.folds)]
    rule = opened[0].config.rule
    if opened[0].config.train.tune:
        sweep = pd.concat([pd.read_csv(run.folder / SWEEP) for run in opened], ignore_index=True)
        rule = choose(sweep, rule)
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
    text = f"out of {len(opened)} folds\n{score_text(table)}\n"
    write_text(runs / RESULTS, text)
    return text
