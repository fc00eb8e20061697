"""The rehearsal: a whole competition on this machine, through the very kernels that Kaggle will run.

Its steps: draw a competition, build the bundle, run the training kernel, make a dataset of its output, run the
inference kernel on a public test set of one image, run it again on a hidden test set as Kaggle's scoring does, then
validate, score and draw. The kernels run in `hubmap_kit.rehearsal.isolation`, offline, within Kaggle's limits, and see
only the sources that their ``kernel-metadata.json`` names. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from ..claim import LOCK
from ..competition import SLUG, SUBMISSION, table_path
from ..demo.write import write_demo
from ..files import sha256_of, size_text
from ..kaggle.bundle import WHEELS, build_bundle
from ..kaggle.clone import image_versions
from ..kaggle.hours import SCORING_H, Hours, estimate, read_pace
from ..kaggle.manifest import MANIFEST, Manifest
from ..kaggle.metadata import DATASETS, KERNELS, dataset_metadata, kernel_metadata
from ..kaggle.names import INFER, KIT, TRAIN, WEIGHTS
from ..kaggle.records import FOLDER, PACE, now
from ..kaggle.verdict import Verdict
from ..kaggle.weights import build_weights, unpack
from ..machine import cores
from ..metrics import mean_dice
from ..reports.inspect import write_inspection
from ..reports.overlays import contact_sheet
from ..reports.report import write_report
from ..reports.review import write_review
from ..run import SCORES, Run, expand
from ..submission import problems_path, read_problems, read_timings, score
from ..tables import read_images
from . import isolation
from .hidden_set import CORRUPT, HIDDEN, HiddenImage, write_hidden
from .kernels import FEW, FEW_PX, ONE_STEP, REMEDIES, SMALL, Failure, KernelRunner, Limits

LEAST_DICE = 0.75  # mean Dice on the drawn hidden set from which the network counts as trained

# The settings that differ from the kernel files. smoke is the training kernel's own network and geometry, but one step
# of one small patch on one fold, and no download; train is a network that two cores train in minutes.
_ONE_SPLIT = {"PATCH_SIZE": 1024, "TEST_SIZE": None, "FOLDS": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {**ONE_STEP, **SMALL},
    "train": {**_ONE_SPLIT, "RECIPE": "fast", "ENCODER_WEIGHTS": "none", "INPUT_SIZE": 96},
    "infer": {},
}

_MARKER = "rehearsal.json"
TRUTH = "test_truth.csv"


@dataclass(frozen=True)
class Options:
    """The options of a rehearsal.

    Attributes:
        data: A competition folder to train on, whose test part is the public test set; None for a demo. If it has a
            ``test_truth.csv``, its test part is scored, else the run's validation images; without `data`, the hidden
            set is scored.
        runs: Run folders to predict with instead of training.
        train: Number of training images of the demo.
        size: Side of its training images, in px.
        seed: Seed of the demo and of the hidden set.
        settings: ``smoke``, ``train`` or ``infer`` to setting to value, in addition to `SETTINGS`.
        limits: What a kernel may take.
    """

    data: Path | None = None
    runs: Sequence[Path] = ()
    train: int = 80
    size: int = 1024
    seed: int = 0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def changes(self) -> dict[str, dict[str, Any]]:
        """Settings that differ from the kernel files, for ``smoke``, ``train`` and ``infer``."""
        return {name: {**own, **self.settings.get(name, {})} for name, own in SETTINGS.items()}

    def as_json(self) -> dict[str, Any]:
        """The options as the verdict records them."""
        return {
            "data": None if self.data is None else str(self.data.resolve()),
            "runs": [str(run.resolve()) for run in self.runs],
            **{"train": self.train, "size": self.size, "seed": self.seed, "settings": self.changes()},
            **{"memory_limit_bytes": self.limits.memory_bytes, "time_limit_seconds": self.limits.time_s},
        }


@dataclass(frozen=True)
class Shortcuts:
    """Settings with which tests make a rehearsal smaller.

    Attributes:
        hidden: The hidden set to draw.
        extras: Whether the bundle holds the wheels that Kaggle's image lacks; False if this Python has them all.
        least_dice: Mean Dice on the hidden set that a network trained here on the demo has to reach.
    """

    hidden: Sequence[HiddenImage] = HIDDEN
    extras: bool = True
    least_dice: float = LEAST_DICE


def rehearse(out: Path, clone: Path, options: Options = Options(), shortcuts: Shortcuts = Shortcuts()) -> bool:
    """Rehearse the competition, print the findings, and write them to ``verdict.json`` and ``scores.csv``.

    Args:
        out: Folder to make; an earlier rehearsal there is replaced.
        clone: The clone, whose kernels and library are rehearsed.
        options: What to rehearse on, and how.
        shortcuts: For tests.

    Returns:
        Whether both submissions are valid, the corrupt image spoiled no other image, and the network learned.

    Raises:
        ValueError: An option or the metadata is wrong, `out` holds something else, or the bundle cannot be built.
    """
    _check_options(out, options)
    for slug in (TRAIN, INFER):
        kernel_metadata(clone / KERNELS[slug], slug)
    for slug in (KIT, WEIGHTS):
        dataset_metadata(clone / DATASETS[slug], slug)
    out = out.resolve()
    _clear(out)
    begin = time.monotonic()
    obstacle = isolation.obstacle()
    runner = KernelRunner(out, clone, options.limits, isolated=obstacle is None)
    verdict = Verdict(
        passed=False,
        bundle=f"input/{KIT}",
        options=options.as_json(),
        isolated=runner.isolated,
        not_isolated=() if runner.isolated else isolation.NOT_ISOLATED,
        versions=differing_versions(image_versions(clone)),
        seconds=runner.seconds,
        peak_memory_bytes=runner.peak_memory,
    )
    _print_surroundings(obstacle, verdict.versions)
    kit, weights, hidden_set = (out / "input" / name for name in (KIT, WEIGHTS, "hidden"))
    data, runs, changes = options.data, options.runs, options.changes()
    try:
        with runner.step("competition"):
            competition, truth = data or out / "input" / "demo", (data or out) / TRUTH
            if not data:
                # If nothing is trained, the smallest demo will do.
                write_demo(
                    competition, train=5 if runs else options.train, test=1, size=options.size, seed=options.seed
                )
                shutil.move(competition / TRUTH, truth)
        with runner.step("bundle"):
            build_bundle(clone, kit, extras=shortcuts.extras)
            manifest, sha256 = Manifest.read(kit), sha256_of(kit / MANIFEST)
            verdict = replace(verdict, commit=manifest.commit, dirty=manifest.dirty, manifest_sha256=sha256)
        with runner.step("hours on Kaggle"):
            verdict = replace(verdict, hours=_hours(clone))
        attached = {SLUG: competition, KIT: kit, WEIGHTS: weights}
        members = trained = list(runs)
        if not runs:
            smoke = runner.train("smoke", changes["smoke"], attached | {SLUG: data or _few_images(out)}, "flat")
            trained = [runner.train("train", changes["train"], attached, "nested")]
            members = [smoke, *trained]
        with runner.step("weights"):
            unpack(build_weights(members, out / WEIGHTS, clone), weights)
        public = runner.predict("public", changes["infer"], attached, "nested")
        with runner.step("hidden test set"):
            images = write_hidden(hidden_set, out / "hidden_truth.csv", options.seed, shortcuts.hidden)
        # The smoke run has learned nothing: that it predicts one image is enough.
        chosen = changes["infer"] if runs else {"RUNS": [run.name for run in trained]} | changes["infer"]
        rerun = runner.predict("hidden", chosen, attached | {SLUG: hidden_set}, "flat", KAGGLE_IS_COMPETITION_RERUN="1")
        hours = _extrapolated_s(runner.seconds["hidden"], rerun, images) / 3600
        verdict = replace(verdict, extrapolated_hours=hours)
        with runner.step("score and pictures"):
            _check_problems(rerun, images)
            if not data:
                competition, public, truth = _without_corrupt(hidden_set, rerun, out / "hidden_truth.csv", images, out)
            if truth.is_file():
                scores = score(public, truth)
                contact_sheet(competition, public, truth, out / "overlays.png")
            else:
                scores = _validation_scores(trained)
            scores.to_csv(out / SCORES, index=False)
        with runner.step("pages"):
            _write_pages(out, data or out / "input" / "demo", public, competition, truth, trained)
    except Failure as failure:
        replace(verdict, failure=str(failure), finished_at=now()).write(out)
        print(failure)
        return False
    dice = mean_dice(scores)
    passed = bool(data or runs or dice >= shortcuts.least_dice)
    print("== verdict")
    _print_measures(runner, verdict, images)
    steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in runner.seconds.items())
    print(f"rehearsed in {time.monotonic() - begin:.0f} s: {steps}")
    if data:
        where = truth if truth.is_file() else "the run's own validation images, as the data has no test_truth.csv"
        print(f"The score is on {where}; the hidden images were drawn.")
    if not passed:
        print(f"The mean Dice {dice:.4f} is below {shortcuts.least_dice}: the network has not learned enough.")
    known_dice = None if math.isnan(dice) else dice
    replace(verdict, passed=passed, mean_dice=known_dice, finished_at=now()).write(out)
    return passed


def _few_images(out: Path) -> Path:
    """Draw ten small images for the smoke step, which scores every image with the large network."""
    folder = out / "input" / "few"
    write_demo(folder, train=FEW, test=1, size=FEW_PX, seed=0)
    (folder / TRUTH).unlink()
    return folder


def _hours(clone: Path) -> dict[str, Any] | None:
    """Estimate how long the kernels take on Kaggle; None, with the reason printed, if they cannot be estimated."""
    try:
        hours = estimate(clone, {})
    except ValueError as error:
        print(f"hours on Kaggle unknown: {error}")
        return None
    return asdict(hours)


def _write_pages(
    out: Path, trained_on: Path, submission: Path, predicted: Path, truth: Path, runs: Sequence[Path]
) -> None:
    """Write the pages about the data and the submission, and print where the three pages are.

    Args:
        out: The rehearsal's folder.
        trained_on: The competition folder that was trained on, or would have been.
        submission: The submission that was scored.
        predicted: The competition folder that it predicts.
        truth: Its true masks, if there are any.
        runs: The runs that predicted it.
    """
    by_kernel = out / "train" / "data.html"
    if by_kernel.is_file():
        shutil.copyfile(by_kernel, out / "data.html")
    else:
        write_inspection(trained_on, out / "data.html")
    truth_or_none = truth if truth.is_file() else None
    review = write_review(submission, predicted, out / "review.html", truth=truth_or_none, runs=runs)
    print(f"the submission: {review.verdict}")
    write_report(runs, out / "report.html", data=trained_on)
    for name, about in (("data", "the data"), ("report", "the run"), ("review", "the submission")):
        print(f"look at {about}: {out / name}.html")


def differing_versions(image: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """Packages whose version here differs from the one in Kaggle's image.

    Args:
        image: Name to version in Kaggle's image; see `hubmap_kit.kaggle.clone.image_versions`.

    Returns:
        Name to ``here`` (None if it is missing) and ``kaggle``.
    """

    def version(name: str) -> str | None:
        if name == "python":
            return platform.python_version()
        if name.startswith("opencv"):  # OpenCV is distributed under several names
            return str(cv2.__version__)
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    found = {name: (version(name), kaggle) for name, kaggle in image.items()}
    return {
        name: {"here": here, "kaggle": kaggle}
        for name, (here, kaggle) in found.items()
        if here != kaggle and not (here or "").startswith(kaggle + ".")
    }


def _print_surroundings(obstacle: str | None, versions: Mapping[str, Mapping[str, str | None]]) -> None:
    """Print how this environment differs from Kaggle's."""
    if versions:
        print(f"{'version of':<24}{'here':<14}Kaggle's image")
        for name, version in versions.items():
            print(f"{name:<24}{version['here'] or 'missing':<14}{version['kaggle']}")
    else:
        print("The packages have the versions of Kaggle's image.")
    extra = [wheel.module for wheel in WHEELS if importlib.util.find_spec(wheel.module)]
    if extra:
        print(f"Wheels of the bundle that were not tried, because the packages are installed here: {', '.join(extra)}")
    if obstacle:
        print(f"The kernels run without isolation: {obstacle}.")


def _print_measures(runner: KernelRunner, verdict: Verdict, images: pd.DataFrame) -> None:
    """Print what was checked and measured."""
    corrupt = ", ".join(map(str, images.index[images["form"] == CORRUPT]))
    print(f"valid submissions: of the public test set, and of {len(images)} hidden images in the scoring rerun")
    if corrupt:
        print(f"corrupt image {corrupt}: named by the kernel, with an empty mask, left out of the mean Dice")
    peaks = ", ".join(f"{name} {size_text(peak)}" for name, peak in runner.peak_memory.items())
    print(f"peak memory: {peaks}; the limit is {size_text(runner.limits.memory_bytes)}")
    print(f"bootstrap: {runner.bootstrap_s:.1f} s")
    hours = verdict.extrapolated_hours or 0.0
    network = "the runs given" if verdict.options["runs"] else "the network trained here"
    machine = f"with {network} on this machine ({cores()} CPU cores)"
    print(f"run time for {images['stands_for'].sum()} such hidden images: {hours:.2f} h of {SCORING_H} h, {machine}")
    if hours > SCORING_H:
        print(f"warning: that is too long here; Kaggle's GPUs are faster, or {REMEDIES['infer', 'time']}")
    if verdict.hours:
        planned = Hours.from_json(verdict.hours)
        pace = read_pace(runner.clone / FOLDER / PACE, planned.step)
        print("on Kaggle:", *planned.lines(pace).values(), sep="\n  ")
    print("isolated" if runner.isolated else "\n  ".join(["not isolated:", *verdict.not_isolated]))


def _extrapolated_s(seconds: float, submission: Path, images: pd.DataFrame) -> float:
    """Seconds that the inference kernel would take for Kaggle's hidden set, from what it took for the drawn one.

    An image's seconds are the sum of stages that overlap in time, so the true value is lower.
    """
    stands_for: dict[Any, float] = images["stands_for"].to_dict()
    timings = read_timings(submission)
    beside = seconds - sum(timing.seconds for timing in timings)
    return max(0.0, beside) + sum(timing.seconds * stands_for[timing.id] for timing in timings)


def _check_problems(submission: Path, images: pd.DataFrame) -> None:
    """Check that the kernel named the corrupt image and no other one, and gave it an empty mask."""
    path = problems_path(submission)
    named = {problem.image_id for problem in read_problems(submission) if problem.image_id is not None}
    corrupt = set(images.index[images["form"] == CORRUPT])
    masks = pd.read_csv(submission, keep_default_na=False).set_index("id")["rle"]
    for image_id in sorted(named ^ corrupt):
        how = "was not predicted" if image_id in named else "was not named as one that cannot be read"
        raise Failure(f"The hidden image {image_id} ({images['form'][image_id]}) {how}; see {path} and the log.")
    for image_id in sorted(corrupt):
        if masks[image_id]:
            raise Failure(f"The corrupt hidden image {image_id} has a mask in {submission}; it must be empty.")


def _without_corrupt(
    data: Path, submission: Path, truth: Path, images: pd.DataFrame, out: Path
) -> tuple[Path, Path, Path]:
    """Copy the hidden set without the corrupt image to ``scored``; returns its folder, submission and truth."""
    out = out / "scored"
    shutil.copytree(data / "test_images", out / "test_images", copy_function=os.link)
    kept = images.index[images["form"] != CORRUPT].astype(str)
    paths = table_path(out, "test"), out / SUBMISSION, out / "truth.csv"
    for path, original in zip(paths, (table_path(data, "test"), submission, truth), strict=True):
        table = pd.read_csv(original, dtype=str, keep_default_na=False)
        table[table["id"].isin(kept)].to_csv(path, index=False)
    return out, *paths[1:]


def _validation_scores(runs: Sequence[Path]) -> pd.DataFrame:
    """Scores of the runs' own validation images: ``split``, ``id``, ``organ``, ``dice``; no row if there are none."""
    tables = [pd.read_csv(run / SCORES) for run in runs if (run / SCORES).is_file()]
    table = pd.concat([pd.DataFrame(columns=["split", "id", "organ", "dice"], dtype=float), *tables])
    return table[table["split"] == "validation"]


def _check_options(out: Path, options: Options) -> None:
    """Check what can be checked before anything is run."""
    if unknown := set(options.settings) - set(SETTINGS):
        raise ValueError(f"there is no {', '.join(sorted(unknown))}; settings are for {', '.join(SETTINGS)}")
    if min(options.limits.memory_bytes, options.limits.time_s) <= 0:
        raise ValueError("a limit is not above 0; give GiB and hours above 0, or leave Kaggle's")
    for path in (options.data, *options.runs):
        if path and path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{path} lies in {out}, which a rehearsal replaces; copy it elsewhere first")
    for run in expand(options.runs):
        Run.open(run)
    if options.data:
        read_images(options.data, "test")
        if not options.runs:
            read_images(options.data, "train")


def _clear(out: Path) -> None:
    """Make `out` an empty folder, with a marker that allows a later rehearsal to clear it."""
    kept = (_MARKER, LOCK)  # until the end, so that a removal that was killed can be done again
    found = [path for path in out.iterdir() if path.name not in kept] if out.is_dir() else []
    if out.exists() and not (out / _MARKER).is_file() and (not out.is_dir() or found):
        raise ValueError(f"{out} exists and holds no rehearsal; name another folder")
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text("{}\n", encoding="utf-8")
