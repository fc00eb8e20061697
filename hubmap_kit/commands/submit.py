"""hubmap-kit submit. It is run in a clone."""

from __future__ import annotations

from argparse import Namespace

from ..terminal import Ending, Parser, number_between, whole_between

EXAMPLE = """\
hubmap-kit submit --dry-run
hubmap-kit submit
"""
STOPPED = "Kaggle goes on with the submission; go on with: {command}"


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument(
        "--version",
        metavar="N",
        type=whole_between(1, 10**9),
        help="version of the kernel (default: the newest that ran)",
    )
    parser.add_argument(
        "--weights",
        metavar="N",
        type=whole_between(1, 10**9),
        help="submit the newest version that ran with version N of the weights",
    )
    parser.add_argument("--again", action="store_true", help="submit a version that was submitted before")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    parser.add_argument(
        "--poll",
        metavar="S",
        type=number_between(0.01, 86_400),
        help="seconds between questions to Kaggle (default: 60)",
    )


def run(arguments: Namespace) -> Ending:
    """Submit."""
    from ..kaggle.clone import find_clone
    from ..kaggle.connection import Connection
    from ..kaggle.records import FOLDER, Records
    from ..kaggle.submit import Submissions, outcome

    clone = find_clone()
    connection = Connection.connect(dry_run=arguments.dry_run)
    records = Records(clone / FOLDER, connection.owner)
    with records.locked():
        submissions = Submissions(connection, records, poll_s=arguments.poll)
        version = submissions.choose(arguments.version, arguments.weights)
        row = submissions.submit(version, again=arguments.again)
    if arguments.dry_run:
        return Ending("dry run: nothing was sent", next=("submit",), values={"version": version, "dry_run": True})
    if row["status"] != "COMPLETE":
        raise ValueError(outcome(row))
    return Ending(
        f"version {version} was submitted and is scored",
        outcome(row),
        values={"version": version, "dry_run": False, **row},
    )
