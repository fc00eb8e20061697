"""Tests of reading images as tiles."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from builders import a_member, an_image, pixelwise, smooth, write_images

from hubmap_kit.images import read_image, scaled_rows, tiff_rows
from hubmap_kit.images.scaled_rows import open_scaled
from hubmap_kit.images.scaling import resize
from hubmap_kit.images.stain import METHODS, Look, measure, measure_bands
from hubmap_kit.prediction import reading
from hubmap_kit.prediction.stream import predict_masks
from hubmap_kit.tables import Image
from hubmap_kit.tiles import pad_to_tile

PALE = Look("reinhard", (0.3, 0.02, 0.01, 0.05, 0.02, 0.02))


@pytest.fixture
def images(tmp_path, rng) -> list[Image]:
    """Images of each organ, see `write_images`."""
    return write_images(tmp_path, rng)


def test_shared_tiles_are_cut_once(images, monkeypatch):
    """An image is decoded once, for all members and copies of test-time augmentation."""
    opened = []

    def spy(*arguments):
        opened.append(arguments)
        return open_scaled(*arguments)

    monkeypatch.setattr(reading, "open_scaled", spy)
    list(predict_masks(images, [a_member(tta="flips"), a_member(predict=pixelwise, tta="d4")]))
    assert len(opened) == len(images)
    opened.clear()
    list(predict_masks(images, [a_member(um) for um in (0.3, 0.5, 0.9)]))
    assert len(opened) == len(images)


def test_tiles_without_tissue(tmp_path, rng):
    """Tiles of bare glass are background, and no network sees them; the rest of the mask stays as it is."""
    pixels = np.full((256, 384, 3), 240, np.uint8)
    pixels[:128, :128] = rng.integers(0, 256, (128, 128, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tiff", pixels, photometric="rgb")
    image, seen = an_image(1, tmp_path / "a.tiff", "lung", 0.5, (256, 384)), []

    def dark_is_foreground(batch):  # so that bare glass is background for the network too
        seen.append(len(batch))
        return 1 - smooth(batch)

    dark = a_member(predict=dark_is_foreground, overlap=0.0, batch_size=1)
    (every,) = predict_masks([image], [dark])
    assert len(seen) == 24
    (some,) = predict_masks([image], [dark], skip_background=True)
    assert len(seen) == 24 + 4
    assert some.rle == every.rle != ""


def test_tissue_is_looked_for_in_the_image_itself(tmp_path, monkeypatch):
    """Whether a tile is bare glass is decided before its colours are changed."""
    monkeypatch.setattr(reading, "transfer", lambda tile, *_: tile // 2)
    tifffile.imwrite(tmp_path / "a.tiff", np.full((97, 131, 3), 240, np.uint8), photometric="rgb")

    def sees_nothing(batch):
        pytest.fail("a network saw glass")

    network = a_member(predict=sees_nothing, looks={"lung": PALE})
    (result,) = predict_masks(
        [an_image(1, tmp_path / "a.tiff", "lung", 0.5, (97, 131))], [network], skip_background=True
    )
    assert result.rle == ""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("held", [True, False])
def test_a_look_is_measured_as_in_training(images, method, held, monkeypatch):
    """An image's own look is that of the image as stored for training: at the network's scale, mirrored up to a tile.

    It is the same for an image that is streamed because it would not fit in memory.
    """
    if not held:
        monkeypatch.setattr(scaled_rows, "HELD_WHOLE_PX", 0)
        monkeypatch.setattr(tiff_rows, "VALUES_AT_ONCE", 1)
    given = []

    def spy(tile, own, wanted):
        given.append(own)
        return tile

    monkeypatch.setattr(reading, "transfer", spy)
    wanted = {"reinhard": PALE, "macenko": Look("macenko", (1, 0, 0, 0, 1, 0, 1, 1))}[method]
    for image in images:
        network = a_member(image.pixel_size_um, looks={image.organ: wanted})
        given.clear()
        (result,) = predict_masks([image], [network])
        assert result.rle is not None
        assert set(given) == {measure(pad_to_tile(read_image(image.path), network.tile_size), method)}


def test_a_look_at_another_scale(images, monkeypatch):
    """The look is measured at each member's scale; members of one scale share the measurement."""
    measured = []

    def spy(*arguments, **options):
        measured.append(measure_bands(*arguments, **options))
        return measured[-1]

    monkeypatch.setattr(reading, "measure_bands", spy)
    looks, others = {images[0].organ: PALE}, {images[0].organ: Look("reinhard", (0.2, *PALE.values[1:]))}
    list(predict_masks(images[:1], [a_member(1.0, looks=looks), a_member(1.0, looks=others), a_member(0.5)]))
    assert measured == [measure(resize(read_image(images[0].path), (106, 154)), "reinhard")]
