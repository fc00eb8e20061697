"""Tests of the benchmarks: the computation of their values, and the parts that need no peer."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import corner_mask

from hubmap_kit import rle

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _clone_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_calls_take_turns_and_the_median_of_their_ratios_is_judged():
    """Each round times every call once, in order; a row's value is the median of the rounds' ratios."""
    from bench.harness import Case, Row, judge, take_turns

    order: list[str] = []

    def call(name: str) -> str:
        order.append(name)
        return name

    figures = {"ours": iter([1.0, 2.0, 4.0]), "peer": iter([10.0, 10.0, 10.0])}
    case = Case(
        {name: partial(call, name) for name in figures},
        [Row("work", "ours", "peer", aim=4), Row("work", "ours", "peer", "share", 0.1), Row("work", "ours", "gone, x")],
        items=2,
        item="mask",
        measure=lambda call: next(figures[call()]),
    )
    faster, share, skipped = judge(case, take_turns(case, 3))
    assert order == ["ours", "peer"] * 4
    assert faster.values == (10, 5, 2.5)
    assert faster.verdict == "met"
    assert (faster.ours, faster.theirs) == ("1 s / mask", "5 s / mask")
    assert share.verdict == "missed by 0.1 ×"
    assert skipped.verdict == "skipped: gone is not installed"


def test_notebook_idioms_give_the_kits_masks(rng):
    """The idioms that the kit is compared with do the same work."""
    from bench.codec import notebook_decode, notebook_encode, shifted

    mask = corner_mask((13, 29), rng)
    text = rle.encode(mask)
    assert notebook_encode(mask) == text
    assert np.array_equal(notebook_decode(text, mask.shape), mask)
    moved = np.concatenate((np.zeros(3, np.uint8), mask.T.ravel()[:-3])).reshape(29, 13).T
    assert np.array_equal(rle.decode(shifted(text, mask.shape, 3), mask.shape), moved)


@pytest.mark.slow
def test_quick_pieces_run_without_peers(tmp_path):
    """``--quick`` makes a table of drawn data, names the peers that are missing, and ends with status 0."""
    environment = {key: value for key, value in os.environ.items() if key != "HUBMAP_DATA"}
    command = [sys.executable, "-m", "bench", "--quick", "--only", "decode", "tiff", "memory", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"decode 4 drawn masks", "read 700², LZW"} <= {row["work"] for row in rows}
    assert all(row["value"] or row["result"].startswith("skipped: ") for row in rows)
    assert (tmp_path / "table.md").read_text(encoding="utf-8").startswith("| work | ours |")
    assert (tmp_path / "size.png").stat().st_size > 5000
