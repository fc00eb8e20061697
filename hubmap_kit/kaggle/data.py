"""Download the competition's data, unpack it and check it."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from ..competition import SLUG
from ..files import size_text
from ..progress import track
from ..tables import DataError, read_images, read_sample_submission
from .api_competition import Competition
from .connection import Connection
from .failures import RERUN, KaggleError


def fetch(connection: Connection, out: Path) -> None:
    """Download the competition's data; an interrupted download is resumed.

    The archive's size is checked against the size that Kaggle names, and every file in it against its CRC-32. The
    archive is deleted when all files are unpacked.

    Args:
        connection: The connection.
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
        Competition(connection).download(archive)
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
        raise KaggleError(f"the archive arrived damaged ({error}) and is deleted; {RERUN}") from error
    _check(part)
    part.replace(out)
    archive.unlink()


def _check(folder: Path) -> None:
    """Check the tables of a competition folder, and print how many images it has."""
    try:
        train, test = read_images(folder, "train"), read_images(folder, "test")
        read_sample_submission(folder)
    except DataError as error:
        raise ValueError(f"{folder} is not the competition's data; delete it and try again:\n{error}") from error
    print(f"{len(train)} training images, {len(test)} test images")


if __name__ == "__main__":  # it was a command of its own once, and should not end in silence
    raise SystemExit("error: this module is no command; run: hubmap-kit data")
