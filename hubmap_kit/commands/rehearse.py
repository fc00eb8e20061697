"""hubmap-kit rehearse. It is run in a clone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..config import LARGEST_SEED
from ..kaggle.verdict import REHEARSAL
from ..terminal import Ending, Parser, add_run_flag, number_between, whole_between
from .push import check_changes, kernel_settings

EXAMPLE = """\
hubmap-kit rehearse
hubmap-kit rehearse --data data --run run
"""
IN_CLONE = REHEARSAL
WRITES = {"out": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        nargs="?",
        help="folder to make; an earlier rehearsal is replaced (default: rehearsal in the clone, for a later push)",
    )
    parser.add_argument("--data", metavar="DATA", type=Path, help="competition folder to rehearse on (default: a demo)")
    add_run_flag(parser, "run folder to predict with instead of training")
    parser.add_argument(
        "--train",
        metavar="N",
        type=whole_between(5, 10_000),
        default=80,
        help="training images of the demo (default: 80)",
    )
    parser.add_argument(
        "--size",
        metavar="PX",
        type=whole_between(128, 4096),
        default=1024,
        help="side of a training image (default: 1024)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_between(0, LARGEST_SEED),
        default=0,
        help="seed of every drawn image (default: 0)",
    )
    parser.add_argument(
        "--settings",
        metavar="JSON",
        type=_json_object,
        default={},
        help='kernel settings to change, such as {"train": {"EPOCHS": 2}, "infer": {}}',
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="only run the kernels that --settings changes, for one step; rehearse without the changes first",
    )
    parser.add_argument(
        "--memory-limit",
        metavar="GIB",
        type=number_between(0.1, 1e6),
        help="memory that a kernel may hold (default: Kaggle's, 30)",
    )
    parser.add_argument(
        "--time-limit",
        metavar="HOURS",
        type=number_between(0.001, 1e4),
        help="hours that a kernel may take (default: Kaggle's, 9)",
    )


def run(arguments: argparse.Namespace) -> Ending:
    """Rehearse."""
    import pandas as pd

    from ..kaggle.clone import find_clone
    from ..metrics import mean_dice, score_text
    from ..rehearsal.kernels import Failure, Limits
    from ..rehearsal.rehearse import Options, rehearse
    from ..rehearsal.smoke import smoke
    from ..run import SCORES

    clone, kaggle = find_clone(), Limits()
    if arguments.smoke:
        check_changes(arguments.settings, kernel_settings(clone, ("train", "infer")), "--settings")
        try:
            smoke(clone, arguments.settings)
        except Failure as failure:
            raise ValueError(str(failure)) from failure
        return Ending("the changed settings work", next=("push", "--dry-run"), values={"passed": True})
    memory_gib, time_h = arguments.memory_limit, arguments.time_limit
    limits = Limits(
        memory_bytes=kaggle.memory_bytes if memory_gib is None else memory_gib * 2**30,
        time_s=kaggle.time_s if time_h is None else time_h * 3600,
    )
    options = Options(
        data=arguments.data,
        runs=arguments.runs,
        train=arguments.train,
        size=arguments.size,
        seed=arguments.seed,
        settings=arguments.settings,
        limits=limits,
    )
    check_changes(options.changes(), kernel_settings(clone, ("train", "infer")), "--settings")
    out = arguments.out
    passed, scores = rehearse(out, clone, options), out / SCORES
    result, values = "", {}
    if scores.is_file():
        table = pd.read_csv(scores)
        result, values = score_text(table), {"mean_dice": mean_dice(table)}
    return Ending(
        f"{out}: the rehearsal {'passed' if passed else 'failed'}",
        result,
        next=("push", "--dry-run"),
        values={"folder": str(out), "passed": passed, **values},
        failed=not passed,
    )


def _json_object(text: str) -> dict[str, Any]:
    """A JSON object of JSON objects."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
        raise argparse.ArgumentTypeError(f'{text!r} must be of the form {{"train": {{"EPOCHS": 2}}, "infer": {{}}}}')
    return value
