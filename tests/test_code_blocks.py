"""The code blocks of README and of the pages in ``docs/``: each is run, or says why it is not.

A comment on the line before a block says how it is treated:

``<!-- slow -->``             run, with the other blocks of its page, by a slow test
``<!-- run by tests/x.py -->``  another test runs it
``<!-- run in docs/x.md -->``   its lines are lines of blocks of that page that are run
``<!-- not run: REASON -->``    nothing runs it

A block without one is run by a quick test. The blocks of a page are run in order, in one new folder.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from hubmap_kit.commands import full_parser

CLONE = Path(__file__).parents[1]
PAGES = [CLONE / "README.md", CLONE / "CONTRIBUTING.md", *sorted(CLONE.glob("docs/*.md"))]
MARK = re.compile(r"<!-- (slow|run (?:by|in) \S+|not run: [^\n]+) -->\s*\Z")
FENCE = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
RUN = ("python", "sh")  # languages of blocks that can be run
LANGUAGES = (*RUN, "diff", "text")
LIMIT_S = 600  # of one shell block


def find_blocks(document: Document) -> Iterable[Region]:
    """The fenced blocks of a page, apart from Sphinx's directives, as Sybil's regions."""
    for region in RawFencedCodeBlockLexer(re.compile(r"(?P<language>[^\n]*)\n"))(document):
        if region.lexemes["language"].startswith("{"):
            continue
        mark = MARK.search(document.text[: region.start])
        region.lexemes["mark"] = mark.group(1) if mark else ""
        region.parsed = region.lexemes["source"]
        region.evaluator = PythonEvaluator() if region.lexemes["language"] == "python" else run_shell
        yield region


def run_shell(example: Example) -> None:
    """Run a shell block in the current folder; it fails as soon as one of its commands does."""
    done = subprocess.run(
        ["sh", "-eu", "-c", example.parsed], capture_output=True, text=True, timeout=LIMIT_S, encoding="utf-8"
    )
    assert done.returncode == 0, f"{example.path}, line {example.line}:\n{done.stdout}{done.stderr}"


def blocks(page: Path) -> list[Example]:
    """The blocks of a page, in order."""
    return list(Sybil([find_blocks], path=str(CLONE)).parse(page).examples())


def mark(block: Example) -> str:
    """The comment before a block; "" if there is none."""
    return str(block.region.lexemes["mark"])


def is_run(block: Example) -> bool:
    """Whether a test of this module runs a block."""
    return mark(block) in ("", "slow") and block.region.lexemes["language"] in RUN


def pages_with(*marks: str) -> list[Path]:
    """The pages that have a block with one of these marks."""
    return [page for page in PAGES if any(mark(block) in marks for block in blocks(page))]


def commands(block: Example) -> list[list[str]]:
    """The commands of a shell block that call ``hubmap-kit``, as arguments."""
    text = re.sub(r"\$\w+", "0", block.parsed.replace("\\\n", " "))
    lines = [shlex.split(line, comments=True) for line in re.findall(r"^ *hubmap-kit ([^\n]+)", text, re.MULTILINE)]
    return [line[: line.index("|")] if "|" in line else line for line in lines]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A new current folder, in which the command ``hubmap-kit`` is the package that is tested."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "hubmap-kit"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m hubmap_kit "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_block_is_run_or_says_why_not(page):
    """Each block has a language, and is one that a test runs or one that says why not."""
    text = page.read_text(encoding="utf-8")
    found = blocks(page)
    directives = len(re.findall(r"^ *```\{", text, re.MULTILINE))
    assert len(FENCE.findall(text)) == 2 * (len(found) + directives), "a block is not found, or is not closed"
    for block in found:
        where, language = f"{page.name}, line {block.line}", block.region.lexemes["language"]
        assert language in LANGUAGES, f"{where}: name the block's language, one of {', '.join(LANGUAGES)}"
        if mark(block) in ("", "slow"):
            assert language in RUN, f"{where}: say above it: <!-- not run: REASON -->"
        if mark(block).startswith("run by"):
            assert (CLONE / mark(block).removeprefix("run by ")).is_file(), f"{where}: there is no such test"
        if mark(block).startswith("run in"):
            others = [block for block in blocks(CLONE / mark(block).removeprefix("run in ")) if is_run(block)]
            lines = {line for other in others for line in other.parsed.splitlines()}
            assert set(block.parsed.splitlines()) <= lines, f"{where}: that page does not run the same lines"


def test_blocks_are_found():
    """Blocks of each kind are found: run quickly, run slowly, run by another test or on another page, not run."""
    marks = [mark(block) for page in PAGES for block in blocks(page)]
    for kind in ("slow", "run by ", "run in ", "not run: "):
        assert any(text.startswith(kind) for text in marks), kind
    assert "" in marks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_not_run_are_understood(page):
    """The command line accepts each command of a block that is not run."""
    for block in blocks(page):
        for arguments in () if is_run(block) else commands(block):
            full_parser().parse_args(arguments)  # else it exits


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_blocks_use_one_environment(page):
    """Nothing is installed outside of the clone's .venv: systems such as Debian refuse that."""
    installs = [line for block in blocks(page) for line in block.parsed.splitlines() if " install " in line]
    assert [line for line in installs if "pip --python .venv install" not in line] == []
    programs = [line.strip() for block in blocks(page) for line in block.parsed.splitlines() if "nox -" in line]
    assert [line for line in programs if ".venv/bin/nox -" not in line] == []


@pytest.mark.skipif(not shutil.which("sh"), reason="there is no sh")
@pytest.mark.parametrize("page", pages_with(""), ids=lambda page: page.name)
def test_quick_blocks_run(page, place):
    """The blocks of a page without a mark run, in order, without an error."""
    for block in blocks(page):
        if is_run(block) and mark(block) == "":
            block.evaluate()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("sh"), reason="there is no sh")
@pytest.mark.parametrize("page", pages_with("slow"), ids=lambda page: page.name)
def test_all_blocks_run(page, place):
    """All blocks of a page that are run, slow ones too, run in order without an error."""
    for block in blocks(page):
        if is_run(block):
            block.evaluate()
