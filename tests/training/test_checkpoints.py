"""Tests of a training that a time limit ends and that goes on later, also from one Kaggle session to the next."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import TINY, TINY_FLAGS, write_run

from hubmap_kit.cli import main
from hubmap_kit.competition import SLUG
from hubmap_kit.config import PrepareConfig
from hubmap_kit.kaggle.bundle import build_bundle
from hubmap_kit.kaggle.session import find_unfinished
from hubmap_kit.models.network import build_model
from hubmap_kit.preparation.prepare import prepare
from hubmap_kit.recipes import recipe
from hubmap_kit.rehearsal import isolation
from hubmap_kit.run import Run, RunConfig
from hubmap_kit.training import checkpoints, loop, time_limit
from hubmap_kit.training import train as training

CLONE = Path(__file__).resolve().parents[2]
SETTINGS = {"RECIPE": "fast", "ENCODER_WEIGHTS": "none", "EPOCHS": 2, "STEPS_PER_EPOCH": 1, "INPUT_SIZE": 64}
SETTINGS |= {"PATCH_SIZE": 1024, "TEST_SIZE": None, "FOLDS": 0}
UNFINISHED = {"config.json", "model.weights.h5", "history.csv", "pace.json", "checkpoint.npz"}
FINISHED = {"config.json", "model.weights.h5", "history.csv", "scores.csv", "results.csv", "results.txt"}
FINISHED |= {"sweep.csv", "validation", "test", "report.html", "pace.json"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def weights(folder: Path) -> list[np.ndarray]:
    run = Run.open(folder)
    model, _ = build_model(run.config.network)
    model.load_weights(run.weights)
    return model.get_weights()


def assert_same_training(found: Path, expected: Path) -> None:
    """Check that two trainings have the same history except for times, the same best weights and the same scores."""
    histories = [pd.read_csv(folder / "history.csv") for folder in (found, expected)]
    assert list(histories[0].columns) == list(histories[1].columns)
    histories = [table[[name for name in table if not str(name).endswith("seconds")]] for table in histories]
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-3, atol=1e-4)
    for here, there in zip(weights(found), weights(expected), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-4)
    scores = [pd.read_csv(folder / "scores.csv")["dice"] for folder in (found, expected)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)


@pytest.fixture(scope="module")
def stopped_once(store, tmp_path_factory) -> Path:
    """The same training, ended by its time limit after the first epoch; tests only read it."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert training.train(store, folder, TINY, time_limit_s=0) is False
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path) -> Path:
    """A copy of the stopped training, to go on with."""
    return shutil.copytree(stopped_once, tmp_path / "run")


@pytest.mark.slow
def test_stopped_training(stopped):
    """A time limit that is over ends a training after one epoch, with weights, history and checkpoint, unfinished."""
    assert names(stopped) == UNFINISHED
    assert not RunConfig.read(stopped).finished
    assert list(pd.read_csv(stopped / "history.csv")["epoch"]) == [1]
    assert len(weights(stopped)) > 10


@pytest.mark.slow
def test_stopped_training_goes_on_to_the_same_result(stopped, trained, store, capsys):
    """A training that is stopped after every epoch ends with the result of one that was not stopped."""
    assert training.train(store, stopped, TINY, resume=True, time_limit_s=0) is False
    assert "stopped after epoch 2 of 3" in capsys.readouterr().out
    assert names(stopped) == UNFINISHED
    assert training.train(store, stopped, TINY, resume=True, time_limit_s=0) is True
    assert names(stopped) == FINISHED - {"report.html"}  # no time was left for the page
    assert names(trained) == FINISHED
    assert_same_training(stopped, trained)
    assert training.train(store, stopped, TINY, resume=True, time_limit_s=0) is True


@pytest.mark.slow
def test_an_epoch_that_would_not_fit_is_not_begun(store, tmp_path, monkeypatch):
    """The training stops if the time spent so far plus the slowest epoch of this session exceeds the limit."""
    epoch = loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", lambda *given: epoch(*given) | {"seconds": 5000.0})
    assert training.train(store, tmp_path / "long", TINY, time_limit_s=4000) is False
    assert training.train(store, tmp_path / "short", TINY, time_limit_s=6000) is True
    monkeypatch.setattr(loop, "train_epoch", epoch)
    assert training.train(store, tmp_path / "long", TINY, resume=True, time_limit_s=4000) is True


def test_time_needed(monkeypatch):
    """The estimate uses the slowest epoch and the slowest validation; without a validation, scoring is measured."""
    ids = {"train": [1, 2, 3], "validation": [4, 5], "test": [6]}
    rows = [{"seconds": 10.0, "validation_seconds": 4.0}, {"seconds": 7.0}, {"seconds": 8.0, "validation_seconds": 6.0}]
    now_s, scored = [0.0], list[int]()

    def score(image_ids: list[int]) -> None:
        now_s[0] += 0.5 if scored else 9.0  # the first time compiles
        scored.extend(image_ids)

    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    evaluator: Any = SimpleNamespace(score=score)
    assert time_limit.needed_s(rows, ids, evaluator) == 10 + 3 * (2 + 6)
    assert not scored
    assert time_limit.needed_s(rows[1:2], ids, evaluator) == 7 + 0.5 * (2 + 6)
    assert scored == [1, 1]
    assert time_limit.needed_s(rows[1:2], ids | {"validation": []}, evaluator) == 7 + 0.5 * 4


@pytest.mark.slow
def test_time_limit_on_the_command_line(store, trained, tmp_path, capsys):
    """A training ended by --time-limit is no failure; its last line is the command to go on with."""
    command = ["train", str(store), str(tmp_path / "run"), *TINY_FLAGS]
    assert main([*command, "--time-limit", "0.0001"]) == 0
    *_, stopped, following = capsys.readouterr().err.splitlines()
    assert stopped.startswith("stopped after epoch 1 of 3")
    assert stopped.endswith(f"{tmp_path / 'run'} is kept, go on with --resume")
    assert following.endswith(" --time-limit 0.0001 --resume")
    assert main([*command[:3], "--time-limit", "60", "--resume"]) == 0  # the settings are those of the run
    said = capsys.readouterr()
    assert f"{tmp_path / 'run'}: 3 epochs, kept epoch " in said.out
    assert "run: goes on after epoch 1 of 3, with the settings that it was begun with" in said.err
    assert_same_training(tmp_path / "run", trained)


def test_a_training_without_an_epoch_begins_anew_and_says_so(stopped_at_once, capsys):
    """A resume that finds no finished epoch says with which other settings it begins."""
    config = RunConfig.read(stopped_at_once)
    other = replace(config, train=replace(config.train, epochs=9))
    assert checkpoints.read(stopped_at_once, other) is None
    said = capsys.readouterr().out
    assert said.endswith("begins anew, since no epoch was finished, with another --epochs (60, now 9)\n")
    assert checkpoints.read(stopped_at_once, config) is None
    assert capsys.readouterr().out.endswith("begins anew, since no epoch was finished\n")


@pytest.fixture
def stopped_at_once(tmp_path: Path) -> Path:
    """The folder of a training that was killed in its first epoch."""
    return write_run(tmp_path / "run", finished=False)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "an hour"])
def test_no_time_is_wrong_usage(minutes, capsys):
    """A time limit that is no number above 0 is wrong usage."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "patches", "run", "--time-limit", minutes])
    assert stop.value.code == 2
    assert "--time-limit" in capsys.readouterr().err


def the_checkpoint(run: Path, config: RunConfig) -> checkpoints.Checkpoint:
    """The checkpoint of a run, which there must be."""
    checkpoint = checkpoints.read(run, config)
    assert checkpoint is not None
    return checkpoint


@pytest.mark.slow
def test_other_settings_are_refused(stopped, store, monkeypatch):
    """A checkpoint of other settings or another split is refused, in a kernel on Kaggle with the remedy for it."""
    with pytest.raises(ValueError, match=r"another --filters \(2, now 3\), --seed \(0, now 1\); .*another folder$"):
        training.train(store, stopped, replace(TINY, filters=3, seed=1), resume=True)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    with pytest.raises(ValueError, match=r"another --filters .*kernel_sources"):
        training.train(store, stopped, replace(TINY, filters=3, seed=1), resume=True)
    config = RunConfig.read(stopped)
    with pytest.raises(ValueError, match="another test split"):
        checkpoints.read(stopped, replace(config, splits={**config.splits, "test": []}))
    (stopped / "checkpoint.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"checkpoint.npz cannot be read .*kernel_sources"):
        training.train(store, stopped, TINY, resume=True)


@pytest.mark.slow
def test_another_computer_may_go_on(stopped, capsys):
    """Paths and versions that differ between sessions do not stop a resume; other versions give a warning."""
    config = RunConfig.read(stopped)
    assert the_checkpoint(stopped, config).history
    assert capsys.readouterr().out.endswith("goes on after epoch 1 of 3, with the settings that it was begun with\n")
    prepare = replace(config.prepare, groups="/elsewhere/groups.csv")
    versions = {**config.versions, "keras": "9.9"}
    later = replace(config, prepare=prepare, versions=versions, created="later", kit="later")
    assert the_checkpoint(stopped, later).history
    out = capsys.readouterr().out
    assert out.startswith("warning: ")
    assert "(here 9.9)" in out
    assert "numpy" not in out


@pytest.mark.slow
def test_encoder_weights_may_lie_elsewhere(stopped):
    """The encoder's weights file may be mounted at another place, but not be another file."""
    config = RunConfig.read(stopped)
    (stopped / "checkpoint.npz").unlink()
    begun, elsewhere, other = (
        replace(config, train=replace(config.train, encoder_weights=path))
        for path in ("/a/b0.h5", "/c/d/b0.h5", "/a/b1.h5")
    )
    model, _ = build_model(config.network)
    checkpoints.write(stopped, model, SimpleNamespace(variables=[]), [], begun)
    assert checkpoints.read(stopped, elsewhere)
    with pytest.raises(ValueError, match="another --encoder-weights"):
        checkpoints.read(stopped, other)


def write_checkpoint_of_format_2(run: Path, min_mask_share: float = 0.05, **train) -> None:
    """Write the checkpoint of an earlier version to a run folder of format 2, with these settings changed."""
    old = json.loads((run / "config.json").read_text())
    settings = {part: old[part] for part in ("train", "prepare", "network", "splits")}
    settings["prepare"]["min_mask_share"] = min_mask_share
    settings["train"] |= train
    state = {"history": [{"epoch": 1}], "settings": settings, "versions": {}}
    np.savez(run / "checkpoint.npz", state=np.array(json.dumps(state)), model_00000=np.zeros(3))


def test_a_training_of_format_2_goes_on(old_run):
    """A checkpoint that an earlier version wrote is read, though it has settings that no longer exist."""
    write_checkpoint_of_format_2(old_run)
    checkpoint = the_checkpoint(old_run, RunConfig.read(old_run))
    assert checkpoint.history == [{"epoch": 1}]
    assert list(checkpoint.arrays) == ["model_00000"]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"min_mask_share": 0.01}, r"with min_mask_share 0.01 \(now 0.05\), which are constants now"),
        ({"clip_norm": 1.0}, r"with clip_norm 1.0 \(now 0.0\), which are constants now; resume with that version, or"),
        ({"pseudo_share": 0.5, "warmup_steps": 9}, r"warmup_steps 9 \(now 0\), pseudo_share 0.5 \(now 0.25\)"),
        (
            {"filters": 3, "looks": "/data"},
            r"another --filters \(3, now 2\), --looks \(/data, now None\); leave these flags out",
        ),
    ],
)
def test_a_training_of_format_2_with_other_settings(old_run, changes, rule):
    """It is refused if a setting that has become a constant had another value, or if another setting differs."""
    write_checkpoint_of_format_2(old_run, **changes)
    with pytest.raises(ValueError, match=rule):
        checkpoints.read(old_run, RunConfig.read(old_run))


@pytest.mark.slow
def test_a_network_built_otherwise_is_refused(stopped):
    """A checkpoint whose values do not fit the network is refused as a whole."""
    config = RunConfig.read(stopped)
    other, _ = build_model(replace(config.network, filters=3))
    with pytest.raises(ValueError, match="checkpoint's model does not have the layout that it has here"):
        the_checkpoint(stopped, config).restore(other, None)


def make_run(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", *files):
        (folder / name).touch()
    return folder


def test_unfinished_training_is_found(tmp_path, capsys):
    """The run folder with a checkpoint is found, a finished one is passed over with a line, several are named."""
    assert find_unfinished(tmp_path) is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "config.json").touch()
    finished = make_run(tmp_path / "hubmap-weights" / "run", "model.weights.h5")
    assert find_unfinished(tmp_path) is None
    assert capsys.readouterr().out == f"the training in {finished} is finished: ignored\n"
    first = make_run(tmp_path / "notebooks/me/hubmap-train/run", "checkpoint.npz", "model.weights.h5")
    assert find_unfinished(tmp_path) == first
    make_run(tmp_path / "other" / "run", "checkpoint.npz")
    with pytest.raises(ValueError, match=r"hubmap-train/run, .*other/run are all unfinished"):
        find_unfinished(tmp_path)


def run_kernel(working: Path, inputs: dict[str, Path], **changes) -> tuple[int, str]:
    """Run the training kernel as Kaggle does; returns its exit status and its output."""
    working.mkdir()
    lines: list[str] = []
    result = isolation.run(
        CLONE / "kernels" / "train" / "train.py",
        inputs=inputs,
        working=working,
        hidden=(CLONE,),
        environment={"HUBMAP_SETTINGS": json.dumps(SETTINGS | changes)},
        on_line=lines.append,
        isolated=isolation.obstacle() is None,
    )
    return result.status, "\n".join(lines)


@pytest.fixture(scope="module")
def attached(demo, tmp_path_factory) -> dict[str, Path]:
    """What the training kernel finds below /kaggle/input: the competition, and a bundle for this Python."""
    kit = build_bundle(CLONE, tmp_path_factory.mktemp("bundle") / "kit", extras=False)
    return {SLUG: demo, "hubmap-kit": kit}


@pytest.fixture(scope="module")
def first_session(attached, tmp_path_factory) -> tuple[Path, str]:
    """Output folder and text of a training kernel whose time is over at once."""
    working = tmp_path_factory.mktemp("first") / "working"
    status, text = run_kernel(working, attached, TIME_LIMIT=1e-6)
    assert status == 0, text
    (working / "run").chmod(0o555)  # as below /kaggle/input
    return working, text


@pytest.fixture(scope="module")
def one_session(demo, tmp_path_factory) -> Path:
    """The run folder of the kernel's training, made by the library at one go."""
    folder = tmp_path_factory.mktemp("one")
    prepare(demo, folder / "patches", PrepareConfig(input_size=64))
    training.train(
        folder / "patches", folder / "run", recipe("fast", encoder_weights="none", epochs=2, steps_per_epoch=1)
    )
    return folder / "run"


@pytest.mark.slow
def test_first_session(first_session):
    """A training kernel at its time limit succeeds, leaves all that a later one needs, and says how to go on."""
    working, text = first_session
    assert {path.name for path in working.iterdir()} == {"run"}
    assert names(working / "run") == UNFINISHED
    assert "stopped after epoch 1 of 2" in text
    assert "kernel_sources" in text.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["hubmap-train", "notebooks/someone/hubmap-train"])
def test_next_session(place, attached, first_session, one_session, tmp_path):
    """With its earlier output attached, in either layout, the kernel goes on and ends as if in one session."""
    status, text = run_kernel(tmp_path / "working", attached | {place: first_session[0]})
    assert status == 0, text
    (line,) = [line for line in text.splitlines() if line.startswith("going on with the unfinished training in ")]
    assert line.endswith(f"input/{place}/run")
    assert "epoch 2/2" in text
    assert "epoch 1/2" not in text
    assert names(tmp_path / "working" / "run") == FINISHED
    assert (tmp_path / "working" / "run").stat().st_mode & 0o200
    assert_same_training(tmp_path / "working" / "run", one_session)
