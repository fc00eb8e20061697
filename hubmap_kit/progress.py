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

    A plain line is printed at each tenth, and at least every `LINE_EVERY_S`; it has the rate and the time left.

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
    begin = last = time.monotonic()
    before, shown = done, 10 * done // max(total, 1)
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if done == total or 10 * done // max(total, 1) > shown or now - last >= LINE_EVERY_S:
            shown, last = 10 * done // max(total, 1), now
            print(f"{label}: {_state(done, before, total, now - begin, unit)}", file=sys.stderr, flush=True)


def _state(done: int, before: int, total: int, seconds: float, unit: str) -> str:
    """Such as ``30/60 images, 2.1 images/s, about 14 s left``."""
    unit_s = seconds / (done - before)
    pace = f"{duration(unit_s)} per {unit}" if unit_s > 1 else f"{1 / max(unit_s, 1e-6):.3g} {unit}s/s"
    left = f"about {duration(unit_s * (total - done))} left" if done < total else f"{duration(seconds)} in all"
    return f"{done}/{total} {unit}s, {pace}, {left}"
