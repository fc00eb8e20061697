"""hubmap-kit validate."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = "hubmap-kit validate submission.csv --data data"


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("submission", metavar="SUBMISSION", type=Path, help="submission.csv")
    parser.add_argument("--data", metavar="DATA", type=Path, required=True, help="competition folder")


def run(arguments: Namespace) -> Ending:
    """Check the submission."""
    from ..submission import validate

    problems = validate(arguments.submission, arguments.data)
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    found = [count(number, kind) for number, kind in ((errors, "error"), (warnings, "warning")) if number]
    name, data = arguments.submission, arguments.data
    truth = data / "test_truth.csv"
    return Ending(
        ", ".join([f"{name} is {'not ' if errors else ''}valid", *found]),
        next=("score", name, "--truth", truth)
        if truth.is_file()
        else ("review", name, "--data", data, "--out", "review.html"),
        values={"submission": str(name), "valid": not errors, "errors": errors, "warnings": warnings},
        problems=problems,
    )
