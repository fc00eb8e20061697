"""hubmap-kit data. It is run in a clone, unless the folder is named."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..terminal import Ending, Parser

EXAMPLE = "hubmap-kit data data"
IN_CLONE = "data"
WRITES = {"out": "folder"}
STOPPED = "what was downloaded is kept; go on with: {command}"


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder to make (default: data in the clone)")


def run(arguments: Namespace) -> Ending:
    """Download."""
    from ..kaggle.connection import Connection
    from ..kaggle.data import fetch

    out = arguments.out.resolve()
    fetch(Connection.connect(), out)
    return Ending(
        f"{out}: the competition's data",
        next=("prepare", arguments.out, "patches"),
        values={"folder": str(out)},
    )
