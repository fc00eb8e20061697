"""How commands read their arguments and how they end: the parser, colours, problems, and the last lines."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from .tables import Problem, summarize
from .words import did_you_mean, duration

T = TypeVar("T", int, float)

OK, BAD_INPUT, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
MANY_CHOICES = 10  # if there are more, an error suggests the likely one instead of listing all
SESSIONS = ("rehearse", "bundle", "push", "submit", "data", "validate")  # commands that nox has sessions of
RED, YELLOW = "1;31", "1;33"


@dataclass(frozen=True)
class Ending:
    """How a command ends; `hubmap_kit.cli` prints it.

    Attributes:
        done: What was made, where and of how many images, in one sentence without a full stop; the time is added.
        result: Further lines of the result, such as a table.
        look: Words of the command that shows what was made, as a page.
        next: Words of the command that usually comes next.
        values: The result as JSON values, for ``--json``.
        problems: What was wrong with the input; an error among them makes the status 1.
        failed: Whether the status is 1 although no problem is an error.
    """

    done: str = ""
    result: str = ""
    look: Sequence[object] = ()
    next: Sequence[object] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    failed: bool = False

    @property
    def status(self) -> int:
        """Exit status of the command."""
        return BAD_INPUT if self.failed or any(problem.severity == "error" for problem in self.problems) else OK

    def show(self, arguments: argparse.Namespace, seconds: float) -> None:
        """Print the result to stdout, and problems and the next command to stderr.

        Args:
            arguments: Of the command; ``quiet`` and ``json`` are used.
            seconds: How long the command took.
        """
        show_problems(self.problems)
        if arguments.json:
            facts = {"command": arguments.parser.command, "status": self.status, "seconds": round(seconds, 2)}
            problems = [asdict(problem) for problem in self.problems]
            print(json.dumps(_json_value({**facts, **self.values, "problems": problems}), allow_nan=False))
            return
        if self.done:
            print(f"{self.done}, {duration(seconds)}")
        if self.result:
            print(self.result.rstrip("\n"))
        sys.stdout.flush()  # before the next command, which goes to stderr
        if arguments.quiet or self.status != OK:
            return
        for name, words in (("look", self.look), ("next", self.next)):
            if words:
                print(f"{name}: {command_line(*words)}", file=sys.stderr)


def _json_value(value: Any) -> Any:
    """A value as JSON has it: a number that is not finite is null, and what JSON does not know is text."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(part) for part in value]
    if hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def command_line(*words: object) -> str:
    """A command of ours as it can be pasted into the shell that this one was typed in."""
    name, *rest = map(str, words)
    if os.environ.get("NOX_CURRENT_SESSION") and name in SESSIONS:
        return shlex.join(["nox", "-s", name, *(["--"] if rest else []), *rest])
    module = Path(sys.argv[0]).name == "__main__.py"
    return shlex.join([*(("python", "-m", "hubmap_kit") if module else ("hubmap-kit",)), name, *rest])


def paint(text: str, colour: str, stream: IO[str]) -> str:
    """A text in a colour, if the stream is a terminal that shows colours and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def show_error(text: str) -> None:
    """Print an error to stderr."""
    print(f"{paint('error:', RED, sys.stderr)} {text}", file=sys.stderr)


def show_problems(problems: Iterable[Problem]) -> None:
    """Print problems to stderr, those of one rule in one line."""
    for problem in summarize(problems):
        severity, _, rest = str(problem).partition(" ")
        print(f"{paint(severity, RED if severity == 'error:' else YELLOW, sys.stderr)} {rest}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """The parser of one command: short usage, help that opens with an example, errors that name what was meant.

    Attributes:
        command: Name of the command.
        argv: The arguments that it will parse, for a help that depends on them.
    """

    def __init__(self, command: str, about: str, example: str = "", argv: Sequence[str] = (), **more: Any) -> None:
        """Make the parser of a command, without any arguments yet.

        Args:
            command: Name of the command.
            about: What it does, as the list of commands says it.
            example: Command lines for the help, one a line.
            argv: The arguments that it will parse.
            more: See `argparse.ArgumentParser`.
        """
        self.command, self.argv = command, list(argv)
        text = textwrap.fill(f"{about[0].upper()}{about[1:]}.", _width())
        lines = [f"  {line}" for line in example.strip().splitlines()]
        super().__init__(
            **more,
            prog=f"hubmap-kit {command}",
            description="\n\n".join(filter(None, [text, "\n".join(lines)])),
            formatter_class=_HelpFormatter,
            allow_abbrev=False,  # a later version may give an abbreviation another meaning
        )
        self.register("type", float, _number)
        self.register("type", int, _whole)
        self._positionals.title, self._optionals.title = "arguments", "general"

    def format_usage(self) -> str:
        """One line: the positional arguments, the flags that must be given, and ``[flags]`` for the others."""
        return f"usage: {self._short_usage()}\n"

    def format_help(self) -> str:
        """The help, with the short usage in place of one that lists every flag."""
        self.usage = self._short_usage().replace("%", "%%")
        return super().format_help()

    def _short_usage(self) -> str:
        words = [self.prog]
        for action in self._actions:
            if action.option_strings and not action.required:
                continue
            name = str(action.metavar or action.dest)
            flag = f"{action.option_strings[-1]} " if action.option_strings else ""
            many = {"*": f"[{name} ...]", "+": f"{name} [{name} ...]", "?": f"[{name}]"}
            words.append(flag + many.get(str(action.nargs), name))
        return " ".join([*words, "[flags]"])

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; a mistyped flag is the first thing that is reported."""
        words = list(args if args is not None else sys.argv[1:])
        known = [
            flag for flag in self._option_string_actions if self._option_string_actions[flag].help != argparse.SUPPRESS
        ]
        for word in words[: words.index("--") if "--" in words else None]:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                self.error(f"there is no flag {flag}{did_you_mean(flag, known)}")
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            what = "flag" if rest[0].startswith("-") else "argument"
            self.error(f"{rest[0]} is one {what} too many" if what == "argument" else f"there is no flag {rest[0]}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the error and one line of usage, and exit with status 2."""
        message = (
            message.removeprefix("argument ").removeprefix("-q/").replace("expected one argument", "needs a value")
        )
        message = message.replace("the following arguments are required", "these are missing")
        print(self.format_usage(), end="", file=sys.stderr)
        show_error(message)
        print(f"help: hubmap-kit {self.command} --help", file=sys.stderr)
        raise SystemExit(WRONG_USAGE)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is no choice, with the choice that was meant."""
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            meant = did_you_mean(str(value), choices)
            listed = "" if meant and len(choices) > MANY_CHOICES else f" The choices are {', '.join(choices)}."
            raise argparse.ArgumentError(action, f"there is no {value!r}{meant or '.'}{listed}")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help in the width of the terminal, at most 100 columns, with room for long flags."""

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, **({"max_help_position": 30, "width": _width()} | more))


def _width() -> int:
    return min(shutil.get_terminal_size().columns - 2, 100)


def add_run_flag(parser: Parser, meaning: str) -> None:
    """Add the flag ``--run``, which may be repeated."""
    parser.add_argument(
        "--run",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        dest="runs",
        help=f"{meaning}; repeat it for an ensemble",
    )


def add_page_flags(parser: Parser) -> None:
    """Add the flags of a command that writes a page."""
    parser.add_argument("--out", metavar="HTML", type=Path, required=True, help="page to write")
    parser.add_argument(
        "--max-mb",
        metavar="MB",
        type=number_between(0.1, 1e6),
        default=30.0,
        help="largest size of the page; to keep to it, pictures lose quality or are left out (default: %(default)g)",
    )
    parser.add_argument(
        "--folder", action="store_true", help="write all pictures to a folder beside the page, not into it"
    )


def _number(text: str) -> float:
    """A finite number, in place of `float` as the type of a flag.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _whole(text: str) -> int:
    """A whole number, in place of `int` as the type of a flag.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number_between(least: float, most: float) -> Callable[[str], float]:
    """The type of a flag that takes a number within bounds."""
    return partial(_between, _number, least, most)


def whole_between(least: int, most: int) -> Callable[[str], int]:
    """The type of a flag that takes a whole number within bounds."""
    return partial(_between, _whole, least, most)


def _between(parse: Callable[[str], T], least: T, most: T, text: str) -> T:
    value = parse(text)
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is out of bounds; it must be from {least} to {most}")
    return value
