"""Tests of how well masks fit tissue, and of finding masks that are transposed, flipped, turned, moved or mixed up."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubmap_kit import rle
from hubmap_kit.images import read_image
from hubmap_kit.reports.review_fit import (
    ARRANGEMENTS,
    FARTHEST_PX,
    LEAST_IMAGES,
    RASTER_PX,
    Fit,
    Misfit,
    explained,
    explained_by_shift,
    fit,
    misfit,
    misfit_of_one,
    tissue_model,
)
from hubmap_kit.tables import read_images

# What a mistake does to a mask, by the arrangement that undoes it.
MISTAKES = {
    "transposed": lambda mask: mask.T,
    "upside-down": lambda mask: mask[::-1],
    "mirrored": lambda mask: mask[:, ::-1],
    "half-turn": lambda mask: mask[::-1, ::-1],
    "quarter-turn": lambda mask: np.rot90(mask, -1),
    "quarter-turn-back": lambda mask: np.rot90(mask),
}
shapes = st.tuples(st.integers(40, 90), st.integers(40, 90))
seeds = st.integers(0, 2**32 - 1)


def fitted(pixels, runs, **neighbours) -> Fit:
    """`fit` of a mask that can be compared."""
    one = fit(pixels, runs, **neighbours)
    assert one
    return one


def found_in(fits) -> Misfit:
    """`misfit` of masks that have a mistake."""
    found = misfit(fits)
    assert found
    return found


def tissue(shape, seed):
    """An image of smooth noise, and a mask of its dark places."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 5)
    level = 40 + 200 * (noise - noise.min()) / (noise.max() - noise.min())
    colour = np.stack([level, level * 0.7 + 30, level * 0.9], axis=-1)
    return colour.astype(np.uint8), (noise < np.percentile(noise, 20)).astype(np.uint8)


@given(shapes, seeds, st.sampled_from(sorted(MISTAKES)))
@settings(max_examples=40)
def test_each_arrangement_undoes_its_mistake(shape, seed, key):
    """A mask written with a mistake fits, once it is arranged otherwise, as well as the right mask."""
    image, mask = tissue(shape, seed)
    right = fitted(image, rle.mask_to_runs(mask))
    wrong = fitted(image, rle.mask_to_runs(MISTAKES[key](mask)))
    assert right.as_it_is > 0.2
    assert wrong.arranged[key] == pytest.approx(right.as_it_is, abs=0.02)


@given(shapes, seeds)
@settings(max_examples=40)
def test_explained_is_a_share_whatever_the_colours(shape, seed):
    """R² lies in [0, 1], is 1 for what the tissue tells exactly, and is the same for the mask's complement."""
    image, mask = tissue(shape, seed)
    model = tissue_model(image)
    share = mask.astype(float)
    value = explained(model, share)
    assert 0 <= value <= 1
    assert explained(model, 1 - share) == pytest.approx(value)
    assert explained(model, 3 * model[..., 0] + 7) == pytest.approx(1)
    assert explained(model, np.ones(model.shape[:2])) == 0


@given(shapes, seeds, st.integers(-FARTHEST_PX, FARTHEST_PX), st.integers(-FARTHEST_PX, FARTHEST_PX))
@settings(max_examples=40)
def test_a_shift_is_that_of_the_moved_mask(shape, seed, y, x):
    """The map of shifts holds R² of the mask moved by hand."""
    image, mask = tissue(shape, seed)
    model, share = tissue_model(image), mask.astype(float)
    moved = explained(model, np.roll(share, (y, x), axis=(0, 1)))
    assert explained_by_shift(model, share)[y + FARTHEST_PX, x + FARTHEST_PX] == pytest.approx(moved, abs=1e-6)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.full((60, 50, 3), 200, np.uint8), np.eye(60, 50)),
        (tissue((60, 50), 1)[0], np.zeros((60, 50))),
        (tissue((60, 50), 1)[0], np.ones((60, 50))),
        (tissue((9, 50), 1)[0], np.eye(9, 50)),
    ],
)
def test_nothing_to_compare(image, mask):
    """An image of one colour or of a few pixels, and an empty or full mask, are not compared."""
    assert fit(image, rle.mask_to_runs(mask)) is None


def test_glass():
    """The share of a mask that lies on glass is measured."""
    image, _ = tissue((100, 80), 3)
    image[:, :40] = 250
    mask = np.zeros((100, 80), np.uint8)
    mask[10:50, 30:60] = 1
    assert fitted(image, rle.mask_to_runs(mask)).glass == pytest.approx(1 / 3, abs=0.02)


@pytest.fixture(scope="module")
def truths(demo):
    """Images of the demo and their true masks, in the order of their ids."""
    images = sorted(read_images(demo, "train"), key=lambda image: image.id)
    return [(read_image(image.path), rle.decode(image.rle, image.shape)) for image in images]


def test_true_masks_are_not_suspected(truths):
    """True masks fit best as they are, all together and one by one."""
    fits = [fitted(pixels, rle.mask_to_runs(mask)) for pixels, mask in truths]
    assert misfit(fits) is None
    assert not any(map(misfit_of_one, fits))


@pytest.mark.parametrize("key", sorted(MISTAKES))
def test_mistakes_are_found(truths, key):
    """Masks that all have the same mistake are found together, and many of them alone."""
    fits = [fitted(pixels, rle.mask_to_runs(MISTAKES[key](mask))) for pixels, mask in truths]
    found = found_in(fits)
    assert found.key == key
    assert found.better >= 9
    assert found.images == 10
    assert found.arranged > found.as_it_is + 0.1
    assert found.words() == ARRANGEMENTS[key]
    alone = [one.key for one in map(misfit_of_one, fits) if one]
    assert alone.count(key) >= 4  # small images with few units: many fit two ways
    assert misfit(fits[: LEAST_IMAGES - 1]) is None


def test_a_shift_is_found(truths):
    """Masks that all lie a tenth of the side too low are found, with the way back."""
    low = [np.roll(mask, mask.shape[0] // 10, axis=0) for _, mask in truths]
    found = found_in([fitted(pixels, rle.mask_to_runs(mask)) for (pixels, _), mask in zip(truths, low, strict=True)])
    assert found.key == "shifted"
    assert found.shift == pytest.approx((-0.1, 0), abs=1.5 / RASTER_PX)
    assert found.words() == "moved 10 % of the side up"


def test_masks_of_other_rows_are_found(truths):
    """Masks that have slipped by one row are found, whichever way."""
    same_size = [(pixels, rle.mask_to_runs(mask)) for pixels, mask in truths if mask.shape == truths[0][1].shape]
    masks = [runs for _, runs in same_size]
    count = len(masks)
    later = [
        fitted(pixels, masks[n - 1], before=masks[n - 2], after=masks[n]) for n, (pixels, _) in enumerate(same_size)
    ]
    earlier = [
        fitted(pixels, masks[(n + 1) % count], before=masks[n], after=masks[(n + 2) % count])
        for n, (pixels, _) in enumerate(same_size)
    ]
    assert found_in(later).key == "row-before"
    assert found_in(earlier).key == "row-after"
