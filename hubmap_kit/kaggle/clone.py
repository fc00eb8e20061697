"""The clone of the repository that commands are run in: where it is, its commit, and the versions in Kaggle's image."""

from __future__ import annotations

import re
from pathlib import Path

from .manifest import Manifest

IMAGE = Path("kernels", "kaggle-image.txt")
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"

_PARTS = ("pyproject.toml", "hubmap_kit", "kernels", "datasets")
_EPOCH = "315532800"  # 1980-01-01, the earliest time that a zip file can hold


def find_clone(start: Path | None = None) -> Path:
    """Find the clone that a folder lies in.

    Args:
        start: The folder; the current one by default.

    Raises:
        ValueError: Neither the folder nor one above it is a clone.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if all((folder / part).exists() for part in _PARTS):
            return folder
    raise ValueError(
        f"{start} is not in a clone of hubmap-kit: neither it nor a folder above it has {', '.join(_PARTS)}; "
        "clone the repository and run the command there"
    )


def commit_of(clone: Path) -> tuple[str | None, bool, str]:
    """The newest commit of a clone.

    Returns:
        Its hash (None without git or without a commit), whether there are changes since, and its time in seconds
        since 1970, as text.
    """
    import subprocess  # here, because the command line imports this module to list the parts of a push

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(clone), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != clone.resolve():
            return None, False, _EPOCH
        commit, epoch = git("log", "-1", "--format=%H %ct").split()
        return commit, bool(git("status", "--porcelain")), epoch
    except (OSError, subprocess.CalledProcessError):
        return None, False, _EPOCH


def own_commit() -> str:
    """The commit of this library: of the clone that it lies in, or of the bundle whose wheel it was imported from.

    Returns:
        Its hash, with ``+`` behind it if there were changes since; empty if it is not known.
    """
    place = Path(__file__).resolve().parents[2]
    if place.is_file():  # a wheel
        try:
            manifest = Manifest.read(place.parent)
        except ValueError:
            return ""
        commit, dirty = manifest.commit, manifest.dirty
    else:
        commit, dirty, _ = commit_of(place)
    return f"{commit}{'+' if dirty else ''}" if commit else ""


def image_versions(clone: Path) -> dict[str, str]:
    """Versions of packages in Kaggle's image, by name, as ``kernels/kaggle-image.txt`` of a clone has them.

    ``python`` is among the names. A package without a version in that file is left out. If the file names a package
    twice, the first line has Kaggle's version.

    Raises:
        ValueError: The file is missing or does not say the version of Python.
    """
    path = clone / IMAGE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); run in a clone of hubmap-kit") from error
    python = re.search(r"^#.*\bPython (\d+\.\d+)", text, re.MULTILINE)
    if not python:
        raise ValueError(
            f"{path} does not say which Python Kaggle's image has; write 'Python X.Y' into its first lines"
        )
    versions = {"python": python[1]}
    for name, version in re.findall(r"^([\w-]+)==([\w.]+?)(?:\.\*)?(?=[;\s]|$)", text, re.MULTILINE):
        versions.setdefault(name, version)
    return versions
