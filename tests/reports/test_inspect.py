"""Tests of the page about a competition folder, and of the command that writes it."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile

from hubmap_kit import rle
from hubmap_kit.cli import main
from hubmap_kit.images import read_image
from hubmap_kit.reports.inspect import write_inspection
from hubmap_kit.tables import DataError, read_images


@pytest.fixture
def folder(demo, tmp_path):
    """A copy of the demo that a test may change."""
    return shutil.copytree(demo, tmp_path / "data")


def change(folder, split, image_id, **cells):
    """Change cells of an image's row."""
    table = folder / f"{split}.csv"
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["id"] == str(image_id):
            row.update(cells)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def inspect(folder, tmp_path):
    out = tmp_path / "new" / "folder" / "data.html"
    found = write_inspection(folder, out)
    return found, out.read_text(encoding="utf-8")


def test_the_demo_needs_no_look(demo, tmp_path):
    """The page of a good folder says so, has a card for each image, and compares train with test."""
    found, page = inspect(demo, tmp_path)
    assert (found.flags, found.problems, found.images) == ({}, [], 15)
    assert "None of 15 images needs a look." in page
    assert page.count('<li class="card"') == 15
    for words in ("Numbers by organ", "Where masks lie", "Training against test images", "nearest training image"):
        assert words in page
    assert "polygons of train_annotations" not in page


def test_every_fault_is_flagged(folder, tmp_path):
    """A folder with a fault in each image: each is flagged on its image, and the page is written all the same."""
    images = read_images(folder, "train")
    corrupt, same, copy, blank, exchanged, empty, bad, gone, other, annotation = images
    corrupt.path.write_bytes(corrupt.path.read_bytes()[:-999])
    shutil.copyfile(same.path, copy.path)
    tifffile.imwrite(blank.path, np.full((*blank.shape, 3), 243, np.uint8), photometric="rgb")
    tifffile.imwrite(exchanged.path, read_image(exchanged.path)[:200], photometric="rgb")
    change(folder, "train", exchanged.id, img_height="256", img_width="200")
    change(folder, "train", empty.id, rle="")
    change(folder, "train", bad.id, rle="1 5 3 2")
    gone.path.unlink()
    moved = np.roll(rle.decode(other.rle, other.shape), 40, axis=1)
    change(folder, "train", other.id, rle=rle.encode(moved))
    (folder / "train_annotations" / f"{annotation.id}.json").write_text("{}", encoding="utf-8")
    turned = np.ascontiguousarray(np.rot90(read_image(annotation.path)))
    test = read_images(folder, "test")[0]
    tifffile.imwrite(test.path, turned, photometric="rgb")
    change(folder, "test", test.id, img_height=str(turned.shape[0]), img_width=str(turned.shape[1]))

    found, page = inspect(folder, tmp_path)
    keys = {name: [flag.key for flag in flags] for name, flags in found.flags.items()}
    wanted = {
        corrupt: "file",
        same: "copy",
        copy: "copy",
        blank: "blank",
        exchanged: "file",
        empty: "empty",
        bad: "row",
        gone: "row",
        other: "polygons",
        annotation: "polygons",
    }
    for image, key in wanted.items():
        assert key in keys["train", image.id], (key, keys)
    assert "copy" in keys["train", annotation.id]
    assert "copy" in keys["test", test.id]
    assert page.count('<li class="card"') == 15
    assert "rows and columns look exchanged" in page
    assert "polygons of train_annotations" in page
    errors = {problem.image_id for problem in found.problems if problem.severity == "error"}
    assert errors == {corrupt.id, exchanged.id, bad.id, gone.id}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_part_may_be_missing(folder, tmp_path, split):
    """A folder without its train or test part has a page that says so."""
    (folder / f"{split}.csv").unlink()
    shutil.rmtree(folder / f"{split}_images")
    found, page = inspect(folder, tmp_path)
    assert found.problems == []
    assert found.images == {"train": 5, "test": 10}[split]
    assert f"There is no {split}.csv: the page has no {'training' if split == 'train' else 'test'} images." in page
    assert "Training against test images" not in page


def test_images_without_a_table_are_an_error(folder, tmp_path):
    """If only test.csv is lost, the page shows the training images and the loss is an error."""
    (folder / "test.csv").unlink()
    found, page = inspect(folder, tmp_path)
    (problem,) = found.problems
    assert (problem.severity, problem.file) == ("error", "test.csv")
    assert "test_images holds 5 images" in problem.rule
    assert found.images == 10
    assert "the 5 files of test_images cannot be shown" in page


def test_a_table_that_cannot_be_read_leaves_the_other_part(folder, tmp_path):
    """A test.csv that lacks a column is an error on the page, which shows the training images."""
    (folder / "test.csv").write_text("id,organ\n1,kidney\n", encoding="utf-8")
    found, page = inspect(folder, tmp_path)
    assert {problem.severity for problem in found.problems} == {"error"}
    assert page.count('<li class="card"') == 10


def test_damaged_names_are_one_error(folder, tmp_path):
    """A damaged names.csv, which both parts read, is one error."""
    (folder / "names.csv").write_text("id,name\n7,a\n7,b\n")
    assert [problem.file for problem in inspect(folder, tmp_path)[0].problems].count("names.csv") == 1


def test_files_without_a_row_and_other_ids_are_warnings(folder, tmp_path):
    """A file without a row and a sample submission of another set are warnings."""
    (folder / "train_images" / "999999.tiff").write_bytes(b"")
    (folder / "sample_submission.csv").write_text("id,rle\n1,\n", encoding="utf-8")
    found, _ = inspect(folder, tmp_path)
    assert [problem.severity for problem in found.problems] == ["warning", "warning"]
    assert "1 file of train_images without a row: 999999" in found.problems[0].rule
    assert "in only one of it and test.csv" in found.problems[1].rule


def test_assumed_pixel_sizes_are_warnings(folder, tmp_path):
    """Pixel sizes that the table leaves out, and that are assumed, are warnings of the page."""
    table = pd.read_csv(folder / "test.csv", dtype=str)
    table.drop(columns="pixel_size").to_csv(folder / "test.csv", index=False)
    found = write_inspection(folder, tmp_path / "data.html").problems
    rules = [problem.rule for problem in found if problem.file.startswith("test.csv")]
    assert rules
    assert all("pixel_size is empty, and" in rule for rule in rules)


def test_a_folder_without_tables_is_refused(tmp_path):
    """A folder with neither table has no page, and the error names both."""
    with pytest.raises(DataError, match=r"neither train\.csv nor test\.csv"):
        write_inspection(tmp_path, tmp_path / "data.html")
    with pytest.raises(DataError, match="there is no such folder"):
        write_inspection(tmp_path / "none", tmp_path / "data.html")
    assert not (tmp_path / "data.html").exists()


def test_text_of_the_tables_is_escaped(folder, tmp_path):
    """Markup in a cell is text on the page, in the list of problems and on a card."""
    first, second = read_images(folder, "train")[:2]
    change(folder, "train", first.id, organ="</script><script>x()</script>")
    change(folder, "train", second.id, organ="<i>x", pixel_size="")
    _, page = inspect(folder, tmp_path)
    assert "<script>x()" not in page
    assert "<i>x" not in page
    assert "&lt;i&gt;x" in page


def test_the_command(folder, tmp_path, capsys):
    """The last line names the page, its size, images, flags and time; status 1 and a line on stderr for an error."""
    out = tmp_path / "data.html"
    assert main(["inspect", str(folder), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(r".*data\.html, \d\.\d MB; 15 images, 0 flags, [\d.]+ s\n", captured.out)
    assert "next: " in captured.err
    image = read_images(folder, "train")[3]
    image.path.write_bytes(b"no TIFF")
    assert main(["inspect", str(folder), "--out", str(out), "--json"]) == 1
    captured = capsys.readouterr()
    (flag,) = json.loads(captured.out)["flags"]
    assert (flag["split"], flag["id"], flag["flag"]) == ("train", image.id, "file")
    assert f"{image.id}.tiff" in captured.err


def test_a_page_with_a_folder(demo, tmp_path):
    """With --folder the pictures lie beside the page."""
    out = tmp_path / "data.html"
    assert main(["inspect", str(demo), "--out", str(out), "--folder", "-q"]) == 0
    assert len(list((tmp_path / "data_files").glob("*-thumb-*.webp"))) == 15
    assert "data:image/webp" not in out.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="--max-mb is 0; it must be above 0"):
        write_inspection(demo, out, max_mb=0)
    assert "data:image/webp" not in out.read_text(encoding="utf-8"), "the page of before is kept"
