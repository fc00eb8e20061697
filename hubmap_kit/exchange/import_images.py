"""Makes a competition folder of your own images: ``hubmap-kit import``.

::

    train.csv, train_images/{id}.tiff     images with masks
    test.csv, test_images/{id}.tiff       images to predict, and sample_submission.csv
    test_truth.csv                        masks of the test images, if there are any
    names.csv                             id, name: the name of each image's file, without its ending
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from .. import rle
from ..cluster import spread
from ..competition import (
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
    THICKNESS,
    WIDTH,
    image_path,
    table_path,
)
from ..config import SettingError
from ..files import filling, is_free
from ..progress import track
from ..tables import PIXEL_SIZES_UM, DataError, Problem, check_word, read_cells, read_names
from ..words import count, did_you_mean, listed
from .geojson import read_annotations
from .pixels import IMAGE_SUFFIXES, MASK_SUFFIXES, large_pictures, name_of, read_mask, take_image

TRUTH = "test_truth.csv"
GEOJSON_SUFFIXES = (".geojson", ".json")

_COLUMNS = [ID, ORGAN, SOURCE, HEIGHT, WIDTH, PIXEL_SIZE, THICKNESS]
_TRUTH_COLUMNS = [ID, ORGAN, SOURCE, HEIGHT, WIDTH, RLE]
_Runs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Import:
    """The images to import, and what is known about them.

    Attributes:
        images: Folder of images; its subfolders are not read.
        organ: Organ of all of them.
        pixel_size_um: Size of their pixels in µm.
        source: Lab or scanner that they are from.
        split: ``train`` or ``test``; None for train if there are masks, else test.
        masks: Folder of masks, each of the name of its image; None if there are none.
        geojson: Folder of GeoJSON, instead of `masks`.
        mask_threshold: Value from which a pixel of a mask is foreground; None for 1.
        labels: Classes of GeoJSON whose areas are foreground; all by default.
    """

    images: Path
    organ: str
    pixel_size_um: float
    source: str = "own"
    split: str | None = None
    masks: Path | None = None
    geojson: Path | None = None
    mask_threshold: int | None = None
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, known in (("organ", ORGANS), ("source", SOURCES)):
            if rule := check_word(getattr(self, name), known):
                raise SettingError(name, f"is {getattr(self, name)!r}; {rule}")
        least, most = PIXEL_SIZES_UM
        if not least <= self.pixel_size_um <= most:
            raise SettingError(
                "pixel_size",
                f"is {self.pixel_size_um}; the side of a pixel in um is from {least:g} to {most:g}, as in the "
                "properties of the slide",
            )
        if self.masks and self.geojson:
            raise SettingError("masks", "and --geojson are both given; give one of them")
        if self.split == "train" and not self.truth:
            raise SettingError("split", "is train; training images need --masks or --geojson")
        if self.labels and not self.geojson:
            raise SettingError("label", "chooses classes of --geojson, which is not given")
        if self.mask_threshold is not None and not (self.masks and self.mask_threshold >= 1):
            raise SettingError(
                "mask_threshold", "is a value of --masks from which on, at least 1, a pixel is foreground"
            )

    @property
    def truth(self) -> Path | None:
        """The folder of masks, of either kind."""
        return self.masks or self.geojson

    @property
    def part(self) -> str:
        """``train`` or ``test``."""
        return self.split or ("train" if self.truth else "test")


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        images: Number of images.
        split: ``train`` or ``test``.
        masks: Whether they have masks.
        warnings: What the user should know.
    """

    images: int
    split: str
    masks: bool
    warnings: list[Problem]


@dataclass(frozen=True)
class _Taken:
    """One image that was read and written."""

    shape: tuple[int, int]
    runs: _Runs
    labels: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    doubt: str = ""


def import_images(given: Import, out: Path) -> Imported:
    """Make a competition folder of images, or add images to one that this function made.

    Images get the numbers after those that are there already, as the competition's tables need whole numbers; their
    names are kept in ``names.csv``. A TIFF is copied, a PNG or JPEG is decoded and written as TIFF. Nothing is written
    to `out` unless every image and mask can be used.

    Args:
        given: The images.
        out: A new or empty folder, or one that this function made.

    Raises:
        DataError: Every image or mask that cannot be used, with its file, the rule and a remedy.
        ValueError: `out` is another folder, or one that the images cannot be added to.
    """
    tables = _Tables.of(out, given)
    paths, warnings = _images_in(given.images)
    masks = _masks_of(paths, given, warnings)
    tables.check_names([name_of(path) for path in paths], given)
    ids = range(tables.next_id, tables.next_id + len(paths))
    with filling(out) as part, large_pictures():
        (part / f"{given.part}_images").mkdir()

        def take(number: int) -> _Taken:
            shape = take_image(paths[number], image_path(part, given.part, ids[number]))
            return _taken(shape, masks.get(paths[number]), given)

        taken, problems = _take_all(take, paths, masks)
        if problems:
            raise DataError(problems)
        _check_labels(_sum(each.labels for each in taken.values()), given)
        rows = _rows([taken[number] for number in range(len(paths))], ids, given)
        names = {image_id: name_of(path) for image_id, path in zip(ids, paths, strict=True)}
        tables.write(part, rows, names, given)
    warnings += _doubts(paths, taken, given)
    return Imported(len(paths), given.part, given.truth is not None, warnings)


def _take_all(
    take: Callable[[int], _Taken], paths: Sequence[Path], masks: Mapping[Path, Path]
) -> tuple[dict[int, _Taken], list[Problem]]:
    """Take all images, several at once; the problems are in the order of the files."""
    taken, problems = dict[int, _Taken](), dict[int, Problem]()
    for number, result in track(spread(take, range(len(paths))), len(paths), "import"):
        if isinstance(result, (OSError, ValueError)):
            problems[number] = _problem_of(result, paths[number], masks.get(paths[number]))
        elif isinstance(result, Exception):
            raise result
        else:
            taken[number] = result
    return taken, [problems[number] for number in sorted(problems)]


def _problem_of(error: Exception, image: Path, mask: Path | None) -> Problem:
    """An error of an image or its mask, whose text is the file, the rule and the remedy, as a `Problem`."""
    text = str(error)
    if isinstance(error, OSError):
        file = str(error.filename or image)
        return Problem("error", file, None, f"cannot be read: {error.strerror or text}", "check the file and the disk")
    for path in (image, mask):
        if path and text.startswith(f"{path}: "):
            rule, _, remedy = text.removeprefix(f"{path}: ").rpartition("; ")
            return Problem("error", str(path), None, rule, remedy)
    return Problem("error", str(image), None, text, "correct the file")


def _taken(shape: tuple[int, int], mask: Path | None, given: Import) -> _Taken:
    if mask is None:
        return _Taken(shape, np.zeros((0, 2), np.int64))
    if given.geojson:
        found = read_annotations(mask, shape, given.labels)
        return _Taken(shape, found.runs, found.labels, found.others)
    pixels, doubt = read_mask(mask, shape, given.mask_threshold)
    return _Taken(shape, rle.mask_to_runs(pixels), doubt=doubt)


def _images_in(folder: Path) -> tuple[list[Path], list[Problem]]:
    """The images of a folder, by name; and a warning of files that are none."""
    files = [path for path in _files_in(folder) if not path.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        holds = f"holds no TIFF, PNG or JPEG, but {listed([path.name for path in files])}" if files else "holds no file"
        rule = f"{holds}; subfolders are not read"
        raise DataError([Problem("error", str(folder), None, rule, "name the folder that holds the images themselves")])
    others = [path.name for path in files if path not in images]
    warnings = []
    if others:
        rule = f"left out: {count(len(others), 'file')} other than TIFF, PNG and JPEG, {listed(others)}"
        warnings.append(Problem("warning", str(folder), None, rule, "export them as TIFF if they are images"))
    names: dict[str, Path] = {}
    problems = []
    for path in images:
        # Without regard to case, because some file systems have none.
        other = names.setdefault(name_of(path).casefold(), path)
        if other != path:
            rule = f"has the same name as {other.name}"
            problems.append(Problem("error", str(path), None, rule, "rename one of them, and its mask"))
    if problems:
        raise DataError(problems)
    return images, warnings


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        rule = f"cannot be read: {error.strerror}"
        raise DataError([Problem("error", str(folder), None, rule, "name a folder of files")]) from error


def _masks_of(images: Sequence[Path], given: Import, warnings: list[Problem]) -> dict[Path, Path]:
    """The mask of each image: a file of the image's name, with or without the image's own ending."""
    if given.truth is None:
        return {}
    suffixes = GEOJSON_SUFFIXES if given.geojson else MASK_SUFFIXES
    files = [path for path in _files_in(given.truth) if path.suffix.lower() in suffixes]
    found, problems = {}, []
    for image in images:
        own = [path for path in files if path.stem in (name_of(image), image.name) or name_of(path) == name_of(image)]
        if len(own) == 1:
            found[image] = own[0]
        elif own:
            rule = f"has more than one mask: {listed([path.name for path in own])}"
            problems.append(Problem("error", str(image), None, rule, "keep one of them"))
        else:
            rule = f"has no mask {given.truth / name_of(image)}{suffixes[0]}"
            problems.append(
                Problem("error", str(image), None, rule, "add the mask, or take the image out of the folder")
            )
    if problems:
        raise DataError(problems)
    strays = [path.name for path in files if path not in found.values()]
    if strays:
        rule = f"left out: {count(len(strays), 'mask')} without an image, {listed(strays)}"
        warnings.append(Problem("warning", str(given.truth), None, rule, "a mask has the name of its image"))
    return found


def _check_labels(labels: Counter[str], given: Import) -> None:
    """Refuse a class that no area has."""
    unknown = [label for label in given.labels if label not in labels]
    if unknown:
        rule = f"no area is of class {', '.join(unknown)}; there are {_counted(labels) or 'no areas'}"
        raise DataError(
            [Problem("error", str(given.geojson), None, rule, "give --label as the class is spelled there")]
        )


def _doubts(paths: Sequence[Path], taken: dict[int, _Taken], given: Import) -> list[Problem]:
    """Warnings about the organ's name and the masks."""
    doubts = []

    def warn(rule: str, remedy: str) -> None:
        doubts.append(Problem("warning", str(given.truth or given.images), None, rule, remedy))

    if given.organ not in ORGANS and (meant := did_you_mean(given.organ, ORGANS)):
        remedy = f"{meant.removeprefix('; ')} Then import again, into a new folder"
        warn(f"--organ {given.organ} is none of the competition's organs", remedy)
    if given.truth is None:
        return doubts
    empty = [paths[number].name for number in range(len(paths)) if len(taken[number].runs) == 0]
    if empty:
        warn(
            f"empty mask of {count(len(empty), 'image')}: {listed(empty)}",
            "look at them: an image that shows units needs a mask",
        )
    unsure = [taken[number].doubt for number in range(len(paths)) if taken[number].doubt]
    if unsure:
        more = f", and {count(len(unsure) - 1, 'mask')} more like it" if len(unsure) > 1 else ""
        warn(f"{unsure[0]}{more}", "if these are blurred edges, give --mask-threshold 128")
    labels, others = _sum(each.labels for each in taken.values()), _sum(each.others for each in taken.values())
    if others:
        warn(f"left out: annotations that are no areas, {_counted(others)}", "draw areas where they are units")
    if len(labels) > 1 and not given.labels:
        warn(f"areas have several classes: {_counted(labels)}", "all count as foreground; choose with --label")
    return doubts


def _sum(counts: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counts, Counter[str]())


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _rows(taken: Sequence[_Taken], ids: Sequence[int], given: Import) -> pd.DataFrame:
    """Rows of the table of a split, with the masks, as text cells."""
    rows = [
        (str(image_id), given.organ, given.source, *map(str, each.shape), f"{given.pixel_size_um:.12g}", "")
        for image_id, each in zip(ids, taken, strict=True)
    ]
    masks = [rle.encode_runs(each.runs) for each in taken]
    return pd.DataFrame(rows, columns=_COLUMNS).assign(**{RLE: masks})


@dataclass(frozen=True)
class _Tables:
    """The tables of the folder that is added to, as text cells; without rows in a new folder."""

    train: pd.DataFrame
    test: pd.DataFrame
    truth: pd.DataFrame
    names: dict[int, str]

    @classmethod
    def of(cls, out: Path, given: Import) -> _Tables:
        """Read them.

        Raises:
            ValueError: The folder was not made by `import_images`, or the images cannot be added to it.
            DataError: A table is damaged.
        """
        if not (is_free(out) or (out / NAMES).is_file()):
            raise ValueError(
                f"{out} exists and was not made by hubmap-kit import, since it has no {NAMES}; name another folder"
            )

        def read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
            if path.is_file():
                return read_cells(path, tuple(columns))
            return pd.DataFrame(columns=list(columns), dtype=str)

        tables = cls(
            read(table_path(out, "train"), [*_COLUMNS, RLE]),
            read(table_path(out, "test"), _COLUMNS),
            read(out / TRUTH, _TRUTH_COLUMNS),
            read_names(out),
        )
        if given.part == "test" and len(tables.test) and bool(len(tables.truth)) != (given.truth is not None):
            have, lack = ("have masks", "these have none") if len(tables.truth) else ("have no masks", "these do")
            raise ValueError(
                f"the test images of {out} {have}, and {lack}, so that {TRUTH} would lack some; "
                "name another folder for them"
            )
        return tables

    @property
    def next_id(self) -> int:
        """The id of the next image."""
        return 1 + max([0, *self.names, *map(int, self.train[ID]), *map(int, self.test[ID])])

    def check_names(self, names: Sequence[str], given: Import) -> None:
        """Refuse names that images of the same split have already."""
        table = self.train if given.part == "train" else self.test
        there = {self.names.get(int(image_id), "").casefold(): image_id for image_id in table[ID]}
        problems = [
            Problem(
                "error",
                str(given.images),
                None,
                f"{name} is the name of {given.part} image {there[name.casefold()]} already",
                "rename the file, or take it out of the folder",
            )
            for name in names
            if name.casefold() in there
        ]
        if problems:
            raise DataError(problems)

    def write(self, folder: Path, rows: pd.DataFrame, names: Mapping[int, str], given: Import) -> None:
        """Write the tables that change, with the new rows, to a folder."""
        new: dict[str, tuple[pd.DataFrame, pd.DataFrame]] = {}  # rows before, and those to add, by file name
        table = table_path(folder, given.part).name
        if given.part == "train":
            new[table] = self.train, rows
        else:
            new[table] = self.test, rows[_COLUMNS]
            ids = pd.concat([self.test, rows])[[ID]]
            new[SAMPLE_SUBMISSION] = ids.iloc[:0].assign(**{RLE: ""}), ids.assign(**{RLE: "1 1"})
            if given.truth:
                new[TRUTH] = self.truth, rows[_TRUTH_COLUMNS]
        everything = {**self.names, **names}
        columns = {ID: list(map(str, everything)), NAME: list(everything.values())}
        new[NAMES] = pd.DataFrame({ID: [], NAME: []}, dtype=str), pd.DataFrame(columns)
        for name, (before, added) in new.items():
            pd.concat([before, added]).fillna("").to_csv(folder / name, index=False, lineterminator="\n")
