"""Tests of hubmap-kit plan, and of the costs it works out."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hubmap_kit.cli import main
from hubmap_kit.config import PrepareConfig, TrainConfig
from hubmap_kit.models.cost import Cost, cost
from hubmap_kit.models.network_config import NetworkConfig
from hubmap_kit.training.plan import KAGGLE, Machine, Plan, plan

PLAIN = NetworkConfig("unet", None, 4, False, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
TWO, ONE = KAGGLE[:2]
CLONE = Path(__file__).resolve().parents[2]


def test_operations_and_memory_grow_with_the_patch():
    """Operations and memory of a fully convolutional network grow with the area; float16 halves the memory."""
    small, large = cost(PLAIN, 64), cost(PLAIN, 128)
    half = cost(PLAIN, 64, compute_dtype="float16")
    assert small.parameters == large.parameters == half.parameters
    assert large.flops == pytest.approx(4 * small.flops, rel=0.02)
    assert large.held_bytes == pytest.approx(4 * small.held_bytes, rel=0.02)
    assert half.held_bytes == pytest.approx(small.held_bytes / 2, rel=0.05)


def test_the_first_convolution_is_counted_by_hand():
    """The plain U-Net's operations are at least those of its convolutions, which are known, and little more."""
    found = cost(PLAIN, 64)
    pairs = [(3, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    encoder = sum(2 * 9 * a * b * (64 >> n // 2) ** 2 for n, (a, b) in enumerate(pairs))
    assert encoder < found.flops < 4 * encoder


@pytest.fixture(name="planned")
def fixture_planned():
    return Plan(Cost(1_000_000, 1e11, 1_000_000_000), 281, 70, 5, 1000, 8, 700, 350, 4)


def test_hours_follow_steps_and_devices(planned):
    """Two devices take half the time of one for the steps; a measured pace replaces the estimate of a step."""
    steps = replace(planned, scored_tiles=0, scored_images=0)
    assert steps.training_h(ONE) == pytest.approx(2 * steps.training_h(TWO))
    assert steps.training_h(ONE) == pytest.approx(1000 * 3 * 8 * 1e11 / (65e12 * 0.15) / 3600)
    assert steps.training_h(TWO, 1.8) == pytest.approx(0.5)
    assert planned.training_h(TWO, 1.8) > 0.5 + 350 / 3600


def test_the_largest_batch_fits_and_one_more_does_not(planned):
    """The largest batch leaves a quarter of the memory; a device too small for one patch has the batch 0."""
    most = planned.most_batch(TWO)
    room = 0.75 * TWO.memory_bytes
    assert planned.cost.step_bytes(most // 2) <= room < planned.cost.step_bytes(most // 2 + 1)
    assert planned.most_batch(Machine("small", 1, 1, 1, 10**9)) == 0
    assert planned.most_batch(replace(ONE, mixed=False)) < planned.most_batch(ONE)


def test_a_batch_that_does_not_fit_is_done_in_parts(planned):
    """The batch of a GPU is halved until it fits, and a step takes a third longer; for a TPU it is too large."""
    assert [planned.parts(machine) for machine in KAGGLE] == [1, 1, 1]
    large = replace(planned, batch=24)  # a T4 holds 11 patches
    assert [large.parts(machine) for machine in (TWO, ONE)] == [2, 4]
    assert large.step_s(ONE) == pytest.approx(4 * planned.step_s(ONE))
    assert replace(planned, batch=240).parts(KAGGLE[2]) == 0
    assert planned.parts(Machine("small", 1, 1, 1, 10**9)) == 0


def test_images_of_folds_and_of_the_split():
    """Folds train on all images but a fold's; without folds the split of the competition is 221, 65 and 65."""
    config = TrainConfig(model="unet", filters=4, epochs=3, batch_size=16)
    folds = plan(PrepareConfig(3072, 64, test_size=0, folds=5), config, all_folds=True)
    assert (folds.train_images, folds.val_images, folds.folds) == (281, 70, 5)
    assert folds.steps == 3 * 18  # an image is one patch
    assert folds.test_tiles == 1
    split = plan(PrepareConfig(1024, 64), config, all_folds=False)
    assert (split.train_images, split.val_images, split.folds) == (221, 65, 1)
    assert split.steps == 3 * -(-221 * 9 // 16)
    assert plan(PrepareConfig(1024, 64), replace(config, steps_per_epoch=7), all_folds=False).steps == 21


def test_the_command(tmp_path, capsys, monkeypatch):
    """The command prints a row for each machine, of at most 100 characters, and says what is estimated."""
    flags = ["--model", "unet", "--filters", "4", "--input-size", "64"]
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "default", *flags]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("2 x T4", "1 x T4", "TPU v5e-8", "this CPU", "estimated"))
    table = [line for line in printed.splitlines() if line.endswith((" step", "estimated"))]
    assert len(table) == 5
    assert max(map(len, table)) <= 100
    assert main(["plan", "default", *flags, "--json"]) == 0
    machines = json.loads(capsys.readouterr().out)["plans"]["unet"]["machines"]
    assert [row["on"] for row in machines[:3]] == ["2 x T4", "1 x T4", "TPU v5e-8"]


def test_the_kernels(capsys, monkeypatch):
    """For the kernels, the command reads their settings, changes some, and adds up the hours of both."""
    monkeypatch.chdir(CLONE)
    small = ["--set=MODEL=unet", "--set=INPUT_SIZE=64", "--set=EPOCHS=3", "--set=STEPS_PER_EPOCH=7"]
    assert main(["plan", "kernel", *small, "--json"]) == 0
    flips = json.loads(capsys.readouterr().out)["hours"]
    assert (flips["machine"], flips["step"], flips["steps"], flips["session_h"]) == (
        "2 x T4",
        "unet of 64 filters, batch of 8, 64 px",
        105,
        11,
    )
    assert main(["plan", "kernel", *small, "--set=TTA=none", "--set=FOLD=0", "--set=TIME_LIMIT=None", "--json"]) == 0
    none = json.loads(capsys.readouterr().out)["hours"]
    assert (none["steps"], none["session_h"]) == (21, 12)
    assert none["prediction_h"] < flips["prediction_h"]
    assert none["step_s"] == flips["step_s"]


def test_flags_of_recipe_and_kernels(capsys, monkeypatch):
    """The settings of the kernels are not changed by flags of a recipe, nor a recipe by --set."""
    monkeypatch.chdir(CLONE)
    for flags in (["--epochs", "3"], ["--folds", "2"], ["--encoders", "all"]):
        with pytest.raises(SystemExit):
            main(["plan", "kernel", *flags])
        assert "change settings with --set NAME=VALUE" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "default", "--set", "EPOCHS=3"])
    assert "hubmap-kit plan kernel --set" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "kernel", "--set", "EPOCH=3"])
    assert "did you mean EPOCHS?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoders", "efficientnetb9"], "there is no encoder efficientnetb9; did you mean efficientnetb"),
        (["--encoders", ""], "there is no encoder"),
        (["--encoders", "all", "--model", "unet"], "the plain U-Net has no encoder"),
        (["--pace", "none.json"], "--pace none.json: there is no such file"),
    ],
)
def test_wrong_usage(flags, message, capsys):
    """Usage errors have status 2 and say what to change."""
    with contextlib.suppress(SystemExit):
        assert main(["plan", "default", *flags]) == 2
    assert message in capsys.readouterr().err
