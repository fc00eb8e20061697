"""Writes the tables of docs/robustness.md: ``nox -s faults -- [--kills [COMMAND ...]]``.

Runs the catalogue of bad input and faults, with ``--kills`` the kills too, and puts what came of each into the page.
What takes longer is recorded in ``docs/robustness.json``: kills here, and what ``nox -s fuzz`` left in ``dist/fuzz``.
"""

from __future__ import annotations

import argparse
import collections
import importlib.metadata
import json
import platform
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catalogue
import kills

PAGE, RECORD = Path("docs/robustness.md"), Path("docs/robustness.json")
FUZZED = Path("dist/fuzz/result.json")
BEGIN, END = "<!-- written by nox -s faults -->", "<!-- end -->"
VERSIONS = ("tensorflow", "keras", "numpy", "pandas", "opencv-python-headless", "tifffile", "imagecodecs", "pillow")


def main() -> None:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = (*kills.COMMANDS, "rehearse")
    parser.add_argument("--kills", nargs="*", metavar="COMMAND", help="kill these commands too, or all; takes minutes")
    options = parser.parse_args()
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (made := place / "made").mkdir()
        catalogue.make(made)
        answers = list(answered(made, place))
        if options.kills is not None:
            kills.add_run(made)
            kills.add_library(made)
        for name in options.kills or (every if options.kills is not None else ()):
            record.setdefault("kills", {})[name] = killed(name, made, place)
            RECORD.write_text(json.dumps(record, indent=2) + "\n")  # at once, as one that fails later ends this
    if FUZZED.exists():
        record["fuzzing"] = json.loads(FUZZED.read_text())
    record["python"] = platform.python_version()
    record["versions"] = {each: importlib.metadata.version(each) for each in VERSIONS}
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    head, rest = PAGE.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(head + "\n".join([BEGIN, "", *page(answers, record), "", END]) + tail)


Answer = tuple[str, str, str, int, str]  # kind, what is wrong, command, exit status, first error


def answered(made: Path, place: Path) -> Iterator[Answer]:
    """Run every case."""
    for number, case in enumerate(catalogue.CASES):
        folder = place / f"case{number}"
        status, said = catalogue.outcome(case, made, folder)
        assert (status, case.said in said) == (case.status, True), (case, status, said)
        yield case.kind, case.what, case.command, status, without(folder, said)
    for number, (what, shell, command, expected, part) in enumerate(catalogue.INJECTED):
        folder = place / f"fault{number}"
        status, said = catalogue.injected(shell, command, made, folder)
        assert (status, part in said) == (expected, True), (what, status, said)
        yield "faults around a command", what, command, status, without(folder, said)


def without(folder: Path, said: str) -> str:
    """A message without the folder in which the command ran."""
    return said.replace(f"{folder}/", "").replace(str(folder), ".")


def killed(name: str, made: Path, place: Path) -> int:
    """Kill a command, and compare: the number of kills that met it."""
    (folder := place / name).mkdir()
    if name == "rehearse":
        return kills.kill_rehearsals(made, folder, seed=18)
    return kills.kill_and_compare(name, made, folder, seed=18)


def page(answers: list[Answer], record: dict[str, Any]) -> Iterator[str]:
    """The lines of both tables."""
    yield from ("| tried | how much | what came of it |", "|---|---|---|")
    kinds = collections.Counter(kind for kind, *_ in answers)
    for kind, number in kinds.items():
        states = collections.Counter(status for each, _, _, status, _ in answers if each == kind)
        came = {0: "done", 1: "refused by one error", 2: "named as wrong usage", 130: "stopped, with nothing written"}
        label = kind if "fault" in kind else f"bad input: {kind}"
        yield f"| {label} | {number} | {', '.join(f'{n} {came[status]}' for status, n in sorted(states.items()))} |"
    for name, met in record.get("kills", {}).items():
        same = "run again, the files are those of an undisturbed run"
        ended = "nothing that it started goes on, and the next one begins"
        yield f"| kills of `{name}` | {met} | {ended if name == 'rehearse' else same} |"
    for target in record.get("fuzzing", {}).get("targets", []):
        what = f"{target['executions']:,} executions in {target['seconds']} s"
        yield f"| fuzzing: {target['target']} | {what} | {target['findings']} findings left |"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield f"| versions | Python {record['python']} | {versions} |"
    yield from ("", "## The catalogue", "", "| | what is wrong | command | status | says |", "|---|---|---|---|---|")
    for kind, what, command, status, said in answers:
        shown = said.replace("|", "\\|").replace("<", "&lt;")
        yield f"| {kind} | {what} | `{command}` | {status} | {textwrap.shorten(shown, 200, placeholder=' …')} |"


if __name__ == "__main__":
    main()
