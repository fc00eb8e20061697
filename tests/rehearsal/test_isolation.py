"""The kernels' isolation and limits, tried with small scripts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from hubmap_kit.rehearsal import isolation

CLONE = Path(__file__).resolve().parents[2]
OBSTACLE = isolation.obstacle()

needs_namespaces = pytest.mark.skipif(OBSTACLE is not None, reason=f"no isolation here: {OBSTACLE}")
both_ways = pytest.mark.parametrize("isolated", [pytest.param(True, marks=needs_namespaces), False])


@pytest.fixture
def play(tmp_path):
    """Run the text of a script; returns how it ended and its output."""

    def run(text: str, isolated: bool, **more: Any) -> tuple[isolation.Outcome, str]:
        path = tmp_path / "script.py"
        path.write_text(text)
        (tmp_path / "working").mkdir(exist_ok=True)
        lines: list[str] = []
        settings: dict[str, Any] = {"inputs": {}, "hidden": (CLONE,), "environment": {}, "on_line": lines.append}
        outcome = isolation.run(path, working=tmp_path / "working", isolated=isolated, **settings | more)
        return outcome, "\n".join(lines)

    return run


PROBE = """
import json, os, socket
def attempt(action):
    try:
        action()
    except OSError as error:
        return str(error)
    return "done"
root = os.environ.get("HUBMAP_KAGGLE_ROOT", "/kaggle")
server = socket.create_server(("127.0.0.1", 0))
print(json.dumps({
    "inputs": os.listdir(root + "/input"),
    "clone": attempt(lambda: open(CLONE + "/pyproject.toml")),
    "home": os.listdir(HOME) if os.path.isdir(HOME) else [],
    "network": attempt(lambda: socket.create_connection(("192.0.2.1", 80), timeout=2)),
    "loopback": attempt(lambda: socket.create_connection(server.getsockname())),
    "write input": attempt(lambda: open(root + "/input/data/new", "w")),
    "write working": attempt(lambda: open(root + "/working/new", "w")),
    "environment": sorted(os.environ),
}))
"""


@pytest.fixture
def probe(play, tmp_path, monkeypatch):
    """Run a script that tries to reach what it should not; returns what it found."""
    monkeypatch.setenv("KAGGLE_KEY", "secret")
    (tmp_path / "data").mkdir()

    def run(isolated: bool) -> Any:
        script = f"CLONE, HOME = {str(CLONE)!r}, {str(Path.home())!r}\n{PROBE}"
        outcome, text = play(script, isolated, inputs={"data": tmp_path / "data"})
        assert outcome.status == 0, text
        return json.loads(text)

    return run


@needs_namespaces
def test_isolation(probe, tmp_path):
    """A kernel reaches no network, sees neither the clone nor the user's files, and cannot write its input."""
    seen = probe(isolated=True)
    assert seen["inputs"] == ["data"]
    assert "No such file" in seen["clone"]
    python = [Path(os.path.realpath(prefix)) for prefix in (sys.prefix, sys.base_prefix)]
    home = Path(os.path.realpath(Path.home()))
    assert set(seen["home"]) <= {p.relative_to(home).parts[0] for p in python if p.is_relative_to(home)}
    assert "unreachable" in seen["network"]
    assert seen["loopback"] == "done"
    assert "Read-only" in seen["write input"]
    assert seen["write working"] == "done"
    assert (tmp_path / "working" / "new").is_file()
    assert not {"KAGGLE_KEY", "PYTHONPATH", "HUBMAP_KAGGLE_ROOT"} & set(seen["environment"])


def test_without_isolation(probe, tmp_path):
    """Where namespaces are not allowed, a kernel still finds Kaggle's folders and no network or credentials."""
    seen = probe(isolated=False)
    assert seen["inputs"] == ["data"]
    assert "no network in a rehearsal" in seen["network"]
    assert seen["loopback"] == "done"
    assert (tmp_path / "working" / "new").is_file()
    assert "KAGGLE_KEY" not in seen["environment"]


ENDLESS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
"""
WAIT = "time.sleep(600)\n"
ALLOCATE = "held = b'x' * (300 * 2**20)\n"  # resident memory, unlike that of a bytearray


def assert_ended(text: str):
    """The processes whose numbers a script printed have ended or are zombies."""
    for number in map(int, text.split()):
        assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE


@both_ways
def test_a_running_kernel_is_stopped(play, isolated):
    """When a rehearsal is interrupted, the kernel and its children end."""
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(ENDLESS + WAIT, isolated, on_line=interrupt)
    assert_ended(lines[0])


@pytest.mark.slow
@both_ways
def test_memory_limit(play, isolated):
    """A kernel that takes more memory than it may is killed with its children, and the limit is named."""
    outcome, text = play(ENDLESS + ALLOCATE + WAIT, isolated, memory_limit=150 * 2**20, time_limit_s=60)
    assert outcome.stopped == "memory"
    assert outcome.status != 0
    assert outcome.peak_memory > 150 * 2**20
    assert_ended(text)


@pytest.mark.slow
@both_ways
def test_time_limit(play, isolated):
    """A kernel that takes longer than it may is killed with its children, and the limit is named."""
    outcome, text = play(ENDLESS + WAIT, isolated, time_limit_s=1)
    assert outcome.stopped == "time"
    assert outcome.status != 0
    assert 1 < outcome.seconds < 10
    assert_ended(text)


@pytest.mark.slow
@both_ways
def test_peak_memory(play, isolated):
    """The peak is that of a kernel and its children together, also when they have given the memory back."""
    child = f"[sys.executable, '-c', {'import time; ' + ALLOCATE + 'time.sleep(1)'!r}]"
    script = f"import subprocess, sys, time\n{ALLOCATE}subprocess.run({child})\ndel held\ntime.sleep(0.5)\n"
    outcome, text = play(script, isolated, memory_limit=2**30, time_limit_s=60)
    assert (outcome.status, outcome.stopped) == (0, None), text
    assert 600 < outcome.peak_memory / 2**20 < 700
