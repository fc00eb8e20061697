"""The loop of a training: phases, epochs, validation, checkpoints and the end.

The loop is written out rather than left to ``model.fit``, so that a step, a phase and a resume are each a few visible
lines, and validation is the competition's own score.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from ..files import replacing, write_json
from ..kaggle.records import PACE
from ..metrics import dice_by_organ
from ..models.hardware import compute_dtype, default_batch_size
from ..models.losses import make_loss
from ..models.network import assign, build_model, without_heads
from ..prediction.ensemble import Member
from ..prediction.networks import make_predictor
from ..preparation.store import SPLITS, PatchStore
from ..progress import track
from ..run import CHECKPOINT, HISTORY, WEIGHTS, RunConfig
from ..words import count, duration
from . import checkpoints
from .dataset import PatchSampler
from .devices import Devices, gpu_peak_memory, peak_memory
from .evaluation import Evaluator
from .results import write_results
from .step import Phase, Step, average_weights, freeze_encoder, make_optimizer, phases, pretrained
from .time_limit import TimeLimit, needed_s


@dataclass
class Training:
    """A training under way.

    Attributes:
        run: Run folder.
        config: Settings and facts of the run, as ``config.json`` holds them.
        sampler: Chooses and makes the training patches.
        devices: The devices of the training.
        model: The network.
        encoder: Layers of its pretrainable encoder.
        evaluator: Scores the network.
        checkpoint: The state to go on from; None once it is restored, or if the training began anew.
        history: One row for each epoch.
        earlier: How many of the epochs were done in earlier sessions.
        parts: Number of parts in which each batch is done, see `Step`.
    """

    run: Path
    config: RunConfig
    sampler: PatchSampler
    devices: Devices
    model: keras.Model
    encoder: list[keras.layers.Layer]
    evaluator: Evaluator
    checkpoint: checkpoints.Checkpoint | None
    history: list[dict[str, Any]]
    earlier: int
    parts: int = 1

    @classmethod
    def begin(
        cls, store: PatchStore, run: Path, config: RunConfig, sampler: PatchSampler, devices: Devices, resume: bool
    ) -> Training:
        """Build the network, or read it from the checkpoint, and write ``config.json``.

        Args:
            store: Patch store.
            run: Run folder.
            config: Settings and facts of the run, as ``config.json`` holds them.
            sampler: Chooses and makes the training patches.
            devices: The devices of the training.
            resume: Whether to go on from the run folder's checkpoint, if it has one.

        Raises:
            ValueError: A checkpoint of other settings, or an encoder's weights that cannot be loaded.
        """
        settings = config.train
        # When resuming, all weights come from the checkpoint.
        checkpoint = checkpoints.read(run, config) if resume else None
        weights = settings.encoder_weights if pretrained(settings) and checkpoint is None else None
        dtype = compute_dtype(settings.precision)
        with devices.strategy.scope():
            model, encoder = _build(config, weights, devices)
        if devices.worker == 0:
            config.write(run)
        member = Member(
            predict=make_predictor(without_heads(model)),
            network_um=store.config.network_um(),
            tile_size=store.config.input_size,
            overlap=settings.overlap,
            batch_size=default_batch_size(),
            rule=config.rule,
        )
        history = checkpoint.history if checkpoint else []
        print(
            f"{sampler.where}\n{settings.model}{' ' + settings.encoder if encoder else ''}: "
            f"{model.count_params():,} parameters; "
            f"{count(sampler.steps, 'step')} of {count(sampler.batch_size, 'patch')} per epoch; "
            + ", ".join(f"{len(config.splits[split])} {split}" for split in SPLITS)
            + f" images; {count(devices.replicas, 'device')}"
            + (f", mixed with {dtype}" if dtype else ""),
            flush=True,
        )
        evaluator = Evaluator(store, member, make_loss(settings.loss), devices)
        return cls(run, config, sampler, devices, model, encoder, evaluator, checkpoint, history, earlier=len(history))

    def do_epochs(self, limit: TimeLimit) -> bool:
        """Do all epochs that are left; returns False if the time limit ends the training first."""
        for phase in phases(self.config.train):
            start = max(phase.first, len(self.history))
            if start >= phase.stop or self._has_stalled():
                continue
            optimizer, step = self._begin_phase(phase, restore_optimizer=start > phase.first)
            for epoch in range(start, phase.stop):
                self._do_epoch(epoch, phase, optimizer, step)
                self.parts = step.parts
                if self._has_stalled():
                    print(f"no better validation Dice for {self.config.train.patience} epochs: stopping", flush=True)
                    break
                if epoch + 1 < self.config.train.epochs and not self._fits(limit):
                    return False
        return True

    def write_pace(self, folder: Path) -> None:
        """Write ``pace.json``: the time of a step, and of the whole training if this session did all of it."""
        rows = self.history[self.earlier :]
        if self.devices.worker or not rows:
            return
        # Epochs of a frozen encoder are quicker, and the first one compiles the step.
        step_s = float(np.median([row["seconds"] for row in rows if row["frozen"] == rows[-1]["frozen"]]))
        pace = {
            "format": 1,
            "step": self.config.train.step_text(self.config.prepare.input_size),
            "devices": [self.devices.text],
            "seconds_per_step": step_s / self.sampler.steps,
        }
        if (gpu_bytes := gpu_peak_memory()) is None:
            pace["peak_memory_bytes"] = peak_memory()
        else:
            pace["peak_gpu_memory_bytes"] = gpu_bytes
        if not self.earlier and (len(rows) == self.config.train.epochs or self._has_stalled()):
            pace["seconds_per_fold"] = sum(row["seconds"] + row.get("validation_seconds", 0.0) for row in rows)
        write_json(folder / PACE, pace)

    def finish(self) -> None:
        """Score the best weights, and write all results."""
        self.devices.sum(np.zeros(1))  # a barrier: the first worker has written what the others now read
        self.model.load_weights(self.run / WEIGHTS)
        rule, results = write_results(self.run, self.config.splits, self.evaluator, tune=self.config.train.tune)
        if self.devices.worker == 0:
            done = replace(
                self.config,
                rule=rule,
                results=results,
                finished=True,
                epochs=len(self.history),
                devices=self.devices.text,
                peak_memory_bytes=peak_memory(),
            )
            done.write(self.run)
            (self.run / CHECKPOINT).unlink(missing_ok=True)

    def _begin_phase(self, phase: Phase, *, restore_optimizer: bool) -> tuple[keras.optimizers.Optimizer, Step]:
        """Freeze the encoder or not, and make the phase's optimizer and step."""
        settings = self.config.train
        freeze_encoder(self.encoder, phase.frozen)
        with self.devices.strategy.scope():
            dtype = compute_dtype(settings.precision)
            optimizer = make_optimizer(self.model, self.encoder, phase, settings, self.sampler.steps, dtype)
        if self.checkpoint:
            self.checkpoint.restore(self.model, optimizer if restore_optimizer else None)
            self.checkpoint = None
        if self.devices.replicas > 1 and not self.devices.tpu:
            self.parts = self._parts_of_devices(phase)
            gc.collect()  # its network and optimizer leave the memory before the training needs it
        return optimizer, Step(self.model, optimizer, settings, self.devices, self.evaluator.loss, self.parts)

    def _parts_of_devices(self, phase: Phase) -> int:
        """Number of parts in which each of several devices can do its share of a batch, see `Step`.

        One device finds it with a step on a copy of the network and images of zeros, since several devices cannot:
        if the memory of one is full, the others wait for it.
        """
        settings, side = self.config.train, self.config.prepare.input_size
        model, encoder = _build(self.config, None, self.devices)
        freeze_encoder(encoder, phase.frozen)
        dtype = compute_dtype(settings.precision)
        optimizer = make_optimizer(model, encoder, phase, settings, self.sampler.steps, dtype)
        one = Devices(tf.distribute.get_strategy())
        step = Step(model, optimizer, settings, one, self.evaluator.loss, self.parts)
        share = self.sampler.batch_size // self.devices.replicas
        masks = tf.zeros((share, side, side), tf.uint8)
        step(tf.zeros((*masks.shape, 3), tf.uint8), masks, tf.zeros(share, tf.int32), tf.zeros(share))
        of_workers = np.zeros(self.devices.workers)
        of_workers[self.devices.worker] = step.parts
        return int(self.devices.sum(of_workers).max())

    def _do_epoch(self, epoch: int, phase: Phase, optimizer: keras.optimizers.Optimizer, step: Step) -> None:
        """Train an epoch, validate, and keep weights, history and checkpoint."""
        settings, validation = self.config.train, self.config.splits["validation"]
        row = train_epoch(epoch, phase, step, self.sampler, self.devices)
        raw = average_weights(self.model, optimizer) if settings.ema else None
        if validation and ((epoch + 1) % settings.validate_every == 0 or epoch + 1 == settings.epochs):
            begin = time.monotonic()
            scores = self.evaluator.score(validation).scores
            row |= {"validation_loss": scores["loss"].mean(), "validation_dice": scores["dice"].mean()}
            row["validation_seconds"] = time.monotonic() - begin
            row |= {f"validation_dice_{organ}": value for organ, value in dice_by_organ(scores).items()}
        self.history.append({key: round(float(value), 6) for key, value in row.items()})
        writes = self.devices.worker == 0
        if writes and self._is_best():
            with replacing(self.run / WEIGHTS, _weights_bytes(self.model)) as part:
                self.model.save_weights(part)
        if raw is not None:
            assign(self.model.trainable_variables, raw)
        if writes:
            with replacing(self.run / HISTORY) as part:
                pd.DataFrame(self.history).to_csv(part, index=False)
            checkpoints.write(self.run, self.model, optimizer, self.history, self.config)
        print(_epoch_line(self.history[-1], settings.epochs, self._left_s()), flush=True)

    def _left_s(self) -> float:
        """Seconds that the epochs left and their validations will take, at the pace of this session; without scores."""
        rows = self.history[self.earlier :][-5:]  # the latest, since unfrozen epochs take longer
        epoch_s = sum(row["seconds"] for row in rows) / len(rows)
        validated = [row["validation_seconds"] for row in self.history[self.earlier :] if "validation_seconds" in row]
        settings = self.config.train
        left = settings.epochs - len(self.history)
        validations = -(-settings.epochs // settings.validate_every) - len(self.history) // settings.validate_every
        validation_s = sum(validated) / len(validated) if validated else 0.0
        return float(left * epoch_s + (validations * validation_s if left else 0.0))

    def _fits(self, limit: TimeLimit) -> bool:
        """Whether another epoch and the final scores fit the time limit; if not, says so."""
        if not limit.exists:
            return True
        needed = needed_s(self.history[self.earlier :], self.config.splits, self.evaluator)
        if not limit.is_below(needed, self.devices):
            return True
        print(
            f"stopped after epoch {len(self.history)} of {self.config.train.epochs}: another one and the final scores, "
            f"about {needed / 60:.1f} minutes, do not fit the time limit; {self.run} is kept, go on with --resume",
            flush=True,
        )
        return False

    def _is_best(self) -> bool:
        """Whether to keep the last epoch's weights: they are the best, or nothing was validated yet."""
        values = [row["validation_dice"] for row in self.history if "validation_dice" in row]
        return not values or ("validation_dice" in self.history[-1] and bool(values[-1] >= max(values)))

    def _has_stalled(self) -> bool:
        """Whether validation Dice has not improved for ``patience`` epochs."""
        values = [(row["validation_dice"], row["epoch"]) for row in self.history if "validation_dice" in row]
        patience = self.config.train.patience
        return bool(patience and values and self.history[-1]["epoch"] - max(values)[1] >= patience)


def _build(config: RunConfig, weights: str | None, devices: Devices) -> tuple[keras.Model, list[keras.Layer]]:
    """The network of a training, and the layers of its encoder; see `hubmap_kit.models.network.build_model`."""
    return build_model(
        config.network,
        weights,
        compute_dtype=compute_dtype(config.train.precision),
        decoder_dropout=config.train.decoder_dropout,
        synchronized=devices.replicas > 1,
    )


def _weights_bytes(model: keras.Model) -> int:
    """An upper bound for the size of a weights file: HDF5 needs some 2 KiB beside each array."""
    return sum(np.asarray(weight).nbytes + 2**12 for weight in model.weights) + 2**16


def train_epoch(epoch: int, phase: Phase, step: Step, sampler: PatchSampler, devices: Devices) -> dict[str, Any]:
    """Train an epoch.

    Returns:
        The first columns of its row of ``history.csv``.

    Raises:
        ValueError: The loss is not a number, or the memory is too small for one patch.
    """
    begin = time.monotonic()
    batches = track(sampler.batches(epoch, devices), sampler.steps, f"epoch {epoch + 1}", unit="step", lines=False)
    losses = [float(step(*batch)) for batch in batches]
    loss = float(np.mean(losses))
    if not np.isfinite(loss):
        raise ValueError(f"the loss of epoch {epoch + 1} is {loss}; lower --learning-rate")
    return {"epoch": epoch + 1, "frozen": phase.frozen, "train_loss": loss, "seconds": time.monotonic() - begin}


def _epoch_line(row: Mapping[str, Any], epochs: int, left_s: float) -> str:
    """Such as ``epoch 3/15, loss 0.4101, validation Dice 0.6120, 41 s, about 8 min left``."""
    parts = [f"epoch {int(row['epoch'])}/{epochs}", f"loss {row['train_loss']:.4f}"]
    if "validation_dice" in row:
        parts += [f"validation loss {row['validation_loss']:.4f}", f"validation Dice {row['validation_dice']:.4f}"]
    parts.append(duration(row["seconds"] + row.get("validation_seconds", 0.0)))
    return ", ".join([*parts, *([f"about {duration(left_s)} left"] if left_s else [])])
