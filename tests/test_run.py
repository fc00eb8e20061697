"""Tests of run folders: what they hold, and run folders that an earlier version of the kit wrote."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from builders import FORMAT_2, GEOMETRY, write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubmap_kit.cli import main
from hubmap_kit.config import PrepareConfig, TrainConfig, organ_values
from hubmap_kit.masks import MaskRule
from hubmap_kit.run import FORMAT, FoldsConfig, Run, RunConfig, expand, is_finished


def tissue() -> np.ndarray:
    """A drawn unit with a lumen on striped tissue: ``(97, 131, 3)`` uint8."""
    y, x = np.mgrid[:97, :131]
    distance2 = (y - 41) ** 2 + (x - 60) ** 2
    image = np.full((97, 131, 3), 245, np.uint8)
    image[(3 * y + 5 * x) % 17 < 9] = (214, 160, 196)
    image[distance2 < 27**2] = (122, 58, 130)
    image[distance2 < 11**2] = (248, 244, 247)
    return image


NETWORK = {"model": "unet", "encoder": None, "filters": 2, "auxiliary": False, "mean": [0, 0, 0], "std": [1, 1, 1]}


def rewrite(folder: Path, **changes) -> None:
    """Change keys of a ``config.json`` by hand; None removes one."""
    values = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in values.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def test_config_round_trip(tmp_path):
    """A configuration is read as it was written."""
    config = RunConfig(
        PrepareConfig(patch_size=517, input_size=96, test_size=3),
        TrainConfig(filters=3, seed=5, fold=1),
        TrainConfig(encoder="resnet18").network(),
        rule=MaskRule({"lung": 0.3}, {"lung": 250.0}),
        looks={"reinhard": {"lung": (0.1, 0.2), "spleen": ()}},
        splits={"train": [3, 1], "validation": [], "test": [2]},
        recipe="fast",
        created="2026-01-01",
        versions={"keras": "3.12"},
        finished=True,
        epochs=7,
        results={"test": {"dice": 0.5}},
    )
    config.write(tmp_path)
    assert RunConfig.read(tmp_path) == config
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["format"] == FORMAT
    assert values["thresholds"] == {"lung": 0.3}
    assert "rule" not in values


def test_folds_round_trip(tmp_path):
    """A folder of folds is read as it was written, and so is one of format 2, which had no number."""
    for config in (FoldsConfig(3), FoldsConfig(2, finished=True, rule=MaskRule.uniform(0.3, 10.0))):
        config.write(tmp_path)
        assert FoldsConfig.read(tmp_path) == config
        assert is_finished(tmp_path) is config.finished
        values = json.loads((tmp_path / "folds.json").read_text())
        del values["format"]
        (tmp_path / "folds.json").write_text(json.dumps(values))
        assert FoldsConfig.read(tmp_path) == config


def test_folds_without_their_file_are_pointed_out(tmp_path, capsys):
    """A folder of folds without folds.json, where nobody knows whether folds are missing, predicts with a warning."""
    runs = [write_run(tmp_path / f"fold{number}") for number in (0, 1)]
    assert expand([tmp_path]) == runs
    assert capsys.readouterr().out == (
        f"warning: {tmp_path}: has no folds.json, so that folds may be missing; restore it from a copy\n"
    )
    FoldsConfig(2, finished=True).write(tmp_path)
    assert expand([tmp_path]) == runs
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_run_of_format_2_predicts_the_same_masks(old_run, tmp_path):
    """A run folder that an earlier version wrote gives the masks that it gave then, to the byte."""
    data = tmp_path / "data"
    (data / "test_images").mkdir(parents=True)
    lines = ["id,organ,data_source,img_height,img_width,pixel_size,tissue_thickness"]
    for image_id, organ, pixel_size_um in ((7, "kidney", 0.4), (3, "lung", 0.5)):
        tifffile.imwrite(data / "test_images" / f"{image_id}.tiff", tissue(), photometric="rgb")
        lines.append(f"{image_id},{organ},HPA,97,131,{pixel_size_um},4")
    (data / "test.csv").write_text("\n".join(lines) + "\n")
    (data / "sample_submission.csv").write_text("id,rle\n7,\n3,\n")
    assert main(["predict", str(data), str(old_run), "--out", str(tmp_path / "submission.csv")]) == 0
    assert (tmp_path / "submission.csv").read_bytes() == (FORMAT_2 / "expected.csv").read_bytes()


def test_config_of_format_2(old_run):
    """All of a configuration of format 2 is read, and what is written then is of this format."""
    old = json.loads((old_run / "config.json").read_text())
    assert old["format"] == 2
    config = Run.open(old_run).config
    assert config.prepare.network_um() == old["network_um"]
    assert config.prepare.contexts_um() == old["context_um"]
    assert config.prepare.patch_size == 96
    assert (config.train.filters, config.train.loss, config.train.looks_from) == (2, "bce", None)
    assert config.rule == MaskRule(old["thresholds"], old["min_region_um2"])
    assert config.splits == old["splits"]
    assert (config.finished, config.epochs, config.results) == (True, 1, old["results"])
    config.write(old_run)
    assert RunConfig.read(old_run) == config


@pytest.mark.parametrize("context_um", [None, "317", "317.7,kidney=512.3", "lung=30"])
@pytest.mark.parametrize("pixel_size_um", ["0.4", "0.8,kidney=1.6", "lung=0.3"])
@pytest.mark.parametrize("patch_size", [1024, 1021])
def test_geometry_of_format_2(old_run, patch_size, pixel_size_um, context_um):
    """The network sees each organ at the same pixel size, to the bit, as the earlier version showed it."""
    old = json.loads((old_run / "config.json").read_text())["prepare"]
    old |= {"patch_size": patch_size, "pixel_size_um": pixel_size_um, "context_um": context_um}
    rewrite(old_run, prepare=old)
    contexts = organ_values(pixel_size_um, 0.4).map(lambda um: um * patch_size)
    if context_um is not None:
        contexts = organ_values(context_um, contexts)
    assert RunConfig.read(old_run).prepare.network_um() == contexts.map(lambda um: um / 64)


def test_whole_images_of_format_2(old_run):
    """A run that saw images whole keeps the context that was computed from the largest image."""
    old = json.loads((old_run / "config.json").read_text())["prepare"]
    rewrite(old_run, prepare=old | {"pixel_size_um": "0.4", "patch_size": 3003, "whole": True})
    assert RunConfig.read(old_run).prepare.network_um()["lung"] == 0.4 * 3003 / 64


def test_settings_that_have_become_constants(old_run):
    """Settings of format 2 that no longer exist are left out; the run was trained with them, and predicts without."""
    old = json.loads((old_run / "config.json").read_text())
    rewrite(old_run, prepare=old["prepare"] | {"jobs": 3}, train=old["train"] | {"looks": "/data", "clip_norm": 1.0})
    assert RunConfig.read(old_run).train.looks_from == "/data"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"format": 1}, r"config.json is of format 1, .* reads 2 and 3; use the version .* or train again"),
        (
            {"format": FORMAT + 1},
            r"config.json is of format 4, .* update hubmap-kit, or train again, .*",
        ),
        ({"format": None}, "config.json is of format None"),
        (
            {"min_region_um2": None},
            "it lacks min_region_um2.; train again, or restore it from a copy",
        ),
        ({"prepare": None}, "config.json is damaged .it lacks prepare.;"),
        ({"thresholds": [0.5]}, "config.json is damaged .*thresholds"),
        ({"thresholds": {"lung": math.nan}}, "config.json is damaged .thresholds has .*nan.* must be from 0 to 1"),
        ({"min_region_um2": {"lung": -1}}, "config.json is damaged .min_region_um2 has .* from 0 to"),
        ({"thresholds": {"lung": 1.5}}, "config.json is damaged .thresholds has .* from 0 to 1"),
        ({"train": {"model": "unet", "filters": -1}}, "config.json is damaged .filters is -1; it must be at least"),
        ({"train": {"model": "unet", "epochs": 2.5}}, "config.json .*epochs is 2.5; it must be a whole number"),
        ({"train": {"model": "unet", "tune": "no"}}, "config.json .*tune is 'no'; it must be True or False"),
        ({"train": {}}, "config.json is damaged .it lacks model.;"),
        ({"prepare": {"patch_size": 64, "context": None}}, "config.json is damaged .it lacks input_size.;"),
        ({"network": NETWORK | {"filters": "many"}}, "config.json .*filters is 'many'; it must be a whole number"),
        ({"network": NETWORK | {"filters": 0}}, "config.json .*filters is 0; it must be at least 1"),
        ({"network": NETWORK | {"std": [1, 1, 0]}}, "config.json .* std above 0"),
        ({"network": NETWORK | {"mean": []}}, "config.json .* have a number by channel"),
        ({"looks": [1]}, "config.json is damaged ."),
        ({"splits": [1]}, r"config.json .*splits is \[1\]; it must be an object"),
        ({"splits": {"train": [3, "7"]}}, r"config.json .*splits.train\[1\] is '7'; it must be a whole number"),
        ({"finished": "false"}, "config.json .*finished is 'false'; it must be True or False"),
    ],
)
def test_configs_that_cannot_be_read(tmp_path, changes, rule):
    """A configuration of an unknown format, or a damaged one, is named with what is wrong and what to do."""
    run = write_run(tmp_path / "run")
    rewrite(run, **changes)
    for read in (Run.open, is_finished):
        with pytest.raises(ValueError, match=rule):
            read(run)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_config_saved_by_an_editor(tmp_path, encoding):
    """A byte order mark, or another encoding of Unicode, changes nothing."""
    run = write_run(tmp_path / "run", data="/µ")
    config = RunConfig.read(run)
    (run / "config.json").write_text((run / "config.json").read_text(), encoding=encoding)
    assert RunConfig.read(run) == config


def test_settings_of_a_newer_kit_are_ignored_with_a_warning(tmp_path, capsys):
    """They are named, once, and everything else is read."""
    run = write_run(tmp_path / "run")
    config = RunConfig.read(run)
    values = json.loads((run / "config.json").read_text())
    values["train"]["wings"] = 2
    values["feathers"] = "white"
    (run / "config.json").write_text(json.dumps(values))
    assert RunConfig.read(run) == RunConfig.read(run) == config
    assert capsys.readouterr().out.count("ignored the settings wings, which only a newer hubmap-kit knows") == 1


def test_folders_that_are_no_run(tmp_path):
    """A folder without a configuration is no finished run, and one that holds other JSON is named."""
    assert not is_finished(tmp_path)
    write_run(tmp_path, prepare=GEOMETRY, finished=False)
    assert not is_finished(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json is damaged \(it is no JSON object"):
        Run.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[]", "it is no JSON object"),
        ('{"folds": 2.5, "finished": false}', "folds is 2.5; it must be a whole number"),
        ('{"folds": 2, "finished": "yes"}', "finished is 'yes'; it must be True or False"),
        ('{"folds": 2}', "it lacks finished"),
        ('{"folds": 1e999, "finished": true}', "folds is inf; it must be a whole number"),
    ],
)
def test_folds_that_cannot_be_read(tmp_path, text, rule):
    """A folds.json that is damaged is named with what is wrong and what to do, even in a folder with a sign like %."""
    folder = tmp_path / "cv 50% s"
    folder.mkdir()
    (folder / "folds.json").write_text(text)
    with pytest.raises(ValueError, match=rule) as caught:
        FoldsConfig.read(folder)
    assert str(folder / "folds.json") in str(caught.value)
    assert "restore it from a copy" in str(caught.value)


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    if before:
        yield before
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*before, key))


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SIMPLE, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3)
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_a_config_is_read_or_named(tmp_path, data):
    """Whatever stands in a place of config.json, the run opens, or one ValueError names the file."""
    folder = write_run(tmp_path / "run")
    text = json.loads((folder / "config.json").read_text())
    *way, last = data.draw(st.sampled_from(list(places(text))))
    holder = text
    for key in way:
        holder = holder[key]
    holder[last] = data.draw(JSON)
    (folder / "config.json").write_text(json.dumps(text))
    try:
        message = ""
        Run.open(folder)
    except ValueError as error:
        message = str(error)
    assert not message or "config.json" in message
    assert "\n" not in message
