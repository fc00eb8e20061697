"""hubmap-kit ablation."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from ..ablation.rows import BASE, ROWS, plan
from ..config import PrepareConfig, TrainConfig, UsageError, from_flags
from ..recipes import made_for, recipe, recipe_in
from ..terminal import Ending, Parser, whole_between
from ..words import count
from .train import add_recipe, add_settings_but_seed

EXAMPLE = "hubmap-kit ablation data ablation --folds 5 --rows no-stain,d4 --seeds 2"
STOPPED = "the rows that are done are kept; go on with: {command}"
WRITES = {"out": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("data", metavar="DATA", type=Path, help="competition folder; its test images are not used")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder to write; rows already in it are not computed again"
    )
    add_recipe(parser, "cpu")
    rows = ", ".join(name for name in ROWS if name != BASE)
    parser.add_argument(
        "--rows", metavar="NAMES", help=f"rows besides the base, comma-separated (default: all): {rows}"
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=whole_between(1, 1000),
        default=2,
        help="trainings for each row (default: %(default)s)",
    )
    add_settings_but_seed(parser, recipe_in(parser.argv, "cpu"))  # each row is trained with several seeds


def run(arguments: Namespace) -> Ending:
    """Train, predict and score the rows."""
    name = arguments.recipe or "cpu"
    geometry = from_flags(PrepareConfig, arguments, partial(made_for, name))
    config = from_flags(TrainConfig, arguments, partial(recipe, name))
    rows = [name.strip() for name in arguments.rows.split(",")] if arguments.rows else None
    try:
        plan(geometry, config, rows)
    except ValueError as error:
        raise UsageError(error) from error
    from ..ablation.table import ablation

    table = ablation(arguments.data, arguments.out, geometry, config, rows=rows, seeds=arguments.seeds)
    path = arguments.out / "ablation.md"
    return Ending(
        f"{path}: {count(len(table), 'row')}, {count(arguments.seeds, 'seed')} each",
        path.read_text(encoding="utf-8"),
        values={"table": str(arguments.out / "ablation.csv"), "rows": table.to_dict("records")},
    )
