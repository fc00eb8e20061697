"""Tests of prediction."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile

from hubmap_kit import inference, submission
from hubmap_kit.cli import main
from hubmap_kit.config import PredictConfig, recipe
from hubmap_kit.images import read_image
from hubmap_kit.run import Run
from hubmap_kit.stream import predict_masks


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


def test_predict_command(data, run, tmp_path, capsys):
    """The command writes a valid submission in the sample's order from the test part alone."""
    sample = pd.read_csv(data / "sample_submission.csv").iloc[::-1]
    sample.to_csv(data / "sample_submission.csv", index=False)
    out = tmp_path / "submission.csv"
    assert main(["predict", str(data), str(run), "--out", str(out), "--threshold", "0.01"]) == 0
    assert list(pd.read_csv(out)["id"]) == list(sample["id"])
    assert not [p for p in submission.validate(out, data) if p.severity == "error"]
    assert not (tmp_path / "submission.csv.problems.csv").exists()


def test_timings(data, run, tmp_path):
    """Beside the submission stands what each image took, and with which settings."""
    ids = pd.read_csv(data / "test.csv")["id"].tolist()
    (data / "test_images" / f"{ids[3]}.tiff").write_bytes(b"II*\0 broken")
    inference.predict(data, [run], tmp_path / "out.csv", PredictConfig(on_error="empty", tta="flips"))
    timings = pd.read_csv(tmp_path / "out.csv.timings.csv").set_index("id")
    assert list(timings.columns) == ["seconds", "networks", "tta", "overlap"]
    assert sorted(timings.index) == sorted(ids)
    assert set(timings["tta"]) == {"flips"}
    assert set(timings["networks"]) == {1}
    assert timings["seconds"].idxmin() == ids[3]
    assert (timings["seconds"].drop(ids[3]) > 0).all()


def test_a_submission_from_the_start(data, run, tmp_path, monkeypatch):
    """A valid submission is there before the first image is finished, and grows while predicting."""
    out = tmp_path / "out.csv"
    filled = []

    def watched(*arguments, **options):
        for result in predict_masks(*arguments, **options):
            assert not [p for p in submission.validate(out, data) if p.severity == "error"]
            filled.append(int((pd.read_csv(out, keep_default_na=False)["rle"] != "").sum()))
            yield result

    monkeypatch.setattr(inference, "predict_masks", watched)
    monkeypatch.setattr(inference, "WRITE_EVERY", 0.0)
    inference.predict(data, [run], out, PredictConfig(threshold=0.0))
    assert filled == [0, 1, 2, 3, 4]


def test_a_killed_prediction_goes_on(data, run, tmp_path, monkeypatch, capsys):
    """What was predicted is not predicted again; the result is that of an unbroken prediction."""
    config = PredictConfig(threshold=0.45)
    inference.predict(data, [run], tmp_path / "whole.csv", config)
    out, done = tmp_path / "out.csv", []

    def broken(jobs, *arguments, **options):
        done.append(len(jobs))
        for count, result in enumerate(predict_masks(jobs, *arguments, **options)):
            if len(done) == 1 and count == 3:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(inference, "predict_masks", broken)
    with pytest.raises(KeyboardInterrupt):
        inference.predict(data, [run], out, config)
    journal = tmp_path / "out.csv.progress.jsonl"
    journal.write_text(journal.read_text() + '{"id": 5, "rl')  # as a kill while writing leaves it
    inference.predict(data, [run], out, config)
    assert done == [5, 2]
    assert "3 of 5 images were predicted before" in capsys.readouterr().out
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not journal.exists()


@pytest.mark.parametrize("change", ["settings", "image"])
def test_what_changed_is_predicted_again(data, run, tmp_path, monkeypatch, change):
    """After other settings, or of an image that changed, an earlier prediction is not taken over."""
    out, done = tmp_path / "out.csv", []

    def broken(jobs, *arguments, **options):
        done.append(len(jobs))
        yield from predict_masks(jobs, *arguments, **options)
        if len(done) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(inference, "predict_masks", broken)
    with pytest.raises(KeyboardInterrupt):
        inference.predict(data, [run], out, PredictConfig())
    if change == "image":
        path = sorted((data / "test_images").iterdir())[0]
        image = read_image(path)
        tifffile.imwrite(path, image[::-1].copy(), photometric="rgb")
    inference.predict(data, [run], out, PredictConfig(tta="flips" if change == "settings" else "none"))
    assert done == [5, 5 if change == "settings" else 1]


def test_time_limit(data, run, tmp_path):
    """A limit that is over leaves a valid submission, and names what was not predicted."""
    problems = inference.predict(data, [run], tmp_path / "out.csv", PredictConfig(time_limit=0.0, on_error="empty"))
    assert len(problems) == 5
    assert all("the time limit is over" in problem.rule for problem in problems)
    assert not [p for p in submission.validate(tmp_path / "out.csv", data) if p.severity == "error"]


def test_half_precision(run):
    """Computed in float16 the map is nearly the same, and the next network is float32 again."""
    member = inference.load_member(Run.open(run), PredictConfig(precision="mixed"))
    batch = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    plain = inference.load_member(Run.open(run), PredictConfig()).predict(batch)
    half = member.predict(batch)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.02


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
