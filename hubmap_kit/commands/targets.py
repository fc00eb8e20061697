"""The outputs of a command: it claims them while it runs, and none of them may be an input."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..claim import claim
from ..config import UsageError
from ..files import is_special

PAGES = (".html", ".htm")


@contextlib.contextmanager
def claimed(writes: Mapping[str, str], arguments: Namespace) -> Iterator[None]:
    """Check what a command writes against what it reads, and claim it.

    Of several workers that ``TF_CONFIG`` joins, the first one claims the run folder.

    Args:
        writes: ``folder`` or ``file`` by the name of the argument.
        arguments: Of the command.

    Raises:
        UsageError: An output is an input, lies in one or contains one, or is of the wrong kind (file, folder, page); or
            a name is not UTF-8.
        hubmap_kit.claim.Claimed: Another process writes there.
    """
    for named in (path for value in vars(arguments).values() for path in _paths(value)):
        try:
            str(named.absolute()).encode()
        except UnicodeEncodeError:
            raise UsageError(f"the name {str(named)!a} is not UTF-8, and libraries cannot open it; rename it") from None
    targets = {name: path for name in writes if (path := getattr(arguments, name, None)) is not None}
    inputs = [path for name, value in vars(arguments).items() if name not in writes for path in _paths(value)]
    for name, path in targets.items():
        _check(_typed(name, arguments), path, writes[name], inputs, arguments)
    with contextlib.ExitStack() as claims:
        for name, path in targets.items():
            if not (is_special(path) or _follows()):
                command = f"hubmap-kit {arguments.parser.command}"
                claims.enter_context(claim(path, command, folder=writes[name] == "folder"))
        yield


def _paths(value: object) -> list[Path]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, Path)]


def _typed(name: str, arguments: Namespace) -> str:
    """An argument as it is typed: its flag, or its name in capitals."""
    for action in arguments.parser._actions:
        if action.dest == name:
            return str(action.option_strings[-1] if action.option_strings else action.metavar)
    return name


def _check(name: str, target: Path, kind: str, inputs: list[Path], arguments: Namespace) -> None:
    page = hasattr(arguments, "max_mb")
    if kind != "file" and target.exists() and not target.is_dir():
        raise UsageError(f"{name} is {target}, which is a file; name a folder")
    if kind == "file" and target.is_dir():
        raise UsageError(f"{name} is {target}, which is a folder; name a file")
    if is_special(target) and getattr(arguments, "folder", False):
        raise UsageError(
            f"--folder needs a file to put the pictures beside, and {name} is {target}; leave out --folder"
        )
    if page and target.suffix.lower() not in PAGES and not is_special(target):
        raise UsageError(f"{name} is {target}; name a file that ends in .html")
    place = Path(os.path.realpath(target))  # unlike `Path.resolve`, it accepts links in a circle
    for path in inputs:
        read = Path(os.path.realpath(path))
        if place == read:
            raise UsageError(f"{name} is {target}, which is also an input; name another place")
        # A page about a run or data may lie in its folder; nothing reads it there.
        if not page and path.is_dir() and place.is_relative_to(read):
            raise UsageError(f"{name} is {target}, which lies in the input {path}; name another place")


def _follows() -> bool:
    """Whether this is a worker that ``TF_CONFIG`` names, other than the first."""
    import json

    try:
        return int(json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0)) > 0
    except (ValueError, TypeError, AttributeError):  # the training says what is wrong with it
        return False
