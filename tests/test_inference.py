"""Tests of prediction."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pandas as pd
import pytest
import tifffile

from hubmap_kit import inference, rle, submission
from hubmap_kit.cli import main
from hubmap_kit.competition import read_test
from hubmap_kit.config import PredictConfig, recipe
from hubmap_kit.images import read_image
from hubmap_kit.inference import AUGMENTATIONS, Member, predict_masks, with_augmentation
from hubmap_kit.run import Run


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run that has trained for one step."""
    from hubmap_kit.training import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    train(store, folder, recipe("fast", filters=2, batch_size=4, epochs=1, steps_per_epoch=1))
    return folder


@pytest.fixture
def data(demo, tmp_path):
    """A copy of the demo's test part alone, as `predict` needs it."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("test.csv", "sample_submission.csv"):
        shutil.copy(demo / name, folder)
    shutil.copytree(demo / "test_images", folder / "test_images")
    return folder


def bright(batch):
    """White pixels are foreground."""
    return (batch.min(axis=-1) / 255).astype(np.float32)


def jobs_of(data):
    return [(i, data / "test_images" / f"{i}.tiff", row) for i, row in read_test(data).iterrows()]


def member(um, **changes):
    organs = ["kidney", "prostate", "largeintestine", "spleen", "lung"]
    settings = {"tile_size": 64, "overlap": 0.25, "batch_size": 2, "thresholds": dict.fromkeys(organs, 0.5)}
    return Member(predict=bright, network_um=dict.fromkeys(organs, um), **settings | changes)


def test_mask_at_native_scale_is_exact(data):
    """At an image's own pixel size tiling, blending and encoding change no pixel of a pixelwise prediction."""
    for job in jobs_of(data):
        image = read_image(job[1])
        ((image_id, found),) = predict_masks([job], [member(job[2]["pixel_size"])])
        assert image_id == job[0]
        values = image.min(axis=-1) / 255
        expected = values >= 0.5
        found_mask = rle.decode(found, image.shape[:2]).astype(bool)
        # Within float32 of the threshold either answer is right.
        assert ((found_mask == expected) | (np.abs(values - 0.5) < 1e-5)).all()


def test_mask_comes_back_to_the_images_own_size(data):
    """Seen at a coarse scale, the mask still has the image's own size and covers much the same pixels."""
    for job in jobs_of(data):
        shape, um = read_image(job[1]).shape[:2], job[2]["pixel_size"]
        texts = [next(predict_masks([job], [member(um * factor)]))[1] for factor in (1, 2)]
        native, coarse = (rle.decode(text, shape) for text in texts)
        assert 2 * (native & coarse).sum() / (native.sum() + coarse.sum()) > 0.8


def test_an_ensemble_averages_maps_and_thresholds(data):
    """Two members that answer 0.2 and 0.6 are together at 0.4."""
    job = jobs_of(data)[0]
    organs = member(1.0).thresholds
    members = [
        Member(lambda b, v=v: np.full(b.shape[:3], v, np.float32), member(um).network_um, 64, 0.0, 1, organs)
        for v, um in ((0.2, 1.0), (0.6, 2.0))
    ]
    for threshold, foreground in ((0.39, True), (0.41, False)):
        organs.update(dict.fromkeys(organs, threshold))
        ((_, text),) = predict_masks([job], members)
        assert bool(text) is foreground


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("flips", 4), ("d4", 8)])
def test_augmentation_is_undone(kind, count, rng):
    """Each pose is taken once and turned back: a pixelwise predictor gives the same with and without."""
    seen = set()

    def spy(batch):
        seen.add(batch.tobytes())
        return bright(batch)

    batch = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_allclose(with_augmentation(spy, kind)(batch), bright(batch), atol=1e-6)
    assert len(seen) == len(AUGMENTATIONS[kind]) == count


def test_predict_command(data, run, tmp_path, capsys):
    """The command writes a valid submission in the sample's order from the test part alone."""
    sample = pd.read_csv(data / "sample_submission.csv").iloc[::-1]
    sample.to_csv(data / "sample_submission.csv", index=False)
    out = tmp_path / "submission.csv"
    assert main(["predict", str(data), str(run), "--out", str(out), "--threshold", "0.01"]) == 0
    assert list(pd.read_csv(out)["id"]) == list(sample["id"])
    assert not [p for p in submission.validate(out, data) if p.severity == "error"]
    assert not (tmp_path / "submission.csv.problems.csv").exists()


def test_timings(data, run, tmp_path, monkeypatch):
    """Beside the submission stands what each image took, the unreadable one too; together it is all of the time."""
    ids = pd.read_csv(data / "test.csv")["id"].tolist()
    (data / "test_images" / f"{ids[3]}.tiff").write_bytes(b"II*\0 broken")

    def slowly(jobs, members):
        for job in jobs:
            time.sleep(0.2 if job[0] == ids[1] else 0.01)
            yield job[0], ValueError("broken") if job[0] == ids[3] else "1 1"

    monkeypatch.setattr(inference, "predict_masks", slowly)
    inference.predict(data, [run], tmp_path / "out.csv", PredictConfig(on_error="empty"))
    timings = pd.read_csv(tmp_path / "out.csv.timings.csv")
    assert list(timings.columns) == ["id", "seconds"]
    assert timings["id"].tolist() == ids
    assert timings["seconds"].idxmax() == 1
    assert 0.2 <= timings["seconds"][1] < 0.3
    assert timings["seconds"].min() >= 0.009


@pytest.mark.parametrize(("on_error", "status"), [("stop", 1), ("empty", 0)])
def test_unreadable_images(data, run, tmp_path, capsys, on_error, status):
    """A corrupt, a missing and a mis-sized image are named, the rest is predicted, and the status is as chosen."""
    ids = pd.read_csv(data / "test.csv")["id"].tolist()
    (data / "test_images" / f"{ids[0]}.tiff").write_bytes(b"II*\0 broken")
    (data / "test_images" / f"{ids[2]}.tiff").unlink()
    tifffile.imwrite(data / "test_images" / f"{ids[3]}.tiff", np.zeros((31, 37, 3), np.uint8), photometric="rgb")
    out = tmp_path / "submission.csv"
    arguments = ["predict", str(data), str(run), "--out", str(out), "--on-error", on_error, "--threshold", "0"]
    assert main(arguments) == status
    masks = pd.read_csv(out, keep_default_na=False).set_index("id")["rle"]
    assert [bool(masks[i]) for i in ids] == [False, True, False, False, True]
    problems = pd.read_csv(tmp_path / "submission.csv.problems.csv")
    assert len(problems) == 3
    err = capsys.readouterr().err
    for index in (0, 2, 3):
        assert str(ids[index]) in err
        assert f"test.csv, row {index + 2}" in err


def test_bad_row_of_the_table(data, run, tmp_path):
    """A row of test.csv that makes no sense costs only its own image, which still has its row."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    table.loc[1, "pixel_size"] = "nan"
    table.to_csv(data / "test.csv", index=False)
    problems = inference.predict(data, [run], tmp_path / "out.csv", PredictConfig(on_error="empty", threshold=0.0))
    assert [(p.severity, p.row) for p in problems] == [("warning", 3)]
    masks = pd.read_csv(tmp_path / "out.csv", keep_default_na=False).set_index("id")["rle"]
    assert len(masks) == 5
    assert (masks == "").sum() == 1


def test_ids_written_with_leading_zeros(data, run, tmp_path):
    """An id such as 0077 in test.csv is image 77, whose problem is reported with its row like any other's."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    (data / "test_images" / f"{table.loc[2, 'id']}.tiff").write_bytes(b"II*\0 broken")
    table.loc[2, "id"] = "00" + table.loc[2, "id"]
    table.to_csv(data / "test.csv", index=False)
    problems = inference.predict(data, [run], tmp_path / "out.csv", PredictConfig())
    assert [(p.severity, p.row) for p in problems] == [("error", 4)]


def test_ids_are_those_of_the_test_csv_of_the_moment(data, run, tmp_path):
    """An image in test.csv but not in the sample is predicted; one only in the sample is left out and named."""
    sample = pd.read_csv(data / "sample_submission.csv", dtype=str)
    sample.loc[0, "id"] = "999999"
    sample.to_csv(data / "sample_submission.csv", index=False)
    problems = inference.predict(data, [run], tmp_path / "out.csv", PredictConfig())
    assert "999999" in problems[0].rule
    assert sorted(pd.read_csv(tmp_path / "out.csv")["id"]) == sorted(pd.read_csv(data / "test.csv")["id"])


def test_tile_size_is_in_working_pixels(run):
    """A tile twice the patch size is twice the input size for the network, a multiple of its stride."""
    opened = Run.open(run)
    assert inference.load_member(opened, PredictConfig()).tile_size == 64
    assert inference.load_member(opened, PredictConfig(tile_size=256)).tile_size == 128
    assert inference.load_member(opened, PredictConfig(tile_size=150)).tile_size == 64


def test_folders_that_are_no_run(data, tmp_path, capsys):
    """A folder without weights or with a damaged config is named, with status 1."""
    (tmp_path / "run").mkdir()
    arguments = ["predict", str(data), str(tmp_path / "run"), "--out", str(tmp_path / "x.csv")]
    assert main(arguments) == 1
    (tmp_path / "run" / "model.weights.h5").touch()
    (tmp_path / "run" / "config.json").write_text("{")
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "has no config.json" in err
    assert "not valid JSON" in err
    assert not (tmp_path / "x.csv").exists()
