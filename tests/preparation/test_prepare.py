"""Tests of preparation."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from conftest import corner_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from hubmap_kit import rle
from hubmap_kit.competition import ORGANS
from hubmap_kit.config import PrepareConfig, organ_values
from hubmap_kit.images import read_image
from hubmap_kit.images.scaling import resize, resize_mask, scaled_shape
from hubmap_kit.preparation.prepare import gaps, prepare, small_mask, summary, whole_patch_size
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.tables import DataError, Image, few_images, read_images
from hubmap_kit.tiles import grid

SMALL = PrepareConfig(patch_size=128, input_size=64, test_size=2, val_size=2)


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}


def test_store_holds_image_and_mask_at_the_networks_scale(demo, store):
    """Each stored image is the file brought to the network's pixel size, its mask the RLE's."""
    opened = PatchStore.open(store)
    images = read_images(demo, "train")
    assert [stored.image for stored in opened.images.values()] == images
    for image in images:
        small = (round(image.shape[0] * 0.4 / 0.8), round(image.shape[1] * 0.4 / 0.8))
        assert opened.images[image.id].shape == small
        pixels = opened.read(image.id)[: small[0], : small[1]]
        assert np.array_equal(pixels[..., :3], resize(read_image(image.path), small))
        assert np.array_equal(pixels[..., 3], resize_mask(rle.decode(image.rle, image.shape), small))


def test_default_geometry_is_the_starting_designs():
    """By default 1024 px patches at 0.4 um are seen at 256 px, so at 1.6 um."""
    config = PrepareConfig()
    assert (config.patch_size, config.input_size) == (1024, 256)
    assert config.network_um() == pytest.approx(dict.fromkeys(config.network_um(), 1.6))


def test_the_context_sets_the_scale(demo, tmp_path):
    """The network sees the context of each organ at once; an organ without one keeps its patch size."""
    config = PrepareConfig(patch_size=128, input_size=64, context="kidney=40,lung=100", test_size=2)
    opened = prepare(demo, tmp_path, config)
    side = {stored.image.organ: stored.network_um * 64 for stored in opened.images.values()}
    assert side == pytest.approx(dict.fromkeys(ORGANS, 51.2) | {"kidney": 40, "lung": 100})
    for stored in opened.images.values():
        assert stored.shape[0] == round(stored.image.shape[0] * 0.4 / stored.network_um)
    text = summary(opened).splitlines()[-1]
    assert "kidney 40 um" in text
    assert "lung 100 um" in text
    assert "spleen 51.2 um" in text
    some = replace(opened, images={i: each for i, each in opened.images.items() if each.image.organ == "lung"})
    assert summary(some).splitlines()[-1] == "side of a patch: lung 100 um"


def an_image(organ, shape, pixel_size_um):
    return Image(1, organ, "HPA", shape, pixel_size_um, 4.0, Path("train_images/1.tiff"), 2)


SIDES = st.integers(32, 4500)
UM = st.floats(0.1, 8.0)


@given(
    st.lists(st.tuples(st.sampled_from(list(ORGANS)), SIDES, SIDES, UM), min_size=1, max_size=6),
    st.sampled_from([32, 256, 928]),
)
def test_whole_images_fit(images, input_size):
    """With the patch size of whole images no image exceeds the input, and the largest one fills it to rounding."""
    side = whole_patch_size([an_image(organ, (h, w), um) for organ, h, w, um in images])
    um = PrepareConfig(patch_size=side, input_size=input_size).network_um()
    largest = max(max(scaled_shape((row[1], row[2]), row[3], um[row[0]])) for row in images)
    assert largest <= input_size
    assert largest >= input_size * (side - 1) / side - 0.5 or side == 32


def test_whole_images_at_the_working_pixel_size():
    """An image at the working pixel size is a patch of its own longest side, whatever the last digit of a quotient."""
    for side in (3000, 2317, 3001):
        for um in (0.4, 0.8, 0.1):
            assert whole_patch_size([an_image("lung", (side, 1308), um)]) == math.ceil(side * Fraction(str(um)) * 5 / 2)
    assert whole_patch_size([an_image("lung", (13, 7), 0.4)]) == 32


@pytest.fixture
def oblong(demo, tmp_path):
    """A copy of the demo whose first two training images are not square, and of other pixel sizes."""
    data = tmp_path / "oblong"
    shutil.copytree(demo, data)
    table = pd.read_csv(data / "train.csv", dtype=str)
    for row, (shape, um) in enumerate([((127, 211), "0.8"), ((241, 97), "0.4")]):
        path = data / "train_images" / f"{table['id'][row]}.tiff"
        tifffile.imwrite(path, read_image(path)[: shape[0], : shape[1]].copy(), photometric="rgb")
        table.loc[row, ["img_height", "img_width", "pixel_size"]] = [str(shape[0]), str(shape[1]), um]
        table.loc[row, "rle"] = rle.encode(corner_mask(shape, np.random.default_rng(row)))
    table.to_csv(data / "train.csv", index=False)
    return data


def test_whole_images_are_one_patch_each(oblong, tmp_path):
    """Taken whole each image is one patch, and at prediction one tile; the store has the computed patch size."""
    opened = prepare(oblong, tmp_path / "store", PrepareConfig(input_size=96, context="whole", test_size=2))
    assert opened.config.patch_size == 422  # 211 px of 0.8 um, in pixels of 0.4 um
    assert opened.config == PatchStore.open(tmp_path / "store").config
    assert list(opened.patches["id"]) == list(opened.images)
    assert not opened.patches[["y", "x"]].any(axis=None)
    assert max(max(stored.shape) for stored in opened.images.values()) == 96
    for image_id, stored in opened.images.items():
        image = stored.image
        assert opened.read(image_id).shape == (96, 96, 4)
        assert stored.shape == scaled_shape(image.shape, image.pixel_size_um, opened.config.network_um()[image.organ])
        assert len(grid(stored.shape, 96, 0.25)) == 1
    assert f"{image.organ} 168.8 um" in summary(opened)


def test_second_run_redoes_nothing(demo, tmp_path):
    """A second run writes no image again; another split does not either; another geometry does."""
    prepare(demo, tmp_path, SMALL)
    before = stamps(tmp_path)
    again = prepare(demo, tmp_path, SMALL)
    assert stamps(tmp_path) == before
    other = prepare(demo, tmp_path, PrepareConfig(patch_size=128, input_size=64, test_size=1, val_size=3, seed=5))
    assert stamps(tmp_path) == before
    assert other.ids("test") != again.ids("test")
    prepare(demo, tmp_path, PrepareConfig(patch_size=64, input_size=64, test_size=2, val_size=2))
    assert all(stamps(tmp_path)[name] != stamp for name, stamp in before.items())


def test_interrupted_run_goes_on(demo, tmp_path):
    """After a killed preparation, a cut file and a file without its JSON are made again, and nothing else."""
    prepare(demo, tmp_path, SMALL)
    arrays = sorted((tmp_path / "images").glob("*.npy"))
    arrays[0].write_bytes(arrays[0].read_bytes()[:100])
    arrays[1].with_suffix(".json").unlink()
    arrays[2].with_suffix(".json").write_text("{")
    (tmp_path / "store.json").unlink()
    with pytest.raises(ValueError, match="not a finished patch store"):
        PatchStore.open(tmp_path)
    before = stamps(tmp_path)
    opened = prepare(demo, tmp_path, SMALL)
    changed = {name for name, stamp in stamps(tmp_path).items() if before.get(name) != stamp}
    assert changed == {f"{path.stem}{suffix}" for path in arrays[:3] for suffix in (".npy", ".json")}
    assert all(opened.read(i).shape[2] == 4 for i in opened.images)


def test_a_changed_mask_is_prepared_again(demo, tmp_path):
    """An image whose mask was corrected in train.csv is the only one made again."""
    data = tmp_path / "data"
    shutil.copytree(demo, data)
    prepare(data, tmp_path / "store", SMALL)
    before = stamps(tmp_path / "store")
    table = pd.read_csv(data / "train.csv", dtype=str)
    table.loc[0, "rle"] = "1 1000"
    table.to_csv(data / "train.csv", index=False)
    prepare(data, tmp_path / "store", SMALL)
    changed = {name.split(".")[0] for name, stamp in stamps(tmp_path / "store").items() if before[name] != stamp}
    assert changed == {table.loc[0, "id"]}


def test_all_unreadable_images_are_named(demo, tmp_path):
    """Images that cannot be read, or are of another size than the table says, are listed together with their rows."""
    data = tmp_path / "data"
    shutil.copytree(demo, data)
    table = pd.read_csv(data / "train.csv", dtype=str)
    (data / "train_images" / f"{table['id'][1]}.tiff").write_bytes(b"II*\0 broken")
    table.loc[3, "img_width"] = "255"
    table.loc[3, "rle"] = "1 1"
    table.to_csv(data / "train.csv", index=False)
    with pytest.raises(DataError) as caught:
        prepare(data, tmp_path / "store", SMALL)
    assert [problem.row for problem in caught.value.problems] == [3, 5]
    assert f"{table['id'][1]}.tiff" in caught.value.problems[0].rule
    assert "256 x 256" in caught.value.problems[1].rule


def test_rows_of_unreadable_images_count_blank_lines(demo, tmp_path):
    """The row named for an image that cannot be read is its line of train.csv, blank lines above it included."""
    data = tmp_path / "data"
    shutil.copytree(demo, data)
    lines = (data / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join([lines[0], "", *lines[1:3], "", *lines[3:]]) + "\n")
    for row in (1, 3):
        (data / "train_images" / f"{lines[row].split(',')[0]}.tiff").write_bytes(b"II*\0 broken")
    with pytest.raises(DataError) as caught:
        prepare(data, tmp_path / "store", SMALL)
    assert [problem.row for problem in caught.value.problems] == [3, 6]


@pytest.mark.parametrize("config", [SMALL, PrepareConfig(patch_size=64, input_size=64, test_size=2, val_size=2)])
def test_a_preparation_that_fails_leaves_the_store_as_it_was(demo, tmp_path, config, capsys):
    """A store stays usable, to the byte, if it is prepared again and an image has become unreadable since."""
    data, out = shutil.copytree(demo, tmp_path / "data"), tmp_path / "store"
    opened = prepare(data, out, SMALL)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    image = next(iter(opened.images.values())).image
    sound = image.path.read_bytes()
    image.path.write_bytes(b"II*\0 broken")
    with pytest.raises(DataError):
        prepare(data, out, config)
    assert before == {path: path.read_bytes() for path in before}
    assert list(PatchStore.open(out).images) == list(opened.images)
    image.path.write_bytes(sound)
    made = {path: path.stat().st_mtime_ns for path in (out / "images-next").glob("*.npy")}
    capsys.readouterr()
    again = prepare(data, out, config)
    assert [path.name for path in out.iterdir() if path.name.startswith("images-")] == []
    assert {path.name: time for path, time in made.items()}.items() <= {
        path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()
    }.items()
    assert ("--patch-size 128, now 64" in capsys.readouterr().out) == (config != SMALL)
    fresh = prepare(data, tmp_path / "fresh", config)
    assert all(np.array_equal(fresh.read(i), again.read(i)) for i in fresh.images)


@pytest.mark.parametrize("kills_after", range(0, 24, 3))
def test_a_preparation_killed_while_it_replaces_a_store_goes_on(demo, tmp_path, monkeypatch, kills_after):
    """Wherever it is killed, the next preparation gives the store of an undisturbed one, never a mixture."""
    prepare(demo, tmp_path / "store", SMALL)
    rename, left = os.replace, kills_after
    other = PrepareConfig(patch_size=120, input_size=64, test_size=2, val_size=2)  # files of the same size

    def counted(old, new):
        nonlocal left
        if Path(old).parent.name == "images-next" and (left := left - 1) < 0:
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(os, "replace", counted)
    with contextlib.suppress(KeyboardInterrupt):
        prepare(demo, tmp_path / "store", other)
    monkeypatch.setattr(os, "replace", rename)
    for config in (SMALL, other):
        again, fresh = prepare(demo, tmp_path / "store", config), prepare(demo, tmp_path / "fresh", config)
        assert all(np.array_equal(fresh.read(i), again.read(i)) for i in fresh.images)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_is_no_fault_of_an_image(demo, tmp_path):
    """A limit of the size of files, or a full disk, is one line with the path; no image is blamed for it."""
    program = (
        "import resource, sys; from hubmap_kit.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); sys.exit(main(sys.argv[1:]))"
    )
    command = ["prepare", demo, tmp_path / "store", "--patch-size", "128", "--input-size", "64"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "store/images/" in said
    assert "file too large; allow larger files" in said


def test_a_store_of_other_data_is_kept(demo, tmp_path, capsys):
    """A store is replaced by one of other data only with ``--overwrite``, which says what is replaced."""
    data = shutil.copytree(demo, tmp_path / "data")
    before = prepare(demo, tmp_path / "store", SMALL)
    with pytest.raises(ValueError, match=f"store of the train images of {demo}; .*--overwrite"):
        prepare(data, tmp_path / "store", SMALL)
    assert PatchStore.open(tmp_path / "store").info == before.info
    assert prepare(data, tmp_path / "store", SMALL, overwrite=True).info.data == data
    assert f"replaces a store of the train images of {demo}" in capsys.readouterr().out


def test_a_folder_of_something_else_is_no_store(demo, tmp_path):
    """Nothing is prepared into a folder with other files, such as a run or data."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds other files \(config.json\); name an empty or new folder"):
        prepare(demo, tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.fixture(scope="module")
def grouped(demo, tmp_path_factory):
    """Prepares the demo with a group for each image and a seed."""
    folder = tmp_path_factory.mktemp("grouped")
    ids = [image.id for image in read_images(demo, "train")]

    def prepared(groups, seed):
        path = folder / "groups.csv"
        path.write_text("id,group\n" + "".join(f"{i},{group}\n" for i, group in zip(ids, groups, strict=True)))
        config = PrepareConfig(
            patch_size=128, input_size=64, test_size=4, val_size=2, folds=2, groups=str(path), seed=seed
        )
        return prepare(demo, folder / "store", config)

    return prepared


@given(st.permutations([0, 0, 0, 1, 1, 1, 2, 2, 3, 4]), st.integers(0, 1000))
@settings(max_examples=25)
def test_groups_are_never_split_between_test_and_folds(grouped, groups, seed):
    """With groups and folds a group is in one split and one fold, and the test split is in no fold."""
    opened = grouped(groups, seed)
    places: dict[int, set[tuple[str, int]]] = {}
    for group, stored in zip(groups, opened.images.values(), strict=True):
        places.setdefault(group, set()).add((stored.split, stored.fold))
        assert (stored.fold == -1) == (stored.split == "test")
    assert all(len(of_group) == 1 for of_group in places.values())


def test_folds_and_groups(demo, tmp_path):
    """Folds part the images outside the test split; a fold's training and validation images do not meet."""
    groups = tmp_path / "groups.csv"
    ids = [image.id for image in read_images(demo, "train")]
    groups.write_text("id,group\n" + "".join(f"{i},{n // 2}\n" for n, i in enumerate(ids)))
    opened = prepare(
        demo, tmp_path / "store", PrepareConfig(patch_size=128, input_size=64, test_size=0, folds=2, groups=str(groups))
    )
    train, validation = opened.ids("train", 1), opened.ids("validation", 1)
    assert set(train) | set(validation) == set(ids)
    assert not set(train) & set(validation)
    pairs = [set(ids[n : n + 2]) for n in range(0, len(ids), 2)]
    assert all(pair <= set(train) or pair <= set(validation) for pair in pairs)
    with pytest.raises(ValueError, match="no fold 2"):
        opened.ids("train", 2)


@pytest.mark.parametrize("factor", [(1, 1), (4, 4), (2, 3), (5, 1), (6, 6), (20, 14)])
def test_the_fast_mask_is_the_plain_one_at_whole_factors(factor, rng):
    """A mask reduced to a whole fraction of its size in uint8 equals the one made by resize_mask, halves included."""
    small = (13, 17)
    shape = (small[0] * factor[0], small[1] * factor[1])
    halves = np.zeros(shape, np.uint8)
    for share, block in enumerate(np.ndindex(small)):
        view = halves[block[0] * factor[0] :, block[1] * factor[1] :][: factor[0], : factor[1]]
        count = min(view.size, max(0, view.size // 2 + share % 5 - 2))
        view.flat[rng.permutation(view.size)[:count]] = 1
    for mask in (halves, corner_mask(shape, rng)):
        text = rle.encode(mask)
        found = small_mask(text, shape, small)
        assert found.dtype == np.uint8
        assert np.array_equal(found, resize_mask(rle.decode(text, shape), small))


@pytest.mark.parametrize("small", [(13, 17), (52, 68), (31, 29), (53, 68), (97, 101), (1, 1)])
def test_the_fast_mask_is_the_plain_one_at_any_factor(small, rng):
    """A mask brought to any size, larger too, equals the one made by resize_mask."""
    shape = (53, 71)
    for mask in (corner_mask(shape, rng), np.zeros(shape), np.ones(shape)):
        text = rle.encode(mask)
        assert np.array_equal(small_mask(text, shape, small), resize_mask(rle.decode(text, shape), small))


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ({"patch_size": 0}, "patch_size is 0"),
        ({"input_size": 100}, "multiple of 32"),
        ({"folds": 1}, "folds is 1"),
        ({"context": "0"}, "context is wrong.* above 0"),
        ({"context": "liver=0"}, "context is wrong.*liver.* above 0"),
        ({"context": "x"}, "'x' is not a number"),
        ({"test_size": -1}, "at least 0"),
    ],
)
def test_settings_out_of_bounds(setting, rule):
    """A setting out of bounds is named with its rule."""
    with pytest.raises(ValueError, match=rule):
        PrepareConfig(**setting)


def test_context_of_an_organ_without_images(demo, tmp_path):
    """A context that names an organ of which there are no images, such as a misspelled one, is an error."""
    with pytest.raises(
        ValueError, match=r"the context names kidny, and no training image of .*; its organs are .*kidney"
    ):
        prepare(demo, tmp_path / "store", PrepareConfig(context="kidny=200"))
    assert not (tmp_path / "store").exists()


def test_values_by_organ():
    """A number, organ=number and both together give one number for each organ."""
    assert set(organ_values("0.5", 1).values()) == {0.5}
    assert organ_values("prostate=1.6", 0.4) == organ_values(0.4, 1) | {"prostate": 1.6}
    assert organ_values("0.4,lung=2", 9) == organ_values(0.4, 1) | {"lung": 2}
    assert organ_values("0.4,liver=2", 9) == organ_values(0.4, 1) | {"liver": 2}
    assert [organ_values(text, 9)["skin"] for text in ("0.4,liver=2", "liver=2")] == [0.4, 9]
    assert organ_values("lung=2", organ_values("3,liver=4", 1)) == organ_values("3,liver=4,lung=2", 1)


def test_organs_and_sources_with_few_images_are_named(demo, tmp_path):
    """A line counts the images of each organ and source that has fewer than ten to train on, none included."""
    opened = prepare(demo, tmp_path, PrepareConfig(patch_size=128, input_size=64, test_size=2, val_size=2))
    train = [i for i, stored in opened.images.items() if stored.split == "train"]
    few = few_images(opened.counts(train))
    assert few in summary(opened).splitlines()
    assert "kidney 0" in few
    (i,) = [i for i in train if opened.images[i].image.organ == "lung"][:1]
    many = few_images(opened.counts([i] * 10))
    assert "lung" not in many
    assert opened.images[i].image.source not in many
    assert "fewer than 10 images to train on: " in many


def test_organs_without_a_training_image_are_named(demo, tmp_path):
    """A network that never sees an organ fails on it; whoever prepares so is warned, and nobody else."""
    few = prepare(demo, tmp_path / "few", PrepareConfig(patch_size=128, input_size=64, test_size=2, val_size=2))
    (problem,) = gaps(few)
    assert problem.severity == "warning"
    assert "no image of organ kidney, largeintestine is left to train on" in problem.rule
    assert gaps(prepare(demo, tmp_path / "all", PrepareConfig(patch_size=128, input_size=64, test_size=0))) == []
