"""hubmap-kit pseudo."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import PredictConfig, from_flags
from ..config import add_flags as add_settings
from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = "hubmap-kit pseudo data patches soft run"
STOPPED = "the images that were predicted are kept; go on with: {command}"
# Prediction settings that change a soft mask, or the time it takes.
SETTINGS = ("split", "tile_size", "overlap", "tta", "scales", "stain", "batch_size", "precision")
WRITES = {"store": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("data", metavar="DATA", type=Path, help="competition folder")
    parser.add_argument(
        "patches", metavar="PATCHES", type=Path, help="patch store whose context and input size are used"
    )
    parser.add_argument("store", metavar="STORE", type=Path, help="folder of the store to write")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, or folders of folds")
    add_settings(parser, PredictConfig, only=SETTINGS)
    parser.add_argument("--overwrite", action="store_true", help="replace soft masks of other data in STORE")


def run(arguments: Namespace) -> Ending:
    """Predict the soft masks."""
    config = from_flags(PredictConfig, arguments)
    from ..preparation.prepare import summary
    from ..training.pseudo_labels import pseudo_label

    store, problems = pseudo_label(
        arguments.data, arguments.patches, arguments.store, arguments.runs, config, overwrite=arguments.overwrite
    )
    return Ending(
        f"{arguments.store}: {count(len(store.images), 'soft mask')}, {count(len(store.patches), 'patch')}",
        summary(store),
        next=("train", arguments.patches, "run-pseudo", "--pseudo", arguments.store),
        values={"folder": str(arguments.store), "images": len(store.images), "patches": len(store.patches)},
        problems=problems,
    )
