"""Tests of changing stain, and of measuring and giving looks."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubmap_kit.images import stain
from hubmap_kit.images.stain import (
    DAB,
    EOSIN,
    HAEMATOXYLIN,
    METHODS,
    Look,
    average,
    from_optical_density,
    measure,
    measure_bands,
    optical_density,
    restain,
    transfer,
)
from hubmap_kit.tiles import pad_to_tile


def unit(vector):
    return np.array(vector) / np.linalg.norm(vector)


def section(first=HAEMATOXYLIN, second=EOSIN, strength=(0.6, 0.5), shape=(151, 263), seed=0):
    """A stained section with a strip of glass; each pixel takes up the two dyes in its own proportion."""
    draw = np.random.default_rng(seed)
    # Most pixels are mixtures and some almost pure, as the method of Macenko et al. assumes.
    share = draw.beta(0.5, 0.5, (*shape, 1))
    amount = draw.uniform(0.3, 1, (*shape, 1))
    density = amount * (share * strength[0] * unit(first) + (1 - share) * strength[1] * unit(second))
    image = from_optical_density(density)
    image[:, :37] = 244
    return image


def spread(image, look):
    """The largest difference between the values of a look and those measured in an image."""
    return np.abs(np.subtract(measure(image, look.method).values, look.values)).max()


@pytest.mark.parametrize("method", METHODS)
def test_own_look_changes_nothing(method):
    """An image that is given its own look stays as it is, to 1 of 255."""
    image = section()
    image[:, 40:60] = np.random.default_rng(1).integers(0, 256, (151, 20, 3))  # and no mixtures of two dyes
    look = measure(image, method)
    assert np.abs(transfer(image, look, look).astype(int) - image).max() <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("second", [EOSIN, DAB])
def test_a_look_given_is_the_look_measured(method, second):
    """An image that was given a look has it: its values are measured again, within 0.02."""
    image, other = section(), section(second=second, strength=(0.9, 0.4), seed=1)
    look = measure(other, method)
    assert spread(image, look) > 0.08
    assert spread(transfer(image, measure(image, method), look), look) < 0.02


@pytest.mark.parametrize("method", METHODS)
def test_a_tile_is_changed_as_its_image(method):
    """Each pixel is changed for itself, so a tile given a look is that tile of the image given it."""
    image = section()
    source, target = measure(image, method), measure(section(second=DAB, seed=1), method)
    whole = transfer(image, source, target)
    tile = transfer(image[31:102, 47:200], source, target)
    assert np.array_equal(tile, whole[31:102, 47:200])


@pytest.mark.parametrize("method", METHODS)
def test_glass_stays(method):
    """Glass, white or a little grey, keeps its colour, whatever look the tissue is given."""
    image = section()
    image[:, :19] = 255
    dark = measure(section(second=DAB, strength=(1.4, 1.1), seed=1), method)
    changed = transfer(image, measure(image, method), dark).astype(int)
    assert np.abs(changed[:, :37] - image[:, :37]).max() <= 1
    assert np.abs(changed[:, 37:] - image[:, 37:]).mean() > 20


@pytest.mark.parametrize("method", METHODS)
def test_glass_and_black_are_not_measured(method):
    """More glass, or a black margin, does not change the look."""
    tissue = section(shape=(128, 256))[:, 37:]
    wide = np.full((128, 400, 3), 240, np.uint8)
    wide[:, :219] = tissue
    wide[:, 300:] = 0
    assert np.array_equal(measure(wide, method).values, measure(tissue, method).values)


@pytest.mark.parametrize("second", [EOSIN, DAB])
@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, -1), (-1, 1, -1)])
def test_macenko_finds_the_dyes(second, signs, monkeypatch):
    """Of two dyes the method finds both and their amounts, haematoxylin first, whatever signs eigenvectors have."""
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (eigh(matrix)[0], eigh(matrix)[1] * signs))
    values = np.array(measure(section(second=second, strength=(0.9, 0.6), seed=3), "macenko").values)
    assert unit(HAEMATOXYLIN) @ values[:3] > 0.995
    assert unit(second) @ values[3:6] > 0.995
    assert values[6:] == pytest.approx((0.9, 0.6), rel=0.12)


def test_reinhard_is_mean_and_deviation():
    """The values are means and standard deviations, over tissue, of density along the three axes."""
    image = section(shape=(61, 97))
    density = optical_density(image[:, 37:]).reshape(-1, 3).astype(float)
    density = density[density.mean(axis=1) >= stain.TISSUE[0]]
    light = density.sum(axis=1) / 3**0.5
    yellow = (density[:, 0] + density[:, 1] - 2 * density[:, 2]) / 6**0.5
    red = (density[:, 0] - density[:, 1]) / 2**0.5
    expected = [f(axis) for f in (np.mean, np.std) for axis in (light, yellow, red)]
    assert measure(image, "reinhard").values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_large_image_is_sampled(method, monkeypatch):
    """A sample of a large image has nearly the look of all of it, and is no larger than promised."""
    sizes: list[int] = []

    def spy(part: np.ndarray) -> np.ndarray:
        sizes.append(part.size // 3)
        return optical_density(part)

    monkeypatch.setattr(stain, "optical_density", spy)
    large, small = section(shape=(523, 1021)), section(shape=(211, 307), seed=5)
    assert spread(large, measure(small, method)) < 0.02
    assert all(stain.SAMPLE / 4 < size <= stain.SAMPLE for size in sizes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colour", [255, 0, 236])
def test_no_tissue_is_no_look(method, colour):
    """An image of only glass or black has no look; none is transferred to it or from it."""
    empty, image = np.full((53, 71, 3), colour, np.uint8), section()
    none, look = measure(empty, method), measure(image, method)
    assert none == Look(method, ())
    assert np.array_equal(transfer(empty, none, look), empty)
    assert np.array_equal(transfer(image, look, none), image)
    assert measure(image[:13, 37:50], method) == none, "169 pixels are too few"


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), method=st.sampled_from(METHODS), back=st.booleans())
def test_one_colour_has_a_usable_look(colour, method, back):
    """An image of one colour has a finite look, which can be source or target; its own look changes nothing."""
    flat, image = np.full((17, 19, 3), colour, np.uint8), section(shape=(31, 83))
    looks = measure(flat, method), measure(image, method)
    assert np.abs(transfer(flat, looks[0], looks[0]).astype(int) - flat).max() <= 1
    source, target = looks[::-1] if back else looks
    changed = transfer(image if back else flat, source, target)
    assert changed.dtype == np.uint8
    assert changed.shape == (image if back else flat).shape


@pytest.mark.parametrize("method", METHODS)
def test_noise_is_not_blown_up(method):
    """Spreads and amounts grow threefold at most, so an almost even image does not turn into noise."""
    draw = np.random.default_rng(0)
    even = np.clip(np.array([190, 150, 200]) + draw.normal(0, 1, (97, 61, 3)), 0, 255).astype(np.uint8)
    target = measure(section(strength=(1.5, 1.5)), method)
    changed = transfer(even, measure(even, method), target)
    assert optical_density(changed).std(axis=(0, 1)).max() < 3.5 * 3 * optical_density(even).std(axis=(0, 1)).max()


@pytest.mark.parametrize("method", METHODS)
def test_average_is_amid_and_outvotes(method):
    """The average of several looks is near each of them, odd ones and those without values do not count."""
    looks = [measure(section(seed=s), method) for s in range(3)]
    odd = measure(section(second=DAB, strength=(2, 2), seed=9), method)
    middle = average([*looks, odd, Look(method, ()), looks[0]])
    assert np.abs(np.subtract(middle.values, looks[1].values)).max() < 0.03
    assert average(looks[:1]).values == pytest.approx(looks[0].values)
    assert average([Look(method, ())]) == Look(method, ())


def test_average_stains_have_length_one():
    """The stains of an average are unit vectors again."""
    looks = [measure(section(second=dye), "macenko") for dye in (EOSIN, DAB)]
    values = np.array(average(looks).values)
    assert np.linalg.norm(values[:3]) == pytest.approx(1)
    assert np.linalg.norm(values[3:6]) == pytest.approx(1)


def test_a_look_survives_json():
    """A look written as JSON and read again is equal to it and as good a key."""
    look = measure(section(), "macenko")
    again = Look(**json.loads(json.dumps(asdict(look))))
    assert again == look
    assert hash(again) == hash(look)


def test_mistakes_are_named():
    """Unknown methods, wrong numbers of values, values that are not finite and mixed methods are refused."""
    with pytest.raises(ValueError, match=r"'vahadane'.*choose one of reinhard, macenko"):
        measure(section(), "vahadane")
    with pytest.raises(ValueError, match="6 finite values"):
        Look("reinhard", (1.0,) * 8)
    with pytest.raises(ValueError, match="8 finite values"):
        Look("macenko", (float("nan"),) * 8)
    one, other = Look("reinhard", (1.0,) * 6), Look("macenko", (1.0,) * 8)
    with pytest.raises(ValueError, match="same method"):
        transfer(section(), one, other)
    with pytest.raises(ValueError, match="same method"):
        average([one, other])
    with pytest.raises(ValueError, match="0 looks"):
        average([])


@pytest.mark.parametrize("shape", [(53, 71), (3, 9001), (257, 131)])
def test_restain_is_that_of_the_formulas(shape, rng):
    """Restaining by bands gives what the formulas of optical density give, within rounding."""
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    image[: shape[0] // 2] = 255 - image[: shape[0] // 2] // 12  # glass and what is near it
    linear, added = np.eye(3) + rng.normal(0, 0.2, (3, 3)), rng.normal(0, 0.1, 3)
    density = optical_density(image).astype(float)
    share = np.clip((density.mean(axis=2, keepdims=True) - stain.GLASS) / (stain.TISSUE[0] - stain.GLASS), 0, 1)
    affine = density + share * (density @ linear.T + added - density)
    for matrix, gamma, expected in (
        (linear, None, density @ linear.T),
        (linear, 1.3, np.maximum(density @ linear.T, 0) ** 1.3),
        (np.column_stack((linear, added)), None, affine),
    ):
        found = restain(image, matrix, gamma).astype(int)
        assert np.abs(found - from_optical_density(expected)).max() <= 1


def test_optical_density_and_back_is_exact():
    """All 256 values survive the way to optical density and back; white is 0."""
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    density = optical_density(image)
    assert density.dtype == np.float32
    np.testing.assert_allclose(density, -np.log10((image.astype(float) + 1) / 256), atol=1e-6)
    assert density.max() == pytest.approx(2.40824)
    assert density[-1, -1] == 0
    np.testing.assert_array_equal(from_optical_density(density), image)
    np.testing.assert_array_equal(from_optical_density(np.array([-1.0, 9.0])), [255, 0])


def test_optical_density_wants_uint8():
    """An image that was already scaled to [0, 1] is an error, not a wrong density."""
    with pytest.raises(ValueError, match="float32"):
        optical_density(section().astype(np.float32))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(151, 263), (523, 1021)])
@pytest.mark.parametrize("least_side", [1, 317])
def test_a_look_is_the_same_in_bands(method, shape, least_side):
    """However an image is cut into bands, its look is the same to the last bit, that of the mirrored image."""
    image = section(shape=shape)
    whole = measure(pad_to_tile(image, least_side), method)
    for height in (1, 64, 100, 10_000):
        bands = (image[top : top + height] for top in range(0, shape[0], height))
        assert measure_bands(bands, shape, method, least_side=least_side) == whole


@pytest.mark.parametrize("least_side", [200, 1000])
def test_a_small_image_is_mirrored_as_for_a_tile(least_side, monkeypatch):
    """An image below the least side is measured as it is stored for training: mirrored, several times if need be."""
    sampled: list[np.ndarray] = []

    def spy(part: np.ndarray) -> np.ndarray:
        sampled.append(part)
        return optical_density(part)

    monkeypatch.setattr(stain, "optical_density", spy)
    image = section(shape=(61, 83))
    measure_bands([image], (61, 83), "reinhard", least_side=least_side)
    measure(pad_to_tile(image, least_side), "reinhard")
    first, second = sampled
    assert np.array_equal(first, second)
