"""Prediction: a competition folder's images to ``submission.csv``, with one run or an ensemble."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, submission
from ..competition import SAMPLE_SUBMISSION, table_path
from ..config import PredictConfig
from ..files import sha256_of
from ..models.hardware import memory_errors
from ..progress import track
from ..run import Run, expand
from ..tables import DataError, Image, Problem, few_images, read_sample_submission, remarks, scan_images
from ..words import count, did_you_mean, listed
from .budget import Budget, giants
from .ensemble import Member, networks_of
from .journal import Journal
from .networks import load_members
from .reading import fits_its_row
from .stream import Result, predict_masks

WRITE_EVERY_S = 60.0  # between two versions of the submission while predicting
NEW = {
    "organ": "the mean threshold of these is used; train with images of {}",
    "source": "expect a lower Dice; hubmap-kit inspect shows how they differ",
}  # remedies for an organ or a source that a run was not trained on
MANY_EMPTY = 4  # if so many images are all without foreground, something is wrong with the network


def predict(
    data: Path,
    runs: list[Path],
    out: Path,
    config: PredictConfig,
    *,
    scheduler: str | None = None,
) -> list[Problem]:
    """Predict a competition folder's images with one run or an ensemble.

    The submission has the ids of ``test.csv``, in the order of ``sample_submission.csv``. From the start it is a valid
    submission, with empty masks for the images still to come. An image that cannot be predicted does not stop the
    others; its mask stays empty. A prediction that was killed goes on where it stopped. A finished submission in `out`
    stays until all images are predicted.

    Args:
        data: Competition folder.
        runs: Run folders, and folders of folds.
        out: The submission to write. Beside it are ``<out>.problems.csv``, the problems, if any; ``<out>.timings.csv``,
            the time that each image took and its settings (``seconds`` is the sum over the stages of prediction, which
            overlap); and, until the end, ``<out>.progress.jsonl``, the masks that are done.
        config: Settings.
        scheduler: Address of a Dask cluster whose workers predict the images, each by itself; None to predict here.

    Returns:
        The problems: errors if `config.on_error` is ``stop``, warnings if it is ``empty``. With either, a submission
        without any foreground is an error, see `MANY_EMPTY`.

    Raises:
        DataError: A table cannot be read at all.
        ValueError: A run that cannot be loaded, a cluster that cannot be reached, or `config.adapt` with a cluster.
    """
    if config.adapt != "none" and scheduler:
        raise ValueError(
            f"--adapt {config.adapt} cannot be done on a cluster, whose workers see single images; "
            "predict without --scheduler, or with --adapt none"
        )
    scan = scan_images(data, config.split)
    problems, ids = scan.problems, list(scan.rows)
    if config.split == "test":
        try:
            sample = read_sample_submission(data)
        except DataError as error:  # it gives only the order
            problems += error.problems
            sample = []
        if stray := sorted(set(sample) - set(ids)):
            rule = f"ids {', '.join(map(str, stray[:5]))} are not in test.csv"
            problems.append(Problem("warning", SAMPLE_SUBMISSION, None, rule, "they are left out"))
        known, sampled = set(ids), set(sample)
        ids = [i for i in sample if i in known] + sorted(known - sampled)
    images = {image.id: image for image in scan.images}
    opened = [Run.open(run) for run in expand(runs)]
    _check_organs(config, images.values(), opened)
    problems += remarks(scan.images) + remarks_on(opened, scan.images, table_path(data, config.split).name)
    journal = Journal(submission.progress_path(out), _fingerprint(opened, config))
    masks = journal.masks(images.values())
    if few := few_images(_most_counts(opened, scan.images)):
        print(few, flush=True)
    if masks:
        print(f"{len(masks)} of {count(len(images), 'image')} were predicted before", flush=True)
    earlier = out.is_file() and not masks  # a finished one, which stays until this one is
    if earlier:
        print(f"{out}: is replaced when all images are predicted", flush=True)
    else:
        submission.write(out, masks, ids)
    written = time.monotonic()
    missing = [image for image in images.values() if image.id not in masks]
    results: Iterator[Result]
    if scheduler:
        results = _spread(missing, opened, config, scheduler)
    else:
        results = predict_images(list(images.values()), opened, config, done=set(masks))
    timings = []
    try:
        for result in track(results, len(images), "predict", done=len(masks)):
            if result.rle is None:
                rule = f"id {result.id}: {_error_text(result.error)}"
                problems.append(images[result.id].problem(rule, "its mask is empty"))
            else:
                masks[result.id] = result.rle
                journal.add(images[result.id], result.rle)
            timings.append(_timing(result))
            if not earlier and time.monotonic() - written > WRITE_EVERY_S:
                submission.write(out, masks, ids)
                written = time.monotonic()
    except ValueError as error:
        state = "as it was" if earlier else f"unfinished, with {len(masks)} of {count(len(ids), 'mask')}"
        raise ValueError(f"{error}; {out} is {state}") from error
    submission.write(out, masks, ids)
    submission.write_timings(out, timings)
    if config.on_error == "empty":
        problems = [problem.as_warning() for problem in problems]
    problems += _wasted(out, masks, ids)
    submission.write_problems(out, problems)
    journal.end()
    return problems


def _error_text(error: Exception | None) -> str:
    """Why an image could not be predicted."""
    text = str(error) or type(error).__name__
    return text if isinstance(error, (OSError, ValueError, MemoryError)) else f"{type(error).__name__}: {text}"


def _wasted(out: Path, masks: Mapping[int, str], ids: Sequence[int]) -> list[Problem]:
    """A problem if the submission has no foreground at all: it would waste one of the day's submissions.

    It is an error whatever `PredictConfig.on_error` says. Fewer than `MANY_EMPTY` empty masks are only a warning,
    because a few images may truly hold nothing.
    """
    if any(masks.values()):
        return []
    if not masks:
        rule, remedy = f"none of {count(len(ids), 'image')} could be predicted", "correct the problems of the images"
        return [Problem("error", out.name, None, f"{rule}: every mask is empty", remedy)]
    rule = f"the network found nothing in {count(len(masks), 'image')}: every mask is empty"
    remedy = "lower --threshold or --min-region, or train for longer; if the images hold nothing, the file is complete"
    return [Problem("error" if len(masks) >= MANY_EMPTY else "warning", out.name, None, rule, remedy)]


def _check_organs(config: PredictConfig, images: Iterable[Image], runs: Sequence[Run]) -> None:
    """Check that the organs with a threshold or a least area of their own are organs of the images or runs.

    Raises:
        ValueError: One is not.
    """
    known = {image.organ for image in images}.union(*(run.config.rule.thresholds for run in runs))
    for flag, values in (("--threshold", config.thresholds()), ("--min-region", config.min_regions_um2())):
        for organ in values:
            if organ and organ not in known:
                meant = did_you_mean(organ, known) or f"; the organs are {', '.join(sorted(known))}"
                raise ValueError(f"{flag} names the organ {organ}, and no image or run is of it{meant}")


def remarks_on(runs: Sequence[Run], images: Sequence[Image], table: str) -> list[Problem]:
    """Warnings about runs that predict: one for each unfinished training, and for each organ and source new to a run.

    Args:
        runs: The runs.
        images: The images that they predict.
        table: Name of the images' table.
    """
    problems = [
        Problem("warning", str(run.folder), None, "its training is unfinished", "go on with hubmap-kit train --resume")
        for run in runs
        if not run.config.finished
    ]
    for what in NEW:
        known = [_trained_on(run, what) for run in runs]
        for name, number in Counter(str(getattr(image, what)) for image in images).items():
            strangers = {
                run.folder.name: seen for run, seen in zip(runs, known, strict=True) if seen and name not in seen
            }
            if strangers:
                seen = ", ".join(dict.fromkeys(each for of_run in strangers.values() for each in of_run))
                rule = f"{count(number, 'image')} of {what} {name!r}, on which {', '.join(strangers)} was not trained"
                problems.append(Problem("warning", table, None, f"{rule}, only on {seen}", NEW[what].format(name)))
    return problems


def _trained_on(run: Run, what: str) -> list[str]:
    """The organs or sources that a run was trained on; empty if they are not known."""
    if counts := run.config.train_images.get(what):
        return [name for name, number in counts.items() if number]
    return list(run.config.rule.thresholds) if what == "organ" else run.config.sources


def _most_counts(runs: Sequence[Run], images: Sequence[Image]) -> dict[str, dict[str, int]]:
    """The most images of each organ and source of `images` that a run was trained on; without those that none was."""
    most: dict[str, dict[str, int]] = {}
    for what in NEW:
        shown = {getattr(image, what) for image in images}
        for run in runs:
            for name, number in run.config.train_images.get(what, {}).items():
                if number and name in shown:
                    most.setdefault(what, {})[name] = max(number, most.get(what, {}).get(name, 0))
    return most


def _spread(images: list[Image], runs: list[Run], config: PredictConfig, scheduler: str) -> Iterator[Result]:
    """Predict images on a cluster."""
    from ..cluster import spread

    tasks = [(image, tuple(run.folder.resolve() for run in runs), config) for image in images]
    with closing(spread(predict_alone, tasks, scheduler=scheduler)) as done:
        for task, outcome in done:
            yield Result(task[0].id, None, outcome, 0.0, ()) if isinstance(outcome, Exception) else outcome


def predict_images(
    images: Sequence[Image],
    runs: Sequence[Run],
    config: PredictConfig,
    *,
    done: Container[int] = (),
) -> Iterator[Result]:
    """Predict images with one run or an ensemble.

    Args:
        images: All images. Networks are adapted to all images of an organ and source together.
        runs: The runs.
        config: Settings; `split` and `on_error` are not used.
        done: Ids of images that are not predicted again. Networks are adapted to them too, so that a prediction that
            goes on gives the same masks as one that was not interrupted.

    Yields:
        One result per image.

    Raises:
        ValueError: A run that cannot be loaded.
    """
    missing = [image for image in images if image.id not in done]
    begin = time.monotonic()
    members = load_members(runs, config)
    for member, *_ in networks_of(members):  # compile now, so that the time counts for no image
        member.predict(np.zeros((member.batch_size, member.tile_size, member.tile_size, 3), np.uint8))
    budget, late = None, set[int]()
    if config.time_limit_min is not None:
        # A row that claims a huge image must not cost the others their time and settings.
        likely = [image for image in missing if fits_its_row(image)]
        if late := giants(likely, members):
            print(
                f"predicted last, because their rows in the table make them huge: {listed(list(map(str, late)))}",
                flush=True,
            )
        likely = [image for image in likely if image.id not in late]
        budget = Budget(60 * config.time_limit_min - (time.monotonic() - begin), likely, members)
    groups: dict[Any, list[Image]] = {}
    for image in images:
        groups.setdefault((image.organ, image.source) if config.adapt != "none" else None, []).append(image)
    for group in groups.values():
        todo = sorted((image for image in group if image.id not in done), key=lambda image: image.id in late)
        if not todo:
            continue
        with ExitStack() as until_predicted:
            if config.adapt != "none" and (budget is None or budget.pause_fits()):
                from . import adaptation

                with nullcontext() if budget is None else budget.pause():
                    try:
                        with memory_errors():
                            until_predicted.enter_context(adaptation.adapted(members, group, config))
                    except MemoryError:
                        print("the memory is full: the networks are not adapted to these images", flush=True)
            yield from predict_masks(todo, members, budget=budget, skip_background=config.skip_background)


def predict_alone(task: tuple[Image, tuple[Path, ...], PredictConfig]) -> Result:
    """Predict one image by itself, on a worker of a cluster; a worker loads the networks once."""
    image, runs, config = task
    members = _loaded(runs, config)
    (result,) = predict_masks([image], members, skip_background=config.skip_background)
    # Leave out `members`: Keras models cannot be sent back to the scheduler.
    return Result(result.id, result.rle, result.error, result.seconds, ())


@lru_cache(maxsize=1)
def _loaded(runs: tuple[Path, ...], config: PredictConfig) -> list[Member]:
    return load_members([Run.open(run) for run in runs], config)


def _timing(result: Result) -> submission.Timing:
    if not result.members:
        return submission.Timing(result.id, result.seconds)
    networks, (first, *_) = len(networks_of(result.members)), result.members
    return submission.Timing(
        result.id, result.seconds, networks, len(result.members) // networks, first.tta, first.overlap
    )


def _fingerprint(runs: list[Run], config: PredictConfig) -> str:
    """Fingerprint of the runs and settings; equal fingerprints mean equal masks."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("on_error", "time_limit_min")}
    facts: list[Any] = [__version__, settings]
    for run in runs:
        facts += [run.config.to_json(), sha256_of(run.weights)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
