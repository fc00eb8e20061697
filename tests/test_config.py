"""Tests of the settings and of the flags made from them."""

from __future__ import annotations

import argparse
from dataclasses import fields

import pytest

from hubmap_kit.cli import main
from hubmap_kit.commands import COMMANDS, parser_of
from hubmap_kit.competition import ORGANS
from hubmap_kit.config import PredictConfig, PrepareConfig, TrainConfig, organ_text, organ_values
from hubmap_kit.terminal import _between


def test_organ_text_is_read_back():
    """Numbers by organ written as text are read back to the last digit."""
    values = {organ: 0.1 * number for number, organ in enumerate(ORGANS, start=1)}
    assert organ_values(organ_text(values), 1.0) == values
    contexts = PrepareConfig(context="317.5,liver=40").contexts_um()
    again = organ_values(organ_text(contexts), 1.0)
    assert (again, again.other) == (contexts, 317.5)


@pytest.mark.parametrize("config", [PrepareConfig, TrainConfig, PredictConfig])
def test_every_setting_is_a_flag_with_help(config, capsys):
    """Each field is listed by --help, under its flag, with its help and default."""
    command = {PrepareConfig: "prepare", TrainConfig: "train", PredictConfig: "predict"}[config]
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(config):
        flag = field.metadata.get("flag", "--" + field.name.replace("_", "-"))
        assert flag in text
        assert field.metadata["help"][:10] in text.replace("- ", "-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train P R --batch-size 0", "--batch-size is 0; it must be at least 1"),
        ("train P R --looks D --ema 1", "--ema is 1.0; it must be below 1.0"),
        ("train P R --loss bce+hinge", "--loss is wrong: 'hinge' is not a loss"),
        ("train P R --augment flop", "--augment is wrong: there is no augmentation 'flop'"),
        ("predict D R --out x --min-region -1", "--min-region is -1.0; it must be at least 0.0"),
        ("predict D R --out x --time-limit -1", "--time-limit is -1.0; it must be at least 0.0"),
        ("predict D R --out x --scales 0", "--scales is wrong: scales are '0'"),
        ("demo OUT --train 4", "--train is 4; all five organs need an image"),
        ("demo OUT --size 0", "--size is 0; units are"),
        ("prepare D P --input-size 100", "--input-size is 100; it must be a multiple of 32"),
        ("prepare D P --context liver=0", "--context is wrong: liver=0 is not a number above 0"),
        ("prepare D P --whole", "--whole is now written --context whole"),
        ("prepare --whole D P", "--whole is now written --context whole"),
        ("prepare D P --pixel-size 1.6", "write --context 1638.4"),
        ("prepare D P --pixel-size 0.123456789 --patch-size 1000", "write --context 123.456789"),
        ("prepare D P --pixel-size 0.8,kidney=1.6 --patch-size 512", "write --context 409.6,kidney=819.2"),
        ("prepare D P --pixel-size 0.8 --context 300", "leave --pixel-size out"),
        ("ablation D O --folds 2 --pixel-size 1.6", "write --context 1638.4"),
    ],
)
def test_usage_errors_name_the_flag(arguments, message, capsys):
    """A wrong value is reported with its flag and rule, a removed flag with what to write now; the status is 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def numeric_flags():
    """Each flag of each command that takes a number, with a command line that has everything but its value."""
    for command in COMMANDS:
        parser = parser_of(command)
        needed = []
        for action in parser._actions:
            if not action.option_strings and action.nargs not in ("?", "*"):
                needed.append(next(iter(action.choices or ()), f"there/{action.dest}"))
            elif action.required:
                needed += [action.option_strings[-1], "1.0" if action.type is float else "lung"]
        for action in parser._actions:
            kind = action.type
            if getattr(kind, "func", kind) in (int, float, _between) and action.help != argparse.SUPPRESS:
                yield pytest.param(
                    [command, *needed], action.option_strings[-1], id=f"{command} {action.option_strings[-1]}"
                )


@pytest.mark.parametrize(("words", "flag"), list(numeric_flags()))
def test_every_number_has_both_bounds(words, flag, tmp_path, monkeypatch, capsys):
    """A number that nothing could use is wrong usage, found before anything is done; no number is a mistake of ours."""
    monkeypatch.chdir(tmp_path)
    for word in words[1:]:  # folders that are in use, so that no command gets far
        if word.startswith("there/"):
            (tmp_path / word).mkdir(parents=True)
            (tmp_path / word / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for value in ("nan", "inf", "-inf", "1e308", "1" + 30 * "0", "-1e308", "x", ""):
        with pytest.raises(SystemExit) as stop:
            main([*words, f"{flag}={value}"])
        said = capsys.readouterr().err
        assert stop.value.code == 2, value
        assert flag in said, value
    for value in ("0", "-1", "1", "7") if before else ():  # a command that needs no folder would do its work
        status: object = None
        try:
            status = main([*words, f"{flag}={value}"])
        except SystemExit as ended:
            status = ended.code
        assert status in (1, 2), value
        assert "mistake of hubmap-kit" not in capsys.readouterr().err, value
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", ["nan", "inf", "1e308", "-1", "x", ""])
@pytest.mark.parametrize(
    "flag",
    [
        *("prepare D P --context={}", "prepare D P --context=lung={}", "predict D R --out=S --threshold={}"),
        *("predict D R --out=S --min-region=lung={}", "predict D R --out=S --scales=1,{}"),
        *("train P R --loss={}*bce", "train P R --augment=stain={}"),
    ],
)
def test_numbers_in_a_text_have_both_bounds(flag, number, tmp_path, monkeypatch, capsys):
    """The same for numbers by organ, scales, weights and shares."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(flag.format(number).split())
    assert stop.value.code == 2
    assert "error: --" in capsys.readouterr().err
