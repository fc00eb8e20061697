"""The tables of a competition folder, read and checked: one `Image` for each row.

A competition folder holds ``train.csv``, ``test.csv``, ``sample_submission.csv``, ``train_images/{id}.tiff`` and
``test_images/{id}.tiff``. Every reader here collects all problems of a file and raises them together, each with its
row.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .competition import (
    HEIGHT,
    ID,
    NAME,
    NAMES,
    ORGAN,
    ORGANS,
    PIXEL_SIZE,
    RLE,
    SAMPLE_SUBMISSION,
    SOURCE,
    SOURCES,
    TABLES,
    THICKNESS,
    WIDTH,
    default_pixel_size_um,
    default_thickness_um,
    image_path,
    table_path,
)
from .words import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

WORKBOOK = b"PK\x03\x04"  # how a zip file begins, and so an Excel workbook
# Bounds of the numbers in a row; a number beyond them is in another unit, or mistyped. The competition's images have
# 160 to 4500 px a side, pixels of 0.229 to 6.263 um, and sections of 4 to 10 um.
PIXEL_SIZES_UM = (0.05, 20.0)
THICKNESSES_UM = (0.1, 1000.0)
MOST_SIDE_PX, MOST_PX = 2**20, 2**30  # OpenCV's limits of a side and of an image
CELL_CHARACTERS = 32767  # the most that a cell of Excel or LibreOffice holds; the rest is cut off
FEW_IMAGES = 10  # an organ or source with fewer images to train on is named
MANY = 4  # rows that break one rule and are named in one message
RANGES = 6  # ranges of rows that such a message names
_TEST_COLUMNS = (ID, ORGAN, SOURCE, HEIGHT, WIDTH)
_TRAIN_COLUMNS = (*_TEST_COLUMNS, RLE)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file.

    Attributes:
        severity: ``error`` or ``warning``.
        file: The file's name, as the user knows it.
        row: Line of the file, the header being row 1; None if the whole file is meant.
        rule: The rule that is broken, with the offending value.
        remedy: What to do about it.
        image_id: Id of the image, if the problem is one of an image.
    """

    severity: Literal["error", "warning"]
    file: str
    row: int | None
    rule: str
    remedy: str
    image_id: int | None = None

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}, row {self.row}"
        return f"{self.severity}: {where}: {self.rule}; {self.remedy}"

    def as_warning(self) -> Problem:
        """The same problem, as a warning."""
        return replace(self, severity="warning")


class DataError(ValueError):
    """Input that cannot be used. It carries every `Problem` that was found; its text has one per line."""

    def __init__(self, problems: list[Problem]):
        super().__init__("\n".join(map(str, summarize(problems))))
        self.problems = problems


def summarize(problems: Iterable[Problem]) -> list[Problem]:
    """Problems for people: where many rows break one rule, one problem names the first and says which others do.

    Rules are the same if they differ only in numbers and in words in quotes.

    >>> rows = [Problem("error", "train.csv", row, "organ is 'liver'", "correct the cell") for row in range(2, 353)]
    >>> print(*summarize(rows))
    error: train.csv, rows 2-352: organ is 'liver'; correct the cell
    """
    problems = list(problems)
    groups: dict[tuple[object, ...], list[Problem]] = {}
    for problem in problems:
        groups.setdefault(_rule_of(problem), []).append(problem)
    found = []
    for problem in problems:
        group = groups[_rule_of(problem)]
        if len(group) < MANY:
            found.append(problem)
        elif problem is group[0]:
            found.append(_summary(group))
    return found


def _rule_of(problem: Problem) -> tuple[object, ...]:
    """What the problems of one rule have in common."""
    rule = re.sub(r"'[^']*'|[0-9]+", "#", problem.rule)
    return problem.severity, problem.file, rule, problem.remedy, problem.row is None


def _summary(group: Sequence[Problem]) -> Problem:
    """One problem for many of the same rule."""
    first, *others = group
    rows = [problem.row for problem in group if problem.row is not None]
    ids = [problem.image_id for problem in group if problem.image_id is not None]
    if rows and all(problem.rule == first.rule for problem in group):
        return replace(first, file=f"{first.file}, rows {_ranges(rows)}", row=None)
    where = f"rows {_ranges(rows[1:])}" if rows else f"ids {_ranges(ids[1:])}" if ids else ""
    remedy = f"{first.remedy} (the same in {len(others)} more{where and ': '}{where})"
    return replace(first, remedy=remedy)


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers in order, neighbours as a range; the first few of them.

    >>> _ranges([2, 3, 4, 9])
    '2-4, 9'
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    parts = [f"{first}-{last}" if last > first else str(first) for first, last in ranges]
    return ", ".join([*parts[:RANGES], *(["..."] if len(parts) > RANGES else [])])


@dataclass(frozen=True)
class Image:
    """One image of a competition folder, as its row of the table describes it.

    Attributes:
        id: Its id.
        organ: Its organ, a key of `ORGANS` or another one.
        source: Who made the image, one of `SOURCES` or another one.
        shape: ``(height, width)`` in px.
        pixel_size_um: Side of a pixel in um.
        thickness_um: Thickness of the tissue section in um; None if it is not known.
        path: Its file.
        row: Its line in the table, the header being row 1.
        rle: Its true mask; empty in a test table, which has none.
        name: Its name, from ``names.csv``; empty in a folder without that file.
        assumed: Whether the table has no pixel size for it; `pixel_size_um` is then the competition's.
    """

    id: int
    organ: str
    source: str
    shape: tuple[int, int]
    pixel_size_um: float
    thickness_um: float | None
    path: Path
    row: int
    rle: str = ""
    name: str = ""
    assumed: bool = False

    def problem(self, rule: str, remedy: str, severity: Literal["error", "warning"] = "error") -> Problem:
        """A problem of this image, at its row of ``train.csv`` or ``test.csv``; its name comes before the rule."""
        table = self.path.parent.name.removesuffix("_images") + ".csv"
        return Problem(severity, table, self.row, f"{self.name!r}: {rule}" if self.name else rule, remedy, self.id)


@dataclass(frozen=True)
class Scan:
    """The usable rows of a table, and the problems of the others.

    Attributes:
        images: The images whose row has no problem, in the file's order.
        problems: Every problem, sorted by row.
        rows: Row of each id that could be read, of bad rows too, in the file's order.
        damaged: The images whose row is good but for a missing file or a mask that cannot be read; as in the row.
    """

    images: list[Image]
    problems: list[Problem]
    rows: dict[int, int]
    damaged: list[Image] = field(default_factory=list)


def read_images(folder: Path, split: str, *, check_files: bool = True) -> list[Image]:
    """Read and check ``train.csv`` or ``test.csv``.

    An empty cell of ``pixel_size`` or ``tissue_thickness``, or a table without these columns, stands for the value of
    the image's organ and source in `ORGANS`. Images of other organs and sources need a pixel size.

    Args:
        folder: Competition folder.
        split: ``train`` or ``test``.
        check_files: Whether each image's file must exist.

    Returns:
        One image per row, in the file's order.

    Raises:
        DataError: Every problem of the file, each with its row.
    """
    scan = scan_images(folder, split, check_files=check_files)
    if scan.problems:
        raise DataError(scan.problems)
    return scan.images


def scan_images(folder: Path, split: str, *, check_files: bool = True) -> Scan:
    """Read the good rows of ``train.csv`` or ``test.csv``, for callers that go on without the bad ones.

    Args:
        folder: Competition folder.
        split: ``train`` or ``test``.
        check_files: Whether each image's file must exist.

    Raises:
        DataError: The whole file cannot be read, or lacks a column.
    """
    from .rle import parse

    table = table_path(folder, split)
    ragged: list[Problem] = []
    cells = read_cells(table, _TEST_COLUMNS if split == "test" else _TRAIN_COLUMNS, ragged)
    problems = check_ids(table.name, cells[ID])
    bad_ids = {problem.row for problem in problems}
    rows = {int(value): row for row, value in zip(cells.index, cells[ID], strict=True) if row not in bad_ids}
    problems += _check_words(table.name, cells[ORGAN], ORGANS) + _check_words(table.name, cells[SOURCE], SOURCES)
    problems += check_sizes(table.name, cells)
    for column in (PIXEL_SIZE, THICKNESS):
        problems += _check_lengths(table.name, cells, column)
    problems += _check_pixel_sizes(table.name, cells)
    torn = {problem.row for problem in ragged}
    problems = ragged + [problem for problem in problems if problem.row not in torn]
    bad = {problem.row for problem in problems}
    names = {}
    try:
        names = read_names(folder)
    except DataError as error:
        problems += error.problems
    images: list[Image] = []
    damaged: list[Image] = []
    for row, cell in zip(cells.index, cells.to_dict("records"), strict=True):
        if row in bad:
            continue
        organ, source = cell[ORGAN], cell[SOURCE]
        image = Image(
            id=int(cell[ID]),
            organ=organ,
            source=source,
            shape=(int(cell[HEIGHT]), int(cell[WIDTH])),
            pixel_size_um=float(cell.get(PIXEL_SIZE) or ORGANS[organ].pixel_size_um[source]),
            thickness_um=float(cell[THICKNESS]) if cell.get(THICKNESS) else default_thickness_um(organ, source),
            path=image_path(folder, split, int(cell[ID])),
            row=row,
            rle="" if split == "test" else cell[RLE],
            name=names.get(int(cell[ID]), ""),
            assumed=not cell.get(PIXEL_SIZE),
        )
        found = []
        if check_files and not image.path.is_file():
            rule = f"image {image.path.parent.name}/{image.path.name} does not exist"
            found.append(image.problem(rule, "restore the file or delete the row"))
        try:
            parse(image.rle, image.shape)
        except ValueError as error:
            found.append(image.problem(str(error), "correct the mask's runs"))
        problems += found
        (damaged if found else images).append(image)
    if cells.empty:
        problems.append(Problem("error", table.name, None, "has no rows", "it needs one row for each image"))
    problems.sort(key=lambda problem: problem.row or 0)
    return Scan(images, problems, rows, damaged)


def remarks(images: Iterable[Image]) -> list[Problem]:
    """Warnings about rows that can be used, but that may be wrong; those of one kind are one warning."""
    found = []
    for image in images:
        if image.assumed:
            rule = f"{PIXEL_SIZE} is empty, and {image.pixel_size_um:g} um is assumed, as in the competition for"
            remedy = "if the image has another pixel size, write it into the cell"
            found.append(image.problem(f"{rule} {image.organ} by {image.source}", remedy, "warning"))
        if is_cut(image.rle):
            found.append(image.problem(f"the mask {CUT_RULE}", CUT_REMEDY, "warning"))
    return summarize(found)


def few_images(counts: Mapping[str, Mapping[str, int]]) -> str:
    """A line on organs and sources with fewer than `FEW_IMAGES` images to train on; empty if there are none.

    Args:
        counts: Number of images to train on, by ``organ`` and ``source`` and then by name.
    """
    few = [f"{name} {number}" for by_name in counts.values() for name, number in by_name.items() if number < FEW_IMAGES]
    return f"fewer than {FEW_IMAGES} images to train on: {', '.join(few)}; expect worse masks there" if few else ""


CUT_RULE = f"has {CELL_CHARACTERS} characters, the most that a cell of a spreadsheet holds: its end may be cut off"
CUT_REMEDY = "take it from a file that no spreadsheet has saved"


def is_cut(rle: str) -> bool:
    """Whether an RLE is exactly as long as a spreadsheet's cell can be."""
    return len(rle) == CELL_CHARACTERS


def read_names(folder: Path) -> dict[int, str]:
    """Read ``names.csv``, which `hubmap-kit import` writes: the name of each image by id; none if there is no file.

    Raises:
        DataError: Every problem of the file, each with its row.
    """
    path = folder / NAMES
    if not path.exists():
        return {}
    cells = read_cells(path, (ID, NAME))
    if problems := check_ids(path.name, cells[ID]):
        raise DataError(problems)
    return {int(image_id): name for image_id, name in zip(cells[ID], cells[NAME], strict=True)}


def table_of(images: Iterable[Image]) -> pd.DataFrame:
    """Images as a table with the competition's columns, ``rle`` among them."""
    import pandas as pd

    rows = [
        (i.id, i.organ, i.source, *i.shape, i.pixel_size_um, i.thickness_um, i.rle)  # in the order of the columns
        for i in images
    ]
    return pd.DataFrame(rows, columns=[ID, ORGAN, SOURCE, HEIGHT, WIDTH, PIXEL_SIZE, THICKNESS, RLE])


def read_sample_submission(folder: Path) -> list[int]:
    """Read and check ``sample_submission.csv``.

    Returns:
        Its ids, in its order.

    Raises:
        DataError: Every problem of the file, each with its row.
    """
    path = folder / SAMPLE_SUBMISSION
    cells = read_cells(path, (ID, RLE))
    problems = check_ids(path.name, cells[ID])
    if problems:
        raise DataError(problems)
    return [int(value) for value in cells[ID]]


def read_cells(path: Path, columns: tuple[str, ...], ragged: list[Problem] | None = None) -> pd.DataFrame:
    """Read a CSV as text. It is checked only for being a CSV and for having the columns.

    Args:
        path: The file; UTF-8.
        columns: The columns it must have; it may have others.
        ragged: List that gets the problems of rows with too few or too many fields; such rows are padded or cut. None
            raises the problems.

    Returns:
        Text cells. The index is the row as a person counts it, the header being row 1.

    Raises:
        DataError: The file is missing, empty, not UTF-8, ragged, or lacks a column.
    """
    import pandas as pd  # not at the top of the file, because the command line's help does without it

    def fail(rule: str, remedy: str) -> DataError:
        return DataError([Problem("error", path.name, None, rule, remedy)])

    # A long RLE exceeds the reader's usual limit of 128 KiB per field.
    csv.field_size_limit(2**31 - 1)
    try:
        with path.open("rb") as stored:
            if stored.read(4) == WORKBOOK:
                raise fail("is an Excel workbook", "save it as CSV with commas")
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = {row: record for row, record in enumerate(csv.reader(file), start=1) if record}
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise fail(f"there is no folder {path.parent.absolute()}", "check the path") from None
        in_layout = path.name in (*TABLES.values(), SAMPLE_SUBMISSION)
        meant = did_you_mean(path.name, (each.name for each in path.parent.glob("*.csv")))
        remedy = (
            "name a folder in the competition's layout; hubmap-kit import makes one of your own images"
            if in_layout
            else meant.removeprefix("; ") or "check the path"
        )
        raise fail(f"there is no such file in {path.parent.absolute()}", remedy) from None
    except UnicodeDecodeError as error:
        raise fail(f"is not UTF-8 text ({error.reason} at byte {error.start})", "save it as UTF-8") from error
    except csv.Error as error:
        raise fail(f"is not a CSV: {error}", "save it as comma-separated text") from error
    except OSError as error:
        raise fail(f"cannot be read: {error.strerror}", "check the path and its permissions") from error
    if not records:
        raise fail("the file is empty", f"it needs the header {','.join(columns)}")
    header = records.pop(min(records))
    for name, separator in {"semicolons": ";", "tabs": "\t"}.items():
        if len(header) == 1 and separator in header[0]:
            raise fail(f"has {name} between its columns", "save it as CSV with commas")
    if header[0].startswith("sep="):
        raise fail("begins with a line sep=, by which Excel knows the separator", "delete that line")
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
    if problems and ragged is None:
        raise DataError(problems)
    if ragged is not None:
        ragged += problems
        records = {row: [*record, *[""] * len(header)][: len(header)] for row, record in records.items()}
    return pd.DataFrame(list(records.values()), index=list(records), columns=header, dtype=str)


def check_ids(file: str, ids: pd.Series[str]) -> list[Problem]:
    """Problems of an ``id`` column: each id must be a whole number and appear once.

    Args:
        file: The file's name, for the messages.
        ids: Text cells, indexed by row.
    """
    problems = []
    first: dict[int, int] = {}
    for row, value in zip(ids.index, ids, strict=True):
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            problems.append(Problem("error", file, row, f"id {value!r} is not a whole number", "write the image's id"))
        elif int(value) in first:
            rule = f"id {int(value)} is already in row {first[int(value)]}"
            problems.append(Problem("error", file, row, rule, "keep one row per id", int(value)))
        else:
            first[int(value)] = row
    return problems


def check_sizes(file: str, cells: pd.DataFrame) -> list[Problem]:
    """Problems of height and width: whole numbers from 1 to `MOST_SIDE_PX`, and at most `MOST_PX` in all.

    Args:
        file: The file's name, for the messages.
        cells: Text cells, indexed by row.
    """
    problems = []
    for column in (HEIGHT, WIDTH):
        right = cells[column].str.fullmatch("[0-9]{1,18}")
        right &= cells[column].where(right, "0").astype("int64").between(1, MOST_SIDE_PX)
        problems += _check_column(file, cells[column], right, f"a whole number of pixels, from 1 to {MOST_SIDE_PX}")
    bad = {problem.row for problem in problems}
    for row, height, width in zip(cells.index, cells[HEIGHT], cells[WIDTH], strict=True):
        if row not in bad and int(height) * int(width) > MOST_PX:
            rule = f"{HEIGHT} x {WIDTH} is '{height} x {width}', more than {MOST_PX} pixels in all"
            problems.append(Problem("error", file, row, rule, "correct the cells, or cut the image into parts"))
    return problems


def _check_lengths(file: str, cells: pd.DataFrame, column: str) -> list[Problem]:
    """Problems of a column in um, which may be missing."""
    import pandas as pd

    if column not in cells:
        return []
    number = pd.to_numeric(cells[column], errors="coerce")
    least, most = PIXEL_SIZES_UM if column == PIXEL_SIZE else THICKNESSES_UM
    right = (cells[column] == "") | number.between(least, most)
    return _check_column(file, cells[column], right, f"a number of um from {least:g} to {most:g}, or empty")


def check_word(word: str, known: Iterable[str]) -> str:
    """The rule that an organ or a source breaks, if it breaks one; else an empty text.

    It may be any text without the characters that settings by organ use, but not another spelling of a known word.

    Args:
        word: The organ or the source.
        known: The words of the competition.

    >>> check_word("liver", ["kidney"]), check_word("Kidney", ["kidney"])
    ('', 'it must be kidney, spelled like this, or another word')
    """
    if word in known:
        return ""
    if not word or word != word.strip() or not word.isprintable() or any(sign in word for sign in ',="'):
        return f"it must be {', '.join(known)}, or another word without comma, equals sign, quotes and outer spaces"

    def plain(text: str) -> str:
        return "".join(sign for sign in text.casefold() if sign.isalnum())

    for other in known:
        if plain(word) == plain(other):
            return f"it must be {other}, spelled like this, or another word"
    return ""


def _check_words(file: str, column: pd.Series[str], known: Iterable[str]) -> list[Problem]:
    """Problems of the column of organs or of sources."""
    rules = {word: check_word(word, known) for word in column.unique()}
    return [
        Problem("error", file, row, f"{column.name} is {word!r}; {rules[word]}", "correct the cell")
        for row, word in zip(column.index, column, strict=True)
        if rules[word]
    ]


def _check_pixel_sizes(file: str, cells: pd.DataFrame) -> list[Problem]:
    """Problems of images without a pixel size whose organ and source are not the competition's."""
    problems = []
    given = cells[PIXEL_SIZE] if PIXEL_SIZE in cells else [""] * len(cells)
    for row, organ, source, um in zip(cells.index, cells[ORGAN], cells[SOURCE], given, strict=True):
        if um == "" and default_pixel_size_um(organ, source) is None:
            rule = f"organ is {organ!r} and data_source {source!r}, and {PIXEL_SIZE} is empty"
            remedy = "write the size of a pixel in um; hubmap-kit import does it with --pixel-size"
            problems.append(Problem("error", file, row, rule, remedy))
    return problems


def _check_column(file: str, column: pd.Series[str], right: pd.Series[bool], rule: str) -> list[Problem]:
    wrong = column[~right.astype(bool)]
    return [
        Problem("error", file, row, f"{column.name} is {value!r}; it must be {rule}", "correct the cell")
        for row, value in zip(wrong.index, wrong, strict=True)
    ]
