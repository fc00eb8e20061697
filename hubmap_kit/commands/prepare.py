"""hubmap-kit prepare."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import PrepareConfig, from_flags
from ..config import add_flags as add_settings
from ..recipes import suited_to
from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = """\
hubmap-kit prepare data patches
hubmap-kit prepare data patches --test-size 0 --folds 5
"""
STOPPED = "the images that were prepared are kept; go on with: {command}"
WRITES = {"patches": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("data", metavar="DATA", type=Path, help="competition folder")
    parser.add_argument("patches", metavar="PATCHES", type=Path, help="folder of the patch store")
    add_settings(parser, PrepareConfig)
    parser.add_argument("--overwrite", action="store_true", help="replace a store of other data in PATCHES")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask cluster that prepares the images, such as tcp://127.0.0.1:8786; it must share the file system of "
        "DATA and PATCHES; whoever reaches it can run code here (docs/many-devices.md)",
    )


def run(arguments: Namespace) -> Ending:
    """Write the patch store."""
    from ..preparation.prepare import gaps, prepare, summary

    config = from_flags(PrepareConfig, arguments)
    store = prepare(
        arguments.data, arguments.patches, config, overwrite=arguments.overwrite, scheduler=arguments.scheduler
    )
    suited = suited_to(config.input_size)
    splits = [stored.split for stored in store.images.values()]
    return Ending(
        f"{arguments.patches}: {count(len(splits), 'image')}, {count(len(store.patches), 'patch')}",
        summary(store),
        look=("inspect", arguments.data, "--out", "data.html"),
        next=("train", arguments.patches, "run", *(("--recipe", suited) if suited != "default" else ())),
        values={
            "folder": str(arguments.patches),
            "images": {split: splits.count(split) for split in ("train", "validation", "test")},
            "patches": len(store.patches),
        },
        problems=gaps(store),
    )
