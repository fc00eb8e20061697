"""Work ahead of a reader: an iterator in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

DEPTH = 2  # items that may wait for their reader
_END = object()


def run_ahead(items: Iterator[T], depth: int = DEPTH) -> Generator[T, None, None]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of its reader.

    An exception of the iterator is raised where its items are read, after the items before it. Closing the generator
    ends the thread and closes the iterator.

    >>> list(run_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    waiting: queue.Queue[Any] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    break
            put(_END)
        except BaseException as error:
            put(error)
        finally:
            close = getattr(items, "close", None)
            if close:
                close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
