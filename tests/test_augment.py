"""Tests of cutting and staining patches."""

from __future__ import annotations

import numpy as np
import pytest

from hubmap_kit.augment import GAMMA, MIXING_SIGMA, STRENGTH, augment, cut, random_coarsening, random_stain
from hubmap_kit.images import from_optical_density, optical_density


@pytest.fixture
def pixels(rng):
    """A stored image that is not square, with its mask."""
    image = rng.integers(0, 256, (53, 71, 4), np.uint8)
    image[..., 3] //= 128
    return image


def test_upright_cut_is_the_crop(pixels):
    """Without turn, flip or scale the patch is the crop, to the pixel."""
    assert np.array_equal(cut(pixels, (11, 29), 24), pixels[11:35, 29:53])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_quarter_turns_and_flips_are_exact(pixels, turns, flip):
    """A quarter turn or flip moves pixels and changes none: the patch is one of the crop's eight poses."""
    crop = pixels[11:35, 29:53]
    pose = np.rot90(crop, turns)
    expected = pose[:, ::-1] if flip else pose
    found = cut(pixels, (11, 29), 24, quarter_turns=turns, flip=flip)
    assert np.array_equal(found, expected)


def test_mask_follows_the_image(pixels):
    """Whatever the turn and scale, the mask channel is cut exactly as the image is."""
    pixels[..., :3] = pixels[..., 3:] * 255
    patch = cut(pixels, (5, 9), 32, quarter_turns=0.37, flip=True, scale=1.2)
    assert set(np.unique(patch[..., 3])) == {0, 1}
    certain = (patch[..., 0] < 120) | (patch[..., 0] > 135)
    assert np.array_equal(patch[..., 3][certain], (patch[..., 0] > 127)[certain])


def test_scale_enlarges(pixels):
    """A scale of 2 shows half of the side."""
    pixels[:] = 0
    pixels[20:30, 30:40] = 1
    assert cut(pixels, (9, 19), 32, scale=2.0)[..., 3].sum() == pytest.approx(400, rel=0.1)


def test_outside_is_mirrored(pixels):
    """A patch that leaves the image is filled with tissue, not with black."""
    pixels[..., :3] = np.maximum(pixels[..., :3], 50)
    assert cut(pixels, (-10, 60), 40)[..., :3].min() >= 50


@pytest.mark.parametrize("level", ["none", "geometry", "stain"])
def test_augmentation_is_a_function_of_its_randomness(pixels, level):
    """The same randomness gives the same patch; every level gives uint8 image and {0, 1} mask."""
    first, again, other = (augment(pixels, (7, 13), 32, level, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert first[0].shape == (32, 32, 3)
    assert first[0].dtype == first[1].dtype == np.uint8
    assert first[1].shape == (32, 32)
    assert first[1].max() <= 1
    assert np.array_equal(first[0], other[0]) == (level == "none")


def test_stain_changes_colour_not_structure():
    """Glass stays near white and darker tissue stays darker on average, while colours change."""
    image = np.full((16, 24, 3), 255, np.uint8)
    image[:, 8:16] = (190, 140, 190)
    image[:, 16:] = (90, 60, 130)
    changed = 0
    for seed in range(40):
        stained = random_stain(image, np.random.default_rng(seed))
        assert stained[:, :8].min() >= 250
        means = [stained[:, part].mean() for part in (slice(0, 8), slice(8, 16), slice(16, 24))]
        assert means[0] >= means[1] >= means[2]
        changed += np.abs(stained.astype(int) - image).max() > 20
    assert changed > 35


@pytest.mark.parametrize("shape", [(53, 71), (3, 9001), (256, 256)])
def test_stain_is_that_of_the_formulas(shape, rng):
    """Staining by bands and in place gives what the formulas of optical density give, within rounding."""
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    for seed in range(8):
        draw = np.random.default_rng(seed)
        mixing = np.eye(3) + draw.normal(0, MIXING_SIGMA, (3, 3))
        mixing *= np.exp(draw.uniform(*np.log(STRENGTH)))
        if draw.random() < 0.3:
            mixing = mixing[draw.permutation(3)]
        if draw.random() < 0.15:
            mixing = np.repeat(mixing.mean(axis=0, keepdims=True), 3, axis=0)
        density = np.maximum(optical_density(image) @ mixing.T, 0)
        if draw.random() < 0.5:
            density **= np.exp(draw.uniform(*np.log(GAMMA)))
        plain = from_optical_density(density)
        found = random_stain(image, np.random.default_rng(seed))
        assert np.abs(found.astype(int) - plain).max() <= 1
        assert (found != plain).mean() < 1e-3


def test_coarsening_loses_detail_and_keeps_the_mean(rng):
    """A coarsened image keeps its shape and mean colour and has less contrast between neighbours."""
    image = rng.integers(0, 256, (60, 84, 3), np.uint8)
    coarse = random_coarsening(image, rng)
    assert coarse.shape == image.shape
    assert np.abs(coarse.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 3
    assert np.abs(np.diff(coarse.astype(int), axis=0)).mean() < np.abs(np.diff(image.astype(int), axis=0)).mean() / 2
