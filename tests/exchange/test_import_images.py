"""Tests of hubmap-kit import."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile

from hubmap_kit import rle
from hubmap_kit.cli import main
from hubmap_kit.images import read_image
from hubmap_kit.tables import read_images, read_sample_submission

SHAPES = {"Fall 2.tif": (61, 43), "Fall 10_ä.png": (37, 59), "b.JPG": (41, 47)}
STEMS = ("Fall 10_ä", "Fall 2", "b")  # in the order of the files
FLAGS = ["--organ", "liver", "--pixel-size", "0.5"]


@pytest.fixture
def own(tmp_path, rng):
    """Folders images, masks and geojson, with a TIFF, a PNG and a JPEG; the masks by name."""
    for name in ("images", "masks", "geojson"):
        (tmp_path / name).mkdir()
    for name, shape in SHAPES.items():
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        path = tmp_path / "images" / name
        if path.suffix == ".tif":
            tifffile.imwrite(path, pixels, photometric="rgb")
        else:
            PIL.Image.fromarray(pixels).save(path)
        mask = np.zeros(shape, np.uint8)
        mask[5:20, 7:30] = 255
        PIL.Image.fromarray(mask).save(tmp_path / "masks" / f"{path.stem}.png")
        ring = [[7, 5], [30, 5], [30, 20], [7, 20], [7, 5]]
        properties = {"objectType": "annotation", "classification": {"name": "duct"}}
        feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
        (tmp_path / "geojson" / f"{path.stem}.geojson").write_text(json.dumps([feature]))
    return tmp_path


def run(own, *arguments):
    return main(["import", str(own / "images"), str(own / "out"), *FLAGS, *map(str, arguments)])


def rows(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["masks", "geojson"])
def test_a_competition_folder(own, kind, capsys):
    """Images and masks of both kinds become a folder that is read as any; names and pixels stay, IMAGES too."""
    before = files(own)
    assert run(own, f"--{kind}", own / kind) == 0
    assert "3 training images with masks" in capsys.readouterr().out
    images = read_images(own / "out", "train")
    assert [image.id for image in images] == [1, 2, 3]
    assert tuple(image.name for image in images) == STEMS
    assert {(image.organ, image.source, image.pixel_size_um, image.thickness_um) for image in images} == {
        ("liver", "own", 0.5, None)
    }
    for image in images:
        mask = rle.decode(image.rle, image.shape)
        assert mask.sum() == 15 * 23
        assert mask[5:20, 7:30].all()
        assert read_image(image.path).shape[:2] == image.shape
    with PIL.Image.open(own / "images" / "Fall 10_ä.png") as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(read_image(images[0].path), expected)
    after = files(own)
    assert {name: content for name, content in after.items() if not name.startswith("out/")} == before
    assert {path.name for path in own.iterdir()} == {"images", "masks", "geojson", "out"}
    assert {path.name for path in (own / "out").iterdir()} == {"names.csv", "train.csv", "train_images"}


def test_images_to_predict_and_a_second_source(own, capsys):
    """Test images without masks are added with new numbers, from a second folder with the same names not twice."""
    assert run(own, "--masks", own / "masks") == 0
    train = files(own / "out")
    assert run(own, "--source", "scanner B") == 0
    images = read_images(own / "out", "test")
    assert [(image.id, image.name, image.source) for image in images] == [
        (i, stem, "scanner B") for i, stem in enumerate(STEMS, start=4)
    ]
    assert read_sample_submission(own / "out") == [4, 5, 6]
    now = files(own / "out")
    assert {name for name, content in train.items() if now[name] != content} == {"names.csv"}
    capsys.readouterr()
    assert run(own) == 1
    assert "Fall 2 is the name of test image 5 already" in capsys.readouterr().err
    for path in (own / "images").iterdir():
        path.rename(path.with_name(f"new {path.name}"))
    assert run(own) == 0
    assert len(read_images(own / "out", "test")) == 6
    assert len(rows(own / "out" / "names.csv")) == 9
    now = files(own / "out")
    capsys.readouterr()
    for path in (own / "masks").iterdir():
        path.rename(path.with_name(f"new {path.name}"))
    assert run(own, "--masks", own / "masks", "--split", "test") == 1
    assert "have no masks, and these do" in capsys.readouterr().err
    assert files(own / "out") == now


def test_an_organ_that_looks_mistyped_is_pointed_out(own, capsys):
    """An organ of any name is taken; one that is nearly one of the competition's gets a warning."""
    for organ, warned in (("kidnay", True), ("liver", False), ("kidney", False)):
        assert main(["import", str(own / "images"), str(own / organ), "--organ", organ, "--pixel-size", "0.5"]) == 0
        assert ("did you mean kidney?" in capsys.readouterr().err) == warned


def test_test_images_with_masks(own):
    """Test images with masks have their answers in test_truth.csv, and an own column of a table is kept."""
    assert run(own, "--masks", own / "masks", "--split", "test") == 0
    truth = rows(own / "out" / "test_truth.csv")
    assert [row["id"] for row in truth] == ["1", "2", "3"]
    assert rle.decode(truth[1]["rle"], (61, 43)).sum() == 15 * 23
    assert "rle" not in rows(own / "out" / "test.csv")[0]
    assert run(own, "--masks", own / "masks") == 0
    table = own / "out" / "train.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{lines[0]},stage", *(f"{line},II" for line in lines[1:])]) + "\n")
    for folder in ("images", "masks"):
        for path in (own / folder).iterdir():
            path.rename(path.with_name(f"new {path.name}"))
    assert run(own, "--masks", own / "masks") == 0
    assert [row["stage"] for row in rows(table)] == ["II"] * 3 + [""] * 3


def test_what_is_wrong_is_listed_and_nothing_is_written(own, capsys):
    """Every bad image and mask is named with rule and remedy, and there is no folder, nor a part of it."""
    (own / "images" / "Fall 2.tif").write_bytes(b"II*\0 broken")
    PIL.Image.new("L", (5, 4)).save(own / "masks" / "b.png")
    assert run(own, "--masks", own / "masks") == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(err) == 2
    assert "Fall 2.tif: holds no image; copy" in err[0]
    assert "b.png: is 4 x 5 px (height x width), and its image 41 x 47; export the mask" in err[1]
    assert {path.name for path in own.iterdir()} == {"images", "masks", "geojson"}


def test_missing_and_spare_files(own, capsys):
    """An image without a mask is an error; masks without image, other files and empty masks are said."""
    (own / "images" / "notes.txt").touch()
    (own / "images" / ".hidden.png").touch()
    (own / "masks" / "stray.png").touch()
    PIL.Image.new("L", (47, 41)).save(own / "masks" / "b.png")
    (own / "masks" / "Fall 2.png").rename(own / "masks" / "Fall 3.png")
    assert run(own, "--masks", own / "masks") == 1
    assert f"Fall 2.tif: has no mask {own / 'masks' / 'Fall 2.png'}; add the mask" in capsys.readouterr().err
    (own / "masks" / "Fall 3.png").rename(own / "masks" / "Fall 2.tif.png")  # the image's whole name is right too
    assert run(own, "--masks", own / "masks") == 0
    err = capsys.readouterr().err
    assert "left out: 1 file other than TIFF, PNG and JPEG, notes.txt; export them" in err
    assert "left out: 1 mask without an image, stray.png; a mask has the name" in err
    assert "empty mask of 1 image: b.JPG; look at them" in err


def test_names_that_are_one(own, capsys):
    """Two images of one name, and two masks of one image, are an error."""
    PIL.Image.new("RGB", (5, 4)).save(own / "images" / "FALL 2.png")
    (own / "masks" / "b.tif").touch()
    assert run(own) == 1
    assert "has the same name as FALL 2.png; rename one of them" in capsys.readouterr().err
    (own / "images" / "FALL 2.png").unlink()
    assert run(own, "--masks", own / "masks") == 1
    assert "b.JPG: has more than one mask: b.png and b.tif; keep one" in capsys.readouterr().err


def test_classes_of_geojson(own, capsys):
    """A class that no area has is an error with those there are; several classes and lines are said."""
    assert run(own, "--geojson", own / "geojson", "--label", "Duct") == 1
    assert "no area is of class Duct; there are 3 duct; give --label" in capsys.readouterr().err
    path = own / "geojson" / "b.geojson"
    features = json.loads(path.read_text())
    tissue = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}
    features.append({"type": "Feature", "geometry": tissue, "properties": {"classification": {"name": "Tissue"}}})
    features.append({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}})
    path.write_text(json.dumps(features))
    assert run(own, "--geojson", own / "geojson") == 0
    err = capsys.readouterr().err
    assert "areas have several classes: 3 duct, 1 Tissue; all count as foreground; choose with --label" in err
    assert "left out: annotations that are no areas, 1 Point; draw areas" in err
    mask = read_images(own / "out", "train")[2].rle
    assert rle.area(rle.parse(mask, (41, 47))) == 15 * 23 + 81 - 2 * 4


def test_a_folder_of_another_kind_is_left_alone(own, capsys):
    """A folder that import did not make is refused and stays as it is."""
    (own / "out").mkdir()
    (own / "out" / "train.csv").write_text("mine")
    before = files(own)
    assert run(own) == 1
    assert "out exists and was not made by hubmap-kit import, since it has no names.csv" in capsys.readouterr().err
    assert files(own) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--organ Kidney", "--organ is 'Kidney'; it must be kidney, spelled like this"),
        ("--organ a,b", "--organ is 'a,b'"),
        ("--source hpa", "--source is 'hpa'; it must be HPA"),
        ("--pixel-size 0", "--pixel-size is 0.0; the side of a pixel in um is from 0.05 to 20"),
        ("--pixel-size nan", "--pixel-size: 'nan' is not a number"),
        ("--split train", "--split is train; training images need --masks or --geojson"),
        ("--masks m --geojson g", "--masks and --geojson are both given"),
        ("--label duct", "--label chooses classes of --geojson"),
        ("--mask-threshold 5", "--mask-threshold is a value of --masks"),
        ("--masks m --mask-threshold 0", "--mask-threshold: '0' is out of bounds; it must be from 1"),
    ],
)
def test_wrong_usage(own, flags, message, capsys):
    """A wrong flag is an error with its name, status 2, before anything is read."""
    with pytest.raises(SystemExit) as stop:
        run(own, *flags.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_folders_without_images(own, capsys):
    """A folder without images, a missing one and a missing folder of masks are named."""
    for path in (own / "images").iterdir():
        path.unlink()
    (own / "images" / "a.svs").touch()
    assert run(own) == 1
    assert "images: holds no TIFF, PNG or JPEG, but a.svs; subfolders are not read" in capsys.readouterr().err
    (own / "images" / "a.svs").unlink()
    assert run(own) == 1
    assert "images: holds no file" in capsys.readouterr().err
    (own / "images").rmdir()
    assert run(own) == 1
    assert "images: cannot be read: No such file or directory; name a folder" in capsys.readouterr().err
