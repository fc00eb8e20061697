"""Works out the memory, hours and largest batch of a recipe before it is trained, on Kaggle and on this computer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import tensorflow as tf

from ..competition import ORGANS, TEST_IMAGES
from ..config import WHOLE, WORKING_UM, PrepareConfig, TrainConfig, scale_factors
from ..kaggle.hours import Hours, Pace
from ..machine import free_memory
from ..models.cost import Cost, cost
from ..prediction.ensemble import AUGMENTATIONS
from ..preparation.splits import split_sizes
from ..tiles import grid
from ..words import percent

# The competition: 351 training images of 3000 px a side with pixels of 0.4 um.
IMAGES, SIDE_UM = 351, 3000 * WORKING_UM
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
        shape: The ``machine_shape`` of a kernel's metadata that asks for it.
    """

    name: str
    devices: int
    tflops: float
    efficiency: float
    memory_bytes: int
    mixed: bool = True
    session_h: float | None = None
    week_h: float | None = None
    shape: str | None = None

    @property
    def flops_per_s(self) -> float:
        """Operations a second that all devices together are assumed to do."""
        return self.devices * self.tflops * 1e12 * self.efficiency


# A T4 has 65 TFLOPS in float16 and 16 GB (NVIDIA's data sheet), a TPU v5e chip 197 in bfloat16 and 16 GB (Google's).
KAGGLE = (
    Machine("2 x T4", 2, 65, 0.15, 15_000_000_000, session_h=12, week_h=30, shape="NvidiaTeslaT4"),
    Machine("1 x T4", 1, 65, 0.15, 15_000_000_000, session_h=12, week_h=30),
    Machine("TPU v5e-8", 8, 197, 0.1, 16_000_000_000, session_h=9, week_h=20, shape="TpuV5E8"),
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
        step_s = seconds_per_step or self.step_s(machine)
        return self.steps * step_s / 3600 + self.scoring_h(machine)

    def step_s(self, machine: Machine) -> float:
        """Estimated time of a step, in s; a step in parts computes each output twice."""
        times = TRAINING + (self.parts(machine) > 1)
        return times * self.batch * self.cost.flops / machine.flops_per_s

    def scoring_h(self, machine: Machine) -> float:
        """Estimated hours of one training's validations and scores."""
        return (self.scored_tiles * self.cost.flops / machine.flops_per_s + self.scored_images * IMAGE_S) / 3600

    def prediction_h(self, machine: Machine, views: float = 4) -> float:
        """Hours to predict the competition's hidden images with all folds and `views` of each tile; 4 are flips."""
        tiles = TEST_IMAGES * self.test_tiles * self.folds * views
        return (tiles * self.cost.flops / machine.flops_per_s + TEST_IMAGES * IMAGE_S) / 3600

    def most_batch(self, machine: Machine) -> int:
        """The largest batch, on all devices together, whose step fits their memory; 0 if not even one patch does."""
        room = FREE_SHARE * machine.memory_bytes - self.cost.step_bytes(0)
        held = self.cost.held_bytes * (1 if machine.mixed else 2)
        return machine.devices * max(0, int(room // held))

    def parts(self, machine: Machine) -> int:
        """Number of parts in which a batch is done there, see `Step`; 0 if it cannot be done.

        A TPU does not do a batch in parts, and each part has at least one patch.
        """
        most = self.most_batch(machine) // machine.devices
        share, parts = -(-self.batch // machine.devices), 1
        while most and -(-share // parts) > most:
            parts = min(2 * parts, share)
        return parts if most and (parts == 1 or not machine.name.startswith("TPU")) else 0


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
    return Machine("this CPU", 1, tflops, 0.5, free_memory() or 0, mixed=False)


def kernel_hours(
    planned: Plan, *, step: str, machine_shape: str, limit_h: float | None, tta: str, scales: str
) -> Hours:
    """The hours of both kernels on the machine that the training kernel asks for.

    Args:
        planned: The plan of the training kernel's settings.
        step: What its step does, see `hubmap_kit.config.TrainConfig.step_text`.
        machine_shape: Of its metadata.
        limit_h: Its time limit; None for the longest session.
        tta: Test-time augmentation of the inference kernel.
        scales: Its factors of size.
    """
    machine = next((each for each in KAGGLE if each.shape == machine_shape), KAGGLE[0])
    assert machine.session_h
    assert machine.week_h
    views = len(AUGMENTATIONS[tta]) * sum(factor**2 for factor in scale_factors(scales))
    return Hours(
        machine=machine.name,
        step=step,
        steps=planned.folds * planned.steps,
        step_s=planned.step_s(machine),
        scoring_h=planned.folds * planned.scoring_h(machine),
        prediction_h=planned.prediction_h(machine, views),
        session_h=min(limit_h or machine.session_h, machine.session_h),
        week_h=machine.week_h,
    )


def table(planned: Plan, machines: Sequence[Machine], pace: Pace | None) -> pd.DataFrame:
    """The plan, with one row per machine."""
    rows = []
    for machine in machines:
        step_s = pace.seconds_per_step if pace and pace.is_of(machine.name) else None
        one_h = planned.training_h(machine, step_s)
        parts, hours = planned.parts(machine), planned.folds * one_h
        rows.append(
            {
                "on": machine.name,
                "largest batch": planned.most_batch(machine),
                f"batch of {planned.batch}": "fits" if parts == 1 else f"in {parts} parts" if parts else "too large",
                "training, h": round(one_h, 2),
                "all, h": round(hours, 2),
                "session, h": machine.session_h or "-",
                "of a week": percent(hours / machine.week_h) if machine.week_h else "-",
                "predict, h": round(planned.prediction_h(machine), 2),
                "step": "measured" if step_s else "estimated",
            }
        )
    return pd.DataFrame(rows)


def sources(machines: Sequence[Machine], pace: Pace | None) -> str:
    """Where the numbers come from, in a few lines."""
    speeds = [f"{each.name} {percent(each.efficiency)} of {each.devices} x {each.tflops:.3g}" for each in machines]
    lines = [
        "estimated: operations and memory, from the graph in mixed precision (on a CPU twice the memory);",
        f"  speed, TFLOPS: {'; '.join(speeds[:2])};",
        f"    {'; '.join(speeds[2:])};",
        f"  {IMAGE_S:g} s an image to read it and make its mask; {percent(FREE_SHARE)} of the memory for a step;",
        f"  prediction of {TEST_IMAGES} images of {SIDE_UM:g} um by all trainings, 4 views of each tile (TTA flips)",
    ]
    if pace and pace.seconds_per_step:
        measured = f"{pace.seconds_per_step:.3g} s a step on {pace.devices}, by {pace.kernel}"
        lines.append(f"measured: {measured}; all else is estimated")
    return "\n".join(lines)
