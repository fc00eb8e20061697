"""Tests of training on several devices and several computers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hubmap_kit.run import RunConfig
from hubmap_kit.training.devices import Devices, gpu_peak_memory, open_devices, peak_memory

# Trains a small network with every part that depends on the whole batch: BatchNormalization, Dice, the average.
TRAIN = """
import sys
from pathlib import Path
import tensorflow as tf
store, run, devices = sys.argv[1:4]
if devices == "mirrored":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from hubmap_kit.recipes import recipe
from hubmap_kit.training.train import train
config = recipe("fast", filters=2, batch_size=4, epochs=2, steps_per_epoch=3, validate_every=1, loss="bce+dice+lovasz",
    ema=0.9, auxiliary=0.1, cutmix=0.5, devices=devices)
train(Path(store), Path(run), config)
"""


def start(store: Path, run: Path, devices: str, cluster: dict[str, object] | None = None) -> subprocess.Popen[str]:
    """Train in a new process, because devices are set up once per process."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_CONFIG", None)
    if cluster:
        environment["TF_CONFIG"] = json.dumps(cluster)
    command = [sys.executable, "-c", TRAIN, str(store), str(run), devices]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def single(store, tmp_path_factory):
    """The run folder of a training on one device."""
    run = tmp_path_factory.mktemp("single") / "run"
    process = start(store, run, "one")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return run


def assert_same_training(run: Path, single: Path) -> None:
    """Losses, scores, thresholds and looks are a single device's, within float32 rounding of sums in another order."""
    ours, theirs = pd.read_csv(run / "history.csv"), pd.read_csv(single / "history.csv")
    for column in ("train_loss", "validation_loss", "validation_dice"):
        assert ours[column].to_numpy() == pytest.approx(theirs[column].to_numpy(), abs=2e-3), column
    # The first step's loss has seen no update, so that it differs by rounding alone.
    assert ours["train_loss"][0] == pytest.approx(theirs["train_loss"][0], rel=1e-4)
    config, other = RunConfig.read(run), RunConfig.read(single)
    assert config.splits == other.splits
    assert config.finished


@pytest.mark.slow
def test_two_devices_train_as_one(store, single, tmp_path):
    """Mirrored over two devices, the global batch gives a single device's losses."""
    process = start(store, tmp_path / "run", "mirrored")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "2 devices" in output
    assert_same_training(tmp_path / "run", single)


@pytest.mark.slow
def test_two_workers_train_as_one(store, single, tmp_path):
    """Two processes joined by TF_CONFIG, each with its part of the batch, give a single process's losses."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = [
        start(
            store,
            tmp_path / "run",
            "auto",
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}},
        )
        for index in range(2)
    ]
    ends = [worker.communicate(timeout=300) for worker in workers]
    for worker, (_, errors) in zip(workers, ends, strict=True):
        assert worker.returncode == 0, errors
    assert "2 devices" in ends[0][0]
    assert_same_training(tmp_path / "run", single)


def test_one_device():
    """One device is one replica of one worker, and a sum over workers is what it gave."""
    devices = open_devices("one")
    assert (devices.replicas, devices.local_replicas, devices.workers, devices.worker) == (1, 1, 1, 0)
    assert np.array_equal(devices.sum(np.array([1.5, -2])), [1.5, -2])


def test_auto_takes_what_is_there(monkeypatch):
    """Without a cluster, a TPU and GPUs, auto is one device."""
    for name in ("TF_CONFIG", "TPU_NAME", "TPU_ACCELERATOR_TYPE"):
        monkeypatch.delenv(name, raising=False)
    assert open_devices("auto") == Devices(open_devices("one").strategy)


@pytest.mark.parametrize("wanted", ["mirrored", "tpu"])
def test_devices_that_are_not_there(wanted):
    """Wanting GPUs or a TPU where there is none names the remedy."""
    with pytest.raises(ValueError, match="take one"):
        open_devices(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "{}",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_bad_cluster(monkeypatch, text):
    """A TF_CONFIG that names no place among workers is shown with the form it should have."""
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=r"TF_CONFIG is .*must be of the form"):
        open_devices("workers")


def test_peak_memory_of_the_fullest_gpu(monkeypatch):
    """The memory is that of the GPU that held most; a computer without a GPU has none."""
    names, peaks = ["/device:GPU:0", "/job:worker/replica:0/task:0/device:GPU:1"], {"GPU:0": 5, "GPU:1": 7}
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda _: [SimpleNamespace(name=n) for n in names])
    monkeypatch.setattr("tensorflow.config.experimental.get_memory_info", lambda name: {"peak": peaks[name]})
    assert gpu_peak_memory() == 7
    names.clear()
    assert gpu_peak_memory() is None


@pytest.mark.slow
def test_peak_memory_is_that_of_this_process():
    """A process that is started by one that holds much memory has its own peak, and not that of the other."""
    large = np.ones(400 * 2**20 // 8)  # bytes that count as held, since they are written
    code = "from hubmap_kit.training.devices import peak_memory; print(peak_memory())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    own = peak_memory()
    assert own is not None
    assert int(found.stdout) < own
    assert own >= large.nbytes
