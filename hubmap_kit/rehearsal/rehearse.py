"""The rehearsal: a whole competition on this machine, through the very kernels that Kaggle will run.

Demo competition, bundle, training kernel, its output as a dataset, inference kernel on a public test set of one
image, then again on a hidden one as in Kaggle's scoring rerun; validation, score, pictures, verdict. The kernels run
in `hubmap_kit.rehearsal.isolation`, offline, within Kaggle's limits, and see only the sources that their
``kernel-metadata.json`` names. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

from ..competition import SLUG
from ..tables import read_images
from ..demo.write import write_demo
from ..files import read_json, sha256_of, size_text, write_json
from ..metrics import mean_dice, score_text
from ..reports.overlays import contact_sheet
from ..reports.report import write_report
from ..run import Run, expand
from ..submission import problems_path, read_problems, read_timings, score
from . import isolation
from ..kaggle.bundle import CLONE, MANIFEST, WHEELS, build_bundle
from .hidden_set import CORRUPT, HIDDEN, HiddenImage, write_hidden
from ..kaggle.records import now
from .kernels import REMEDIES, Failure, Stage
from ..kaggle.weights import build_weights, unpack

LEAST_DICE = 0.75  # mean Dice on the drawn hidden set that shows that the network learned

# Of a Kaggle session with two T4.
MEMORY_LIMIT = 30 * 2**30  # bytes
TIME_LIMIT = 9 * 3600  # s

# Versions in Kaggle's image (GPU, v170, 2026-06-29), as far as they are recorded.
KAGGLE_IMAGE = {
    "python": "3.12",
    "tensorflow": "2.20.0",
    "keras": "3.13.2",
    "tf_keras": "2.20.0",
    "numpy": "2.0.2",
    "h5py": "3.16.0",
    "scikit-image": "0.25.2",
    "tifffile": "2026.4.11",
    "opencv": "4.13",
}

# The kernels' settings that differ from their files. The smoke run is the training kernel's own network, cut short and
# without a download; train is a network for two cores and minutes.
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"EPOCHS": 1, "STEPS_PER_EPOCH": 1, "ENCODER_WEIGHTS": "none"},
    "train": {"RECIPE": "fast", "ENCODER_WEIGHTS": "none", "INPUT_SIZE": 96},
    "infer": {},
}

VERDICT = "verdict.json"
_MARKER = "rehearsal.json"


def rehearse(
    out: Path,
    *,
    source: Path = CLONE,
    data: Path | None = None,
    runs: Sequence[Path] = (),
    train: int = 80,
    size: int = 1024,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    hidden: Sequence[HiddenImage] = HIDDEN,
    memory_limit: float = MEMORY_LIMIT,
    time_limit: float = TIME_LIMIT,
    extras: bool = True,
    least_dice: float = LEAST_DICE,
) -> int:
    """Rehearse the competition.

    Args:
        out: Folder for all that comes of it; an earlier rehearsal there is replaced. ``verdict.json`` is written last.
        source: The clone, whose kernels and library are rehearsed.
        data: A competition folder to train on, whose test part is the public test set; None for a demo. Scored is
            then that test part where there is a ``test_truth.csv``, else the run's validation images, instead of
            the hidden set.
        runs: Run folders to predict with, instead of training.
        train: Training images of the demo.
        size: Side of its training images, in px.
        seed: Seed of the demo and of the hidden set.
        settings: ``smoke``, ``train`` or ``infer`` to setting to value, on top of `SETTINGS`.
        hidden: The hidden set to draw.
        memory_limit: Bytes that a kernel may hold.
        time_limit: Seconds that a kernel may take.
        extras: Whether the bundle holds the wheels that Kaggle's image lacks; False where this
            Python has them all.
        least_dice: Mean Dice on the hidden set that a network trained here on the demo has to reach.

    Returns:
        0 if both submissions are valid, the corrupt image cost nothing but itself, and the network learned, else 1.
        All is told on stdout.

    Raises:
        ValueError: An argument is wrong, `out` holds something else, or the bundle cannot be built.
    """
    changes = _check(out, data, runs, settings or {}, memory_limit, time_limit)
    out = out.resolve()
    _clear(out)
    begin = time.monotonic()
    obstacle = isolation.obstacle()
    stage = Stage(out, source, memory_limit, time_limit, isolated=obstacle is None)
    kit, weights, hidden_set = (out / "input" / name for name in ("hubmap-kit", "hubmap-weights", "hidden"))
    verdict: dict[str, Any] = {
        "passed": False,
        "bundle": kit.relative_to(out).as_posix(),
        "options": {
            "data": data and str(data.resolve()),
            "runs": [str(run.resolve()) for run in runs],
            **{"train": train, "size": size, "seed": seed, "settings": changes},
            **{"memory_limit_bytes": memory_limit, "time_limit_seconds": time_limit},
        },
        "isolated": stage.isolated,
        "not_isolated": [] if stage.isolated else list(isolation.NOT_ISOLATED),
        "versions": differing_versions(),
        "seconds": stage.seconds,
        "peak_memory_bytes": stage.peak_memory,
    }
    _tell_surroundings(obstacle, verdict["versions"])
    try:
        with stage.step("competition"):
            competition, truth = data or out / "input" / "demo", (data or out) / "test_truth.csv"
            if not data:
                # Without a training, the least that a demo has.
                write_demo(competition, train=5 if runs else train, test=1, size=size, seed=seed)
                shutil.move(competition / truth.name, truth)
        with stage.step("bundle"):
            build_bundle(source, kit, extras=extras)
            manifest, sha256 = read_json(kit / MANIFEST), sha256_of(kit / MANIFEST)
            verdict |= {"commit": manifest["commit"], "dirty": manifest["dirty"], "manifest_sha256": sha256}
        attached = {SLUG: competition, kit.name: kit, weights.name: weights}
        members = trained = list(runs)
        if not runs:
            smoke = stage.train("smoke", changes["smoke"], attached, "flat")
            trained = [stage.train("train", changes["train"], attached, "nested")]
            members = [smoke, *trained]
        with stage.step("weights"):
            unpack(build_weights(members, out / weights.name, source), weights)
        public = stage.predict("public", changes["infer"], attached, "nested")
        with stage.step("hidden test set"):
            images = write_hidden(hidden_set, out / "hidden_truth.csv", seed, hidden)
        # The smoke run has learned nothing; predicting one image with it was enough.
        chosen = changes["infer"] if runs else {"RUNS": [run.name for run in trained]} | changes["infer"]
        rerun = stage.predict("hidden", chosen, attached | {SLUG: hidden_set}, "flat", KAGGLE_IS_COMPETITION_RERUN="1")
        verdict["extrapolated_hours"] = _extrapolated(stage.seconds["hidden"], rerun, images) / 3600
        with stage.step("score and pictures"):
            _check_problems(rerun, images)
            if not data:
                competition, public, truth = _without_corrupt(hidden_set, rerun, out / "hidden_truth.csv", images, out)
            if truth.is_file():
                scores = score(public, truth)
                contact_sheet(competition, public, truth, out / "overlays.png")
            else:
                scores = _validation_scores(trained)
            scores.to_csv(out / "scores.csv", index=False)
            write_report(trained, out / "rehearsal.html")
    except Failure as failure:
        write_json(out / VERDICT, verdict | {"failure": str(failure), "finished_at": now()})
        print(failure)
        return 1
    dice = mean_dice(scores)
    passed = bool(data or runs or dice >= least_dice)
    print("== verdict")
    _tell_verdict(stage, verdict, images)
    steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in stage.seconds.items())
    print(f"rehearsed in {time.monotonic() - begin:.0f} s: {steps}")
    if data:
        where = truth if truth.is_file() else "the run's own validation images, as the data has no test_truth.csv"
        print(f"The score is on {where}; the hidden images were drawn.")
    if not passed:
        print(f"The mean Dice {dice:.4f} is below {least_dice}: the network has not learned what it should.")
    verdict |= {"passed": passed, "mean_dice": None if math.isnan(dice) else dice, "finished_at": now()}
    write_json(out / VERDICT, verdict)
    print(score_text(scores))
    return 0 if passed else 1


def differing_versions() -> dict[str, dict[str, str | None]]:
    """Packages whose version here is not that of Kaggle's image: name to ``here`` (None: missing) and ``kaggle``."""

    def version(name: str) -> str | None:
        if name in ("python", "opencv"):  # OpenCV is distributed under several names
            return platform.python_version() if name == "python" else cv2.__version__
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    found = {name: (version(name), kaggle) for name, kaggle in KAGGLE_IMAGE.items()}
    return {
        name: {"here": here, "kaggle": kaggle}
        for name, (here, kaggle) in found.items()
        if here != kaggle and not (here or "").startswith(kaggle + ".")
    }


def _tell_surroundings(obstacle: str | None, versions: Mapping[str, Mapping[str, str | None]]) -> None:
    """Say in what this environment is not Kaggle's."""
    if versions:
        print(f"{'version of':<14}{'here':<14}Kaggle's image")
        for name, version in versions.items():
            print(f"{name:<14}{version['here'] or 'missing':<14}{version['kaggle']}")
    else:
        print("The packages' versions are as Kaggle's.")
    extra = [wheel.module for wheel in WHEELS if importlib.util.find_spec(wheel.module)]
    if extra:
        print(f"Already here, so not tried from the bundle, though Kaggle's image lacks it: {', '.join(extra)}")
    if obstacle:
        print(f"The kernels run without isolation: {obstacle}.")


def _tell_verdict(stage: Stage, verdict: Mapping[str, Any], images: pd.DataFrame) -> None:
    corrupt = ", ".join(map(str, images.index[images["form"] == CORRUPT]))
    print(f"valid submissions: of the public test set, and of {len(images)} hidden images in the scoring rerun")
    if corrupt:
        print(f"corrupt image {corrupt}: named by the kernel, with an empty mask, left out of the mean Dice")
    peaks = ", ".join(f"{name} {size_text(peak)}" for name, peak in stage.peak_memory.items())
    print(f"peak memory: {peaks}; the limit is {size_text(stage.memory_limit)}")
    print(f"bootstrap: {stage.bootstrap:.1f} s")
    hours, most = verdict["extrapolated_hours"], TIME_LIMIT / 3600
    network = "the runs given" if verdict["options"]["runs"] else "the network trained here"
    machine = f"with {network} on this machine ({os.cpu_count()} CPU cores)"
    print(f"run time for {images['stands_for'].sum()} such hidden images: {hours:.2f} h of {most:.0f} h, {machine}")
    if hours > most:
        print(f"warning: that is too long here; Kaggle's GPUs are faster, or {REMEDIES['infer', 'time']}")
    print("isolated" if stage.isolated else "\n  ".join(["not isolated:", *verdict["not_isolated"]]))


def _extrapolated(seconds: float, submission: Path, images: pd.DataFrame) -> float:
    """Seconds that the inference kernel would take for Kaggle's hidden set, from what it took for the drawn one.

    An image's seconds add up stages that overlap, so that this is the most it would take.
    """
    stands_for = images["stands_for"].to_dict()
    timings = read_timings(submission)
    beside = seconds - sum(timing.seconds for timing in timings)
    return max(0.0, beside) + sum(timing.seconds * stands_for[timing.id] for timing in timings)


def _check_problems(submission: Path, images: pd.DataFrame) -> None:
    """See that the kernel named the corrupt image and no other one, and gave it an empty mask."""
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
    """Make a hidden set that can be read, below ``scored``; returns its folder, submission and truth."""
    out = out / "scored"
    shutil.copytree(data / "test_images", out / "test_images", copy_function=os.link)
    kept = images.index[images["form"] != CORRUPT].astype(str)
    paths = out / "test.csv", out / "submission.csv", out / "truth.csv"
    for path, original in zip(paths, (data / "test.csv", submission, truth), strict=True):
        table = pd.read_csv(original, dtype=str, keep_default_na=False)
        table[table["id"].isin(kept)].to_csv(path, index=False)
    return out, *paths[1:]


def _validation_scores(runs: Sequence[Path]) -> pd.DataFrame:
    """Scores of the runs' own validation images: ``split``, ``id``, ``organ``, ``dice``; of none, where unknown."""
    tables = [pd.read_csv(run / "scores.csv") for run in runs if (run / "scores.csv").is_file()]
    table = pd.concat([pd.DataFrame(columns=["split", "id", "organ", "dice"], dtype=float), *tables])
    return table[table["split"] == "validation"]


def _check(
    out: Path,
    data: Path | None,
    runs: Sequence[Path],
    settings: Mapping[str, Mapping[str, Any]],
    memory_limit: float,
    time_limit: float,
) -> dict[str, dict[str, Any]]:
    """Check what can be checked before anything is run; returns the settings on top of `SETTINGS`."""
    if unknown := set(settings) - set(SETTINGS):
        raise ValueError(f"there is no {', '.join(sorted(unknown))}; settings are for {', '.join(SETTINGS)}")
    if min(memory_limit, time_limit) <= 0:
        raise ValueError("a limit is not above 0; give GiB and hours above 0, or leave Kaggle's")
    for path in (data, *runs):
        if path and path.resolve().is_relative_to(out.resolve()):
            raise ValueError(f"{path} lies in {out}, which a rehearsal replaces; copy it elsewhere first")
    for run in expand(runs):
        Run.open(run)
    if data:
        read_images(data, "test")
        if not runs:
            read_images(data, "train")
    return {name: own | dict(settings.get(name, {})) for name, own in SETTINGS.items()}


def _clear(out: Path) -> None:
    """Make `out` an empty folder, with a marker that a later rehearsal may clear it."""
    if out.exists() and not (out / _MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and holds no rehearsal; name another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARKER).write_text("{}\n", encoding="utf-8")


def main() -> int:
    """The command ``python -m hubmap_kit.rehearsal.rehearse OUT``, run in a clone; 0 passed, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m hubmap_kit.rehearsal.rehearse", description="Rehearse the competition on this machine."
    )
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder to make; an earlier rehearsal is replaced")
    add("--data", metavar="DATA", type=Path, help="competition folder to rehearse on (default: a demo)")
    add(
        "--run",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        dest="runs",
        help="run folder to predict with instead of training; repeat it for an ensemble",
    )
    add("--train", metavar="N", type=int, default=80, help="training images of the demo (default: %(default)s)")
    add("--size", metavar="PX", type=int, default=1024, help="side of a training image of the demo (default: 1024)")
    add("--seed", metavar="N", type=int, default=0, help="seed of every drawn image (default: %(default)s)")
    add("--settings", metavar="JSON", type=json.loads, default={}, help='as {"train": {"EPOCHS": 2}, "infer": {}}')
    memory, hours = MEMORY_LIMIT / 2**30, TIME_LIMIT / 3600
    add("--memory-limit", metavar="GIB", type=float, default=memory, help="of each kernel (default: Kaggle's, 30)")
    add("--time-limit", metavar="H", type=float, default=hours, help="of each kernel (default: Kaggle's, 9)")
    arguments = vars(parser.parse_args())
    arguments["memory_limit"] *= 2**30
    arguments["time_limit"] *= 3600
    try:
        return rehearse(**arguments)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
