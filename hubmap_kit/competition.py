"""The competition: its organs and pixel sizes, and its tables, read and checked.

A competition folder holds ``train.csv``, ``test.csv``, ``sample_submission.csv``,
``train_images/{id}.tiff`` and ``test_images/{id}.tiff``. Every reader here collects all
problems of a file and raises them together, each with its row.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

SLUG = "hubmap-organ-segmentation"
SOURCES = ("HPA", "Hubmap")


@dataclass(frozen=True)
class Organ:
    """What is known of one organ.

    Pixel sizes and section thicknesses are those of the competition's data page, by data source; they
    count where an image's own row of the table says nothing.
    """

    ftu: str
    pixel_size_um: dict[str, float]
    thickness_um: dict[str, float]


ORGANS = {
    "kidney": Organ("glomerulus", {"HPA": 0.4, "Hubmap": 0.5}, {"HPA": 4, "Hubmap": 10}),
    "prostate": Organ("glandular acinus", {"HPA": 0.4, "Hubmap": 6.263}, {"HPA": 4, "Hubmap": 5}),
    "largeintestine": Organ("crypt", {"HPA": 0.4, "Hubmap": 0.229}, {"HPA": 4, "Hubmap": 8}),
    "spleen": Organ("white pulp", {"HPA": 0.4, "Hubmap": 0.4945}, {"HPA": 4, "Hubmap": 4}),
    "lung": Organ("alveolus", {"HPA": 0.4, "Hubmap": 0.7562}, {"HPA": 4, "Hubmap": 5}),
}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file.

    Attributes:
        severity: ``error`` or ``warning``.
        file: The file's name as the user gave or would recognise it.
        row: Line of the file, the header being row 1; ``None`` where the file as a whole is meant.
        rule: What should hold, with the offending value.
        remedy: What to do about it.
    """

    severity: Literal["error", "warning"]
    file: str
    row: int | None
    rule: str
    remedy: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{self.severity}: {where}: {self.rule}; {self.remedy}"


class DataError(ValueError):
    """Input that cannot be used; carries every `Problem` found, one a line in its text."""

    def __init__(self, problems: list[Problem]):
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


_TEST_COLUMNS = ("id", "organ", "data_source", "img_height", "img_width")
_TRAIN_COLUMNS = (*_TEST_COLUMNS, "rle")
# Columns in um, and where `Organ` has what an empty cell, or a column that is not there, stands for.
_KNOWN_UM = {"pixel_size": "pixel_size_um", "tissue_thickness": "thickness_um"}


def read_train(folder: Path) -> pd.DataFrame:
    """Read and check ``train.csv`` and that its images exist.

    An image's own ``pixel_size`` and ``tissue_thickness`` count; where the cell is empty, or the
    column missing, they are those of its organ and source in `ORGANS`.

    Returns:
        One row an image, indexed by ``id`` (int64): ``organ``, ``data_source`` (str),
        ``img_height``, ``img_width`` (int64, px), ``pixel_size`` (float, um),
        ``tissue_thickness`` (float, um), ``rle`` (str), and any other column as text.

    Raises:
        DataError: Every problem of the file, each with its row.
    """
    return _raise_problems(*_check_images_table(folder, "train", _TRAIN_COLUMNS))


def read_test(folder: Path, *, check_images: bool = True) -> pd.DataFrame:
    """Read and check ``test.csv`` and that its images exist; as `read_train`, without ``rle``."""
    return _raise_problems(*_check_images_table(folder, "test", _TEST_COLUMNS, check_images))


def scan_images(folder: Path, split: str) -> tuple[pd.DataFrame, list[Problem], dict[int, int]]:
    """Read what can be used of ``train.csv`` or ``test.csv``, for callers that go on without the rest.

    Returns:
        The rows without a problem, as `read_train` or `read_test`; every problem found; and the row
        of each id, of bad rows too, in the file's order.

    Raises:
        DataError: The file as a whole cannot be read or lacks a column.
    """
    return _check_images_table(folder, split, _TEST_COLUMNS if split == "test" else _TRAIN_COLUMNS)


def read_sample_submission(folder: Path) -> pd.Index:
    """Read and check ``sample_submission.csv``.

    Returns:
        Its ids (int64), in its order.

    Raises:
        DataError: Every problem of the file, each with its row.
    """
    import pandas as pd

    path = folder / "sample_submission.csv"
    cells = read_cells(path, ("id", "rle"))
    problems = check_ids(path.name, cells["id"])
    if problems:
        raise DataError(problems)
    return pd.Index(cells["id"].astype("int64"), name="id")


def image_path(folder: Path, split: str, image_id: int) -> Path:
    """Where the image of that id lies: ``{split}_images/{id}.tiff``."""
    return folder / f"{split}_images" / f"{image_id}.tiff"


def read_cells(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV as text, checking only that it is one and has the columns.

    Args:
        path: The file; UTF-8.
        columns: Those it must have; others are kept.

    Returns:
        Text cells; the index is the row as a person counts it, the header being row 1.

    Raises:
        DataError: The file is missing, empty, not UTF-8, ragged, or lacks a column.
    """
    import pandas as pd  # here, not on top: the command line's help needs none of it

    def fail(rule: str, remedy: str) -> DataError:
        return DataError([Problem("error", path.name, None, rule, remedy)])

    # A long RLE exceeds the reader's usual limit of 128 KiB a field.
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = {row: record for row, record in enumerate(csv.reader(file), start=1) if record}
    except FileNotFoundError:
        raise fail(f"there is no such file in {path.parent}", "name a folder in the competition's layout") from None
    except UnicodeDecodeError as error:
        raise fail(f"is not UTF-8 text ({error.reason} at byte {error.start})", "save it as UTF-8") from error
    except csv.Error as error:
        raise fail(f"is not a CSV: {error}", "save it as comma-separated text") from error
    except OSError as error:
        raise fail(f"cannot be read: {error.strerror}", "check the path and its permissions") from error
    if not records:
        raise fail("the file is empty", f"it needs the header {','.join(columns)}")
    header = records.pop(min(records))
    problems = [
        Problem("error", path.name, 1, f"column {name!r} is missing", f"the columns are {','.join(columns)}")
        for name in columns
        if name not in header
    ]
    problems += [
        Problem("error", path.name, 1, f"column {name!r} appears twice", "keep one of them")
        for name in sorted({name for name in header if header.count(name) > 1})
    ]
    if problems:
        raise DataError(problems)
    problems = [
        Problem("error", path.name, row, f"has {len(record)} fields, the header {len(header)}", "correct the row")
        for row, record in records.items()
        if len(record) != len(header)
    ]
    if problems:
        raise DataError(problems)
    return pd.DataFrame(records.values(), index=list(records), columns=header, dtype=str)


def check_ids(file: str, ids: pd.Series) -> list[Problem]:
    """Problems of an ``id`` column of text cells indexed by row: whole numbers, each once."""
    whole = ids.str.fullmatch("[0-9]{1,18}")
    problems = [
        Problem("error", file, int(row), f"id {value!r} is not a whole number", "write the image's number")
        for row, value in ids[~whole].items()
    ]
    numbers = ids[whole].astype("int64")
    first = {number: row for row, number in reversed(list(numbers.items()))}
    problems += [
        Problem("error", file, int(row), f"id {value} is already in row {first[value]}", "keep one row an id")
        for row, value in numbers[numbers.duplicated()].items()
    ]
    return problems


def check_sizes(file: str, cells: pd.DataFrame) -> list[Problem]:
    """Problems of the columns ``img_height`` and ``img_width`` of text cells indexed by row: whole, at least 1."""
    problems = []
    for column in ("img_height", "img_width"):
        whole = cells[column].str.fullmatch("0*[1-9][0-9]{0,8}")
        problems += _check_column(file, cells[column], whole, "a whole number of pixels, at least 1")
    return problems


def _raise_problems(table: pd.DataFrame, problems: list[Problem], _: dict[int, int]) -> pd.DataFrame:
    if problems:
        raise DataError(problems)
    return table


def _check_images_table(
    folder: Path, split: str, columns: tuple[str, ...], check_images: bool = True
) -> tuple[pd.DataFrame, list[Problem], dict[int, int]]:
    """Check each cell; returns the typed rows that passed, the problems sorted by row, and the row of each id."""
    import pandas as pd

    from .rle import parse

    name = f"{split}.csv"
    cells = read_cells(folder / name, columns)
    problems = check_ids(name, cells["id"])
    bad_ids = {problem.row for problem in problems}
    rows = {int(value): int(row) for row, value in cells["id"].items() if row not in bad_ids}
    problems += _check_column(name, cells["organ"], cells["organ"].isin(list(ORGANS)), f"one of {', '.join(ORGANS)}")
    problems += _check_column(
        name, cells["data_source"], cells["data_source"].isin(SOURCES), f"one of {', '.join(SOURCES)}"
    )
    problems += check_sizes(name, cells)
    for column in _KNOWN_UM:
        if column not in cells:
            cells[column] = ""
        number = pd.to_numeric(cells[column], errors="coerce")
        right = (cells[column] == "") | ((number > 0) & (number < float("inf")))
        problems += _check_column(name, cells[column], right, "a number above 0, in um, or empty")
    bad = {problem.row for problem in problems}
    good = cells[~cells.index.isin(list(bad))]
    for row, image_id in good["id"].items():
        path = image_path(folder, split, int(image_id))
        if check_images and not path.is_file():
            rule = f"image {path.parent.name}/{path.name} does not exist"
            problems.append(Problem("error", name, int(row), rule, "restore the file or delete the row"))
    if "rle" in columns:
        for row, cell in good.iterrows():
            try:
                parse(cell["rle"], (int(cell["img_height"]), int(cell["img_width"])))
            except ValueError as error:
                problems.append(Problem("error", name, int(row), str(error), "correct the mask's runs"))
    if cells.empty:
        problems.append(Problem("error", name, None, "has no rows", "it needs one row an image"))
    problems.sort(key=lambda problem: problem.row or 0)
    bad = {problem.row for problem in problems}
    table = cells[~cells.index.isin(list(bad))].copy()
    for column, known in _KNOWN_UM.items():
        table[column] = [
            float(cell or getattr(ORGANS[organ], known)[source])
            for cell, organ, source in zip(table[column], table["organ"], table["data_source"], strict=True)
        ]
    types = {"id": "int64", "img_height": "int64", "img_width": "int64", **dict.fromkeys(_KNOWN_UM, "float64")}
    return table.astype(types).set_index("id"), problems, rows


def _check_column(file: str, column: pd.Series, right: pd.Series, rule: str) -> list[Problem]:
    return [
        Problem("error", file, int(row), f"{column.name} is {value!r}; it must be {rule}", "correct the cell")
        for row, value in column[~right.astype(bool)].items()
    ]
