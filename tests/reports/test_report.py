"""Tests of the report page."""

from __future__ import annotations

import re

import pytest
from builders import write_run

from hubmap_kit.reports.report import write_report


@pytest.fixture
def run(tmp_path):
    """A finished run's plain files, with a name that must be escaped."""
    folder = tmp_path / "a<b>"
    write_run(folder, created="2026-01-01", recipe="fast", epochs=2)
    (folder / "history.csv").write_text(
        "epoch,train_loss,validation_loss,validation_dice,validation_dice_lung\n1,1.5,,,\n2,1.0,1.2,0.4,0.4\n"
    )
    (folder / "results.csv").write_text("split,images,loss,dice,lung\ntrain,2,1.0,0.5432,0.5432\n")
    (folder / "scores.csv").write_text("split,id,organ,dice,loss\nvalidation,77,lung,0.4,1.2\ntrain,78,lung,0.1,1.2\n")
    return folder


def test_page_shows_the_run_and_needs_nothing_else(run, tmp_path):
    """The page holds results, curves and the worst held-out images, and refers to no other file or host."""
    write_report([run, run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0.5432" in page
    assert page.count("data:image/png;base64,") == 2
    assert "<td>77</td>" in page
    assert "<td>78</td>" not in page
    assert "a&lt;b&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_page_of_an_unfinished_run(run, tmp_path):
    """A run that has weights but no results yet has its page too."""
    for name in ("results.csv", "scores.csv", "history.csv"):
        (run / name).unlink()
    write_report([run], tmp_path / "report.html")
    assert "a&lt;b&gt;" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [("history.csv", b""), ("scores.csv", b"a\n1\n"), ("results.csv", b"\xff"), ("history.csv", b"a\n")],
)
def test_damaged_tables(run, tmp_path, name, content):
    """A table of a run folder that is damaged is named with the remedy."""
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged .*; restore it from a copy, or remove it") as caught:
        write_report([run], tmp_path / "report.html")
    assert str(run / name) in str(caught.value)
