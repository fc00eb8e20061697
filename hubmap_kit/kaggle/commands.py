"""The commands that talk to Kaggle: bundle, push, submit and data. They are run in a clone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .failures import RERUN
from .push import PARTS


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to the command line.

    Args:
        add: Adds a command: its name, help, function, and what to say if Ctrl-C stops it.
    """
    sub = add("bundle", "build the dataset hubmap-kit, which brings the library to Kaggle", _bundle)
    sub.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder to make (default: dist/hubmap-kit)")

    stopped = f"kernels that run on Kaggle go on; {RERUN}"
    sub = add("push", "push datasets and kernels to Kaggle, and run the kernels", _push, stopped)
    names = ", ".join(part.name for part in PARTS)
    sub.add_argument("parts", metavar="PART", nargs="*", type=_part, default=[], help=f"all (default), {names}")
    sub.add_argument(
        "--notebook",
        action="store_true",
        help="push the notebook of the results as a private kernel, and no PART that is not named",
    )
    sub.add_argument(
        "--run",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        dest="runs",
        help="run folder for the weights, instead of training; repeat it for an ensemble",
    )
    sub.add_argument("--dry-run", action="store_true", help="show every call and file, and change nothing on Kaggle")
    sub.add_argument("--force", action="store_true", help="push in spite of changes or a missing rehearsal")
    sub.add_argument(
        "--poll",
        metavar="S",
        type=float,
        help="seconds between questions to Kaggle (default: 5; kernels: 30)",
    )

    stopped = f"Kaggle goes on with the submission; {RERUN}"
    sub = add("submit", "submit a version of the inference kernel and wait for its score", _submit, stopped)
    sub.add_argument("--version", metavar="N", type=int, help="version of the kernel (default: the newest that ran)")
    sub.add_argument(
        "--weights", metavar="N", type=int, help="submit the newest version that ran with version N of the weights"
    )
    sub.add_argument("--again", action="store_true", help="submit a version that was submitted before")
    sub.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    sub.add_argument("--poll", metavar="S", type=float, help="seconds between questions to Kaggle (default: 60)")

    sub = add("data", "download the competition's data from Kaggle", _data, f"what was downloaded is kept; {RERUN}")
    sub.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder to make (default: data in the clone)")


def _bundle(arguments: argparse.Namespace) -> int:
    from ..files import size_text
    from .bundle import build_bundle
    from .clone import find_clone
    from .manifest import MANIFEST
    from .names import KIT

    clone = find_clone()
    out = build_bundle(clone, arguments.out or clone / "dist" / KIT)
    size = size_text(sum(path.stat().st_size for path in out.iterdir()))
    print(f"{out}: {size}\n{(out / MANIFEST).read_text(encoding='utf-8')}", end="")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from .bundle import build_bundle
    from .clone import find_clone
    from .connection import Connection
    from .names import KIT
    from .push import Push
    from .records import FOLDER, Records
    from .verdict import obstacles

    parts = arguments.parts or ([] if arguments.notebook else ["all"])
    names = [part.name for part in PARTS if part.name in parts or "all" in parts]
    if arguments.runs:
        if "weights" not in names:
            arguments.parser.error("--run names run folders for the part weights, which is not pushed")
        names = [name for name in names if name != "train"]
    clone, dry_run = find_clone(), arguments.dry_run
    connection = Connection.connect(dry_run=dry_run)
    with Records(clone / FOLDER, connection.owner).locked():
        reasons, kit = obstacles(clone)
        for reason in reasons:
            if arguments.force or dry_run:
                print(f"{'overridden by --force' if arguments.force else 'a push would be refused'}: {reason}")
            else:
                print(f"error: {reason} (or push with --force)", file=sys.stderr)
        if reasons and not arguments.force and not dry_run:
            return 1
        if kit is None and not dry_run:
            kit = build_bundle(clone, clone / "dist" / KIT)
        known = "" if connection.connected else ": there are no credentials, so nothing is read from Kaggle"
        print(f"owner {connection.owner}{known}")
        push = Push(connection, clone, kit, runs=arguments.runs, poll_s=arguments.poll)
        push.run(names)
        if arguments.notebook:
            push.notebook()
    if dry_run:
        print("dry run: nothing was sent")
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    from .clone import find_clone
    from .connection import Connection
    from .records import FOLDER, Records
    from .submit import Submissions, outcome

    clone = find_clone()
    connection = Connection.connect(dry_run=arguments.dry_run)
    records = Records(clone / FOLDER, connection.owner)
    with records.locked():
        submissions = Submissions(connection, records, poll_s=arguments.poll)
        version = submissions.choose(arguments.version, arguments.weights)
        row = submissions.submit(version, again=arguments.again)
    if arguments.dry_run:
        print("dry run: nothing was sent")
        return 0
    if row["status"] != "COMPLETE":
        raise ValueError(outcome(row))
    print(outcome(row))
    return 0


def _data(arguments: argparse.Namespace) -> int:
    from .clone import find_clone
    from .connection import Connection
    from .data import fetch

    out = (arguments.out or find_clone() / "data").resolve()
    fetch(Connection.connect(), out)
    print(out)
    return 0


def _part(name: str) -> str:
    """A part of a push, by its name."""
    names = ["all", *(part.name for part in PARTS)]
    if name not in names:
        raise argparse.ArgumentTypeError(f"there is no part {name}; the parts are {', '.join(names)}")
    return name
