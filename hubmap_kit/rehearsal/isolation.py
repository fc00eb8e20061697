"""Run a kernel as Kaggle does: on ``/kaggle``, within limits, with no network and nothing of this machine's user.

On Linux the kernel gets namespaces of its own (user, mount and network), made without privileges
and without other programs. It sees this machine's system folders read-only, ``/kaggle/input``
read-only with nothing but the sources named, an empty ``/kaggle/working`` and a fresh ``/tmp``;
home folders and the folders named as hidden are empty, except for the Python that runs it.
Elsewhere, or where a system forbids namespaces, the nearest thing is done and said.

This file is also the program that builds the namespaces, run by its path: only the standard library is
imported on top.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

NOT_ISOLATED = (
    "the network: Python sockets are blocked, other programs' are not",
    "the file system: the kernel reads and writes whatever its user can",
    "the paths: /kaggle is a folder of this rehearsal (HUBMAP_KAGGLE_ROOT)",
)

# What a kernel may know of this machine's environment: how to find programs and the processor.
_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "SYSTEMROOT")

# mount(2) and unshare(2), from <sys/mount.h> and <sched.h>; the same on every Linux architecture.
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_NEWNS, _NEWUSER, _NEWNET = 0x00020000, 0x10000000, 0x40000000

_INTERVAL = 0.15  # s between two looks at a kernel's memory

# Stands in for the missing network where namespaces are not to be had; see NOT_ISOLATED.
_BLOCKED_SOCKETS = '''\
"""Lets Python connect to this machine only."""
import socket

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _check(address):
    if isinstance(address, tuple) and str(address[0]) not in ("localhost", "127.0.0.1", "::1"):
        raise OSError(f"no network in a rehearsal: connection to {address[0]} refused")


def connect(self, address):
    _check(address)
    return _connect(self, address)


def connect_ex(self, address):
    _check(address)
    return _connect_ex(self, address)


socket.socket.connect, socket.socket.connect_ex = connect, connect_ex
'''


@dataclass(frozen=True)
class Outcome:
    """How a kernel ended.

    Attributes:
        status: Its exit status; minus the signal's number where a signal ended it.
        seconds: How long it ran.
        peak_memory: The most it held at a time, in bytes: resident memory, summed over it and its children,
            so that what they share counts for each; looked at every 0.15 s.
        stopped: The limit for which it was killed; None where it ended by itself.
    """

    status: int
    seconds: float
    peak_memory: int
    stopped: Literal["memory", "time"] | None


def obstacle() -> str | None:
    """Why this system cannot isolate a kernel, in a few words; None where it can."""
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
    time_limit: float = math.inf,
) -> Outcome:
    """Run a script kernel, with this Python, until it ends.

    Args:
        script: The kernel; it runs as ``/kaggle/src/script.py``.
        inputs: Path below ``/kaggle/input`` to the folder seen there.
        working: The folder that is ``/kaggle/working``; the only one that outlives the run.
        hidden: Folders the kernel must not see.
        environment: Variables besides the few that any process needs.
        on_line: Called with each line of its output (stdout and stderr together), as it comes.
        isolated: False to go without namespaces; see `NOT_ISOLATED`.
        memory_limit: Bytes that it may hold; with more it is killed, and its children.
        time_limit: Seconds that it may take, likewise.

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
        watch = _Watch(process, memory_limit, time_limit)
        watch.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                on_line(line.rstrip("\n"))
            status = process.wait()
        finally:
            watch.end()
            if process.returncode is None:
                _kill(process)
        return Outcome(status, time.monotonic() - watch.begin, watch.peak_memory, watch.stopped)


class _Watch(threading.Thread):
    """Measures a kernel, and kills it when it goes over a limit."""

    def __init__(self, process: subprocess.Popen[str], memory_limit: float, time_limit: float) -> None:
        super().__init__(daemon=True)
        self.process, self.memory_limit, self.time_limit = process, memory_limit, time_limit
        self.begin = time.monotonic()
        self.peak_memory = 0
        self.stopped: Literal["memory", "time"] | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            self.peak_memory = max(self.peak_memory, sum(map(_resident, _family(self.process))))
            if self.peak_memory > self.memory_limit:
                self.stopped = "memory"
            elif time.monotonic() - self.begin > self.time_limit:
                self.stopped = "time"
            if self.stopped:
                _kill(self.process)
                return

    def end(self) -> None:
        self._ended.set()
        self.join()


def _family(process: subprocess.Popen[str]) -> list[Any]:
    """A process and all below it, as psutil's processes; nothing once it has ended."""
    import psutil

    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: Any) -> int:
    """Resident memory of one of psutil's processes, in bytes; 0 once it has ended."""
    import psutil

    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that was not waited for yet, its children, and what else is in its group."""
    import psutil

    for member in _family(process):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    if hasattr(os, "killpg"):  # those whose parent has ended
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _popen(command: list[str], env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _start_in_place(
    scratch: Path, env: dict[str, str], inputs: dict[str, Path], working: Path, hidden: Sequence[Path]
) -> subprocess.Popen[str]:
    root = scratch / "kaggle"
    for place, folder in inputs.items():
        target = root / "input" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(folder, target)
    (root / "input").mkdir(parents=True, exist_ok=True)
    _link(working, root / "working")
    (scratch / "site").mkdir()
    (scratch / "site" / "sitecustomize.py").write_text(_BLOCKED_SOCKETS, encoding="utf-8")
    temporary = str(scratch / "tmp")
    env |= {"HUBMAP_KAGGLE_ROOT": str(root), "PYTHONPATH": str(scratch / "site"), "HOME": str(scratch / "tmp/home")}
    env |= {"TMPDIR": temporary, "TEMP": temporary, "TMP": temporary, "USERPROFILE": env["HOME"]}
    return _popen([sys.executable, "-u", str(scratch / "src" / "script.py")], env, working)


def _link(folder: Path, target: Path) -> None:
    try:
        target.symlink_to(folder, target_is_directory=True)
    except OSError as error:
        raise OSError(f"{target}: links cannot be made here ({error}); on Windows, turn developer mode on") from error


def _start_isolated(
    scratch: Path, env: dict[str, str], inputs: dict[str, Path], working: Path, hidden: Sequence[Path]
) -> subprocess.Popen[str]:
    homes = {Path.home(), Path(os.path.expanduser("~" + _user_name()))}
    masks = {Path(path).resolve() for path in (*hidden, *homes)}
    plan = {
        "root": str(scratch / "root"),
        "tmp": str(scratch / "tmp"),
        "src": str(scratch / "src"),
        "working": str(working),
        "inputs": {place: str(folder) for place, folder in inputs.items()},
        "masks": sorted(str(path) for path in masks if path != Path("/") and path.is_dir()),
        "keeps": sorted(_interpreter_folders()),
        "command": [sys.executable, "-u", "/kaggle/src/script.py"],
        "env": env | {"HOME": "/tmp/home"},
    }
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), json.dumps(plan)]
    return _popen(command, env, Path("/"))


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _interpreter_folders() -> set[str]:
    """The folders this Python runs from, by every name that leads to them."""
    folders = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    link = sys.executable
    while os.path.islink(link):
        link = os.path.join(os.path.dirname(link), os.readlink(link))
        folders.add(os.path.dirname(os.path.dirname(os.path.abspath(link))))
    return {path for folder in folders for path in (os.path.abspath(folder), os.path.realpath(folder)) if path != "/"}


# From here on: the program in the namespaces.


class _System:
    """The system calls that Python does not have."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)

    def unshare(self, flags: int) -> None:
        if self.libc.unshare(flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "unshare")

    def mount(self, source: str | None, target: str, kind: str | None, flags: int) -> None:
        names = [name.encode() if name else None for name in (source, target, kind)]
        if self.libc.mount(*names, ctypes.c_ulong(flags), None):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), f"mount on {target}")

    def bind(self, source: str, target: str, *, read_only: bool = True) -> None:
        """Show `source`, with the mounts below it, at `target`, which must exist."""
        self.mount(source, target, None, _BIND | _REC)
        if read_only:  # a remount has to repeat the flags that came with the mount
            kept = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)
            self.mount(None, target, None, _REMOUNT | _BIND | _RDONLY | kept)


def _enter(plan: dict) -> None:
    """Move this process into namespaces and a root folder made as `plan` says."""
    system, root = _System(), plan["root"]
    uid, gid = os.getuid(), os.getgid()
    system.unshare(_NEWUSER | _NEWNS | _NEWNET)
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", file).write_text(text)
    _raise_loopback()
    system.mount(None, "/", None, _REC | _PRIVATE)
    system.mount("tmpfs", root, "tmpfs", 0)
    for entry in sorted(os.listdir("/")):
        if entry not in ("kaggle", "tmp"):
            _show(system, f"/{entry}", f"{root}/{entry}")
    os.mkdir(f"{root}/tmp")
    system.bind(plan["tmp"], f"{root}/tmp", read_only=False)
    steps = [(path, True) for path in plan["masks"]] + [(path, False) for path in plan["keeps"]]
    masks = ["/tmp", *plan["masks"]]
    for path, mask in sorted(steps, key=lambda step: (step[0].count("/"), not step[1])):
        if mask and os.path.isdir(root + path):
            system.mount("tmpfs", root + path, "tmpfs", 0)
        elif not mask and any(path == m or path.startswith(m + "/") for m in masks):
            os.makedirs(root + path, exist_ok=True)
            system.bind(path, root + path)
    for place, folder in {"src": plan["src"], **{f"input/{k}": v for k, v in plan["inputs"].items()}}.items():
        os.makedirs(f"{root}/kaggle/{place}")
        system.bind(folder, f"{root}/kaggle/{place}")
    os.makedirs(f"{root}/kaggle/input", exist_ok=True)
    system.mount(f"{root}/kaggle/input", f"{root}/kaggle/input", None, _BIND | _REC)
    system.mount(None, f"{root}/kaggle/input", None, _REMOUNT | _BIND | _RDONLY)
    os.mkdir(f"{root}/kaggle/working")
    system.bind(plan["working"], f"{root}/kaggle/working", read_only=False)
    os.chroot(root)
    os.chdir("/kaggle/working")


def _show(system: _System, source: str, target: str) -> None:
    """Show one entry of the machine's root; what cannot be shown is left out, as it is not Kaggle's either."""
    mode = os.lstat(source).st_mode
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
        return
    if stat.S_ISDIR(mode):
        os.mkdir(target)
    elif stat.S_ISREG(mode):
        Path(target).touch()
    else:
        return
    try:
        system.bind(source, target, read_only=source not in ("/dev", "/proc", "/sys"))
    except OSError:
        if source in ("/usr", "/lib", "/lib64", "/bin", "/etc", "/dev", "/proc"):
            raise


def _raise_loopback() -> None:
    """Bring up ``lo``, the one network interface: SIOCSIFFLAGS with IFF_UP, from <linux/if.h>."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 1))


def _main() -> None:
    plan = json.loads(sys.argv[1])
    try:
        _enter(plan)
    except OSError as error:
        sys.exit(f"namespaces are not allowed here ({error})")
    os.execve(plan["command"][0], plan["command"], plan["env"])


if __name__ == "__main__":
    _main()
