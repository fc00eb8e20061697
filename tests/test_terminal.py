"""Tests of what commands say: endings, messages, progress, colour, unexpected errors."""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hubmap_kit import cli, progress
from hubmap_kit.cli import main
from hubmap_kit.commands import COMMANDS, full_parser, parser_of, parsers_in
from hubmap_kit.files import replacing
from hubmap_kit.recipes import recipe
from hubmap_kit.running import os_error_text
from hubmap_kit.tables import Problem, summarize
from hubmap_kit.terminal import Ending, paint


@pytest.fixture
def answers(demo, tmp_path):
    """The demo's truth as a submission."""
    path = tmp_path / "sub mission.csv"
    pd.read_csv(demo / "test_truth.csv")[["id", "rle"]].to_csv(path, index=False)
    return path


def parse_next(err: str) -> str:
    """Parse the next command that is named, as a shell would; returns its name."""
    (line,) = (line for line in err.splitlines() if line.startswith("next: "))
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line.removeprefix('next: ')}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    program = words.index("hubmap-kit") if "hubmap-kit" in words else words.index("hubmap_kit")
    parser_of(words[program + 1]).parse_args(words[program + 2 :])
    return words[program + 1]


def test_a_command_ends_with_what_it_did_and_what_comes_next(demo, answers, tmp_path, capsys):
    """Results and time go to stdout, the next command, which can be pasted, to stderr."""
    assert main(["prepare", str(demo), str(tmp_path / "patches"), "--input-size", "64"]) == 0
    said = capsys.readouterr()
    assert re.match(rf"{tmp_path}/patches: \d+ images, \d+ patches, [\d.]+ s\n", said.out)
    assert parse_next(said.err) == "train"
    assert main(["validate", str(answers), "--data", str(demo)]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(rf"{answers} is valid, [\d.]+ s\n", said.out)
    assert parse_next(said.err) == "score"
    assert main(["score", str(answers), "--truth", str(demo / "test_truth.csv")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{answers}: 5 images scored, ")
    assert parse_next(said.err) == "review"


def test_a_repeated_preparation_says_what_was_there(demo, tmp_path, capsys):
    """A second preparation says how many images it did not have to make."""
    command = ["prepare", str(demo), str(tmp_path / "patches"), "--input-size", "64"]
    assert main(command) == 0
    assert "there already" not in capsys.readouterr().err
    assert main(command) == 0
    images = len(pd.read_csv(demo / "train.csv"))
    assert f"{images} of {images} images were there already" in capsys.readouterr().err


def test_json_is_one_object_and_nothing_else(demo, answers, tmp_path, capsys):
    """With --json stdout is one object with the result; so it is if the submission is bad."""
    assert main(["prepare", str(demo), str(tmp_path / "patches"), "--input-size", "64", "--json"]) == 0
    prepared = json.loads(capsys.readouterr().out)
    assert prepared["status"] == 0
    assert sum(prepared["images"].values()) == len(pd.read_csv(demo / "train.csv"))
    assert main(["score", str(answers), "--truth", str(demo / "test_truth.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_dice"] == 1
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:-1]))
    assert main(["validate", str(answers), "--data", str(demo), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["errors"], len(found["problems"])) == (False, 1, 1)
    assert main(["score", str(answers), "--truth", str(demo / "test_truth.csv"), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 1
    assert main(["report", str(tmp_path / "no run"), "--out", str(tmp_path / "r.html"), "--json"]) == 1
    said = capsys.readouterr()
    assert said.err == f"error: {json.loads(said.out)['error']}\n"


def test_json_has_no_value_that_is_not_json(capsys):
    """A number that is not finite is null, a path is text, a number of NumPy is a number."""
    parser = parser_of("demo")
    values = {"dice": float("nan"), "count": np.int64(3), "path": Path("a"), "rows": [(1, np.float32(0.5))]}
    Ending(values=values).show(parser.parse_args(["D", "--json"]), 1.0)
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in values} == {"dice": None, "count": 3, "path": "a", "rows": [[1, 0.5]]}


def test_quiet_says_the_result_and_problems_only(demo, answers, tmp_path, capfd):
    """With -q there is no progress and no next command; problems are on stderr all the same."""
    assert main(["prepare", str(demo), str(tmp_path / "patches"), "--input-size", "64", "--test-size", "0", "-q"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "patches" in said.out
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:-1]))
    assert main(["validate", str(answers), "--data", str(demo), "-q"]) == 1
    assert "is missing; add a row for it" in capfd.readouterr().err


def test_what_is_printed_while_a_command_runs_is_a_message(capsys):
    """Prints of the library go to stderr, and nowhere if it is quiet; afterwards stdout is as before."""
    with progress.messages():
        print("epoch 1")
    with progress.messages(quiet=True):
        print("epoch 2")
        assert list(progress.track([1, 2], 2, "work")) == [1, 2]
    print("result")
    assert capsys.readouterr() == ("result\n", "epoch 1\n")


def test_plain_progress_has_the_rate_and_the_time_left(monkeypatch, capsys):
    """Off a terminal each line has the pace and the time left; a step that goes on counts on."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)

    def items():
        for _ in range(4):
            clock.now += 3
            yield 0

    list(progress.track(items(), 6, "predict", done=2))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "predict: 3/6 images, 3 s so far",
        "predict: 4/6 images, 3 s per image, about 6 s left",
        "predict: 5/6 images, 3 s per image, about 3 s left",
        "predict: 6/6 images, 12 s",
    ]
    list(progress.track(range(1000), 1000, "fast"))
    assert capsys.readouterr().err == "fast: 1000/1000 images, 0.1 s\n"


def test_colour_only_on_a_terminal(monkeypatch):
    """Errors are coloured on a terminal, unless NO_COLOR or a dumb terminal says otherwise."""
    terminal, pipe = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("error:", "1;31", terminal) == "\x1b[1;31merror:\x1b[0m"
    assert paint("error:", "1;31", pipe) == "error:"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("error:", "1;31", terminal) == "error:"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("error:", "1;31", terminal) == "error:"


def test_errors_on_a_terminal():
    """A real terminal gets a red word and no other colour; stdout that is no terminal gets none."""
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "hubmap_kit", "trian"]
    subprocess.run(command, stdout=subprocess.PIPE, stderr=follower, env=environment, timeout=60)
    os.close(follower)
    text = os.read(leader, 4096).decode()
    os.close(leader)
    assert "\x1b[1;31merror:\x1b[0m there is no command trian; did you mean train?" in text
    assert text.count("\x1b") == 2


def test_an_unexpected_error_is_short(monkeypatch, tmp_path, capsys):
    """A mistake of ours ends in one message; the traceback is in a file, without credentials."""
    secret = "0123456789abcdef0123456789abcdef"
    monkeypatch.setenv("KAGGLE_KEY", secret)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(arguments: argparse.Namespace) -> Ending:
        raise KeyError(f"liver {secret}")

    monkeypatch.setattr("hubmap_kit.commands.validate.run", fail)
    assert main(["validate", "s.csv", "--data", "D"]) == 1
    err = capsys.readouterr().err
    (file,) = tmp_path.glob("hubmap-kit-*.txt")
    assert err.startswith("error: unexpected KeyError: ")
    assert str(file) in err
    assert "hubmap-kit doctor" in err
    text = file.read_text()
    assert "hubmap-kit validate s.csv --data D" in text
    assert "Traceback" in text
    assert "Traceback" not in err
    assert secret not in text + err


def test_interrupted(monkeypatch, capsys):
    """Ctrl-C says what is kept and the command to go on with; a training's has --resume, once."""

    def stop(arguments: argparse.Namespace) -> Ending:
        raise KeyboardInterrupt

    monkeypatch.setattr("hubmap_kit.commands.train.run", stop)
    assert main(["train", "my patches", "R", "--resume"]) == 130
    assert capsys.readouterr().err.rstrip().endswith("train 'my patches' R --resume")
    monkeypatch.setattr("hubmap_kit.commands.demo.run", stop)
    assert main(["demo", "D"]) == 130
    assert capsys.readouterr().err == "stopped; nothing was written\n"


def test_a_file_that_cannot_be_written_is_named_as_it_was_meant(tmp_path):
    """No error names the temporary file beside it."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    messages = {
        tmp_path / "file" / "s.csv": f"{tmp_path / 'file'} is a file, and a folder is needed there; name another place",
        tmp_path / "folder": f"{tmp_path / 'folder'}: is a directory",
    }
    for path, message in messages.items():
        with pytest.raises(OSError, match=r"^\[Errno") as raised, replacing(path) as part:
            part.write_text("")
        assert os_error_text(raised.value) == message
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_a_rule_that_many_rows_break_is_one_message():
    """Rows of one rule are one message with their ranges; few rows, or other rules, are named one by one."""
    organs = [Problem("error", "train.csv", row, "organ is 'livr'", "correct the cell") for row in range(2, 9)]
    few = [Problem("error", "train.csv", row, f"rle is {row}", "correct it") for row in (3, 5)]
    empty = [Problem("warning", "s.csv", row, f"id {row} is empty", "predict it", row) for row in (2, 3, 4, 5, 9)]
    missing = [Problem("error", "s.csv", None, f"id {number} is missing", "add it", number) for number in range(5)]
    assert list(map(str, summarize([*organs, *few, *empty, *missing]))) == [
        "error: train.csv, rows 2-8: organ is 'livr'; correct the cell",
        "error: train.csv, row 3: rle is 3; correct it",
        "error: train.csv, row 5: rle is 5; correct it",
        "warning: s.csv, row 2: id 2 is empty; predict it (the same in 4 more: rows 3-5, 9)",
        "error: s.csv: id 0 is missing; add it (the same in 4 more: ids 1-4)",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, capsys):
    """Help opens with one line of usage and an example, which can be parsed."""
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: hubmap-kit {name} ")
    examples = [line.split() for line in text.splitlines() if line.startswith("  hubmap-kit ")]
    assert examples
    for words in examples:
        command = words[1 : words.index(">")] if ">" in words else words[1:]
        assert command[0] == name
        parser_of(name).parse_args(command[1:])
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == text


def test_help_shows_the_recipe(capsys):
    """The defaults in the help of train are those of the recipe that is named."""
    for words, name in (([], "default"), (["--recipe", "cpu"], "cpu"), (["--recipe=fast"], "fast")):
        assert main(["help", "train", *words]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"patches in a step, on all devices together (default: {recipe(name).batch_size})" in text
        assert f"those of the recipe {name};" in text


def test_completion(capsys):
    """A script for each shell names every command; bash reads its own."""
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(name in script for name in COMMANDS)
        if shell == "bash" and shutil.which("bash"):
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_every_command_has_a_parser():
    """The parser for documentation and completion has all commands, each with -q and --json."""
    parsers = parsers_in(full_parser())
    assert list(parsers) == list(COMMANDS)
    assert all({"--quiet", "--json"} <= parser._option_string_actions.keys() for parser in parsers.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "kaggle.json holds no username and key"),
        ("[]", "kaggle.json holds no username and key"),
        ("", "kaggle.json is empty"),
        ('{"username": "a", "key": "0123456789abcdef"}', "credentials in kaggle.json"),
        (None, "no credentials found"),
    ],
)
def test_the_doctor_says_what_is_wrong_with_credentials(tmp_path, monkeypatch, capsys, content, said):
    """Credentials that cannot be used are named with the reason."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr("hubmap_kit.doctor._tensorflow_facts", lambda: {"devices": []})
    if content is not None:
        (tmp_path / "kaggle.json").write_text(content)
        (tmp_path / "kaggle.json").chmod(0o600)
    assert main(["doctor"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Kaggle"))
    assert said in line


@pytest.mark.slow
def test_doctor(monkeypatch, capsys):
    """The doctor names versions, devices and where credentials are, never their value; also as JSON."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_0123456789abcdef0123456789abcdef")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^tensorflow +2\.", text, re.MULTILINE)
    assert re.search(r"^devices +.*CPU", text, re.MULTILINE)
    assert re.search(r"^Kaggle +credentials in KAGGLE_API_TOKEN$", text, re.MULTILINE)
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["python"] == sys.version.split()[0]
    assert "KGAT" not in text + out


@pytest.mark.slow
def test_tensorflow_starts_without_notes_and_fails_with_them(tmp_path):
    """TensorFlow's notes are not shown when it starts; if it fails, what it said is."""
    start = "from hubmap_kit.models.hardware import start_tensorflow; start_tensorflow()"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    fake = tmp_path / "tensorflow.py"
    fake.write_text("import os\nos.write(2, b'no AVX here')\nraise ImportError('cannot load')\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[1])])}
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, timeout=120, env=environment)
    assert "no AVX here" in done.stderr
    assert "cannot load" in done.stderr
