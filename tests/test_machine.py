"""Tests of what a process may use of its computer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubmap_kit import machine

VERSION_2 = {
    "cpu.max": "150000 100000\n",
    "memory.max": "3000\n",
    "memory.current": "1000\n",
    "memory.stat": "anon 500\ninactive_file 400\n",
}
VERSION_1 = {
    "cpu/cpu.cfs_quota_us": "150000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.limit_in_bytes": "3000\n",
    "memory/memory.usage_in_bytes": "1000\n",
    "memory/memory.stat": "total_inactive_file 400\n",
}
UNLIMITED = {
    "cpu.max": "max 100000\n",
    "memory.max": "max\n",
    "memory.current": "1000\n",
    "cpu/cpu.cfs_quota_us": "-1\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.usage_in_bytes": "1000\n",
}


@pytest.fixture
def computer(tmp_path, monkeypatch):
    """A computer of eight cores and 9000 KiB, with the files of both versions of control groups."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "groups")
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 20000 kB\nMemFree: 10 kB\nMemAvailable: 9000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/job/mine\n1:cpu,cpuacct:/job/mine\n0::/job/mine\n")
    return tmp_path / "groups"


def write(root: Path, files: dict[str, str], group: str = "") -> None:
    for name, text in files.items():
        first, _, last = name.rpartition("/")
        (root / first / group).mkdir(parents=True, exist_ok=True)
        (root / first / group / last).write_text(text)


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
@pytest.mark.parametrize("group", ["", "job", "job/mine"])
def test_the_limits_of_a_container(computer, files, group):
    """Quota and memory limit count, of the process's own control group and of those above it."""
    write(computer, files, group)
    assert machine.cores() == 2  # a quota of one and a half
    assert machine.free_memory() == 3000 - 1000 + 400  # files that are held only to be faster can be dropped


def test_without_limits(computer, monkeypatch):
    """Without a limit the affinity and the free memory of the computer count."""
    assert (machine.cores(), machine.free_memory()) == (8, 9000 * 1024)
    write(computer, UNLIMITED)
    assert (machine.cores(), machine.free_memory()) == (8, 9000 * 1024)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine.cores() == 1


def test_a_full_container(computer):
    """A container that holds more than its limit has no memory left, and not a negative number."""
    write(computer, VERSION_2 | {"memory.current": "5000\n"})
    assert machine.free_memory() == 0


def test_systems_without_these_files(tmp_path, monkeypatch):
    """Where there is no /proc, the free memory is unknown and the cores are those of the computer."""
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (machine.cores(), machine.free_memory()) == (6, None)
