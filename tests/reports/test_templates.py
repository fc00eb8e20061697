"""Tests of the templates: charts of any numbers, and a package that is read from a zip file."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

import hubmap_kit
from hubmap_kit.reports.page import _environment

EVIL = "</svg><script>\"'&"


def chart(call, **values):
    """The element of a chart; its text has to be well-formed XML, and no number in it may be NaN or infinite."""
    source = '{% import "charts.html.j2" as charts %}{{ charts.' + call + " }}"
    text = _environment().from_string(source).render(evil=EVIL, **values)
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", text), text
    # The few parts of HTML that XML writes in another way.
    return ElementTree.fromstring(text.replace("open>", "open=''>"))


def tags(element, name):
    return list(element.iter(name))


@pytest.mark.parametrize("values", [[], [0.5], [0.0, 1.0], [None, 0.25], [math.nan, 0.25], [-3.0, 7.0], [0.5] * 60])
def test_a_strip_has_a_dot_for_each_number(values):
    """Each number is a dot that links to its image; a missing one is left out, one beyond the ends lies at the end."""
    dots = [{"key": f"a {n}", "value": value, "text": EVIL, "kind": n} for n, value in enumerate(values)]
    drawn = chart("strip(evil, [{'label': evil, 'dots': dots}], 0.0, 1.0, '%', [evil])", dots=dots)
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    links = tags(drawn, "a")
    assert len(links) == len(numbers)
    for link in links:
        assert (link.get("href") or "").startswith("#image=a%20")
        assert link.find("title").text == EVIL
        x = float(link.find("use").get("x").rstrip("%"))
        assert 2 <= x <= 98
    if len(numbers) > 10:
        assert len({link.find("use").get("y") for link in links}) == 5  # beside each other


@pytest.mark.parametrize(
    "points",
    [[], [(0, 1.0)], [(0, None), (1, 2.0)], [(0, math.nan), (1, 1.0), (2, 3.0)], [(n, 1e7 * n) for n in range(300)]],
)
def test_lines_go_from_end_to_end(points):
    """A line has a point for each number; the smallest lies at the bottom and the largest at the top."""
    drawn = chart(
        "lines(evil, [{'label': evil, 'points': points, 'kind': 7}], evil, evil, [{'x': 1, 'label': evil}])",
        points=points,
    )
    numbers = [y for _, y in points if y is not None and not math.isnan(y)]
    places = [pair.split(",") for line in tags(drawn, "polyline") for pair in line.get("points").split()]
    assert len(places) == len(numbers)
    if len(numbers) > 1:
        heights = [float(y) for _, y in places]
        assert (min(heights), max(heights)) == (0, 1000)
        assert heights[numbers.index(max(numbers))] == 0
    assert len(tags(drawn, "tr")) == (len(numbers) + 1 if numbers else 0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, "0 0.2 0.4 0.6 0.8 1"),
        (0.3, 0.7, "0.3 0.4 0.5 0.6 0.7"),
        (-1, 1, "-1 -0.5 0 0.5 1"),
        (0, 59, "0 20 40"),
        (1e-4, 3e-4, "0.0001 0.00015 0.0002 0.00025 0.0003"),
    ],
)
def test_ticks_are_round(low, high, expected):
    """Ticks are at multiples of 1, 2 or 5 times a power of ten, and at most six."""
    drawn = chart("strip('', [], low, high)", low=low, high=high)
    assert " ".join(text.text.strip() for text in tags(drawn, "text")) == expected


def test_bars_start_at_zero():
    """Bars go to both sides of zero, in proportion."""
    bars = [{"label": EVIL, "value": value, "text": EVIL} for value in (-1.0, 3.0, None, 0)]
    rects = tags(chart("bars(evil, bars, evil)", bars=bars), "rect")
    assert [(rect.get("x"), rect.get("width")) for rect in rects] == [
        ("0.00%", "25.00%"),
        ("25.00%", "75.00%"),
        ("25.00%", "0.00%"),
    ]
    assert not tags(chart("bars(evil, [])"), "rect")


def test_histograms_share_one_scale():
    """A group of few has bars as tall as a group of many with the same shares; empty bins have none."""
    groups = [
        {"label": EVIL, "counts": counts, "edges": [0, 1, 2, 3]} for counts in ([1, 0, 3], [10, 0, 30], [0, 0, 0])
    ]
    heights = [
        float(rect.get("height")) for rect in tags(chart("histogram(evil, groups, evil)", groups=groups), "rect")
    ]
    assert heights == [22.7, 68, 22.7, 68]
    chart("histogram(evil, [])")


def test_heat_and_scatter_and_parts():
    """A cell for each number above 0, a dot for each pair, and text that is never markup."""
    assert len(tags(chart("heat(evil, [[0, 0.5, 1], [0.1, 0, 0]], evil)"), "rect")) == 1 + 3
    chart("heat(evil, [])")
    dots = [
        {"key": "", "x": 1, "y": 2.0, "text": EVIL, "kind": 0},
        {"key": "7", "x": None, "y": 2.0, "text": "", "kind": 0},
    ]
    drawn = chart("scatter(evil, dots, evil, evil)", dots=dots)
    assert not tags(drawn, "a")
    assert len(tags(drawn, "use")) == 1
    chart("scatter(evil, [], evil, evil)")
    assert chart("verdict(evil, 'error')").text == EVIL
    assert chart("picture(evil, evil)").get("data-picture") == EVIL
    assert chart("numbers([{'label': evil, 'value': 3, 'text': ''}])").find("div/dd").text == "3"


def test_templates_are_read_from_a_zip_file(tmp_path):
    """On Kaggle the library may be imported from a wheel; the templates are read from there too."""
    package = Path(hubmap_kit.__file__).parent
    with zipfile.ZipFile(tmp_path / "kit.whl", "w") as archive:
        for path in package.rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                archive.write(path, path.relative_to(package.parent))
    code = (
        "import hubmap_kit.reports.page as page; assert '.whl' in page.__file__, page.__file__; "
        "page._environment().get_template('page.html.j2')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "kit.whl")}
    subprocess.run([sys.executable, "-P", "-c", code], env=environment, cwd=tmp_path, check=True)


@pytest.mark.parametrize(("xs", "expected"), [([1, 2], "1 2"), ([7], "7"), ([0.5, 1.5], "0.6 0.8 1 1.2 1.4")])
def test_epochs_are_whole_numbers(xs, expected):
    """Where all x are whole, no tick lies between."""
    drawn = chart("lines('', [{'label': '', 'points': points, 'kind': 0}], '', '')", points=[(x, 1.0) for x in xs])
    assert " ".join(text.text for text in tags(drawn, "text") if text.get("class") == "tick") == expected
