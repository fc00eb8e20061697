"""A clone, a home and a stand-in for Kaggle, in which tests run the commands push, submit and data."""

from __future__ import annotations

import base64
import csv
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from builders import write_run
from kaggle_command import run_command
from kaggle_standin import Call, KernelResult, Refusal, StandIn

from hubmap_kit.files import sha256_of
from hubmap_kit.kaggle.clone import DATASET_METADATA
from hubmap_kit.kaggle.manifest import MANIFEST, BundledWheel, Manifest
from hubmap_kit.kaggle.verdict import REHEARSAL, Verdict

CLONE = Path(__file__).resolve().parents[1]
WRITES = {"StartBlobUpload", "PUT", "CreateDataset", "CreateDatasetVersion", "SaveKernel", "CreateCodeSubmission"}
SUBMISSION = b"id,rle\n10078,12 34\n"
ONCE = {"hubmap-kit": 1, "hubmap-train": 1, "hubmap-weights": 1, "hubmap-infer": 1}

# Commands are forked from a process that has imported what they need: Python starts more slowly than most of them run.
_FORKS: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
if sys.platform != "win32":
    modules = ["hubmap_kit.cli", "hubmap_kit.kaggle.push", "hubmap_kit.kaggle.submit", "hubmap_kit.kaggle.data"]
    _FORKS.set_forkserver_preload([*modules, "hubmap_kit.kaggle.verdict", "requests", "pandas", "kagglesdk", "tqdm"])


def git(clone: Path, *arguments: str) -> str:
    """The output of a git command in a clone."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(clone), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with one commit whose rehearsal has passed; its bundle has two small files."""
    clone = tmp_path_factory.mktemp("template") / "clone"
    write_clone(clone)
    return clone


def write_clone(clone: Path) -> None:
    """Write a clone with one commit whose rehearsal has passed, into a new folder or an empty one."""
    for name in ("kernels", "datasets", "notebooks"):
        shutil.copytree(CLONE / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "hubmap_kit").mkdir()  # empty, because a push takes the library from the bundle
    (clone / "hubmap_kit" / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copyfile(CLONE / name, clone / name)
    git(clone, "init", "--quiet")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "all")
    pretend_rehearsal(clone)


def pretend_rehearsal(clone: Path, **changes: Any) -> None:
    """Write the files that a passed rehearsal of the clone's commit leaves for a push."""
    kit = clone / REHEARSAL / "kit"
    kit.mkdir(parents=True, exist_ok=True)
    commit, wheels = git(clone, "rev-parse", "HEAD"), []
    for name, module in (("hubmap_kit-0-py3-none-any.whl", "hubmap_kit"), ("other-1-py3-none-any.whl", "other")):
        (kit / name).write_bytes(f"{module} {commit}".encode() * 1000)
        wheels.append(BundledWheel(name, module, sha256_of(kit / name)))
    Manifest("0", commit, False, tuple(wheels)).write(kit)
    shutil.copyfile(clone / "datasets" / "hubmap-kit" / DATASET_METADATA, kit / DATASET_METADATA)
    verdict = Verdict(passed=True, bundle="kit", commit=commit, manifest_sha256=sha256_of(kit / MANIFEST))
    replace(verdict, **changes).write(clone / REHEARSAL)


def pretend_rehearsal_of_same_library(clone: Path) -> None:
    """Write the files that a passed rehearsal leaves for a commit that did not change the library: the same wheels."""
    kit, commit = clone / REHEARSAL / "kit", git(clone, "rev-parse", "HEAD")
    replace(Manifest.read(kit), commit=commit).write(kit)
    replace(Verdict.read(clone / REHEARSAL), commit=commit, manifest_sha256=sha256_of(kit / MANIFEST)).write(
        clone / REHEARSAL
    )


def a_run(*, finished: bool = True, epochs: int = 3) -> dict[str, bytes]:
    """The files of a run folder that a push reads."""
    results = {"validation": {"dice": 0.8125}} if finished else {}
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), b"weights" * 5000, finished=finished, epochs=epochs, results=results)
        files = {path.name: path.read_bytes() for path in run.iterdir()}
    return files | ({} if finished else {"checkpoint.npz": b"state" * 50000})


def run_kernels(ref: str, body: dict[str, Any]) -> KernelResult:
    """Kernels that leave the output that ours leave."""
    if ref.endswith("train"):
        return KernelResult(output={f"run/{name}": data for name, data in a_run().items()}, log="trained\n")
    return KernelResult(output={"submission.csv": SUBMISSION}, log="predicted\n")


class Workplace:
    """A clone, a home and a stand-in for Kaggle."""

    def __init__(self, clone: Path, home: Path, kaggle: StandIn) -> None:
        self.clone, self.home, self.kaggle = clone, home, kaggle
        self.process: Any = None

    def run(
        self,
        command: str,
        *arguments: str,
        before: Callable[[], object] | None = None,
        credentials: str = "key",
        status: int | None = 0,
    ) -> str:
        """Run a command of hubmap-kit in the clone, in a process of its own.

        Args:
            command: The command.
            *arguments: Its arguments.
            before: Function to call first in that process.
            credentials: See `StandIn.environment`.
            status: The exit status that it must have, if any.

        Returns:
            What it printed; checked to hold no credential and no traceback.
        """
        argv = [command, *arguments, *([] if command == "data" else ["--poll", "0.02"])]
        environment = self.kaggle.environment(self.home, credentials=credentials)
        log = self.clone.parent / f"{len(list(self.clone.parent.glob('*.log')))}.log"
        log.touch()
        self.process = process = _FORKS.Process(target=run_command, args=(argv, self.clone, environment, log, before))
        process.start()
        process.join(timeout=120)
        text = log.read_text(encoding="utf-8", errors="replace")
        assert status is None or process.exitcode == status, text
        self.check(text)
        return text

    def check(self, text: str) -> None:
        """Check that a command printed neither a traceback nor a credential, and that Kaggle has all calls it made."""
        assert "Traceback" not in text, text
        login = base64.b64encode(f"{self.kaggle.user}:{self.kaggle.key}".encode()).decode()
        for secret in (self.kaggle.key, self.kaggle.token, login):
            assert secret not in text
        assert not self.kaggle.unknown

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command that runs."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self, call: Call) -> None:
        """Kill the command that runs."""
        killed = self.process  # the test may start the next one before this thread goes on
        self.signal(signal.SIGKILL)
        wait([killed.sentinel])

    def kill_before(self, call: Call) -> None:
        """Kill the command, and let Kaggle not process its request."""
        self.kill(call)
        raise Refusal(503)

    def calls(self) -> list[str]:
        """Methods called since the last call of this."""
        methods = [call.method for call in self.kaggle.calls]
        self.kaggle.calls.clear()
        return methods

    def versions(self) -> dict[str, int]:
        """How many versions of each dataset and kernel there are."""
        every = {ref: len(dataset.versions) for ref, dataset in self.kaggle.datasets.items()}
        every |= {ref: len(versions) for ref, versions in self.kaggle.kernels.items()}
        return {ref.removeprefix(f"{self.kaggle.user}/"): count for ref, count in every.items()}

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of a CSV in the records."""
        with (self.clone / "records" / name).open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Workplace]:
    """A workplace; after the test it checks that no file in it holds a credential."""
    shutil.copytree(template, tmp_path / "clone", symlinks=True)
    with StandIn() as kaggle:
        kaggle.on_kernel_run = run_kernels
        yield Workplace(tmp_path / "clone", tmp_path / "home", kaggle)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert kaggle.key.encode() not in path.read_bytes(), path


def pushed(place: Workplace) -> Workplace:
    """A workplace in which all was pushed."""
    place.run("push")
    place.calls()
    return place


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a new folder."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def commit_change(clone: Path) -> None:
    """Commit a change."""
    with (clone / "README.md").open("a") as file:
        file.write("changed\n")
    git(clone, "commit", "--quiet", "--all", "--message", "change")
