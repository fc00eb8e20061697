"""Tests of spreading work over threads and over a Dask cluster."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from hubmap_kit import cluster
from hubmap_kit.cli import main
from hubmap_kit.cluster import spread
from hubmap_kit.config import PrepareConfig
from hubmap_kit.preparation.prepare import prepare
from hubmap_kit.tables import DataError

SMALL = PrepareConfig(patch_size=128, input_size=64, test_size=2, val_size=2)


def invert(job):
    return 1 / job


def sleep(seconds):
    time.sleep(seconds)
    return os.getpid()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Address of a Dask cluster of two processes of one thread each."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed (the extra cluster)")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",
        silence_logs=logging.CRITICAL,
        local_directory=tmp_path_factory.mktemp("dask"),
    ) as local:
        yield local.scheduler_address


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_outcomes(address: str | None) -> None:
    outcomes = dict(spread(invert, [4, 0, 2, -1], scheduler=address))
    assert isinstance(outcomes.pop(0), ZeroDivisionError)
    assert outcomes == {4: 0.25, 2: 0.5, -1: -1.0}
    assert list(spread(invert, [], scheduler=address)) == []


def test_threads_give_each_job_its_outcome():
    """Every job comes back once, with its result or with the exception that ended it."""
    check_outcomes(None)


def test_jobs_at_once_bounds_the_threads():
    """As many jobs run at once as allowed, and no more."""
    together = threading.Barrier(3, timeout=20)
    assert [result for _, result in spread(lambda _: together.wait() >= 0, range(6), jobs_at_once=3)] == [True] * 6
    running = threading.Semaphore(2)

    def is_one_of_two(_: int) -> bool:
        free = running.acquire(blocking=False)
        time.sleep(0.01)
        running.release()
        return free

    assert all(result is True for _, result in spread(is_one_of_two, range(8), jobs_at_once=2))


def test_leaving_early_cancels_what_has_not_begun():
    """A loop that is left early waits for the jobs that run, and the others are not done."""
    begun: list[int] = []

    def begin(job: int) -> None:
        begun.append(job)
        time.sleep(0.02)

    jobs = spread(begin, range(50), jobs_at_once=1)
    next(jobs)
    jobs.close()
    assert len(begun) < 10


@pytest.mark.slow
def test_a_cluster_gives_each_job_its_outcome(scheduler):
    """A cluster's outcomes, exceptions too, are those of threads; its workers are other processes."""
    check_outcomes(scheduler)
    pids = {result for _, result in spread(sleep, [0.3, 0.31, 0.32, 0.33], scheduler=scheduler)}
    assert len(pids) == 2
    assert os.getpid() not in pids


@pytest.mark.slow
def test_preparing_on_a_cluster_gives_the_same_bytes(demo, tmp_path, scheduler, capsys):
    """The store that a cluster prepares is the local one's to the byte, by Python and by the command line."""
    prepare(demo, tmp_path / "local", SMALL)
    prepare(demo, tmp_path / "cluster", SMALL, scheduler=scheduler)
    flags = "--patch-size 128 --input-size 64 --test-size 2 --val-size 2 --scheduler".split()
    assert main(["prepare", str(demo), str(tmp_path / "command"), *flags, scheduler]) == 0
    local = contents(tmp_path / "local")
    assert len(local) == 3 + 2 * 10
    assert local == contents(tmp_path / "cluster") == contents(tmp_path / "command")


@pytest.mark.slow
def test_unreadable_images_are_named_on_a_cluster(demo, tmp_path, scheduler):
    """What is wrong with an image reaches the user from a worker as it does from a thread."""
    data = tmp_path / "data"
    data.mkdir()
    for path in demo.iterdir():
        (data / path.name).symlink_to(path)
    (data / "train_images").unlink()
    (data / "train_images").mkdir()
    images = sorted((demo / "train_images").iterdir())
    for path in images[1:]:
        (data / "train_images" / path.name).symlink_to(path)
    (data / "train_images" / images[0].name).write_bytes(b"II*\0 broken")
    with pytest.raises(DataError) as caught:
        prepare(data, tmp_path / "store", SMALL, scheduler=scheduler)
    assert [images[0].name in problem.rule for problem in caught.value.problems] == [True]


def die_once(marker, job):
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return job + 1
    os.kill(os.getpid(), signal.SIGKILL)


def always_die(job):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_lost_worker_costs_only_its_jobs_time(tmp_path, scheduler):
    """All results arrive although a worker was killed in the middle; a job that kills every worker is named."""
    outcomes = dict(spread(partial(die_once, tmp_path / "died"), range(12), scheduler=scheduler))
    assert (tmp_path / "died").exists()
    assert outcomes == {job: job + 1 for job in range(12)}
    ((job, outcome),) = spread(always_die, [7], scheduler=scheduler)
    assert job == 7
    assert isinstance(outcome, OSError)
    assert "4 Dask workers died" in str(outcome)


@pytest.mark.slow
def test_another_version_on_the_cluster(scheduler, monkeypatch):
    """Workers with another version of the kit are refused before anything is done."""
    monkeypatch.setattr(cluster, "__version__", "99.1")
    with pytest.raises(ValueError, match=r"another version of hubmap-kit .*\(99\.1\).*install the same version"):
        next(spread(invert, [1], scheduler=scheduler))


def test_a_cluster_without_workers(monkeypatch):
    """A scheduler that has no worker is an error that says how to start one."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed (the extra cluster)")
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as local,
        pytest.raises(ValueError, match="has no worker; start some with: dask worker"),
    ):
        next(spread(invert, [1], scheduler=local.scheduler_address))


@pytest.mark.slow
def test_an_address_where_nobody_answers(demo, tmp_path, capsys):
    """An address that nobody answers at, or that is none, ends the command within ten seconds with one line."""
    pytest.importorskip("distributed", reason="distributed is not installed (the extra cluster)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for bad in (address, "nowhere"):
        begin = time.monotonic()
        assert main(["prepare", str(demo), str(tmp_path / "store"), "--scheduler", bad]) == 1
        assert time.monotonic() - begin < 10
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: the Dask scheduler {bad} cannot be reached")
        assert "dask scheduler" in line


def start_dask(folder: Path, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a program of Dask."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{words[0]}", *words[1:]]
    return subprocess.Popen(
        [*command, "--dashboard-address", "127.0.0.1:0"],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.slow
def test_a_foreign_worker_runs_no_code_here(tmp_path):
    """What a worker answers to the first question is not unpickled, so that it cannot run code in this process."""
    pytest.importorskip("distributed", reason="distributed is not installed (the extra cluster)")
    (tmp_path / "hubmap_kit").mkdir()
    ran = tmp_path / "ran"
    (tmp_path / "hubmap_kit" / "__init__.py").write_text(
        "import os\nclass Evil(str):\n    def __str__(self): return self\n"
        f"    def __reduce__(self): return (os.system, ('touch {ran}',))\n__version__ = Evil()\n"
    )
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    programs = [start_dask(tmp_path, "scheduler", "--host", "127.0.0.1", "--port", str(port))]
    flags = ["--host", "127.0.0.1", "--nthreads", "1", "--no-nanny"]
    programs.append(start_dask(tmp_path, "worker", address, *flags, PYTHONPATH=str(tmp_path)))
    try:
        with pytest.raises(ValueError, match=r"use only a scheduler and workers of your own|install the same version"):
            wait_for_a_cluster(address)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert not ran.exists()


def wait_for_a_cluster(address: str) -> list[tuple[int, int | Exception]]:
    """Spread jobs, as soon as the cluster is there."""
    for _ in range(20):
        try:
            return list(spread(abs, [-2], scheduler=address))
        except ValueError as error:
            if "cannot be reached" not in str(error) and "has no worker" not in str(error):
                raise
            time.sleep(0.5)
    raise AssertionError(f"no cluster at {address}")


@pytest.mark.slow
def test_tls(tmp_path, monkeypatch):
    """With the certificates that the documentation makes, a cluster is used, and nobody without them reaches it."""
    pytest.importorskip("distributed", reason="distributed is not installed (the extra cluster)")
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    page = (Path(__file__).parents[1] / "docs" / "many-devices.md").read_text()
    block = next(block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "openssl" in block)
    subprocess.run(["sh", "-ec", block], cwd=tmp_path, check=True, capture_output=True)
    variables = dict(re.findall(r"export (DASK_\w+)=\"\$PWD/([\w.-]+)\"", block))
    environment = {name: str(tmp_path / file) for name, file in variables.items()}
    environment |= dict(re.findall(r"export (DASK_\w+)=(\w+)$", block, re.MULTILINE))
    assert len(environment) == 8
    port = free_port()
    address = f"tls://127.0.0.1:{port}"
    programs = [
        start_dask(tmp_path, "scheduler", "--host", "tls://127.0.0.1", "--port", str(port), **environment),
        start_dask(
            tmp_path, "worker", address, "--host", "tls://127.0.0.1", "--nthreads", "1", "--no-nanny", **environment
        ),
    ]
    done = "import sys; sys.path[:0] = sys.argv[2:]; import test_cluster as t; print(t.wait_for_a_cluster(sys.argv[1]))"
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    try:
        command = [sys.executable, "-c", done, address, *folders]
        with_them = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
        monkeypatch.setattr(cluster, "CONNECT_S", 2)
        for other in (address, address.replace("tls", "tcp")):
            with pytest.raises(ValueError, match="cannot be reached"):
                list(spread(invert, [2], scheduler=other))
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert "(-2, 2)" in with_them.stdout, with_them.stderr


def test_without_dask_the_error_says_what_to_install(monkeypatch):
    """Without Dask installed the error says what to install; threads do not need it."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="pip install dask distributed"):
        next(spread(invert, [1], scheduler="tcp://127.0.0.1:8786"))
    assert list(spread(invert, [1])) == [(1, 1.0)]


@pytest.mark.slow
def test_predict_on_a_cluster(scheduler, demo, store, tmp_path):
    """Masks predicted by the workers are byte for byte those predicted here; a bad image costs only itself."""
    from hubmap_kit.recipes import recipe
    from hubmap_kit.training.train import train

    train(store, tmp_path / "run", recipe("fast", filters=2, batch_size=4, epochs=1, steps_per_epoch=1))
    data = tmp_path / "data"
    shutil.copytree(demo / "test_images", data / "test_images")
    for name in ("test.csv", "sample_submission.csv"):
        shutil.copy(demo / name, data)
    sorted((data / "test_images").iterdir())[0].write_bytes(b"not an image")
    arguments = ["predict", str(data), str(tmp_path / "run"), "--batch-size", "1", "--on-error", "empty"]
    arguments += ["--min-region", "0"]  # the regions of a network after one step are small
    assert main([*arguments, "--out", str(tmp_path / "here.csv")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "there.csv"), "--scheduler", scheduler]) == 0
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    for name in ("here", "there"):
        assert "cannot be read as TIFF" in (tmp_path / f"{name}.csv.problems.csv").read_text()
