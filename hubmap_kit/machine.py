"""Cores and memory that this process may use, which a container may limit; the errors of a full disk."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# The system's errors when there is no room for a file, or when a file so large is not allowed.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)
CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def cores() -> int:
    """Number of CPU cores that this process may use: by its affinity and by the quota of its container, rounded up."""
    count: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups("cpu"):
        # In each version of control groups: quota and period in us. Without a quota it is "max", or -1.
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(OSError, ValueError):
                quota, period = map(int, " ".join((group / name).read_text() for name in files).split())
                if quota > 0:
                    count = min(count, quota / period)
    return max(1, math.ceil(count))


def free_memory() -> int | None:
    """Bytes of memory that this process can still get; None if the system does not say (it is not Linux).

    The system's cache of files counts as free.
    """
    try:
        free = 1024 * _numbers(PROC / "meminfo")["MemAvailable:"]
    except (OSError, KeyError):
        return None
    for group in _groups("memory"):
        for limit, used, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # the files of the other version; "max" means no limit
                left = int((group / limit).read_text()) - int((group / used).read_text())
                free = min(free, left + _numbers(group / "memory.stat").get(cached, 0))
    return max(0, free)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that limit this process, its own one first."""
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUP / controller if controllers else CGROUP
        own = root / path.strip("/")
        yield from (own, *(each for each in own.parents if each.is_relative_to(root)))


def _numbers(path: Path) -> dict[str, int]:
    """The numbers of a file with a name and a number in each line; none if there is no such file in a group."""
    with suppress(FileNotFoundError):
        rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
    return {}
