"""The commands: one line each in `STAGES`, and one module each in this folder.

To add a command ``count``, add its line to `STAGES` and write ``commands/count.py`` with

- ``EXAMPLE``, a command line to open the help with,
- ``add_flags(parser)``, which adds its arguments and flags,
- ``run(arguments)``, which does the work and returns an `hubmap_kit.terminal.Ending`,
- if Ctrl-C leaves something to go on from, ``STOPPED``, which says so; ``{command}`` in it is the command as typed,
- if it writes something, ``WRITES``: ``folder`` or ``file`` by the name of the argument, see
  `hubmap_kit.commands.targets`,
- if its ``OUT`` may be left out, ``IN_CLONE``: where the output then is, in the clone that the command is run in.

What ``run`` prints is a message and goes to stderr; the ending holds the result. The module is imported only when the
command is asked for, so import inside ``run`` what takes long. A wrong value raises `hubmap_kit.config.UsageError`, bad
input a ValueError or an OSError.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from types import ModuleType

    from ..terminal import Parser

STAGES: dict[str, dict[str, str]] = {
    "data": {
        "demo": "draw a small competition in Kaggle's layout, with test_truth.csv",
        "data": "download the competition's data from Kaggle",
        "import": "make a competition folder of your own images and masks",
        "prepare": "cut the training images into patches: masks, split, patch store",
    },
    "train": {
        "plan": "work out memory and hours of a recipe, on Kaggle and here",
        "train": "train a network and write its run folder",
        "pseudo": "predict images into a store of soft masks to train on; see train --pseudo",
        "ablation": "measure what each part of a recipe brings, on a validation fold",
    },
    "predict": {
        "predict": "predict images with a run, or an ensemble of several",
        "validate": "check a submission",
        "score": "score a submission against the truth",
        "export": "write the masks of a submission as PNG, GeoJSON for QuPath, and overlays",
    },
    "look": {
        "inspect": "write a page about a competition folder, before anything is trained",
        "report": "write a page about runs",
        "review": "write a page about a submission, before it is sent",
    },
    "kaggle": {
        "rehearse": "rehearse the competition offline, with the kernels that Kaggle will run",
        "bundle": "build the dataset hubmap-kit, which brings the library to Kaggle",
        "push": "push datasets and kernels to Kaggle, and run the kernels",
        "submit": "submit a version of the inference kernel and wait for its score",
    },
    "this program": {
        "doctor": "print what a bug report needs: versions, devices, memory, disk, where credentials are",
        "completion": "print a completion script for bash, zsh or fish",
    },
}
COMMANDS = {name: about for commands in STAGES.values() for name, about in commands.items()}


def module_of(name: str) -> ModuleType:
    """The module of a command; that of ``import`` is ``import_``."""
    import importlib
    import keyword

    return importlib.import_module(f".{name}{'_' * keyword.iskeyword(name)}", __name__)


def parser_of(name: str, argv: Sequence[str] = ()) -> Parser:
    """The parser of a command.

    Args:
        name: The command.
        argv: The arguments that it will parse: some defaults in the help depend on them.
    """
    from ..terminal import Parser

    module = module_of(name)
    parser = Parser(name, COMMANDS[name], module.EXAMPLE, argv)
    parser.set_defaults(parser=parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="say only problems and the result")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    module.add_flags(parser)
    return parser


def full_parser() -> argparse.ArgumentParser:
    """A parser of all commands, for completion and documentation."""
    import argparse

    def make(command: str, **_: Any) -> Parser:
        return parser_of(command)

    parser = argparse.ArgumentParser(prog="hubmap-kit", description="Submission kit for HuBMAP + HPA.")
    parser.add_argument("-V", "--version", action="store_true", help="print the version")
    # argparse calls `parser_class` with what `add_parser` is given; it need not be a class.
    commands: Any = parser.add_subparsers(metavar="COMMAND", parser_class=make)  # type: ignore[call-overload]
    for name, about in COMMANDS.items():
        commands.add_parser(name, help=about, command=name)
    return parser


def parsers_in(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands in a `full_parser`, by name."""
    import argparse

    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(commands.choices)
