"""One writer at a time: a process claims the folder or file that it writes, and another one is refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # in a folder that is claimed; beside a file it has the file's name in front
_PART = re.compile(r"\.\d+\.part\..+")  # what `hubmap_kit.files.replacing` writes to, before it is renamed


class Claimed(ValueError):
    """Another process is writing there."""


@contextlib.contextmanager
def claim(target: Path, command: str, *, folder: bool) -> Iterator[None]:
    """Keep other processes from writing a folder or file, and remove what dead ones left half-written there.

    The claim is a lock of the operating system on a small file, so that it ends with the process, however that ends,
    and holds on a file system that several computers share. Windows has no such lock: there nothing is claimed.

    Args:
        target: The folder or file; a folder is made if there is none, and removed again if nothing was written to it.
        command: What is done, for the message that another process gets.
        folder: Whether `target` is a folder.

    Raises:
        Claimed: Another process has claimed it. The text names its number, computer, command and start.
        OSError: The place cannot be written to.
    """
    made = folder and not target.exists()
    if folder:
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
    path = target / LOCK if folder else target.with_name(f".{target.name}{LOCK}")
    try:
        try:
            path.touch()
        except OSError as error:  # name the target, not the lock file
            raise OSError(error.errno, error.strerror, str(target)) from error
        with _locked(path, target) as file:
            if file is not None:
                _remove_parts(target, folder=folder)
                about = {"process": os.getpid(), "computer": socket.gethostname(), "command": command}
                with contextlib.suppress(OSError):  # the lock holds even if the disk is full
                    os.write(file.fileno(), json.dumps(about | {"started": time.time()}).encode())
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # something was written to it
                target.rmdir()


@contextlib.contextmanager
def _locked(path: Path, target: Path) -> Iterator[IO[str] | None]:
    """Hold the lock of a file, emptied; None, with a message, if the file system has no locks."""
    if fcntl is None:
        yield None
        return
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Claimed(_refusal(file, target)) from None
            except OSError as error:
                print(
                    f"{target}: this file system has no locks ({error.strerror}); start one command at a time",
                    file=sys.stderr,
                )
                path.unlink(missing_ok=True)
                yield None
                return
            # The one who held it before may have removed the file between our opening and our locking it.
            if not _is_at(file, path):
                continue
            file.truncate(0)
            try:
                yield file
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still has this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _refusal(file: IO[str], target: Path) -> str:
    """Who holds the lock, in one sentence."""
    file.seek(0)
    try:
        about = json.loads(file.read())
        started = datetime.fromtimestamp(about["started"]).strftime("%Y-%m-%d %H:%M:%S")
        where = "" if about["computer"] == socket.gethostname() else f" on {about['computer']}"
        who = f"process {about['process']}{where} ({about['command']}) since {started}"
    except (ValueError, KeyError, TypeError):  # it has only just begun
        who = "another process"
    return f"{target} is being written by {who}; wait until it ends, or name another place"


def _remove_parts(target: Path, *, folder: bool) -> None:
    """Remove what a process that was killed left half-written."""
    names = re.compile(rf"\.\d+\.part\.{re.escape(target.name)}{'' if folder else '.*'}")
    parts = [path for path in target.parent.glob(".*.part.*") if names.fullmatch(path.name)]
    if folder:
        parts += [path for path in target.rglob(".*.part.*") if _PART.fullmatch(path.name)]
    for path in parts:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    if parts:
        print(f"{target}: removed {len(parts)} unfinished files of a process that was killed", file=sys.stderr)
