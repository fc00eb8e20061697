"""hubmap-kit plan."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path

from ..config import PrepareConfig, TrainConfig, UsageError, from_flags
from ..files import size_text
from ..kaggle.records import FOLDER, PACE
from ..models.encoders import ENCODERS
from ..recipes import RECIPES, recipe
from ..terminal import Ending, Parser
from ..words import count, did_you_mean
from .train import add_settings_but_seed

EXAMPLE = """\
hubmap-kit plan default --patch-size 3072 --input-size 768 --test-size 0 --folds 5 --all-folds
hubmap-kit plan default --encoders efficientnetb5,efficientnetv2m
"""
RECORDED = Path(FOLDER, PACE)


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("recipe", metavar="RECIPE", choices=tuple(RECIPES), help=", ".join(RECIPES))
    parser.add_argument(
        "--all-folds", action="store_true", help="plan the training of every fold, see train --all-folds"
    )
    parser.add_argument(
        "--encoders", metavar="NAMES", help="compare these encoders, comma-separated, or all; each takes half a minute"
    )
    parser.add_argument(
        "--pace",
        metavar="JSON",
        type=Path,
        default=RECORDED,
        help="times that a kernel measured on Kaggle; they replace the estimate (default: %(default)s, if it exists)",
    )
    named = next((word for word in parser.argv if word in RECIPES), "default")
    add_settings_but_seed(parser, named)


def run(arguments: Namespace) -> Ending:
    """Work out the plan."""
    from ..models.hardware import start_tensorflow

    geometry = from_flags(PrepareConfig, arguments)
    config = from_flags(TrainConfig, arguments, lambda **given: recipe(arguments.recipe, **given))
    names = _encoders(arguments.encoders) if arguments.encoders is not None else [config.encoder]
    if arguments.all_folds and not geometry.folds:
        raise UsageError("--all-folds needs folds; give their number with --folds")
    start_tensorflow()
    from ..training.plan import KAGGLE, plan, read_pace, sources, table, this_computer

    pace = read_pace(arguments.pace, arguments.recipe)
    if pace is None and arguments.pace != RECORDED:
        raise UsageError(
            f"--pace {arguments.pace}: there is no such file, or it is of another recipe than {arguments.recipe}"
        )
    machines = [*KAGGLE, this_computer()]
    parts, values = [], {}
    for name in names:
        planned = plan(geometry, dataclasses.replace(config, encoder=name), all_folds=arguments.all_folds)
        rows = table(planned, machines, pace)
        network, cost = (config.model if config.model == "unet" else name), planned.cost
        parts.append(
            f"{network}: {cost.parameters / 1e6:.1f} million parameters; a patch of {geometry.input_size} px takes "
            f"{cost.flops / 1e9:.3g} GFLOP to predict, and {size_text(cost.held_bytes)} to train on\n"
            + rows.to_string(index=False)
        )
        values[network] = dataclasses.asdict(planned) | {"machines": rows.to_dict("records")}
    return Ending(
        f"{arguments.recipe}: {count(planned.folds, 'training')} on {planned.train_images} images, each of "
        f"{count(planned.steps, 'step')} of {count(planned.batch, 'patch')}, validated on {planned.val_images}",
        "\n\n".join([*parts, sources(machines, pace)]),
        values={"recipe": arguments.recipe, "plans": values},
    )


def _encoders(text: str) -> list[str]:
    """The encoders to compare."""
    names = list(ENCODERS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ENCODERS:
            raise UsageError(f"--encoders: there is no encoder {name}{did_you_mean(name, ENCODERS)}")
    return names
