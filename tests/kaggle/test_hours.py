"""Hours on Kaggle: what push and the rehearsal say of them, estimated or measured."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from kaggle_workplace import pretend_rehearsal

from hubmap_kit.kaggle import hours
from hubmap_kit.kaggle.hours import Hours, Pace, estimate, read_pace

STEP = "efficientnetv2s, 256 filters, batch of 8, 768 px"
HOURS = Hours(
    machine="2 x T4",
    step=STEP,
    steps=27_000,
    step_s=0.2,
    scoring_h=1.5,
    prediction_h=0.18,
    session_h=11.0,
    week_h=30.0,
)
TRAINING = "training: about 3.0 h on 2 x T4 (estimated), 10 % of the week's 30 h"
INFERENCE = "inference: about 0.18 h of 9 h, for 550 hidden images (estimated)"

needs_client = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


def pace(**changes: Any) -> Pace:
    return replace(Pace(0.4, 6.0, "2 x Tesla T4", "hubmap-train, version 1"), **changes)


def test_estimated_and_measured():
    """A measured pace replaces the estimate, if it was measured on the machine that will be used."""
    assert HOURS.training(None) == HOURS.training(pace(devices="1 x Tesla T4")) == TRAINING
    assert HOURS.training(pace()) == (
        "training: about 4.5 h on 2 x T4 (0.4 s a step, as measured), 15 % of the week's 30 h"
    )
    assert HOURS.prediction(pace(seconds_per_image=None)) == INFERENCE
    assert HOURS.prediction(pace()) == (
        "inference: about 0.92 h of 9 h, for 550 hidden images (6 s an image, as measured)"
    )


def test_too_long():
    """A training longer than a session or a week, and a prediction longer than its limit, say so and what to do."""
    assert HOURS.training(pace(seconds_per_step=2.0)).endswith("55 % of the week's 30 h, in 2 sessions")
    assert "; to train for less, lower EPOCHS" in HOURS.training(pace(seconds_per_step=4.0))
    assert "about 12 h of 9 h" in replace(HOURS, prediction_h=12.0).prediction(None)
    assert "that is too long: choose TTA none" in replace(HOURS, prediction_h=12.0).prediction(None)


@pytest.mark.parametrize(
    ("machine", "devices", "same"),
    [
        ("2 x T4", "2 x Tesla T4", True),
        ("2 x T4", "1 x Tesla T4", False),
        ("2 x T4", "2 x Tesla P100", False),
        ("TPU v5e-8", "8 x TPU", True),
        ("TPU v5e-8", "2 x Tesla T4", False),
        ("2 x T4", "?", False),
    ],
)
def test_a_pace_is_of_its_machine(machine, devices, same):
    """A pace counts only for as many devices of the same kind."""
    assert pace(devices=devices).is_of(machine) is same


def test_a_pace_is_of_its_recipe(tmp_path):
    """A pace counts only for its recipe; a damaged file is named."""
    path = tmp_path / "pace.json"
    assert read_pace(path, STEP) is None
    values = {"format": 1, "step": STEP, "devices": ["2 x Tesla T4"], "seconds_per_step": 0.5}
    path.write_text(json.dumps(values))
    assert read_pace(path, STEP) == Pace(0.5, None, "2 x Tesla T4", "?, version ?")
    assert read_pace(path, STEP.replace("8", "4")) is None
    for damaged in ("[]", "{", '{"seconds_per_step": "fast"}', '{"seconds_per_step": 0}', '{"seconds_per_step": true}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"pace\.json.*; delete it"):
            read_pace(path, STEP)


def test_a_folder_is_no_pace(tmp_path):
    """A folder in the place of the file is named, and not taken for a pace that was never measured."""
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory"):
        read_pace(tmp_path, STEP)


def test_estimate(tmp_path, monkeypatch):
    """The hours of changed settings come from plan kernel; its error, or a missing TensorFlow, is the error here."""
    commands, places = [], []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        places.extend(env["PYTHONPATH"].split(os.pathsep))
        text = json.dumps({"hours": asdict(HOURS)})
        return subprocess.CompletedProcess(command, len(commands) - 1, text, "warning\nerror: no memory\nhelp\n")

    monkeypatch.setattr(hours, "python_with_tensorflow", lambda clone: "python")
    monkeypatch.setattr(subprocess, "run", run)
    assert estimate(tmp_path, {"train": {"EPOCHS": 30, "LOSS": "bce"}}) == HOURS
    assert commands[0][3:] == ["plan", "kernel", "--json", "--set=train.EPOCHS=30", "--set=train.LOSS='bce'"]
    assert str(tmp_path / "dist" / "wheels" / "segmentation_models-1.0.1-py3-none-any.whl") in places
    assert not any("imagecodecs" in place for place in places)
    with pytest.raises(ValueError, match=r"error: no memory$"):
        estimate(tmp_path, {})
    monkeypatch.setattr(hours, "python_with_tensorflow", lambda clone: None)
    with pytest.raises(ValueError, match="nox -s rehearse"):
        estimate(tmp_path, {})


@needs_client
def test_push_shows_hours(place):
    """A dry run and a push show the hours of each kernel before it is sent, the measured ones once there are any."""
    pretend_rehearsal(place.clone, hours=asdict(HOURS))
    text = place.run("push", "--dry-run")
    assert text.index(TRAINING) < text.index("SaveKernel")
    assert TRAINING in (text := place.run("push", "kit", "train"))
    assert text.index(TRAINING) < text.index("hubmap-train: version 1, https")
    (place.clone / "records" / "pace.json").write_text(
        json.dumps({"format": 1, "step": STEP, "devices": ["2 x Tesla T4"], "seconds_per_step": 0.4})
    )
    text = place.run("push", "--dry-run")
    assert TRAINING not in text
    assert INFERENCE in text


@needs_client
@pytest.mark.parametrize(
    "changes", [{}, {"hours": asdict(HOURS), "dirty": True}, {"hours": asdict(HOURS), "commit": "?"}]
)
def test_push_without_hours(place, changes):
    """If the rehearsal was of an earlier version of the kit, or of another state, the hours are said to be unknown."""
    pretend_rehearsal(place.clone, **changes)
    text = place.run("push", "train", "--dry-run", "--force")
    assert "hours on Kaggle unknown: a rehearsal of this commit estimates them; run: nox -s rehearse" in text


def estimated_here() -> None:
    """In place of TensorFlow, halve the steps."""
    hours.estimate = lambda clone, changes: replace(HOURS, steps=13_500)  # type: ignore[assignment]


@needs_client
def test_push_with_changed_settings_shows_their_hours(place):
    """With --set a dry run shows the hours of the changed settings."""
    pretend_rehearsal(place.clone, hours=asdict(HOURS))
    text = place.run("push", "--dry-run", "--set", "EPOCHS=75", before=estimated_here)
    assert "training: about 2.2 h" in text


def test_a_damaged_verdict(tmp_path):
    """Hours of another form are called damage."""
    from hubmap_kit.kaggle.verdict import FILE, Verdict

    Verdict(passed=True, bundle="kit", hours={**asdict(HOURS), "steps": "many"}).write(tmp_path)
    with pytest.raises(ValueError, match=rf"{FILE} is damaged \(steps is 'many'"):
        Verdict.read(Path(tmp_path))
