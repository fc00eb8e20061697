"""What a bug report needs to say about a computer. It never holds a credential."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import __version__
from .files import size_text
from .kaggle.clone import commit_of
from .kaggle.credentials import credentials_source, load
from .machine import cores, free_memory
from .rehearsal.isolation import obstacle

LIBRARIES = "tensorflow keras numpy pandas opencv-python-headless tifffile imagecodecs scikit-learn scipy".split()
OPTIONAL = "kaggle distributed nox playwright jupytext".split()  # installed by extras, or for work on the kit
DEVICES_S = 120.0  # time for TensorFlow to start and name its devices
# Runs in a process of its own, so that this command survives a TensorFlow that hangs or crashes.
_ASK_TENSORFLOW = """
import json
from hubmap_kit.models.hardware import compute_dtype, start_tensorflow
start_tensorflow()
import tensorflow as tf
devices = tf.config.list_physical_devices()
names = [tf.config.experimental.get_device_details(device).get("device_name", device.device_type) for device in devices]
print(json.dumps({"devices": names, "precision": compute_dtype("auto") or "float32"}))
"""


def facts() -> dict[str, Any]:
    """Everything that can be found out in some seconds, as JSON values; see `facts_text`."""
    clone = Path(__file__).parents[1]
    commit, changed = commit_of(clone) if (clone / ".git").exists() else (None, False)
    return {
        "hubmap_kit": __version__,
        "commit": commit and commit + (" with uncommitted changes" if changed else ""),
        "folder": str(clone),
        "python": platform.python_version(),
        "system": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "optional": {name: _version(name) for name in OPTIONAL},
        **_tensorflow_facts(),
        "cpu_cores": cores(),
        "memory_free_bytes": free_memory(),
        "disk_free_bytes": {"here": _free_bytes(Path.cwd()), "/dev/shm": _free_bytes(Path("/dev/shm"))},
        "kaggle_credentials": credentials_source(),
        "kaggle_credentials_error": _credentials_error(),
        "rehearsal_isolation": obstacle() or "works",
        "browser": next(filter(None, map(shutil.which, ("chromium", "google-chrome", "firefox"))), None),
    }


def facts_text(found: Mapping[str, Any]) -> str:
    """What `facts` found, one line each, for people."""
    disk, missing = found["disk_free_bytes"], "not installed"
    error = found.get("tensorflow_error")
    lines = {
        "hubmap-kit": f"{found['hubmap_kit']}, commit {found['commit'] or 'unknown'}, in {found['folder']}",
        "Python": f"{found['python']} on {found['system']}",
        **{name: version or missing for name, version in found["libraries"].items()},
        "devices": error or ", ".join(found["devices"]),
        "precision": found.get("precision", "unknown"),
        "CPU cores": f"{found['cpu_cores']} that this process may use",
        "memory": _size(found["memory_free_bytes"]) + " free for this process",
        "disk": f"{_size(disk['here'])} free here, {_size(disk['/dev/shm'])} in /dev/shm",
        "Kaggle": found["kaggle_credentials_error"]
        or (f"credentials in {source}" if (source := found["kaggle_credentials"]) else "no credentials found"),
        "rehearsal": f"isolation of kernels: {found['rehearsal_isolation']}",
        "browser": found["browser"] or "none found; the pages open in any",
        "optional": ", ".join(f"{name} {version or missing}" for name, version in found["optional"].items()),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def _credentials_error() -> str | None:
    """Why the credentials cannot be used; None if nothing is wrong with them, or there are none."""
    try:
        load()
    except ValueError as error:
        return str(error)
    return None


def _tensorflow_facts() -> dict[str, Any]:
    """Devices and precision, or why TensorFlow does not start."""
    command = [sys.executable, "-c", _ASK_TENSORFLOW]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEVICES_S, env=environment)
    except subprocess.TimeoutExpired:
        return {"tensorflow_error": f"TensorFlow did not start within {DEVICES_S:.0f} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return {"tensorflow_error": f"TensorFlow does not start: {last}"}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _version(name: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _free_bytes(folder: Path) -> int | None:
    """Bytes that can be written to a folder's file system; None if there is no such folder."""
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def _size(size: int | None) -> str:
    return "unknown" if size is None else size_text(size)
