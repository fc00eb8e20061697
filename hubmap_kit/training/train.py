"""Training: patch store to run folder.

The loop is written out rather than left to ``model.fit``, so that a step, a phase and a resume
are each a few visible lines, and validation is the competition's own score.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from ..config import TrainConfig
from ..files import replacing, write_text
from ..masks import MaskRule
from ..metrics import dice_by_organ
from ..models.hardware import compute_dtype, default_batch_size
from ..models.losses import Loss, make_loss
from ..models.network import assign, build_model, without_heads
from ..prediction.ensemble import Member
from ..prediction.networks import make_predictor
from ..preparation.store import PatchStore
from ..progress import track
from ..run import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    MAPS,
    RESULTS,
    RESULTS_TABLE,
    SCORES,
    SWEEP,
    WEIGHTS,
    RunConfig,
    is_finished,
)
from . import checkpoints
from .dataset import PatchSampler
from .devices import Devices, open_devices
from .evaluation import evaluate, results_by_split
from .step import Phase, average_weights, freeze_encoder, make_optimizer, make_step, phases, pretrained
from .thresholds import choose, dice_at

SPLITS = ("train", "validation", "test")


def train(
    patches: Path,
    run: Path,
    config: TrainConfig,
    *,
    recipe: str = "default",
    resume: bool = False,
    time_limit: float | None = None,
) -> bool:
    """Train a network and write its run folder.

    Args:
        patches: Patch store.
        run: Folder to write; see `hubmap_kit.run`.
        config: Settings.
        recipe: Name of the recipe they came from, for the record.
        resume: Go on after the last finished epoch of a training that was ended early.
        time_limit: Seconds from now in which to finish. Where another epoch and the final scores
            would not fit, the training stops as one to resume, though after one epoch at the
            earliest: so each session brings it nearer to its end.

    Returns:
        Whether the run is finished; False where the time limit ended it.

    Raises:
        ValueError: A folder that is no patch store, a run folder that holds a training already
            (or, resuming, one of other settings), nothing to train on, or encoder weights that
            cannot be had.
    """
    begin = time.monotonic()
    devices = open_devices(config.devices)
    store = PatchStore.open(patches)
    ids = {split: store.ids(split, config.fold) for split in SPLITS}
    if (run / CONFIG).exists() or (run / CHECKPOINT).exists():
        if not resume:
            raise ValueError(f"{run} holds a training already; go on with --resume, or name another folder")
        if is_finished(run):
            print(f"{run} is finished already\n{(run / RESULTS).read_text(encoding='utf-8')}")
            return True
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    sampler = PatchSampler(store, ids["train"], config, devices.replicas)
    described = _describe_run(store, config, recipe, ids, sampler)
    # Resuming, all weights come from the checkpoint.
    checkpoint = checkpoints.read(run, described) if resume else None
    weights = config.encoder_weights if pretrained(config) and checkpoint is None else None
    half = compute_dtype(config.precision)
    with devices.strategy.scope():
        model, encoder = build_model(described.network, weights, compute_dtype=half)
    chief = devices.worker == 0
    if chief:
        described.write(run)

    loss = make_loss(config.loss)
    member = _evaluation_member(model, store, config)
    history: list[dict[str, Any]] = checkpoint.history if checkpoint else []
    resumed = len(history)
    print(
        f"{sampler.where}\n{config.model}{' ' + config.encoder if encoder else ''}: "
        f"{model.count_params():,} parameters; "
        f"{sampler.steps} steps of {sampler.batch_size} patches an epoch; "
        + ", ".join(f"{len(ids[split])} {split}" for split in SPLITS)
        + f" images; {devices.replicas} device{'s' * (devices.replicas > 1)}{f', mixed with {half}' if half else ''}",
        flush=True,
    )
    for phase in phases(config):
        start = max(phase.first, len(history))
        if start >= phase.stop or _should_stop(history, config):
            continue
        freeze_encoder(encoder, phase.frozen, config.freeze_batchnorm)
        with devices.strategy.scope():
            optimizer = make_optimizer(phase, config, sampler.steps, half)
            optimizer.build(model.trainable_variables)
        if checkpoint:
            checkpoint.restore(model, optimizer if start > phase.first else None)
            checkpoint = None
        step = make_step(model, optimizer, config, devices, loss)
        for epoch in range(start, phase.stop):
            row = _train_epoch(epoch, phase, step, sampler, devices)
            last = epoch + 1 == config.epochs
            raw = average_weights(model, optimizer) if config.ema else None
            if ids["validation"] and ((epoch + 1) % config.validate_every == 0 or last):
                scoring = time.monotonic()
                scores = evaluate(store, ids["validation"], member, loss, devices).scores
                row |= {"validation_loss": scores["loss"].mean(), "validation_dice": scores["dice"].mean()}
                row["validation_seconds"] = time.monotonic() - scoring
                row |= {f"validation_dice_{organ}": value for organ, value in dice_by_organ(scores).items()}
            history.append({key: round(float(value), 6) for key, value in row.items()})
            if chief and _is_best(history):
                with replacing(run / WEIGHTS) as part:
                    model.save_weights(part)
            if raw is not None:
                assign(model.trainable_variables, raw)
            if chief:
                with replacing(run / HISTORY) as part:
                    pd.DataFrame(history).to_csv(part, index=False)
                checkpoints.write(run, model, optimizer, history, described)
            print(_epoch_line(history[-1], config.epochs), flush=True)
            if _should_stop(history, config):
                print(f"no better validation Dice for {config.patience} epochs: stopping", flush=True)
                break
            if time_limit is None or last:
                continue
            needed = _seconds_needed(history[resumed:], ids, lambda: _score_seconds(store, ids, member, loss, devices))
            # The first worker's clock decides for all.
            if devices.sum(np.array(chief and time.monotonic() - begin + needed > time_limit)):
                print(
                    f"stopped after epoch {epoch + 1} of {config.epochs}: another one and the final scores, about "
                    f"{needed / 60:.1f} minutes, do not fit the time limit; {run} is kept, go on with --resume",
                    flush=True,
                )
                return False
    devices.sum(np.zeros(1))  # The first worker has written what all now read.
    model.load_weights(run / WEIGHTS)
    rule, results = _write_results(run, store, ids, member, loss, config, devices)
    if chief:
        replace(described, rule=rule, results=results, finished=True, epochs=len(history)).write(run)
        (run / CHECKPOINT).unlink(missing_ok=True)
        print((run / RESULTS).read_text(encoding="utf-8"))
    return True


def _describe_run(
    store: PatchStore, config: TrainConfig, recipe: str, ids: dict[str, list[int]], sampler: PatchSampler
) -> RunConfig:
    """What is known of a run before its first epoch."""
    return RunConfig(
        prepare=store.config,
        train=config,
        network=config.network(),
        rule=MaskRule.uniform(config.threshold),
        looks={
            method: {organ: look.values for organ, look in looks.items()} for method, looks in sampler.looks.items()
        },
        splits={split: [int(i) for i in split_ids] for split, split_ids in ids.items()},
        recipe=recipe,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
    )


def _evaluation_member(model: keras.Model, store: PatchStore, config: TrainConfig) -> Member:
    return Member(
        predict=make_predictor(without_heads(model)),
        network_um=store.config.network_um(),
        tile_size=store.config.input_size,
        overlap=config.overlap,
        batch_size=default_batch_size(),
        rule=MaskRule.uniform(config.threshold),
    )


def _train_epoch(epoch: int, phase: Phase, step: Callable, sampler: PatchSampler, devices: Devices) -> dict[str, Any]:
    begin = time.monotonic()
    batches = track(sampler.batches(epoch, devices), sampler.steps, f"epoch {epoch + 1}", unit="step", lines=False)
    losses = [float(step(*batch)) for batch in batches]
    loss = float(np.mean(losses))
    if not np.isfinite(loss):
        raise ValueError(f"the loss of epoch {epoch + 1} is {loss}; lower --learning-rate")
    return {"epoch": epoch + 1, "frozen": phase.frozen, "train_loss": loss, "seconds": time.monotonic() - begin}


def _seconds_needed(rows: list[dict[str, Any]], ids: dict[str, list[int]], score_seconds: Callable[[], float]) -> float:
    """Seconds that another epoch, its validation and the final scores take, judged by the slowest of `rows`.

    Args:
        rows: The epochs of this session, whose computer need not be that of earlier ones.
        ids: Images by split.
        score_seconds: Measures the time to score one image, where `rows` do not have it.
    """
    validated = [row["validation_seconds"] for row in rows if "validation_seconds" in row]
    image = max(validated) / len(ids["validation"]) if validated else score_seconds()
    images = len(ids["validation"]) + sum(len(split_ids) for split_ids in ids.values())
    return max(row["seconds"] for row in rows) + image * images


def _score_seconds(store: PatchStore, ids: dict[str, list[int]], member: Member, loss: Loss, devices: Devices) -> float:
    """Seconds to score one image, once the network is compiled for it."""
    evaluate(store, ids["train"][:1], member, loss, devices)
    begin = time.monotonic()
    evaluate(store, ids["train"][:1], member, loss, devices)
    return time.monotonic() - begin


def _is_best(history: list[dict[str, Any]]) -> bool:
    """Whether the last epoch's weights are to be kept; as long as nothing was validated they are."""
    values = [row["validation_dice"] for row in history if "validation_dice" in row]
    return not values or ("validation_dice" in history[-1] and values[-1] >= max(values))


def _should_stop(history: list[dict[str, Any]], config: TrainConfig) -> bool:
    values = [(row["validation_dice"], row["epoch"]) for row in history if "validation_dice" in row]
    if not config.patience or not values:
        return False
    best = max(values)[1]
    return history[-1]["epoch"] - best >= config.patience


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {int(row['epoch'])}/{epochs}", f"{row['seconds']:.0f} s", f"loss {row['train_loss']:.4f}"]
    if "validation_dice" in row:
        parts.append(f"validation loss {row['validation_loss']:.4f} Dice {row['validation_dice']:.4f}")
    return "  ".join(parts)


def _write_results(
    run: Path,
    store: PatchStore,
    ids: dict[str, list[int]],
    member: Member,
    loss: Loss,
    config: TrainConfig,
    devices: Devices,
) -> tuple[MaskRule, dict[str, dict[str, float]]]:
    """Choose thresholds and least region sizes on validation, and score every split with them.

    Returns:
        The rule that was chosen, and the results by split, for ``config.json``.
    """
    scores = {}
    if ids["validation"]:
        validation = evaluate(store, ids["validation"], member, loss, devices, maps=run / MAPS)
        scores["validation"] = validation.scores
        if config.tune:
            member = replace(member, rule=choose(validation.sweep, member.rule))
            scores["validation"] = validation.scores.assign(dice=dice_at(validation.sweep, member.rule))
        if devices.worker == 0:
            with replacing(run / SWEEP) as part:
                validation.sweep.to_csv(part, index=False, float_format="%.6f")
    for split in SPLITS:
        if ids[split] and split not in scores:
            scores[split] = evaluate(store, ids[split], member, loss, devices).scores
    parts = [scores[split].assign(split=split) for split in SPLITS if split in scores]
    table = pd.concat(parts, ignore_index=True)
    results = results_by_split(table)
    if devices.worker == 0:
        with replacing(run / SCORES) as part:
            table[["split", "id", "organ", "dice", "loss"]].to_csv(part, index=False, float_format="%.6f")
        with replacing(run / RESULTS_TABLE) as part:
            results.to_csv(part, index=False, float_format="%.6f")
        write_text(run / RESULTS, results.to_string(index=False, float_format="%.4f", na_rep="-") + "\n")
    return member.rule, {
        str(row.pop("split")): {str(key): round(value, 6) for key, value in row.items() if pd.notna(value)}
        for row in results.to_dict("records")
    }
