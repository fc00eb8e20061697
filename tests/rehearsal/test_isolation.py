"""The kernels' isolation and limits, tried with small scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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


# Processes are found by a word of their command line: in a process namespace they have other numbers.
ENDLESS = """
import os, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)", TAG]
child = subprocess.Popen(sleep, start_new_session=True)
print("started", flush=True)
"""
WAIT = "time.sleep(600)\n"
ALLOCATE = "held = b'x' * (300 * 2**20)\n"  # resident memory, unlike that of a bytearray


def is_left(tag: str) -> bool:
    """Whether a process runs, and is no zombie, that has a word in its command line."""
    found = psutil.process_iter(["cmdline", "status"])
    return any(tag in (p.info["cmdline"] or []) and p.info["status"] != psutil.STATUS_ZOMBIE for p in found)


@pytest.fixture
def tagged(play, tmp_path):
    """Like `play`, for a script whose processes have the word TAG in their command lines; checks that they ended."""
    tag = f"tag-{os.getpid()}-{tmp_path.name}"

    def run(text: str, isolated: bool, **more: Any) -> tuple[isolation.Outcome, str]:
        seen: list[bool] = []
        lines = more.pop("on_line", lambda line: None)

        def on_line(line: str) -> None:
            until = time.monotonic() + 2  # a program has no command line for a moment after it was started
            while not seen and not is_left(tag) and time.monotonic() < until:
                time.sleep(0.1)
            seen.append(is_left(tag))
            lines(line)

        try:
            return play(f"TAG = {tag!r}\n{text}", isolated, on_line=on_line, **more)
        finally:
            assert seen[0], "the script's processes are not found by their tag"
            assert not is_left(tag)

    return run


@both_ways
def test_a_running_kernel_is_stopped(tagged, isolated):
    """When a rehearsal is interrupted, the kernel and its children end."""

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tagged(ENDLESS + WAIT, isolated, on_line=interrupt)


@pytest.mark.slow
@both_ways
def test_memory_limit(tagged, isolated):
    """A kernel that takes more memory than it may is killed with its children, and the limit is named."""
    outcome, _ = tagged(ENDLESS + ALLOCATE + WAIT, isolated, memory_limit=150 * 2**20, time_limit_s=60)
    assert outcome.stopped == "memory"
    assert outcome.status != 0
    assert outcome.peak_memory > 150 * 2**20


@pytest.mark.slow
@both_ways
def test_time_limit(tagged, isolated):
    """A kernel that takes longer than it may is killed with its children, and the limit is named."""
    outcome, _ = tagged(ENDLESS + WAIT, isolated, time_limit_s=1)
    assert outcome.stopped == "time"
    assert outcome.status != 0
    assert 1 < outcome.seconds < 10


@pytest.mark.slow
@both_ways
def test_peak_memory(play, isolated):
    """The peak is that of a kernel and its children together, also when they have given the memory back."""
    child = f"[sys.executable, '-c', {'import time; ' + ALLOCATE + 'time.sleep(1)'!r}]"
    script = f"import subprocess, sys, time\n{ALLOCATE}subprocess.run({child})\ndel held\ntime.sleep(0.5)\n"
    outcome, text = play(script, isolated, memory_limit=2**30, time_limit_s=60)
    assert (outcome.status, outcome.stopped) == (0, None), text
    assert 600 < outcome.peak_memory / 2**20 < 700


# A child in a session of its own whose parent has ended, so that nothing leads from the kernel to it any more.
ORPHAN = """
import subprocess, sys, time
code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], start_new_session=True)"
subprocess.run([sys.executable, "-c", code, CHILD, TAG])
print("started", flush=True)
"""


@needs_namespaces
@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "time.sleep(600)"])
def test_nothing_outlives_a_kernel(tagged, ending):
    """An orphan in a session of its own, which holds the output open, ends with the kernel, however that ends."""
    script = f"CHILD = 'import time; time.sleep(600)'\n{ORPHAN}time.sleep(0.5)\n{ending}\n"
    begin = time.monotonic()
    outcome, _ = tagged(script, True, time_limit_s=3)
    assert time.monotonic() - begin < 10
    assert (outcome.stopped, outcome.status) == {"": (None, 0), "sys.exit(3)": (None, 3)}.get(ending, ("time", -9))


def test_output_that_a_child_keeps_open_is_not_waited_for(play):
    """Without namespaces a child can outlive the kernel; it does not keep the rehearsal waiting."""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'], start_new_session=True)"
    outcome, text = play(f"import subprocess, sys\n{child}\nprint('end')\n", False)
    assert (outcome.status, text) == (0, "end")
    assert outcome.seconds < 7


@pytest.mark.slow
@needs_namespaces
def test_an_orphan_and_files_in_memory_count(tagged, play):
    """The memory of a child whose parent has ended counts, and so does what lies in /dev/shm."""
    script = f"CHILD = {'import time; ' + ALLOCATE + 'time.sleep(600)'!r}\n{ORPHAN}time.sleep(60)"
    assert tagged(script, True, memory_limit=250 * 2**20, time_limit_s=30)[0].stopped == "memory"
    script = """
import os, time
file = open("/dev/shm/file", "wb")
os.unlink("/dev/shm/file")
for _ in range(300): file.write(bytes(2**20))
file.flush()
time.sleep(60)
"""
    before = set(os.listdir("/dev/shm"))
    outcome, text = play(script, True, memory_limit=200 * 2**20, time_limit_s=30)
    assert (outcome.stopped, text) == ("memory", "")
    assert set(os.listdir("/dev/shm")) == before


@both_ways
def test_long_lines_and_much_output(play, isolated, monkeypatch):
    """A line without an end comes in parts, and what is printed beyond a limit is left out, which is said."""
    monkeypatch.setattr(isolation, "LINE_CHARACTERS", 1000)
    monkeypatch.setattr(isolation, "OUTPUT_BYTES", 5 * 2**20)
    outcome, text = play("print('ä' * 2500); print('b' * 2500, end=''); print('', flush=True)", isolated)
    lines = text.split("\n")
    assert outcome.status == 0
    assert "".join(lines) == "ä" * 2500 + "b" * 2500
    outcome, text = play("for _ in range(10_000): print('c' * 999)", isolated)
    assert outcome.status == 0
    assert "is left out" in text[-100:]
    assert len(text) < 6 * 2**20


@needs_namespaces
def test_a_kernel_cannot_open_its_walls(play, tmp_path):
    """It has no capability, so it cannot mount a read-only folder anew; also mounts below a read-only one are."""
    script = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.mount(None, b"/kaggle/src", None, ctypes.c_ulong(32 | 4096), None), ctypes.get_errno())
with open("/proc/self/status") as file:
    print({line.split()[1] for line in file if line.startswith(("CapPrm", "CapEff", "CapBnd"))})
open("/kaggle/src/new", "w")
"""
    outcome, text = play(script, True)
    assert outcome.status == 1
    assert text.startswith("-1 1\n{'0000000000000000'}\n")
    assert "Read-only file system" in text


@needs_namespaces
def test_a_kernel_ends_with_the_rehearsal(tmp_path):
    """A rehearsal that is killed leaves no kernel behind."""
    tag = f"tag-{os.getpid()}-killed"
    (tmp_path / "script.py").write_text(f"TAG = {tag!r}\n{ENDLESS}{WAIT}")
    program = f"""
from pathlib import Path
from hubmap_kit.rehearsal import isolation
folder = Path({str(tmp_path)!r})
isolation.run(folder / "script.py", inputs={{}}, working=folder, hidden=(), environment={{}},
              on_line=lambda line: print(line, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        assert is_left(tag)
        process.kill()
    patience = time.monotonic() + 10
    while is_left(tag) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not is_left(tag)
