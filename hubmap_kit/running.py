"""Runs a command of ``hubmap-kit`` and turns whatever happens into its last lines and an exit status."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .commands import module_of, parser_of
from .commands.targets import claimed
from .config import UsageError
from .progress import messages
from .tables import DataError
from .terminal import INTERRUPTED, Ending, command_line, show_error


def run(name: str, argv: Sequence[str]) -> int:
    """Run a command.

    Args:
        name: The command.
        argv: Its arguments.

    Returns:
        0 done, 1 bad input, 130 stopped by Ctrl-C or SIGTERM. Wrong usage exits with 2.
    """
    command, parser = module_of(name), parser_of(name, argv)
    arguments = parser.parse_args(argv)
    begin = time.monotonic()
    try:
        if hasattr(command, "IN_CLONE") and arguments.out is None:
            from .kaggle.clone import find_clone

            arguments.out = find_clone() / command.IN_CLONE
        with messages(quiet=arguments.quiet), claimed(getattr(command, "WRITES", {}), arguments):
            ending = command.run(arguments)
    except UsageError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        stopped = getattr(command, "STOPPED", "nothing was written")
        typed = command_line(name, *(word for word in argv if word != "--resume"))
        print(f"stopped; {stopped.format(command=typed)}", file=sys.stderr)
        return INTERRUPTED
    except DataError as error:
        ending = Ending(problems=error.problems, failed=True)
    except OSError as error:
        ending = _failure(os_error_text(error))
    except ValueError as error:
        ending = _failure(str(error))
    except RuntimeError as error:
        loop = str(error).startswith("Symlink loop")  # what Path.resolve raises before Python 3.13
        ending = _failure(f"{error}: links lead in a circle" if loop else _unexpected(error, [name, *argv]))
    except MemoryError:
        ending = _failure(
            "the memory is full; take a smaller --batch-size or --tile-size, or a computer with more memory"
        )
    except Exception as error:
        ending = _failure(_unexpected(error, [name, *argv]))
    ending.show(arguments, time.monotonic() - begin)
    return int(ending.status)


def _failure(text: str) -> Ending:
    """The ending of a command that could not do its work; the error is printed."""
    show_error(text)
    return Ending(values={"error": text}, failed=True)


def os_error_text(error: OSError) -> str:
    """What the system refused, as a sentence with the file."""
    if error.errno is None or not error.strerror:
        return str(error)
    remedies = {
        errno.EACCES: "; name another place, or change its permissions",
        errno.ENOSPC: "; make room there, and run the command again",
        errno.EFBIG: "; allow larger files (ulimit -f), or name a place on another file system",
        errno.EMFILE: "; allow more open files (ulimit -n)",
    }
    said = f"{error.strerror.lower()}{remedies.get(error.errno, '')}"
    if not error.filename:
        import tempfile

        return f"in {tempfile.gettempdir()}, for temporary files, or where the command writes: {said}"
    path = Path(os.fsdecode(error.filename))
    files = [each for each in path.parents if each.is_file()]
    if isinstance(error, (NotADirectoryError, FileExistsError)) and (files or path.is_file()):
        return f"{files[0] if files else path} is a file, and a folder is needed there; name another place"
    return f"{path}: {said}"


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
        f"This is a mistake of hubmap-kit. The traceback is in {file.name}; please report it with that file "
        "and the output of 'hubmap-kit doctor'."
    )
