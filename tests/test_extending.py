"""The diffs in docs/extending.md are whole changes of the package as it is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hubmap_kit

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
DIFFS = re.findall(r"## ([^\n]+)\n(?:(?!\n## ).)*?```diff\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
HELP = {"train": ("densenet121", "jaccard", "sharpen"), "push": ("pages",), "count": ("hubmap-kit count data",)}


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A folder with a copy of the package to which the page's diffs are applied."""
    if not shutil.which("git"):
        pytest.skip("git applies the diffs")
    folder = tmp_path_factory.mktemp("extended")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(hubmap_kit.__file__).parent, folder / "hubmap_kit", ignore=ignore)
    for name, diff in DIFFS:
        done = subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=folder, capture_output=True, timeout=60)
        assert done.returncode == 0, f"{PAGE.name}, {name}: make its diff again, with git diff -U1: {done.stderr}"
    return folder


def test_each_extension_point_is_shown():
    """The page has a diff for each of its six extension points; a step of push and a command change two files."""
    assert len(DIFFS) == 6
    assert [diff.count("\n+++ ") for _, diff in DIFFS] == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("command", HELP)
def test_help_lists_what_was_added(extended, command):
    """With the page's diffs applied, --help lists the new names."""
    run = [sys.executable, "-m", "hubmap_kit", command, "--help"]
    text = subprocess.run(run, cwd=extended, check=True, capture_output=True, text=True, timeout=60).stdout
    for name in HELP[command]:
        assert name in text


def test_the_new_step_of_push_is_pushed(extended, tmp_path):
    """With the page's diffs applied, push checks and pushes the new dataset."""
    for folder in ("datasets/hubmap-pages", "dist/hubmap-pages"):
        (tmp_path / folder).mkdir(parents=True)
        metadata = json.loads((PAGE.parents[1] / "datasets/hubmap-kit/dataset-metadata.json").read_text("utf-8"))
        text = json.dumps(metadata | {"id": "OWNER/hubmap-pages", "title": "hubmap pages"})
        (tmp_path / folder / "dataset-metadata.json").write_text(text, encoding="utf-8")
    (tmp_path / "dist/hubmap-pages/index.html").write_text("<title>pages</title>", encoding="utf-8")
    code = """
import sys
from pathlib import Path
from hubmap_kit.kaggle.connection import Connection
from hubmap_kit.kaggle.push import Push

push = Push(Connection(None, "somebody", dry_run=True), Path(sys.argv[1]), None)
push.check(["hubmap-pages"])
push.run(["pages"])
"""
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, cwd=extended, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "hubmap-pages: version 1, a private dataset of somebody" in done.stdout
