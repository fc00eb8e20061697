"""Tests of the choices that depend on the hardware."""

from __future__ import annotations

import pytest

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
