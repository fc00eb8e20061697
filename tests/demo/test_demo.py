"""The demo competition looks like Kaggle's, to a program and to an eye."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from tifffile import COMPRESSION

from hubmap_kit.competition import ORGANS
from hubmap_kit.demo.tissue import draw
from hubmap_kit.demo.write import write_demo
from hubmap_kit.rle import decode
from hubmap_kit.tables import read_images, read_sample_submission

SMALL = {"train": 5, "test": 10, "size": 257}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "new" / "competition"
    write_demo(folder, **SMALL, seed=3)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout_is_kaggles(demo):
    """The folder holds Kaggle's files with Kaggle's columns, the truth of the test set, and nothing else."""
    header = {path.name: path.read_text().split("\n")[0] for path in demo.glob("*.csv")}
    columns = "id,organ,data_source,img_height,img_width,pixel_size,tissue_thickness"
    assert header == {
        "train.csv": f"{columns},rle,age,sex",
        "test.csv": columns,
        "test_truth.csv": "id,organ,data_source,img_height,img_width,rle",
        "sample_submission.csv": "id,rle",
    }
    train, test = pd.read_csv(demo / "train.csv"), pd.read_csv(demo / "test.csv")
    expected = {f"train_images/{i}.tiff" for i in train["id"]} | {f"train_annotations/{i}.json" for i in train["id"]}
    expected |= {f"test_images/{i}.tiff" for i in test["id"]} | set(header)
    assert set(files(demo)) == expected
    assert len({*train["id"], *test["id"]}) == 15
    sample = pd.read_csv(demo / "sample_submission.csv")
    assert sample["id"].tolist() == test["id"].tolist()
    assert set(sample["rle"]) == {"12 34"}
    assert not list(demo.parent.glob(".*")), "something was left beside the folder"


def test_own_reader_accepts_it(demo):
    """The readers of the kit find no problem in the tables or images."""
    assert len(read_images(demo, "train")) == 5
    assert [image.id for image in read_images(demo, "test")] == read_sample_submission(demo)


def test_organs_sources_and_pixel_sizes(demo):
    """Both splits show all organs; HPA is square at 0.4 µm, HuBMAP is not square and has the organ's pixel size."""
    train, test = pd.read_csv(demo / "train.csv"), pd.read_csv(demo / "test.csv")
    assert set(train["organ"]) == set(test["organ"]) == set(ORGANS)
    assert set(train["data_source"]) == {"HPA"}
    assert test.groupby(["organ", "data_source"]).size().tolist() == [1] * 10
    for row in pd.concat([train, test]).to_dict("records"):
        organ, source, height, width = row["organ"], row["data_source"], row["img_height"], row["img_width"]
        assert row["pixel_size"] == ORGANS[organ].pixel_size_um[source]
        assert row["tissue_thickness"] == ORGANS[organ].thickness_um[source]
        if source == "HPA":
            assert (height, width) == (257, 257)
        else:
            assert height != width
            assert min(height, width) >= 96
            assert height * width <= (1.5 * 257) ** 2
    coarse = test[test["pixel_size"] == 6.263].iloc[0]
    assert min(coarse["img_height"], coarse["img_width"]) * 6.263 > 257 * 0.4, "prostate must show more tissue"


def test_images_and_masks_belong_together(demo):
    """An image is 8-bit RGB of the size in its table, and its mask, never empty or full, fits it."""
    truth = pd.read_csv(demo / "test_truth.csv").assign(split="test")
    train = pd.read_csv(demo / "train.csv").assign(split="train")
    for row in pd.concat([train, truth]).to_dict("records"):
        with tifffile.TiffFile(demo / f"{row['split']}_images" / f"{row['id']}.tiff") as tiff:
            image, compression = tiff.asarray(), COMPRESSION(tiff.pages.first.compression).name
        assert image.dtype == np.uint8
        assert image.shape == (row["img_height"], row["img_width"], 3)
        assert compression == "ADOBE_DEFLATE", "readable without imagecodecs"
        mask = decode(row["rle"], (row["img_height"], row["img_width"]))
        assert 0.005 < mask.mean() < 0.9, row["organ"]
        if row["split"] == "train":
            drawn = np.zeros(mask.shape, np.uint8)
            for polygon in json.loads((demo / "train_annotations" / f"{row['id']}.json").read_text()):
                cv2.fillPoly(drawn, [np.array(polygon)], 1)
            np.testing.assert_array_equal(drawn, mask)


@pytest.mark.parametrize("organ", ORGANS)
def test_units_can_be_told_apart_in_grey(organ):
    """Without its colour, and with pixels of 1.6 µm, a unit still differs from its surroundings in every stain."""
    for source, side in (("HPA", 701), ("Hubmap", None)):
        pixel_um = ORGANS[organ].pixel_size_um[source]
        side = side or max(97, int(290 / pixel_um))
        image, mask = draw(organ, source, (side, side), pixel_um, 4, np.random.default_rng(0))
        scale = max(1, round(1.6 / pixel_um))
        small = (side // scale, side // scale)
        grey = cv2.resize(image.mean(2).astype(np.float32), small, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, small, interpolation=cv2.INTER_NEAREST) > 0
        texture = cv2.blur(np.abs(grey - cv2.blur(grey, (5, 5))), (5, 5))
        separation = [abs(f[mask].mean() - f[~mask].mean()) / f.std() for f in (grey, texture)]
        assert max(separation) > 0.3, (source, separation)


@pytest.mark.parametrize("organ", ORGANS)
def test_no_mask_is_empty(organ):
    """A field smaller than a unit still shows part of one."""
    for seed in range(12):
        assert draw(organ, "HPA", (128, 131), 0.4, 4, np.random.default_rng(seed))[1].any()


def test_seed_decides_every_byte(demo, tmp_path):
    """The same seed writes the same bytes into an empty folder, another seed writes other images."""
    (tmp_path / "again").mkdir()
    write_demo(tmp_path / "again", **SMALL, seed=3)
    assert files(tmp_path / "again") == files(demo)
    write_demo(tmp_path / "other", train=5, test=1, size=128, seed=4)
    write_demo(tmp_path / "another", train=5, test=1, size=128, seed=5)
    assert not set(files(tmp_path / "other").values()) & set(files(tmp_path / "another").values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": 4}, "train is 4.*from 5 to"),
        ({"test": 0}, "test is 0.*from 1 to"),
        ({"test": -3}, "test is -3.*from 1 to"),
        ({"train": 40_000}, "train is 40000.*from 5 to"),
        ({"size": 127}, "size is 127.*from 128 to 4096"),
        ({"seed": -1}, "seed is -1.*at least 0"),
    ],
)
def test_bad_argument_is_named_with_its_remedy(tmp_path, arguments, message):
    """An argument out of range is named with its value and range, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        write_demo(tmp_path / "demo", **{**SMALL, **arguments})
    assert not any(tmp_path.iterdir())


def test_folder_in_use_is_refused(tmp_path):
    """A folder that holds anything is left as it is."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder; name another one"):
        write_demo(tmp_path, **SMALL)
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    """A demo that fails half-way leaves no folder that looks like a whole one."""

    def full(*_args, **_settings):
        raise OSError("no space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(OSError, match="no space"):
        write_demo(tmp_path / "demo", **SMALL)
    assert not any(tmp_path.iterdir())


def test_an_organ_without_a_painter(tmp_path, monkeypatch):
    """An organ that was added to the competition's, and that nothing can draw yet, is left out."""
    monkeypatch.setitem(ORGANS, "liver", ORGANS["kidney"])
    write_demo(tmp_path / "demo", train=6, test=1, size=128)
    assert set(pd.read_csv(tmp_path / "demo" / "train.csv")["organ"]) == set(ORGANS) - {"liver"}
