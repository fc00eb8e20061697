"""hubmap-kit plan."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import PrepareConfig, TrainConfig, UsageError, from_flags
from ..files import size_text
from ..kaggle.records import FOLDER, PACE
from ..models.encoders import ENCODERS
from ..recipes import RECIPES, made_for, recipe
from ..terminal import Ending, Parser
from ..words import count, did_you_mean
from .train import add_settings_but_seed

if TYPE_CHECKING:
    from ..kernels import InferSettings, TrainSettings

EXAMPLE = """\
hubmap-kit plan kernel
hubmap-kit plan kernel --set EPOCHS=30
hubmap-kit plan default
hubmap-kit plan default --input-size 1024 --encoders efficientnetb5,efficientnetv2m
"""
RECORDED = Path(FOLDER, PACE)
KERNEL = "kernel"  # in place of a recipe: the settings of the kernels


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        choices=(*RECIPES, KERNEL),
        help=f"{', '.join(RECIPES)}; or {KERNEL}: the settings of the kernels in this clone",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="changes",
        help=f"with {KERNEL}: change a setting, as push --set does",
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

    name, of_kernels = arguments.recipe, None
    if name == KERNEL:
        of_kernels, machine_shape = _kernels(arguments)
        train, _ = of_kernels
        name, geometry, config, all_folds = train.RECIPE, train.geometry(), train.config(), train.trains_all_folds()
    elif arguments.changes:
        raise UsageError(f"--set changes settings of the kernels; write: hubmap-kit plan {KERNEL} --set NAME=VALUE")
    else:
        geometry = from_flags(PrepareConfig, arguments, partial(made_for, name))
        config = from_flags(TrainConfig, arguments, partial(recipe, name))
        all_folds = bool(geometry.folds) and config.fold is None
    if arguments.encoders is not None and config.model == "unet":
        raise UsageError("--encoders: the plain U-Net has no encoder; leave it out, or leave out --model unet")
    encoders = _encoders(arguments.encoders) if arguments.encoders is not None else [config.encoder]
    from ..kaggle.hours import read_pace

    configs = [dataclasses.replace(config, encoder=encoder) for encoder in encoders]
    paces = [read_pace(arguments.pace, each.step_text(geometry.input_size)) for each in configs]
    if not any(paces) and arguments.pace != RECORDED:
        raise UsageError(
            f"--pace {arguments.pace}: there is no such file, or it is of another step than "
            + " and ".join(each.step_text(geometry.input_size) for each in configs)
        )
    start_tensorflow()
    from ..training.plan import KAGGLE, kernel_hours, plan, sources, table, this_computer

    machines = [*KAGGLE, this_computer()]
    plans = [plan(geometry, each, all_folds=all_folds) for each in configs]
    parts, described, values = [], {}, {}
    for each, planned, pace in zip(configs, plans, paces, strict=True):
        rows = table(planned, machines, pace)
        network, cost = (each.model if each.model == "unet" else each.encoder), planned.cost
        parts.append(
            f"{network}: {cost.parameters / 1e6:.1f} M parameters; a patch of {geometry.input_size} px: "
            f"{cost.flops / 1e9:.3g} GFLOP to predict, {size_text(cost.held_bytes)} to train on\n"
            + rows.to_string(index=False, float_format=lambda hours: f"{hours:.{2 if hours < 100 else 0}f}")
        )
        described[network] = dataclasses.asdict(planned) | {"machines": rows.to_dict("records")}
    result = "\n\n".join([*parts, sources(machines, next(filter(None, paces), None))])
    if of_kernels:
        (planned,), (pace,), (train, infer) = plans, paces, of_kernels  # they have one encoder
        hours = kernel_hours(
            planned,
            step=config.step_text(geometry.input_size),
            machine_shape=machine_shape,
            limit_h=train.TIME_LIMIT,
            tta=infer.TTA,
            scales=infer.SCALES,
        )
        result = "\n".join([result, "", *hours.lines(pace).values()])
        values["hours"] = dataclasses.asdict(hours)
    size = plans[0]  # the same for each encoder
    return Ending(
        f"{name}: {count(size.folds, 'training')} on {size.train_images} images, each of "
        f"{count(size.steps, 'step')} of {count(size.batch, 'patch')}, validated on {size.val_images}",
        result,
        values={"recipe": name, "plans": described, **values},
    )


def _kernels(arguments: Namespace) -> tuple[tuple[TrainSettings, InferSettings], str]:
    """The settings of both kernels, some of them changed, and the machine that the training kernel asks for.

    Raises:
        UsageError: A recipe's flag is given too, or a change is not allowed.
    """
    from ..kaggle.clone import find_clone
    from ..kaggle.metadata import KERNELS, kernel_metadata
    from ..kaggle.names import TRAIN
    from ..kernels import InferSettings, TrainSettings, changed
    from .push import changed_settings, kernel_settings

    fields = [field.name for config in (PrepareConfig, TrainConfig) for field in dataclasses.fields(config)]
    if arguments.encoders or any(hasattr(arguments, name) for name in fields):
        raise UsageError(f"with {KERNEL}, change settings with --set NAME=VALUE, not with flags of a recipe")
    clone, parts = find_clone(), ("train", "infer")
    changes, given = changed_settings(arguments.changes, parts, clone), kernel_settings(clone, parts)
    train = changed(TrainSettings, given["train"], changes.get("train", {}), "--set")
    infer = changed(InferSettings, given["infer"], changes.get("infer", {}), "--set")
    return (train, infer), kernel_metadata(clone / KERNELS[TRAIN], TRAIN)["machine_shape"]


def _encoders(text: str) -> list[str]:
    """The encoders to compare."""
    names = list(ENCODERS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ENCODERS:
            raise UsageError(f"--encoders: there is no encoder {name}{did_you_mean(name, ENCODERS)}")
    return names
