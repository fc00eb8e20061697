"""Download the competition's data, unpack it and check it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from ..claim import LOCK
from ..competition import SLUG
from ..files import filling, size_text
from ..progress import track
from ..tables import DataError, read_images, read_sample_submission
from .api_competition import Competition
from .connection import Connection
from .failures import RERUN, KaggleError

ARCHIVE = ".hubmap-archive.zip"  # in the folder, until the data is there
_OF_VOLUMES = {"lost+found", LOCK}  # names that a folder may hold and still count as empty


def fetch(connection: Connection, out: Path) -> None:
    """Download the competition's data; an interrupted download is resumed.

    The archive's size is checked against the size that Kaggle names, and every file in it against its CRC-32; an
    archive that arrived damaged is downloaded again. Everything is kept in `out`, which may be a mounted volume. The
    archive is deleted when all files are in place.

    Args:
        connection: The connection.
        out: Folder to make, or an empty one, for the competition's layout.

    Raises:
        KaggleError: Kaggle refuses, or the archive is damaged.
        ValueError: `out` is in use, or what was unpacked is not the competition's data.
    """
    archive, begun = out / ARCHIVE, any(out.glob(f"*{ARCHIVE}*"))
    if out.is_dir() and not begun and {path.name for path in out.iterdir()} - _OF_VOLUMES:
        _check(out)
        print(f"{out} is there already")
        return
    for last in (False, True):
        if not archive.is_file():
            print(f"downloading {SLUG} to {archive}", flush=True)
            Competition(connection).download(archive)
        print(f"{size_text(archive.stat().st_size)}; unpacking", flush=True)
        try:
            with filling(out) as part:
                _unpack(archive, part)
                _check(part)
            break
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            archive.unlink()
            if last:
                raise KaggleError(f"the archive arrived damaged twice ({error}) and is deleted; {RERUN}") from error
            print(f"the archive is damaged ({error}); downloading it again", flush=True)
        except ValueError:  # the archive is whole, but holds something else
            archive.unlink()
            raise
    archive.unlink()


def _unpack(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        for name in track(names, len(names), "unpack", unit="file"):
            opened.extract(name, folder)


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
