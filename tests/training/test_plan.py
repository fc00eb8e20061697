"""Tests of hubmap-kit plan, and of the costs it works out."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest

from hubmap_kit.cli import main
from hubmap_kit.config import PrepareConfig, TrainConfig
from hubmap_kit.models.cost import Cost, cost
from hubmap_kit.models.network_config import NetworkConfig
from hubmap_kit.training.plan import KAGGLE, Machine, Pace, Plan, plan, read_pace

PLAIN = NetworkConfig("unet", None, 4, False, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
TWO, ONE = KAGGLE[:2]


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


def test_a_measured_pace_is_of_its_recipe_and_machine(tmp_path):
    """A pace counts only for its recipe and for the devices it was measured on; a damaged file is named."""
    path = tmp_path / "pace.json"
    assert read_pace(path, "default") is None
    values = {"format": 1, "recipe": "default", "devices": ["2 x Tesla T4"], "seconds_per_step": 0.5}
    path.write_text(json.dumps(values))
    pace = read_pace(path, "default")
    assert pace == Pace(0.5, "2 x Tesla T4", "?, version ?")
    assert [pace.is_of(machine) for machine in KAGGLE] == [True, False, False]
    assert read_pace(path, "cpu") is None
    for damaged in ("[]", "{", '{"seconds_per_step": "fast"}', '{"seconds_per_step": 0}', '{"seconds_per_step": true}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"pace\.json.*; delete it"):
            read_pace(path, "default")


def test_a_folder_is_no_pace(tmp_path):
    """A folder in the place of the file is named, and not taken for a pace that was never measured."""
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory"):
        read_pace(tmp_path, "default")


def test_the_command(tmp_path, capsys, monkeypatch):
    """The command prints a row for each machine, and says what is estimated."""
    flags = ["--model", "unet", "--filters", "4", "--input-size", "64"]
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "default", *flags]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("2 x T4", "1 x T4", "TPU v5e-8", "this computer's CPU", "estimated"))
    assert main(["plan", "default", *flags, "--json"]) == 0
    machines = json.loads(capsys.readouterr().out)["plans"]["unet"]["machines"]
    assert [row["on"] for row in machines[:3]] == ["2 x T4", "1 x T4", "TPU v5e-8"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--all-folds"], "give their number with --folds"),
        (["--encoders", "efficientnetb9"], "there is no encoder efficientnetb9; did you mean efficientnetb"),
        (["--encoders", ""], "there is no encoder"),
        (["--pace", "none.json"], "--pace none.json: there is no such file"),
    ],
)
def test_wrong_usage(flags, message, capsys):
    """Usage errors have status 2 and say what to change."""
    with contextlib.suppress(SystemExit):
        assert main(["plan", "default", *flags]) == 2
    assert message in capsys.readouterr().err
