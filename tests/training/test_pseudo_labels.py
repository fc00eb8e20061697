"""Tests of stores of soft masks, with networks whose probability is the value of one colour."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tifffile
from builders import write_run

from hubmap_kit import rle
from hubmap_kit.cli import main
from hubmap_kit.config import PredictConfig, PrepareConfig
from hubmap_kit.images import read_image
from hubmap_kit.images.scaling import load_image, resize
from hubmap_kit.images.stain import Look, measure, transfer
from hubmap_kit.prediction import networks
from hubmap_kit.prediction.predict import predict
from hubmap_kit.preparation.prepare import prepare
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.run import Run
from hubmap_kit.tables import DataError, read_images
from hubmap_kit.tiles import pad_to_tile
from hubmap_kit.training.pseudo_labels import pseudo_label

CONFIG = PredictConfig(overlap=0.0, batch_size=2)
LOOK = Look("reinhard", (0.5, 0.1, 0.0, 0.2, 0.1, 0.1))


@pytest.fixture(autouse=True)
def _colours_for_networks(monkeypatch):
    """A run's weights file holds the number of the colour channel that is its probability."""
    import tensorflow as tf

    from hubmap_kit.models import network as models

    def load_model(config, weights, **_):
        channel = int(weights.read_text())

        def network(batch, training):
            share = tf.clip_by_value(tf.cast(batch[..., channel], tf.float32) / 255, 1e-6, 1 - 1e-6)
            return tf.math.log(share) - tf.math.log1p(-share)

        return network

    monkeypatch.setattr(models, "load_model", load_model)


def make_run(folder, channel, config):
    return write_run(folder, str(channel).encode(), prepare=config, looks={"reinhard": {"kidney": LOOK.values}})


@pytest.fixture
def data(demo, tmp_path):
    """A copy of the demo's test part with an image that is not square, of sides that are prime."""
    folder = tmp_path / "data"
    shutil.copytree(demo / "test_images", folder / "test_images")
    table = pd.read_csv(demo / "test.csv", dtype=str)
    path = folder / "test_images" / f"{table['id'][1]}.tiff"
    tifffile.imwrite(path, read_image(path)[:97, :83].copy(), photometric="rgb")
    table.loc[1, ["img_height", "img_width"]] = ["97", "83"]
    table.to_csv(folder / "test.csv", index=False)
    return folder


@pytest.fixture
def runs(store, tmp_path):
    """One run of the store's own geometry that sees red, and one of another that sees blue."""
    other = PrepareConfig(patch_size=128, input_size=64, context="70,lung=30")
    return [make_run(tmp_path / "red", 0, PatchStore.open(store).config), make_run(tmp_path / "blue", 2, other)]


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "images").iterdir()}


def darken(data, image_id):
    """Make an image in which no network sees anything."""
    path = data / "test_images" / f"{image_id}.tiff"
    tifffile.imwrite(path, read_image(path) // 3, photometric="rgb")


def test_soft_masks_are_the_mean_of_the_networks(data, store, runs, tmp_path):
    """Each stored image is the file at the store's scale, its mask 255 times the mean of the networks' maps there."""
    like = PatchStore.open(store)
    soft, problems = pseudo_label(data, store, tmp_path / "soft", runs, CONFIG)
    assert not problems
    assert soft.info.soft
    assert soft.config == like.config
    images = read_images(data, "test")
    assert list(soft.images) == [each.id for each in images]
    for each in images:
        image, _ = load_image(each.path, each.pixel_size_um, like.config.network_um()[each.organ])
        other, _ = load_image(each.path, each.pixel_size_um, (30 if each.organ == "lung" else 70) / 64)
        blue = resize((other[..., 2] / np.float32(255)).astype(np.float32), image.shape[:2])
        pixels = soft.read(each.id)[: image.shape[0], : image.shape[1]]
        assert np.array_equal(pixels[..., :3], image)
        expected = (image[..., 0].astype(float) + 255 * blue) / 2
        assert np.abs(pixels[..., 3] - expected).max() <= 0.51
        assert soft.images[each.id].shape == image.shape[:2]


def test_scales_and_stains_of_a_prediction(data, store, runs, tmp_path):
    """A mask is also the mean over scales, of an image brought to the colours the networks were trained on."""
    config = PredictConfig(overlap=0.0, batch_size=2, scales="1,0.5", stain="reinhard")
    soft, _ = pseudo_label(data, store, tmp_path / "soft", runs[:1], config)
    for each in read_images(data, "test"):
        stored = soft.images[each.id]
        reds = []
        for factor in (1, 0.5):
            image, _ = load_image(each.path, each.pixel_size_um, stored.network_um / factor)
            own = measure(pad_to_tile(image, 64), "reinhard")
            red = transfer(image, own, LOOK)[..., 0].astype(np.float32)
            reds.append(resize(red, stored.shape))
        pixels = soft.read(each.id)[: reds[0].shape[0], : reds[0].shape[1]]
        assert np.abs(pixels[..., 3] - np.mean(reds, axis=0)).max() <= 0.51
        assert np.abs(pixels[..., 3].astype(int) - pixels[..., 0]).mean() > 5


@pytest.mark.parametrize("stain", ["none", "reinhard"])
def test_a_soft_mask_is_what_predict_thresholds(data, store, runs, tmp_path, stain):
    """At the image's own pixel size, predict's mask is the soft mask thresholded at 0.5, with --stain too."""
    table = pd.read_csv(data / "test.csv", dtype=str).assign(pixel_size="0.8")  # the network's
    table.to_csv(data / "test.csv", index=False)
    pd.DataFrame({"id": table["id"], "rle": ""}).to_csv(data / "sample_submission.csv", index=False)
    config = PredictConfig(overlap=0.25, batch_size=2, stain=stain, threshold=0.5, min_region_um2=0.0)
    soft, _ = pseudo_label(data, store, tmp_path / "soft", runs[:1], config)
    assert not predict(data, runs[:1], tmp_path / "out.csv", config)
    masks = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, index_col="id")["rle"].to_dict()
    for image in read_images(data, "test"):
        mask = rle.decode(masks[image.id], image.shape)
        probability = soft.read(image.id)[: image.shape[0], : image.shape[1], 3].astype(float)
        assert 0 < mask.mean() < 1
        assert ((mask == (probability >= 128)) | (np.abs(probability - 127.5) < 1)).all()


def test_tables_are_those_of_a_prepared_store(data, store, runs, tmp_path):
    """The tables have a prepared store's columns, all for training; a patch's share is that of at least 0.5."""
    like = PatchStore.open(store)
    soft, _ = pseudo_label(data, store, tmp_path / "soft", runs, CONFIG)
    assert soft.info == replace(like.info, data=data, soft=True, data_split="test")
    assert {(stored.split, stored.fold, stored.image.rle) for stored in soft.images.values()} == {("train", -1, "")}
    assert [stored.image for stored in soft.images.values()] == read_images(data, "test")
    assert soft.ids("train") == [image.id for image in read_images(data, "test")]
    assert set(soft.patches["id"]) == set(soft.images)
    assert 0 < soft.patches["mask_share"].mean() < 1
    for patch in soft.patches.to_dict("records"):
        y, x = patch["y"], patch["x"]
        view = soft.read(patch["id"])[y : y + 64, x : x + 64]
        assert view.shape == (64, 64, 4)
        assert patch["mask_share"] == pytest.approx((view[..., 3] / 255 >= 0.5).mean(), abs=1e-6)


def test_command(data, store, runs, tmp_path, capsys):
    """The command writes the store and says what it holds; flips, or folds in a folder, change nothing of a colour."""
    plain, flips, folds = tmp_path / "plain", tmp_path / "flips", tmp_path / "folds"
    assert main(["pseudo", str(data), str(store), str(plain), *map(str, runs)]) == 0
    out = capsys.readouterr().out
    assert "patches seen at 64 px" in out
    assert "side of a patch: kidney 51.2 um" in out
    for number, run in enumerate(runs):
        shutil.copytree(run, folds / f"fold{number}")
    assert main(["pseudo", str(data), str(store), str(flips), str(folds), "--tta", "flips"]) == 0
    for i in PatchStore.open(plain).images:
        difference = PatchStore.open(plain).read(i).astype(int) - PatchStore.open(flips).read(i)
        assert np.abs(difference).max() <= 1
    with pytest.raises(SystemExit):
        main(["pseudo", str(data), str(store), str(plain), *map(str, runs), "--threshold", "0.3"])


def test_second_run_predicts_only_what_changed(data, store, runs, tmp_path):
    """A repeated or killed command does what is missing; another run, setting or image is predicted anew."""
    out = tmp_path / "soft"
    soft, _ = pseudo_label(data, store, out, runs, CONFIG)
    before = stamps(out)
    (out / "store.json").unlink()
    ids = list(soft.images)
    (out / "images" / f"{ids[2]}.json").unlink()
    darken(data, ids[3])
    pseudo_label(data, store, out, runs, CONFIG)
    changed = {int(name.split(".")[0]) for name, stamp in stamps(out).items() if before[name] != stamp}
    assert changed == {ids[2], ids[3]}
    other = PredictConfig(overlap=0.5, batch_size=2)
    for runs_then, config, channel in ((runs[:1], CONFIG, 0), (runs[:1], other, 0), (runs[:1], other, 1)):
        (runs[0] / "model.weights.h5").write_text(str(channel))
        before = stamps(out)
        pseudo_label(data, store, out, runs_then, config)
        assert all(stamps(out)[name] != stamp for name, stamp in before.items())
    sidecar = json.loads((out / "images" / f"{ids[0]}.json").read_text())
    assert [run["name"] for run in sidecar["made_from"]["runs"]] == ["red"]


def test_bad_images_cost_only_themselves(data, store, runs, tmp_path, capsys):
    """A corrupt, a mis-sized, a bad row's and an empty image are named with their rows and left out."""
    ids = [image.id for image in read_images(data, "test")]
    (data / "test_images" / f"{ids[1]}.tiff").write_bytes(b"II*\0 broken")
    darken(data, ids[2])
    path = data / "test_images" / f"{ids[4]}.tiff"
    tifffile.imwrite(path, read_image(path)[1:].copy(), photometric="rgb")
    lines = (data / "test.csv").read_text().splitlines()
    lines[4] = lines[4].replace(lines[4].split(",")[1], "Lung")
    (data / "test.csv").write_text("\n".join([lines[0], "", *lines[1:]]) + "\n")
    out = tmp_path / "soft"
    assert main(["pseudo", str(data), str(store), str(out), *map(str, runs)]) == 1
    assert list(PatchStore.open(out).images) == [ids[0]]
    assert set(PatchStore.open(out).patches["id"]) == {ids[0]}
    err = [line for line in capsys.readouterr().err.splitlines() if "test.csv" in line]
    assert [line.split(":")[1] for line in err] == [f" test.csv, row {row}" for row in (4, 5, 6, 7)]
    assert f"{ids[1]}.tiff" in err[0]
    assert err[1].startswith("warning:")
    assert f"id {ids[2]}: no pixel reaches" in err[1]
    assert "it is left out" in err[1]
    assert "organ is 'Lung'" in err[2]


def test_an_image_that_is_left_out_is_no_error(data, store, runs, tmp_path):
    """An image without a mask is a warning and status 0; none with one is an error."""
    ids = [image.id for image in read_images(data, "test")]
    for image_id in ids[1:]:
        darken(data, image_id)
    arguments = ["pseudo", str(data), str(store), str(tmp_path / "soft"), *map(str, runs)]
    assert main(arguments) == 0
    darken(data, ids[0])
    assert main(arguments) == 1
    with pytest.raises(DataError, match="no image has a mask to train on"):
        pseudo_label(data, store, tmp_path / "soft", runs, CONFIG)


def test_images_with_true_masks_are_refused(demo, store, runs, tmp_path):
    """The training images of the store itself are refused, and so is to write over it; both leave it as it is."""
    with pytest.raises(ValueError, match="with their true masks"):
        pseudo_label(demo, store, tmp_path / "soft", runs, PredictConfig(split="train"))
    with pytest.raises(ValueError, match="would be lost"):
        pseudo_label(demo, store, store, runs, CONFIG)
    PatchStore.open(store)


def test_training_images_of_another_folder(demo, store, runs, tmp_path):
    """With --split train the training images of another competition folder are predicted, whatever their masks are."""
    other = tmp_path / "other"
    shutil.copytree(demo, other)
    soft, problems = pseudo_label(other, store, tmp_path / "soft", runs, PredictConfig(split="train"))
    assert not problems
    assert list(soft.images) == list(PatchStore.open(store).images)
    assert {stored.image.rle for stored in soft.images.values()} == {""}


def test_whole_images_are_one_tile(demo, tmp_path):
    """A run on whole images sees each of them in one tile by default, and an image larger than they in several."""
    store = prepare(demo, tmp_path / "store", PrepareConfig(input_size=96, context="whole", test_size=2))
    member = networks.load_member(Run.open(make_run(tmp_path / "run", 0, store.config)), PredictConfig())
    assert member.tile_size == 96
    for shape, tiles in ((next(iter(store.images.values())).shape, 1), ((96, 83), 1), ((97, 83), 2)):
        seen: list[np.ndarray] = []
        member.__dict__["predict"] = lambda batch, seen=seen: seen.extend(batch) or batch[..., 0] / np.float32(255)
        member.__dict__["batch_size"] = 1
        networks.probability_map(np.zeros((*shape, 3), np.uint8), member, "lung")
        assert len(seen) == tiles
