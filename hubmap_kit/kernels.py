"""What the two kernels in ``kernels/`` do on Kaggle, from their settings to their output.

A kernel file holds its settings, puts this library on ``sys.path`` and makes one call: `train` or `infer`. Both begin
with `start`, which checks the dataset hubmap-kit and installs the wheels that Kaggle's image lacks. The library itself
is imported from its wheel, which is a zip file: nothing here may expect files beside the code.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .competition import SUBMISSION
from .files import has_type, type_text
from .kaggle.manifest import LIBRARY, MANIFEST, Manifest
from .kaggle.names import CHANGES
from .kaggle.session import find_competition, find_runs, find_unfinished

if TYPE_CHECKING:
    from .config import PredictConfig, PrepareConfig, TrainConfig

MOST_H = 12  # hours of Kaggle's longest sessions
ROOT = Path(os.environ.get("HUBMAP_KAGGLE_ROOT", "/kaggle"))  # set to another folder by a rehearsal without isolation
INPUT, WORKING = ROOT / "input", ROOT / "working"
# A page beside a kernel's output may take so many seconds and MB. The page about the competition's 351 training images
# takes 590 s on one core.
PAGE_S, DATA_PAGE_S, PAGE_MB = 180.0, 420.0, 10
TRIAL_S = 120.0  # a kernel that trained for so short a time was a trial, and the page about the data would double it


@dataclass(frozen=True)
class TrainSettings:
    """The settings in ``kernels/train/train.py``, where each is explained."""

    PATCH_SIZE: int
    INPUT_SIZE: int
    CONTEXT: float | str | None
    TEST_SIZE: int | None
    VAL_SIZE: int | None
    FOLDS: int
    FOLD: int | Literal["all"] | None
    RECIPE: str
    MODEL: str | None
    ENCODER: str | None
    ENCODER_WEIGHTS: str | None
    EPOCHS: int | None
    STEPS_PER_EPOCH: int | None
    BATCH_SIZE: int | None
    LEARNING_RATE: float | None
    LOSS: str | None
    AUGMENT: str | None
    SEED: int
    TIME_LIMIT: float | None

    def geometry(self) -> PrepareConfig:
        """The settings of the preparation; raises ValueError if one is out of bounds."""
        from .config import PrepareConfig

        return PrepareConfig(
            patch_size=self.PATCH_SIZE,
            input_size=self.INPUT_SIZE,
            context=None if self.CONTEXT is None else str(self.CONTEXT),
            test_size=self.TEST_SIZE,
            val_size=self.VAL_SIZE,
            folds=self.FOLDS,
            seed=self.SEED,
        )

    def config(self) -> TrainConfig:
        """The settings of the training, the recipe's where these are None; raises ValueError at one out of bounds."""
        from .recipes import recipe

        changes = {
            "model": self.MODEL,
            "encoder": self.ENCODER,
            "encoder_weights": self.ENCODER_WEIGHTS,
            "epochs": self.EPOCHS,
            "steps_per_epoch": self.STEPS_PER_EPOCH,
            "batch_size": self.BATCH_SIZE,
            "learning_rate": self.LEARNING_RATE,
            "loss": self.LOSS,
            "augment": self.AUGMENT,
            "fold": self.FOLD if self.FOLDS and self.FOLD != "all" else None,
        }
        return recipe(
            self.RECIPE, seed=self.SEED, **{name: value for name, value in changes.items() if value is not None}
        )

    def trains_all_folds(self) -> bool:
        """Whether every fold is trained."""
        return bool(self.FOLDS) and self.FOLD == "all"

    def check(self) -> None:
        """Raise ValueError if a setting is out of bounds."""
        self.geometry()
        self.config()
        _check_time_limit(self.TIME_LIMIT)


@dataclass(frozen=True)
class InferSettings:
    """The settings in ``kernels/infer/infer.py``, where each is explained."""

    RUNS: list[str] | None
    PATCH_SIZE: int | None
    OVERLAP: float | None
    TTA: str
    SCALES: str
    STAIN: str
    ADAPT: str
    THRESHOLD: float | str | None
    MIN_REGION: float | str | None
    BATCH_SIZE: int | None
    SKIP_BACKGROUND: bool
    TIME_LIMIT: float | None
    ON_ERROR: str

    def config(self, left_s: float | None) -> PredictConfig:
        """The settings of the prediction; raises ValueError if one is out of bounds.

        Args:
            left_s: Seconds that are left; None without a limit.
        """
        from .config import PredictConfig

        return PredictConfig(
            tile_size=self.PATCH_SIZE,
            overlap=self.OVERLAP,
            tta=self.TTA,
            scales=self.SCALES,
            stain=self.STAIN,
            adapt=self.ADAPT,
            threshold=self.THRESHOLD,
            min_region_um2=self.MIN_REGION,
            batch_size=self.BATCH_SIZE,
            skip_background=self.SKIP_BACKGROUND,
            time_limit_min=None if left_s is None else max(0.0, left_s / 60),
            on_error=self.ON_ERROR,
        )

    def check(self) -> None:
        """Raise ValueError if a setting is out of bounds."""
        self.config(None)
        _check_time_limit(self.TIME_LIMIT)


def _check_time_limit(hours: float | None) -> None:
    if hours is not None and not 0 < hours <= MOST_H:
        raise ValueError(f"TIME_LIMIT is {hours}; it must be above 0 and at most {MOST_H}, the hours of a session")


Settings = TypeVar("Settings", TrainSettings, InferSettings)


def train(given: Mapping[str, Any], dataset: Path) -> None:
    """Prepare, train, and leave the run folder as the kernel's output.

    If the output of an earlier version of the kernel is attached and its training is unfinished, that training goes on.

    Args:
        given: Every setting of the kernel file by name, as in `TrainSettings`.
        dataset: The attached dataset hubmap-kit.

    Raises:
        SystemExit: A setting is out of bounds, or the competition is not attached. The text says what to do.
    """
    begin = time.monotonic()
    settings = start(TrainSettings, given, dataset)

    with _one_line_errors():
        settings.check()
        geometry, config = settings.geometry(), settings.config()
        data, previous = find_competition(INPUT), find_unfinished(INPUT)

    # Imported once the settings are known to be right, because TensorFlow takes long.
    from .models.hardware import start_tensorflow
    from .preparation.prepare import gaps, prepare

    start_tensorflow()
    from .run import RESULTS
    from .training.train import train as train_run

    run = WORKING / "run"
    if previous:
        print(f"going on with the unfinished training in {previous}", flush=True)
        _copy_files(previous, run)
    with tempfile.TemporaryDirectory() as patches:  # not in the working folder, which becomes the kernel's output
        for problem in gaps(prepare(data, Path(patches), geometry)):
            print(problem, flush=True)
        finished = train_run(
            Path(patches),
            run,
            config,
            recipe=settings.RECIPE,
            resume=previous is not None,
            time_limit_s=_seconds_left(settings.TIME_LIMIT, begin),
            all_folds=settings.trains_all_folds(),
        )
    if previous is None and time.monotonic() - begin > TRIAL_S:
        left = _seconds_left(settings.TIME_LIMIT, begin)
        _write_page(WORKING / "data.html", ("inspect", data), left, DATA_PAGE_S)
    if finished:
        print((run / RESULTS).read_text(encoding="utf-8"))
    else:
        print(
            "the training is not finished: run this kernel again, the same but with its own output attached "
            "(its id in kernel_sources of kernel-metadata.json), and it goes on"
        )


def infer(given: Mapping[str, Any], dataset: Path) -> None:
    """Predict the test images to ``submission.csv``, then check what was written.

    Args:
        given: Every setting of the kernel file by name, as in `InferSettings`.
        dataset: The attached dataset hubmap-kit.

    Raises:
        SystemExit: With status 1 if an image cannot be predicted and ON_ERROR is ``stop``; with a text that says what
            to do if a setting is out of bounds, or the competition or a run is not attached.
    """
    begin = time.monotonic()
    settings = start(InferSettings, given, dataset)

    from .prediction.predict import predict
    from .submission import validate
    from .tables import summarize

    with _one_line_errors():
        settings.check()
        config = settings.config(_seconds_left(settings.TIME_LIMIT, begin))
        data, runs = find_competition(INPUT), find_runs(INPUT, settings.RUNS)
    print("runs:", *runs, flush=True)
    submission = WORKING / SUBMISSION
    problems = predict(data, runs, submission, config)
    # What is wrong with test.csv was among these already, as ON_ERROR has it.
    problems += [problem for problem in validate(submission, data) if problem.file == submission.name]
    for problem in summarize(problems):
        print(problem)
    if any(problem.severity == "error" for problem in problems):
        sys.exit(1)
    print(f"{submission} is valid", flush=True)
    command = ("review", submission, "--data", data, *(word for run in runs for word in ("--run", run)))
    _write_page(WORKING / "review.html", command, _seconds_left(settings.TIME_LIMIT, begin))


def _write_page(page: Path, command: Sequence[object], left_s: float | None, most_s: float = PAGE_S) -> None:
    """Write a page beside the kernel's output, once that is complete, and say in one line how it went.

    A process of its own does it, for a limited time: whatever happens to it, the kernel ends well. A scoring rerun
    leaves no page, because nobody sees its output.

    Args:
        page: The page.
        command: Words of the command that writes it, without ``--out`` and ``--max-mb``.
        left_s: Seconds that the kernel has left; None if it has no limit.
        most_s: Seconds after which the page is given up.
    """
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        return
    if left_s is not None and left_s < most_s:
        print(f"{page.name} is not written, because the time limit is near")
        return
    words = [sys.executable, "-m", LIBRARY, *command, "--out", page, "--max-mb", PAGE_MB, "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            list(map(str, words)), env=environment, capture_output=True, text=True, errors="replace", timeout=most_s
        )
        failure = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        failure = f"it takes more than {most_s:.0f} s"
    except OSError as error:
        failure = str(error)
    for part in page.parent.glob(f".*{page.name}"):  # what a process leaves that was stopped while it wrote
        part.unlink(missing_ok=True)
    print(f"look at {page}" if page.is_file() else f"{page.name} is not written: {failure}", flush=True)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """End the kernel with status 1 and the text of a ValueError, which says what to do, without a traceback."""
    try:
        yield
    except ValueError as error:
        sys.exit(str(error))


def start(kind: type[Settings], given: Mapping[str, Any], dataset: Path) -> Settings:
    """Apply the changes to the settings, check the dataset hubmap-kit, and install the wheels that are missing.

    Args:
        kind: Which kernel's settings they are.
        given: Every setting of the kernel file by name.
        dataset: The attached dataset hubmap-kit.

    Returns:
        The settings, with the changes that the environment variable HUBMAP_SETTINGS names.

    Raises:
        SystemExit: A setting is unknown or of the wrong type, or a wheel is damaged or cannot be installed. The text
            is one line with what to do.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # leaves TensorFlow's start-up notes out of the log
    with _one_line_errors():
        settings = apply_changes(kind, given, os.environ.get(CHANGES, "{}"))
        manifest = Manifest.read(dataset)
        state = " with uncommitted changes" if manifest.dirty else ""
        print(f"hubmap-kit {manifest.version}, commit {manifest.commit}{state}, from {dataset}")
        if damaged := manifest.damaged(dataset):
            raise ValueError(
                f"{damaged[0]} is missing or is not the file that {MANIFEST} describes; upload the dataset again"
            )
        installed = install_missing(dataset, manifest)
    print(
        f"installed {', '.join(installed) or 'nothing: this image has all modules of the bundled wheels'}", flush=True
    )
    return settings


def apply_changes(kind: type[Settings], given: Mapping[str, Any], changes_text: str) -> Settings:
    """The settings of a kernel file with some changed by the environment variable HUBMAP_SETTINGS.

    Args:
        kind: Which kernel's settings they are.
        given: Every setting of the kernel file by name.
        changes_text: A JSON object of setting to value.

    Raises:
        ValueError: `changes_text` is no JSON object or names an unknown setting, a value has the wrong type,
            or the kernel file has other settings than this version of the library.
    """
    try:
        changes = json.loads(changes_text)
    except ValueError as error:
        raise ValueError(f"{CHANGES} is not valid JSON ({error}); write it as " + '{"SETTING": value}') from error
    if not isinstance(changes, dict):
        raise ValueError(f"{CHANGES} is {changes_text}; it must be a JSON object, as " + '{"SETTING": value}')
    settings = changed(kind, given, changes, CHANGES)
    if changes:
        print(f"settings changed by {CHANGES}: {json.dumps(changes)}")
    return settings


KINDS: dict[str, Any] = {"train": TrainSettings, "infer": InferSettings}  # of settings, by kernel


def changed(kind: type[Settings], given: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> Settings:
    """The settings of a kernel file with some changed; raises as `apply_changes` does.

    Args:
        kind: Which kernel's settings they are.
        given: Every setting of the kernel file by name.
        changes: The new values.
        where: Where these come from, for the messages.
    """
    hints = typing.get_type_hints(kind)
    if given.keys() != hints.keys():
        differing = ", ".join(sorted(given.keys() ^ hints.keys()))
        raise ValueError(
            f"the kernel and the dataset hubmap-kit are of different commits: only one has {differing}; "
            "take both from one commit, and push both"
        )
    if unknown := sorted(changes.keys() - hints.keys()):
        raise ValueError(f"{where} names {', '.join(unknown)}; the settings are {', '.join(sorted(hints))}")
    for name, value in {**given, **changes}.items():
        if not has_type(value, hints[name]):
            place = f"in {where}" if name in changes else "in the kernel file"
            raise ValueError(f"{name} is {value!r} {place}; it must be {type_text(hints[name])}")
    return kind(**{**given, **changes})


def value_of(kind: type[Settings], name: str, text: str) -> Any:
    """The value of a setting as it is typed: as in Python, or a text without quotation marks where a text is allowed.

    >>> value_of(TrainSettings, "EPOCHS", "3"), value_of(InferSettings, "SCALES", "1")
    (3, '1')
    """
    hint = typing.get_type_hints(kind)[name]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    return value if has_type(value, hint) else text


def install_missing(dataset: Path, manifest: Manifest) -> list[str]:
    """Install the wheels whose modules are missing into a folder of their own, offline; returns their file names.

    The library's own wheel is not installed: it is on ``sys.path`` already.
    """
    missing = [
        wheel.file
        for wheel in manifest.wheels
        if wheel.module != LIBRARY and importlib.util.find_spec(wheel.module) is None
    ]
    if missing:
        folder = tempfile.mkdtemp(prefix="hubmap-kit-")
        flags = [
            "--isolated",
            "--no-index",
            "--no-deps",
            "--no-compile",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            folder,
        ]
        command = [sys.executable, "-m", "pip", "install", *flags, *(str(dataset / file) for file in missing)]
        environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}  # a user's settings could install elsewhere
        pip = subprocess.run(command, env=environment, capture_output=True, text=True)
        if pip.returncode:
            python = sys.version.split()[0]
            raise ValueError(f"the wheels in {dataset} cannot be installed on Python {python}:\n{pip.stderr}")
        sys.path.insert(0, folder)
    return missing


def _seconds_left(hours: float | None, begin: float) -> float | None:
    """Seconds until so many hours after `begin`, a time of ``time.monotonic``; None if there is no limit."""
    return None if hours is None else 3600 * hours - (time.monotonic() - begin)


def _copy_files(source: Path, target: Path) -> None:
    """Copy the files of a folder; unlike `shutil.copytree`, without making the target read-only as the source is."""
    for path in filter(Path.is_file, source.rglob("*")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
