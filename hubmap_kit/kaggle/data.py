"""The competition's data: downloaded, unpacked and checked."""

from __future__ import annotations

import argparse
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from ..competition import SLUG
from ..files import size_text
from ..progress import track
from ..tables import DataError, read_images, read_sample_submission
from .bundle import CLONE
from .client import Client
from .failures import KEPT, KaggleError


def fetch(client: Client, out: Path) -> None:
    """Download the competition's data; an interrupted download goes on where it was.

    The archive's size is checked against Kaggle's, and every file in it against its CRC-32. The
    archive is deleted once all is unpacked.

    Args:
        client: The connection.
        out: Folder to make, in the competition's layout.

    Raises:
        KaggleError: Kaggle refuses, or the archive is damaged.
        ValueError: `out` is in use, or what was unpacked is not the competition's data.
    """
    if out.is_dir() and any(out.iterdir()):
        _check(out)
        print(f"{out} is there already")
        return
    archive = out.with_name(f".{out.name}.zip")
    if not archive.is_file():
        print(f"downloading {SLUG} to {archive}", flush=True)
        client.download_competition(archive)
    print(f"{size_text(archive.stat().st_size)}; unpacking", flush=True)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            names = opened.namelist()
            for name in track(names, len(names), "unpack", unit="file"):
                opened.extract(name, part)
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise KaggleError(f"the archive arrived damaged ({error}) and is deleted; {KEPT}") from error
    _check(part)
    part.replace(out)
    archive.unlink()


def _check(folder: Path) -> None:
    try:
        train, test = read_images(folder, "train"), read_images(folder, "test")
        read_sample_submission(folder)
    except DataError as error:
        raise ValueError(f"{folder} is not the competition's data; delete it and try again:\n{error}") from error
    print(f"{len(train)} training images, {len(test)} test images")


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``python -m hubmap_kit.kaggle.data [OUT]``; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m hubmap_kit.kaggle.data", description="Download the competition's data."
    )
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", default=CLONE / "data", help="folder to make")
    out = parser.parse_args(argv).out.resolve()
    try:
        fetch(Client.connect(), out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; what was downloaded is kept, and {KEPT}", file=sys.stderr)
        return 130
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
