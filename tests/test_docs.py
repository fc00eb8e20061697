"""Tests of the pages: they build, links lead somewhere, flags exist, every file is on the map."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from hubmap_kit.commands import full_parser
from hubmap_kit.kaggle.verdict import Verdict
from hubmap_kit.masks import MaskRule
from hubmap_kit.models.network_config import NetworkConfig
from hubmap_kit.preparation.store import StoreInfo, Written
from hubmap_kit.run import FoldsConfig, RunConfig
from hubmap_kit.submission import Timing
from hubmap_kit.tables import Problem

CLONE = Path(__file__).parents[1]
PAGES = [*CLONE.glob("*.md"), *CLONE.glob("docs/*.md")]
ARCHITECTURE = CLONE / "docs" / "architecture.md"
FILES = CLONE / "docs" / "files.md"
# Flags of pip, of Dask, and of sessions of nox that run programs of their own.
OF_OTHERS = {
    "--dashboard-address",
    "--editable",
    "--host",
    "--kills",
    "--nthreads",
    "--only",
    "--pip",
    "--port",
    "--python",
    "--quick",
    "--seconds",
    "--without-pip",
}
LONG = 4  # a page with this many sections has a list of them


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """A link to a file or a heading of this repository leads to one that exists."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """The flags of a parser and of all its commands."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(flags, action.choices.values()))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_flags_exist(page):
    """A flag that a page names is one of the command line's."""
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
    assert not named - flags(full_parser()) - OF_OTHERS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sessions_exist(page):
    """A nox session that a page names is one of the noxfile's."""
    defined = set(re.findall(r"^def (\w+)\(session", (CLONE / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"nox -s ([a-z]+)", page.read_text(encoding="utf-8"))) <= defined


@pytest.mark.parametrize("page", [*CLONE.glob("docs/*.md")], ids=lambda page: page.name)
def test_long_pages_list_their_sections(page):
    """A page of four sections or more begins with a link to each."""
    text = page.read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if len(sections) >= LONG:
        first = " ".join(text.partition("\n## ")[0].split())
        assert [section for section in sections if f"[{section}](#" not in first] == []


def test_readme_is_short():
    """README has at most 1,500 words, and a picture before its first section."""
    text = (CLONE / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 1500
    assert "<picture>" in text.partition("\n## ")[0]


def test_pictures_are_there_and_small():
    """Each picture that a page shows exists and has at most 300 kB."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r'(?:src|srcset)="([^"]+)"', text):
            assert (page.parent / name).stat().st_size <= 300_000, name


def test_the_documentation_builds(tmp_path):
    """Sphinx builds every page without a warning: each link leads somewhere, and each page is in the contents."""
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "doctrees"]
    done = subprocess.run(
        [*build, CLONE / "docs", tmp_path / "html"], capture_output=True, text=True, timeout=120, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "html" / "command-line.html").read_text(encoding="utf-8")
    assert "--encoder-weights" in commands  # the parser's flags are there
    settings = (tmp_path / "html" / "kernel-settings.html").read_text(encoding="utf-8")
    assert "TIME_LIMIT" in settings


def test_every_file_is_on_the_map():
    """The page about the architecture describes each folder and each file of the package."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    package = CLONE / "hubmap_kit"
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if path.name == "__init__.py":
            name = name.removesuffix("__init__.py") or "__init__.py"
        assert f"`{name}`" in text, f"docs/architecture.md does not describe {name}"
    for name in re.findall(r"^\| (?:\*\*)?`([\w/]+(?:\.py|/))`", text, re.MULTILINE):
        assert (package / name).exists(), f"docs/architecture.md describes {name}, which does not exist"


@pytest.mark.parametrize(
    "kind", [StoreInfo, Written, RunConfig, NetworkConfig, MaskRule, FoldsConfig, Problem, Timing, Verdict]
)
def test_every_field_is_described(kind):
    """The page about files names each field of the files that one stage writes and another reads."""
    text = FILES.read_text(encoding="utf-8")
    written = {"rule": "thresholds"}  # the fields of the `MaskRule` are fields of config.json and folds.json
    missing = [field.name for field in fields(kind) if f"`{written.get(field.name, field.name)}`" not in text]
    assert not missing
