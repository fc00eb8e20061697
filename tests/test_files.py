"""Tests of files: what is written whole, and values of files that have another type than they should."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from hubmap_kit.claim import claim
from hubmap_kit.files import check_types, filling, has_type, read_rows, replacing, type_text, write_rows


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    """If writing fails, the old file stays as it was, and nothing is left beside it."""
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_filled_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    """Files arrive beside those that are there, files at the top last; after an exception nothing has changed."""
    folder = tmp_path / "data"

    def fill(text: str, *, fails: bool) -> None:
        with filling(folder) as part:
            (part / "images").mkdir()
            (part / "images" / "1.tiff").write_text(text)
            (part / "train.csv").write_text(text)
            if fails:
                raise ValueError("bad image")

    with pytest.raises(ValueError, match="bad image"):
        fill("new", fails=True)
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    (folder / "names.csv").write_text("old")
    fill("new", fails=False)
    assert list(tmp_path.iterdir()) == [folder]
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
    assert {name: path.read_text() for name, path in files.items()} == {
        "images/1.tiff": "new",
        "names.csv": "old",
        "train.csv": "new",
    }


def test_tables_are_moved_after_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table names no image that is not there yet, even if its name comes before that of the images' folder."""
    moved, rename = [], os.replace

    def replace(old: Path, new: Path) -> None:
        moved.append(new.name)
        rename(old, new)

    monkeypatch.setattr(os, "replace", replace)
    with filling(tmp_path / "data") as part:
        (part / "images").mkdir()
        (part / "images" / "1.tiff").write_text("")
        (part / "a.csv").write_text("")
    assert moved == ["1.tiff", "a.csv"]


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (int, (0, -3), (True, 1.0, "1", None)),
        (float, (0, 0.5, float("nan")), (False, "0.5", None)),
        (bool, (True, False), (0, 1, "true", None)),
        (str | None, ("", None), (0, [])),
        (int | Literal["all"] | None, (2, "all", None), ("every", True)),
        (list[str] | None, ([], ["a"], None), ("a", ["a", 1])),
        (tuple[float, ...], ((), (1, 2.5), [0.5]), (3, ("a",))),
        (Mapping[str, list[int]], ({}, {"a": [1]}), ([], {"a": 1}, {"a": [1.5]})),
        (Mapping[str, Any], ({"a": None}, {}), (None, {1: 2})),
    ],
)
def test_types_of_values(kind: Any, right: tuple[Any, ...], wrong: tuple[Any, ...]) -> None:
    """A value has the type of an annotation, or it does not; True is no number."""
    assert all(has_type(value, kind) for value in right)
    assert not any(has_type(value, kind) for value in wrong)
    assert type_text(kind)


def test_the_message_names_field_value_and_type() -> None:
    """A value of another type is named with its field and with the type that it must have."""

    @dataclass
    class Example:
        sizes: Mapping[str, int]
        name: str | None = None

    check_types(Example, {"sizes": {"a": 1}})
    with pytest.raises(ValueError, match=r"^name is 3; it must be a text or None$"):
        check_types(Example, {"name": 3})
    with pytest.raises(ValueError, match=r"^sizes\.a is '1'; it must be a whole number$"):
        check_types(Example, {"sizes": {"a": "1"}})


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_saved_by_a_spreadsheet_are_read(tmp_path, mark, separator, end):
    """A spreadsheet adds a byte order mark, changes line ends, separators and quotes; the rows stay the same."""
    path = tmp_path / "rows.csv"
    rows = [{"name": "one", "text": f"a{separator}b\nc"}, {"name": "two", "text": ""}]
    write_rows(path, ["name", "text"], rows)
    assert read_rows(path, ["name"]) == rows
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", "text"], delimiter=separator, lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)
    path.write_bytes(mark + path.read_bytes())
    assert read_rows(path, ["text", "name"]) == rows


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"name\none\n", "has no column text"),
        (b"", "has no column name, text"),
        (b"name,text\none\n", "row 2: it has more or fewer cells"),
        (b"name,text\none,a,b\n", "row 2: it has more or fewer cells"),
        (b"name,text\n\xff,\n", "is no CSV as UTF-8 text"),
    ],
)
def test_rows_that_are_damaged_are_named(tmp_path, content, rule):
    """A damaged table is an error that names the file; a missing one has no rows."""
    path = tmp_path / "rows.csv"
    assert read_rows(path, ["name"]) == []
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"rows.csv.*{rule}"):
        read_rows(path, ["name", "text"])


@pytest.mark.parametrize("kills_after", range(7))
def test_a_folder_killed_while_it_is_replaced_is_whole_or_gone(tmp_path, kills_after):
    """Whenever the process is killed, the folder is the old one, the new one, or not there: never a part of one."""
    (tmp_path / "old").mkdir()
    for number in range(3):
        (tmp_path / "old" / f"{number}.txt").write_text("old")
    program = f"""
import os, signal
from pathlib import Path
left = {kills_after}
def counted(real):
    def call(*arguments, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return call
for name in ("rename", "replace", "unlink", "rmdir"):
    setattr(os, name, counted(getattr(os, name)))
from hubmap_kit.files import replacing_folder
with replacing_folder(Path("old")) as new:
    for number in range(3):
        (new / f"{{number}}.txt").write_text("new")
"""
    status = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode
    assert status == -signal.SIGKILL
    held = [path.read_text() for path in (tmp_path / "old").glob("*.txt")]
    assert held in ([], 3 * ["old"], 3 * ["new"])
    with claim(tmp_path / "old", "the same command", folder=True):
        parts = list(tmp_path.glob(".*.part.*"))
    assert parts == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system reserves no room")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_room_for_a_file_is_found_out_before_it_is_written(tmp_path, monkeypatch, number):
    """A full disk, or a file that may not be as large, is an error of the file itself, and the old one stays."""

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    path = tmp_path / "weights"
    path.write_text("old")
    with pytest.raises(OSError, match=os.strerror(number)) as caught, replacing(path, 10**6):
        pytest.fail("there is no room")
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (OSError("100 requested and 7 written"), errno.EFBIG),  # NumPy's, here with room on the disk
        (OSError(errno.ENOSPC, "can't write\n(file write failed: ...)"), errno.ENOSPC),  # HDF5's
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
    ],
)
def test_a_full_disk_is_named_with_the_file(tmp_path, error, wanted):
    """Whatever words a library has for it, the error names the file, and the system's reason in one line."""
    path = tmp_path / "file"
    with pytest.raises(OSError, match=os.strerror(wanted)) as caught, replacing(path):
        raise error
    assert (caught.value.errno, caught.value.strerror, caught.value.filename) == (
        wanted,
        os.strerror(wanted),
        str(path),
    )


def test_an_error_about_another_file_stays(tmp_path):
    """A file that is read while another is written keeps its name."""
    with pytest.raises(FileNotFoundError, match="input"), replacing(tmp_path / "out"):
        (tmp_path / "input").read_text()
