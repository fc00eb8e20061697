"""Devices to train on: one, the GPUs of a computer, a TPU, or several computers, through ``tf.distribute``."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from ..machine import cores


@dataclass(frozen=True)
class Devices:
    """The devices of a training.

    Every computer ("worker") runs the same program; each device ("replica") takes an equal part of a batch.

    Attributes:
        strategy: A strategy of ``tf.distribute``.
        workers: Number of computers that take part.
        worker: Number of this one; worker 0 writes the files.
    """

    strategy: tf.distribute.Strategy
    workers: int = 1
    worker: int = 0

    @property
    def replicas(self) -> int:
        """Number of devices of all workers."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def local_replicas(self) -> int:
        """Number of devices of this worker."""
        return self.replicas // self.workers

    @property
    def tpu(self) -> bool:
        """Whether they are the cores of a TPU."""
        return isinstance(self.strategy, tf.distribute.TPUStrategy)

    @property
    def text(self) -> str:
        """The devices in words, such as ``2 x Tesla T4``."""
        kind = next((kind for kind in ("TPU", "GPU") if tf.config.list_physical_devices(kind)), "CPU")
        device = tf.config.list_physical_devices(kind)[0]
        name = tf.config.experimental.get_device_details(device).get("device_name", kind) if kind == "GPU" else kind
        of = f" of {cores()} cores" if kind == "CPU" else ""
        return f"{self.replicas} x {name}{of}" + (f" on {self.workers} computers" if self.workers > 1 else "")

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add an array over workers; every worker gets the sum.

        Args:
            values: Float, of the same shape on each worker.

        Returns:
            Float64 of that shape.
        """
        values = np.asarray(values, np.float64)
        if self.workers == 1 or values.size == 0:
            return values
        given = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                values if context.replica_id_in_sync_group % self.local_replicas == 0 else np.zeros_like(values)
            )
        )
        return np.asarray(self.strategy.experimental_local_results(_all_reduce(self.strategy, given))[0])


def peak_memory() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where ru_maxrss counts the process that started this one too
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
        return 1024 * int(found[1]) if found else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gpu_peak_memory() -> int | None:
    """The most memory that TensorFlow has held on a GPU so far, in bytes, of the fullest one; None without a GPU."""
    names = [gpu.name.rpartition("/device:")[2] for gpu in tf.config.list_logical_devices("GPU")]
    return max((int(tf.config.experimental.get_memory_info(name)["peak"]) for name in names), default=None)


def _sum_over_replicas(strategy: tf.distribute.Strategy, values: tf.Tensor) -> tf.Tensor:
    def add(value: tf.Tensor) -> tf.Tensor:
        # The reduction needs a value that lies on the replica's device; an argument of the function lies on none.
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(value))

    return strategy.run(add, args=(values,))


_all_reduce = tf.function(_sum_over_replicas, reduce_retracing=True, jit_compile=False)


def open_devices(wanted: str) -> Devices:
    """Find the devices that the setting ``devices`` names. Call this before TensorFlow is used otherwise.

    Args:
        wanted: ``one``; ``mirrored``, all GPUs of this computer; ``tpu``; ``workers``, the computers that the
            environment variable ``TF_CONFIG`` names (see TensorFlow's guide to multi-worker training), each running
            the same command; or ``auto``, the last of these that is available.

    Raises:
        ValueError: The devices are not available, or ``TF_CONFIG`` cannot be understood.
    """
    if wanted == "auto":
        if os.environ.get("TF_CONFIG"):
            wanted = "workers"
        elif os.environ.get("TPU_NAME") or os.environ.get("TPU_ACCELERATOR_TYPE"):
            wanted = "tpu"
        else:
            wanted = "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"
    if wanted == "one":
        return Devices(tf.distribute.get_strategy())
    if wanted == "mirrored":
        if not tf.config.list_physical_devices("GPU") and len(tf.config.list_logical_devices("CPU")) == 1:
            raise ValueError("devices is mirrored, but TensorFlow sees no GPU here; take one")
        gpus = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return Devices(tf.distribute.MirroredStrategy([device.name for device in gpus]))
    if wanted == "tpu":
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="local")
        except Exception as error:
            raise ValueError(f"devices is tpu, but none can be reached ({error}); take one") from error
        return Devices(tf.distribute.TPUStrategy(resolver))
    workers, worker = _place(os.environ.get("TF_CONFIG", ""))
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:  # TensorFlow was used before in this process
        raise ValueError(f"the workers cannot be joined: {error}; train in a new process") from error
    return Devices(strategy, workers, worker)


def is_first_worker() -> bool:
    """Whether this process is the one that writes the files, of those that ``TF_CONFIG`` names."""
    text = os.environ.get("TF_CONFIG")
    return not text or _place(text)[1] == 0


def _place(text: str) -> tuple[int, int]:
    """The number of workers that ``TF_CONFIG`` names, and the number of this one."""
    try:
        values = json.loads(text)
        workers, task = values["cluster"]["worker"], values["task"]
        if set(values["cluster"]) == {"worker"} and task["type"] == "worker" and 0 <= task["index"] < len(workers):
            return len(workers), int(task["index"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(
        f"TF_CONFIG is {text!r}; to train on several computers it must be of the form "
        '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}, the index counting '
        "the computers"
    )
