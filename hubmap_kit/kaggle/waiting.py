"""Waiting until Kaggle has finished something, and making something exactly once although an answer may be lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TypeVar

from .failures import RERUN, AnswerLost, KaggleError, Unreachable

T = TypeVar("T")

LOOKS = 4  # how often `once` looks for what may have been made


def until(
    what: str,
    look: Callable[[], str],
    ended: Collection[str],
    *,
    pause_s: float,
    patience_s: float,
    repeat_s: float = 600.0,
) -> str:
    """Ask for a status until it is one that ends the waiting. A lost connection does not end it.

    The status is printed when it changes.

    Args:
        what: What is waited for, in the text that is printed.
        look: Asks for the status.
        ended: The statuses that end the waiting.
        pause_s: Time between two questions.
        patience_s: Time after which waiting is given up.
        repeat_s: Time after which an unchanged status is printed again.

    Returns:
        The status that ended the waiting.

    Raises:
        KaggleError: `patience_s` is over.
    """
    begin = printed_at = time.monotonic()
    printed = ""
    while True:
        try:
            status = look()
        except Unreachable as error:
            status = f"not known, since {error}"
        now = time.monotonic()
        if status != printed or now - printed_at > repeat_s:
            print(f"{what} is {status}, {(now - begin) / 60:.0f} min", flush=True)
            printed, printed_at = status, now
        if status in ended:
            return status
        if now - begin > patience_s:
            raise KaggleError(f"{what} is still {status} after {(now - begin) / 3600:.0f} h; {RERUN}")
        time.sleep(pause_s)


def once(
    make: Callable[[], T],
    is_made: Callable[[], bool],
    forget: Callable[[], None],
    *,
    pause_s: float,
    attempts: int = 3,
) -> T | None:
    """Make something once. If the answer is lost, look whether it was made before trying again.

    Args:
        make: Makes it.
        is_made: Whether it is there.
        forget: Deletes the note that it was begun. Called if Kaggle refuses, because then it was certainly not made.
        pause_s: Time before each look.
        attempts: The most attempts.

    Returns:
        What `make` returned; None if it was made but the answer was lost.

    Raises:
        AnswerLost: The answer to the last attempt was lost, and nothing was found.
        KaggleError: Kaggle refuses.
    """
    for left in reversed(range(attempts)):
        try:
            return make()
        except AnswerLost:
            for _ in range(LOOKS):
                time.sleep(pause_s)
                if is_made():
                    return None
            if not left:
                raise
        except KaggleError:
            forget()
            raise
    raise AssertionError("the last attempt returns or raises")
