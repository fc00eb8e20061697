"""The command line. TensorFlow is imported inside the commands that need it, and only there."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .ablation.rows import BASE, ROWS, plan
from .config import PredictConfig, PrepareConfig, SettingError, TrainConfig, UsageError, add_flags, from_flags
from .kaggle import commands as kaggle_commands
from .recipes import RECIPES, recipe
from .rehearsal import command as rehearsal_command
from .tables import DataError, Problem

OK, BAD_INPUT, INTERRUPTED = 0, 1, 130
RECIPE_NOTE = (
    "A setting that is not given is taken from the recipe; the defaults shown are those of the recipe default. "
    "'Measured worse' is a result of the project's own ablation, on real tissue."
)
# Prediction settings that change a soft mask, or the time it takes.
PSEUDO_SETTINGS = ("split", "tile_size", "overlap", "tta", "scales", "stain", "batch_size", "precision")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        0 done, 1 bad input, 130 stopped by Ctrl-C. Wrong usage exits with 2.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
        return status
    except UsageError as error:
        arguments.parser.error(str(error))
    except KeyboardInterrupt:
        print(f"stopped; {arguments.stopped}", file=sys.stderr)
        return INTERRUPTED
    except DataError as error:
        print(error, file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    return BAD_INPUT


def entry() -> None:
    """The ``hubmap-kit`` script."""
    try:
        sys.exit(main())
    except BrokenPipeError:
        # The program that reads our output, such as head, has ended; exit quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _demo(arguments: argparse.Namespace) -> int:
    from .demo.write import write_demo

    try:
        write_demo(arguments.out, train=arguments.train, test=arguments.test, size=arguments.size, seed=arguments.seed)
    except SettingError as error:
        raise UsageError(f"--{error.name} {error.rule}") from error
    return OK


def _prepare(arguments: argparse.Namespace) -> int:
    from .preparation.prepare import prepare, summary

    config = from_flags(PrepareConfig, arguments)
    print(summary(prepare(arguments.data, arguments.patches, config, scheduler=arguments.scheduler)))
    return OK


def _train(arguments: argparse.Namespace) -> int:
    config = from_flags(TrainConfig, arguments, lambda **given: recipe(arguments.recipe, **given))
    if arguments.time_limit is not None and not arguments.time_limit > 0:
        raise UsageError(f"--time-limit is {arguments.time_limit}; it must be above 0, in minutes")
    if arguments.all_folds and config.fold is not None:
        raise UsageError("--all-folds trains every fold; leave out --fold")
    _quiet_tensorflow()
    from .training.train import train

    minutes = arguments.time_limit
    train(
        arguments.patches,
        arguments.run,
        config,
        recipe=arguments.recipe,
        resume=arguments.resume,
        time_limit_s=None if minutes is None else 60 * minutes,
        all_folds=arguments.all_folds,
    )
    return OK


def _ablation(arguments: argparse.Namespace) -> int:
    geometry = from_flags(PrepareConfig, arguments)
    config = from_flags(TrainConfig, arguments, lambda **given: recipe(arguments.recipe, **given))
    if arguments.seeds < 1:
        raise UsageError(f"--seeds is {arguments.seeds}; it must be at least 1")
    rows = [name.strip() for name in arguments.rows.split(",")] if arguments.rows else None
    try:
        plan(geometry, config, rows)
    except ValueError as error:
        raise UsageError(error) from error
    _quiet_tensorflow()
    from .ablation.table import ablation

    ablation(arguments.data, arguments.out, geometry, config, rows=rows, seeds=arguments.seeds)
    print((arguments.out / "ablation.md").read_text(encoding="utf-8"))
    return OK


def _predict(arguments: argparse.Namespace) -> int:
    config = from_flags(PredictConfig, arguments)
    _quiet_tensorflow()
    from .prediction.predict import predict

    return _report_problems(
        predict(arguments.data, arguments.runs, arguments.out, config, scheduler=arguments.scheduler)
    )


def _pseudo(arguments: argparse.Namespace) -> int:
    config = from_flags(PredictConfig, arguments)
    _quiet_tensorflow()
    from .preparation.prepare import summary
    from .training.pseudo_labels import pseudo_label

    store, problems = pseudo_label(arguments.data, arguments.patches, arguments.store, arguments.runs, config)
    print(summary(store))
    return _report_problems(problems)


def _validate(arguments: argparse.Namespace) -> int:
    from .submission import validate

    problems = validate(arguments.submission, arguments.data)
    status = _report_problems(problems)
    if status == OK:
        warnings = f", {len(problems)} warnings" if problems else ""
        print(f"{arguments.submission} is valid{warnings}")
    return status


def _score(arguments: argparse.Namespace) -> int:
    from .files import replacing
    from .metrics import score_text
    from .submission import score

    scores = score(arguments.submission, arguments.truth)
    if arguments.per_image:
        with replacing(arguments.per_image) as part:
            scores.reindex(columns=["id", "organ", "dice"]).to_csv(part, index=False)
    print(score_text(scores))
    return OK


def _report(arguments: argparse.Namespace) -> int:
    from .reports.report import write_report
    from .run import expand

    write_report(expand(arguments.runs), arguments.out)
    print(arguments.out)
    return OK


def _report_problems(problems: list[Problem]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return BAD_INPUT if any(problem.severity == "error" for problem in problems) else OK


def _quiet_tensorflow() -> None:
    """Keep TensorFlow's start-up notes off the terminal; what fails still raises."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hubmap-kit", description="Submission kit for HuBMAP + HPA.")
    parser.add_argument("--version", action="version", version=f"hubmap-kit {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str,
        help: str,
        command: typing.Callable[[argparse.Namespace], int],
        stopped: str = "what was finished is kept",
    ) -> argparse.ArgumentParser:
        """Add a command; `stopped` is what to say if Ctrl-C stops it."""
        description = help[0].upper() + help[1:] + "."
        # Abbreviated flags are refused: a later version may give the abbreviation another meaning.
        sub = commands.add_parser(name, help=help, description=description, allow_abbrev=False)
        sub.set_defaults(command=command, parser=sub, stopped=stopped)
        return sub

    sub = add("demo", "write a small competition in Kaggle's layout, with test_truth.csv", _demo)
    sub.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    sub.add_argument("--train", metavar="N", type=int, default=40, help="training images (default: %(default)s)")
    sub.add_argument("--test", metavar="N", type=int, default=20, help="test images (default: %(default)s)")
    sub.add_argument(
        "--size", metavar="PX", type=int, default=1024, help="side of a training image (default: %(default)s)"
    )
    sub.add_argument("--seed", metavar="N", type=int, default=0, help="seed of every image (default: %(default)s)")

    sub = add("prepare", "cut the training images into patches: masks, split, patch store", _prepare)
    sub.add_argument("data", metavar="DATA", type=Path, help="competition folder")
    sub.add_argument("patches", metavar="PATCHES", type=Path, help="folder of the patch store")
    sub.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask cluster that prepares the images, such as tcp://10.0.0.1:8786; it must share the file system "
        "of DATA and PATCHES",
    )
    add_flags(sub, PrepareConfig)

    sub = add("train", "train a network and write its run folder", _train)
    sub.add_argument("patches", metavar="PATCHES", type=Path, help="patch store")
    sub.add_argument("run", metavar="RUN", type=Path, help="run folder to write")
    sub.add_argument(
        "--recipe", choices=tuple(RECIPES), default="default", help="settings to start from (default: %(default)s)"
    )
    sub.add_argument("--resume", action="store_true", help="go on after the last finished epoch")
    sub.add_argument(
        "--all-folds",
        action="store_true",
        help="train every fold, to RUN/fold0, RUN/fold1, and so on, and choose thresholds on all of them",
    )
    sub.add_argument(
        "--time-limit",
        metavar="MINUTES",
        type=float,
        help="stop after an epoch if another one would not fit, but train at least one; go on with --resume "
        "(default: no limit)",
    )
    sub.epilog = RECIPE_NOTE
    add_flags(sub, TrainConfig)

    sub = add("predict", "predict images with a run, or an ensemble of several", _predict)
    sub.add_argument("data", metavar="DATA", type=Path, help="competition folder")
    sub.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, or folders of folds")
    sub.add_argument("--out", metavar="CSV", type=Path, required=True, help="submission to write")
    sub.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask cluster that predicts the images, such as tcp://10.0.0.1:8786; it must share the file system "
        "of DATA and RUN",
    )
    add_flags(sub, PredictConfig)

    sub = add("pseudo", "predict images into a store of soft masks to train on; see train --pseudo", _pseudo)
    sub.add_argument("data", metavar="DATA", type=Path, help="competition folder")
    sub.add_argument("patches", metavar="PATCHES", type=Path, help="patch store whose context and input size are used")
    sub.add_argument("store", metavar="STORE", type=Path, help="folder of the store to write")
    sub.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, or folders of folds")
    add_flags(sub, PredictConfig, only=PSEUDO_SETTINGS)

    sub = add("ablation", "measure what each part of a recipe brings, on a validation fold", _ablation)
    sub.add_argument("data", metavar="DATA", type=Path, help="competition folder; its test images are not used")
    sub.add_argument("out", metavar="OUT", type=Path, help="folder to write; rows already in it are not computed again")
    sub.add_argument(
        "--recipe", choices=tuple(RECIPES), default="cpu", help="settings of the base (default: %(default)s)"
    )
    rows = ", ".join(name for name in ROWS if name != BASE)
    sub.add_argument("--rows", metavar="NAMES", help=f"rows besides the base, comma-separated (default: all): {rows}")
    sub.add_argument("--seeds", metavar="N", type=int, default=2, help="trainings for each row (default: %(default)s)")
    for config in (PrepareConfig, TrainConfig):  # each row is trained with several seeds
        names = [field.name for field in dataclasses.fields(config) if field.name != "seed"]
        add_flags(sub, config, only=names)
    sub.epilog = RECIPE_NOTE

    sub = add("validate", "check a submission", _validate)
    sub.add_argument("submission", metavar="SUBMISSION", type=Path, help="submission.csv")
    sub.add_argument("--data", metavar="DATA", type=Path, required=True, help="competition folder")

    sub = add("score", "score a submission against the truth", _score)
    sub.add_argument("submission", metavar="SUBMISSION", type=Path, help="submission.csv")
    sub.add_argument(
        "--truth", metavar="CSV", type=Path, required=True, help="CSV with id,rle,img_height,img_width[,organ]"
    )
    sub.add_argument("--per-image", metavar="CSV", type=Path, help="also write id,organ,dice")

    sub = add("report", "write a page about runs", _report)
    sub.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, or folders of folds")
    sub.add_argument("--out", metavar="HTML", type=Path, required=True, help="page to write")

    rehearsal_command.add_parser(add)
    kaggle_commands.add_parsers(add)
    return parser
