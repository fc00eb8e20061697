"""Training: patch store to run folder, for one network or for one network for each fold."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from ..config import TrainConfig
from ..kaggle.clone import own_commit
from ..preparation.store import SPLITS, PatchStore
from ..reports.report import write_report
from ..run import FOLDS, REPORT, FoldsConfig, RunConfig, check_place, is_finished
from ..tables import few_images
from . import checkpoints
from .dataset import PatchSampler
from .devices import is_first_worker, open_devices
from .folds import join_folds
from .loop import Training
from .thresholds import first_rule
from .time_limit import TimeLimit

PAGE_MB = 10.0  # size of the page about a training
PAGE_S = 2.0  # longest time that it takes for one image, in s


def train(
    patches: Path,
    run: Path,
    config: TrainConfig,
    *,
    recipe: str = "default",
    resume: bool = False,
    time_limit_s: float | None = None,
    all_folds: bool = False,
    page: bool = True,
) -> bool:
    """Train a network and write its run folder; or one network for each fold.

    Args:
        patches: Patch store.
        run: Run folder to write, see `hubmap_kit.run`; with `all_folds` a folder of folds, see
            `hubmap_kit.training.folds`.
        config: Settings. With `all_folds`, ``fold`` is not used.
        recipe: Name of the recipe the settings came from, for the record.
        resume: Go on after the last finished epoch of a training that was ended early.
        time_limit_s: Time in which to finish, in seconds from now. If another epoch and the final scores would not
            fit, the training stops and can be resumed. It does at least one epoch, so that each session brings
            it nearer to its end.
        all_folds: Train every fold of the store in turn. A fold that is finished is not trained again, and one that
            the time limit leaves no time for is not begun.
        page: Whether to write the page about the finished run into its folder.

    Returns:
        Whether the training is finished; False if the time limit ended it.

    Raises:
        ValueError: `patches` is no patch store or has no such fold; `run` holds a training already (when resuming: one
            with other settings); there is nothing to train on; or the encoder's weights cannot be loaded.
    """
    limit = TimeLimit(time_limit_s)
    check_place(run, resume=resume)
    store = PatchStore.open(patches)
    if not all_folds:
        finished = _train_one(store, run, config, limit, recipe, resume, run)
        if finished and page:
            _write_page(run, len(store.ids("validation", config.fold)) + len(store.ids("test", config.fold)), limit)
        return finished
    folds = store.config.folds
    if not folds:
        raise ValueError(f"{patches} has no folds; prepare it with --folds 5, or train without --all-folds")
    if not (run / FOLDS).is_file():
        FoldsConfig(folds).write(run)
    elif (before := FoldsConfig.read(run).folds) != folds:
        raise ValueError(f"{run} was begun with {before} folds, and {patches} has {folds}; name another folder")
    for fold in range(folds):
        if limit.left_s < 0:
            print(f"stopped before fold {fold}: the time limit is over; {run} is kept, go on with --resume")
            return False
        print(f"fold {fold} of {folds}", flush=True)
        if not _train_one(store, run / f"fold{fold}", replace(config, fold=fold), limit, recipe, resume, run):
            return False
    join_folds(store, run)
    if page:
        _write_page(run, len(store.images), limit)
    return True


def _write_page(run: Path, images: int, limit: TimeLimit) -> None:
    """Write the page about a finished training, if there is time; a failure is only named."""
    page = run / REPORT
    if page.exists() or not is_first_worker():
        return
    again = f"hubmap-kit report {run} --out {page}"
    if limit.exists and limit.left_s < PAGE_S * images:
        print(f"no page, since the time limit is near; make it with: {again}")
        return
    try:
        write_report([run], page, max_mb=PAGE_MB)
    except Exception as error:  # of any kind: a page must not fail a training of hours
        print(f"no page ({type(error).__name__}: {error}); try: {again}")


def _train_one(
    store: PatchStore, run: Path, config: TrainConfig, limit: TimeLimit, recipe: str, resume: bool, out: Path
) -> bool:
    """Train one network, see `train`; `out`, the run folder or the folder of folds, gets its ``pace.json``."""
    devices = open_devices(config.devices)
    ids = {split: store.ids(split, config.fold) for split in SPLITS}
    if is_finished(run):
        checkpoints.check_finished(run, store.config, config, ids)
        print(f"{run} is finished already")
        return True
    if (few := few_images(store.counts(ids["train"]))) and devices.worker == 0:
        print(few, flush=True)
    keras.utils.set_random_seed(config.seed)
    sampler = PatchSampler(store, ids["train"], config, devices.replicas)
    training = Training.begin(store, run, _describe_run(store, config, recipe, ids, sampler), sampler, devices, resume)
    done = training.do_epochs(limit)
    training.write_pace(out)
    if not done:
        return False
    training.finish()
    return True


def _describe_run(
    store: PatchStore, config: TrainConfig, recipe: str, ids: Mapping[str, list[int]], sampler: PatchSampler
) -> RunConfig:
    """The content of ``config.json`` before the first epoch."""
    return RunConfig(
        prepare=store.config,
        train=config,
        network=config.network(),
        rule=first_rule([store.images[i].image for i in ids["train"]], config),
        looks={
            method: {organ: look.values for organ, look in looks.items()} for method, looks in sampler.looks.items()
        },
        splits={split: [int(i) for i in split_ids] for split, split_ids in ids.items()},
        train_images=store.counts(ids["train"]),
        sources=sorted({store.images[i].image.source for i in ids["train"]}),
        recipe=recipe,
        data=str(store.info.data) if store.info.data_split == "train" else "",
        commit=own_commit(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    )
