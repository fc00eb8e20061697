"""The clone of the repository that commands are run in: where it is, its commit, and the versions in Kaggle's image."""

from __future__ import annotations

import re
from pathlib import Path

from .manifest import Manifest

IMAGE = Path("kernels", "kaggle-image.txt")
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"

_PARTS = ("pyproject.toml", "hubmap_kit", "kernels", "datasets")
# A push sends files of these folders. Other untracked files, such as a submission, do not stop it.
_SENT = ("hubmap_kit", "kernels", "datasets", "notebooks")


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


def commit_of(clone: Path) -> tuple[str | None, bool]:
    """The newest commit of a clone.

    Returns:
        Its hash (None without git or without a commit), and whether there are changes since.
    """
    try:
        if Path(_git(clone, "rev-parse", "--show-toplevel")).resolve() != clone.resolve():
            return None, False
        return _git(clone, "rev-parse", "HEAD"), bool(changes_in(clone))
    except ValueError:
        return None, False


def why_no_commit(clone: Path) -> str:
    """Why `commit_of` finds no commit, in git's own words where it refuses."""
    try:
        top = Path(_git(clone, "rev-parse", "--show-toplevel"))
        _git(clone, "log", "-1")
    except ValueError as error:
        return str(error)
    return f"{clone} is no git clone of its own, but lies in {top}"


def changes_in(clone: Path) -> list[str]:
    """Paths changed since the last commit: tracked files, and new files in the folders that a push sends.

    Raises:
        ValueError: Git is missing or refuses.
    """
    entries = iter(_git(clone, "status", "--porcelain", "-z").split("\0"))
    changes = []
    for entry in filter(None, entries):
        state, path = entry[:2], entry[3:]
        if "R" in state or "C" in state:  # the old name follows
            next(entries, None)
        if state != "??" or path.partition("/")[0] in _SENT:
            changes.append(path)
    return changes


def _git(clone: Path, *arguments: str) -> str:
    """The output of a git command; raise ValueError, with what git said, if it fails."""
    import subprocess  # here, because the command line imports this module to list the parts of a push

    try:
        done = subprocess.run(
            ["git", "-C", str(clone), *arguments], capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise ValueError(f"git cannot be run ({error.strerror}); install git") from error
    if done.returncode:
        said = " ".join(done.stderr.split()).removeprefix("fatal: ") or f"status {done.returncode}"
        raise ValueError(f"git says: {said}")
    return done.stdout.rstrip("\n")


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
        commit, dirty = commit_of(place)
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
