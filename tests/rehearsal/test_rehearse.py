"""The rehearsal: once with the kernels themselves, then its judgement of kernels that only pretend."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pandas as pd
import pytest

from hubmap_kit import __version__, rle, submission
from hubmap_kit.cli import main
from hubmap_kit.competition import SLUG
from hubmap_kit.images import read_image
from hubmap_kit.kaggle.clone import image_versions
from hubmap_kit.kaggle.hours import Hours
from hubmap_kit.kaggle.manifest import MANIFEST
from hubmap_kit.kaggle.verdict import Verdict
from hubmap_kit.metrics import mean_dice
from hubmap_kit.rehearsal import isolation
from hubmap_kit.rehearsal import rehearse as rehearsal
from hubmap_kit.rehearsal.hidden_set import CORRUPT, HiddenImage
from hubmap_kit.rehearsal.isolation import Outcome
from hubmap_kit.rehearsal.kernels import Limits, sources
from hubmap_kit.rehearsal.rehearse import Options, Shortcuts, differing_versions, rehearse
from hubmap_kit.run import SCORES
from hubmap_kit.submission import read_timings
from hubmap_kit.tables import Problem, read_images

CLONE = Path(__file__).resolve().parents[2]
TINY: dict[str, dict[str, Any]] = {
    "smoke": {"RECIPE": "fast", "INPUT_SIZE": 64},
    "train": {"EPOCHS": 1, "STEPS_PER_EPOCH": 1, "INPUT_SIZE": 64},
    "infer": {"TTA": "none"},
}
HIDDEN = (
    HiddenImage("lung", "Hubmap", (211, 163), "LZW", 7),
    HiddenImage("spleen", "Hubmap", (199, 211), CORRUPT, 0),
    HiddenImage("kidney", "HPA", (257, 263), "channels first", 30),
)


DEMO = Options(train=10, size=256, settings=TINY)
SHORT = Shortcuts(hidden=HIDDEN, extras=False, least_dice=0.0)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A whole rehearsal with networks that are hardly trained: whether it passed, its folder, text and kernels."""
    out = tmp_path_factory.mktemp("rehearsal") / "out"
    calls, lines = [], []
    with pytest.MonkeyPatch.context() as patch:
        run = isolation.run

        def spy(script: Path, **given: Any) -> Outcome:
            if script.parent.parent.name == "kernels":
                calls.append(SimpleNamespace(kernel=script.parent.name, **given))
            return run(script, **given)

        patch.setattr(isolation, "run", spy)
        patch.setattr("builtins.print", lambda *parts, **_: lines.append(" ".join(map(str, parts))))
        passed = rehearse(out, CLONE, DEMO, SHORT)
    return SimpleNamespace(passed=passed, out=out, calls=calls, text="\n".join(lines))


@pytest.mark.slow
def test_rehearsal(rehearsed):
    """A rehearsal ends with valid submissions that the kernels made of both test sets, a score, pictures and logs."""
    out = rehearsed.out
    assert rehearsed.passed, rehearsed.text
    for name, folder, count in (("public", "demo", 1), ("hidden", "hidden", 3)):
        data, csv = out / "input" / folder, out / name / "submission.csv"
        assert [p for p in submission.validate(csv, data) if p.severity == "error"] == []
        assert len(read_images(data, "test")) == len(pd.read_csv(csv)) == count
    assert [call.kernel for call in rehearsed.calls] == ["train", "train", "infer", "infer"]
    for name, part in {"smoke": "epoch 1/", "train": "epoch 1/", "public": "is valid", "hidden": "is valid"}.items():
        log = (out / f"{name}.log").read_text()
        assert f"hubmap-kit {__version__}, commit " in log
        assert part in log
        assert "oneDNN" not in log  # of the notes that TensorFlow starts with
    assert (out / "overlays.png").stat().st_size > 10_000
    for page in ("data.html", "report.html", "review.html", "public/review.html"):
        assert (out / page).stat().st_size > 10_000
    assert not (out / "hidden" / "review.html").exists()
    assert not list(out.joinpath("input").rglob("*truth*")), "the kernels could see the answers"


@pytest.mark.slow
def test_sources_are_mounted_in_both_ways(rehearsed):
    """Each kernel runs once on each of the layouts in which Kaggle mounts its sources."""
    nested, flat = f"competitions/{SLUG}", SLUG
    assert [next(iter(call.inputs)) for call in rehearsed.calls] == [flat, nested, nested, flat]
    assert "input/datasets/rehearsal/hubmap-weights/train" in (rehearsed.out / "public.log").read_text()
    assert "input/hubmap-weights/train" in (rehearsed.out / "hidden.log").read_text()


@pytest.mark.slow
def test_rerun(rehearsed):
    """Only the last pass is a scoring rerun, in which the hidden set is mounted at the competition's place."""
    rerun = [call.environment.get("KAGGLE_IS_COMPETITION_RERUN") for call in rehearsed.calls]
    assert rerun == [None, None, None, "1"]
    data = [(call.inputs.get(SLUG) or call.inputs[f"competitions/{SLUG}"]).name for call in rehearsed.calls]
    assert data == ["few", "demo", "demo", "hidden"]
    assert all(call.environment["KAGGLE_KERNEL_RUN_TYPE"] == "Batch" for call in rehearsed.calls)


@pytest.mark.slow
def test_smoke_run(rehearsed):
    """The training kernel takes one step with its own settings; this run predicts the public image only."""
    log = (rehearsed.out / "smoke.log").read_text()
    assert "epoch 1/1" in log
    small = {"EPOCHS", "STEPS_PER_EPOCH", "BATCH_SIZE", "INPUT_SIZE", "FOLDS", "FOLD"}
    assert set(rehearsal.SETTINGS["smoke"]) == {*small, "ENCODER_WEIGHTS"}
    assert "hubmap-weights/smoke" in (rehearsed.out / "public.log").read_text()
    assert "hubmap-weights/smoke" not in (rehearsed.out / "hidden.log").read_text()


@pytest.mark.slow
def test_verdict(rehearsed):
    """The verdict says what was rehearsed, how, in what time and memory, and with what score."""
    verdict, out = Verdict.read(rehearsed.out), rehearsed.out
    kernels = ["smoke", "train", "public", "hidden"]
    assert verdict.passed is True
    manifest = (out / verdict.bundle / MANIFEST).read_bytes()
    assert verdict.manifest_sha256 == hashlib.sha256(manifest).hexdigest()
    assert (verdict.commit, verdict.dirty) == tuple(json.loads(manifest)[key] for key in ("commit", "dirty"))
    assert list(verdict.peak_memory_bytes) == kernels
    assert all(2**27 < peak < 2**34 for peak in verdict.peak_memory_bytes.values())
    assert set(kernels) < set(verdict.seconds)
    assert verdict.isolated is (isolation.obstacle() is None)
    assert bool(verdict.not_isolated) is not verdict.isolated
    assert verdict.options["train"] == 10
    assert datetime.fromisoformat(verdict.finished_at).utcoffset() == timedelta(0)
    assert mean_dice(pd.read_csv(out / SCORES)) == pytest.approx(verdict.mean_dice)
    assert verdict.hours
    assert Hours(**verdict.hours).training(None) in rehearsed.text
    for part in (
        "valid submissions",
        "on Kaggle:",
        "peak memory: smoke ",
        "of 9 h, with the network trained here on this machine",
        "bootstrap: ",
    ):
        assert part in rehearsed.text


@pytest.mark.slow
def test_corrupt_image(rehearsed):
    """The corrupt image is named by the kernel and gets an empty mask; the mean Dice is that of all others."""
    out = rehearsed.out
    first, corrupt, last = (image.id for image in read_images(out / "input" / "hidden", "test"))
    assert f"id {corrupt}: " in (out / "hidden.log").read_text()
    assert pd.read_csv(out / "hidden" / "submission.csv").set_index("id")["rle"].isna()[corrupt]
    scores = pd.read_csv(out / "scores.csv")
    assert list(scores["id"]) == [first, last]
    assert Verdict.read(out).mean_dice == pytest.approx(scores["dice"].mean())
    assert f"corrupt image {corrupt}: named" in rehearsed.text


@pytest.mark.slow
def test_extrapolation(rehearsed):
    """The run time for Kaggle's hidden set is the start-up and each image's time as often as it stands for one."""
    timings = {timing.id: timing.seconds for timing in read_timings(rehearsed.out / "hidden" / "submission.csv")}
    first, corrupt, last = (timings[image.id] for image in read_images(rehearsed.out / "input" / "hidden", "test"))
    assert corrupt < min(first, last)
    verdict = Verdict.read(rehearsed.out)
    start_up = verdict.seconds["hidden"] - sum(timings.values())
    assert start_up > 0
    assert verdict.extrapolated_hours is not None
    assert verdict.extrapolated_hours * 3600 == pytest.approx(start_up + 7 * first + 30 * last)


@pytest.fixture
def built(rehearsed, monkeypatch) -> None:
    """A bundle that is there at once, and hours without a network."""
    hours = Hours(**Verdict.read(rehearsed.out).hours or {})
    monkeypatch.setattr(rehearsal, "estimate", lambda clone, changes: hours)
    kit = rehearsed.out / "input" / "hubmap-kit"
    monkeypatch.setattr(rehearsal, "build_bundle", lambda clone, out, extras: shutil.copytree(kit, out))


@pytest.mark.slow
def test_over_the_limit(built, tmp_path, capsys):
    """A kernel that takes more memory than it may fails the rehearsal, with the amount, the limit and a remedy."""
    options = replace(DEMO, limits=Limits(memory_bytes=64 * 2**20))
    assert not rehearse(tmp_path / "out", CLONE, options, SHORT)
    last = capsys.readouterr().out.splitlines()[-1]
    assert "The train kernel (smoke) was stopped" in last
    assert "more than 64.0 MiB" in last
    assert "choose a smaller ENCODER" in last
    assert Verdict.read(tmp_path / "out").passed is False
    assert Verdict.read(tmp_path / "out").failure == last


@pytest.mark.slow
def test_rehearsal_fails_with_its_kernel(built, tmp_path, capsys):
    """When a kernel fails, so does the rehearsal; the end of the log is shown, and an earlier verdict is gone."""
    settings = TINY | {"smoke": {"RECIPE": "no such recipe"}}
    out = tmp_path / "out"
    out.mkdir()
    (out / "rehearsal.json").write_text("{}")
    (out / "verdict.json").write_text('{"passed": true}')
    assert not rehearse(out, CLONE, replace(DEMO, settings=settings), SHORT)
    text = capsys.readouterr().out
    assert "The train kernel (smoke) ended with status 1" in text
    assert text.rstrip().splitlines()[-1].startswith("there is no recipe 'no such recipe'; choose one of")
    assert Verdict.read(out).passed is False


class Pretence:
    """Stands in for `isolation.run`: kernels that write at once what real ones would.

    Attributes:
        run: What the training kernel leaves.
        calls: Kernel and settings of each run.
        outcome: How kernels end.
        meddle: Called with the submission of the inference kernel, once written.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.outcome = Outcome(0, 1.0, 2**28, None)
        self.meddle: Callable[[Path], None] = lambda submission: None

    def __call__(self, script: Path, **given: Any) -> Outcome:
        if script.parent.parent.name != "kernels":  # the probe of `isolation.obstacle`
            return Outcome(0, 0.0, 0, None)
        kernel, working = script.parent.name, given["working"]
        self.calls.append((kernel, json.loads(given["environment"].get("HUBMAP_SETTINGS", "{}"))))
        if kernel == "train":
            shutil.copytree(self.run, working / "run")
        else:
            data = next(folder for place, folder in given["inputs"].items() if SLUG in place)
            self.predict(data, working / "submission.csv")
            self.meddle(working / "submission.csv")
        return self.outcome

    def predict(self, data: Path, out: Path) -> None:
        masks, bad = {}, []
        for image in read_images(data, "test"):
            try:
                masks[image.id] = rle.encode(read_image(image.path).min(axis=2) > 128)
            except ValueError as error:
                masks[image.id] = ""
                bad.append(image.problem(str(error), "none"))
        submission.write(out, masks, masks)
        submission.write_timings(out, [submission.Timing(image_id, 0.01) for image_id in masks])
        submission.write_problems(out, bad)


@pytest.fixture
def pretence(rehearsed, built, tmp_path, monkeypatch):
    """Kernels that end at once."""
    run = shutil.copytree(rehearsed.out / "runs" / "train", tmp_path / "run")
    kernels = Pretence(run)
    monkeypatch.setattr(isolation, "run", kernels)
    return kernels


def pretend(out: Path, least_dice: float = 0.0, **more: Any) -> bool:
    """Rehearse with kernels that only pretend; whether it passed."""
    return rehearse(out, CLONE, replace(DEMO, **more), replace(SHORT, least_dice=least_dice))


@pytest.mark.slow
def test_dice_too_low(pretence, tmp_path, capsys):
    """A network trained on the demo that has learned too little fails the rehearsal."""
    assert not pretend(tmp_path / "out", least_dice=1.01)
    assert "the network has not learned enough" in capsys.readouterr().out
    assert Verdict.read(tmp_path / "out").passed is False


@pytest.mark.slow
def test_given_runs(pretence, tmp_path, rehearsed):
    """With runs given nothing is trained, all of them predict in both passes, and no score is asked of them."""
    other = shutil.copytree(pretence.run, tmp_path / "other")
    assert pretend(tmp_path / "out", runs=[pretence.run, other], least_dice=1.01)
    assert pretence.calls == [("infer", TINY["infer"])] * 2
    assert {path.name for path in (tmp_path / "out/input/hubmap-weights").iterdir() if path.is_dir()} == {
        "run",
        "other",
    }
    assert Verdict.read(tmp_path / "out").options["runs"] == [str(pretence.run), str(other)]
    assert len(pd.read_csv(tmp_path / "out" / "scores.csv")) == 2


@pytest.mark.slow
def test_given_data(pretence, tmp_path, demo, capsys):
    """With data given it is trained on and scored by its own truth, whatever the drawn images would score."""
    assert pretend(tmp_path / "out", data=demo, least_dice=1.01)
    assert [kernel for kernel, _ in pretence.calls] == ["train", "train", "infer", "infer"]
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert set(scores["id"]) == {image.id for image in read_images(demo, "test")}
    assert f"The score is on {demo / 'test_truth.csv'}" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "out" / "hidden" / "submission.csv")) == 3


@pytest.mark.slow
def test_given_data_without_truth(pretence, tmp_path, demo, capsys):
    """If the data has no answers, the run's own validation images are scored, and the rehearsal says so."""
    data = shutil.copytree(demo, tmp_path / "data", ignore=shutil.ignore_patterns("test_truth.csv"))
    assert pretend(tmp_path / "out", data=data)
    expected = pd.read_csv(pretence.run / "scores.csv").query("split == 'validation'")["dice"].mean()
    assert Verdict.read(tmp_path / "out").mean_dice == pytest.approx(expected)
    assert "the run's own validation images" in capsys.readouterr().out
    assert not (tmp_path / "out" / "overlays.png").exists()


def drop_problems(path: Path) -> None:
    submission.problems_path(path).unlink(missing_ok=True)  # of the public test set there are none


def report_all(path: Path) -> None:
    ids = pd.read_csv(path)["id"]
    problems = [Problem("warning", "test.csv", row, "", "", int(image_id)) for row, image_id in enumerate(ids, start=2)]
    submission.write_problems(path, problems)


def fill(path: Path) -> None:
    table = pd.read_csv(path)
    table.assign(rle="1 1").to_csv(path, index=False)


def damage(path: Path) -> None:
    path.write_text("id,rle\n1,1 1\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("meddle", "message"),
    [
        (drop_problems, rf"The hidden image \d+ \({CORRUPT}\) was not named"),
        (report_all, r"The hidden image \d+ \(LZW\) was not predicted"),
        (fill, r"The corrupt hidden image \d+ has a mask"),
        (damage, r"submission.csv is not valid:"),
        (Path.unlink, r"The infer kernel \(public\) left no submission.csv"),
    ],
)
def test_bad_predictions(pretence, tmp_path, capsys, meddle, message):
    """A kernel that hides the corrupt image, fails at a good one, or leaves no valid submission fails the rehearsal."""
    pretence.meddle = meddle
    assert not pretend(tmp_path / "out", runs=[pretence.run])
    assert pd.Series(capsys.readouterr().out).str.contains(message).all()
    assert Verdict.read(tmp_path / "out").passed is False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (Outcome(-9, 3600.0, 2**30, "time"), "took 3600 s, more than 1800 s; choose TTA"),
        (
            Outcome(-9, 1.0, 2**35, "memory"),
            "took 32.0 GiB of memory, more than 30.0 GiB; choose a smaller BATCH",
        ),
        (Outcome(-9, 1.0, 2**30, None), "status -9, killed, perhaps because this machine has too little memory"),
    ],
)
def test_killed_kernels(pretence, tmp_path, capsys, outcome, message):
    """A kernel that was killed is reported with the limit that it exceeded, by how much, and a remedy."""
    pretence.outcome = outcome
    (log := tmp_path / "out").mkdir()
    assert not pretend(log, runs=[pretence.run], limits=Limits(time_s=1800))
    assert message in capsys.readouterr().out


@pytest.mark.slow
def test_slow_kernels(pretence, tmp_path, capsys):
    """More than nine hours for Kaggle's hidden set are a warning, as Kaggle's GPUs are faster."""

    def slow(path: Path) -> None:
        pd.read_csv(f"{path}.timings.csv").assign(seconds=2000.0).to_csv(f"{path}.timings.csv", index=False)

    pretence.meddle = slow
    assert pretend(tmp_path / "out", runs=[pretence.run])
    assert "warning: that is too long here" in capsys.readouterr().out
    assert (Verdict.read(tmp_path / "out").extrapolated_hours or 0) > 9


@pytest.mark.slow
def test_wrong_arguments(rehearsed, tmp_path, capsys):
    """Wrong arguments end a rehearsal before it replaces anything."""
    run = rehearsed.out / "runs" / "train"
    for arguments, message in (
        ({"runs": [run]}, "which a rehearsal replaces; copy it elsewhere"),
        ({"runs": [tmp_path]}, "not a run folder"),
        ({"data": tmp_path}, "there is no such file"),
        ({"settings": {"kernel": {}}}, "there is no kernel; settings are for smoke, train, infer"),
        ({"limits": Limits(memory_bytes=0)}, "a limit is not above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            rehearse(rehearsed.out, CLONE, Options(**arguments))
    assert (run / "config.json").is_file()
    assert main(["rehearse", str(rehearsed.out), "--run", str(run)]) == 1
    assert "error: " in capsys.readouterr().err


def test_rehearsal_replaces_only_a_rehearsal(tmp_path):
    """A folder that holds something else is not deleted for a rehearsal."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no rehearsal"):
        rehearse(tmp_path, CLONE)
    assert (tmp_path / "notes.txt").is_file()


@pytest.fixture
def given(monkeypatch) -> list[Any]:
    """Arguments with which the command calls the function, which then does nothing."""
    arguments: list[Any] = []

    def record(*given: Any) -> bool:
        arguments[:] = given
        return True

    monkeypatch.setattr(rehearsal, "rehearse", record)
    monkeypatch.chdir(CLONE / "tests")
    return arguments


def test_options(given):
    """The command's options are the function's, with limits in GiB and hours."""
    command = ["rehearse", "out", "--data", "d", "--run", "a", "--run", "b", "--train", "6", "--size", "128"]
    command += ["--seed", "2", "--settings", '{"infer": {}}', "--memory-limit", "1.5", "--time-limit", "0.5"]
    assert main(command) == 0
    options = Options(Path("d"), [Path("a"), Path("b")], 6, 128, 2, {"infer": {}}, Limits(1.5 * 2**30, 1800))
    assert given == [Path("out"), CLONE, options]


def test_default_options(given):
    """Without options the command rehearses on a demo within Kaggle's limits, in the clone's folder rehearsal."""
    assert main(["rehearse"]) == 0
    assert given == [CLONE / "rehearsal", CLONE, Options(runs=[])]


@pytest.mark.parametrize("passed", [True, False])
def test_the_score_is_the_last_line(passed, tmp_path, monkeypatch, capsys):
    """The command's last line on stdout is the mean Dice, whether the rehearsal passed or not."""

    def pretend(out: Path, *_: Any) -> bool:
        pd.DataFrame({"id": [1, 2], "dice": [0.25, 0.5]}).to_csv(out / SCORES, index=False)
        return passed

    monkeypatch.setattr(rehearsal, "rehearse", pretend)
    monkeypatch.chdir(CLONE)
    assert main(["rehearse", str(tmp_path)]) == (0 if passed else 1)
    assert capsys.readouterr().out.splitlines()[-1] == "mean Dice 0.3750"


def test_settings_must_be_json(capsys):
    """Settings that are no JSON object of objects are wrong usage, and the message says how to write them."""
    for text in ("{train}", "[]", '{"train": 1}'):
        with pytest.raises(SystemExit) as stop:
            main(["rehearse", "--settings", text])
        assert stop.value.code == 2
        assert "JSON" in capsys.readouterr().err or text != "{train}"


def test_commands_need_a_clone(tmp_path, monkeypatch, capsys):
    """Outside of a clone a command says that it needs one, and what a clone has."""
    monkeypatch.chdir(tmp_path)
    for command in ("rehearse", "bundle", "data"):
        assert main([command]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path} is not in a clone of hubmap-kit: ")
        assert "pyproject.toml, hubmap_kit, kernels, datasets" in error


def test_sources_follow_the_metadata(tmp_path):
    """A kernel sees the sources its metadata names, in either layout, and no others; an unknown one is an error."""
    attached = {slug: tmp_path / slug for slug in (SLUG, "hubmap-kit", "hubmap-weights")}
    metadata = json.loads((CLONE / "kernels" / "train" / "kernel-metadata.json").read_text())
    assert sources(metadata, attached, "flat") == {SLUG: tmp_path / SLUG, "hubmap-kit": tmp_path / "hubmap-kit"}
    assert set(sources(metadata, attached, "nested")) == {f"competitions/{SLUG}", "datasets/rehearsal/hubmap-kit"}
    with pytest.raises(ValueError, match="needs other"):
        sources(metadata | {"dataset_sources": ["OWNER/other"]}, attached, "flat")


def test_versions(monkeypatch):
    """Packages with another version than in Kaggle's image are named; 3.12.11 counts as 3.12."""
    image = image_versions(CLONE)
    here: dict[str, str | None] = {**image, "tensorflow": "2.20.1", "numpy": None}

    def version(name: str) -> str:
        found = here[name]
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(platform, "python_version", lambda: "3.12.11")
    monkeypatch.setattr(cv2, "__version__", "4.130.0")
    assert differing_versions(image) == {
        "tensorflow": {"here": "2.20.1", "kaggle": "2.20.0"},
        "numpy": {"here": None, "kaggle": "2.0.2"},
        "opencv-python-headless": {"here": "4.130.0", "kaggle": "4.13"},
    }


def test_versions_in_kaggles_image(tmp_path):
    """The versions come from kernels/kaggle-image.txt; the first line of a package counts, without its marker."""
    versions = image_versions(CLONE)
    assert set(versions) > {"python", "tensorflow", "keras", "numpy", "tifffile", "opencv-python-headless"}
    assert versions["python"] == "3.12"
    (tmp_path / "kernels").mkdir()
    path = tmp_path / "kernels" / "kaggle-image.txt"
    lines = "# Of Python 3.14.\na-b==1.2.*\nc==3; x > '1'\nc==2; x < '1'  # older\nd>=4\ne\n"
    path.write_text(lines)
    assert image_versions(tmp_path) == {"python": "3.14", "a-b": "1.2", "c": "3"}
    path.write_text("a==1\n")
    with pytest.raises(ValueError, match="does not say which Python"):
        image_versions(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        image_versions(tmp_path)


def test_rehearsal_does_not_import_tensorflow():
    """The process that directs a rehearsal leaves TensorFlow to the kernels."""
    code = "import sys, hubmap_kit.rehearsal.rehearse; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0
