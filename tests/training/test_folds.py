"""Tests of training all folds."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from hubmap_kit.cli import main
from hubmap_kit.config import PrepareConfig
from hubmap_kit.preparation.prepare import prepare
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.recipes import recipe
from hubmap_kit.run import FoldsConfig, Run, expand
from hubmap_kit.submission import score
from hubmap_kit.tables import read_images, table_of
from hubmap_kit.training.thresholds import choose, first_rule
from hubmap_kit.training.train import train

TINY = recipe("fast", filters=2, batch_size=4, epochs=1, steps_per_epoch=2)


@pytest.fixture(scope="module")
def folded(demo, tmp_path_factory):
    """A patch store with two folds."""
    folder = tmp_path_factory.mktemp("folded")
    config = PrepareConfig(patch_size=128, input_size=64, test_size=0, val_size=0, folds=2)
    prepare(demo, folder, config)
    return folder


@pytest.fixture(scope="module")
def runs(folded, tmp_path_factory):
    """Both folds, trained."""
    folder = tmp_path_factory.mktemp("folds") / "cv"
    assert train(folded, folder, TINY, recipe="fast", all_folds=True)
    return folder


@pytest.mark.slow
def test_each_image_is_predicted_by_the_fold_that_did_not_see_it(folded, runs):
    """The folds' validation images are all images, each once, and none of them was trained on."""
    opened = [Run.open(run) for run in expand([runs])]
    assert [run.folder.name for run in opened] == ["fold0", "fold1"]
    held_out = [i for run in opened for i in run.config.splits["validation"]]
    assert sorted(held_out) == sorted(PatchStore.open(folded).images)
    for run in opened:
        assert not set(run.config.splits["validation"]) & set(run.config.splits["train"])


@pytest.mark.slow
def test_thresholds_are_chosen_on_all_folds(folded, runs):
    """Every fold's run has the thresholds that the masks and sweeps of all folds together choose."""
    opened = [Run.open(run) for run in expand([runs])]
    sweep = pd.concat([pd.read_csv(run.folder / "sweep.csv") for run in opened])
    images = [stored.image for stored in PatchStore.open(folded).images.values()]
    chosen = choose(sweep, first_rule(images, TINY))
    assert FoldsConfig.read(runs) == FoldsConfig(2, finished=True, rule=chosen)
    assert [run.config.rule for run in opened] == [chosen] * 2


@pytest.mark.slow
def test_out_of_fold_masks(demo, runs, tmp_path):
    """The out-of-fold masks are a valid file of masks, whose scores are the reported ones."""
    table_of(read_images(demo, "train")).to_csv(tmp_path / "truth.csv", index=False)
    scored = score(runs / "oof.csv", tmp_path / "truth.csv").set_index("id")["dice"]
    reported = pd.read_csv(runs / "oof_scores.csv").set_index("id")
    assert sorted(reported.index) == sorted(scored.index)
    assert list(reported["dice"]) == pytest.approx(list(scored[reported.index]), abs=1e-5)
    # Kept in 8 bits, maps give nearly the masks of the sweep.
    sweep = pd.concat([pd.read_csv(run / "sweep.csv") for run in expand([runs])])
    rule = FoldsConfig.read(runs).rule
    assert rule is not None
    organs = sweep.drop_duplicates("id").set_index("id")["organ"]
    for image_id, dice in reported["dice"].items():
        organ = organs.to_dict()[image_id]
        at = sweep[(sweep["id"] == image_id) & (sweep["threshold"].round(6) == rule.thresholds[organ])]
        at = at[at["min_region_um2"] == rule.min_region_um2[organ]]
        assert dice == pytest.approx(float(at["dice"].iloc[0]), abs=0.05)
    assert "mean Dice" in (runs / "results.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_finished_fold_is_not_trained_again(folded, runs):
    """Resuming, folds that are finished keep their weights; without resuming, the folder is refused."""
    before = {run: (run / "model.weights.h5").stat().st_mtime_ns for run in expand([runs])}
    assert train(folded, runs, TINY, resume=True, all_folds=True)
    assert before == {run: (run / "model.weights.h5").stat().st_mtime_ns for run in expand([runs])}
    with pytest.raises(ValueError, match="--resume"):
        train(folded, runs, TINY, all_folds=True)
    finished = FoldsConfig.read(runs)
    with pytest.raises(ValueError, match=r"another --seed \(0, now 5\)"):
        train(folded, runs, replace(TINY, seed=5), resume=True, all_folds=True)
    assert FoldsConfig.read(runs) == finished


def test_a_folder_with_another_number_of_folds(store, folded, tmp_path):
    """It is refused, and stays as it was."""
    FoldsConfig(3).write(tmp_path)
    with pytest.raises(ValueError, match=r"was begun with 3 folds, and .* has 2; name another folder"):
        train(folded, tmp_path, TINY, resume=True, all_folds=True)
    assert FoldsConfig.read(tmp_path) == FoldsConfig(3)


def test_a_store_without_folds(store, tmp_path):
    """A store without folds is refused with the remedy."""
    with pytest.raises(ValueError, match="--folds 5"):
        train(store, tmp_path / "cv", replace(TINY), all_folds=True)


@pytest.mark.slow
def test_command_line(folded, tmp_path, capsys):
    """--all-folds ends between folds at a time limit that only the first one fits, and goes on when resumed."""
    settings = "--recipe fast --filters 2 --batch-size 4 --epochs 1 --steps-per-epoch 1 --all-folds".split()
    command = ["train", str(folded), str(tmp_path / "cv"), *settings]
    assert main([*command, "--time-limit", "0.02"]) == 0
    said = capsys.readouterr()
    assert "stopped before fold 1: the time limit is over" in said.err
    assert said.out.startswith(f"{tmp_path / 'cv'}: not finished, ")
    assert said.err.rstrip().endswith(" --time-limit 0.02 --resume")
    assert FoldsConfig.read(tmp_path / "cv") == FoldsConfig(2)
    assert not (tmp_path / "cv" / "fold1").exists()
    assert main([*command, "--resume"]) == 0
    assert "out of 2 folds" in capsys.readouterr().out
    assert FoldsConfig.read(tmp_path / "cv").finished


def test_all_folds_and_one_fold_are_wrong_usage(capsys):
    """--all-folds is wrong usage together with --fold."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "patches", "cv", "--all-folds", "--fold", "1"])
    assert stop.value.code == 2
    assert "leave out --fold" in capsys.readouterr().err
