"""hubmap-kit review."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..terminal import Ending, Parser, add_page_flags, add_run_flag

EXAMPLE = """\
hubmap-kit review submission.csv --data data --out review.html
hubmap-kit review submission.csv --data data --against earlier.csv --out review.html"""
WRITES = {"out": "file"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("submission", metavar="SUBMISSION", type=Path, help="submission.csv")
    parser.add_argument("--data", metavar="DATA", type=Path, required=True, help="competition folder")
    parser.add_argument("--against", metavar="SUBMISSION", type=Path, help="another submission, to compare with")
    parser.add_argument("--truth", metavar="CSV", type=Path, help="CSV with id,rle,img_height,img_width")
    add_run_flag(parser, "run folder that predicted it")
    add_page_flags(parser)


def run(arguments: Namespace) -> Ending:
    """Write the page."""
    from ..kaggle.records import earlier_submissions
    from ..reports.review import write_review

    review = write_review(
        arguments.submission,
        arguments.data,
        arguments.out,
        against=arguments.against,
        truth=arguments.truth,
        runs=arguments.runs,
        earlier=earlier_submissions(),
        max_mb=arguments.max_mb,
        folder=arguments.folder,
    )
    return Ending(
        review.page,
        result="\n".join([*map(str, review.findings), f"{arguments.submission}: {review.verdict}"]),
        values={
            "page": str(arguments.out),
            "valid": review.valid,
            "verdict": review.verdict,
            "findings": list(map(str, review.findings)),
        },
        problems=review.problems,
    )
