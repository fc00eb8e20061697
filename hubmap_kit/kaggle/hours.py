"""How long the kernels take on Kaggle: estimated by a rehearsal, or measured by the kernels themselves."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..competition import TEST_IMAGES
from ..files import check_types, has_type, read_object
from ..words import percent
from .bundle import CACHE, WHEELS
from .names import INFER, TRAIN

SCORING_H = 9  # Kaggle's limit for a kernel that predicts the hidden images


@dataclass(frozen=True)
class Pace:
    """Times that kernels measured on Kaggle; None for what was not measured.

    Attributes:
        seconds_per_step: Time of a training step, in s.
        seconds_per_image: Time to predict an image, in s.
        devices: What the step was measured on, such as ``2 x Tesla T4``.
        kernel: The kernel that measured the step, and its version.
    """

    seconds_per_step: float | None
    seconds_per_image: float | None
    devices: str
    kernel: str

    def is_of(self, machine: str) -> bool:
        """Whether it was measured on such a machine, such as ``2 x T4`` or ``TPU v5e-8``."""
        number, _, name = machine.rpartition(" x ")
        name, _, chips = name.partition(" v5e-")
        return self.devices.startswith(f"{number or chips} x") and name in self.devices


def read_pace(path: Path, step: str) -> Pace | None:
    """The pace of a training step in a ``pace.json``, as `hubmap-kit push` records it.

    Args:
        path: The file.
        step: What a step does, see `hubmap_kit.config.TrainConfig.step_text`.

    Returns:
        None if there is no such file, or if another step was measured.

    Raises:
        ValueError: It is damaged; the text names it.
    """
    if not os.path.lexists(path):
        return None
    return read_object(path, lambda values: _pace(values, step), "delete it")


def _pace(values: dict[str, Any], step: str) -> Pace | None:
    """The pace in a JSON object, if it is of this step."""
    times = [values.get(f"seconds_per_{what}") for what in ("step", "image")]
    if times == [None, None]:
        raise ValueError("it needs seconds_per_step or seconds_per_image")
    for time_s in times:
        if time_s is not None and not (has_type(time_s, float) and 0 < time_s < math.inf):
            raise ValueError("seconds_per_step and seconds_per_image must be numbers above 0")
    if values.get("step") != step:
        return None
    devices = values.get("devices") or ["?"]
    if not isinstance(devices, list):
        raise TypeError("devices must be a list of names")
    kernel = f"{values.get('kernel', '?')}, version {values.get('version', '?')}"
    return Pace(times[0], times[1], " ".join(map(str, devices)), kernel)


@dataclass(frozen=True)
class Hours:
    """How long the two kernels take on Kaggle, as ``hubmap-kit plan kernel`` estimates it.

    Attributes:
        machine: Kaggle's machine, such as ``2 x T4``.
        step: What a step does, see `hubmap_kit.config.TrainConfig.step_text`.
        steps: Steps of all trainings together.
        step_s: Estimated time of a step, in s.
        scoring_h: Estimated hours of validations and scores.
        prediction_h: Estimated hours to predict the hidden images.
        session_h: Hours after which the training goes on in another session.
        week_h: Hours that Kaggle gives a week.
    """

    machine: str
    step: str
    steps: int
    step_s: float
    scoring_h: float
    prediction_h: float
    session_h: float
    week_h: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Hours:
        """The hours in a JSON object; raises ValueError or TypeError if it is damaged."""
        check_types(cls, values)
        return cls(**values)

    def training(self, pace: Pace | None) -> str:
        """The training's hours and their share of a week's, in a line."""
        measured = pace.seconds_per_step if pace and pace.is_of(self.machine) else None
        hours = self.steps * (measured or self.step_s) / 3600 + self.scoring_h
        how = f"{measured:.2g} s a step, as measured" if measured else "estimated"
        text = f"training: about {_number(hours)} h on {self.machine} ({how}), "
        text += f"{percent(hours / self.week_h)} of the week's {self.week_h:g} h"
        if hours > self.session_h:
            text += f", in {math.ceil(hours / self.session_h)} sessions"
        return text + ("; to train for less, lower EPOCHS" if hours > self.week_h else "")

    def prediction(self, pace: Pace | None) -> str:
        """The hours to predict the hidden images, in a line."""
        measured = pace.seconds_per_image if pace and pace.is_of(self.machine) else None
        hours = TEST_IMAGES * measured / 3600 if measured else self.prediction_h
        how = f"{measured:.2g} s an image, as measured" if measured else "estimated"
        text = f"inference: about {_number(hours)} h of {SCORING_H} h, for {TEST_IMAGES} hidden images ({how})"
        if hours > SCORING_H:
            text += "; that is too long: choose TTA none, fewer SCALES or fewer FOLDS, or the kernel does with less"
        return text

    def lines(self, pace: Pace | None) -> dict[str, str]:
        """The line of each kernel, by its name on Kaggle."""
        return {TRAIN: self.training(pace), INFER: self.prediction(pace)}


def _number(hours: float) -> str:
    """Hours with two digits, or as a whole number."""
    return f"{hours:.0f}" if hours >= 9.95 else f"{hours:.1f}" if hours >= 0.995 else f"{hours:.2f}"


def python_with_tensorflow(clone: Path) -> str | None:
    """This Python if it has TensorFlow, else that of the session ``rehearse``; None if there is neither."""
    folder = clone / ".nox" / "rehearse"
    pythons = [sys.executable] if importlib.util.find_spec("tensorflow") else []
    pythons += [str(path) for path in (folder / "bin/python", folder / "Scripts/python.exe") if path.is_file()]
    return next(iter(pythons), None)


def _with_wheels(clone: Path) -> dict[str, str]:
    """The environment in which a Python also imports the pure wheels that Kaggle's image, and so a rehearsal's, lacks.

    Building the bundle has left them in ``dist/wheels``.
    """
    wheels = [str(clone / CACHE / wheel.file) for wheel in WHEELS if wheel.file.endswith("-none-any.whl")]
    given = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*([given] if given else []), *wheels])}


def estimate(clone: Path, settings: Mapping[str, Mapping[str, Any]]) -> Hours:
    """Estimate the hours, in a process of its own that imports TensorFlow, in 5 to 20 s.

    Args:
        clone: The clone.
        settings: Changed settings for ``train`` and ``infer``.

    Raises:
        ValueError: They cannot be estimated.
    """
    python = python_with_tensorflow(clone)
    if python is None:
        raise ValueError("that needs TensorFlow; run: nox -s rehearse")
    command = [python, "-m", "hubmap_kit", "plan", "kernel", "--json"]
    for part, values in settings.items():
        command += [f"--set={part}.{name}={value!r}" for name, value in values.items()]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, env=_with_wheels(clone))
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ValueError(next((line for line in lines if line.startswith("error: ")), lines[-1]))
    return Hours.from_json(json.loads(done.stdout)["hours"])
