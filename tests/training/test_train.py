"""Tests of training."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import TINY, TINY_FLAGS

from hubmap_kit import rle
from hubmap_kit.config import TrainConfig
from hubmap_kit.files import has_type, read_json
from hubmap_kit.images.scaling import resize
from hubmap_kit.kaggle.records import PACE_KEYS
from hubmap_kit.masks import MaskRule
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.recipes import RECIPES, recipe
from hubmap_kit.run import MAPS, REPORT, SWEEP, TEST_MAPS, Run, read_map
from hubmap_kit.training import train as training
from hubmap_kit.training.thresholds import choose, first_rule


@pytest.mark.slow
def test_run_folder(trained, store):
    """A finished run holds weights, settings, history, scores and results that agree with each other."""
    run = Run.open(trained)
    assert run.config.train == TINY
    assert run.config.finished
    assert not (trained / "checkpoint.npz").exists()
    history = pd.read_csv(trained / "history.csv")
    assert list(history["epoch"]) == [1, 2, 3]
    results = pd.read_csv(trained / "results.csv").set_index("split")
    scores = pd.read_csv(trained / "scores.csv")
    assert dict(scores.groupby("split")["dice"].mean()) == pytest.approx(dict(results["dice"]), abs=1e-5)
    assert run.config.results["test"]["dice"] == pytest.approx(results.loc["test", "dice"], abs=1e-5)
    assert list(results["images"]) == [len(run.config.splits[split]) for split in results.index]
    assert "validation" in (trained / "results.txt").read_text()
    assert run.config.network == TINY.network()


@pytest.mark.slow
def test_run_folder_holds_what_its_page_shows(trained, demo):
    """It names its images, its devices and its memory, keeps maps of test images too, and has a page with all cards."""
    config = Run.open(trained).config
    assert config.data == str(demo.resolve())
    assert config.devices.startswith("1 x CPU")
    assert config.peak_memory_bytes is not None
    assert config.peak_memory_bytes > 2e8  # TensorFlow alone
    pace = read_json(trained / "pace.json")
    elsewhere = {"seconds_per_image", "peak_gpu_memory_bytes", "kernel", "version"}  # of predictions, GPUs, records
    assert all(has_type(pace[key], kind) for key, kind in PACE_KEYS.items() if key not in elsewhere)
    assert pace["step"] == config.train.step_text(config.prepare.input_size)
    assert pace["devices"] == [config.devices]
    assert 0 < 3 * 2 * pace["seconds_per_step"] < 2 * pace["seconds_per_fold"]
    assert {path.stem for path in (trained / TEST_MAPS).iterdir()} == {str(i) for i in config.splits["test"]}
    page = (trained / REPORT).read_text(encoding="utf-8")
    assert page.count('class="card"') == len(config.splits["validation"]) + len(config.splits["test"])
    assert len(page) < 1e6 * training.PAGE_MB


@pytest.mark.slow
def test_a_page_that_fails_does_not_fail_the_training(store, tmp_path, monkeypatch, capsys):
    """Whatever goes wrong with the page, the training is finished and one line says how to make the page."""

    def fail(*_, **__):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(training, "write_report", fail)
    run = tmp_path / "run"
    assert training.train(store, run, replace(TINY, epochs=1, steps_per_epoch=1))
    assert Run.open(run).config.finished
    assert f"no page (RuntimeError: no fonts); try: hubmap-kit report {run}" in capsys.readouterr().out
    monkeypatch.setattr(training, "write_report", lambda *_, **__: pytest.fail("the page is not wanted"))
    assert training.train(store, tmp_path / "other", replace(TINY, epochs=1, steps_per_epoch=1), page=False)


@pytest.mark.slow
def test_thresholds_are_those_of_the_validation_images(store, trained):
    """A run's thresholds and least region sizes are those that its own sweep chooses; its scores use them."""
    run = Run.open(trained)
    sweep = pd.read_csv(trained / SWEEP)
    assert set(sweep["id"]) == set(run.config.splits["validation"])
    images = [PatchStore.open(store).images[i].image for i in run.config.splits["train"]]
    begun = first_rule(images, TINY)
    assert any(begun.min_region_um2.values())
    assert run.config.rule == choose(sweep, begun)
    scores = pd.read_csv(trained / "scores.csv")
    validation = scores[scores["split"] == "validation"].set_index("id")["dice"]
    for image_id in run.config.splits["validation"]:
        image = PatchStore.open(store).images[image_id].image
        large = resize(read_map(trained / MAPS / f"{image_id}.png"), image.shape)
        found = run.config.rule.runs(large, image.organ, image.pixel_size_um)
        # The map was rounded to 8 bits.
        dice = rle.dice_of_runs(found, rle.parse(image.rle, image.shape))
        assert dice == pytest.approx(validation[image_id], abs=0.01)
    assert {path.stem for path in (trained / MAPS).iterdir()} == {str(i) for i in validation.index}


@pytest.mark.slow
def test_a_threshold_that_the_sweep_does_not_try(store, tmp_path):
    """With tune on, a training with such a threshold ends, and its scores use what it kept."""
    training.train(store, tmp_path / "run", replace(TINY, epochs=1, steps_per_epoch=1, threshold=0.37))
    run = Run.open(tmp_path / "run")
    assert 0.37 in run.config.rule.thresholds.values()
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    assert scores["dice"].notna().all()


@pytest.mark.slow
def test_without_tuning_the_threshold_stays(store, tmp_path):
    """With tune off, a training keeps its threshold, for the organs that it was trained on."""
    training.train(store, tmp_path / "run", replace(TINY, epochs=1, tune=False, threshold=0.37))
    run = Run.open(tmp_path / "run")
    organs = {PatchStore.open(store).images[image_id].image.organ for image_id in run.config.splits["train"]}
    assert run.config.rule == MaskRule.uniform(0.37, organs=organs)


@pytest.mark.slow
def test_run_says_what_the_network_saw(trained):
    """A run states the context and pixel size in um and the look of its training images, by organ."""
    config = Run.open(trained).config
    assert config.prepare.contexts_um()["lung"] == pytest.approx(128 * 0.4)
    assert config.prepare.network_um()["lung"] == pytest.approx(0.8)
    assert len(config.looks["reinhard"]["lung"]) == 6
    assert len(config.looks["macenko"]["lung"]) == 8


@pytest.mark.slow
def test_a_run_is_not_overwritten(trained, store):
    """A second training into the same folder is refused; resuming a finished one changes nothing.

    With other settings it is refused too, so that an old result is not taken for that of the new settings.
    """
    before = (trained / "model.weights.h5").read_bytes()
    with pytest.raises(ValueError, match="--resume"):
        training.train(store, trained, TINY)
    training.train(store, trained, TINY, resume=True)
    with pytest.raises(
        ValueError, match=r"was trained with another --epochs \(.*\), --seed \(0, now 1\); .* name another folder"
    ):
        training.train(store, trained, replace(TINY, epochs=9, seed=1), resume=True)
    assert (trained / "model.weights.h5").read_bytes() == before


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_result(trained, store, tmp_path):
    """A training killed after its first epoch goes on and ends with the history of one that was not."""
    command = [sys.executable, "-m", "hubmap_kit", "train", str(store), str(tmp_path / "run"), *TINY_FLAGS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoint.npz").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    with pytest.raises(ValueError, match=r"another --filters \(2, now 3\)"):
        training.train(store, tmp_path / "run", replace(TINY, filters=3), resume=True)
    training.train(store, tmp_path / "run", TINY, resume=True)
    columns = ["epoch", "train_loss", "validation_dice"]
    expected, found = (pd.read_csv(folder / "history.csv")[columns] for folder in (trained, tmp_path / "run"))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_training_learns(store, tmp_path):
    """Two hundred steps on six images lower the loss by more than a third: gradients reach the weights."""
    config = replace(TINY, filters=8, epochs=8, steps_per_epoch=25, validate_every=8)
    training.train(store, tmp_path / "run", replace(config, learning_rate=5e-3, augment="none", ema=0.0))
    losses = pd.read_csv(tmp_path / "run" / "history.csv")["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0] * 0.65


def test_recipes_are_settings():
    """Each contracted recipe exists, changes are applied, and unknown names are refused."""
    assert set(RECIPES) == {"seed", "default", "cpu", "fast"}
    assert recipe("default") != TrainConfig()
    assert recipe("seed", epochs=2).epochs == 2
    with pytest.raises(ValueError, match="no recipe 'x'"):
        recipe("x")
