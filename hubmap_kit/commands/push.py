"""hubmap-kit push. It is run in a clone."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config import UsageError
from ..kaggle.push import PARTS
from ..terminal import Ending, Parser, show_error
from ..words import did_you_mean

EXAMPLE = """\
hubmap-kit push --dry-run
hubmap-kit push weights infer --run run
"""
STOPPED = "kernels that run on Kaggle go on; go on with: {command}"


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument("parts", metavar="PART", nargs="*", type=_part, default=[], help=f"all (default), {names}")
    parser.add_argument(
        "--notebook",
        action="store_true",
        help="push the notebook of the results as a private kernel; PARTs only if they are named",
    )
    parser.add_argument(
        "--run",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        dest="runs",
        help="run folder for the weights, instead of training; repeat it for an ensemble",
    )
    parser.add_argument("--dry-run", action="store_true", help="show every call and file, and change nothing on Kaggle")
    parser.add_argument(
        "--force", action="store_true", help="push although changes are not committed, or no rehearsal passed"
    )
    parser.add_argument(
        "--poll", metavar="S", type=float, help="seconds between questions to Kaggle (default: 5; kernels: 30)"
    )


def run(arguments: argparse.Namespace) -> Ending:
    """Push."""
    from ..kaggle.bundle import build_bundle
    from ..kaggle.clone import find_clone
    from ..kaggle.connection import Connection
    from ..kaggle.names import KIT, NOTEBOOK
    from ..kaggle.push import Push
    from ..kaggle.records import FOLDER, Records
    from ..kaggle.verdict import obstacles

    parts = arguments.parts or ([] if arguments.notebook else ["all"])
    names = [part.name for part in PARTS if part.name in parts or "all" in parts]
    if arguments.runs:
        if "weights" not in names:
            raise UsageError("--run names run folders for the part weights, which is not pushed")
        names = [name for name in names if name != "train"]
    clone, dry_run = find_clone(), arguments.dry_run
    connection = Connection.connect(dry_run=dry_run)
    with Records(clone / FOLDER, connection.owner).locked():
        reasons, kit = obstacles(clone)
        for reason in reasons:
            if arguments.force or dry_run:
                print(f"{'overridden by --force' if arguments.force else 'a push would be refused'}: {reason}")
            else:
                show_error(f"{reason} (or push with --force)")
        if reasons and not arguments.force and not dry_run:
            return Ending(failed=True)
        if kit is None and not dry_run:
            kit = build_bundle(clone, clone / "dist" / KIT)
        known = "" if connection.connected else ": there are no credentials, so nothing is read from Kaggle"
        print(f"owner {connection.owner}{known}")
        push = Push(connection, clone, kit, runs=arguments.runs, poll_s=arguments.poll)
        push.check([*(part.slug for part in PARTS if part.name in names), *([NOTEBOOK] if arguments.notebook else [])])
        push.run(names)
        if arguments.notebook:
            push.notebook()
    pushed = ", ".join([*names, *(["notebook"] if arguments.notebook else [])])
    return Ending(
        f"dry run: nothing was sent; a push sends {pushed}" if dry_run else f"pushed {pushed}",
        next=("push", *(word for word in arguments.parser.argv if word != "--dry-run")) if dry_run else ("submit",),
        values={"parts": names, "notebook": arguments.notebook, "dry_run": dry_run},
    )


def _part(name: str) -> str:
    """A part of a push, by its name."""
    names = ["all", *(part.name for part in PARTS)]
    if name not in names:
        raise argparse.ArgumentTypeError(
            f"there is no part {name}{did_you_mean(name, names)}; the parts are {', '.join(names)}"
        )
    return name
