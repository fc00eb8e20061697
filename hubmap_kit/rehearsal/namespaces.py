"""The program that moves a kernel into Linux namespaces of its own. It is run by its path, without the rest of the kit.

These walls are against mistakes, not against hostile code.

Its one argument is a `Plan` as JSON. It makes namespaces (user, mount, network and process) without privileges and
without other programs. A first process of the new process namespace builds the root folder that the kernel sees, gives
up all capabilities and starts the kernel. When the kernel ends, or the rehearsal that waits for it, that first process
ends too, and Linux then kills everything in its namespace.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypedDict

# mount(2) and unshare(2), from <sys/mount.h> and <sched.h>; the same on every Linux architecture.
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
# prctl(2), from <linux/prctl.h>.
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 24, 38
# Folders in memory that each kernel has to itself; what lies in them counts as its memory.
IN_MEMORY = ("/dev/shm", "/run")


class Plan(TypedDict):
    """What the kernel sees, and how it is started. Values are paths unless said otherwise.

    Keys:
        root: Empty folder to build the kernel's root in.
        tmp: The folder that is ``/tmp``.
        src: The folder that is ``/kaggle/src``, read-only.
        working: The folder that is ``/kaggle/working``.
        inputs: Path below ``/kaggle/input`` to the folder seen there, read-only.
        parent: Number of the process that waits for the kernel; the kernel ends when it does.
        masks: Folders that look empty.
        keeps: Folders that are seen although they lie in masked ones.
        command: The kernel's command.
        env: Its environment.
    """

    root: str
    tmp: str
    src: str
    working: str
    inputs: dict[str, str]
    parent: int
    masks: list[str]
    keeps: list[str]
    command: list[str]
    env: dict[str, str]


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
        """Show `source`, with the mounts below it, at `target`, which must exist; read-only, all of them are."""
        self.mount(source, target, None, _BIND | _REC)
        if not read_only:
            return
        for place in _mounts_below(target):  # a remount changes one mount, not those below it
            kept = os.statvfs(place).f_flag & (_NOSUID | _NODEV | _NOEXEC)  # a remount has to repeat them
            try:
                self.mount(None, place, None, _REMOUNT | _BIND | _RDONLY | kept)
            except OSError:
                if place == target:
                    raise
                # An empty folder is better than one that can be written to.
                self.mount("tmpfs", place, "tmpfs", _RDONLY)

    def control(self, option: int, value: int) -> None:
        """prctl(2)."""
        if self.libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "prctl")

    def end_with_parent(self) -> None:
        """Have this process killed when its parent ends."""
        self.control(_PDEATHSIG, signal.SIGKILL)

    def drop_capabilities(self) -> None:
        """Give up every capability for good, so that no mount can be changed; takes effect with the next execve."""
        for capability in range(64):
            try:
                self.control(_CAPBSET_DROP, capability)
            except OSError:  # Linux knows no further ones
                break
        self.control(_NO_NEW_PRIVS, 1)


def _mounts_below(target: str) -> list[str]:
    """A mount and those below it, from the top; a place on which two are mounted comes once."""
    places = set()
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        escaped = line.split()[4]  # a space is written as \040
        place = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), escaped)
        if place == target or place.startswith(target + "/"):
            places.add(place)
    return sorted(places)


def _unshare(system: _System) -> None:
    """Make the namespaces; the next process that is forked is the first one of the new process namespace."""
    uid, gid = os.getuid(), os.getgid()
    system.unshare(_NEWUSER | _NEWNS | _NEWNET | _NEWPID)
    for file, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", file).write_text(text)
    _raise_loopback()


def _build_root(system: _System, plan: Plan) -> None:
    """Build the root folder as `plan` says, and move this process into it."""
    root = plan["root"]
    system.mount(None, "/", None, _REC | _PRIVATE)
    system.mount("tmpfs", root, "tmpfs", 0)
    for entry in sorted(os.listdir("/")):
        if entry not in ("kaggle", "tmp", "run"):
            _show(system, f"/{entry}", f"{root}/{entry}")
    os.mkdir(f"{root}/run")
    for folder in IN_MEMORY:
        if os.path.isdir(root + folder):
            system.mount("tmpfs", root + folder, "tmpfs", _NOSUID | _NODEV)
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
    """Show one entry of the machine's root; an entry that cannot be shown is left out if Python does without it."""
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
    if source == "/proc":
        with suppress(OSError):  # refused where a container hides parts of it; then the kernel sees the machine's
            system.mount("proc", target, "proc", _NOSUID | _NODEV | _NOEXEC)
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


def _run_first(system: _System, plan: Plan) -> NoReturn:
    """Be the first process of the process namespace: build the root, run the kernel, and end with its status."""
    try:
        system.end_with_parent()
        _build_root(system, plan)
        system.drop_capabilities()
    except OSError as error:
        _refuse(error)
    kernel = os.fork()
    if kernel == 0:
        os.execve(plan["command"][0], plan["command"], plan["env"])
    while True:  # children whose parent has ended come to the first process, too
        ended, status = os.wait()
        if ended == kernel:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _refuse(error: OSError) -> NoReturn:
    print(f"namespaces are not allowed here ({error})", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> None:
    """Make the namespaces, start their first process, and end as it does."""
    plan: Plan = json.loads(sys.argv[1])
    system = _System()
    try:
        system.end_with_parent()
        if os.getppid() != plan["parent"]:  # it ended before this process asked to end with it
            os._exit(1)
        _unshare(system)
        first = os.fork()
    except OSError as error:
        _refuse(error)
    if first == 0:
        _run_first(system, plan)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) & 0xFF)


if __name__ == "__main__":
    main()
