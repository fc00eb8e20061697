"""hubmap-kit demo."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import LARGEST_SEED, SettingError, UsageError
from ..terminal import Ending, Parser, whole_between
from ..words import count

EXAMPLE = "hubmap-kit demo demo"
WRITES = {"out": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make")
    parser.add_argument("--train", metavar="N", type=int, default=40, help="training images (default: %(default)s)")
    parser.add_argument("--test", metavar="N", type=int, default=20, help="test images (default: %(default)s)")
    parser.add_argument(
        "--size", metavar="PX", type=int, default=1024, help="side of a training image (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_between(0, LARGEST_SEED),
        default=0,
        help="seed of every image (default: %(default)s)",
    )


def run(arguments: Namespace) -> Ending:
    """Draw the competition."""
    from ..demo.write import write_demo

    out, train, test = arguments.out, arguments.train, arguments.test
    try:
        write_demo(out, train=train, test=test, size=arguments.size, seed=arguments.seed)
    except SettingError as error:
        raise UsageError(f"--{error.name} {error.rule}") from error
    return Ending(
        f"{out}: {train} training and {count(test, 'test image')}, with the answers in {out / 'test_truth.csv'}",
        next=("prepare", out, "patches", "--input-size", 96),
        values={"folder": str(out), "train_images": train, "test_images": test},
    )
