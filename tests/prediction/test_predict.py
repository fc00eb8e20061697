"""Tests of prediction."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import builders
import numpy as np
import pandas as pd
import pytest
import tifffile

from hubmap_kit import kernels, submission
from hubmap_kit.cli import main
from hubmap_kit.competition import ORGANS
from hubmap_kit.config import PredictConfig
from hubmap_kit.images import read_image
from hubmap_kit.images.stain import Look, average
from hubmap_kit.masks import MaskRule
from hubmap_kit.prediction import adaptation, networks
from hubmap_kit.prediction import predict as inference
from hubmap_kit.prediction.journal import Journal
from hubmap_kit.prediction.stream import predict_masks
from hubmap_kit.recipes import recipe
from hubmap_kit.run import FoldsConfig, Run, expand

LOOKS = {
    "kidney": (0.4, 0.03, 0.02, 0.1, 0.04, 0.05),
    "lung": (0.2, 0.02, 0.01, 0.06, 0.02, 0.03),
    "spleen": (),  # too little tissue
}


def write_run(folder, bias: float = 0.0, **changes):
    """A run folder without a training; the weights are a number that is added to the logits of `free_networks`."""
    return builders.write_run(folder, str(bias).encode(), **{"looks": {"reinhard": LOOKS}} | changes)


@pytest.fixture
def free_networks(monkeypatch):
    """Networks that take dark pixels as foreground."""
    import tensorflow as tf

    from hubmap_kit.models import network as models

    def load_model(network, weights, *, compute_dtype):
        bias = float(weights.read_text())
        return lambda batch, training: bias + 4 - tf.cast(batch[..., 1], tf.float32) / 32

    monkeypatch.setattr(models, "load_model", load_model)


@pytest.fixture
def run(tmp_path, free_networks):
    """A run whose network costs nothing."""
    return write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    """A run with a real network, which has learned nothing."""
    from hubmap_kit.models.network import build_model

    network = recipe("fast", filters=2).network()
    folder = write_run(tmp_path_factory.mktemp("real") / "run", network=network)
    build_model(network)[0].save_weights(folder / "model.weights.h5")
    return folder


def masks_of(path) -> dict[int, str]:
    return dict(pd.read_csv(path, keep_default_na=False).itertuples(index=False))


@pytest.fixture
def data(demo, tmp_path):
    """A copy of the demo's test part alone, as `predict` needs it."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("test.csv", "sample_submission.csv"):
        shutil.copy(demo / name, folder)
    shutil.copytree(demo / "test_images", folder / "test_images")
    return folder


def test_predict_command(data, real_run, tmp_path, capsys):
    """The command writes a valid submission in the sample's order from the test part alone."""
    sample = pd.read_csv(data / "sample_submission.csv").iloc[::-1]
    sample.to_csv(data / "sample_submission.csv", index=False)
    out = tmp_path / "submission.csv"
    assert main(["predict", str(data), str(real_run), "--out", str(out), "--threshold", "0.01"]) == 0
    assert list(pd.read_csv(out)["id"]) == list(sample["id"])
    assert not [p for p in submission.validate(out, data) if p.severity == "error"]
    assert not (tmp_path / "submission.csv.problems.csv").exists()


def test_timings(data, run, tmp_path):
    """A table beside the submission has the time of each image, and its settings."""
    ids = pd.read_csv(data / "test.csv")["id"].tolist()
    (data / "test_images" / f"{ids[3]}.tiff").write_bytes(b"II*\0 broken")
    config = PredictConfig(on_error="empty", tta="flips", scales="1,0.8,1.25")
    inference.predict(data, [run, run], tmp_path / "out.csv", config)
    timings = pd.read_csv(tmp_path / "out.csv.timings.csv").set_index("id")
    assert list(timings.columns) == ["seconds", "networks", "scales", "tta", "overlap"]
    assert sorted(timings.index) == sorted(ids)
    assert set(timings["tta"]) == {"flips"}
    assert set(timings["networks"]) == {2}
    assert set(timings["scales"]) == {3}
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
    monkeypatch.setattr(inference, "WRITE_EVERY_S", 0.0)
    inference.predict(data, [run], out, PredictConfig(threshold=0.0))
    assert filled == [0, 1, 2, 3, 4]


def test_a_finished_submission_stays_until_the_next_one_is(data, run, tmp_path, monkeypatch, capsys):
    """A prediction that fails leaves the submission that was there; one that replaces it says so."""
    out = tmp_path / "out.csv"
    inference.predict(data, [run], out, PredictConfig(threshold=0.0))
    before = out.read_bytes()

    def broken(*arguments, **options):
        yield next(iter(predict_masks(*arguments, **options)))
        raise ValueError("weights are gone")

    monkeypatch.setattr(inference, "WRITE_EVERY_S", 0.0)
    monkeypatch.setattr(inference, "predict_masks", broken)
    with pytest.raises(ValueError, match=r"weights are gone; .*out.csv is as it was"):
        inference.predict(data, [run], out, PredictConfig(threshold=0.45))
    assert out.read_bytes() == before
    monkeypatch.setattr(inference, "predict_masks", predict_masks)
    inference.predict(data, [run], out, PredictConfig(threshold=0.6))
    assert out.read_bytes() != before
    assert capsys.readouterr().out.count("out.csv: is replaced when all images are predicted") == 2


def test_a_killed_prediction_goes_on(data, run, tmp_path, monkeypatch, capsys):
    """Masks that are done are not predicted again; the submission is that of an uninterrupted prediction."""
    config = PredictConfig(threshold=0.45)
    inference.predict(data, [run], tmp_path / "whole.csv", config)
    out, done = tmp_path / "out.csv", []

    def broken(images, *arguments, **options):
        done.append(len(images))
        for count, result in enumerate(predict_masks(images, *arguments, **options)):
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


def test_a_second_prediction_is_refused(data, run, tmp_path, monkeypatch, capsys):
    """While one prediction writes a file, another one with other runs is refused; the masks are those of the first."""
    other, out = write_run(tmp_path / "other", bias=1.0), tmp_path / "out.csv"
    assert main(["predict", str(data), str(run), "--out", str(tmp_path / "alone.csv")]) == 0
    statuses: list[int] = []

    def watched(*arguments, **options):
        for result in predict_masks(*arguments, **options):
            if not statuses:
                statuses.append(main(["predict", str(data), str(other), "--out", str(out)]))
            yield result

    monkeypatch.setattr(inference, "predict_masks", watched)
    assert main(["predict", str(data), str(run), "--out", str(out)]) == 0
    assert statuses == [1]
    assert f"out.csv is being written by process {os.getpid()} (hubmap-kit predict) since" in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "alone.csv").read_bytes()


@pytest.mark.parametrize("change", ["settings", "image"])
def test_what_changed_is_predicted_again(data, run, tmp_path, monkeypatch, change):
    """A mask that was predicted with other settings, or of an image that has changed, is predicted again."""
    out, done = tmp_path / "out.csv", []

    def broken(images, *arguments, **options):
        done.append(len(images))
        yield from predict_masks(images, *arguments, **options)
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
    """After the time limit the submission is still valid, and the images that were not predicted are named."""
    problems = inference.predict(data, [run], tmp_path / "out.csv", PredictConfig(time_limit_min=0.0, on_error="empty"))
    *late, nothing = problems
    assert len(late) == 5
    assert all("the time limit is over" in problem.rule for problem in late)
    assert (nothing.severity, nothing.rule) == ("error", "none of 5 images could be predicted: every mask is empty")
    assert not [p for p in submission.validate(tmp_path / "out.csv", data) if p.severity == "error"]


@pytest.mark.slow
def test_half_precision(real_run):
    """In half precision the map is nearly the same, and the next network is float32 again."""
    member = networks.load_member(Run.open(real_run), PredictConfig(precision="mixed"))
    batch = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), np.uint8)
    plain = networks.load_member(Run.open(real_run), PredictConfig(precision="float32")).predict(batch)
    half = member.predict(batch)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.02


@pytest.mark.parametrize(("on_error", "status"), [("stop", 1), ("empty", 0)])
def test_unreadable_images(data, run, tmp_path, capsys, on_error, status):
    """A damaged, a missing and a mis-sized image are named; the rest is predicted; the status is the one chosen."""
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
    """A bad row of test.csv costs only its own image, which still has a row in the submission."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    table.loc[1, "pixel_size"] = "nan"
    table.to_csv(data / "test.csv", index=False)
    problems = inference.predict(data, [run], tmp_path / "out.csv", PredictConfig(on_error="empty", threshold=0.0))
    assert [(p.severity, p.row) for p in problems] == [("warning", 3)]
    masks = pd.read_csv(tmp_path / "out.csv", keep_default_na=False).set_index("id")["rle"]
    assert len(masks) == 5
    assert (masks == "").sum() == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("img_height", "999999999"),
        ("img_width", "1000000000000000000000"),
        ("img_width", "20000"),
        ("pixel_size", "1e308"),
        ("pixel_size", "1e-320"),
        ("pixel_size", "400"),
        ("pixel_size", "0.0004"),
        ("pixel_size", "20"),
        ("organ", "Kidney"),
        ("data_source", ""),
    ],
)
def test_an_absurd_row_costs_one_image(data, run, tmp_path, column, value, capsys):
    """Whatever one row says, every other image gets its mask, with all settings of a time limit that suffices."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    table.loc[1, column] = value
    table.to_csv(data / "test.csv", index=False)
    arguments = ["predict", str(data), str(run), "--out", str(tmp_path / "out.csv"), "--on-error", "empty"]
    assert main([*arguments, "--threshold", "0", "--tta", "flips", "--time-limit", "5"]) == 0
    masks = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)["rle"]
    assert (masks == "").sum() == (value != "20")  # which makes the image large, but may be
    assert "from here on" not in capsys.readouterr().err
    if value != "20":
        (problem,) = submission.read_problems(tmp_path / "out.csv")
        assert (problem.severity, problem.row) == ("warning", 3)


@pytest.mark.slow
def test_a_huge_image_takes_no_time_from_the_others(data, run, tmp_path, capsys):
    """An image that its row makes far too large is predicted last, and does not cost the others their settings."""
    ids = pd.read_csv(data / "test.csv")["id"].tolist()
    table = pd.read_csv(data / "test.csv", dtype=str)
    table["pixel_size"] = ["20", *["0.4"] * 4]
    table.to_csv(data / "test.csv", index=False)
    arguments = ["predict", str(data), str(run), "--out", str(tmp_path / "out.csv"), "--on-error", "empty"]
    assert main([*arguments, "--threshold", "0", "--tta", "d4", "--scales", "4,5,6", "--time-limit", "0.3"]) == 0
    masks = masks_of(tmp_path / "out.csv")
    assert [bool(masks[i]) for i in ids] == [False, True, True, True, True]
    err = capsys.readouterr().err
    assert f"predicted last, because their rows in the table make them huge: {ids[0]}" in err
    assert "from here on" not in err
    assert {timing.tta for timing in submission.read_timings(tmp_path / "out.csv")} == {"d4"}


@pytest.mark.parametrize(
    ("name", "row"), [("test.csv", "{id},lung,HPA"), ("sample_submission.csv", "x,"), ("sample_submission.csv", None)]
)
def test_a_torn_row_costs_one_image(data, run, tmp_path, name, row):
    """A row with too few cells costs its image; a damaged or missing sample, which gives only the order, costs none."""
    ids = pd.read_csv(data / "test.csv")["id"].tolist()
    if row:
        lines = (data / name).read_text().splitlines()
        lines[2] = row.format(id=ids[1])
        (data / name).write_text("\n".join(lines) + "\n")
    else:
        (data / name).unlink()
    problems = inference.predict(data, [run], tmp_path / "out.csv", PredictConfig(on_error="empty", threshold=0.0))
    assert {(problem.severity, problem.file) for problem in problems} == {("warning", name)}
    masks = masks_of(tmp_path / "out.csv")
    assert sorted(masks) == sorted(ids)
    assert [i for i in ids if not masks[i]] == ([ids[1]] if name == "test.csv" else [])


@pytest.mark.parametrize("on_error", ["empty", "stop"])
def test_a_bad_row_in_the_inference_kernel(data, run, tmp_path, monkeypatch, on_error):
    """A bad row of test.csv ends the inference kernel with status 1 only if ON_ERROR is stop; the file is whole."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    table.loc[1, "pixel_size"] = "400"
    table.to_csv(data / "test.csv", index=False)
    given: dict[str, Any] = dict.fromkeys(each.name for each in fields(kernels.InferSettings))
    given |= {"TTA": "none", "SCALES": "1", "STAIN": "none", "ADAPT": "none", "SKIP_BACKGROUND": False}
    settings = kernels.InferSettings(**given | {"THRESHOLD": 0.0, "ON_ERROR": on_error})
    found = {"start": settings, "find_competition": data, "find_runs": [run], "WORKING": tmp_path, "_write_page": None}
    for name, value in found.items():
        monkeypatch.setattr(kernels, name, value if name == "WORKING" else lambda *_, value=value: value)
    with pytest.raises(SystemExit) if on_error == "stop" else nullcontext():
        kernels.infer({}, tmp_path)
    assert list(masks_of(tmp_path / "submission.csv").values()).count("") == 1


@pytest.mark.parametrize(("images", "status"), [(5, 1), (3, 0)])
def test_a_network_that_finds_nothing(data, run, tmp_path, capsys, images, status):
    """Masks that are all empty are an error even with --on-error empty, and the file stays; a few are a warning."""
    for name in ("test.csv", "sample_submission.csv"):
        pd.read_csv(data / name, dtype=str).head(images).to_csv(data / name, index=False)
    out = tmp_path / "out.csv"
    arguments = ["predict", str(data), str(run), "--out", str(out), "--on-error", "empty", "--min-region", "1e9"]
    assert main(arguments) == status
    assert f"out.csv: the network found nothing in {images} images: every mask is empty" in capsys.readouterr().err
    assert list(masks_of(out).values()) == [""] * images


def test_images_that_all_fail(data, run, tmp_path, capsys):
    """If no image can be predicted it is an error even with --on-error empty, and the file stays."""
    for path in (data / "test_images").iterdir():
        path.write_bytes(b"II*\0 broken")
    out = tmp_path / "out.csv"
    assert main(["predict", str(data), str(run), "--out", str(out), "--on-error", "empty"]) == 1
    assert "error: out.csv: none of 5 images could be predicted: every mask is empty" in capsys.readouterr().err
    assert list(masks_of(out).values()) == [""] * 5


def test_a_test_set_without_rows(data, run, tmp_path, capsys):
    """A test.csv without a row is an error even with --on-error empty."""
    (data / "test.csv").write_text((data / "test.csv").read_text().splitlines()[0] + "\n")
    assert main(["predict", str(data), str(run), "--out", str(tmp_path / "out.csv"), "--on-error", "empty"]) == 1
    err = capsys.readouterr().err
    assert "warning: test.csv: has no rows" in err
    assert "error: out.csv: none of 0 images could be predicted" in err


def test_weights_that_are_not_finite(data, real_run, tmp_path, capsys):
    """Weights that are not finite are an error before any image is read; it names the file with the masks so far."""
    import h5py

    folder = tmp_path / "run"
    shutil.copytree(real_run, folder)
    with h5py.File(folder / "model.weights.h5", "r+") as stored:
        arrays = []
        stored.visititems(lambda _, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        arrays[-1][...] = np.nan
    out = tmp_path / "out.csv"
    assert main(["predict", str(data), str(folder), "--out", str(out), "--on-error", "empty"]) == 1
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error:"))
    assert "model.weights.h5 holds numbers that are not finite, in " in said
    assert said.endswith(f"; {out} is unfinished, with 0 of 5 masks")
    assert len(masks_of(out)) == 5


def test_thresholds_of_a_run_that_are_no_probability(data, run, tmp_path, capsys):
    """A run whose threshold is outside 0 to 1 is an error, because it would find nothing, or everything."""
    import json

    values = json.loads((run / "config.json").read_text())
    values["thresholds"]["lung"] = 30
    (run / "config.json").write_text(json.dumps(values))
    assert main(["predict", str(data), str(run), "--out", str(tmp_path / "out.csv"), "--on-error", "empty"]) == 1
    assert "thresholds has {'lung': 30.0}; the number of each organ must be from 0 to 1" in capsys.readouterr().err


def test_networks_that_do_not_fit_in_memory(data, run, tmp_path, monkeypatch, capsys):
    """If the memory does not hold a batch, half of it is predicted at a time, with the same masks."""
    import tensorflow as tf

    from hubmap_kit.models import network as models

    arguments = ["predict", str(data), str(run), "--batch-size", "8", "--out"]
    assert main([*arguments, str(tmp_path / "whole.csv")]) == 0
    load, sizes = models.load_model, []

    def small_memory(*arguments, **options):
        network = load(*arguments, **options)

        def predict(batch, training):
            sizes.append(batch.shape[0])
            if batch.shape[0] > 2:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            return network(batch, training)

        return predict

    monkeypatch.setattr(models, "load_model", small_memory)
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "out.csv")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "memory" in line] == [
        "the memory is full: from here on 4 tiles at a time",
        "the memory is full: from here on 2 tiles at a time",
    ]
    assert sorted(set(sizes)) == [2, 4, 8]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_ids_written_with_leading_zeros(data, run, tmp_path):
    """An id such as 0077 in test.csv is image 77, whose problem is reported with its row like any other's."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    ids = table["id"].tolist()
    (data / "test_images" / f"{ids[2]}.tiff").write_bytes(b"II*\0 broken")
    table["id"] = [*ids[:2], "00" + ids[2], *ids[3:]]
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
    assert networks.load_member(opened, PredictConfig()).tile_size == 64
    assert networks.load_member(opened, PredictConfig(tile_size=256)).tile_size == 128
    assert networks.load_member(opened, PredictConfig(tile_size=150)).tile_size == 64


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such pipes")
def test_a_pipe_is_no_place_for_a_submission(data, run, tmp_path, capsys):
    """A submission, which is written several times with files beside it, is not written to a pipe or a device."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(data), str(run), "--out", str(tmp_path / "pipe")])
    assert stopped.value.code == 2
    assert f"--out is {tmp_path / 'pipe'}; a submission is written several times" in capsys.readouterr().err
    assert not list(tmp_path.glob("pipe.*"))


def test_folders_that_are_no_run(data, tmp_path, capsys):
    """A folder without weights, or with a damaged config.json, is an error that names it, with status 1."""
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


def test_what_a_member_takes_from_its_run(tmp_path, free_networks):
    """Thresholds and least region sizes are the run's by organ, unless a setting overrides them; so is the model."""
    thresholds, areas = ({organ: base * (i + 1) for i, organ in enumerate(ORGANS)} for base in (0.1, 100.0))
    run = Run.open(write_run(tmp_path / "run", rule=MaskRule(thresholds, areas)))
    own = networks.load_member(run, PredictConfig())
    assert (own.rule, own.looks) == (MaskRule(thresholds, areas), {})
    assert callable(own.network)
    other = networks.load_member(run, PredictConfig(threshold=0.25, min_region_um2=7.0))
    assert other.rule == MaskRule.uniform(0.25, 7.0)


def test_members_at_several_scales(tmp_path, free_networks):
    """Each network is loaded once and sees images at each of the scales."""
    runs = [Run.open(write_run(tmp_path / name)) for name in "ab"]
    members = networks.load_members(runs, PredictConfig(scales="1,2"))
    assert [member.scale for member in members] == [1, 2, 1, 2]
    assert [member.network_um["lung"] for member in members] == [0.8, 0.4, 0.8, 0.4]
    assert members[0].predict is members[1].predict is not members[2].predict


def test_looks_of_a_run(tmp_path, free_networks):
    """An organ has its training images' look, one without images the average; without any look it is an error."""
    run = Run.open(write_run(tmp_path / "run"))
    looks = networks.load_member(run, PredictConfig(stain="reinhard")).looks
    known = [Look("reinhard", LOOKS[organ]) for organ in ("kidney", "lung")]
    assert [looks["kidney"], looks["lung"]] == known
    assert looks["spleen"] == looks["prostate"] == looks["liver"] == average(known)
    with pytest.raises(ValueError, match=r"run has no macenko look of its training images; predict with --stain none"):
        networks.load_member(run, PredictConfig(stain="macenko"))


def test_least_regions_and_scales_reach_the_masks(data, tmp_path, free_networks, capsys):
    """--min-region drops regions, --scales averages maps, and --stain changes the colours that the network sees."""
    darker = {"reinhard": {organ: [0.8, 0.03, 0.02, 0.1, 0.04, 0.05] for organ in ORGANS}}  # than any image of the demo
    run = write_run(tmp_path / "run", looks=darker)
    flags = {"plain": [], "region": ["--min-region", "1e9"], "scales": ["--scales", "1,0.5"]}
    flags |= {"stain": ["--stain", "reinhard"]}
    masks = {}
    for name, extra in flags.items():
        assert main(["predict", str(data), str(run), "--out", str(tmp_path / name), *extra]) == (name == "region")
        masks[name] = masks_of(tmp_path / name)
    assert all(masks["plain"].values())
    assert not any(masks["region"].values())
    for name in ("scales", "stain"):
        assert all(masks[name][i] not in ("", masks["plain"][i]) for i in masks["plain"]), name


def test_a_folder_of_folds_is_an_ensemble(data, tmp_path, free_networks, capsys):
    """A folder of folds stands for its finished folds, by number, and says which it leaves out."""
    for fold, changes in ((0, {}), (2, {}), (10, {}), (3, {"finished": False})):
        write_run(tmp_path / "cv" / f"fold{fold}", bias=fold / 10, **changes)
    (tmp_path / "cv" / "fold4").mkdir()  # not begun
    FoldsConfig(11).write(tmp_path / "cv")  # of which six have no folder yet
    single = write_run(tmp_path / "single", bias=-1.0)
    folds = [tmp_path / "cv" / f"fold{fold}" for fold in (0, 2, 10)]
    assert expand([single, tmp_path / "cv"]) == [single, *folds]
    said = capsys.readouterr().out
    assert "fold1, fold3, fold4, fold5, fold6 and 3 more left out" in said
    assert expand([folds[1], tmp_path / "nowhere"]) == [folds[1], tmp_path / "nowhere"]
    for name, runs in (("together", [single, tmp_path / "cv"]), ("one by one", [single, *folds])):
        arguments = ["predict", str(data), *map(str, runs), "--out", str(tmp_path / name)]
        assert main(arguments) == 0
    assert (tmp_path / "together").read_bytes() == (tmp_path / "one by one").read_bytes()


def test_what_a_prediction_does_not_pass_over_in_silence(data, run, tmp_path, capsys):
    """Unknown organs and sources, an assumed pixel size and an unfinished run are warnings, one for each kind."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    table["organ"], table["data_source"], table["pixel_size"] = "lung", "HPA", ""
    table.loc[4, ["organ", "data_source", "pixel_size"]] = ["liver", "Mars", "0.5"]
    table.to_csv(data / "test.csv", index=False)
    write_run(run, finished=False, sources=["HPA"])
    assert main(["predict", str(data), str(run), "--out", str(tmp_path / "out.csv")]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [line.partition(";")[0] for line in warnings] == [
        "warning: test.csv, rows 2-5: pixel_size is empty, and 0.4 um is assumed, as in the competition for lung by "
        "HPA",
        f"warning: {run}: its training is unfinished",
        "warning: test.csv: 1 image of organ 'liver', on which run was not trained, only on kidney, prostate, "
        "largeintestine, spleen, lung",
        "warning: test.csv: 1 image of source 'Mars', on which run was not trained, only on HPA",
    ]
    assert submission.read_problems(tmp_path / "out.csv")[1].rule == "its training is unfinished"


def test_few_training_images_are_named(data, run, tmp_path, capsys):
    """One line names organs and sources of the images of which every run saw few; one that none saw is a warning."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    table["organ"], table["data_source"] = ["lung", "kidney", "liver", "lung", "lung"], "HPA"
    table.to_csv(data / "test.csv", index=False)
    other = write_run(tmp_path / "other", train_images={"organ": {"lung": 3, "kidney": 12, "liver": 0}})
    write_run(run, train_images={"organ": {"lung": 2, "kidney": 1, "liver": 0, "skin": 1}, "source": {"HPA": 9}})
    assert main(["predict", str(data), str(run), str(other), "--out", str(tmp_path / "out.csv")]) == 0
    said = capsys.readouterr().err
    assert "fewer than 10 images to train on: lung 3, HPA 9; expect worse masks there" in said.splitlines()
    assert said.count("fewer than") == 1
    assert "of organ 'liver', on which run, other was not trained, only on lung, kidney, skin" in said


def test_a_folder_of_unfinished_folds(data, tmp_path, capsys):
    """A folder of folds without a finished one is an error."""
    write_run(tmp_path / "cv" / "fold0", finished=False)
    assert main(["predict", str(data), str(tmp_path / "cv"), "--out", str(tmp_path / "out.csv")]) == 1
    assert "none of the folds in" in capsys.readouterr().err


class Adaptation:
    """The images that networks are adapted to, and the images that are predicted while they are."""

    def __init__(self, monkeypatch):
        self.groups: list[dict[str, set[Any]]] = []
        self.now: dict[str, set[Any]] | None = None
        monkeypatch.setattr(inference, "predict_masks", self.watch)
        monkeypatch.setattr(adaptation, "adapted", self.adapted)

    @contextmanager
    def adapted(self, members, images, config):
        assert self.now is None
        self.now = {
            "ids": {image.id for image in images},
            "of": {(image.organ, image.source) for image in images},
            "predicted": set(),
        }
        self.groups.append(self.now)
        yield
        self.now = None

    def watch(self, *arguments, **options):
        for result in predict_masks(*arguments, **options):
            if self.now:
                self.now["predicted"].add(result.id)
            yield result


@pytest.fixture
def sources(data):
    """The ids of the images by organ and source: two organs and two sources, mixed."""
    table = pd.read_csv(data / "test.csv", dtype=str)
    table["organ"], table["data_source"] = ["lung", "kidney"] * 2 + ["lung"], ["HPA"] * 3 + ["Hubmap"] * 2
    table.to_csv(data / "test.csv", index=False)
    return {key: set(map(int, part["id"])) for key, part in table.groupby(["organ", "data_source"])}


def test_networks_are_adapted_by_organ_and_source(data, sources, tmp_path, free_networks, monkeypatch):
    """Images of an organ and source are predicted together, while the networks are adapted to exactly these."""
    spy, config = Adaptation(monkeypatch), PredictConfig(adapt="batchnorm")
    runs = [write_run(tmp_path / "run")]
    inference.predict(data, runs, tmp_path / "out.csv", config)
    assert {next(iter(group["of"])): group["ids"] for group in spy.groups} == sources
    assert all(group["predicted"] == group["ids"] for group in spy.groups)
    inference.predict(data, runs, tmp_path / "plain.csv", PredictConfig())
    assert len(spy.groups) == len(sources)
    assert masks_of(tmp_path / "out.csv") == masks_of(tmp_path / "plain.csv")


def test_a_prediction_that_goes_on_adapts_to_all(data, sources, tmp_path, free_networks, monkeypatch):
    """Networks are adapted to images that are done too, so that the masks are those of an uninterrupted prediction."""
    spy, runs = Adaptation(monkeypatch), [write_run(tmp_path / "run")]
    config = PredictConfig(adapt="batchnorm")
    real, added = Journal.add, []

    def killed(journal, image, mask):
        real(journal, image, mask)
        added.append(image.id)
        if len(added) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        inference.predict(data, runs, tmp_path / "out.csv", config)
    spy.groups, spy.now = [], None
    inference.predict(data, runs, tmp_path / "out.csv", config)
    assert [group["ids"] for group in spy.groups if added[0] in group["ids"]] == [sources["lung", "HPA"]]
    assert set().union(*(group["predicted"] for group in spy.groups)) == set().union(*sources.values()) - {added[0]}


def test_no_adaptation_when_the_time_is_over(data, sources, tmp_path, free_networks, monkeypatch):
    """After the time limit networks are not adapted."""
    spy = Adaptation(monkeypatch)
    config = PredictConfig(adapt="batchnorm", time_limit_min=0.0, on_error="empty")
    problems = inference.predict(data, [write_run(tmp_path / "run")], tmp_path / "out.csv", config)
    assert len(problems) == 6
    assert not spy.groups


def test_adaptation_needs_all_images(data, tmp_path, free_networks, capsys):
    """A cluster cannot adapt networks, since each of its workers sees single images."""
    run, out = write_run(tmp_path / "run"), tmp_path / "out.csv"
    flags = ["--adapt", "batchnorm", "--scheduler", "tcp://127.0.0.1:1"]
    assert main(["predict", str(data), str(run), "--out", str(out), *flags]) == 1
    assert "predict without --scheduler, or with --adapt none" in capsys.readouterr().err
