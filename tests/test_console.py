"""Tests of the standard streams: of any encoding, closed, broken, full; and of what must not reach a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hubmap_kit.console import Console

PROGRAM = [sys.executable, "-m", "hubmap_kit"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell closes the streams")


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """Runs a line of shell in a folder with a submission and its truth; KIT is the program."""
    (tmp_path / "truth.csv").write_text("id,rle,img_height,img_width\n7,1 3,10,12\n")
    (tmp_path / "submission.csv").write_text("id,rle\n7,1 3\n")
    (tmp_path / "kit").write_text(f'#!/bin/sh\nexec "{PROGRAM[0]}" -m hubmap_kit "$@"\n')
    (tmp_path / "kit").chmod(0o755)

    def run(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        paths = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            cwd=tmp_path,
            env=os.environ | paths | environment,
            capture_output=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_character_that_cannot_be_shown_is_replaced(shell, encoding):
    """The command does its work and says so, whatever the terminal's encoding lacks."""
    done = shell("kit score submission.csv --truth truth.csv --per-image → 2>&1", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stdout
    assert b"\\u2192" in done.stdout
    assert b"mean Dice 1.0000" in done.stdout
    assert b"Traceback" not in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "| true", "2>&1 | true"])
def test_the_work_goes_on_without_a_stream(shell, tmp_path, closed):
    """Whichever stream is closed, broken or full, the file is written whole, and the status is that of the work."""
    done = shell(f"kit score submission.csv --truth truth.csv --per-image scores.csv {closed}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scores.csv").read_text() == "id,organ,dice\n7,,1.0\n"
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_a_result_that_cannot_be_written_is_an_error(shell, tmp_path):
    """A full disk behind stdout is named; the command does not end as if its result had been written."""
    done = shell("kit score submission.csv --truth truth.csv > /dev/full")
    assert done.returncode == 1
    assert b"error: the result could not be written to the standard output: no space left on device" in done.stderr


def test_escape_sequences_are_shown_as_text(shell, tmp_path):
    """A name cannot colour, clear or rewrite the terminal."""
    done = shell("kit validate $'\\e[2J\\e]0;title\\a\\rnew.csv' --data $'no\\e[31mwhere' 2>&1")
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert b"\x07" not in done.stdout
    assert b"no\\x1b[31mwhere" in done.stdout


def test_our_own_colours_and_bars_pass():
    """Colours of messages and what a progress bar needs reach the terminal; anything else is shown as its code."""
    terminal = io.StringIO()
    console = Console(terminal)
    for text in ("\x1b[1;31merror:\x1b[0m a\tb\n", "\r 3/5", "\r    \r", "\x1b[A"):
        console.write(text)
    assert terminal.getvalue() == "\x1b[1;31merror:\x1b[0m a\tb\n\r 3/5\r    \r\x1b[A"
    console.write("a\rb\x1b[0;31m\x9b2J\u202egnp.exe")
    assert terminal.getvalue().endswith(r"a\rb\x1b[0;31m\x9b2J\u202egnp.exe")
