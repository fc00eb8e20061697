"""Tests of iterators that run ahead of their reader."""

from __future__ import annotations

import pytest

from hubmap_kit.prediction.ahead import run_ahead


def test_ahead_hands_errors_on():
    """An error in the thread is raised where its items are read, after the items before it."""

    def items():
        yield 1
        raise OSError("gone")

    seen = run_ahead(items())
    assert next(seen) == 1
    with pytest.raises(OSError, match="gone"):
        next(seen)
