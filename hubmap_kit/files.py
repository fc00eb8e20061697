"""Files: written so that a killed process never leaves half of one; the types of JSON values; size and SHA-256."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` at the end.

    It has the same suffix as `path`, because some writers choose a format by it. After an exception the new file is
    removed, and an old one is left as it was. What a link leads to is replaced, and the link stays; a device or a pipe,
    such as ``/dev/stdout``, is written through.

    Raises:
        OSError: The file cannot be written; the error names `path`, not the file beside it.
    """
    if is_special(path):
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder, path.name)
            yield whole
            sys.stdout.flush()  # in case that the device is our own output
            with path.open("ab") as device:
                device.write(whole.read_bytes())
        return
    if path.is_symlink():
        path = path.resolve()
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno is None or str(error.filename) not in (str(part), str(path), "None"):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):  # the folder may not be one
            part.unlink()


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder inside `folder` to write to, and move its files to `folder` at the end.

    Files in subfolders are moved first and those at the top last: tables are at the top, and name no image that is not
    there yet. After an exception nothing is moved.
    """
    made, part = not folder.exists(), folder / f".{os.getpid()}.part.{folder.name}"
    part.mkdir(parents=True)
    try:
        yield part
        for path in sorted(part.rglob("*"), key=lambda path: (path.parent == part, path)):
            if path.is_file():
                target = folder / path.relative_to(part)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if made:
            with suppress(OSError):  # it has files
                folder.rmdir()


def is_free(folder: Path) -> bool:
    """Whether a folder can be filled: there is none, or it holds nothing but hidden files, such as a claim's lock."""
    return not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir()))


def replace_folder(folder: Path, new: Path) -> None:
    """Put a folder in the place of another, which is removed; a process that is killed leaves a whole one, or none."""
    old = folder.with_name(f".{os.getpid()}.part.{folder.name}")
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def is_special(path: Path) -> bool:
    """Whether a path is a device or a pipe, such as ``/dev/null``, or leads to a file that a process has open."""
    text = path.as_posix()
    is_open = text in ("/dev/stdin", "/dev/stdout", "/dev/stderr") or text.startswith(("/dev/fd/", "/proc/"))
    return path.exists() and (is_open or not (path.is_file() or path.is_dir()))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with Unix line ends, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: The file is missing or is not JSON; the text names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Check that values have the types of a dataclass's fields, as values from a file may not.

    Args:
        kind: The dataclass.
        values: Values by field; a field without one is not checked.

    Raises:
        ValueError: The first value of another type.
    """
    for name, hint in typing.get_type_hints(kind).items():
        if name in values and not has_type(values[name], hint):
            raise ValueError(f"{name} is {values[name]!r}; it must be {type_text(hint)}")


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value has a type, written as an annotation. A whole number is a number too; True is neither.

    >>> has_type(2, float | None), has_type(True, int), has_type([1, "a"], list[int])
    (True, False, False)
    >>> has_type([1, 2.5], tuple[float, ...])  # JSON has no tuples
    True
    """
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind) or kind
    if kind is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(has_type(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if isinstance(value, bool):  # Python counts it as an int
        return kind is bool
    accepted = {float: (int, float), tuple: (list, tuple)}
    if not isinstance(value, accepted.get(origin, origin)):
        return False
    if isinstance(value, Mapping):
        return all(has_type(part, of) for item in value.items() for part, of in zip(item, parts, strict=False))
    return not isinstance(value, (list, tuple)) or all(has_type(item, part) for item in value for part in parts[:1])


def type_text(kind: Any) -> str:
    """A type in words.

    >>> type_text(int | None)
    'a whole number or None'
    >>> type_text(tuple[float, ...])
    'a list of numbers'
    """
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind) or kind
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(type_text, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (list, tuple):
        return f"a list of {_NAMES.get(parts[0], 'a value').split(' ', 1)[1]}s"
    if issubclass(origin, Mapping):
        return "an object"
    return _NAMES.get(origin, "a value")


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", types.NoneType: "None"}


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV, whole or not at all; None is written as an empty cell."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path, columns: Sequence[str], remedy: str = "restore it from a copy") -> list[dict[str, str]]:
    """Read a CSV that the kit wrote and a person may have saved again from a spreadsheet.

    Args:
        path: The file. A byte order mark and semicolons or tabs between the cells are understood.
        columns: The columns that it must have.
        remedy: What to do about a damaged file.

    Returns:
        The rows as text, by column; none if there is no file.

    Raises:
        ValueError: The file is no such table; the text names it.
    """
    if not path.is_file():
        return []
    csv.field_size_limit(2**31 - 1)  # a long RLE exceeds the usual limit of 128 KiB per field
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = separator_of(file.readline())
            file.seek(0)
            reader = csv.DictReader(file, delimiter=separator)
            header, rows = reader.fieldnames or (), [row for row in reader if any(row.values())]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV as UTF-8 text ({error}); {remedy}") from error
    if missing := [name for name in columns if name not in header]:
        raise ValueError(f"{path} has no column {', '.join(missing)}; {remedy}")
    ragged = [number for number, row in enumerate(rows, start=2) if None in row or None in row.values()]
    if ragged:
        raise ValueError(f"{path}, row {ragged[0]}: it has not as many cells as its header; {remedy}")
    return rows


def separator_of(header: str) -> str:
    """What separates the cells of a CSV, by its first line: a comma, or a semicolon or tab where there is no comma.

    >>> separator_of("id;rle"), separator_of("id,rle"), separator_of("id")
    (';', ',', ',')
    """
    return next((each for each in ";\t" if each in header and "," not in header), ",")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    import hashlib  # here, because the command line imports this module at every start

    return hashlib.sha256(path.read_bytes()).hexdigest()


def size_text(size: float) -> str:
    """A number of bytes for people: ``1.5 MiB``."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
