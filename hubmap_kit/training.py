"""Training: patch store to run folder.

The loop is written out rather than left to ``model.fit``, so that a step, a phase and a resume
are each a few visible lines, and validation is the competition's own score.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from . import __version__, checkpoints, rle
from .config import TrainConfig, organ_values
from .dataset import PatchSampler
from .files import replacing, write_json, write_text
from .images import resize
from .inference import default_batch_size, make_predictor, probability_map
from .losses import make_loss
from .members import Member
from .metrics import dice_by_organ
from .models import build_model, describe_model
from .patches import PatchStore
from .progress import track
from .run import CONFIG, FORMAT, WEIGHTS

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs with one optimizer.

    Attributes:
        first: First epoch, counted from 0.
        stop: The epoch after the last.
        learning_rate: Adam's rate at its start.
        frozen: Whether the encoder is frozen.
    """

    first: int
    stop: int
    learning_rate: float
    frozen: bool


def phases(config: TrainConfig, pretrained: bool) -> list[Phase]:
    """The phases of a training: a pretrained encoder is frozen first, a random one never."""
    freeze = min(config.freeze_epochs, config.epochs) if pretrained else 0
    if not freeze:
        return [Phase(0, config.epochs, config.learning_rate, False)]
    plan = [Phase(0, freeze, config.learning_rate, True)]
    if freeze < config.epochs:
        plan.append(Phase(freeze, config.epochs, config.finetune_learning_rate, False))
    return plan


def freeze_encoder(encoder: list[keras.Layer], frozen: bool, with_batchnorm: bool) -> None:
    """Freeze or unfreeze an encoder's layers.

    Args:
        encoder: Its layers.
        frozen: Whether to freeze.
        with_batchnorm: Whether BatchNormalization is frozen too: then its scale and offset stay
            and it normalises with its stored statistics; otherwise it goes on learning both.
    """
    for layer in encoder:
        layer.trainable = not frozen or (not with_batchnorm and isinstance(layer, keras.layers.BatchNormalization))


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
    store = PatchStore.open(patches)
    ids = {split: store.ids(split, config.fold) for split in SPLITS}
    if (run / CONFIG).exists() or (run / checkpoints.FILE).exists():
        if not resume:
            raise ValueError(f"{run} holds a training already; go on with --resume, or name another folder")
        if _finished(run):
            print(f"{run} is finished already\n{(run / 'results.txt').read_text(encoding='utf-8')}")
            return True
    keras.utils.set_random_seed(config.seed)
    sampler = PatchSampler(store, ids["train"], config)
    about = _describe_run(store, config, recipe, ids)
    pretrained = config.model != "unet" and config.encoder_weights != "none"
    # Resuming, all weights come from the checkpoint.
    checkpoint = checkpoints.read(run, about) if resume else None
    weights = config.encoder_weights if pretrained and checkpoint is None else None
    model, encoder = build_model(about["network"], weights)
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / CONFIG, about)

    member = _evaluation_member(model, store, config)
    print(sampler.where, flush=True)
    history: list[dict[str, Any]] = checkpoint["history"] if checkpoint else []
    resumed = len(history)
    print(
        f"{config.model}{' ' + config.encoder if encoder else ''}: {model.count_params():,} parameters; "
        f"{sampler.steps} steps of {sampler.batch_size} patches an epoch; "
        + ", ".join(f"{len(ids[split])} {split}" for split in SPLITS)
        + " images",
        flush=True,
    )
    for phase in phases(config, pretrained):
        start = max(phase.first, len(history))
        if start >= phase.stop or _should_stop(history, config):
            continue
        freeze_encoder(encoder, phase.frozen, config.freeze_batchnorm)
        optimizer = _make_optimizer(phase, config, sampler.steps)
        optimizer.build(model.trainable_variables)
        if checkpoint:
            checkpoints.restore(checkpoint, model, optimizer if start > phase.first else None)
            checkpoint = None
        step = _make_step(model, optimizer, config)
        for epoch in range(start, phase.stop):
            row = _train_epoch(epoch, phase, step, sampler)
            last = epoch + 1 == config.epochs
            if ids["validation"] and ((epoch + 1) % config.validate_every == 0 or last):
                scoring = time.monotonic()
                scores = evaluate(store, ids["validation"], member, config)
                row |= {"validation_loss": scores["loss"].mean(), "validation_dice": scores["dice"].mean()}
                row["validation_seconds"] = time.monotonic() - scoring
                row |= {f"validation_dice_{organ}": value for organ, value in dice_by_organ(scores).items()}
            history.append({key: round(float(value), 6) for key, value in row.items()})
            if _is_best(history):
                with replacing(run / WEIGHTS) as part:
                    model.save_weights(part)
            with replacing(run / "history.csv") as part:
                pd.DataFrame(history).to_csv(part, index=False)
            checkpoints.write(run, model, optimizer, history, about)
            print(_epoch_line(history[-1], config.epochs), flush=True)
            if _should_stop(history, config):
                print(f"no better validation Dice for {config.patience} epochs: stopping", flush=True)
                break
            if time_limit is None or last:
                continue
            needed = _seconds_needed(history[resumed:], ids, lambda: _score_seconds(store, ids, member, config))
            if time.monotonic() - begin + needed > time_limit:
                print(
                    f"stopped after epoch {epoch + 1} of {config.epochs}: another one and the final scores, about "
                    f"{needed / 60:.1f} minutes, do not fit the time limit; {run} is kept, go on with --resume",
                    flush=True,
                )
                return False
    model.load_weights(run / WEIGHTS)
    results = _write_results(run, store, ids, member, config)
    write_json(run / CONFIG, about | {"finished": True, "epochs": len(history), "results": results})
    (run / checkpoints.FILE).unlink(missing_ok=True)
    print((run / "results.txt").read_text(encoding="utf-8"))
    return True


def evaluate(store: PatchStore, ids: list[int], member: Member, config: TrainConfig) -> pd.DataFrame:
    """Score whole images as the competition does: full resolution, thresholded, each on its own.

    Args:
        store: Patch store; it holds the images and, as RLE, the true masks.
        ids: Images to score.
        member: The network.
        config: Settings; the loss is used.

    Returns:
        Columns ``id``, ``organ``, ``dice`` in [0, 1] and ``loss``, the training's loss on the
        image's blended probability map at the network's scale.
    """
    loss = make_loss(config.loss)
    rows = []
    for image_id in track(ids, len(ids), "score", lines=False):
        row = store.images.loc[image_id]
        shape = (int(row["img_height"]), int(row["img_width"]))
        pixels = np.asarray(store.read(image_id))[: int(row["height"]), : int(row["width"])]
        image, small_mask = np.ascontiguousarray(pixels[..., :3]), pixels[..., 3]
        small = probability_map(image, member)
        mask = resize(small, shape) >= member.thresholds[row["organ"]]
        clipped = np.clip(small, 1e-6, 1 - 1e-6)
        logits = np.log(clipped) - np.log1p(-clipped)
        rows.append(
            {
                "id": image_id,
                "organ": row["organ"],
                "dice": rle.dice_of_runs(rle.mask_to_runs(mask), rle.parse(row["rle"], shape)),
                "loss": float(loss(small_mask[None].astype(np.float32), logits[None])),
            }
        )
    return pd.DataFrame(rows, columns=["id", "organ", "dice", "loss"])


def _describe_run(store: PatchStore, config: TrainConfig, recipe: str, ids: dict[str, list[int]]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kit": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "recipe": recipe,
        "prepare": asdict(store.config),
        "train": asdict(config),
        "network": describe_model(config.model, config.encoder, config.filters),
        "thresholds": organ_values(config.threshold, config.threshold),
        "splits": {split: [int(i) for i in split_ids] for split, split_ids in ids.items()},
        "finished": False,
    }


def _evaluation_member(model: keras.Model, store: PatchStore, config: TrainConfig) -> Member:
    return Member(
        predict=make_predictor(model),
        network_um=store.config.network_um(),
        tile_size=store.config.input_size,
        overlap=config.overlap,
        batch_size=default_batch_size(),
        thresholds=organ_values(config.threshold, config.threshold),
    )


def _make_optimizer(phase: Phase, config: TrainConfig, steps: int) -> keras.optimizers.Optimizer:
    rate: Any = phase.learning_rate
    if config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            phase.learning_rate, (phase.stop - phase.first) * steps, alpha=0.01
        )
    return keras.optimizers.Adam(rate)


def _make_step(model: keras.Model, optimizer: keras.optimizers.Optimizer, config: TrainConfig) -> Callable:
    """A compiled training step: images and masks of a batch to its loss."""
    loss = make_loss(config.loss)
    variables = model.trainable_variables

    @tf.function(jit_compile=False)
    def step(images: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(tf.cast(masks, tf.float32), model(images, training=True))
        optimizer.apply(tape.gradient(value, variables), variables)
        return value

    return step


def _train_epoch(epoch: int, phase: Phase, step: Callable, sampler: PatchSampler) -> dict[str, Any]:
    begin = time.monotonic()
    batches = track(sampler.batches(epoch), sampler.steps, f"epoch {epoch + 1}", unit="step", lines=False)
    losses = [float(step(images, masks)) for images, masks in batches]
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


def _score_seconds(store: PatchStore, ids: dict[str, list[int]], member: Member, config: TrainConfig) -> float:
    """Seconds to score one image, once the network is compiled for it."""
    evaluate(store, ids["train"][:1], member, config)
    begin = time.monotonic()
    evaluate(store, ids["train"][:1], member, config)
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
    run: Path, store: PatchStore, ids: dict[str, list[int]], member: Member, config: TrainConfig
) -> dict[str, Any]:
    """Score every split with the best weights; write the tables and return them as JSON values."""
    scores = []
    for split in SPLITS:
        if ids[split]:
            scores.append(evaluate(store, ids[split], member, config).assign(split=split))
    table = pd.concat(scores, ignore_index=True)
    with replacing(run / "scores.csv") as part:
        table[["split", "id", "organ", "dice", "loss"]].to_csv(part, index=False, float_format="%.6f")
    rows = []
    for split, part_of in table.groupby("split", sort=False):
        row = {"split": split, "images": len(part_of), "loss": part_of["loss"].mean(), "dice": part_of["dice"].mean()}
        rows.append(row | dice_by_organ(part_of))
    results = pd.DataFrame(rows)
    with replacing(run / "results.csv") as part:
        results.to_csv(part, index=False, float_format="%.6f")
    write_text(run / "results.txt", results.to_string(index=False, float_format="%.4f", na_rep="-") + "\n")
    return {str(row["split"]): {key: round(value, 6) for key, value in row.items() if key != "split"} for row in rows}


def _finished(run: Path) -> bool:
    try:
        return bool(json.loads((run / CONFIG).read_text(encoding="utf-8")).get("finished"))
    except (OSError, ValueError):
        return False
