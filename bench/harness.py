"""One way to measure: the kit's call and its peers' take turns in one process; each turn gives a ratio."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# A row's value in one round, from our figure and the peer's in that round and the number of items.
MEASURES: dict[str, Callable[[float, float, int], float]] = {
    "faster": lambda ours, peer, items: peer / ours,
    "share": lambda ours, peer, items: ours / peer,
    "above": lambda ours, peer, items: ours - peer,
    "total": lambda ours, peer, items: ours,
    "rate": lambda ours, peer, items: items / ours,
}
AT_LEAST = {"faster", "rate"}
Call = Callable[[], Any]  # a call to measure; only some cases use its result


@dataclass(frozen=True)
class Setting:
    """The arguments of a case.

    Attributes:
        folder: An empty folder for the case's files, deleted after the case.
        quick: Small inputs, to see that it runs.
        out: Folder of the results.
    """

    folder: Path
    quick: bool
    out: Path


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        work: What is done.
        ours: Name of our call.
        peer: Name of the call that it is compared with; "" for none.
        measure: One of `MEASURES`: ``faster`` peer's time / ours, ``share`` ours / peer's, ``above`` ours - peer's,
            ``total`` ours, ``rate`` items / our time.
        aim: The value aimed at; None for no aim.
        unit: Unit of a value that is no ratio; ``%`` multiplies a share by 100.
    """

    work: str
    ours: str
    peer: str
    measure: str = "faster"
    aim: float | None = None
    unit: str = ""

    @property
    def value_unit(self) -> str:
        """The unit to print after the value; for a ratio, its direction."""
        return self.unit or {"faster": "× as fast", "share": "× the time"}[self.measure]


@dataclass(frozen=True)
class Turn:
    """One call in one round.

    Attributes:
        call: Its name.
        round: Counted from 1.
        figure: What was measured.
        cpu_seconds: CPU time of all threads of this process during the call. On a shared machine it is steadier than
            the wall time.
    """

    call: str
    round: int
    figure: float
    cpu_seconds: float


@dataclass
class Case:
    """Calls that do the same work, and the rows made of them.

    Attributes:
        calls: The calls by name, in the order of their turns. A peer that is not installed has no call.
        rows: Rows of the table.
        items: Number of items that one call processes; figures are shown per item.
        item: Name of an item.
        check: Asserts, before anything is timed, that the calls give the same result.
        measure: Runs a call and returns its figure: by default its wall time in seconds.
        unit: Unit of the figures.
        rounds: Number of rounds, instead of the command's, for figures without noise.
        needs: The library without which there is no call at all.
        after: Called with all turns at the end.
    """

    calls: dict[str, Call]
    rows: list[Row]
    items: int = 1
    item: str = ""
    check: Callable[[], None] = lambda: None
    measure: Callable[[Call], float] = field(default=lambda call: seconds(call))
    unit: str = "s"
    rounds: int | None = None
    needs: str = ""
    after: Callable[[list[Turn]], None] = lambda turns: None


@dataclass(frozen=True)
class Result:
    """A row with its figures.

    Attributes:
        row: What is compared.
        ours: Median of our figure, as text.
        theirs: Median of the peer's figure, as text.
        values: The row's value in every round; none if it was skipped.
        missing: Name of the missing library for which it was skipped.
    """

    row: Row
    ours: str
    theirs: str
    values: tuple[float, ...]
    missing: str = ""

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """First quartile, median and third quartile of the rounds' values."""
        low, median, high = np.quantile(self.values, (0.25, 0.5, 0.75))
        return float(low), float(median), float(high)

    @property
    def verdict(self) -> str:
        """``met``, ``missed by`` so much, ``skipped``, or nothing if there is no aim."""
        if not self.values:
            return f"skipped: {self.missing} is not installed"
        if self.row.aim is None:
            return ""
        gap = self.quartiles[1] - self.row.aim
        met = gap >= 0 if self.row.measure in AT_LEAST else gap <= 0
        return "met" if met else f"missed by {number(abs(gap))} {self.row.unit or '×'}"

    def cells(self) -> tuple[str, ...]:
        """Texts of the row, in the order of `HEADER`."""
        row = self.row
        aim = (
            "" if row.aim is None else f"{'≥' if row.measure in AT_LEAST else '≤'} {number(row.aim)} {row.unit or '×'}"
        )
        if not self.values:
            return (row.work, self.ours, row.peer, "", "", "", aim, self.verdict)
        low, median, high = map(number, self.quartiles)
        value = f"{median} {row.value_unit}"
        return (row.work, self.ours, row.peer, self.theirs, value, f"{low}–{high}", aim, self.verdict)


HEADER = ("work", "ours", "peer", "peer's", "value", "quartiles", "aim", "result")


def peer(name: str) -> ModuleType | None:
    """A peer's module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def seconds(call: Call) -> float:
    """Wall time of a call, without the garbage collector's."""
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    finally:
        gc.enable()


def take_turns(case: Case, rounds: int) -> list[Turn]:
    """Check a case, run each call once untimed, then measure them in turn.

    Args:
        case: The calls.
        rounds: Number of turns of each call.

    Returns:
        All turns, in their order.
    """
    case.check()
    for call in case.calls.values():
        call()
    turns = []
    for turn in range(1, (case.rounds or rounds) + 1):
        for name, call in case.calls.items():
            cpu = time.process_time()
            measured = case.measure(call)
            turns.append(Turn(name, turn, measured, time.process_time() - cpu))
    return turns


def judge(case: Case, turns: list[Turn]) -> list[Result]:
    """Make the rows of a case: the value of each round, and medians of the figures for one item."""
    figures: dict[str, list[float]] = {}
    for turn in turns:
        figures.setdefault(turn.call, []).append(turn.figure)

    def shown(name: str) -> str:
        return figure(float(np.median(figures[name])) / case.items, case.unit, case.item)

    results = []
    for row in case.rows:
        if row.ours not in figures or (row.peer and row.peer not in figures):
            missing = case.needs or row.peer.split(",")[0]
            results.append(Result(row, shown(row.ours) if row.ours in figures else "", "", (), missing))
            continue
        ours, theirs = figures[row.ours], figures[row.peer or row.ours]
        scale = 100 if row.unit == "%" else 1
        values = [scale * MEASURES[row.measure](a, b, case.items) for a, b in zip(ours, theirs, strict=True)]
        results.append(Result(row, shown(row.ours), shown(row.peer) if row.peer else "", tuple(values)))
    return results


def figure(value: float, unit: str, item: str) -> str:
    """A figure for people: small times are in ms or µs."""
    for smaller in ("ms", "µs"):
        if unit in ("s", "ms") and value < 0.5:
            value, unit = value * 1e3, smaller
    return f"{number(value)} {unit}" + (f" / {item}" if item else "")


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def text_table(rows: list[tuple[str, ...]]) -> str:
    """Rows as text in columns, the first one underlined."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def markdown_table(rows: list[tuple[str, ...]]) -> str:
    """Rows as a Markdown table, the first one its header."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
