"""Tests of the pictures of a page."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from builders import an_image

from hubmap_kit import rle
from hubmap_kit.reports.pictures import CROP_PX, QUALITIES, THUMB_PX, Subject, draw


def write_image(folder, number, shape, rng):
    """An image of noise on a slope, so that each place of it is recognised, and its record."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([y * 255 // shape[0], x * 255 // shape[1], rng.integers(0, 9, shape)], axis=-1).astype(np.uint8)
    path = folder / f"{number}.tiff"
    tifffile.imwrite(path, pixels, photometric="rgb")
    return an_image(number, path, "kidney", 0.5, shape), pixels


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def test_pictures_show_the_image(tmp_path, rng):
    """The thumbnail is the whole image, and the native part shows the pixels of its place, whatever the shape."""
    for number, shape in enumerate([(1021, 1511), (97, 31), (1, 1), (601, 503)]):
        image, pixels = write_image(tmp_path, number, shape, rng)
        (drawn,) = draw([Subject(image)], tmp_path / f"pictures{number}")
        assert (drawn.error, drawn.shape) == ("", shape)
        thumb = read(drawn.picture("thumb", QUALITIES[0]))
        assert max(thumb.shape[:2]) == min(THUMB_PX, max(shape))
        assert abs(thumb.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 6
        assert drawn.crop
        y, x, height, width = drawn.crop
        assert (height, width) == (min(CROP_PX, shape[0]), min(CROP_PX, shape[1]))
        part = read(drawn.picture("crop", QUALITIES[0]))
        assert part.shape == (height, width, 3)
        assert abs(part.astype(int) - pixels[y : y + height, x : x + width]).mean() < 6
        for (kind, quality), size in drawn.sizes.items():
            assert drawn.picture(kind, quality).stat().st_size == size


def test_the_native_part_shows_the_largest_difference(tmp_path, rng):
    """The part in native pixels is where the two masks differ most, also in a corner; else where the first mask is."""
    image, _ = write_image(tmp_path, 0, (1511, 1021), rng)
    truth, prediction = np.zeros((2, *image.shape), np.uint8)
    truth[100:400, 100:400] = prediction[100:400, 100:400] = 1
    truth[1400:, 950:] = 1
    masks = {"truth": rle.encode(truth), "prediction": rle.encode(prediction)}
    both, same = draw(
        [
            Subject(image, masks, compare=("truth", "prediction")),
            Subject(image, {"truth": masks["prediction"], "prediction": masks["prediction"]}),
        ],
        tmp_path / "pictures",
    )
    assert both.crop
    assert same.crop
    y, x, height, width = both.crop
    assert (y + height, x + width) == image.shape
    y, x, height, width = same.crop
    assert y <= 100 <= 400 <= y + height
    assert x <= 100 <= 400 <= x + width


def test_an_image_that_cannot_be_drawn_is_named(tmp_path, rng):
    """A file that is missing or of another size, a bad mask and a missing map each say so, and stop no other image."""
    image, _ = write_image(tmp_path, 0, (211, 307), rng)
    missing = replace(image, path=tmp_path / "missing.tiff")
    larger = replace(image, shape=(212, 307))
    subjects = [
        Subject(missing),
        Subject(larger, {"truth": "1 5"}),
        Subject(image, {"truth": "1 5 3 9"}, {"truth": tmp_path / "nowhere.png"}),
        Subject(image, {"truth": "1 5"}),
    ]
    gone, other, bad, good = draw(subjects, tmp_path / "pictures", measure=lambda pixels, subject: pixels.shape)
    assert "missing.tiff" in gone.error
    assert gone.crop is None
    assert gone.measured is None
    assert "211 x 307" in other.error
    assert "212 x 307" in other.error
    assert other.measured == (211, 307, 3)
    assert not other.outlines()
    assert "truth cannot be drawn" in bad.error
    assert "nowhere.png" in bad.error
    assert good.error == ""
    assert good.outlines()["truth"]["fine"].startswith("M0 0")


def test_outlines_of_noise_stay_short(tmp_path, rng):
    """A mask of single pixels, as a bad network makes, does not take megabytes."""
    image, _ = write_image(tmp_path, 0, (911, 607), rng)
    (drawn,) = draw([Subject(image, {"truth": rle.encode(rng.random(image.shape) < 0.5)})], tmp_path / "pictures")
    assert len(drawn.outlines()["truth"]["fine"]) <= 200_000


def test_maps_are_kept_small(tmp_path, rng):
    """A probability map keeps its values, shrunk to a size for the viewer."""
    image, _ = write_image(tmp_path, 0, (211, 307), rng)
    probability = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (480, 1))
    cv2.imwrite(str(tmp_path / "map.png"), probability)
    (drawn,) = draw([Subject(image, maps={"run": tmp_path / "map.png"})], tmp_path / "pictures")
    assert drawn.maps == ("run",)
    small = cv2.imread(str(drawn.map("run")), cv2.IMREAD_GRAYSCALE)
    assert small is not None
    assert small.shape == (240, 320)
    assert abs(small.mean(axis=0) - np.linspace(0, 255, 320)).max() < 8


def test_a_fault_of_measuring_is_raised(tmp_path, rng):
    """What `measure` raises is no fault of an image."""

    def measure(pixels, subject):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        draw([Subject(write_image(tmp_path, 0, (11, 7), rng)[0])], tmp_path / "pictures", measure=measure)
