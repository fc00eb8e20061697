"""A command of hubmap-kit in a forked process. What this imports, each of these processes imports."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def run_command(
    argv: Sequence[str], clone: Path, environment: dict[str, str], log: Path, before: Callable[[], object] | None
) -> None:
    """Run a command as ``hubmap-kit`` does, in this process, which was forked for it."""
    from hubmap_kit.cli import entry
    from hubmap_kit.kaggle import failures

    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(clone)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    encoding = environment.get("PYTHONIOENCODING")
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False, encoding=encoding)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, encoding=encoding, errors="backslashreplace")
    sys.argv = ["hubmap-kit", *argv]
    failures.FIRST_PAUSE_S = 0.02
    if before:
        before()
    with contextlib.closing(sys.stdout):
        entry()
