"""Tests of the page about a submission."""

from __future__ import annotations

import re
import shlex
import shutil

import numpy as np
import pytest
from builders import write_run

from hubmap_kit import rle
from hubmap_kit.cli import main
from hubmap_kit.reports.review import write_review
from hubmap_kit.submission import progress_path, write, write_problems
from hubmap_kit.tables import Problem, read_cells, read_images


@pytest.fixture
def masks(demo):
    """The true masks of the demo's test images, RLE by id in the order of the table."""
    cells = read_cells(demo / "test_truth.csv", ("id", "rle"))
    return {int(i): text for i, text in zip(cells["id"], cells["rle"], strict=True)}


@pytest.fixture
def shapes(demo):
    return {image.id: image.shape for image in read_images(demo, "test")}


def written(path, masks):
    """A submission of these masks."""
    write(path, masks, list(masks))
    return path


def words(review) -> str:
    return "\n".join(map(str, review.findings))


def test_a_good_submission(demo, masks, tmp_path):
    """The page of the true masks says that they are valid, with their Dice, and shows each image with both outlines."""
    out = tmp_path / "review.html"
    truth = demo / "test_truth.csv"
    review = write_review(written(tmp_path / "s.csv", masks), demo, out, truth=truth)
    page = out.read_text(encoding="utf-8")
    assert review.valid
    assert review.findings == []
    assert review.verdict.startswith("valid, ")
    assert review.verdict.endswith("; mean Dice 1.0000")
    assert review.page.startswith(f"{out}, ")
    assert review.verdict in page
    for image_id in masks:
        assert f'id="image={image_id}"' in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_transposed_masks(demo, masks, shapes, tmp_path):
    """Masks written row by row are named on the page and on stderr, for the submission and for its images."""
    wrong = {i: rle.encode(rle.decode(text, shapes[i]).T) for i, text in masks.items()}
    review = write_review(written(tmp_path / "s.csv", wrong), demo, tmp_path / "r.html")
    assert "5 of 5 masks fit the tissue better with rows and columns exchanged" in words(review)
    assert review.verdict == "valid, masks that fit better with rows and columns exchanged, flags on 5 images"
    assert "Fits better with rows and columns exchanged: 5 images" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_submission_with_errors(demo, masks, tmp_path, capsys):
    """Every error is on the page and on stderr with status 1; the images whose rows are good are shown all the same."""
    first, second, *_ = masks
    path, out = tmp_path / "s.csv", tmp_path / "review.html"
    rows = [f"{i},{'nan' if i == second else text}" for i, text in masks.items() if i != first]
    path.write_text("\n".join(["id,rle", *rows, "424242,1 2"]) + "\n")
    assert main(["review", str(path), "--data", str(demo), "--out", str(out)]) == 1
    printed = capsys.readouterr()
    page = out.read_text(encoding="utf-8")
    for rule in (f"id {first} is missing", f"id {second}: bad RLE: &#39;nan&#39;", "id 424242 is not in the test set"):
        assert rule in page
        assert rule.replace("&#39;", "'") in printed.err
    assert "not valid, 3 errors" in printed.out
    assert f'id="image={first}"' in page


def test_against_another(demo, masks, tmp_path):
    """Changed masks come first with the Dice between the two, and unchanged submissions are named as such."""
    changed_id = list(masks)[-1]
    empty = {**masks, changed_id: ""}
    mine, other = written(tmp_path / "mine.csv", empty), written(tmp_path / "other.csv", masks)
    out = tmp_path / "r.html"
    review = write_review(mine, demo, out, against=other, truth=demo / "test_truth.csv")
    page = out.read_text(encoding="utf-8")
    assert "note: 4 of 4" not in words(review)
    assert "mean Dice 0.8000, the other 1.0000" in review.verdict
    assert page.index(f'id="image={changed_id}"') == min(page.index(f'id="image={i}"') for i in masks)
    assert "Empty mask: 1 image" in page
    same = write_review(written(tmp_path / "again.csv", masks), demo, out, against=other)
    assert "All 5 masks are the same as in other (other.csv)" in words(same)


def test_earlier_submissions(demo, masks, tmp_path):
    """An earlier submission with the same masks is named, but not the file itself."""
    path = written(tmp_path / "s.csv", masks)
    earlier = [("version 3", path), ("version 2", written(tmp_path / "old.csv", masks))]
    review = write_review(path, demo, tmp_path / "r.html", earlier=earlier)
    assert "same as in version 2" in words(review)
    assert "version 3" not in words(review)


def test_masks_one_pixel_off_the_other(demo, masks, shapes, tmp_path):
    """Masks whose starts are one too high against another submission are named with the way back."""

    def moved(image_id):
        runs = rle.parse(masks[image_id], shapes[image_id]) + 1
        size = shapes[image_id][0] * shapes[image_id][1]
        return rle.encode_runs(np.minimum(runs, size)[runs[:, 0] < size])

    mine = written(tmp_path / "mine.csv", {i: moved(i) for i in masks})
    review = write_review(mine, demo, tmp_path / "r.html", against=written(tmp_path / "other.csv", masks))
    assert "5 of 5 masks agree better with other (other.csv) if they are moved one pixel up" in words(review)


def test_what_lies_beside_the_submission(demo, masks, tmp_path):
    """Problems of the prediction, and a prediction that is unfinished, are named; text from files is escaped."""
    path = written(tmp_path / "s.csv", masks)
    first = next(iter(masks))
    write_problems(
        path, [Problem("warning", "test.csv", 2, "id <script>alert(1)</script>", "its mask is empty", first)]
    )
    progress_path(path).write_text("{}\n{}\n{}\n")
    review = write_review(path, demo, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "2 masks were predicted" in words(review)
    assert "The prediction reported 1 problem" in words(review)
    assert "id &lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page


def test_images_that_cannot_be_read(demo, masks, tmp_path):
    """A damaged image is named, and the page shows the others; without a test.csv the page says so."""
    data = tmp_path / "data"
    shutil.copytree(demo, data)
    first, second, *_ = masks
    (data / "test_images" / f"{first}.tiff").write_bytes(b"no picture")
    (data / "test_images" / f"{second}.tiff").unlink()
    path, out = written(tmp_path / "s.csv", masks), tmp_path / "r.html"
    assert write_review(path, data, out).valid
    assert "Cannot be shown: 2 images" in out.read_text(encoding="utf-8")
    (data / "test.csv").unlink()
    review = write_review(path, data, out)
    assert not review.valid
    assert "there is no such file" in out.read_text(encoding="utf-8")


def test_no_more_images_than_asked_for(demo, masks, tmp_path):
    """A page of few images shows those with flags first, and says how many it shows."""
    last = list(masks)[-1]
    path = written(tmp_path / "s.csv", {**masks, last: ""})
    review = write_review(path, demo, tmp_path / "r.html", most_images=2)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count('class="card"') == 2
    assert f'id="image={last}"' in page
    assert "2 of 5 images are shown" in words(review)


def test_runs_that_predicted_it(demo, masks, tmp_path):
    """The page has the validation Dice of the run; an unfinished run and an organ that no run has seen are named."""
    results = {
        "train": {"loss": 1.0, "dice": 0.9, "lung": 0.9},
        "validation": {"loss": 1.0, "dice": 0.8, "lung": 0.7654},
    }
    run = write_run(tmp_path / "run", results=results, finished=False)
    review = write_review(written(tmp_path / "s.csv", masks), demo, tmp_path / "r.html", runs=[run])
    assert "0.765" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert f"The training of the run {run} is not finished" in words(review)
    assert "No run was trained on kidney" in words(review)
    assert "No run was trained on lung" not in words(review)


def test_predict_names_the_page(demo, masks, tmp_path, monkeypatch, capsys):
    """The line with which predict ends can be pasted, and makes the page."""
    out = tmp_path / "my predictions" / "s.csv"

    def predict(data, runs, out, *_, **__):
        write(out, masks, list(masks))
        return []

    monkeypatch.setattr("hubmap_kit.prediction.predict.predict", predict)
    assert main(["predict", str(demo), "run", "--out", str(out)]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("look: "))
    words = shlex.split(line.removeprefix("look: "))
    assert main(words[words.index("review") :]) == 0
    assert "mean Dice 1.0000" in capsys.readouterr().out
    assert out.with_suffix(".html").is_file()
