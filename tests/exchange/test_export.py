"""Tests of hubmap-kit export, and of own tissue from import to export."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from builders import TINY_FLAGS
from conftest import corner_mask

from hubmap_kit import rle
from hubmap_kit.cli import main
from hubmap_kit.exchange.export import draw_outlines
from hubmap_kit.exchange.geojson import read_annotations
from hubmap_kit.images import read_image
from hubmap_kit.outlines import CASING_RGB, PREDICTION_RGB
from hubmap_kit.tables import read_images


def picture(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def in_blocks(mask, shape):
    """A mask of blocks that reach over the lower and right border."""
    return np.kron(mask, np.ones((13, 13), np.uint8))[: shape[0], : shape[1]]


@pytest.fixture
def submission(demo, tmp_path, rng):
    """A submission of the demo, of random masks with all corners set, in blocks of 13 px."""
    images = read_images(demo, "test")
    masks = [rle.encode(in_blocks(corner_mask((31, 29), rng), image.shape)) for image in images]
    path = tmp_path / "submission.csv"
    pd.DataFrame({"id": [image.id for image in images], "rle": masks}).to_csv(path, index=False)
    return path


def test_files_of_a_submission(demo, submission, tmp_path, capsys):
    """Each image has a mask of 0 and 255, the same mask as GeoJSON with the unit's name, and an overlay of its size."""
    out = tmp_path / "out"
    assert main(["export", str(submission), "--data", str(demo), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"masks", "geojson", "overlays"}
    texts = pd.read_csv(submission).set_index("id")["rle"]
    units = 0
    for image in read_images(demo, "test"):
        mask = rle.decode(texts[image.id], image.shape)
        stored = picture(out / "masks" / f"{image.id}.png")
        np.testing.assert_array_equal(stored, mask * 255)
        path = out / "geojson" / f"{image.id}.geojson"
        found = read_annotations(path, image.shape)
        assert rle.encode_runs(found.runs) == texts[image.id]
        content = json.loads(path.read_text())["features"]
        units += len(content)
        areas = [feature["properties"]["measurements"]["Area µm^2"] for feature in content]
        assert sum(areas) == pytest.approx(mask.sum() * image.pixel_size_um**2, abs=1e-3 * len(areas))
        assert picture(out / "overlays" / f"{image.id}.jpg").shape == (*image.shape, 3)
    assert set(found.labels) <= {"glomerulus", "glandular acinus", "crypt", "white pulp", "alveolus"}
    assert f"5 images with {units} units" in capsys.readouterr().out


def test_chosen_formats(demo, submission, tmp_path, capsys):
    """Only what was asked for is written, and without overlays no image is read."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("test.csv", "sample_submission.csv"):
        shutil.copy(demo / name, data / name)
    arguments = ["export", str(submission), "--data", str(data), "--out", str(tmp_path / "out"), "--formats"]
    assert main([*arguments, "png"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"masks"}
    capsys.readouterr()
    assert main([*arguments, "geojson"]) == 1
    assert "out exists and is not an empty folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "png,svg"])
    assert "--formats has 'svg'; choose among png, geojson, overlay" in capsys.readouterr().err


def test_true_masks_of_training_images(demo, tmp_path):
    """train.csv is exported too, although it has more columns."""
    arguments = ["export", str(demo / "train.csv"), "--data", str(demo), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--split", "train", "--formats", "png"]) == 0
    for image in read_images(demo, "train"):
        stored = picture(tmp_path / "out" / "masks" / f"{image.id}.png")
        np.testing.assert_array_equal(stored, rle.decode(image.rle, image.shape) * 255)


def test_what_is_wrong_is_listed_and_nothing_is_written(demo, submission, tmp_path, capsys):
    """Ids that are not in the data and bad runs are named with their rows, and no folder is made."""
    lines = submission.read_text().splitlines()
    lines[2] = "999999,1 2"
    lines[3] = lines[3].split(",")[0] + ",0 2"
    submission.write_text("\n".join(lines) + "\n")
    assert main(["export", str(submission), "--data", str(demo), "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert "submission.csv, row 3: id 999999 is not in test.csv" in err
    assert "submission.csv, row 4: bad RLE: run 1 starts at 0" in err
    assert {path.name for path in tmp_path.iterdir()} == {"submission.csv"}


def test_images_that_cannot_be_read(demo, submission, tmp_path, capsys):
    """An image that an overlay needs and that is damaged is named, and no folder is made."""
    data = shutil.copytree(demo, tmp_path / "data")
    image = read_images(data, "test")[1]
    image.path.write_bytes(b"II*\0 broken")
    assert main(["export", str(submission), "--data", str(data), "--out", str(tmp_path / "out")]) == 1
    assert f"{image.id}.tiff" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"submission.csv", "data"}


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "a\\b"])
def test_a_name_that_is_a_path(demo, submission, tmp_path, name, capsys):
    """A name that would lead out of the folder is refused."""
    data = shutil.copytree(demo, tmp_path / "data")
    (data / "names.csv").write_text(f"id,name\n{read_images(data, 'test')[0].id},{name}\n")
    assert main(["export", str(submission), "--data", str(data), "--out", str(tmp_path / "out")]) == 1
    assert "names.csv gives a name that is a path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_outlines_lie_on_the_borders_of_pixels():
    """An outline is drawn around the mask's pixels, light on dark, and nowhere else."""
    mask = np.zeros((41, 53), np.uint8)
    mask[10:30, 15:40] = 1
    pixels = np.full((*mask.shape, 3), 255, np.uint8)
    draw_outlines(pixels, mask)
    changed = (pixels != 255).any(axis=2)
    assert not changed[14:26, 19:36].any()
    assert not changed[:6].any()
    assert not changed[:, 44:].any()
    assert changed[10:30, 15].all()
    assert changed[9:31, 14].all()
    centre = pixels[20, 12:18].astype(int)
    assert np.abs(centre - PREDICTION_RGB).sum(axis=1).min() < 150
    assert np.abs(centre - CASING_RGB).sum(axis=1).min() < 150


@pytest.mark.slow
def test_own_tissue_from_import_to_export(demo, tmp_path, capsys):
    """Images of another organ are imported, trained on and predicted; the exported masks are imported again exactly."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for number, image in enumerate(read_images(demo, "train")):
        PIL.Image.fromarray(read_image(image.path)).save(images / f"case {number}.png")
        mask = np.ascontiguousarray(rle.decode(image.rle, image.shape)) * 255
        PIL.Image.fromarray(mask).save(masks / f"case {number}.png")
    data, patches, run, out = (str(tmp_path / name) for name in ("data", "patches", "run", "out"))
    flags = ["--organ", "bile duct", "--pixel-size", "0.4"]
    assert main(["import", str(images), data, *flags, "--masks", str(masks)]) == 0
    assert main(["import", str(images), data, *flags]) == 0
    small = ["--patch-size", "128", "--input-size", "64", "--context", "bile duct=60"]
    assert main(["prepare", data, patches, *small]) == 0
    assert main(["train", patches, run, *TINY_FLAGS]) == 0
    assert "bile duct" in capsys.readouterr().out
    csv = str(tmp_path / "submission.csv")
    assert main(["predict", data, run, "--out", csv, "--threshold", "0.3"]) == 0
    assert main(["validate", csv, "--data", data]) == 0
    assert main(["export", csv, "--data", data, "--out", out]) == 0
    again = str(tmp_path / "again")
    assert main(["import", str(images), again, *flags, "--geojson", f"{out}/geojson"]) == 0
    predicted = pd.read_csv(csv, keep_default_na=False).set_index("id")["rle"]
    found = {image.name: image.rle for image in read_images(tmp_path / "again", "train")}
    assert found == {image.name: predicted[image.id] for image in read_images(tmp_path / "data", "test")}
    assert any(found.values())


@pytest.mark.slow
def test_an_organ_that_a_run_does_not_know(demo, trained, tmp_path, capsys):
    """A run predicts images of another organ, and a warning names organ and run."""
    images = tmp_path / "images"
    images.mkdir()
    for image in read_images(demo, "test")[:2]:
        shutil.copy(image.path, images / image.path.name)
    data, csv = str(tmp_path / "data"), str(tmp_path / "submission.csv")
    assert main(["import", str(images), data, "--organ", "liver", "--pixel-size", "0.4"]) == 0
    capsys.readouterr()
    assert main(["predict", data, str(trained), "--out", csv]) == 0
    err = capsys.readouterr().err
    assert "test.csv: 2 images of organ 'liver', on which run was not trained, only on " in err
    assert "the mean threshold of these is used" in err
