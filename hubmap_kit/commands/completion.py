"""hubmap-kit completion."""

from __future__ import annotations

from argparse import Namespace

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
    import shtab

    from . import full_parser

    script = shtab.complete(full_parser(), arguments.shell)
    return Ending(result=script, values={"shell": arguments.shell, "script": script})
