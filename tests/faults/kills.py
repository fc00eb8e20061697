"""Kills commands at random moments, runs them again, and compares what they left with an undisturbed run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

CLONE = Path(__file__).resolve().parents[2]
# Of `builders.TINY_FLAGS`; with few threads, sums come in the same order every time.
TINY = "--filters 2 --batch-size 4 --steps-per-epoch 2"
ONE_ROW = "--folds 2 --test-size 0 --input-size 64 --rows flips --seeds 1"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


@dataclass(frozen=True)
class Killed:
    """A command that is killed.

    Attributes:
        command: The command line, in a folder that `catalogue.make` made.
        out: What it writes.
        kills: Number of kills.
        again: Flag that the second run needs where the output exists.
        once: Whether the command refuses to write what is complete; then it is not run again.
    """

    command: str
    out: str
    kills: int
    again: str = ""
    once: bool = False


COMMANDS = {
    "demo": Killed("demo new --train 6 --test 3 --size 128", "new", 6, once=True),
    "import": Killed("import I new --masks M --organ liver --pixel-size 0.5", "new", 6, once=True),
    "prepare": Killed("prepare D new --input-size 64 --test-size 1 --val-size 1", "new", 6),
    "export": Killed("export S.csv --data D --out new", "new", 4, once=True),
    "inspect": Killed("inspect D --out new.html", "new.html", 4),
    "review": Killed("review S.csv --data D --out new.html", "new.html", 4),
    "score": Killed("score S.csv --truth T.csv --per-image new.csv", "new.csv", 3),
    "train": Killed(f"train P new --recipe fast --epochs 3 {TINY}", "new", 3, "--resume"),
    "report": Killed("report trained --out new.html", "new.html", 3),
    "predict": Killed("predict D trained --out new.csv", "new.csv", 3),
    "pseudo": Killed("pseudo D P new trained", "new", 4),
    "ablation": Killed(f"ablation D new {ONE_ROW} --recipe fast --epochs 2 {TINY}", "new", 3),
    "bundle": Killed("bundle new", "new", 6),
}
REHEARSE = "rehearse new --train 5 --size 128"
REHEARSALS = 4  # killed before the end of their first kernel, which takes long
STATED_TIME = rb"20\d\d-\d\d-\d\d \d\d:\d\d UTC"
TENSORFLOW = ("train", "report", "predict", "pseudo", "ablation")  # they train, or need a trained run


def start(command: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that its children can be killed with it."""
    with (folder / "log").open("wb") as log:
        words = [sys.executable, "-P", "-m", "hubmap_kit", *command.split()]
        environment = os.environ | ENVIRONMENT | {"HOME": str(folder / "home")}
        return subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment)


def finish(command: str, folder: Path) -> float:
    """Run a command to its end: the time that it took, in s."""
    started = time.monotonic()
    status = start(command, folder).wait()
    assert status == 0, (folder / "log").read_text()
    return time.monotonic() - started


def tree(folder: Path, out: str) -> dict[str, bytes]:
    """What a command wrote: content of each file, by its path, without the time that a page states."""
    found = folder / out
    files = [found] if found.is_file() else sorted(path for path in found.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): re.sub(STATED_TIME, b"", path.read_bytes()) for path in files}


def beside(folder: Path) -> set[str]:
    """Names in the folder: a killed command leaves no parts there once it has run again."""
    return {path.name for path in folder.iterdir()}


def differences(one: dict[str, bytes], other: dict[str, bytes], same: set[str]) -> set[str]:
    """Files that only one of two trees has, and those of `same` that differ."""
    return (one.keys() ^ other.keys()) | {path for path in same & one.keys() if one[path] != other.get(path)}


def kill_and_compare(name: str, made: Path, place: Path, seed: int) -> int:
    """Kill a command several times, each time in a new folder; the number of kills that met it while it ran.

    Args:
        name: Of `COMMANDS`.
        made: Folder by `catalogue.make`.
        place: An empty folder to work in.
        seed: Of the moments.

    Raises:
        AssertionError: The second run fails, or leaves something else than an undisturbed one.
    """
    killed, rng, met = COMMANDS[name], np.random.default_rng(seed), 0
    trees = []
    for number in range(2):
        shutil.copytree(made, folder := place / f"undisturbed{number}")
        took_s = finish(killed.command, folder)
        trees.append(tree(folder, killed.out))
    assert trees[0].keys() == trees[1].keys()
    same = {path for path in trees[0] if trees[0][path] == trees[1][path]}
    for number in range(killed.kills):
        shutil.copytree(made, folder := place / f"killed{number}")
        process = start(killed.command, folder)
        # The first half of the time is spent on imports; most kills should meet the writing.
        time.sleep(took_s * rng.uniform(0.3, 0.95))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            met += 1
        process.wait()
        exists = (folder / killed.out).exists()
        if not (killed.once and differences(tree(folder, killed.out), trees[1], same) <= {f"{killed.out}/.lock"}):
            finish(f"{killed.command} {killed.again if exists else ''}", folder)
            differ = differences(tree(folder, killed.out), trees[1], same)
            assert not differ, (folder, differ)
        assert beside(folder) == beside(place / "undisturbed1"), folder
    return met


def add_run(made: Path) -> None:
    """Train the run that commands in `TENSORFLOW` need."""
    finish(COMMANDS["train"].command.replace(" new ", " trained "), made)


def add_library(made: Path) -> None:
    """Give the clone the library and the wheels that are bundled with it; what is not in ``dist`` is downloaded."""
    without_cache = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CLONE / "hubmap_kit", made / "hubmap_kit", ignore=without_cache, dirs_exist_ok=True)
    if (wheels := CLONE / "dist" / "wheels").is_dir():
        shutil.copytree(wheels, made / "dist" / "wheels")
    finish("bundle kit", made)
    shutil.rmtree(made / "kit")


def kill_rehearsals(made: Path, place: Path, seed: int) -> int:
    """Kill rehearsals before the end of their first kernel, and let each begin again; the number of kills.

    The first is killed while the kernel runs. Only the rehearsal is killed: what it started has to end by itself.

    Args:
        made: Folder by `catalogue.make`, with the library.
        place: An empty folder to work in.
        seed: Of the moments.

    Raises:
        AssertionError: A process goes on, a verdict is half-written, or the second rehearsal is refused.
    """
    rng, longest_s = np.random.default_rng(seed), 0.0
    for number in range(REHEARSALS):
        shutil.copytree(made, folder := place / f"killed{number}")
        process, begin = start(REHEARSE, folder), time.monotonic()
        if number:
            time.sleep(longest_s * rng.uniform(0.1, 1))
        else:
            wait_for("== smoke", process, folder)
            time.sleep(4)
            longest_s = time.monotonic() - begin
        end(process, signal.SIGKILL)
        assert not (folder / "new" / "verdict.json").exists(), folder
        process = start(REHEARSE, folder)
        wait_for("== bundle:", process, folder)
        end(process, signal.SIGTERM)
        assert "Traceback" not in (text := (folder / "log").read_text()), text
    return REHEARSALS


def wait_for(text: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until a command has printed a text."""
    begin = time.monotonic()
    while text not in (printed := (folder / "log").read_text()):
        assert process.poll() is None, printed
        assert time.monotonic() - begin < 300, printed
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a command a signal, and check that all that it started ends too."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.wait(timeout=60)
    _, left = psutil.wait_procs(children, timeout=120)  # the estimate of the hours goes on to its end
    assert not left, left
