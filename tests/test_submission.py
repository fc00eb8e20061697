"""Tests of writing, validating and scoring a submission."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hubmap_kit import rle, submission
from hubmap_kit.tables import DataError, Problem

SIZES = {11: (5, 7), 12: (9, 4), 13: (6, 6)}


@pytest.fixture
def data(tmp_path):
    """A test set of three images; no image file is needed."""
    rows = [f"{i},kidney,HPA,{h},{w},0.4,4" for i, (h, w) in SIZES.items()]
    header = "id,organ,data_source,img_height,img_width,pixel_size,tissue_thickness"
    (tmp_path / "test.csv").write_text("\n".join((header, *rows)) + "\n")
    truth = [f"{i},{'lung' if i == 13 else 'kidney'},{h},{w},1 4" for i, (h, w) in SIZES.items()]
    (tmp_path / "truth.csv").write_text("\n".join(("id,organ,img_height,img_width,rle", *truth)) + "\n")
    return tmp_path


def write(data, text):
    path = data / "submission.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_valid_submission(data):
    """A complete submission has no problem, in any order of its rows."""
    assert submission.validate(write(data, "id,rle\n13,1 4\n11,35 1\n12,2 3 6 1\n"), data) == []


@pytest.mark.parametrize(
    ("text", "row", "rule"),
    [
        ("id,rle\n11,1 4\n12,1 4\n", None, "id 13 is missing"),
        ("id,rle\n11,1 4\n12,1 4\n13,1 4\n14,1 4\n", 5, "id 14 is not in the test set"),
        ("id,rle\n11,1 4\n12,1 4\n13,1 4\n13,1 4\n", 5, "already in row 4"),
        ("id,rle\n11,nan\n12,1 4\n13,1 4\n", 2, "empty field"),
        ("id,rle\n11,1 4\n12,36 2\n13,1 4\n", 3, "leaves the mask"),
        ("id,rle\n11,1\n12,1 4\n13,1 4\n", 2, "odd count"),
        ("id,rle\n11,0 4\n12,1 4\n13,1 4\n", 2, "numbered from 1"),
        ("id,rle\n11,5 4 1 2\n12,1 4\n13,1 4\n", 2, "starts before"),
        ("id,rle,x\n11,1 4,\n12,1 4,\n13,1 4,\n", 1, "header"),
        ("rle,id\n1 4,11\n1 4,12\n1 4,13\n", 1, "header"),
        ("Id,rle\n11,1 4\n12,1 4\n13,1 4\n", 1, "'id' is missing"),
        ("", None, "empty"),
        ("id,rle\n11,1 4\n12,1 4\n13\n", 4, "has 1 fields, the header 2"),
    ],
)
def test_each_error_is_named(data, text, row, rule):
    """Each rule that is broken gives one error with its row."""
    errors = submission.validate(write(data, text), data)
    assert [(p.severity, p.row) for p in errors] == [("error", row)]
    assert rule in errors[0].rule


def test_empty_mask_is_a_warning(data):
    """An empty field is an empty mask: a warning, not an error."""
    (problem,) = submission.validate(write(data, "id,rle\n11,\n12,1 4\n13,1 4\n"), data)
    assert (problem.severity, problem.row) == ("warning", 2)


@pytest.mark.parametrize("length", [32766, 32767, 32768])
def test_a_mask_that_a_spreadsheet_has_cut(data, length):
    """A mask of exactly as many characters as a spreadsheet's cell holds is a warning; here it is well formed."""
    text = (data / "test.csv").read_text()
    (data / "test.csv").write_text(text.replace("11,kidney,HPA,5,7", "11,kidney,HPA,999,999"))
    mask = " ".join(["1 1", "3 1", *(f"{start} 1" for start in range(10001, 99999, 3))])[:length]
    submission.write(data / "submission.csv", {11: mask, 12: "1 1", 13: "1 1"}, (11, 12, 13))
    problems = submission.validate(data / "submission.csv", data)
    cut = [problem for problem in problems if "the most that a cell of a spreadsheet holds" in problem.rule]
    assert [(problem.severity, problem.row) for problem in cut] == ([("warning", 2)] if length == 32767 else [])
    assert problems == cut or length != 32767


def test_an_unfinished_prediction_is_a_warning(data):
    """A submission whose prediction was interrupted is valid, with a warning."""
    submission.write(data / "submission.csv", dict.fromkeys((11, 12, 13), "1 1"), (11, 12, 13))
    assert not submission.validate(data / "submission.csv", data)
    submission.progress_path(data / "submission.csv").touch()
    (problem,) = submission.validate(data / "submission.csv", data)
    assert problem.severity == "warning"
    assert "its prediction is unfinished" in problem.rule


def test_a_bad_row_of_the_test_set(data):
    """A bad row of test.csv is named, and the masks of the other images are checked all the same."""
    text = (data / "test.csv").read_text()
    (data / "test.csv").write_text(text.replace("12,kidney,HPA,9,4,0.4", "12,kidney,HPA,9,4,400"))
    submission.write(data / "submission.csv", {11: "1 99", 12: "1 99", 13: "1 1"}, (11, 12, 13))
    problems = submission.validate(data / "submission.csv", data)
    assert [(problem.file, problem.row, problem.image_id) for problem in problems] == [
        ("test.csv", 3, None),
        ("submission.csv", 2, 11),
    ]


def test_missing_file_is_a_problem(data):
    """A submission that is not there is reported like any other problem."""
    (problem,) = submission.validate(data / "none.csv", data)
    assert "no such file" in problem.rule


def test_score_is_the_mean_of_each_images_dice(data):
    """Dice is taken for each image and then averaged, whatever the images' sizes."""
    scores = submission.score(write(data, "id,rle\n11,1 4\n12,3 4\n13,\n"), data / "truth.csv")
    assert list(scores.columns) == ["id", "organ", "dice"]
    assert scores.to_numpy().tolist() == [[11, "kidney", 1.0], [12, "kidney", 0.5], [13, "lung", 0.0]]


def test_scoring_an_invalid_submission_raises(data):
    """A submission that Kaggle would refuse gets no score."""
    with pytest.raises(DataError, match="missing"):
        submission.score(write(data, "id,rle\n11,1 4\n"), data / "truth.csv")


@pytest.mark.parametrize(("cell", "rule"), [("0", "from 1 to 1048576"), ("2", "leaves the mask")])
def test_bad_truth_is_named(data, cell, rule):
    """A truth whose size or mask is wrong is named, not the submission."""
    text = (data / "truth.csv").read_text().replace("11,kidney,5,7", f"11,kidney,{cell},1")
    (data / "truth.csv").write_text(text)
    with pytest.raises(DataError, match=rf"truth\.csv, row 2: .*{rule}"):
        submission.score(write(data, "id,rle\n11,1 4\n12,3 4\n13,\n"), data / "truth.csv")


def test_written_submission_has_the_samples_rows(data):
    """Rows follow the order asked for; an id without a mask gets an empty one; the file is valid."""
    masks = {12: rle.encode(np.ones((9, 4))), 13: "1 1", 99: "1 1"}
    submission.write(data / "submission.csv", masks, pd.Index([13, 11, 12]))
    assert (data / "submission.csv").read_text() == "id,rle\n13,1 1\n11,\n12,1 36\n"
    assert [p.severity for p in submission.validate(data / "submission.csv", data)] == ["warning"]


def test_files_beside_a_submission(tmp_path):
    """Problems and timings are read back as they were written; a prediction without problems removes an older list."""
    path = tmp_path / "deep" / "submission.csv"
    assert not submission.read_problems(path)
    assert not submission.read_timings(path)
    problems = [
        Problem("error", "test.csv", 3, 'a rule, with "quotes"', "a remedy", 7),
        Problem("warning", "sample_submission.csv", None, "another", "none"),
    ]
    submission.write_problems(path, problems)
    assert submission.read_problems(path) == problems
    submission.write_problems(path, [])
    assert not submission.problems_path(path).exists()
    timings = [submission.Timing(7, 1.25, 2, 3, "flips", 0.25), submission.Timing(8, 0.0)]
    submission.write_timings(path, timings)
    assert submission.read_timings(path) == timings


def test_problems_of_an_earlier_version(tmp_path):
    """A list of problems without the column image_id, as 0.3.0 wrote it, is read."""
    path = tmp_path / "submission.csv"
    submission.problems_path(path).write_text(
        "severity,file,row,rule,remedy\nwarning,test.csv,4,damaged,copy it again\n"
    )
    assert submission.read_problems(path) == [Problem("warning", "test.csv", 4, "damaged", "copy it again")]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.tuples(*(arrays(np.uint8, shape, elements=st.integers(0, 1)) for shape in SIZES.values())))
def test_any_masks_that_are_written_are_valid(data, drawn):
    """Whatever masks are predicted, the submission that holds them has no error, and is read back."""
    masks = {image_id: rle.encode(mask) for image_id, mask in zip(SIZES, drawn, strict=True)}
    submission.write(data / "submission.csv", masks, SIZES)
    problems = submission.validate(data / "submission.csv", data)
    assert {problem.severity for problem in problems} <= {"warning"}
    assert len(problems) == sum(not mask for mask in masks.values())
    assert submission.read_masks(data / "submission.csv", SIZES)[0] == masks
