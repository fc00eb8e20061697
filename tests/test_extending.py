"""The diffs in docs/extending.md are whole changes of the package as it is."""

from __future__ import annotations

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
    """The page has a diff for each of its six extension points; only a command is a new file as well."""
    assert len(DIFFS) == 6
    assert [diff.count("\n+++ ") for _, diff in DIFFS] == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("command", HELP)
def test_help_lists_what_was_added(extended, command):
    """With the page's diffs applied, --help lists the new names."""
    run = [sys.executable, "-m", "hubmap_kit", command, "--help"]
    text = subprocess.run(run, cwd=extended, check=True, capture_output=True, text=True, timeout=60).stdout
    for name in HELP[command]:
        assert name in text
