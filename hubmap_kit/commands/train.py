"""hubmap-kit train."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import TrainConfig, UsageError, from_flags, number
from ..config import add_flags as add_settings
from ..recipes import RECIPES, recipe, recipe_in
from ..terminal import Ending, Parser

EXAMPLE = """\
hubmap-kit train patches run
hubmap-kit train patches run --recipe cpu --encoder-weights none --epochs 5
"""
STOPPED = "the epochs that were finished are kept; go on with: {command} --resume"
RECIPE_NOTE = (
    "A setting that is not given is taken from the recipe. The defaults shown are those of the recipe {recipe}; "
    "for another one's: hubmap-kit {command} --recipe NAME --help. 'Measured worse' is a result of the project's own "
    "ablation, on real tissue."
)


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("patches", metavar="PATCHES", type=Path, help="patch store")
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder to write")
    add_recipe(parser, "default")
    parser.add_argument("--resume", action="store_true", help="go on after the last finished epoch")
    parser.add_argument(
        "--all-folds",
        action="store_true",
        help="train every fold, to RUN/fold0, RUN/fold1, and so on, and choose thresholds on all of them",
    )
    parser.add_argument(
        "--time-limit",
        metavar="MINUTES",
        type=number,
        help="stop after an epoch if another one would not fit, but train at least one; go on with --resume "
        "(default: no limit)",
    )
    add_settings(parser, TrainConfig, shown=recipe(recipe_in(parser.argv, "default")))


def add_recipe(parser: Parser, default: str) -> None:
    """Add the flag ``--recipe``, and the note about it."""
    names = tuple(RECIPES)
    parser.add_argument("--recipe", choices=names, default=default, help=f"settings to start from (default: {default})")
    parser.epilog = RECIPE_NOTE.format(recipe=recipe_in(parser.argv, default), command=parser.command)


def run(arguments: Namespace) -> Ending:
    """Train."""
    config = from_flags(TrainConfig, arguments, lambda **given: recipe(arguments.recipe, **given))
    if arguments.time_limit is not None and not arguments.time_limit > 0:
        raise UsageError(f"--time-limit is {arguments.time_limit}; it must be above 0, in minutes")
    if arguments.all_folds and config.fold is not None:
        raise UsageError("--all-folds trains every fold; leave out --fold")
    from ..training.train import train

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
    return Ending(f"{arguments.run}: trained")
