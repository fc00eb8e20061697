"""Tests of training images against test images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import an_image
from hypothesis import given
from hypothesis import strategies as st

from hubmap_kit.images.stain import DAB, EOSIN, HAEMATOXYLIN, from_optical_density
from hubmap_kit.reports.inspect_alike import nearest
from hubmap_kit.reports.inspect_flags import Seen
from hubmap_kit.reports.inspect_image import HUES_SIDE, measure_image
from hubmap_kit.reports.inspect_shift import field_um, find_shifts

SHAPE = (97, 131)


def seen(split, number, dye, rng, organ="kidney", pixel_um=0.4):
    """An image of haematoxylin and another dye, in random amounts."""
    amounts = rng.uniform(0.2, 0.6, (*SHAPE, 2))
    density = amounts @ np.array([HAEMATOXYLIN, dye])
    image = an_image(number, Path(f"{number}.tiff"), organ, pixel_um, SHAPE)
    return Seen(split, image, measure_image(from_optical_density(density), None, pixel_um))


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_the_nearest_is_the_nearest(train, test, seed):
    """Distances are in [0, 1], the least of all, and 0 for an image that is in both lists."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(HUES_SIDE**2, 0.01), train + test)
    hues = list(np.sqrt(shares).astype(np.float32).reshape(-1, HUES_SIDE, HUES_SIDE))
    found, distances = nearest([*hues[train:], hues[0]], hues[:train])
    for one, number, distance in zip(hues[train:], found, distances, strict=False):
        all_distances = [np.sqrt(((one - other) ** 2).sum() / 2) for other in hues[:train]]
        assert distance == pytest.approx(min(all_distances), abs=1e-3)
        assert all_distances[number] == pytest.approx(distance, abs=1e-3)
        assert 0 <= distance <= 1
    assert (found[-1], distances[-1]) == (0, pytest.approx(0, abs=1e-3))
    assert nearest(hues[:train], hues[:train], same=True)[0].tolist() != list(range(train))


def test_another_stain_and_coarser_pixels_are_said(rng):
    """Test images in another dye, with larger pixels, are unlike training; the sentences say both."""
    images = [seen("train", n, DAB, rng) for n in range(8)]
    images += [seen("test", 10 + n, EOSIN, rng, pixel_um=0.8) for n in range(3)]
    (shift,) = find_shifts(images)
    assert (shift.organ, shift.train, shift.test, shift.unlike) == ("kidney", 8, 3, 3)
    assert all(images[one.train].split == "train" for one in shift.near)
    assert [one.distance for one in shift.near] == sorted((one.distance for one in shift.near), reverse=True)
    assert shift.pixel_um == (0.4, 0.8)
    text = " ".join(shift.sentences)
    assert "3 of 3 test images are stained unlike" in text
    assert "A pixel is 2 times as large in test images: 0.4 µm in training, 0.8 µm in test." in text
    assert "test images are of another stain and coarser" in text


def test_the_same_stain_is_not_a_shift(rng):
    """Test images like the training images are not called unlike."""
    images = [seen("train", n, DAB, rng) for n in range(12)] + [seen("test", 20 + n, DAB, rng) for n in range(4)]
    (shift,) = find_shifts(images)
    assert shift.unlike <= 1
    assert "A pixel is as large in both: 0.4 µm." in shift.sentences
    assert shift.sentences[-1].startswith("So held-out training images should tell")


def test_an_organ_without_training_images_is_said(rng):
    """An organ of the test set alone is named, and nothing is compared."""
    images = [seen("train", 1, DAB, rng), seen("test", 2, DAB, rng, organ="lung")]
    (shift,) = find_shifts(images)
    assert (shift.organ, shift.near) == ("lung", ())
    assert shift.sentences == ("There is no training image of lung: a network will not have seen this organ.",)
    assert find_shifts(images[:1]) == []


def test_the_field_is_that_of_the_file(rng):
    """The field is the side of a square of the image's area, in µm, even if the row is wrong."""
    one = seen("train", 1, DAB, rng, pixel_um=0.5)
    assert field_um(one) == pytest.approx(0.5 * np.sqrt(97 * 131))
    wrong = replace(one, image=replace(one.image, shape=(10, 10)))
    assert field_um(wrong) == field_um(one)
