"""What depends on the hardware: whether there is a GPU, the type to compute in, batch sizes, full memory."""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ..machine import cores

_FULL = re.compile("out of memory|OUT_OF_MEMORY|ALLOC_FAILED|failed to allocate", re.IGNORECASE)


def start_tensorflow() -> None:
    """Import TensorFlow and let it find its devices, without its notes on the terminal.

    No setting of TensorFlow 2.21 leaves out all of them. They go to a file instead, and are shown if TensorFlow fails.
    Afterwards TensorFlow prints errors only; if it ends this process, Python prints where.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for pool in ("INTRAOP", "INTEROP"):  # it knows the affinity of this process, but not the quota of a container
        os.environ.setdefault(f"TF_NUM_{pool}_THREADS", str(cores()))
    sys.stderr.flush()
    with tempfile.NamedTemporaryFile() as notes, _shown_if_killed(notes.name):
        terminal = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf

            has_gpu()
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    if not faulthandler.is_enabled():
        faulthandler.enable(2)
    tf.get_logger().setLevel("ERROR")  # self-training has one function for each size of image, which it warns of


@contextmanager
def _shown_if_killed(notes: str) -> Iterator[None]:
    """Show the notes if TensorFlow ends this process, as it does on a processor that it was not built for."""
    shell = shutil.which("sh")
    if shell is None:  # Windows
        yield
        return
    script = 'read -r ended || { cat "$0" >&2; rm -f "$0"; }'  # the end of its input is the end of this process
    with subprocess.Popen([shell, "-c", script, notes], stdin=subprocess.PIPE, start_new_session=True) as watcher:
        try:
            yield
        finally:
            watcher.communicate(b"ended\n")


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn every error by which TensorFlow says that the memory is full into a MemoryError."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        # If a library of the GPU gets no memory, the error is an internal one; only its text says why.
        if isinstance(error, tf.errors.ResourceExhaustedError) or _FULL.search(str(error)):
            raise MemoryError(str(error).partition("\n")[0]) from error
        raise


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def compute_dtype(precision: str) -> str | None:
    """The type that a network computes in under a setting of `precision`.

    Args:
        precision: ``float32``, ``mixed`` (with float16 on a GPU, bfloat16 elsewhere) or ``auto`` (mixed on a GPU,
            float32 elsewhere).

    Returns:
        ``float16`` or ``bfloat16`` for mixed precision; None for float32 throughout.
    """
    if precision == "float32":
        return None
    if has_gpu():
        return "float16"
    # On a CPU with fast bfloat16 (AMX) an epoch takes 0.8 of the time, but the network learned worse.
    return "bfloat16" if precision == "mixed" else None


def default_batch_size() -> int:
    """Tiles in a batch of prediction: 16 on a GPU, 2 on a CPU, which gains nothing from larger batches."""
    return 16 if has_gpu() else 2
