"""The rehearsal's hidden test set has all kinds of images that Kaggle's may have."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile

from hubmap_kit import rle
from hubmap_kit.competition import ORGANS, SOURCES, TEST_IMAGES, image_path
from hubmap_kit.images import read_image
from hubmap_kit.rehearsal.hidden_set import CORRUPT, FORMS, HIDDEN, HiddenImage, write_hidden
from hubmap_kit.tables import read_images, read_sample_submission

SHAPE = (293, 211)


def is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def test_every_kind_is_there():
    """All organs by both sources, the least and the largest size, odd shapes, every form, one corrupt file."""
    assert {(image.organ, image.source) for image in HIDDEN} == {(o, s) for o in ORGANS for s in SOURCES}
    shapes = {(image.organ, image.source, image.shape) for image in HIDDEN}
    assert ("prostate", "Hubmap", (160, 160)) in shapes
    assert ("largeintestine", "Hubmap", (4500, 4500)) in shapes
    assert (3000, 3000) in {shape for _, source, shape in shapes if source == "HPA"}
    assert any(is_prime(height) and is_prime(width) and height != width for _, _, (height, width) in shapes)
    assert {height > width for _, _, (height, width) in shapes if height != width} == {True, False}
    tile_um = 1024 * 0.4
    assert any(max(shape) * ORGANS[organ].pixel_size_um[source] < tile_um for organ, source, shape in shapes)
    assert {image.form for image in HIDDEN} == set(FORMS)
    assert [image.form for image in HIDDEN].count(CORRUPT) == 1
    assert sum(max(image.shape) > 2500 for image in HIDDEN) == 2, "large ones take long to draw"


def test_they_stand_for_kaggles():
    """Together they stand for all of Kaggle's images; the first, which pays for the compilation, stands for one."""
    assert sum(image.stands_for for image in HIDDEN) == TEST_IMAGES == 550
    assert HIDDEN[0].stands_for == 1, "the first image pays for the compilation"
    assert next(image.stands_for for image in HIDDEN if image.form == CORRUPT) == 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folder, truth and table of a hidden set with one small image of each form."""
    out = tmp_path_factory.mktemp("hidden")
    images = [HiddenImage("spleen", "Hubmap", SHAPE, form, 10) for form in FORMS]
    return out / "set", out / "truth.csv", write_hidden(out / "set", out / "truth.csv", 3, images)


def test_layout(drawn):
    """The folder is a competition's test part, and the truth lies outside of it."""
    folder, truth, images = drawn
    assert sorted(path.name for path in folder.iterdir()) == ["sample_submission.csv", "test.csv", "test_images"]
    test = read_images(folder, "test")
    assert [image.id for image in test] == list(images.index) == read_sample_submission(folder)
    assert {image.shape for image in test} == {SHAPE}
    assert list(images["form"]) == list(FORMS)
    assert set(images["stands_for"]) == {10}
    answers = pd.read_csv(truth).set_index("id")
    assert list(answers.index) == list(images.index)
    assert all(rle.decode(text, SHAPE).any() for text in answers["rle"])


def test_every_form_is_read(drawn):
    """The reader reads every form, except the corrupt file, which it refuses."""
    folder, _, images = drawn
    for image_id, form in images["form"].items():
        path = image_path(folder, "test", image_id)
        if form == CORRUPT:
            with pytest.raises(ValueError, match="ends at byte"):
                read_image(path)
        else:
            assert read_image(path).shape == (*SHAPE, 3), form


def test_forms_are_what_they_say(tmp_path, rng):
    """A form's file has that compression, layout, byte order and kind of samples, and holds the image's pixels."""
    image = np.repeat(np.repeat(rng.integers(0, 256, (30, 37, 3), np.uint8), 8, 0), 8, 1)
    seen = {}
    for form, write in FORMS.items():
        if form == CORRUPT:
            continue
        path = tmp_path / f"{form}.tiff"
        write(path, image)
        error = np.abs(read_image(path).astype(int) - image)
        assert error.mean() < 5 if form == "JPEG" else not error.any(), form
        with tifffile.TiffFile(path) as tif:
            page = tif.pages.first
            shape = tif.series[0].shape
            seen[form] = (
                tifffile.COMPRESSION(page.compression).name,
                page.is_tiled,
                tif.byteorder,
                tif.is_bigtiff,
                shape,
            )
    last, first = image.shape, (3, *image.shape[:2])
    assert seen == {
        "uncompressed": ("NONE", False, "<", False, last),
        "deflate": ("ADOBE_DEFLATE", False, "<", False, last),
        "deflate, tiles": ("ADOBE_DEFLATE", True, "<", False, last),
        "LZW": ("LZW", False, "<", False, last),
        "JPEG": ("JPEG", False, "<", False, last),
        "BigTIFF": ("NONE", False, "<", True, last),
        "big-endian": ("NONE", False, ">", False, last),
        "planar": ("ADOBE_DEFLATE", False, "<", False, first),
        "channels first": ("NONE", False, "<", False, (1, 1, *first)),
        "RGBA": ("ADOBE_DEFLATE", False, "<", False, (*image.shape[:2], 4)),
    }


def test_writing_needs_no_imagecodecs():
    """Every form can be written where imagecodecs is missing, as it is in Kaggle's image."""
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "import numpy as np, pathlib, tempfile\n"
        "from hubmap_kit.rehearsal.hidden_set import FORMS\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    for write in FORMS.values(): write(pathlib.Path(folder, 'x.tiff'), np.zeros((64, 72, 3), np.uint8))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_seed_decides_every_byte(drawn, tmp_path):
    """The same seed draws the same set."""
    folder, truth, _ = drawn
    images = [HiddenImage("spleen", "Hubmap", SHAPE, form, 10) for form in FORMS]
    write_hidden(tmp_path / "again", tmp_path / "truth.csv", 3, images)
    assert (tmp_path / "truth.csv").read_bytes() == truth.read_bytes()
    for path in folder.rglob("*.*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes()
