"""hubmap-kit inspect."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..terminal import Ending, Parser, add_page_flags
from ..words import count

EXAMPLE = "hubmap-kit inspect data --out data.html"
WRITES = {"out": "file"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument(
        "data", metavar="DATA", type=Path, help="competition folder; its train or its test part may be missing"
    )
    add_page_flags(parser)


def run(arguments: Namespace) -> Ending:
    """Write the page."""
    from ..reports.inspect import write_inspection

    found = write_inspection(arguments.data, arguments.out, max_mb=arguments.max_mb, folder=arguments.folder)
    flags = sum(map(len, found.flags.values()))
    return Ending(
        f"{found.line}; {count(found.images, 'image')}, {count(flags, 'flag')}",
        next=("prepare", arguments.data, "patches") if found.trains else (),
        values={
            "page": str(arguments.out),
            "images": found.images,
            "flags": [
                {"split": split, "id": image_id, "flag": flag.key, "text": flag.text}
                for (split, image_id), flags_of_image in found.flags.items()
                for flag in flags_of_image
            ],
        },
        problems=found.problems,
    )
