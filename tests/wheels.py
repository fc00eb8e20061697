"""A wheel to install in tests."""

from __future__ import annotations

import zipfile
from pathlib import Path


def write_wheel(folder: Path) -> Path:
    """Write the wheel of the empty module ``thing_for_test``; returns its path."""
    wheel = folder / "thing_for_test-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing_for_test.py", "")
        about = "thing_for_test-1.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: thing-for-test\nVersion: 1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel
