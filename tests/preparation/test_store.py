"""Tests of the patch store."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hubmap_kit.config import PrepareConfig
from hubmap_kit.files import read_json, write_json
from hubmap_kit.preparation.prepare import prepare
from hubmap_kit.preparation.store import PatchStore, StoreInfo, begin_store, write_image
from hubmap_kit.tables import Image, read_images

IMAGES_HEADER = "id,organ,data_source,img_height,img_width,pixel_size,network_um,height,width,split,fold,rle\n"
# A store.json whose place for `soft` is open.
SOUND = """{"format": 2, "kit": "0.3.0", "data": "/data", "soft": %s,
    "config": {"patch_size": 64, "input_size": 64, "context": null}}"""


def test_patches_cover_each_image_and_know_their_mask(store):
    """The grid covers every pixel, and a patch's share of mask is that of its pixels."""
    opened = PatchStore.open(store)
    for image_id in opened.images:
        pixels = opened.read(image_id)
        covered = np.zeros(pixels.shape[:2], bool)
        for patch in opened.patches[opened.patches["id"] == image_id].to_dict("records"):
            y, x = patch["y"], patch["x"]
            view = pixels[y : y + 64, x : x + 64]
            assert view.shape == (64, 64, 4)
            assert patch["mask_share"] == pytest.approx(view[..., 3].mean(), abs=1e-6)
            covered[y : y + 64, x : x + 64] = True
        assert covered.all()


def test_images_are_held_in_memory_where_they_fit(store, monkeypatch):
    """Images that fit into a share of the free memory are read once; others, or if it is unknown, from disk."""
    opened = PatchStore.open(store)
    ids = opened.ids("train")
    needed = sum(opened.read(i).nbytes for i in ids)
    for free, held in ((4 * needed, True), (4 * needed - 4, False), (None, False)):
        monkeypatch.setattr("hubmap_kit.preparation.store.free_memory", lambda free=free: free)
        read, where = opened.reader(ids)
        assert ("in memory" in where, "from disk" in where) == (held, not held)
        assert f"{len(ids)} training images" in where
        assert (read(ids[0]) is read(ids[0])) == held
        assert isinstance(read(ids[0]), np.memmap) != held
        assert all(np.array_equal(read(i), opened.read(i)) for i in ids)


def test_a_soft_mask_counts_from_one_half(tmp_path, rng):
    """Of a soft mask the share is that of a probability of at least 0.5, and of the mirrored padding too."""
    (tmp_path / "image").touch()
    (tmp_path / "images").mkdir()
    values = np.array([[0, 1, 127, 128, 255]] * 3, np.uint8).repeat(7, 0)
    image = rng.integers(0, 256, (21, 5, 3), np.uint8)
    described = Image(5, "lung", "HPA", (42, 10), 0.4, 4.0, tmp_path / "image", 2)
    written = write_image(tmp_path, "images", described, 0.8, 32, {"by": "test"}, lambda: (image, values), soft=True)
    pixels = np.load(tmp_path / "images" / "5.npy")
    assert np.array_equal(pixels[:21, :5], np.dstack([image, values]))
    ((y, x, share),) = written.patches
    assert (y, x, written.shape) == (0, 0, (21, 5))
    assert share == pytest.approx((pixels[..., 3] >= 128).mean(), abs=1e-6)


def test_kinds_of_stores_are_kept_apart(demo, store, tmp_path):
    """A store of true masks is not overwritten by soft ones, and still is a store."""
    assert not PatchStore.open(store).info.soft
    with pytest.raises(ValueError, match="a store of prepared patches, which would be lost"):
        begin_store(store, replace(PatchStore.open(store).info, soft=True))
    PatchStore.open(store)
    (tmp_path / "store.json").write_text('{"soft": true}')
    with pytest.raises(ValueError, match="a store of soft masks, which would be lost"):
        prepare(demo, tmp_path, PrepareConfig(patch_size=128, input_size=64))


def test_a_store_is_read_as_it_was_written(demo, store):
    """Every image of a store, with its numbers to the last digit, is the one of the competition's table."""
    opened = PatchStore.open(store)
    assert [stored.image for stored in opened.images.values()] == read_images(demo, "train")
    assert StoreInfo.read(store) == opened.info
    network_um = opened.config.network_um()
    assert all(stored.network_um == network_um[stored.image.organ] for stored in opened.images.values())


def test_a_store_is_returned_as_it_is_read(demo, tmp_path):
    """`prepare` returns the store without reading it again; nothing of it differs from what the files say."""
    made = prepare(demo, tmp_path, PrepareConfig(patch_size=128, input_size=64, test_size=2, val_size=2, folds=2))
    read = PatchStore.open(tmp_path)
    assert (made.folder, made.info, made.images) == (read.folder, read.info, read.images)
    pd.testing.assert_frame_equal(made.patches, read.patches)


def test_a_store_of_format_1_is_read(store, tmp_path):
    """A store of format 1, without rows, thickness and the name of its split, is read as the same store."""
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    values = read_json(tmp_path / "store.json") | {"format": 1}
    del values["data_split"]
    write_json(tmp_path / "store.json", values)
    table = pd.read_csv(tmp_path / "images.csv", dtype=str, keep_default_na=False)
    table.drop(columns=["row", "tissue_thickness"]).to_csv(tmp_path / "images.csv", index=False)
    old, new = PatchStore.open(tmp_path), PatchStore.open(store)
    assert old.images == new.images
    assert old.info == new.info


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", "is not valid JSON.*prepare it again"),
        ("[]", "is damaged .it is no JSON object.; prepare it again"),
        ('{"format": 2, "kit": "0.3.0", "data": 5, "config": {}}', "is damaged .*prepare it again"),
        (SOUND % '"yes"', "is damaged .soft is 'yes'; it must be True or False.; prepare it again"),
        ('{"format": 99}', "is of format 99, and this version reads 1 and 2; update hubmap-kit, or prepare it again"),
        ('{"format": 2, "kit": "0.3.0"}', "is damaged .*prepare it again"),
    ],
)
def test_store_files_that_cannot_be_read(tmp_path, text, rule):
    """A store.json that is damaged or of another format is named with the remedy."""
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(ValueError, match=rule):
        PatchStore.open(tmp_path)
    # Preparing again, as the error says, is possible.
    assert begin_store(tmp_path, StoreInfo(tmp_path, PrepareConfig())) == "images-next"


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("images.csv", None, "images.csv is missing"),
        ("images.csv", "", "images.csv has no column id"),
        ("images.csv", "id,organ\n1,lung\n", "images.csv, row 2: it has no data_source"),
        ("images.csv", IMAGES_HEADER + "1,lung,HPA,6", "images.csv, row 2: "),
        ("images.csv", IMAGES_HEADER + "1,lung,HPA,x,64,0.4,0.8,32,32,train,-1,\n", "images.csv, row 2: .*'x'"),
        ("patches.csv", None, "patches.csv is missing"),
        ("patches.csv", "", "patches.csv has no column id, y, x, mask_share"),
        ("patches.csv", "id,y\n1,2\n", "patches.csv has no column x, mask_share"),
    ],
)
def test_damaged_tables_of_a_store(store, tmp_path, name, text, rule):
    """A table of a store that is missing or damaged is named, with its row and the remedy."""
    folder = shutil.copytree(store, tmp_path / "store")
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{rule}.*prepare it again") as caught:
        PatchStore.open(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"x" * 200])
def test_damaged_image_of_a_store(store, tmp_path, content):
    """An image of a store that is missing or damaged is named with the remedy."""
    folder = shutil.copytree(store, tmp_path / "store")
    opened = PatchStore.open(folder)
    ids = opened.ids("train")
    path = folder / "images" / f"{ids[0]}.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="prepare it again") as caught:
        opened.reader(ids)[0](ids[0])
    assert str(path) in str(caught.value)


def test_a_fold_that_a_store_does_not_have(store):
    """A fold that the store does not have is refused with a number of folds that can be prepared."""
    with pytest.raises(ValueError, match="has no fold 0; prepare it with --folds 2 or more"):
        PatchStore.open(store).ids("train", 0)
