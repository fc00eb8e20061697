"""hubmap-kit train."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import LONGEST_MIN, PrepareConfig, TrainConfig, UsageError, from_flags
from ..config import add_flags as add_settings
from ..recipes import RECIPES, made_for, recipe, recipe_in, remark_on
from ..terminal import Ending, Parser, number_between
from ..words import count, did_you_mean

if TYPE_CHECKING:
    from ..run import RunConfig

EXAMPLE = """\
hubmap-kit train patches run
hubmap-kit train patches run --recipe cpu --encoder-weights none --epochs 5
"""
STOPPED = "the epochs that were finished are kept; go on with: {command} --resume"
RECIPE_NOTE = (
    "A setting that is not given is taken from the recipe. The defaults shown are those of the recipe {recipe}; "
    "for another recipe: hubmap-kit {command} --recipe NAME --help. 'Measured worse' is a result of the project's own "
    "ablation on real tissue, in trainings of 160 steps; longer trainings may differ."
)
WRITES = {"run": "folder"}


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
        type=number_between(1e-6, LONGEST_MIN),
        help="stop after an epoch if another one would not fit, but train at least one; go on with --resume "
        "(default: no limit)",
    )
    add_settings(parser, TrainConfig, shown=recipe(recipe_in(parser.argv, "default")))


def add_recipe(parser: Parser, default: str) -> None:
    """Add the flag ``--recipe``, and the note about it."""
    parser.add_argument("--recipe", choices=tuple(RECIPES), help=f"settings to start from (default: {default})")
    parser.epilog = RECIPE_NOTE.format(recipe=recipe_in(parser.argv, default), command=parser.command)


def add_settings_but_seed(parser: Parser, name: str) -> None:
    """Add the flags of the preparation and of the training but ``--seed``, with the defaults of the recipe `name`."""
    for config, shown in ((PrepareConfig, made_for(name)), (TrainConfig, recipe(name))):
        names = [field.name for field in fields(config) if field.name != "seed"]
        add_settings(parser, config, only=names, shown=shown)


def run(arguments: Namespace) -> Ending:
    """Train."""
    from ..models.hardware import start_tensorflow
    from ..preparation.store import PatchStore
    from ..run import FOLDS, check_place

    folder, minutes = arguments.run, arguments.time_limit
    begun = _begun(folder) if arguments.resume and not arguments.recipe else None
    name = arguments.recipe or (begun.recipe if begun else "default")
    make = partial(replace, begun.train) if begun else partial(recipe, name)
    all_folds = arguments.all_folds or (arguments.resume and (folder / FOLDS).is_file())
    if all_folds and hasattr(arguments, "fold"):
        raise UsageError("--all-folds trains every fold; leave out --fold")
    config = from_flags(TrainConfig, arguments, make)
    _check_weights(config)
    check_place(folder, resume=arguments.resume)
    store = PatchStore.open(arguments.patches)
    if remark := remark_on(name, store.config.input_size):
        print(remark, flush=True)

    start_tensorflow()  # after all that can be checked without it
    from ..training.train import train

    finished = train(
        arguments.patches,
        folder,
        config,
        recipe=name,
        resume=arguments.resume,
        time_limit_s=None if minutes is None else 60 * minutes,
        all_folds=all_folds,
    )
    if not finished:
        typed = [word for word in arguments.parser.argv if word != "--resume"]
        return Ending(f"{folder}: not finished", next=("train", *typed, "--resume"), values={"finished": False})
    return _ending(folder)


def _begun(folder: Path) -> RunConfig | None:
    """The settings that a training was begun with, in a run folder or a folder of folds; None if there is none."""
    from ..run import CONFIG, RunConfig

    if (folder / CONFIG).is_file():
        return RunConfig.read(folder)
    if (folder / "fold0" / CONFIG).is_file():
        config = RunConfig.read(folder / "fold0")
        return replace(config, train=replace(config.train, fold=None))
    return None


def _check_weights(config: TrainConfig) -> None:
    """Check that a file of pretrained weights exists, if one is named and used."""
    weights = config.encoder_weights
    used = config.model != "unet" and weights not in ("imagenet", "none")
    if used and not Path(weights).is_file():
        meant = did_you_mean(weights, ("imagenet", "none"))
        raise ValueError(f"--encoder-weights: there is no file {weights}{meant or '; write imagenet, none or a path'}")


def _ending(folder: Path) -> Ending:
    """What a finished training says: the epoch whose weights were kept, the thresholds, and the scores."""
    from ..run import FOLDS, HISTORY, RESULTS, FoldsConfig, RunConfig, kept_epoch, read_table

    values = {"folder": str(folder), "finished": True}
    table = (folder / RESULTS).read_text(encoding="utf-8").rstrip("\n")
    if (folder / FOLDS).is_file():
        folds = FoldsConfig.read(folder).folds
        text = _rule_text(RunConfig.read(folder / "fold0"))  # each fold has those of all
        return Ending(
            f"{folder}: {count(folds, 'fold')}{_page(folder)}", f"{table}\n{text}", next=_next(folder), values=values
        )
    config = RunConfig.read(folder)
    history = read_table(folder / HISTORY, ["epoch"])
    rows: list[Any] = [] if history is None else history.to_dict("records")
    epoch = kept_epoch(rows)
    dice = next((row.get("validation_dice", math.nan) for row in rows if row["epoch"] == epoch), math.nan)
    kept = "" if math.isnan(dice) else f", kept epoch {epoch} (validation Dice {dice:.4f})"
    return Ending(
        f"{folder}: {count(len(rows), 'epoch')}{kept}{_page(folder)}",
        f"{table}\n{_rule_text(config)}",
        next=_next(folder),
        values={
            **values,
            "epochs": len(rows),
            "kept_epoch": epoch,
            "results": config.results,
            "thresholds": config.rule.thresholds,
            "min_region_um2": config.rule.min_region_um2,
        },
    )


def _page(folder: Path) -> str:
    """The page about a run, if it was written."""
    from ..run import REPORT

    return f", page {folder / REPORT}" if (folder / REPORT).is_file() else ""


def _next(folder: Path) -> tuple[object, ...]:
    """The command that predicts with a run, on the competition folder that its ``config.json`` names."""
    from ..run import CONFIG, RunConfig

    first = folder if (folder / CONFIG).is_file() else folder / "fold0"
    data, here = RunConfig.read(first).data, Path.cwd()
    if not data:
        return ()
    shown = Path(data).relative_to(here) if Path(data).is_relative_to(here) else data
    return ("predict", shown, folder, "--out", "submission.csv")


def _rule_text(config: RunConfig) -> str:
    """The threshold and the least region of each organ, and where they come from."""
    rule = config.rule
    organs = [
        f"{organ} {threshold:.2f}" + (f", regions from {area:.0f} um2" if area else "")
        for organ, (threshold, area) in ((organ, rule.of(organ)) for organ in rule.thresholds)
    ]
    text = f"threshold: {'; '.join(organs)}"
    if config.train.tune and config.splits.get("validation"):
        text += "\nchosen on the validation images where the gain is clear, so their Dice is a little too high"
    return text
