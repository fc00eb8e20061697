"""Tests of reading and checking the tables."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubmap_kit.competition import ORGANS, SOURCES
from hubmap_kit.files import read_rows
from hubmap_kit.tables import (
    MOST_PX,
    PIXEL_SIZES_UM,
    DataError,
    Problem,
    read_cells,
    read_images,
    read_sample_submission,
    remarks,
    scan_images,
    table_of,
)

HEADER = "id,organ,data_source,img_height,img_width,pixel_size,tissue_thickness"
GOOD = "7,kidney,HPA,10,12,0.4,4"


def folder_with(tmp_path: Path, *rows: str, header: str = HEADER, images: tuple[int, ...] = (7, 8, 9)) -> Path:
    (tmp_path / "test_images").mkdir()
    for image in images:
        (tmp_path / "test_images" / f"{image}.tiff").touch()
    (tmp_path / "test.csv").write_text("\n".join((header, *rows)) + "\n")
    return tmp_path


def test_demo_tables_are_read_with_their_types(demo):
    """The demo's tables pass: one image for each row, with its numbers, its file and, in training, its mask."""
    train, test = read_images(demo, "train"), read_images(demo, "test")
    assert (len(train), len(test)) == (10, 5)
    cells = [SimpleNamespace(**row) for row in read_rows(demo / "train.csv", ())]
    for row, (image, cell) in enumerate(zip(train, cells, strict=True), start=2):
        assert (str(image.id), image.organ, image.source) == (cell.id, cell.organ, cell.data_source)
        assert image.shape == (int(cell.img_height), int(cell.img_width))
        assert (image.pixel_size_um, image.thickness_um) == (float(cell.pixel_size), float(cell.tissue_thickness))
        assert (image.row, image.rle) == (row, cell.rle)
        assert image.path == demo / "train_images" / f"{image.id}.tiff"
    assert {image.rle for image in test} == {""}
    assert read_sample_submission(demo) == [image.id for image in test]
    assert read_images(demo, "test", check_files=False) == test


def test_a_table_of_images_is_read_back(demo, tmp_path):
    """What `table_of` writes is read back as the same images."""
    images = read_images(demo, "train")
    (tmp_path / "train_images").symlink_to(demo / "train_images")
    table_of(images).to_csv(tmp_path / "train.csv", index=False)
    assert [replace(image, path=images[n].path) for n, image in enumerate(read_images(tmp_path, "train"))] == images


def test_a_problem_of_an_image_names_its_row(demo):
    """A problem of an image has its table, its row and its id."""
    image = read_images(demo, "test")[2]
    problem = image.problem("is odd", "look at it", "warning")
    assert problem == Problem("warning", "test.csv", 4, "is odd", "look at it", image.id)
    assert str(problem) == "warning: test.csv, row 4: is odd; look at it"


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("x7,kidney,HPA,10,12,0.4,4", "id 'x7' is not a whole number"),
        ("7.0,kidney,HPA,10,12,0.4,4", "id '7.0'"),
        (",kidney,HPA,10,12,0.4,4", "id ''"),
        ("8,Kidney,HPA,10,12,0.4,4", "organ is 'Kidney'; it must be kidney, spelled like this"),
        ("8,large intestine,HPA,10,12,0.4,4", "organ is 'large intestine'; it must be largeintestine"),
        ("8,,HPA,10,12,0.4,4", "organ is ''; it must be kidney, "),
        ("8, liver,HPA,10,12,0.4,4", "organ is ' liver'"),
        ("8,liver=1,HPA,10,12,0.4,4", "organ is 'liver=1'; it must be kidney, "),
        ("8,kidney,hubmap,10,12,0.4,4", "data_source is 'hubmap'; it must be Hubmap"),
        ("8,kidney,HPA,0,12,0.4,4", "img_height is '0'"),
        ("8,kidney,HPA,10,-12,0.4,4", "img_width is '-12'"),
        ("8,kidney,HPA,10,1.5,0.4,4", "img_width is '1.5'"),
        ("8,kidney,HPA,1000000000000000000000,12,0.4,4", "img_height is '1000000000000000000000'"),
        (
            "8,kidney,HPA,10,2000000000,0.4,4",
            "img_width is '2000000000'; it must be a whole number of pixels, from 1 to",
        ),
        ("8,kidney,HPA,99999,99999,0.4,4", "img_height x img_width is '99999 x 99999', more than 1073741824 pixels"),
        ("8,kidney,HPA,10,12,400,4", "pixel_size is '400'; it must be a number of um from 0.05 to 20, or empty"),
        ("8,kidney,HPA,10,12,0.0004,4", "pixel_size is '0.0004'; it must be a number of um from 0.05 to 20"),
        ("8,kidney,HPA,10,12,1e308,4", "pixel_size is '1e308'"),
        ("8,kidney,HPA,10,12,1e-320,4", "pixel_size is '1e-320'"),
        ("8,kidney,HPA,10,12,0.4,4000", "tissue_thickness is '4000'; it must be a number of um from 0.1 to 1000"),
        ("8,kidney,HPA,10,12,0,4", "pixel_size is '0'"),
        ("8,kidney,HPA,10,12,inf,4", "pixel_size is 'inf'"),
        ("8,kidney,HPA,10,12,nan,4", "pixel_size is 'nan'"),
        ("8,kidney,HPA,10,12,x,4", "pixel_size is 'x'"),
        ("8,kidney,HPA,10,12,-0.4,4", "pixel_size is '-0.4'"),
        ("8,kidney,HPA,10,12,0.4,x", "tissue_thickness is 'x'"),
        ("8,liver,HPA,10,12,,", "organ is 'liver' and data_source 'HPA', and pixel_size is empty"),
        ("8,kidney,Mars,10,12,,4", "organ is 'kidney' and data_source 'Mars', and pixel_size is empty"),
        ("8,kidney,HPA,10,12,0.4,-4", "tissue_thickness is '-4'"),
        ("7,kidney,HPA,10,12,0.4,4", "id 7 is already in row 2"),
        ("5,kidney,HPA,10,12,0.4,4", "5.tiff does not exist"),
        ("8,kidney,HPA", "has 3 fields, the header 7"),
        ("8,kidney,HPA,10,12,0.4,4,9", "has 8 fields, the header 7"),
    ],
)
def test_each_bad_cell_is_named_with_its_row(tmp_path, row, rule):
    """A bad cell in the second row is reported as row 3 with its rule."""
    with pytest.raises(DataError) as caught:
        read_images(folder_with(tmp_path, GOOD, row), "test")
    (problem,) = caught.value.problems
    assert (problem.file, problem.row, problem.severity) == ("test.csv", 3, "error")
    assert rule in problem.rule
    assert problem.remedy


def test_an_empty_cell_is_of_the_organ_and_source(tmp_path):
    """An empty pixel size or thickness is filled in by organ and source; a filled cell is kept."""
    kinds = [(organ, source) for organ in ORGANS for source in SOURCES]
    empty = [f"{i},{organ},{source},10,12,," for i, (organ, source) in enumerate(kinds, start=1)]
    own = ["21,prostate,Hubmap,10,12,0.3,", "22,prostate,Hubmap,10,12,,7"]
    folder = folder_with(tmp_path, *empty, *own, images=(*range(1, 11), 21, 22))
    *defaults, first, second = read_images(folder, "test")
    for image, (organ, source) in zip(defaults, kinds, strict=True):
        assert image.pixel_size_um == ORGANS[organ].pixel_size_um[source]
        assert image.thickness_um == ORGANS[organ].thickness_um[source]
    assert (first.pixel_size_um, first.thickness_um) == (0.3, 5)
    assert (second.pixel_size_um, second.thickness_um) == (6.263, 7)


@pytest.mark.parametrize("split", ["train", "test"])
def test_tables_without_pixel_size(demo, tmp_path, split):
    """A table without the columns of pixel size and thickness is read with the values of organ and source."""
    shutil.copytree(demo, tmp_path / "copy")
    path = tmp_path / "copy" / f"{split}.csv"
    table = pd.read_csv(path, dtype=str)
    table.drop(columns=["pixel_size", "tissue_thickness"]).to_csv(path, index=False)
    found = read_images(tmp_path / "copy", split)
    assert len(found) == len(table)
    for image in found:
        assert image.pixel_size_um == ORGANS[image.organ].pixel_size_um[image.source]
        assert image.thickness_um == ORGANS[image.organ].thickness_um[image.source]


def test_remarks_are_one_for_each_kind(tmp_path):
    """Assumed pixel sizes, and masks that a spreadsheet may have cut, are one warning for each kind, with the rows."""
    header = "id,organ,data_source,img_height,img_width,rle"
    rows = [f"{i},{'lung' if i < 300 else 'spleen'},HPA,10,12,1 1" for i in range(1, 352)]
    (tmp_path / "train.csv").write_text("\n".join((header, *rows)) + "\n")
    images = read_images(tmp_path, "train", check_files=False)
    lung, spleen = remarks(images)
    assert (lung.severity, lung.file, spleen.file) == ("warning", "train.csv, rows 2-300", "train.csv, rows 301-352")
    assert lung.rule == "pixel_size is empty, and 0.4 um is assumed, as in the competition for lung by HPA"
    cut = replace(images[0], assumed=False, rle="1 1".ljust(32767))
    (remark,) = remarks([cut, replace(cut, rle="1 1".ljust(32766))])
    assert (remark.severity, remark.row) == ("warning", 2)
    assert "a cell of a spreadsheet" in remark.rule


def test_other_organs_and_sources_have_a_pixel_size(tmp_path):
    """Images of any organ and source are read if their pixel size is given; their thickness may be unknown."""
    rows = ("7,bile duct,Mars,10,12,0.25,", "8,kidney,Mars,10,12,0.3,7", "9,kidney,HPA,10,12,,")
    duct, kidney, known = read_images(folder_with(tmp_path, *rows), "test")
    assert (duct.organ, duct.source, duct.pixel_size_um, duct.thickness_um) == ("bile duct", "Mars", 0.25, None)
    assert (kidney.pixel_size_um, kidney.thickness_um) == (0.3, 7)
    assert (known.pixel_size_um, known.thickness_um) == (0.4, 4)


def test_names_of_images(tmp_path):
    """Images have their names of names.csv, and their problems too; a damaged file is named with its row."""
    folder = folder_with(tmp_path, GOOD, "8,kidney,HPA,10,12,0.4,4")
    (folder / "names.csv").write_text("id,name\n7,Fall 1 äö\n")
    first, second = read_images(folder, "test")
    assert (first.name, second.name) == ("Fall 1 äö", "")
    assert str(first.problem("is odd", "look at it")) == "error: test.csv, row 2: 'Fall 1 äö': is odd; look at it"
    (folder / "names.csv").write_text("id,name\n7,a\n7,b\n")
    with pytest.raises(DataError, match=r"names\.csv, row 3: id 7 is already in row 2"):
        read_images(folder, "test")


def test_a_folder_in_the_place_of_the_names_is_an_error(tmp_path):
    """A folder named names.csv is not taken for a missing file."""
    folder = folder_with(tmp_path, GOOD)
    (folder / "names.csv").mkdir()
    with pytest.raises(DataError, match=r"names\.csv: cannot be read"):
        read_images(folder, "test")


def test_a_folder_that_is_no_competition_folder(tmp_path):
    """The error says how such a folder is made of one's own images."""
    with pytest.raises(DataError, match=r"train\.csv: there is no such file .*hubmap-kit import makes one"):
        read_images(tmp_path, "train")


def test_all_problems_come_together(tmp_path):
    """Several bad rows are reported at once, in the order of the file."""
    folder = folder_with(tmp_path, "7,Kidney,hpa,10,12,0.4,4", GOOD, "8,kidney,HPA,x,12,0.4,4", images=(7,))
    with pytest.raises(DataError) as caught:
        read_images(folder, "test")
    assert [problem.row for problem in caught.value.problems] == [2, 2, 3, 4]


def test_blank_lines_count_as_rows(tmp_path):
    """Rows are counted as an editor counts lines, blank ones too."""
    scan = scan_images(folder_with(tmp_path, "", GOOD, "", "8,liver,HPA,10,12,,4"), "test")
    assert scan.rows == {7: 3, 8: 5}
    assert [image.row for image in scan.images] == [3]
    assert [problem.row for problem in scan.problems] == [5]


def test_good_rows_can_be_had_without_the_bad(tmp_path):
    """A scan gives the rows that can be used beside the problems of the others."""
    scan = scan_images(folder_with(tmp_path, GOOD, "8,liver,HPA,10,12,,4"), "test")
    assert scan.rows == {7: 2, 8: 3}
    assert [image.id for image in scan.images] == [7]
    assert len(scan.problems) == 1


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "empty"),
        (b"id,organ\n1,kidney\n", "column 'data_source' is missing"),
        (f"{HEADER}\n".encode(), "no rows"),
        (f"{HEADER},id\n{GOOD},7\n".encode(), "'id' appears twice"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"id;rle\n7;1 3\n", "has semicolons between its columns"),
        (b"\xef\xbb\xbfid\trle\n7\t1 3\n", "has tabs between its columns"),
        (b"sep=,\nid,rle\n7,1 3\n", "begins with a line sep="),
        (b"PK\x03\x04\xff\xfe\x00", "is an Excel workbook"),
    ],
)
def test_files_that_are_no_table(tmp_path, content, rule):
    """A file that is empty, of other columns, without rows or not text gives one clear error."""
    folder_with(tmp_path, GOOD)
    (tmp_path / "test.csv").write_bytes(content)
    with pytest.raises(DataError, match=rule):
        read_images(tmp_path, "test")


def test_missing_file(tmp_path):
    """A missing table is named with its folder; the remedy for a competition folder's table is another folder."""
    with pytest.raises(DataError, match=rf"train\.csv: there is no such file in {tmp_path}; name a folder in"):
        read_images(tmp_path, "train")
    with pytest.raises(DataError, match=rf"my\.csv: there is no such file in {tmp_path}; check the path"):
        read_cells(tmp_path / "my.csv", ("id",))


def test_spreadsheet_files_are_read(tmp_path):
    """A byte order mark and Windows line ends, as spreadsheets write them, do no harm."""
    folder = folder_with(tmp_path, GOOD)
    (folder / "test.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{GOOD}\r\n".encode())
    assert [image.id for image in read_images(folder, "test")] == [7]


def test_bad_mask_in_train(demo, tmp_path):
    """A training mask that leaves its image is reported with its row."""
    folder = tmp_path / "copy"
    shutil.copytree(demo, folder)
    table = pd.read_csv(folder / "train.csv", dtype=str)
    table.loc[4, "rle"] = "1 99999999"
    table.to_csv(folder / "train.csv", index=False)
    with pytest.raises(DataError) as caught:
        read_images(folder, "train")
    assert [problem.row for problem in caught.value.problems] == [6]


@pytest.mark.slow
@given(
    st.integers(0, 7),
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters='"\r\n,'), max_size=30),
        st.floats().map(str),
        st.integers().map(str),
    ),
    st.sampled_from(["test", "train"]),
)
def test_whatever_one_cell_holds_costs_one_image(column, cell, split):
    """Whatever one cell of a table holds, the other rows are read, and a row that is not good has a problem."""
    header = [*HEADER.split(","), "rle"]
    rows = [[str(image_id), "lung", "HPA", "10", "12", "0.4", "4", "1 1"] for image_id in (7, 8, 9)]
    rows[1][column] = cell
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"{split}.csv").write_text("\n".join(",".join(row) for row in (header, *rows)) + "\n", "utf-8")
        scan = scan_images(folder, split, check_files=False)
    good = {image.id for image in scan.images}
    assert {7, 9} <= good
    assert len(good) == 3 or scan.problems
    for image in scan.images:
        assert PIXEL_SIZES_UM[0] <= image.pixel_size_um <= PIXEL_SIZES_UM[1]
        assert 1 <= image.shape[0] * image.shape[1] <= MOST_PX
