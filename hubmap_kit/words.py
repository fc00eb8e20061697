"""Counts, shares, times, lists and suggestions, as messages say them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "image"), count(1200, "image"), count(0, "patch"), count(2, "entry")
    ('1 image', '1200 images', '0 patches', '2 entries')
    >>> count(3, "epoch")
    '3 epochs'
    """
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}{'es' if noun.endswith(('tch', 's')) else 's'}"


def duration(seconds: float) -> str:
    """A time for people.

    >>> [duration(seconds) for seconds in (0.04, 8.04, 75, 600, 9000)]
    ['0.1 s', '8 s', '75 s', '10 min', '2.5 h']
    """
    if seconds < 9.95:
        return f"{max(seconds, 0.1):.1f}".removesuffix(".0") + " s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """A share for people.

    >>> percent(0.1234), percent(0.01234), percent(0.0001234), percent(0.0)
    ('12 %', '1.2 %', '0.012 %', '0 %')
    """
    if share == 0 or share >= 0.0995:
        return f"{100 * share:.0f} %"
    return f"{float(f'{100 * share:.2g}'):g} %"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, at most five.

    >>> listed(["1", "2", "3"])
    '1, 2 and 3'
    """
    shown = [*names[:5], *([f"{len(names) - 5} more"] if len(names) > 5 else [])]
    return " and ".join(part for part in (", ".join(shown[:-1]), shown[-1]) if part)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the known word that is most like a mistyped one; empty if none is like it.

    >>> did_you_mean("trian", ["train", "predict"])
    '; did you mean train?'
    >>> did_you_mean("--lr", ["--filters", "--learning-rate"])
    '; did you mean --learning-rate?'
    >>> did_you_mean("liver", ["kidney", "lung"])
    ''
    """
    import difflib  # here, because only a mistake needs it

    known, wanted = list(known), word.lstrip("-").lower()
    bare = {each.lstrip("-").lower(): each for each in known}
    initials = {"".join(part[:1] for part in name.split("-")): each for name, each in bare.items() if "-" in name}
    close = difflib.get_close_matches(wanted, bare, n=1, cutoff=0.6)
    meant = initials.get(wanted) or (bare[close[0]] if close else None)
    return f"; did you mean {meant}?" if meant else ""
