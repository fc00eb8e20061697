"""Tests of claims: one process writes a place at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from hubmap_kit.claim import Claimed, claim

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of this kind")
HOLD = """
import sys, time
from pathlib import Path
from hubmap_kit.claim import claim
with claim(Path(sys.argv[1]), "hubmap-kit train", folder=sys.argv[2] == "folder"):
    print("claimed", flush=True)
    time.sleep(60)
"""
each_kind = pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])


@pytest.fixture
def holder(tmp_path):
    """Starts processes that claim a place and sleep."""
    started = []

    def start(target, folder):
        arguments = [sys.executable, "-c", HOLD, str(target), "folder" if folder else "file"]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "claimed\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@each_kind
def test_a_second_process_is_refused(tmp_path, holder, folder):
    """The refusal names the process, what it does and since when; the place is left as it is."""
    target = tmp_path / "new" / "target"
    process = holder(target, folder)
    who = rf"target is being written by process {process.pid} \(hubmap-kit train\) since {time.strftime('%Y')}-"
    with (
        pytest.raises(Claimed, match=who),
        claim(target, "hubmap-kit train", folder=folder),
    ):
        pytest.fail("two processes have claimed the same place")
    assert process.poll() is None


@each_kind
def test_a_killed_process_is_not_in_the_way(tmp_path, holder, folder, capsys):
    """The lock ends with the process; what it left half-written is removed, and nothing else."""
    target = tmp_path / "target"
    process = holder(target, folder)
    inside = target if folder else tmp_path
    left = [inside / ".123.part.target.csv", inside / ".77.part.target"]
    other = inside / (".hidden.part.of.someone" if folder else ".123.part.another.csv")
    for path in [*left, other]:
        path.write_text("half")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with claim(target, "again", folder=folder):
        assert not any(path.exists() for path in left)
        assert other.exists()
    assert "removed 2 unfinished files" in capsys.readouterr().err


@each_kind
def test_nothing_is_left_behind(tmp_path, folder):
    """At the end there is no lock file, and no folder that was made in vain; also after an error."""
    target = tmp_path / "target"
    with claim(target, "a command", folder=folder):
        pass
    with pytest.raises(KeyError), claim(target, "a command", folder=folder):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_stays(tmp_path):
    """A folder with content is kept."""
    with claim(tmp_path / "target", "a command", folder=True):
        (tmp_path / "target" / "file").write_text("content")
    assert os.listdir(tmp_path / "target") == ["file"]


@pytest.mark.slow
def test_processes_that_race_never_hold_it_together(tmp_path):
    """Of many processes that claim the same file again and again, one at a time has it."""
    program = """
import sys, time
from pathlib import Path
from hubmap_kit.claim import Claimed, claim
target, flag, had = Path(sys.argv[1]), Path(sys.argv[2]), 0
stop = time.monotonic() + 2
while time.monotonic() < stop:
    try:
        with claim(target, "race", folder=False):
            flag.touch(exist_ok=False)
            flag.unlink()
            had += 1
    except Claimed:
        pass
print(had)
"""
    arguments = [sys.executable, "-c", program, str(tmp_path / "target"), str(tmp_path / "flag")]
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert sum(counts) > 100
