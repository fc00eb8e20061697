"""hubmap-kit report."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import UsageError
from ..terminal import Ending, Parser, add_page_flags

EXAMPLE = "hubmap-kit report run --out report.html"
WRITES = {"out": "file"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, or folders of folds")
    parser.add_argument(
        "--data", metavar="DATA", type=Path, help="competition folder of the images (default: the one trained on)"
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="also show the runs as an ensemble: the mean of their probability maps"
    )
    add_page_flags(parser)


def run(arguments: Namespace) -> Ending:
    """Write the page."""
    from ..reports.report import write_report

    if arguments.data and not arguments.data.is_dir():
        raise UsageError(f"--data {arguments.data}: there is no such folder; name the one trained on, or leave it out")
    line = write_report(
        arguments.runs,
        arguments.out,
        data=arguments.data,
        ensemble=arguments.ensemble,
        max_mb=arguments.max_mb,
        folder=arguments.folder,
    )
    return Ending(line, values={"page": str(arguments.out), "runs": [str(run) for run in arguments.runs]})
