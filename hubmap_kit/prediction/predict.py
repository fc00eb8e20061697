"""Prediction: a competition folder's images to ``submission.csv``, with one run or an ensemble."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, submission
from ..competition import SAMPLE_SUBMISSION
from ..config import PredictConfig
from ..files import sha256_of
from ..progress import track
from ..run import Run, expand
from ..tables import Image, Problem, read_sample_submission, scan_images
from .budget import Budget
from .ensemble import Member, networks_of
from .journal import Journal
from .networks import load_members
from .stream import Result, predict_masks

WRITE_EVERY = 60.0  # s between two versions of the submission while predicting


def predict(
    data: Path,
    runs: list[Path],
    out: Path,
    config: PredictConfig,
    *,
    scheduler: str | None = None,
) -> list[Problem]:
    """Predict a competition folder's images with one run or an ensemble.

    The ids are those of ``test.csv``, their order ``sample_submission.csv``'s. An image that
    cannot be predicted does not stop the others; it gets an empty mask. A valid submission is
    there from the start, with empty masks for what is to come. A prediction that was killed
    goes on where it was.

    Args:
        data: Competition folder.
        runs: Run folders, and folders of folds.
        out: The submission to write. Beside it ``<out>.problems.csv`` lists the problems, if any,
            ``<out>.timings.csv`` what each image took and with which settings (``seconds`` adds up
            the stages of an image, which overlap), and ``<out>.progress.jsonl`` while predicting
            keeps what is done.
        config: Settings.
        scheduler: Address of a Dask cluster that predicts, each image on one of its workers; None
            to predict here.

    Returns:
        Problems; with `config.on_error` ``stop`` they are errors, with ``empty`` warnings.

    Raises:
        DataError: A table that as a whole cannot be read.
        ValueError: A run that cannot be loaded, a cluster that cannot be reached, or one that is to adapt networks.
    """
    if config.adapt != "none" and scheduler:
        raise ValueError(
            f"a cluster cannot do adapt {config.adapt}: each of its workers sees single images; "
            "predict without --scheduler, or with --adapt none"
        )
    scan = scan_images(data, config.split)
    problems, ids = scan.problems, list(scan.rows)
    if config.split == "test":
        sample = read_sample_submission(data)
        if stray := sorted(set(sample) - set(ids)):
            rule = f"ids {', '.join(map(str, stray[:5]))} are not in test.csv"
            problems.append(Problem("warning", SAMPLE_SUBMISSION, None, rule, "they are left out"))
        known, sampled = set(ids), set(sample)
        ids = [i for i in sample if i in known] + sorted(known - sampled)
    jobs = {image.id: image for image in scan.images}
    opened = [Run.open(run) for run in expand(runs)]
    journal = Journal(submission.progress_path(out), _key(opened, config))
    masks = journal.masks(jobs.values())
    if masks:
        print(f"{len(masks)} of {len(jobs)} images were predicted before", flush=True)
    submission.write(out, masks, ids)
    written = time.monotonic()
    missing = [job for job in jobs.values() if job.id not in masks]
    results: Iterator[Result]
    if scheduler:
        results = _spread(missing, opened, config, scheduler)
    else:
        results = predict_jobs(list(jobs.values()), opened, config, done=set(masks))
    timings = []
    for result in track(results, len(missing), "predict"):
        if result.rle is None:
            text = str(result.error) or type(result.error).__name__
            problems.append(jobs[result.id].problem(f"id {result.id}: {text}", "its mask is empty"))
        else:
            masks[result.id] = result.rle
            journal.add(jobs[result.id], result.rle)
        timings.append(_timing(result))
        if time.monotonic() - written > WRITE_EVERY:
            submission.write(out, masks, ids)
            written = time.monotonic()
    submission.write(out, masks, ids)
    submission.write_timings(out, timings)
    if config.on_error == "empty":
        problems = [problem.as_warning() for problem in problems]
    submission.write_problems(out, problems)
    journal.end()
    return problems


def _spread(jobs: list[Image], runs: list[Run], config: PredictConfig, scheduler: str) -> Iterator[Result]:
    """Predict images on a cluster."""
    from ..cluster import spread

    tasks = [(job, tuple(run.folder.resolve() for run in runs), config) for job in jobs]
    with closing(spread(predict_alone, tasks, scheduler=scheduler)) as done:
        for task, outcome in done:
            yield Result(task[0].id, None, outcome, 0.0, ()) if isinstance(outcome, Exception) else outcome


def predict_jobs(
    jobs: Sequence[Image],
    runs: Sequence[Run],
    config: PredictConfig,
    *,
    done: Container[int] = (),
) -> Iterator[Result]:
    """Predict images with one run or an ensemble.

    Args:
        jobs: All images. Networks are adapted to those of an organ and source together.
        runs: The runs.
        config: Settings; `split` and `on_error` do not count.
        done: Ids of images to which networks are adapted, so that a prediction that goes on gives the same masks,
            but which are not predicted.

    Yields:
        One result an image.

    Raises:
        ValueError: A run that cannot be loaded.
    """
    missing = [job for job in jobs if job.id not in done]
    begin = time.monotonic()
    members = load_members(runs, config)
    for member, *_ in networks_of(members):  # compiled now, so that it counts for no image
        member.predict(np.zeros((member.batch_size, member.tile_size, member.tile_size, 3), np.uint8))
    budget = None
    if config.time_limit_min is not None:
        budget = Budget(60 * config.time_limit_min - (time.monotonic() - begin), missing, members)
    groups: dict[Any, list[Image]] = {}
    for job in jobs:
        groups.setdefault((job.organ, job.source) if config.adapt != "none" else None, []).append(job)
    for group in groups.values():
        todo = [job for job in group if job.id not in done]
        if not todo:
            continue
        with ExitStack() as until_predicted:
            if config.adapt != "none" and (budget is None or budget.pause_fits()):
                from . import adaptation

                with nullcontext() if budget is None else budget.pause():
                    until_predicted.enter_context(adaptation.adapted(members, group, config))
            yield from predict_masks(todo, members, budget=budget, skip_background=config.skip_background)


def predict_alone(task: tuple[Image, tuple[Path, ...], PredictConfig]) -> Result:
    """Predict one image by itself, as a worker of a cluster does; it loads the networks once."""
    job, runs, config = task
    members = _loaded(runs, config)
    (result,) = predict_masks([job], members, skip_background=config.skip_background)
    # Networks stay where they are; what is told of them crosses the network.
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


def _key(runs: list[Run], config: PredictConfig) -> str:
    """By which it is known that a prediction was of the same runs, with the same settings."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("on_error", "time_limit_min")}
    facts: list[Any] = [__version__, settings]
    for run in runs:
        facts += [run.config.to_json(), sha256_of(run.weights)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
