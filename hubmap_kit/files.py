"""Files: written so that a killed process never leaves half of one; the types of JSON values; size and SHA-256."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from .machine import FULL

LONGEST_VALUE = 60  # characters of a value that an error shows

T = TypeVar("T")


@contextmanager
def replacing(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` at the end.

    It has the same suffix as `path`, because some writers choose a format by it. After an exception the new file is
    removed, and an old one is left as it was. What a link leads to is replaced, and the link stays; a device or a pipe,
    such as ``/dev/stdout``, is written through.

    Args:
        path: The file.
        size: Upper bound of the bytes that will be written; room for them is checked first. Needed for a writer that
            crashes or stays silent when the disk is full.

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
        if size:
            _find_room(part, size)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise _named(error, path, part) from error
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
    except OSError as error:
        raise _named(error, folder, part) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if made:
            with suppress(OSError):  # it has files
                folder.rmdir()


def _find_room(path: Path, size: int) -> None:
    """Raise the system's error if there is no room for a file of this size, or none so large may be written."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in FULL:  # others: the file system cannot reserve room
                raise


def _named(error: OSError, path: Path, part: Path) -> OSError:
    """An error of writing to `part` as one of `path`; an error about another file as it is.

    When a file cannot be written whole, some libraries raise an error without a number, or with a text of many lines.
    """
    if error.errno not in FULL and error.errno is not None:
        own = str(error.filename) in (str(part), str(path), "None")
        return OSError(error.errno, error.strerror, str(path)) if own else error
    number = error.errno
    if number is None:
        if not re.search(r"requested and \d+ written", str(error)):  # NumPy's words
            return error
        number = errno.ENOSPC if shutil.disk_usage(path.parent).free < 2**20 else errno.EFBIG
    return OSError(number, os.strerror(number), str(path))


def is_free(folder: Path) -> bool:
    """Whether a folder can be filled: it does not exist, or holds only hidden files, such as a claim's lock."""
    return not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir()))


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder to fill, and put it in the place of `folder` at the end.

    A process that is killed meanwhile leaves a whole folder or none; the next `hubmap_kit.claim.claim` of `folder`
    removes what else it left. After an exception `folder` is as it was.
    """
    folder = folder.resolve()  # what a link leads to is replaced, not the link
    part = folder.with_name(f".{os.getpid()}.part.{folder.name}")
    new, old = part / "new", part / "old"
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            os.rename(folder, old)
        os.rename(new, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
    """Read JSON in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        ValueError: The file is missing or is not JSON; the text names the file.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_object(
    path: Path,
    parse: Callable[[dict[str, Any]], T],
    again: str,
    *,
    formats: Sequence[int] = (),
    unnumbered: int | None = None,
) -> T:
    """Read a JSON object of a known format.

    Args:
        path: The file.
        parse: Makes the result of the object; what it raises becomes a message that names the file.
        again: How to get the file anew, such as ``prepare it again``.
        formats: The values of ``format`` that `parse` understands; any, if there are none.
        unnumbered: The format of an object that does not name one.

    Raises:
        ValueError: The file is missing, damaged, or of another format.
    """
    try:
        values = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; {again}") from error
    try:
        if not isinstance(values, dict):
            raise TypeError("it is no JSON object")
        number = values.get("format", unnumbered)
        if not formats or (type(number) is int and number in formats):
            return parse(values)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        rule = f"it lacks {error.args[0]}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} is damaged ({rule}); {again}") from error
    newer = isinstance(number, int) and number > max(formats)
    advice = "update hubmap-kit" if newer else "use the version of hubmap-kit that wrote it"
    known = " and ".join(map(str, formats))
    raise ValueError(f"{path} is of format {number}, and this version reads {known}; {advice}, or {again}")


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Check that values have the types of a dataclass's fields, as values from a file may not.

    Args:
        kind: The dataclass.
        values: Values by field; a field without one is not checked.

    Raises:
        ValueError: The first value of another type.
    """
    for name, hint in typing.get_type_hints(kind).items():
        if name in values and (wrong := mismatch(name, values[name], hint)):
            raise ValueError(wrong)


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value has a type, see `mismatch`.

    >>> has_type(2, float | None), has_type(True, int), has_type([1, "a"], list[int])
    (True, False, False)
    """
    return not mismatch("", value, kind)


def mismatch(name: str, value: Any, kind: Any) -> str:
    """What is wrong with the type of a value, or of a part of it; empty if nothing is.

    A whole number counts as a number, unless a float cannot hold it; True counts as neither. A list counts as a tuple,
    because JSON has no tuples.

    Args:
        name: Name of the value, for the text.
        value: The value.
        kind: The type, as an annotation.

    >>> mismatch("ids", [1, 2], tuple[float, ...])
    ''
    >>> mismatch("splits", {"train": [1, "2"]}, dict[str, list[int]])
    "splits.train[1] is '2'; it must be a whole number"
    """
    parts = typing.get_args(kind)
    origin = typing.get_origin(kind) or kind
    text = repr(value)
    wrong = f"{name} is {text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + '...'}; it must be "
    wrong += type_text(kind)
    if kind is Any:
        return ""
    if origin in (types.UnionType, typing.Union):
        found = [mismatch(name, value, part) for part in parts]
        inside = [each for each in found if not each.startswith(f"{name} is ")]
        return "" if "" in found else (inside[0] if inside else wrong)
    if origin is Literal:
        return "" if value in parts else wrong
    if isinstance(value, bool):  # Python counts it as an int
        return "" if kind is bool else wrong
    if kind is float and isinstance(value, int):
        return "" if abs(value) <= sys.float_info.max else wrong
    if not isinstance(value, {tuple: (list, tuple)}.get(origin, origin)):
        return wrong
    if isinstance(value, Mapping):
        keys = (mismatch(f"a key of {name}", key, parts[0]) for key in value)
        values = (mismatch(f"{name}.{key}", part, parts[1]) for key, part in value.items())
        return next(filter(None, (*keys, *values)), "") if parts else ""
    if isinstance(value, (list, tuple)) and parts:
        return next(filter(None, (mismatch(f"{name}[{i}]", item, parts[0]) for i, item in enumerate(value))), "")
    return ""


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
        return f"a list of {_NAMES.get(parts[0], 'a value').split(' ', 1)[1]}s" if parts else "a list"
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
            reader = csv.DictReader(file, delimiter=separator, strict=True)
            header, rows = reader.fieldnames or (), [row for row in reader if any(row.values())]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV as UTF-8 text ({error}); {remedy}") from error
    if missing := [name for name in columns if name not in header]:
        raise ValueError(f"{path} has no column {', '.join(missing)}; {remedy}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f"{path} has the column {', '.join(twice)} twice; {remedy}")
    ragged = [number for number, row in enumerate(rows, start=2) if None in row or None in row.values()]
    if ragged:
        raise ValueError(f"{path}, row {ragged[0]}: it has more or fewer cells than the header; {remedy}")
    return rows


def number(cells: Mapping[str, str], column: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A cell of a row as a finite number; a decimal comma, as some spreadsheets write, is read too.

    Raises:
        ValueError: The cell is no number, or out of bounds.

    >>> number({"dice": "0,5"}, "dice", 0, 1)
    0.5
    """
    text = cells[column].replace(",", ".")
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan  # Python itself takes 1_000
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and least <= value <= most):
        bounds = {(-math.inf, math.inf): "", (least, math.inf): f" of at least {least:g}"}
        span = bounds.get((least, most), f" from {least:g} to {most:g}")
        raise ValueError(f"{column} is {cells[column][:LONGEST_VALUE]!r}; it must be a number{span}")
    return value


def whole_number(cells: Mapping[str, str], column: str, least: int = 0, most: int = 10**18) -> int:
    """A cell of a row as a whole number; ``3.0`` counts as one.

    Raises:
        ValueError: The cell is no whole number, or out of bounds.
    """
    value = number(cells, column, least, most)
    if not value.is_integer():
        raise ValueError(f"{column} is {cells[column][:LONGEST_VALUE]!r}; it must be a whole number")
    return int(cells[column]) if cells[column].strip().isdecimal() else int(value)


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
