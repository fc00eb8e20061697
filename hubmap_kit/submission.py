"""A submission: writing, validating and scoring it, and the files beside it.

::

    submission.csv                  id, rle
    submission.csv.problems.csv     what was wrong with the input, see `hubmap_kit.tables.Problem`; only if anything was
    submission.csv.timings.csv      seconds and settings of each image, see `Timing`
    submission.csv.progress.jsonl   the masks predicted so far, while a prediction runs, see
                                    `hubmap_kit.prediction.journal`

No mask is decoded and no image is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from . import rle
from .competition import HEIGHT, ID, ORGAN, RLE, SOURCE, WIDTH
from .files import read_rows, replacing, write_rows
from .tables import (
    CUT_REMEDY,
    CUT_RULE,
    MOST_SIDE_PX,
    DataError,
    Problem,
    check_ids,
    check_sizes,
    is_cut,
    read_cells,
    scan_images,
)
from .words import count

__all__ = ["score", "validate"]  # the public interface; the kit itself uses more

COLUMNS = (ID, RLE)


@dataclass(frozen=True)
class Timing:
    """How one image was predicted, and how long that took.

    Attributes:
        id: The image's id.
        seconds: Sum of the seconds of all stages; the stages of different images overlap.
        networks: Number of networks that saw it; None if it was not predicted here.
        scales: Number of scales at which each network saw it.
        tta: Test-time augmentation.
        overlap: Overlap of neighbouring tiles, a fraction.
    """

    id: int
    seconds: float
    networks: int | None = None
    scales: int | None = None
    tta: str | None = None
    overlap: float | None = None


def problems_path(submission: Path) -> Path:
    """The file that lists the problems of a prediction."""
    return submission.with_name(f"{submission.name}.problems.csv")


def timings_path(submission: Path) -> Path:
    """The file that lists the timings of a prediction."""
    return submission.with_name(f"{submission.name}.timings.csv")


def progress_path(submission: Path) -> Path:
    """The file in which a running prediction keeps its masks."""
    return submission.with_name(f"{submission.name}.progress.jsonl")


def write_problems(submission: Path, problems: Iterable[Problem]) -> None:
    """Write the problems of a prediction beside its submission; without any, remove an older list."""
    path, rows = problems_path(submission), [asdict(problem) for problem in problems]
    if rows:
        write_rows(path, [field.name for field in fields(Problem)], rows)
    else:
        path.unlink(missing_ok=True)


def read_problems(submission: Path) -> list[Problem]:
    """Read the problems of a prediction from beside its submission; none if there is no list."""
    return [
        Problem(
            "warning" if cell["severity"] == "warning" else "error",
            cell["file"],
            int(cell["row"]) if cell["row"] else None,
            cell["rule"],
            cell["remedy"],
            int(cell["image_id"]) if cell.get("image_id") else None,  # 0.3.0 wrote no such column
        )
        for cell in read_rows(problems_path(submission), ("severity", "file", "row", "rule", "remedy"))
    ]


def write_timings(submission: Path, timings: Iterable[Timing]) -> None:
    """Write the timings of a prediction beside its submission."""
    rows = [asdict(timing) | {"seconds": round(timing.seconds, 4)} for timing in timings]
    write_rows(timings_path(submission), [field.name for field in fields(Timing)], rows)


def read_timings(submission: Path) -> list[Timing]:
    """Read the timings of a prediction from beside its submission; none if there is no list."""
    return [
        Timing(
            int(cell["id"]),
            float(cell["seconds"]),
            int(cell["networks"]) if cell["networks"] else None,
            int(cell["scales"]) if cell["scales"] else None,
            cell["tta"] or None,
            float(cell["overlap"]) if cell["overlap"] else None,
        )
        for cell in read_rows(timings_path(submission), [field.name for field in fields(Timing)])
    ]


def write(path: Path, masks: Mapping[int, str], ids: Iterable[int]) -> None:
    """Write ``submission.csv``.

    Args:
        path: The file; it is written beside and renamed.
        masks: RLE by image id. An id without one gets an empty mask.
        ids: Image ids in the order of the rows. They alone decide which rows there are, so that none can be missing.
    """
    with replacing(path) as part, part.open("w", encoding="ascii", newline="\n") as file:
        file.write(",".join(COLUMNS) + "\n")
        for image_id in ids:
            # Written in pieces, so that the mask of a large image is not copied. No cell needs quoting.
            file.writelines((f"{image_id},", masks.get(image_id, ""), "\n"))


def count_masks(path: Path) -> tuple[int, int]:
    """Number of masks of a submission that was written here, and how many of them are empty."""
    with path.open(encoding="ascii") as file:
        next(file)
        empty = [line.rstrip("\n").endswith(",") for line in file]
    return len(empty), sum(empty)


def validate(submission: str | Path, data: str | Path) -> list[Problem]:
    """Check a submission as Kaggle's scorer would, and more.

    The header is exactly ``id,rle``; each id of ``test.csv`` appears once, and no other id does; each RLE is well
    formed and inside its image.

    Args:
        submission: The CSV.
        data: Competition folder; its ``test.csv`` is read.

    Returns:
        Every problem, sorted by row. The submission is valid if none of them is an ``error``. An empty mask is a
        ``warning``, and so is an unfinished prediction. Problems of ``test.csv`` itself are included.
    """
    try:
        scan = scan_images(Path(data), "test", check_files=False)
    except DataError as error:
        return error.problems
    names = {image.id: image.name for image in scan.images if image.name}
    # The mask of a bad row may have any size.
    shapes = dict.fromkeys(scan.rows, (MOST_SIDE_PX, MOST_SIDE_PX)) | {image.id: image.shape for image in scan.images}
    return (
        scan.problems
        + unfinished(Path(submission))
        + [
            replace(problem, rule=f"{names[problem.image_id]!r}: {problem.rule}")
            if problem.image_id in names
            else problem
            for problem in _check(Path(submission), shapes)[1]
        ]
    )


def unfinished(submission: Path) -> list[Problem]:
    """A warning if the prediction that writes a submission has not ended."""
    if not progress_path(submission).is_file():
        return []
    rule = f"its prediction is unfinished, as {progress_path(submission).name} shows: masks may be missing"
    return [Problem("warning", submission.name, None, rule, "run the same hubmap-kit predict again, and it goes on")]


def read_masks(
    submission: Path, shapes: Mapping[int, tuple[int, int]]
) -> tuple[dict[int, str], dict[int, np.ndarray], list[Problem]]:
    """Read the good rows of a submission, for callers that go on without the bad ones.

    Args:
        submission: The CSV.
        shapes: ``(height, width)`` in px of each image that it should hold, by id.

    Returns:
        The RLE and the RLE runs of each good row, by id and in the file's order; and every problem of the file.
    """
    runs, problems = _check(submission, shapes)
    if not runs:
        return {}, {}, problems
    cells = read_cells(submission, COLUMNS)
    good = {str(image_id) for image_id in runs}
    texts: dict[int, str] = {}
    for text_id, text in zip(cells[ID].str.lstrip("0"), cells[RLE], strict=True):
        if (text_id or "0") in good:
            texts.setdefault(int(text_id or "0"), text)  # of rows with the same id, the first is good
    return texts, runs, problems


def read_truth(path: Path) -> tuple[dict[int, str], dict[int, np.ndarray], dict[int, tuple[int, int]]]:
    """Read a CSV of true masks.

    Args:
        path: A CSV with ``id,rle,img_height,img_width``.

    Returns:
        The RLE, the RLE runs, and ``(height, width)`` in px of each image, by id.

    Raises:
        DataError: Every problem of the file.
    """
    cells, shapes, runs = _read_truth(path)
    return {int(i): text for i, text in zip(cells[ID], cells[RLE], strict=True)}, runs, shapes


def score(submission: str | Path, truth: str | Path) -> pd.DataFrame:
    """Score a submission by the competition's rule: Dice of each image, computed on its RLE runs.

    Args:
        submission: The CSV.
        truth: A CSV with ``id,rle,img_height,img_width`` and, if known, ``organ`` and ``data_source``.

    Returns:
        Columns ``id``, ``organ`` and ``data_source`` (if known) and ``dice`` in [0, 1], in the truth's order.

    Raises:
        DataError: Every problem of the truth, or every error of the submission.
    """
    answers, shapes, true_runs = _read_truth(Path(truth))
    runs, problems = _check(Path(submission), shapes)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise DataError(errors)
    scores = answers[[ID, *(column for column in (ORGAN, SOURCE) if column in answers)]].astype({ID: "int64"})
    scores["dice"] = [rle.dice_of_runs(runs[image_id], true_runs[image_id]) for image_id in scores[ID]]
    return scores.reset_index(drop=True)


def _read_truth(path: Path) -> tuple[pd.DataFrame, dict[int, tuple[int, int]], dict[int, np.ndarray]]:
    """The truth's text cells; the shape of each image by id; and the RLE runs of each true mask by id."""
    cells = read_cells(path, (ID, RLE, HEIGHT, WIDTH))
    problems = [*check_ids(path.name, cells[ID]), *check_sizes(path.name, cells)]
    if cells.empty:
        problems.append(Problem("error", path.name, None, "has no rows", "it needs one row for each image"))
    shapes, runs = {}, {}
    for row, cell in zip(cells.index, cells.to_dict("records"), strict=True) if not problems else ():
        image_id = int(cell[ID])
        shapes[image_id] = int(cell[HEIGHT]), int(cell[WIDTH])
        try:
            runs[image_id] = rle.parse(cell[RLE], shapes[image_id])
        except ValueError as error:
            remedy = "correct the mask's runs"
            problems.append(Problem("error", path.name, row, str(error), remedy, image_id))
    if problems:
        raise DataError(problems)
    return cells, shapes, runs


def _check(path: Path, shapes: Mapping[int, tuple[int, int]]) -> tuple[dict[int, np.ndarray], list[Problem]]:
    """Check a submission against the images that it should hold.

    Args:
        path: The submission.
        shapes: ``(height, width)`` in px of each image, by id.

    Returns:
        RLE runs of every good row by id, and every problem of the file.
    """
    file = path.name
    try:
        cells = read_cells(path, COLUMNS)
    except DataError as error:
        return {}, error.problems
    problems = check_ids(file, cells[ID])
    header = ",".join(cells.columns)
    if header != ",".join(COLUMNS):
        problems.append(Problem("error", file, 1, f"the header is {header!r}", "make it exactly id,rle"))
    ids = {int(text) for text in cells[ID] if text.isascii() and text.isdigit()}
    if ids and not ids & shapes.keys():
        rule = f"none of its {count(len(ids), 'id')} is in the test set, such as {min(ids)}"
        remedy = "name the data, or the truth, of the images that were predicted"
        return {}, [Problem("error", file, None, rule, remedy)]
    bad_rows = {problem.row for problem in problems}
    runs: dict[int, np.ndarray] = {}
    named = set()
    for row, text_id, text in zip(cells.index, cells[ID], cells[RLE], strict=True):
        if row in bad_rows:
            named |= {int(text_id)} if text_id.isdigit() else set()
            continue
        image_id = int(text_id)
        named.add(image_id)
        if is_cut(text):
            rule = f"the mask of id {image_id} {CUT_RULE}"
            problems.append(Problem("warning", file, row, rule, CUT_REMEDY, image_id))
        if image_id not in shapes:
            rule, remedy = (
                f"id {image_id} is not in the test set",
                "delete the row, or name the data it was predicted from",
            )
            problems.append(Problem("error", file, row, rule, remedy, image_id))
            continue
        try:
            runs[image_id] = rle.parse(text, shapes[image_id])
        except ValueError as error:
            rule = f"id {image_id}: {error}"
            problems.append(Problem("error", file, row, rule, "write the mask with hubmap_kit.rle.encode", image_id))
            continue
        if not text.strip():
            rule = f"id {image_id} has an empty mask, which scores 0"
            problems.append(Problem("warning", file, row, rule, "predict it again", image_id))
    for image_id in shapes:
        if image_id not in named:
            problems.append(Problem("error", file, None, f"id {image_id} is missing", "add a row for it", image_id))
    problems.sort(key=lambda problem: (problem.row is None, problem.row or 0))
    return runs, problems
