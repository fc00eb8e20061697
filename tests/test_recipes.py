"""Tests of the recipes and of the patches that they are made for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hubmap_kit.cli import main
from hubmap_kit.commands.push import kernel_settings
from hubmap_kit.kernels import TrainSettings
from hubmap_kit.recipes import GEOMETRIES, RECIPES, made_for, remark_on

CLONE = Path(__file__).parents[1]


def test_the_training_kernel_prepares_what_its_recipe_is_made_for():
    """The kernel's patches, folds and split are those that ``plan`` takes for its recipe."""
    settings = TrainSettings(**kernel_settings(CLONE, ["train"])["train"])
    assert settings.geometry() == made_for(settings.RECIPE)
    assert settings.trains_all_folds()
    assert GEOMETRIES.keys() <= RECIPES.keys()


@pytest.mark.parametrize(
    ("name", "input_size", "flags"),
    [
        ("default", 384, "--patch-size 3072 --input-size 768"),
        ("default", 512, ""),
        ("cpu", 128, "--patch-size 1024 --input-size 256"),
        ("cpu", 192, ""),
        ("fast", 96, ""),
    ],
)
def test_patches_of_half_the_size_are_remarked_on(name, input_size, flags):
    """A recipe on patches of half its size or less is named, with the flags that make those that it is made for."""
    remark = remark_on(name, input_size)
    assert flags in remark
    assert (f"seen at {input_size} px" in remark) == bool(flags) == bool(remark)


def test_plan_takes_the_patches_and_folds_of_the_recipe(capsys):
    """``plan default`` plans all folds of whole fields of view; flags change that, and a named fold is one training."""
    small = ["plan", "default", "--model", "unet", "--filters", "2", "--json"]
    for flags, folds, images in (([], 5, 281), (["--fold", "0"], 1, 281), (["--folds", "0"], 1, 351)):
        assert main([*small, *flags]) == 0
        planned = json.loads(capsys.readouterr().out)["plans"]["unet"]
        assert (planned["folds"], planned["train_images"]) == (folds, images)


@pytest.mark.parametrize(("recipe", "warns"), [((), True), (("--recipe", "cpu"), True), (("--recipe", "fast"), False)])
def test_train_says_that_patches_are_small(store, tmp_path, capsys, monkeypatch, recipe, warns):
    """Before a training on patches of 64 px begins, a line says what the recipe is made for."""

    def train(*_arguments, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("hubmap_kit.training.train.train", train)
    assert main(["train", str(store), str(tmp_path / "run"), "--encoder-weights", "none", *recipe]) == 130
    assert ("these are seen at 64 px" in capsys.readouterr().err) == warns


@pytest.mark.parametrize(("input_size", "recipe"), [(96, " --recipe fast"), (256, " --recipe cpu"), (768, "")])
def test_prepare_names_the_recipe_for_its_patches(demo, tmp_path, capsys, input_size, recipe):
    """The next command that ``prepare`` names has a recipe that suits the size of the patches."""
    assert main(["prepare", str(demo), str(tmp_path / "patches"), "--input-size", str(input_size)]) == 0
    assert f" train {tmp_path / 'patches'} run{recipe}\n" in capsys.readouterr().err
