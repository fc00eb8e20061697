"""Works out the memory, hours and largest batch of a recipe before it is trained, on Kaggle and on this computer."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tensorflow as tf

from ..competition import ORGANS
from ..config import WHOLE, WORKING_UM, PrepareConfig, TrainConfig
from ..files import read_object
from ..machine import free_memory
from ..models.cost import Cost, cost
from ..preparation.splits import split_sizes
from ..tiles import grid
from ..words import percent

# The competition: 351 training images of 3000 px a side with pixels of 0.4 um, and about 550 hidden test images.
IMAGES, SIDE_UM, TEST_IMAGES = 351, 3000 * WORKING_UM, 550
# A training step computes about three times as much as a prediction: forward, and gradients of inputs and of weights.
TRAINING = 3
FREE_SHARE = 0.75  # share of a device's memory that a step may take; its libraries and work space need the rest
IMAGE_S = 1.0  # s to read an image of 3000 px a side and to make its mask, without the network


@dataclass(frozen=True)
class Machine:
    """A computer to train on.

    Attributes:
        name: Its name.
        devices: Number of devices that share a batch.
        tflops: 10^12 floating-point operations a second of one device, as its maker says.
        efficiency: Share of `tflops` that is assumed to be reached.
        memory_bytes: Memory of one device.
        mixed: Whether ``--precision auto`` means mixed precision there.
        session_h: Longest session, in h; None for no limit.
        week_h: Hours that Kaggle gives a week; None for no limit.
    """

    name: str
    devices: int
    tflops: float
    efficiency: float
    memory_bytes: int
    mixed: bool = True
    session_h: float | None = None
    week_h: float | None = None

    @property
    def flops_per_s(self) -> float:
        """Operations a second that all devices together are assumed to do."""
        return self.devices * self.tflops * 1e12 * self.efficiency


# A T4 has 65 TFLOPS in float16 and 16 GB (NVIDIA's data sheet), a TPU v5e chip 197 in bfloat16 and 16 GB (Google's).
KAGGLE = (
    Machine("2 x T4", 2, 65, 0.15, 15_000_000_000, session_h=12, week_h=30),
    Machine("1 x T4", 1, 65, 0.15, 15_000_000_000, session_h=12, week_h=30),
    Machine("TPU v5e-8", 8, 197, 0.1, 16_000_000_000, session_h=9, week_h=20),
)


@dataclass(frozen=True)
class Plan:
    """The size of a recipe's training.

    Attributes:
        cost: Cost of the network for one patch, in mixed precision.
        train_images, val_images: Number of images that one training trains on and validates on.
        folds: Number of trainings.
        steps: Steps of one training.
        batch: Patches in a step, on all devices together.
        scored_tiles: Tiles that one training predicts: all validations, and the scores at its end.
        scored_images: Images that one training predicts for these scores.
        test_tiles: Tiles of one test image, which is assumed to be as large as a training image.
    """

    cost: Cost
    train_images: int
    val_images: int
    folds: int
    steps: int
    batch: int
    scored_tiles: int
    scored_images: int
    test_tiles: int

    def training_h(self, machine: Machine, seconds_per_step: float | None = None) -> float:
        """Hours of one training.

        Args:
            machine: Where it is trained.
            seconds_per_step: As measured there; None estimates it from the operations and the machine's efficiency.
        """
        flops = self.cost.flops / machine.flops_per_s
        step_s = seconds_per_step or TRAINING * self.batch * flops
        return (self.steps * step_s + self.scored_tiles * flops + self.scored_images * IMAGE_S) / 3600

    def prediction_h(self, machine: Machine, views: int = 4) -> float:
        """Hours to predict the competition's hidden images with all folds and `views` of each tile; 4 are flips."""
        tiles = TEST_IMAGES * self.test_tiles * self.folds * views
        return (tiles * self.cost.flops / machine.flops_per_s + TEST_IMAGES * IMAGE_S) / 3600

    def most_batch(self, machine: Machine) -> int:
        """The largest batch, on all devices together, whose step fits their memory; 0 if not even one patch does."""
        room = FREE_SHARE * machine.memory_bytes - self.cost.step_bytes(0)
        held = self.cost.held_bytes * (1 if machine.mixed else 2)
        return machine.devices * max(0, int(room // held))


def plan(geometry: PrepareConfig, config: TrainConfig, *, all_folds: bool) -> Plan:
    """Work out the size of a training on the competition's 351 images.

    Args:
        geometry: Settings of the patches and of the split.
        config: Settings of the training.
        all_folds: Whether every fold is trained, as with ``--all-folds``.

    Raises:
        ValueError: No image would be left for training.
    """
    test, validation = split_sizes(IMAGES, geometry.test_size, 0 if geometry.folds else geometry.val_size)
    pool = IMAGES - test
    if geometry.folds and (all_folds or config.fold is not None):
        validation = pool // geometry.folds
    train = pool - validation
    if geometry.context == WHOLE:
        patch_um = SIDE_UM
    else:  # the mean over the organs, since each may have its own context
        patch_um = statistics.fmean(map(geometry.contexts_um().__getitem__, ORGANS))
    side_px = round(geometry.input_size * SIDE_UM / patch_um)
    patches = len(grid((side_px, side_px), geometry.input_size, 0.0))
    tiles = len(grid((side_px, side_px), geometry.input_size, config.overlap))
    epoch_steps = config.steps_per_epoch or -(-train * patches // config.batch_size)
    validations = -(-config.epochs // config.validate_every) if validation else 0
    scored = validations * validation + pool
    return Plan(
        cost=cost(config.network(), geometry.input_size, compute_dtype="float16"),
        train_images=train,
        val_images=validation,
        folds=geometry.folds if all_folds and geometry.folds else 1,
        steps=config.epochs * epoch_steps,
        batch=config.batch_size,
        scored_tiles=scored * tiles,
        scored_images=scored,
        test_tiles=tiles,
    )


def this_computer() -> Machine:
    """This computer's CPU. Its speed is measured with convolutions, for two seconds."""
    with tf.device("CPU"):
        image, kernel = tf.ones((4, 64, 64, 128)), tf.ones((3, 3, 128, 128))
        convolve = tf.function(lambda: tf.nn.conv2d(image, kernel, 1, "SAME"))
        convolve()
        flops, repeats, begin = 2 * 9 * 128 * 128 * 4 * 64 * 64, 0, time.perf_counter()
        while time.perf_counter() - begin < 2:
            convolve()
            repeats += 1
    tflops = repeats * flops / (time.perf_counter() - begin) / 1e12
    return Machine("this computer's CPU", 1, tflops, 0.5, free_memory() or 0, mixed=False)


@dataclass(frozen=True)
class Pace:
    """How long a step took on Kaggle.

    Attributes:
        seconds_per_step: Time of a step of the recipe, in s.
        devices: What it was measured on, such as ``2 x Tesla T4``.
        kernel: The kernel that measured it, and its version.
    """

    seconds_per_step: float
    devices: str
    kernel: str

    def is_of(self, machine: Machine) -> bool:
        """Whether it was measured on such a machine."""
        return (
            self.devices.startswith(f"{machine.devices} x") and machine.name.split()[-1].split("-")[0] in self.devices
        )


def read_pace(path: Path, recipe: str) -> Pace | None:
    """The pace of a recipe in a ``pace.json``, as `hubmap-kit push` records it.

    Returns:
        None if there is no such file, or if another recipe was measured.

    Raises:
        ValueError: It is damaged; the text names it.
    """
    if not os.path.lexists(path):
        return None
    return read_object(path, lambda values: _pace(values, recipe), "delete it")


def _pace(values: dict[str, Any], recipe: str) -> Pace | None:
    """The pace in a JSON object, if it is of this recipe."""
    step_s = values.get("seconds_per_step")
    if isinstance(step_s, bool) or not isinstance(step_s, int | float) or not 0 < step_s < math.inf:
        raise ValueError("it needs seconds_per_step, a number above 0")
    if values.get("recipe") != recipe:
        return None
    devices = values.get("devices") or ["?"]
    if not isinstance(devices, list):
        raise TypeError("devices must be a list of names")
    return Pace(
        step_s, " ".join(map(str, devices)), f"{values.get('kernel', '?')}, version {values.get('version', '?')}"
    )


def table(planned: Plan, machines: Sequence[Machine], pace: Pace | None) -> pd.DataFrame:
    """The plan, with one row per machine."""
    rows = []
    for machine in machines:
        step_s = pace.seconds_per_step if pace and pace.is_of(machine) else None
        one_h = planned.training_h(machine, step_s)
        most, hours = planned.most_batch(machine), planned.folds * one_h
        rows.append(
            {
                "on": machine.name,
                "largest batch": most,
                f"batch of {planned.batch}": "fits" if planned.batch <= most else "too large",
                "a training, h": round(one_h, 2),
                "all trainings, h": round(hours, 2),
                "longest session, h": machine.session_h or "-",
                "share of a week": percent(hours / machine.week_h) if machine.week_h else "-",
                "prediction, h": round(planned.prediction_h(machine), 2),
                "step": "measured" if step_s else "estimated",
            }
        )
    return pd.DataFrame(rows)


def sources(machines: Sequence[Machine], pace: Pace | None) -> str:
    """Where the numbers come from, in a few lines."""
    speeds = [f"{each.name} {percent(each.efficiency)} of {each.devices} x {each.tflops:.3g}" for each in machines]
    lines = [
        "estimated: operations and memory, from the network's graph in mixed precision (on a CPU twice the memory);",
        f"  speed, TFLOPS: {'; '.join(speeds)};",
        f"  {IMAGE_S:g} s an image to read it and make its mask; {percent(FREE_SHARE)} of the memory for a step;",
        f"  prediction of {TEST_IMAGES} images of {SIDE_UM:g} um by all trainings, 4 views of each tile (TTA flips)",
    ]
    if pace:
        lines.append(f"measured: {pace.seconds_per_step:.3g} s a step on {pace.devices}, by {pace.kernel}")
    return "\n".join(lines)
