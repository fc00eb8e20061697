"""Tests of the pages that the commands write, in a browser: no request, no error, no serious fault of accessibility."""

from __future__ import annotations

import pandas as pd
import pytest
from browser_visits import faults

from hubmap_kit.cli import main


def look_at(visit, path, **options):
    """Open a page and its first image, and look for faults in both, at two widths and in both schemes of colours."""
    for width, scheme in ((1280, "light"), (320, "dark")):
        page = visit(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        # Heat maps have thousands of cells, all alike; test_cards.py looks at a small one.
        page.evaluate("document.querySelectorAll('.heat').forEach(e => e.remove())")
        assert not faults(page)
        page.locator(".open").first.click()
        for key in "mxae+tn":
            page.keyboard.press(key)
        assert not faults(page, ".viewer")
    return page


def test_inspect(visit, demo, tmp_path):
    """The page about a competition folder."""
    assert main(["inspect", str(demo), "--out", str(tmp_path / "data.html"), "-q"]) == 0
    look_at(visit, tmp_path / "data.html")


def test_review(visit, demo, tmp_path):
    """The page about a submission, compared with another one and with the truth."""
    truth = demo / "test_truth.csv"
    rows = pd.read_csv(truth, usecols=["id", "rle"], keep_default_na=False)
    rows.to_csv(tmp_path / "a.csv", index=False)
    rows.assign(rle=["", *rows["rle"][1:]]).to_csv(tmp_path / "b.csv", index=False)
    out = tmp_path / "review.html"
    against = ["--against", str(tmp_path / "a.csv"), "--truth", str(truth)]
    assert main(["review", str(tmp_path / "b.csv"), "--data", str(demo), *against, "--out", str(out), "-q"]) == 0
    page = look_at(visit, out)
    assert page.locator(".outlines-of button").count() == 3


@pytest.mark.slow
def test_report(visit, trained, tmp_path):
    """The page about a run."""
    assert main(["report", str(trained), "--out", str(tmp_path / "report.html"), "-q"]) == 0
    look_at(visit, tmp_path / "report.html")
