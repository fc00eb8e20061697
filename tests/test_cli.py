"""Tests of the command line: status, messages, files."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from hubmap_kit.cli import main, stop_on_signals
from hubmap_kit.commands import COMMANDS, parser_of


@pytest.fixture
def answers(demo, tmp_path):
    """The demo's truth as a submission."""
    path = tmp_path / "submission.csv"
    pd.read_csv(demo / "test_truth.csv")[["id", "rle"]].to_csv(path, index=False)
    return path


def test_truth_is_valid_and_scores_one(demo, answers, capsys):
    """The demo's truth passes validate and scores 1 on the last line."""
    assert main(["validate", str(answers), "--data", str(demo)]) == 0
    assert main(["score", str(answers), "--truth", str(demo / "test_truth.csv")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == "mean Dice 1.0000"
    assert sum(line.endswith(("images)", "1 image)")) for line in out) == 7  # five organs, two sources


def test_scores_by_source(demo, answers, capsys):
    """If the truth has sources, the mean Dice of each is printed: 1 for HPA, 0 for HuBMAP, whose answers are empty."""
    lines = answers.read_text().splitlines()
    truth = [row.split(",") for row in (demo / "test_truth.csv").read_text().splitlines()]
    hubmap = {row[0] for row in truth if row[2] == "Hubmap"}
    cut = answers.with_name("cut.csv")
    emptied = [line.split(",")[0] + "," if line.split(",")[0] in hubmap else line for line in lines]
    cut.write_text("\n".join(emptied) + "\n")
    assert main(["score", str(cut), "--truth", str(demo / "test_truth.csv")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert f"{'HPA':<15} 1.0000  ({len(truth) - 1 - len(hubmap)} images)" in told
    assert f"{'Hubmap':<15} 0.0000  ({len(hubmap)} images)" in told


def test_per_image_scores(demo, answers, tmp_path):
    """--per-image writes id, organ and Dice of each image."""
    out = tmp_path / "per_image.csv"
    main(["score", str(answers), "--truth", str(demo / "test_truth.csv"), "--per-image", str(out)])
    table = pd.read_csv(out)
    assert list(table.columns) == ["id", "organ", "dice"]
    assert (table["dice"] == 1).all()
    assert len(table) == 5


def test_bad_submission(demo, answers, capsys):
    """Every problem is on stderr with file and row, the status is 1, and there is no traceback."""
    lines = answers.read_text().splitlines()
    answers.write_text("\n".join([lines[0], lines[1] + " 5", *lines[2:-1]]) + "\n")
    assert main(["validate", str(answers), "--data", str(demo)]) == 1
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert "submission.csv, row 2" in err[0]
    assert "missing" in err[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["validate", "x.csv"],
        ["train", "a", "b", "--recipe", "nope"],
        ["train", "a", "b", "--overlap", "2"],
        ["prepare", "a", "b", "--input-size", "100"],
        ["predict", "data", "--out", "x"],
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    """Wrong usage ends with status 2 and says how it is used."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: hubmap-kit" in capsys.readouterr().err


def test_first_steps(capsys):
    """Without a command the commands and the first steps are shown, which are commands with flags that exist."""
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    steps = [line.split()[1:] for line in text.splitlines() if line.startswith("  hubmap-kit ")]
    assert [name for name, *_ in steps] == ["demo", "prepare", "train", "predict", "score"]
    for name, *rest in steps:
        parser_of(name).parse_args(rest)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("trian", "error: there is no command trian; did you mean train?"),
        ("help trian", "error: there is no command trian; did you mean train?"),
        ("train P R --lr 1", "error: there is no flag --lr; did you mean --learning-rate?"),
        ("demo OUT --tests 4", "error: there is no flag --tests; did you mean --test?"),
        ("prepare D P --patchsize=4", "error: there is no flag --patchsize; did you mean --patch-size?"),
        ("predict D R --out x --tta flip", "error: --tta: there is no 'flip'; did you mean flips?"),
        ("train P R --encoder resnet50d", "error: --encoder: there is no 'resnet50d'; did you mean resnet50?"),
        ("train P R --epochs ten", "error: --epochs: 'ten' is not a whole number"),
        ("train P R --learning-rate inf", "error: --learning-rate: 'inf' is not a number"),
        ("predict D R --out x --time-limit nan", "error: --time-limit: 'nan' is not a number"),
        ("push tarin", "error: PART: there is no part tarin; did you mean train?"),
        ("score x.csv", "error: these are missing: --truth"),
        ("validate a b c --data D", "error: b is one argument too many"),
    ],
)
def test_mistyped(arguments, line, capsys):
    """A mistyped word is answered with the one that was meant, after one line of usage, with status 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    usage, error, *_ = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: hubmap-kit {arguments.split()[0] if line.startswith('error: -') else ''}")
    assert error.startswith(line)


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "{here}/none", "{here}/out"],
        ["train", "{here}/none", "{here}/out"],
        ["report", "{here}/none", "--out", "{here}/report.html"],
        ["validate", "{here}/none.csv", "--data", "{here}"],
        ["score", "{here}/none.csv", "--truth", "{here}/none.csv"],
    ],
)
def test_bad_input_is_status_1(arguments, tmp_path, capsys):
    """Input that is not there ends with status 1 and one line that names it; nothing is written."""
    assert main([argument.format(here=tmp_path) for argument in arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bundle", "data", "push", "submit"])
def test_modules_that_were_commands_say_so(name):
    """A module that could once be run as a command names the command of today, and fails."""
    command = [sys.executable, "-m", f"hubmap_kit.kaggle.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"run: hubmap-kit {name}" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_command(tmp_path, number):
    """SIGTERM stops a command as Ctrl-C does: it says so, cleans up, and ends with status 130."""
    command = [sys.executable, "-m", "hubmap_kit", "demo", "out", "--train", "2000", "--size", "400"]
    begin = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command[1:3] = ["-c", begin + "runpy.run_module('hubmap_kit', run_name='__main__', alter_sys=True)"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.rglob("*.tiff")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == "stopped; nothing was written"
    assert not list(tmp_path.iterdir())


def test_a_stop_that_python_drops_is_sent_again(monkeypatch):
    """A KeyboardInterrupt in a destructor, where Python drops exceptions, stops the process a moment later."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

    class Busy:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        Busy()
        time.sleep(30)

    try:
        stop_on_signals()
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_scoring_an_unfinished_prediction(demo, answers, capsys):
    """A submission whose prediction was interrupted is scored, with a warning."""
    progress = answers.with_name(f"{answers.name}.progress.jsonl")
    for said in (False, True):
        assert main(["score", str(answers), "--truth", str(demo / "test_truth.csv")]) == 0
        assert ("warning: submission.csv: its prediction is unfinished" in capsys.readouterr().err) == said
        progress.touch()
