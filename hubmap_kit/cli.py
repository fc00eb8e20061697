"""The command line: ``hubmap-kit COMMAND``. The commands are in `hubmap_kit.commands`."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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
        show_error(_os_error_text(error))
    except ValueError as error:
        show_error(str(error))
    except MemoryError:
        show_error("the memory is full; take a smaller --batch-size or --tile-size, or a computer with more memory")
    except Exception as error:
        show_error(_unexpected(error, argv))
    return BAD_INPUT


def _os_error_text(error: OSError) -> str:
    """What the system refused, as a sentence with the file."""
    if not error.filename or not error.strerror:
        return str(error)
    path = Path(os.fsdecode(error.filename))
    files = [each for each in path.parents if each.is_file()]
    if isinstance(error, (NotADirectoryError, FileExistsError)) and (files or path.is_file()):
        return f"{files[0] if files else path} is a file, and a folder is needed there; name another place"
    remedies = {errno.EACCES: "; name another place, or change its permissions", errno.ENOSPC: "; make room there"}
    return f"{path}: {error.strerror.lower()}{remedies.get(error.errno or 0, '')}"


def _unexpected(error: Exception, argv: Sequence[str]) -> str:
    """The message for a mistake of our own; the traceback goes to a file, without credentials."""
    import shlex
    import tempfile
    import traceback

    from .kaggle.credentials import redact

    lines = [f"hubmap-kit {__version__}, Python {sys.version.split()[0]}", f"hubmap-kit {shlex.join(argv)}", ""]
    text = "\n".join(lines) + "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="hubmap-kit-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(redact(text))
    first = redact(str(error)).partition("\n")[0]
    return (
        f"unexpected {type(error).__name__}: {first}\n"
        f"This should not happen. What led to it is in {file.name}; please report it with that file and with what "
        "'hubmap-kit doctor' prints."
    )


def entry() -> None:
    """The ``hubmap-kit`` script."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before the command began
        sys.exit(INTERRUPTED)
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
