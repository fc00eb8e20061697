"""hubmap-kit doctor."""

from __future__ import annotations

from argparse import Namespace

from ..terminal import Ending, Parser

EXAMPLE = "hubmap-kit doctor"


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags: there are none."""


def run(arguments: Namespace) -> Ending:
    """Look, and say what was found."""
    from ..doctor import facts, facts_text

    found = facts()
    return Ending(result=facts_text(found), values=found)
