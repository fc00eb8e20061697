"""Standard streams that never stop a command, also with an odd encoding, or closed, broken or full."""

from __future__ import annotations

import errno
import os
import re
import sys
from typing import Any, TextIO

# Control characters except line ends and tabs, and characters that change the direction of writing.
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
# Codes that we write: colours; a progress bar's cursor-up, and its carriage return at the start or end of a text.
_OURS = "\x1b\\[(?:0|1;31|1;33)m|\x1b\\[A|^\r|\r\\Z"
_ESCAPED = re.compile(f"({_OURS})|{_CONTROL}")


class Console:
    """A stream that takes any text and never fails.

    A character that the encoding lacks, or that would control the terminal, is shown as its code. Once the stream
    cannot be written to, all further text is lost.

    Attributes:
        failure: Why it cannot be written to; None while it can.
    """

    def __init__(self, stream: TextIO) -> None:
        """Wrap a stream."""
        self._stream = stream
        self.failure: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        shown = _ESCAPED.sub(lambda found: found[1] or repr(found[0])[1:-1], text)
        try:
            self._stream.write(shown)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = self.failure or error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # what is held back goes there


def open_streams() -> Console:
    """Put a `Console` in the place of stdout and of stderr; returns that of stdout.

    A stream that was closed when the process began is opened on ``/dev/null``. Otherwise the next file that is opened
    would have its number, and messages of libraries would be written into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, Console(getattr(sys, name) or os.fdopen(number, "w", encoding="utf-8", closefd=False)))
    return sys.stdout  # type: ignore[return-value]


def lost_result(stdout: Console) -> str:
    """Why the result could not be written to stdout; empty if it could, or if its reader, such as head, has ended."""
    stdout.flush()
    if stdout.failure is None or stdout.failure.errno == errno.EPIPE:
        return ""
    return f"the result could not be written to the standard output: {(stdout.failure.strerror or '').lower()}"
