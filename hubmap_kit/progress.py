"""What a command says while it works: messages and progress, on stderr unless it is quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from .words import duration

if TYPE_CHECKING:
    from typing import TextIO

T = TypeVar("T")

LINE_EVERY_S = 30.0  # between two plain lines of a slow step
LEAST_BETWEEN_S = 1.0  # of a fast step
_quiet = False


@contextlib.contextmanager
def messages(*, quiet: bool = False) -> Iterator[None]:
    """Send what is printed meanwhile to stderr, for it is not the result; or nowhere if `quiet`, progress too."""
    global _quiet
    before, _quiet = _quiet, quiet
    with contextlib.ExitStack() as stack:
        target: TextIO = stack.enter_context(open(os.devnull, "w", encoding="utf-8")) if quiet else sys.stderr
        stack.enter_context(contextlib.redirect_stdout(target))
        try:
            yield
        finally:
            _quiet = before


def track(
    items: Iterable[T], total: int, label: str, *, unit: str = "image", lines: bool = True, done: int = 0
) -> Iterator[T]:
    """Yield `items`, showing on stderr how many of `total` are done: a bar on a terminal, plain lines elsewhere.

    A plain line is printed at each tenth, but not more often than every `LEAST_BETWEEN_S`, and at least every
    `LINE_EVERY_S`. It has the rate and the time left, from the second item on: the first waits for what is loaded.

    Args:
        items: The items.
        total: Number of items, those that were done before among them.
        label: Name of the step.
        unit: Name of an item.
        lines: False if the step prints lines of its own. Then there is only the bar, which goes away at its end.
        done: How many were done before, and are not among `items`.
    """
    if _quiet:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, initial=done, desc=label, unit=unit, leave=lines)
        return
    if not lines:
        yield from items
        return
    begin = last = first = time.monotonic()
    before, shown = done, 10 * done // max(total, 1)
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if done == before + 1:
            first = now
        tenth = 10 * done // max(total, 1)
        if done == total or (tenth > shown and now - last >= LEAST_BETWEEN_S) or now - last >= LINE_EVERY_S:
            shown, last = tenth, now
            unit_s = (now - first) / max(done - before - 1, 1)
            state = _state(unit_s, total - done, now - begin, unit)
            print(f"{label}: {done}/{total} {unit}s{state}", file=sys.stderr, flush=True)


def _state(unit_s: float, left: int, seconds: float, unit: str) -> str:
    """Such as ``, 2.1 images/s, about 14 s left``."""
    if not left:
        return f", {duration(seconds)}"
    if not unit_s:
        return f", {duration(seconds)} so far"
    pace = f"{duration(unit_s)} per {unit}" if unit_s > 1 else f"{1 / unit_s:.1f} {unit}s/s"
    return f", {pace}, about {duration(max(1.0, unit_s * left))} left"
