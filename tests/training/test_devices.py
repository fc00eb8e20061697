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

# A device holds two of its four patches. Trains with two devices that find this out, in two sessions, and with two that
# begin with two parts, in one session.
IN_PARTS = """
import gc, sys, weakref
from pathlib import Path
import tensorflow as tf
store, runs = map(Path, sys.argv[1:])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from hubmap_kit.models.blocks import BatchNormalization
from hubmap_kit.recipes import recipe
from hubmap_kit.training import loop
from hubmap_kit.training.train import train

def check(patches):
    if patches > 2:
        raise MemoryError

def call(self, inputs, training=None, mask=None):
    if training:
        with tf.control_dependencies([tf.numpy_function(check, [tf.shape(inputs)[0]], ())]):
            inputs = tf.identity(inputs)
    return normalise(self, inputs, training=training, mask=mask)

def build(*arguments, **flags):
    models.append(weakref.ref(made := made_of(*arguments, **flags)[0]))
    return made, []

def begin(*arguments, **flags):
    begun = begin_phase(*arguments, **flags)
    print("networks in memory:", sum(model() is not None for model in models))
    return begun

normalise, BatchNormalization.call = BatchNormalization.call, call
models, made_of, loop.build_model = [], loop.build_model, build
begin_phase, loop.Training._begin_phase = loop.Training._begin_phase, begin
loop.compute_dtype = lambda _: "float16"  # with a scaled loss
loop.Training.finish = lambda _: None  # the checkpoint stays
config = recipe("fast", filters=1, batch_size=8, epochs=2, steps_per_epoch=2, validate_every=2, loss="bce+dice",
    ema=0.9, auxiliary=0.1, cutmix=0.5, decoder_dropout=0.3, devices="mirrored")
train(store, runs / "found", config, page=False, time_limit_s=0)
models.clear()
train(store, runs / "found", config, page=False, resume=True)
models.clear()
loop.Training._parts_of_devices = lambda *_: 2
train(store, runs / "given", config, page=False)
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
def test_two_devices_in_parts(store, tmp_path):
    """Two devices find out that a batch needs two parts, also when resumed, and train as if they had been given two."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", IN_PARTS, str(store), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "memory" in line]
    full = "the memory is full: each device does its 4 patches of a batch in 2 parts of 2"
    assert [line for line in lines if line.startswith("the memory")] == [full, full], done.stdout
    # That of the training; the one with which the parts were found is gone.
    assert {line for line in lines if line.startswith("networks")} == {"networks in memory: 1"}, done.stdout
    given, found = (np.load(tmp_path / run / "checkpoint.npz") for run in ("given", "found"))
    assert set(found) == set(given)
    for name in set(given) - {"state"}:  # weights, statistics, state of dropout; Adam's moments, moving average
        assert found[name] == pytest.approx(given[name], rel=1e-3, abs=1e-5), name


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
