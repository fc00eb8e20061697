"""hubmap-kit bundle. It is run in a clone."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..kaggle.names import KIT
from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = "hubmap-kit bundle"
IN_CLONE = f"dist/{KIT}"
WRITES = {"out": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="folder to make (default: dist/hubmap-kit)")


def run(arguments: Namespace) -> Ending:
    """Build the bundle."""
    from ..files import size_text
    from ..kaggle.bundle import build_bundle
    from ..kaggle.clone import find_clone
    from ..kaggle.manifest import Manifest

    out = build_bundle(find_clone(), arguments.out)
    size = sum(path.stat().st_size for path in out.iterdir())
    manifest = Manifest.read(out)
    state = " with uncommitted changes" if manifest.dirty else ""
    return Ending(
        f"{out}: {count(len(manifest.wheels), 'wheel')}, {size_text(size)}, of commit {manifest.commit}{state}",
        next=("rehearse",),
        values={"folder": str(out), "bytes": size, "wheels": [wheel.file for wheel in manifest.wheels]},
    )
