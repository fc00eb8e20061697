"""Tests of the ablation: two small networks trained for one step, and rows whose scores are made up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hubmap_kit.ablation import table as module
from hubmap_kit.ablation.rows import ROWS
from hubmap_kit.ablation.table import PLAIN, ablation
from hubmap_kit.cli import main
from hubmap_kit.competition import ORGANS
from hubmap_kit.config import PrepareConfig
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.recipes import recipe
from hubmap_kit.run import Run, RunConfig
from hubmap_kit.training.thresholds import sweep_table

GEOMETRY = PrepareConfig(patch_size=128, input_size=64, folds=2, test_size=0, val_size=0)
CONFIG = recipe("fast", filters=2, epochs=1, steps_per_epoch=1, batch_size=4, ema=0.0)
FLAGS = "--patch-size 128 --input-size 64 --folds 2 --test-size 0 --val-size 0".split()
FLAGS += "--recipe fast --filters 2 --epochs 1 --steps-per-epoch 1 --batch-size 4 --ema 0".split()
DONE = ["base", "pseudo", "distil", "flips", "thresholds", "ensemble"]


@pytest.fixture(scope="module")
def done(demo, tmp_path_factory) -> Path:
    """A folder with the competition, and an ablation of it by the command."""
    folder = tmp_path_factory.mktemp("ablation")
    shutil.copytree(demo, folder / "data")
    command = ["ablation", str(folder / "data"), str(folder / "out"), *FLAGS, "--seeds", "1"]
    assert main([*command, "--rows", "flips, thresholds,ensemble,pseudo,distil"]) == 0
    return folder


@pytest.fixture
def trained(monkeypatch) -> list[tuple[Any, ...]]:
    """Trainings that an ablation begins: store, run, settings, whether it goes on; each is interrupted at once."""
    calls = []

    def train(store, run, config, *, recipe, resume, page):
        calls.append((store.name, run.name, config, resume))
        raise KeyboardInterrupt

    monkeypatch.setattr("hubmap_kit.training.train.train", train)
    return calls


@pytest.fixture
def write_scores(tmp_path):
    """Write the scores of a row by hand: ids, organs and Dice of two images."""

    def write(name: str, seed: int, dice: tuple[float, float]) -> None:
        path = tmp_path / "out" / "scores" / f"{name}-seed{seed}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"id": [5, 3], "organ": ["lung", "kidney"], "dice": dice}).to_csv(path, index=False)

    return write


def finished_run(out: Path, name: str) -> Path:
    run = out / "runs" / name
    RunConfig(GEOMETRY, CONFIG, CONFIG.network(), finished=True).write(run)
    return run


@pytest.mark.slow
def test_table(done):
    """There is a row for each change in the order of `ROWS`, as a CSV and as Markdown, the base first."""
    table = pd.read_csv(done / "out" / "ablation.csv")
    assert list(table["row"]) == DONE
    shown = ["row", "dice", "spread", "gain", "error", *sorted(ORGANS), "seeds"]
    assert list(table.columns) == [*shown, "about"]
    assert list(table["about"]) == [ROWS[name].about for name in DONE]
    lines = [line.strip("|").split("|") for line in (done / "out" / "ablation.md").read_text().splitlines()]
    with_one_seed = [name for name in shown if "spread" not in name]  # one seed has no spread to show
    assert [cell.strip() for cell in lines[0]] == ["change", *with_one_seed]
    assert [line[1].strip() for line in lines[2:]] == DONE
    written = [line[3].strip() for line in lines[2:]]
    gains = [float(text.removeprefix("none (").removesuffix(")")) for text in written]
    assert gains == pytest.approx(list(table["gain"]), abs=1e-4)
    assert ["none" in text for text in written] == list(table["gain"].abs() < table["error"])
    assert all(sign in text for text, sign in zip(written, np.where(table["gain"] < 0, "-", "+"), strict=True))


@pytest.mark.slow
def test_scores_of_the_base(done):
    """The base is scored on the validation fold at threshold 0.5, nearly as the training did from its store."""
    scores = pd.read_csv(done / "out" / "scores" / "base-seed0.csv")
    store = PatchStore.open(done / "out" / "stores" / "base")
    assert list(scores["id"]) == store.ids("validation", 0)
    sweep = pd.read_csv(done / "out" / "runs" / "base-seed0" / "sweep.csv")
    plain = sweep[np.isclose(sweep["threshold"], 0.5) & (sweep["min_region_um2"] == 0)].set_index("id")
    assert plain["dice"].max() > 0.1
    np.testing.assert_allclose(scores["dice"], plain.loc[scores["id"], "dice"], atol=0.02)
    assert list(scores["organ"]) == list(plain.loc[scores["id"], "organ"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "store", "split"), [("pseudo", "pseudo-seed0", "validation"), ("distil", "distil", "train")]
)
def test_soft_masks_of_the_base(done, name, store, split):
    """A network is trained with the base's settings on soft masks of a split's images too; no maps are kept."""
    base, pseudo = (Run.open(done / "out" / "runs" / f"{each}-seed0") for each in ("base", name))
    soft = done / "out" / "stores" / store
    assert base.config.train == replace(CONFIG, fold=0, tune=True, seed=0)
    assert pseudo.config.train == replace(base.config.train, pseudo=str(soft))
    assert base.config.prepare == pseudo.config.prepare == GEOMETRY
    assert base.config.splits == pseudo.config.splits
    assert PatchStore.open(soft).info.soft
    assert sorted(PatchStore.open(soft).images) == sorted(base.config.splits[split])
    assert not any((run.folder / "validation").exists() for run in (base, pseudo))


@pytest.mark.parametrize(
    ("name", "batch_size"), [("context-small", 16), ("context-large", 1), ("finer", 4), ("ema", 4)]
)
def test_trainings_differ_by_the_row_alone(demo, tmp_path, trained, write_scores, name, batch_size):
    """A row is trained with its change; with another context the batch size keeps the pixels of a step."""
    write_scores("base", 0, (0.5, 0.7))
    with pytest.raises(KeyboardInterrupt):
        ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=[name], seeds=1)
    ((store, run, config, _),) = trained
    assert (store, run) == ("base" if name == "ema" else name, f"{name}-seed0")
    assert config == replace(CONFIG, fold=0, tune=True, batch_size=batch_size, **ROWS[name].train)
    assert PatchStore.open(tmp_path / "out" / "stores" / store).config == ROWS[name].geometry(GEOMETRY)


@pytest.mark.slow
def test_a_folder_goes_on_elsewhere(done, tmp_path, trained):
    """On another computer, further rows are predicted with the existing runs; nothing is done again."""
    shutil.copytree(done, tmp_path / "moved", symlinks=True)
    data, out = tmp_path / "moved" / "data", tmp_path / "moved" / "out"
    done.rename(done.with_name("away"))
    try:
        before = {path.name: path.stat().st_mtime_ns for path in (out / "scores").iterdir()}
        config = replace(CONFIG, encoder_weights="/elsewhere/imagenet")
        table = ablation(data, out, GEOMETRY, config, rows=["d4", "flips"], seeds=1)
        assert list(table["row"]) == [*DONE[:4], "d4", *DONE[4:]]
        after = {path.name: path.stat().st_mtime_ns for path in (out / "scores").iterdir()}
        assert after == before | {"d4-seed0.csv": after["d4-seed0.csv"]}
        assert not trained
        # The images without masks are linked again, to their new place.
        (out / "scores" / "pseudo-seed0.csv").unlink()
        shutil.rmtree(out / "runs" / "pseudo-seed0")
        with pytest.raises(KeyboardInterrupt):
            ablation(data, out, GEOMETRY, config, rows=["pseudo"], seeds=1)
        assert [call[1] for call in trained] == ["pseudo-seed0"]
        links = list((out / "unlabelled-validation" / "test_images").iterdir())
        assert {link.resolve().parent for link in links} == {(data / "train_images").resolve()}
        assert "rle" not in pd.read_csv(out / "unlabelled-validation" / "test.csv")
    finally:
        done.with_name("away").rename(done)


def test_gain_is_against_the_base_with_the_same_seeds(demo, tmp_path, write_scores, capsys):
    """Dice and gain are means over seeds; a seed without the row is left out."""
    for seed, dice in enumerate([(0.5, 0.7), (0.1, 0.3), (0.9, 0.9)]):
        write_scores("base", seed, dice)
    for seed, dice in enumerate([(0.6, 0.9), (0.4, 0.5)]):
        write_scores("bce", seed, dice)
    table = ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=["bce"], seeds=2).set_index("row")
    assert table["dice"].to_dict() == pytest.approx({"base": 0.4, "bce": 0.6})
    assert table["spread"].to_dict() == pytest.approx({"base": 0.2, "bce": 0.15})
    assert table["gain"].to_dict() == pytest.approx({"base": 0.0, "bce": 0.2})
    # Both images gain 0.2 in the mean of the seeds: (0.1 + 0.3) / 2 and (0.2 + 0.2) / 2. The seeds gain 0.15 and 0.25.
    assert table["error"].to_dict() == pytest.approx({"base": 0.0, "bce": 0.05})
    assert table["lung"].to_dict() == pytest.approx({"base": 0.3, "bce": 0.5})
    assert list(table["seeds"]) == [2, 2]
    assert "bce: mean Dice 0.6000 ± 0.1500, gain +0.2000 ± 0.0500\n" in capsys.readouterr().out
    table = ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=[], seeds=3).set_index("row")
    assert list(table["seeds"]) == [3, 2]
    assert table["gain"].to_dict() == pytest.approx({"base": 0.0, "bce": 0.2})


@pytest.mark.parametrize(("dice", "gain"), [((0.62, 0.66), "none (+0.0400)"), ((0.6, 0.75), "+0.0750")])
def test_a_gain_below_its_error_is_none(demo, tmp_path, write_scores, capsys, dice, gain):
    """The error is the standard error of the images' differences: here half of the difference of two."""
    write_scores("base", 0, (0.5, 0.7))
    write_scores("bce", 0, dice)
    ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=["bce"], seeds=1)
    assert f"gain {gain} ± {abs(dice[0] - 0.5 - dice[1] + 0.7) / 2:.4f}\n" in capsys.readouterr().out
    assert f"| {gain} |" in (tmp_path / "out" / "ablation.md").read_text()


def test_the_error_has_the_seeds_of_all_rows_alike(demo, tmp_path, write_scores):
    """A row whose seeds agree by chance has the seeds' error of all trained rows; one that is predicted has its own."""
    for seed in (0, 1):
        write_scores("base", seed, (0.5, 0.7))
        write_scores("bce", seed, (0.6, 0.8))
        write_scores("focal", seed, (0.5 + 0.1 * seed, 0.7 + 0.1 * seed))
        write_scores("flips", seed, (0.55, 0.75))
    write_scores("lovasz", 0, (0.6, 0.8))
    table = ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=[], seeds=2).set_index("row")
    variance = (0 + 0.1**2 / 2) / 2
    of_seeds = [(variance / n) ** 0.5 for n in (2, 2, 1)]
    assert table["error"][["bce", "focal", "lovasz"]].tolist() == pytest.approx(of_seeds)
    assert table["error"][["base", "flips"]].tolist() == pytest.approx([0, 0])


def test_an_interrupted_ablation_goes_on(demo, tmp_path, trained, write_scores):
    """A seed with scores is not done again, and an unfinished run is trained further, a finished one is not."""
    out = tmp_path / "out"
    write_scores("base", 0, (0.5, 0.7))
    for unfinished in (False, True):
        with pytest.raises(KeyboardInterrupt):
            ablation(demo, out, GEOMETRY, CONFIG, rows=["bce"])
        store, run, config, resume = trained.pop()
        assert (store, run, config.seed, resume) == ("base", "base-seed1", 1, unfinished)
        RunConfig(GEOMETRY, CONFIG, CONFIG.network()).write(out / "runs" / "base-seed1")
    finished_run(out, "base-seed1")
    with pytest.raises(ValueError, match="base-seed1 is not a run folder: it has no model"):
        ablation(demo, out, GEOMETRY, CONFIG, rows=["bce"])
    write_scores("base", 1, (0.5, 0.7))
    with pytest.raises(KeyboardInterrupt):
        ablation(demo, out, GEOMETRY, CONFIG, rows=["bce"])
    assert [(run, config.loss) for _, run, config, _ in trained] == [("bce-seed0", "bce")]


def test_what_is_predicted_with_which_runs(demo, tmp_path, trained, write_scores, monkeypatch):
    """A row of prediction takes the base's run of its seed; the ensemble takes all, once for each number of seeds."""
    calls = []

    def predicted(work, runs, config):
        calls.append(([run.name for run in runs], config))
        return pd.DataFrame({"id": [5, 3], "organ": ["lung", "kidney"], "dice": [0.5, 0.6]})

    monkeypatch.setattr(module._Work, "_predicted", predicted)
    for seed in range(3):
        write_scores("base", seed, (0.1 * seed, 0.1))
        finished_run(tmp_path / "out", f"base-seed{seed}")
    table = ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=["ensemble", "flips"], seeds=2).set_index("row")
    flips = replace(PLAIN, tta="flips")
    assert calls == [(["base-seed0"], flips), (["base-seed1"], flips), (["base-seed0", "base-seed1"], PLAIN)]
    assert [table[column]["ensemble"] for column in ("dice", "spread", "gain", "seeds")] == pytest.approx(
        [0.55, 0, 0.475, 2]
    )
    calls.clear()
    ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=["ensemble"], seeds=3)
    ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=["ensemble"], seeds=2)
    assert calls == [([f"base-seed{seed}" for seed in range(3)], PLAIN)]
    assert not trained


def test_thresholds_are_chosen_on_the_other_half(demo, tmp_path):
    """Each image is scored with the best pair for its organ in the other half, or at 0.5 if that has too few images."""
    # Images, sorted by organ and id, go to the halves in turn: the lung image of 0.2 to one, that of 0.8 to the other.
    best = {i: (0.2, 0.8)[i % 2] for i in range(1, 11)} | {i: (0.3, 0.9)[i % 2] for i in range(11, 15)}
    organs = ["lung"] * 10 + ["spleen"] * 4
    table = sweep_table(list(best), organs, np.zeros((14, 17, 6)))
    table["dice"] = 1 - (table["threshold"] - table["id"].map(best)).abs() - 1e-4 * (table["min_region_um2"] > 0)
    table.to_csv(finished_run(tmp_path, "base-seed0") / "sweep.csv", index=False)
    work = module._Work(demo, tmp_path, GEOMETRY, CONFIG, 1)
    scores = work._cross_fitted(0).set_index("id").sort_index()
    chosen = {i: 1 - best[i] if i < 11 else 0.5 for i in best}
    expected = {i: 1 - abs(chosen[i] - best[i]) for i in best}
    assert scores["dice"].to_dict() == pytest.approx(expected, abs=1e-6)
    assert scores["organ"].to_dict() == dict(zip(best, organs, strict=True))


def test_other_settings_are_refused(demo, tmp_path, write_scores):
    """A folder that was begun with other settings, groups or images is refused, by name, and is left as it is."""
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(demo, data)
    for name in ("groups.csv", "same.csv", "other.csv"):
        (tmp_path / name).write_text("id,group\n" + "1,2\n" * (name == "other.csv"))
    geometry = replace(GEOMETRY, groups=str(tmp_path / "groups.csv"))
    config = replace(CONFIG, encoder_weights="/here/weights.h5", looks_from="/here/looks")
    write_scores("base", 0, (0.5, 0.7))

    def again(geometry=geometry, config=config):
        ablation(data, out, geometry, config, rows=[], seeds=1)

    again()
    again(replace(geometry, groups=str(tmp_path / "same.csv")))
    again(config=replace(config, encoder_weights="/there/weights.h5", looks_from="/there/looks", seed=4))
    begun = (out / "ablation.json").read_text()
    assert json.loads(begun)["epochs"] == 1
    refused: list[tuple[str, dict[str, Any]]] = [
        ("groups", {"geometry": replace(geometry, groups=str(tmp_path / "other.csv"))}),
        ("groups", {"geometry": GEOMETRY}),
        ("folds, split seed", {"geometry": replace(geometry, folds=3, seed=1)}),
        ("encoder_weights", {"config": replace(config, encoder_weights="/here/other.h5")}),
        ("epochs, fold", {"config": replace(config, epochs=2, fold=1)}),
    ]
    for names, given in refused:
        with pytest.raises(ValueError, match=rf"begun with other {names}; give the same, or name another folder"):
            again(**given)
    (data / "train.csv").write_text((data / "train.csv").read_text() + "\n")
    with pytest.raises(ValueError, match="begun with other training images;"):
        again()
    assert (out / "ablation.json").read_text() == begun


def test_settings_may_change_until_something_is_done(demo, tmp_path, trained):
    """A first try that was refused does not keep its settings; a store that was prepared does."""
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="99 folds of"):
        ablation(demo, out, replace(GEOMETRY, folds=99), CONFIG, rows=[], seeds=1)
    with pytest.raises(KeyboardInterrupt):
        ablation(demo, out, GEOMETRY, CONFIG, rows=[], seeds=1)
    with pytest.raises(ValueError, match="begun with other folds;"):
        ablation(demo, out, replace(GEOMETRY, folds=3), CONFIG, rows=[], seeds=1)


@pytest.mark.parametrize("whole", [False, True])
def test_a_folder_of_an_earlier_version_goes_on(demo, tmp_path, write_scores, whole):
    """Settings that an earlier version kept are understood; a constant that had another value is refused by name."""
    write_scores("base", 0, (0.5, 0.7))
    geometry = replace(GEOMETRY, context="whole" if whole else None)
    ablation(demo, tmp_path / "out", geometry, CONFIG, rows=[], seeds=1)
    path = tmp_path / "out" / "ablation.json"
    old = json.loads(path.read_text())
    old["looks"] = old.pop("looks_from")
    del old["context"]
    old |= {"pixel_size_um": "0.4", "context_um": None, "whole": whole, "min_mask_share": 0.05, "clip_norm": 0.0}
    path.write_text(json.dumps(old))
    ablation(demo, tmp_path / "out", geometry, CONFIG, rows=[], seeds=1)
    path.write_text(json.dumps(old | {"clip_norm": 1.0, "epochs": 2}))
    with pytest.raises(ValueError, match="begun with other clip_norm, epochs;"):
        ablation(demo, tmp_path / "out", geometry, CONFIG, rows=[], seeds=1)


@pytest.mark.parametrize("text", ["[]", "5", "{", '{"pixel_size_um": "0.4"}'])
def test_a_folder_with_damaged_settings(demo, tmp_path, write_scores, text):
    """An ablation.json that is damaged is named with the remedy, and stays."""
    write_scores("base", 0, (0.5, 0.7))
    ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=[], seeds=1)
    path = tmp_path / "out" / "ablation.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"ablation\.json is damaged .*; restore it from a copy"):
        ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=[], seeds=1)
    assert path.read_text() == text


def test_rows_that_change_nothing(demo, tmp_path, write_scores, trained, capsys):
    """A row that does not differ from the base is reported and left out."""
    write_scores("base", 0, (0.5, 0.7))
    table = ablation(demo, tmp_path / "out", GEOMETRY, CONFIG, rows=["no-ema", "coarser"], seeds=1)
    assert list(table["row"]) == ["base"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"{name}: left out, since it does not differ from the base" for name in ("no-ema", "coarser")]
    assert not trained


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--folds", "2", "--rows", "flips,flops"], "there is no row 'flops'; choose among base"),
        (["--rows", "flips"], "give --folds 2 or more"),
        (["--folds", "2", "--fold", "2"], "give --folds 3 or more"),
        (["--folds", "2", "--seeds", "0"], "--seeds: '0' is out of bounds; it must be from 1 to 1000"),
    ],
)
def test_wrong_usage(demo, tmp_path, capsys, flags, rule):
    """Impossible rows, folds and numbers of seeds are wrong usage, and nothing is written."""
    with pytest.raises(SystemExit) as stop:
        main(["ablation", str(demo), str(tmp_path / "out"), *flags])
    assert stop.value.code == 2
    assert rule in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images(tmp_path, capsys):
    """A missing competition folder is bad input; the error names it, and nothing is written."""
    assert main(["ablation", str(tmp_path / "none"), str(tmp_path / "out"), *FLAGS]) == 1
    assert "train.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
