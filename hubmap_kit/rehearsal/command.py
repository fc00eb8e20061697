"""The command rehearse. It is run in a clone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_parser(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line.

    Args:
        add: Adds a command: its name, help and function.
    """
    sub = add("rehearse", "rehearse the competition offline, with the kernels that Kaggle will run", _rehearse)
    sub.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        nargs="?",
        help="folder to make; an earlier rehearsal is replaced (default: rehearsal in the clone, for a later push)",
    )
    sub.add_argument("--data", metavar="DATA", type=Path, help="competition folder to rehearse on (default: a demo)")
    sub.add_argument(
        "--run",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        dest="runs",
        help="run folder to predict with instead of training; repeat it for an ensemble",
    )
    sub.add_argument("--train", metavar="N", type=int, default=80, help="training images of the demo (default: 80)")
    sub.add_argument("--size", metavar="PX", type=int, default=1024, help="side of a training image (default: 1024)")
    sub.add_argument("--seed", metavar="N", type=int, default=0, help="seed of every drawn image (default: 0)")
    sub.add_argument(
        "--settings",
        metavar="JSON",
        type=_json_object,
        default={},
        help='kernel settings to change, such as {"train": {"EPOCHS": 2}, "infer": {}}',
    )
    sub.add_argument(
        "--memory-limit", metavar="GIB", type=float, help="memory that a kernel may hold (default: Kaggle's, 30)"
    )
    sub.add_argument(
        "--time-limit", metavar="H", type=float, help="hours that a kernel may take (default: Kaggle's, 9)"
    )


def _rehearse(arguments: argparse.Namespace) -> int:
    from ..kaggle.clone import find_clone
    from ..kaggle.verdict import REHEARSAL
    from .kernels import Limits
    from .rehearse import Options, rehearse

    clone, kaggle = find_clone(), Limits()
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
    return 0 if rehearse(arguments.out or clone / REHEARSAL, clone, options) else 1


def _json_object(text: str) -> dict[str, Any]:
    """A JSON object of JSON objects."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid JSON: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
        raise argparse.ArgumentTypeError(f'{text!r} must be of the form {{"train": {{"EPOCHS": 2}}, "infer": {{}}}}')
    return value
