"""Tests of the choices that depend on the hardware."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hubmap_kit.machine import cores
from hubmap_kit.models import hardware


@pytest.mark.parametrize(
    ("precision", "gpu", "expected"),
    [
        ("auto", True, "float16"),
        ("auto", False, None),
        ("mixed", True, "float16"),
        ("mixed", False, "bfloat16"),
        ("float32", True, None),
        ("float32", False, None),
    ],
)
def test_precision_follows_the_hardware(precision, gpu, expected, monkeypatch):
    """Half precision is float16 on a GPU, bfloat16 elsewhere, where it has to be asked for."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: gpu)
    assert hardware.compute_dtype(precision) == expected


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("ending", "shown"),
    [("os.abort()", True), ("raise ImportError('broken')", True), ("list_physical_devices = list", False)],
)
def test_what_tensorflow_says_when_it_fails(tmp_path, ending, shown):
    """TensorFlow's notes at its start are shown if it fails, also if it aborts the process, and else not."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(
        "import os, sys\nos.write(2, b'This TensorFlow needs AVX.\\n')\n"
        "from types import SimpleNamespace\n"
        "config = SimpleNamespace(list_physical_devices=lambda kind: [])\n"
        "print(os.environ['TF_NUM_INTRAOP_THREADS'])\n"
        f"get_logger = lambda: SimpleNamespace(setLevel=print)\n{ending}\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "from hubmap_kit.models.hardware import start_tensorflow\nstart_tensorflow()\nprint('started')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ("This TensorFlow needs AVX." in done.stderr) == shown
    assert ("started" in done.stdout) != shown
    assert shown or str(cores()) in done.stdout.splitlines()  # its threads are as many as the container lets it have
    assert bool(done.returncode) == shown
