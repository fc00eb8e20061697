"""hubmap-kit report."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = "hubmap-kit report run --out report.html"


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, or folders of folds")
    parser.add_argument("--out", metavar="HTML", type=Path, required=True, help="page to write")


def run(arguments: Namespace) -> Ending:
    """Write the page."""
    from ..reports.report import write_report
    from ..run import expand

    runs = expand(arguments.runs)
    write_report(runs, arguments.out)
    return Ending(
        f"{arguments.out}: a page about {count(len(runs), 'run')}",
        values={"page": str(arguments.out), "runs": [str(run) for run in runs]},
    )
