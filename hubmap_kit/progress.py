"""Progress of a long step: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(items: Iterable[T], total: int, label: str, *, unit: str = "image", lines: bool = True) -> Iterator[T]:
    """Yield `items`, showing on stderr how many of `total` are done.

    Args:
        items: The items.
        total: Number of items.
        label: Name of the step.
        unit: Name of an item.
        lines: False if the step prints lines of its own. Then there is only the bar, which goes away at its end.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=unit, leave=lines)
        return
    if not lines:
        yield from items
        return
    begin, shown = time.monotonic(), 0
    for done, item in enumerate(items, start=1):
        yield item
        if total and (done * 10 // total > shown or done == total):
            shown = done * 10 // total
            print(f"{label}: {done}/{total}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
