"""Run a kernel as Kaggle does: on ``/kaggle``, within limits, without a network, without the files of this user.

The walls are against mistakes, not against hostile code: run only kernels that you would run without them.

On Linux the kernel gets namespaces of its own; `hubmap_kit.rehearsal.namespaces` is the program that makes them. The
kernel sees this machine's system folders read-only, ``/kaggle/input`` read-only with nothing but the named sources, an
empty ``/kaggle/working`` and an empty ``/tmp``, and has ``/dev/shm`` and ``/run`` to itself. When it ends, everything
that it started ends. Home folders and the folders named as hidden are empty, except for the
Python that runs it. Elsewhere, or if the system forbids namespaces, `NOT_ISOLATED` says what is missing.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .namespaces import IN_MEMORY, Plan

if TYPE_CHECKING:
    import psutil

NOT_ISOLATED = (
    "the network: Python sockets are blocked, other programs' are not",
    "the processes: a child of the kernel that leaves its session can outlive it",
    "the file system: the kernel reads and writes whatever its user can",
    "the paths: /kaggle is a folder of this rehearsal (HUBMAP_KAGGLE_ROOT)",
)

_FOLDER = Path(__file__).resolve().parent
# The variables of this machine that a kernel sees: how to find programs and the processor.
_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "SYSTEMROOT")

_INTERVAL_S = 0.15  # between two measurements of a kernel's memory
_SILENCE_S = 2.0  # how long after a kernel's end its output is read on, if a child of it keeps it open
LINE_CHARACTERS = 100_000  # a longer line is divided
OUTPUT_BYTES = 100 * 2**20  # of a kernel's output; the rest is left out
_PATIENCE_S = 10.0  # longest wait for killed processes to end


@dataclass(frozen=True)
class Outcome:
    """How a kernel ended.

    Attributes:
        status: Its exit status; minus the signal's number if a signal ended it.
        seconds: How long it ran, in s.
        peak_memory: The most memory that it held at a time, in bytes: resident memory, summed over it and its children,
            so that memory they share counts several times, and what lies in its own ``/dev/shm`` and ``/run``. It is
            measured every 0.15 s.
        stopped: The limit that it exceeded and was killed for; None if it ended by itself.
    """

    status: int
    seconds: float
    peak_memory: int
    stopped: Literal["memory", "time"] | None


def obstacle() -> str | None:
    """Why this system cannot isolate a kernel, in a few words; None if it can."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no namespaces"
    with tempfile.TemporaryDirectory(prefix="hubmap-probe-") as folder:
        script = Path(folder, "probe.py")
        script.write_text("")
        lines: list[str] = []
        status = run(script, inputs={}, working=Path(folder), hidden=(), environment={}, on_line=lines.append).status
    return None if status == 0 else (lines[-1] if lines else f"the probe ended with status {status}")


def run(
    script: Path,
    *,
    inputs: Mapping[str, Path],
    working: Path,
    hidden: Sequence[Path],
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    isolated: bool = True,
    memory_limit: float = math.inf,
    time_limit_s: float = math.inf,
) -> Outcome:
    """Run a script kernel, with this Python, until it ends.

    Args:
        script: The kernel; it runs as ``/kaggle/src/script.py``.
        inputs: Path below ``/kaggle/input`` to the folder seen there.
        working: The folder that is ``/kaggle/working``; only this one outlives the run.
        hidden: Folders that the kernel must not see.
        environment: Variables in addition to the few that any process needs.
        on_line: Called with each line of its output (stdout and stderr together), as it comes. A line above
            `LINE_CHARACTERS` comes in parts; what comes after `OUTPUT_BYTES` is left out, and the last line says so.
        isolated: False to run it without namespaces; see `NOT_ISOLATED`.
        memory_limit: Bytes that it may hold; if it exceeds them, it is killed with its children.
        time_limit_s: Seconds that it may take; if it takes longer, it is killed with its children.

    Returns:
        How it ended.
    """
    with tempfile.TemporaryDirectory(prefix="hubmap-kernel-", ignore_cleanup_errors=True) as name:
        scratch = Path(name).resolve()
        for part in ("root", "tmp/home", "src"):
            (scratch / part).mkdir(parents=True)
        shutil.copyfile(script, scratch / "src" / "script.py")
        env = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ} | dict(environment)
        start = _start_isolated if isolated else _start_in_place
        process = start(scratch, env, {k: v.resolve() for k, v in inputs.items()}, working.resolve(), hidden)
        watch = _Watch(process, memory_limit, time_limit_s, IN_MEMORY if isolated else ())
        watch.start()
        output = _Output(process)
        output.start()
        try:
            for line in output.lines():
                on_line(line)
            status = process.wait()
        finally:
            watch.end()
            if process.returncode is None:
                _kill(process)
            output.leave()
        return Outcome(status, time.monotonic() - watch.begin, watch.peak_memory, watch.stopped)


class _Output(threading.Thread):
    """Reads a kernel's output in a thread of its own: a child that keeps it open does not block the rehearsal."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self.process = process
        self._pieces: queue.Queue[bytes] = queue.Queue(maxsize=16)  # a kernel that prints faster than we read waits
        self._left = threading.Event()

    def run(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            while not self._left.is_set():
                piece: bytes = output.read1(2**16)  # type: ignore[attr-defined]  # it is buffered
                while not self._left.is_set():
                    with suppress(queue.Full):
                        self._pieces.put(piece, timeout=_INTERVAL_S)
                        break
                if not piece:
                    return

    def leave(self) -> None:
        """Read no more; to be called once the kernel has ended."""
        self._left.set()
        self.join(_SILENCE_S)

    def lines(self) -> Iterator[str]:
        """The lines, until the output is closed, or until the kernel has ended and nothing comes any more."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text, total, piece = "", 0, b" "
        while piece:
            piece = self._next()
            total += len(piece)
            if total > OUTPUT_BYTES:
                if total - len(piece) <= OUTPUT_BYTES:
                    yield f"{text} [what it prints after {OUTPUT_BYTES / 2**20:g} MiB is left out]"
                text = ""
                continue
            *lines, text = (text + decoder.decode(piece, final=not piece)).split("\n")
            for line in lines:
                yield line.rstrip("\r")
            while len(text) > LINE_CHARACTERS:
                yield text[:LINE_CHARACTERS]
                text = text[LINE_CHARACTERS:]
        if text:
            yield text

    def _next(self) -> bytes:
        ended = math.inf
        while True:
            with suppress(queue.Empty):
                return self._pieces.get(timeout=_INTERVAL_S)
            if self.process.poll() is not None:
                ended = min(ended, time.monotonic())
            if time.monotonic() - ended > _SILENCE_S:
                return b""


class _Watch(threading.Thread):
    """Measures a kernel, and kills it when it exceeds a limit."""

    def __init__(
        self, process: subprocess.Popen[bytes], memory_limit: float, time_limit_s: float, in_memory: Sequence[str]
    ) -> None:
        super().__init__(daemon=True)
        self.process, self.memory_limit, self.time_limit_s = process, memory_limit, time_limit_s
        self.in_memory = in_memory  # folders that count as memory
        self.begin = time.monotonic()
        self.peak_memory = 0
        self.stopped: Literal["memory", "time"] | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            family = _family(self.process)
            files = sum(_bytes_in(folder, family) for folder in self.in_memory)
            self.peak_memory = max(self.peak_memory, files + sum(map(_resident, family)))
            if self.peak_memory > self.memory_limit:
                self.stopped = "memory"
            elif time.monotonic() - self.begin > self.time_limit_s:
                self.stopped = "time"
            if self.stopped:
                _kill(self.process)
                return

    def end(self) -> None:
        self._ended.set()
        self.join()


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """A process and all its descendants; none once it has ended."""
    import psutil

    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    """Resident memory of a process in bytes; 0 once it has ended."""
    import psutil

    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _bytes_in(folder: str, family: Sequence[psutil.Process]) -> int:
    """Bytes of the files in memory below a folder, as the youngest process of a kernel sees it."""
    for process in reversed(family):
        with suppress(OSError):
            root = f"/proc/{process.pid}/root"
            if os.path.samefile(root, "/"):  # it has not moved into its own root yet
                continue
            usage = os.statvfs(root + folder)
            return (usage.f_blocks - usage.f_bfree) * usage.f_frsize
    return 0


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was not waited for yet, its descendants, and the rest of its process group."""
    import psutil

    members = _family(process)
    for member in members:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    if hasattr(os, "killpg"):  # those whose parent has ended
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    patience = time.monotonic() + _PATIENCE_S
    while any(map(_is_running, members)) and time.monotonic() < patience:  # a killed process takes a moment to end
        time.sleep(0.01)


def _is_running(process: psutil.Process) -> bool:
    """Whether a process has not ended yet; a zombie has ended."""
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _popen(command: list[str], env: dict[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _start_in_place(
    scratch: Path, env: dict[str, str], inputs: dict[str, Path], working: Path, hidden: Sequence[Path]
) -> subprocess.Popen[bytes]:
    """Start a kernel without namespaces, on links in the folder `scratch`."""
    root = scratch / "kaggle"
    for place, folder in inputs.items():
        target = root / "input" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(folder, target)
    (root / "input").mkdir(parents=True, exist_ok=True)
    _link(working, root / "working")
    temporary = str(scratch / "tmp")
    env |= {
        "HUBMAP_KAGGLE_ROOT": str(root),
        "PYTHONPATH": str(_FOLDER / "no_network"),
        "HOME": str(scratch / "tmp/home"),
    }
    env |= {"TMPDIR": temporary, "TEMP": temporary, "TMP": temporary, "USERPROFILE": env["HOME"]}
    return _popen([sys.executable, "-u", str(scratch / "src" / "script.py")], env, working)


def _link(folder: Path, target: Path) -> None:
    try:
        target.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        raise OSError(f"{target}: links cannot be made here ({error}); on Windows, turn developer mode on") from error


def _start_isolated(
    scratch: Path, env: dict[str, str], inputs: dict[str, Path], working: Path, hidden: Sequence[Path]
) -> subprocess.Popen[bytes]:
    """Start a kernel in namespaces."""
    homes = {Path.home(), Path(os.path.expanduser("~" + _user_name()))}
    masks = {Path(path).resolve() for path in (*hidden, *homes)}
    plan: Plan = {
        "root": str(scratch / "root"),
        "tmp": str(scratch / "tmp"),
        "src": str(scratch / "src"),
        "working": str(working),
        "inputs": {place: str(folder) for place, folder in inputs.items()},
        "parent": os.getpid(),
        "masks": sorted(str(path) for path in masks if path != Path("/") and path.is_dir()),
        "keeps": sorted(_interpreter_folders()),
        "command": [sys.executable, "-u", "/kaggle/src/script.py"],
        "env": env | {"HOME": "/tmp/home"},
    }
    command = [sys.executable, "-I", "-S", str(_FOLDER / "namespaces.py"), json.dumps(plan)]
    return _popen(command, env, Path("/"))


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _interpreter_folders() -> set[str]:
    """The folders that this Python runs from, by every name that leads to them."""
    folders = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    link = sys.executable
    while os.path.islink(link):
        link = os.path.join(os.path.dirname(link), os.readlink(link))
        folders.add(os.path.dirname(os.path.dirname(os.path.abspath(link))))
    return {path for folder in folders for path in (os.path.abspath(folder), os.path.realpath(folder)) if path != "/"}
