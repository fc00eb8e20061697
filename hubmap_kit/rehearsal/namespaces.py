"""The program that moves a kernel into Linux namespaces of its own. It is run by its path, without the rest of the kit.

Its one argument is a `Plan` as JSON. It makes namespaces (user, mount and network) without
privileges and without other programs, builds the root folder that the kernel sees, and becomes the kernel.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import TypedDict

# mount(2) and unshare(2), from <sys/mount.h> and <sched.h>; the same on every Linux architecture.
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_REMOUNT, _BIND, _REC, _PRIVATE = 32, 4096, 16384, 1 << 18
_NEWNS, _NEWUSER, _NEWNET = 0x00020000, 0x10000000, 0x40000000


class Plan(TypedDict):
    """What the kernel sees, and how it is started. Values are paths, except for ``command`` and ``env``.

    Keys:
        root: Empty folder to build the kernel's root in.
        tmp: The folder that is ``/tmp``.
        src: The folder that is ``/kaggle/src``, read-only.
        working: The folder that is ``/kaggle/working``.
        inputs: Path below ``/kaggle/input`` to the folder seen there, read-only.
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
        """Show `source`, with the mounts below it, at `target`, which must exist."""
        self.mount(source, target, None, _BIND | _REC)
        if read_only:  # a remount has to repeat the flags that came with the mount
            kept = os.statvfs(target).f_flag & (_NOSUID | _NODEV | _NOEXEC)
            self.mount(None, target, None, _REMOUNT | _BIND | _RDONLY | kept)


def _enter(plan: Plan) -> None:
    """Move this process into namespaces, and into a root folder made as `plan` says."""
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


def main() -> None:
    """Enter the namespaces and become the kernel."""
    plan: Plan = json.loads(sys.argv[1])
    try:
        _enter(plan)
    except OSError as error:
        sys.exit(f"namespaces are not allowed here ({error})")
    os.execve(plan["command"][0], plan["command"], plan["env"])


if __name__ == "__main__":
    main()
