"""The command line: ``hubmap-kit COMMAND``. The commands are in `hubmap_kit.commands`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from . import __version__
from .commands import COMMANDS, STAGES, module_of, parser_of
from .config import UsageError
from .progress import messages
from .tables import DataError
from .terminal import BAD_INPUT, INTERRUPTED, OK, WRONG_USAGE, Parser, command_line, show_error, show_problems
from .words import did_you_mean

FIRST_STEPS = """\
first steps, on a small competition that is drawn for it (5 minutes on two cores):
  hubmap-kit demo demo
  hubmap-kit prepare demo patches --input-size 96
  hubmap-kit train patches run --recipe fast
  hubmap-kit predict demo run --out submission.csv
  hubmap-kit score submission.csv --truth demo/test_truth.csv
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        0 done, 1 bad input, 130 stopped by Ctrl-C. Wrong usage exits with 2.
    """
    name, *rest = argv = list(sys.argv[1:] if argv is None else argv) or ["help"]
    if name in ("help", "-h", "--help"):
        return _help(rest)
    if name in ("-V", "--version"):
        print(f"hubmap-kit {__version__}")
        return OK
    _check_command(name)
    command, parser = module_of(name), parser_of(name, rest)
    arguments = parser.parse_args(rest)
    begin = time.monotonic()
    try:
        with messages(quiet=arguments.quiet):
            ending = command.run(arguments)
        ending.show(arguments, time.monotonic() - begin)
        return int(ending.status)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        stopped = getattr(command, "STOPPED", "nothing was written")
        typed = command_line(*(word for word in argv if word != "--resume"))
        print(f"stopped; {stopped.format(command=typed)}", file=sys.stderr)
        return INTERRUPTED
    except DataError as error:
        show_problems(error.problems)
    except BrokenPipeError:
        raise
    except OSError as error:
        show_error(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except ValueError as error:
        show_error(str(error))
    return BAD_INPUT


def entry() -> None:
    """The ``hubmap-kit`` script."""
    try:
        sys.exit(main())
    except BrokenPipeError:
        # The program that reads our output, such as head, has ended; exit quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _help(names: Sequence[str]) -> int:
    """Print the help of a command, or the list of all commands."""
    for name in names[:1]:
        _check_command(name)
        parser: Parser = parser_of(name, names[1:])
        parser.print_help()
        return OK
    width = max(map(len, COMMANDS))
    lines = ["hubmap-kit: a submission kit for HuBMAP + HPA - Hacking the Human Body", ""]
    lines += ["usage: hubmap-kit COMMAND [flags]", "", FIRST_STEPS]
    for stage, commands in STAGES.items():
        lines += [stage, *(f"  {name:<{width}}  {about}" for name, about in commands.items())]
    lines += ["", "hubmap-kit help COMMAND explains a command; -V prints the version"]
    print("\n".join(lines))
    return OK


def _check_command(name: str) -> None:
    """Exit with status 2 if there is no such command."""
    if name in COMMANDS:
        return
    print("usage: hubmap-kit COMMAND [flags]", file=sys.stderr)
    if name.startswith("-"):
        show_error(f"there is no flag {name} before the command; write the flags behind it: hubmap-kit COMMAND {name}")
    else:
        show_error(f"there is no command {name}{did_you_mean(name, COMMANDS)}")
        print("help: hubmap-kit help lists the commands", file=sys.stderr)
    raise SystemExit(WRONG_USAGE)
