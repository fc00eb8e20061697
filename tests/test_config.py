"""Tests of the settings and of the flags made from them."""

from __future__ import annotations

from dataclasses import fields

import pytest

from hubmap_kit.cli import main
from hubmap_kit.competition import ORGANS
from hubmap_kit.config import PredictConfig, PrepareConfig, TrainConfig, organ_text, organ_values


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
