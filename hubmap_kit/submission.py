"""A submission: writing it, validating it, scoring it. No mask is decoded and no image read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from . import rle
from .competition import DataError, Problem, check_ids, check_sizes, read_cells, read_test
from .files import replacing

__all__ = ["score", "validate"]  # the public interface; the kit itself uses more

COLUMNS = ("id", "rle")


def write(path: Path, masks: Mapping[int, str], order: pd.Index) -> None:
    """Write ``submission.csv``.

    The rows are `order`'s, whatever `masks` holds, so that no row can be missing.

    Args:
        path: Where to; written beside and renamed.
        masks: RLE by image id; an id without one gets an empty mask.
        order: Image ids in the order of the rows.
    """
    with replacing(path) as part, part.open("w", encoding="ascii", newline="\n") as file:
        file.write(",".join(COLUMNS) + "\n")
        for image_id in order:
            # Piece by piece: the mask of a large image is not to be copied, and nothing in a row needs quoting.
            file.writelines((f"{image_id},", masks.get(int(image_id), ""), "\n"))


def validate(submission: str | Path, data: str | Path) -> list[Problem]:
    """Check a submission as Kaggle's scorer would, and more.

    The header is exactly ``id,rle``; each id of ``test.csv`` stands once and no other; each RLE
    is well formed and inside its image.

    Args:
        submission: The CSV.
        data: Competition folder; its ``test.csv`` is read.

    Returns:
        Every problem, sorted by row; no ``error`` among them means that it is valid. An empty
        mask is a ``warning``. What is wrong with ``test.csv`` itself is reported alike.
    """
    try:
        test = read_test(Path(data), check_images=False)
    except DataError as error:
        return error.problems
    return _check(Path(submission), test)[1]


def score(submission: str | Path, truth: str | Path) -> pd.DataFrame:
    """Score a submission by the competition's rule: Dice of each image, on its runs.

    Args:
        submission: The CSV.
        truth: A CSV with ``id,rle,img_height,img_width`` and, where known, ``organ`` and ``data_source``.

    Returns:
        Columns ``id``, ``organ`` and ``data_source`` (where known) and ``dice`` in [0, 1], in the truth's order.

    Raises:
        DataError: Every problem of the truth, or every error of the submission.
    """
    answers, true_runs = _read_truth(Path(truth))
    runs, problems = _check(Path(submission), answers)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise DataError(errors)
    scores = answers[[column for column in ("organ", "data_source") if column in answers]].copy()
    scores["dice"] = [rle.dice_of_runs(runs[i], true_runs[i]) for i in answers.index]
    return scores.reset_index()


def _read_truth(path: Path) -> tuple[pd.DataFrame, dict[int, np.ndarray]]:
    """Rows of the truth indexed by id, sizes as int64, and its runs by id."""
    cells = read_cells(path, ("id", "rle", "img_height", "img_width"))
    problems = check_ids(path.name, cells["id"])
    problems += check_sizes(path.name, cells)
    if cells.empty:
        problems.append(Problem("error", path.name, None, "has no rows", "it needs one row an image"))
    runs = {}
    if not problems:
        for row, cell in cells.iterrows():
            try:
                runs[int(cell["id"])] = rle.parse(cell["rle"], (int(cell["img_height"]), int(cell["img_width"])))
            except ValueError as error:
                problems.append(Problem("error", path.name, int(row), str(error), "correct the mask's runs"))
    if problems:
        raise DataError(problems)
    return cells.astype({"id": "int64", "img_height": "int64", "img_width": "int64"}).set_index("id"), runs


def _check(path: Path, images: pd.DataFrame) -> tuple[dict[int, np.ndarray], list[Problem]]:
    """Runs by id of all good rows, and every problem of the file against these images."""
    file = path.name
    try:
        cells = read_cells(path, COLUMNS)
    except DataError as error:
        return {}, error.problems
    problems = check_ids(file, cells["id"])
    header = ",".join(cells.columns)
    if header != "id,rle":
        problems.append(Problem("error", file, 1, f"the header is {header!r}", "make it exactly id,rle"))
    runs: dict[int, np.ndarray] = {}
    bad_rows = {problem.row for problem in problems}
    shapes = dict(zip(images.index, zip(images["img_height"], images["img_width"], strict=True), strict=True))
    for row, text_id, text in zip(cells.index, cells["id"], cells["rle"], strict=True):
        if row in bad_rows:
            continue
        image_id = int(text_id)
        if image_id not in shapes:
            rule = f"id {image_id} is not in the test set"
            problems.append(
                Problem("error", file, row, rule, "delete the row, or predict with the data's own test.csv")
            )
            continue
        try:
            runs[image_id] = rle.parse(text, shapes[image_id])
        except ValueError as error:
            problems.append(Problem("error", file, row, f"id {image_id}: {error}", "write the mask with rle.encode"))
            continue
        if not text.strip():
            problems.append(
                Problem("warning", file, row, f"id {image_id} has an empty mask, which scores 0", "predict it again")
            )
    present = set(cells["id"])
    for image_id in images.index:
        if str(image_id) not in present and image_id not in runs:
            problems.append(Problem("error", file, None, f"id {image_id} is missing", "add a row for it"))
    problems.sort(key=lambda problem: (problem.row is None, problem.row or 0))
    return runs, problems
