"""hubmap-kit completion."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..terminal import Ending, Parser

EXAMPLE = """\
hubmap-kit completion bash > ~/.local/share/bash-completion/completions/hubmap-kit
hubmap-kit completion zsh > ~/.zfunc/_hubmap-kit
hubmap-kit completion fish > ~/.config/fish/completions/hubmap-kit.fish
"""


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def run(arguments: Namespace) -> Ending:
    """Make the script."""
    try:
        import shtab
    except ImportError as error:
        raise ValueError(f"completion needs shtab ({error}); run: pip install shtab") from error

    from . import full_parser, parsers_in

    parser = full_parser()
    for each in parsers_in(parser).values():
        for action in each._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
    script = shtab.complete(parser, arguments.shell)
    return Ending(result=script, values={"shell": arguments.shell, "script": script})
