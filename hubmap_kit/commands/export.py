"""hubmap-kit export."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import UsageError
from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = "hubmap-kit export submission.csv --data data --out masks"
WRITES = {"out": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("submission", metavar="SUBMISSION", type=Path, help="submission.csv, or any CSV with id,rle")
    parser.add_argument("--data", metavar="DATA", type=Path, required=True, help="competition folder")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--formats",
        metavar="NAMES",
        default="png,geojson,overlay",
        help="what to write: some of png,geojson,overlay (default: all)",
    )
    parser.add_argument(
        "--split", choices=("train", "test"), default="test", help="split of the images (default: %(default)s)"
    )


def run(arguments: Namespace) -> Ending:
    """Export the masks."""
    from ..exchange.export import FORMATS, export

    formats = list(dict.fromkeys(name.strip() for name in arguments.formats.split(",")))
    if strangers := [name for name in formats if name not in FORMATS]:
        raise UsageError(f"--formats has {', '.join(map(repr, strangers))}; choose among {', '.join(FORMATS)}")
    done = export(arguments.submission, arguments.data, arguments.out, formats=formats, split=arguments.split)
    return Ending(
        f"{', '.join(map(str, done.folders))}: {count(done.images, 'image')} with {count(done.units, 'unit')}",
        values={"folders": [str(folder) for folder in done.folders], "images": done.images, "units": done.units},
    )
