"""Tests of cutting patches and of every step that augments them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubmap_kit.config import TrainConfig
from hubmap_kit.images import augment as steps
from hubmap_kit.images.augment import (
    GAMMA,
    IMITATIONS,
    MIXING_SIGMA,
    STEPS,
    STRENGTH,
    Kind,
    augment,
    cut,
    random_coarsening,
    random_glass,
    random_stain,
)
from hubmap_kit.images.stain import (
    DAB,
    EOSIN,
    HAEMATOXYLIN,
    METHODS,
    Look,
    from_optical_density,
    measure,
    optical_density,
    transfer,
)

POSES = [name for name, step in STEPS.items() if step.kind is Kind.POSE]


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


def test_half_a_pixel_twice_is_a_pixel(pixels):
    """A bent patch is interpolated once: half a pixel by the bend and half by the corner is a whole one, exactly."""
    half = np.full((4, 4, 2), 0.5 / 24, np.float32)
    assert np.array_equal(cut(pixels, (10.5, 28.5), 24, bend=half), pixels[11:35, 29:53])
    turned = cut(pixels, (11, 29), 24, quarter_turns=1, bend=np.zeros((5, 5, 2), np.float32))
    assert np.array_equal(turned, np.rot90(pixels[11:35, 29:53]))


def test_a_bend_moves_along_x_and_y(pixels):
    """The two parts of a displacement are shares of the side along x and y, in the patch's own pose."""
    right, down = (np.full((3, 3, 2), shift, np.float32) for shift in ((5 / 24, 0), (0, 5 / 24)))
    assert np.array_equal(cut(pixels, (11, 29), 24, bend=right), pixels[11:35, 34:58])
    assert np.array_equal(cut(pixels, (11, 29), 24, bend=down), pixels[16:40, 29:53])
    mirrored = cut(pixels, (11, 29), 24, flip=True, bend=right)
    assert np.array_equal(mirrored, pixels[11:35, 24:48][:, ::-1])


@given(seed=st.integers(0, 2**32 - 1))
def test_a_bend_folds_nothing(seed):
    """Random displacements move pixels, by less than a tenth of the side, and turn no piece of tissue over."""
    size, bend = 97, steps.random_bend(np.random.default_rng(seed))
    y, x = np.indices((size, size), np.float32) / size
    place = np.dstack((x, y)) + cv2.resize(bend, (size, size), interpolation=cv2.INTER_CUBIC)
    right, down = np.diff(place, axis=1)[:-1] * size, np.diff(place, axis=0)[:, :-1] * size
    assert (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]).min() > 0
    assert 0.001 < np.abs(bend).max() < 0.1


@pytest.fixture(scope="module")
def section():
    """A stained section that is not square, with its mask and some glass, and the look of it and of another."""
    draw = np.random.default_rng(4)
    noise = cv2.GaussianBlur(draw.normal(0, 1, (211, 307, 3)), (0, 0), 2)
    noise = noise / noise.std()
    density = np.array([0.25, 0.4, 0.2]) + 0.08 * noise @ np.array([[1, 0.5, 0.2], [0.3, 1, 0.3], [0.2, 0.4, 1]])
    image = from_optical_density(density)
    image[:, :80] = 243
    mask = (noise[..., 0] > 0.5).astype(np.uint8)
    other = from_optical_density(density[..., ::-1] * 1.4)
    return np.dstack((image, mask)), {m: (measure(image, m), measure(other, m)) for m in METHODS}


def augmented(section, shares, seed, corner=(33.0, 51.0), **more):
    """A patch of 96 px of the section."""
    pixels, looks = section
    look = {"look": lambda method: looks[method][0], "donors": lambda method, rng: looks[method][1]}
    return augment(pixels, corner, 96, shares, np.random.default_rng(seed), **(look | more))


def test_imitations_are_the_methods_of_looks():
    """The steps that imitate a look are the methods by which a look is measured."""
    assert IMITATIONS == METHODS


def test_no_steps_cut_only(section):
    """Without steps a patch is the crop."""
    image, mask, scale = augmented(section, {}, 0)
    assert np.array_equal(np.dstack((image, mask)), section[0][33:129, 51:147])
    assert scale == 1


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_a_function_of_its_randomness(section, name):
    """The same seed gives the same patch, other seeds other ones; the stored image is unchanged."""
    before = section[0].copy()
    first, again = (augmented(section, {name: 1.0}, 1) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert first[2] == again[2]
    crop = section[0][33:129, 51:147, :3]
    patches = [augmented(section, {name: 1.0}, seed)[0] for seed in range(12)]
    changed = sum(not np.array_equal(patch, crop) for patch in patches)
    assert changed >= (2 if name in ("flip", "quarter") else 11)
    if name not in METHODS:  # the methods' only randomness is the donor
        assert len({patch.tobytes() for patch in patches}) >= 2
    assert np.array_equal(section[0], before)
    assert first[0].shape == (96, 96, 3)
    assert first[1].shape == (96, 96)
    assert first[0].dtype == first[1].dtype == np.uint8
    assert first[1].max() == 1


@pytest.mark.parametrize("name", [name for name in STEPS if name not in POSES])
def test_colour_and_optics_keep_the_place(section, name):
    """Steps that change colours or sharpness move nothing: the mask stays, except where glass or a hole hides it."""
    _, mask, scale = augmented(section, {name: 1.0}, 5)
    crop = section[0][33:129, 51:147, 3]
    assert scale == 1
    assert np.array_equal(mask, crop) == (name not in ("glass", "cutout"))
    assert not (mask > crop).any()


@pytest.mark.parametrize("top", [1, 255])
def test_masks_follow_all_geometry(section, top):
    """Through every geometric step at once a mask, true or soft, goes where the picture goes."""
    pixels = section[0].copy()
    soft = cv2.GaussianBlur(pixels[..., 3] * 255, (0, 0), 3) if top == 255 else pixels[..., 3]
    pixels[..., 3], pixels[..., :3] = soft, soft[..., None] * (255 // top)
    for seed in range(6):
        image, mask, _ = augmented((pixels, section[1]), dict.fromkeys(POSES, 1.0), seed)
        if top == 255:
            assert np.array_equal(mask, image[..., 0])
            assert len(np.unique(mask)) > 50
        else:
            assert set(np.unique(mask)) == {0, 1}
            certain = np.abs(image[..., 0].astype(int) - 127) > 8
            assert np.array_equal(mask[certain], (image[..., 0] > 127)[certain])


@pytest.mark.parametrize(("names", "count"), [(("flip",), 2), (("quarter",), 4), (("flip", "quarter"), 8)])
def test_symmetries_are_exact_and_equally_frequent(section, names, count):
    """Flips and quarter turns give each of their poses, pixel for pixel, equally often."""
    crop = section[0][33:129, 51:147, :3]
    poses = [np.rot90(pose, k).tobytes() for pose in (crop, crop[:, ::-1]) for k in range(4)]
    found = [poses.index(augmented(section, dict.fromkeys(names, 1.0), s)[0].tobytes()) for s in range(160)]
    frequent = np.unique(found, return_counts=True)[1]
    assert len(frequent) == count
    assert frequent.min() > 80 / count
    if names == ("flip",):
        assert set(found) == {0, 4}


def test_a_turn_takes_the_place_of_quarter_turns(section):
    """If both are listed, patches turned by any angle are not turned again; the others are turned by quarters."""
    both = augmented(section, {"quarter": 1.0, "turn": 0.0}, 3)[0]
    crop = section[0][33:129, 51:147, :3]
    assert any(np.array_equal(both, np.rot90(crop, k)) for k in range(4))
    turned = augmented(section, {"quarter": 1.0, "turn": 1.0}, 3)[0]
    assert not any(np.array_equal(turned, np.rot90(crop, k)) for k in range(4))


def test_share_is_of_patches(section):
    """A step is done to its share of patches, and to none where that is 0."""
    crop = section[0][33:129, 51:147, :3]
    for share in (0.0, 0.25, 1.0):
        done = [not np.array_equal(augmented(section, {"coarse": share}, s)[0], crop) for s in range(200)]
        assert np.mean(done) == pytest.approx(share, abs=0.08 if 0 < share < 1 else 0)


def test_scale_is_told_and_bounded():
    """The returned factor is the one by which tissue grew; it fills its range, and is as often below 1 as above."""
    pixels = np.zeros((211, 307, 4), np.uint8)
    cv2.circle(pixels, (150, 100), 20, (1, 1, 1, 1), -1)
    area = pixels[..., 3].sum()
    scales = []
    for seed in range(150):
        _, mask, scale = augment(
            pixels, (52, 102), 96, {"turn": 1.0, "scale": 1.0}, np.random.default_rng(seed), scale_range=1.5
        )
        assert mask.sum() / area == pytest.approx(scale**2, rel=0.06)
        scales.append(np.log(scale) / np.log(1.5))
    assert -1 <= min(scales) < -0.9
    assert 0.9 < max(scales) <= 1
    assert abs(np.mean(scales)) < 0.15


@pytest.mark.parametrize("method", METHODS)
def test_imitation_is_the_transfer_of_looks(section, method):
    """A patch that imitates is changed from the look of its whole image to the look of the donor that is drawn."""
    pixels, looks = section
    asked = []

    def donors(name: str, rng: np.random.Generator) -> Look:
        asked.append((name, rng.random()))
        look: Look = looks[name][1]
        return look

    image, _, _ = augmented(section, {method: 1.0}, 2, donors=donors)
    crop = np.ascontiguousarray(pixels[33:129, 51:147, :3])
    assert np.array_equal(image, transfer(crop, *looks[method]))
    augmented(section, {method: 1.0}, 3, donors=donors)
    assert asked[0] != asked[1]
    assert {name for name, _ in asked} == {method}


@pytest.mark.parametrize("missing", ["look", "donors"])
def test_imitation_needs_looks(section, missing):
    """Imitation without looks is refused, even if it would not be drawn for the patch."""
    with pytest.raises(ValueError, match="give look and donors"):
        augmented(section, {"reinhard": 0.0}, 0, **{missing: None})


def test_unknown_step_is_refused(section):
    """A step that is not in the table is refused, and the error lists the steps."""
    with pytest.raises(ValueError, match=r"no augmentation nonsense; choose among flip, .*cutout"):
        augmented(section, {"nonsense": 1.0}, 0)


def test_default_list_runs(section):
    """The default list of the settings is valid."""
    image, _, scale = augmented(section, TrainConfig().augment_shares(), 0)
    assert image.shape == (96, 96, 3)
    assert scale != 1


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
    """Staining by bands and in place gives the result of the formulas of optical density, within rounding."""
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


def test_glass_takes_the_place_of_tissue(rng):
    """Beyond an edge there is bright glass without mask; the rest of the patch and of its mask stays as it was."""
    shares = []
    for seed in range(40):
        image = rng.integers(60, 200, (128, 96, 3), np.uint8)
        found, mask = random_glass(image, np.full((128, 96), 255, np.uint8), np.random.default_rng(seed))
        assert set(np.unique(mask)) <= {0, 255}
        glass = mask == 0
        inner, outer = (cv2.erode(part.astype(np.uint8), np.ones((7, 7))) > 0 for part in (glass, ~glass))
        assert np.array_equal(found[outer], image[outer])
        if inner.any():
            colour = np.median(found[inner], axis=0)
            assert colour.min() > 180
            assert (found[inner] == colour).all(axis=1).mean() > 0.6  # the rest is debris
        shares.append(glass.mean())
    assert 0.2 < np.mean(shares) < 0.5
    assert max(shares) < 0.95


def test_hed_changes_dyes_and_not_glass(section, monkeypatch):
    """Haematoxylin stays haematoxylin, more or less of it; glass stays glass; amounts stay within their ranges."""
    amounts = np.linspace(0.25, 1.2, 60)[:, None, None] * np.array(HAEMATOXYLIN)
    image = from_optical_density(np.tile(amounts, (1, 17, 1)))
    image[:, :5] = 243
    monkeypatch.setattr(steps, "HED_ADDED", (0.0, 0.0))
    factors = []
    for seed in range(60):
        changed = STEPS["hed"].do(image, np.random.default_rng(seed))
        assert np.abs(changed[:, :5].astype(int) - 243).max() <= 1
        ratio = optical_density(changed[:40, 5:]).sum(axis=(0, 1)) / optical_density(image[:40, 5:]).sum(axis=(0, 1))
        assert np.ptp(ratio) < 0.05
        factors.append(ratio.mean())
    assert 0.58 < min(factors) < 0.7
    assert 1.4 < max(factors) < 1.62


def test_hed_adds_to_tissue_alone(monkeypatch):
    """The added amounts of the dyes are within their limits on tissue, and zero on glass."""
    monkeypatch.setattr(steps, "HED_AMOUNT", (1.0, 1.0))
    dyes = np.array([HAEMATOXYLIN, EOSIN, DAB])
    image = np.full((7, 11, 3), (120, 80, 130), np.uint8)
    image[:, 5:] = 243
    added = []
    for seed in range(60):
        changed = STEPS["hed"].do(image, np.random.default_rng(seed))
        change = optical_density(changed) - optical_density(image)
        assert np.abs(change[:, 5:]).max() < 0.003
        added.append(np.linalg.solve((dyes / np.linalg.norm(dyes, axis=1, keepdims=True)).T, change[0, 0]))
    assert np.abs(added).max() == pytest.approx(0.05, abs=0.01)


def test_colour_turns_about_grey(section):
    """Greys, white and black keep their colour, and any colour its mean of red, green and blue; hues change."""
    greys = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    image = np.full((7, 11, 3), (150, 110, 140), np.uint8)
    turned, saturated = [], []
    for seed in range(60):
        assert np.array_equal(STEPS["colour"].do(greys, np.random.default_rng(seed)), greys)
        changed = STEPS["colour"].do(image, np.random.default_rng(seed))
        assert changed[0, 0].mean() == pytest.approx(image[0, 0].mean(), abs=1)
        # Vectors at right angles to the axis of greys: their length is saturation, their angle hue.
        new, old = (pixel[0, 0].astype(float) - pixel[0, 0].mean() for pixel in (changed, image))
        saturated.append(np.linalg.norm(new) / np.linalg.norm(old))
        turned.append(np.arccos(np.clip(new @ old / np.linalg.norm(new) / np.linalg.norm(old), -1, 1)) / (2 * np.pi))
    assert max(turned) == pytest.approx(0.1, abs=0.02)
    assert min(saturated) == pytest.approx(0.5, abs=0.08)
    assert max(saturated) == pytest.approx(1.6, abs=0.12)


def test_brightness_is_one_rising_curve():
    """Light is changed by one curve for all channels that never falls, about as often up as down."""
    greys = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)
    middles, slopes, bows = [], [], []
    for seed in range(80):
        curve = STEPS["brightness"].do(greys, np.random.default_rng(seed))
        assert np.array_equal(curve[..., 0], curve[..., 1])
        assert np.array_equal(curve[..., 0], curve[..., 2])
        assert (np.diff(curve[0, :, 0].astype(int)) >= 0).all()
        assert curve[0, 255, 0] - int(curve[0, 0, 0]) > 150
        low, middle, high = curve[0, [90, 128, 166], 0].astype(int)
        middles.append(middle)
        slopes.append((high - low) / 76)
        bows.append(middle - (high + low) / 2)
    assert min(middles) < 100
    assert max(middles) > 150
    assert np.mean(middles) == pytest.approx(128, abs=12)
    assert min(slopes) < 0.75
    assert max(slopes) > 1.35
    assert min(bows) < -2 < 2 < max(bows)


def test_brightness_shifts_within_its_limits(monkeypatch):
    """Without contrast and gamma, middle grey moves by up to 12 % of the range, up and down."""
    monkeypatch.setattr(steps, "CONTRAST", (1.0, 1.0))
    monkeypatch.setattr(steps, "LIGHT_GAMMA", (1.0, 1.0))
    grey = np.full((3, 5, 3), 128, np.uint8)
    found = [int(STEPS["brightness"].do(grey, np.random.default_rng(s))[0, 0, 0]) - 128 for s in range(80)]
    assert -31 <= min(found) < -24
    assert 24 < max(found) <= 31


def test_blur_spreads_by_its_sigma():
    """A point becomes a Gaussian with a deviation within the limits, and no light is lost."""
    image = np.zeros((41, 53, 3), np.uint8)
    image[18:23, 24:29] = 255
    y = np.arange(41)[:, None]
    found = []
    for seed in range(40):
        blurred = STEPS["blur"].do(image, np.random.default_rng(seed))[..., 1].astype(float)
        assert blurred.sum() == pytest.approx(image[..., 1].sum(dtype=float), rel=0.03)
        variance = (blurred * (y - 20) ** 2).sum() / blurred.sum() - 2  # 2 is the variance of five pixels in a row
        found.append(np.sqrt(max(variance, 0)))
    assert 0.2 < min(found) < 0.7
    assert 1.5 < max(found) < 2.1


def test_noise_is_gaussian_and_independent():
    """Noise has mean 0, a deviation within the limits, the tails of a Gaussian, and independent neighbours."""
    image = np.full((151, 163, 3), 128, np.uint8)
    sigmas = []
    for seed in range(20):
        noise = STEPS["noise"].do(image, np.random.default_rng(seed)).astype(float) - 128
        sigmas.append(noise.std())
        assert abs(noise.mean()) < 0.1
        assert 2.7 < (noise**4).mean() / sigmas[-1] ** 4 < 3.1  # 3 for a normal distribution, 1.8 for a uniform one
        for one, other in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1])):
            assert abs((one * other).mean()) < 0.03 * sigmas[-1] ** 2
    assert 1.9 < min(sigmas) < 4
    assert 8 < max(sigmas) < 12.1


def test_noise_stops_at_black_and_white():
    """Noise never wraps round: white stays light and black dark."""
    image = np.zeros((31, 37, 3), np.uint8)
    image[:, 17:] = 255
    noisy = STEPS["noise"].do(image, np.random.default_rng(1))
    assert noisy[:, :17].max() < 60
    assert noisy[:, 17:].min() > 195


def test_jpeg_takes_red_for_red(rng):
    """Colours come back, and blue, which counts least in JPEG's luminance, has lost more than red."""
    image = np.full((64, 80, 3), (200, 60, 90), np.uint8)
    assert np.abs(STEPS["jpeg"].do(image, rng).astype(int) - image).max() <= 6
    image = rng.integers(0, 256, (61, 83, 3), np.uint8)
    for seed in range(5):
        lost = np.abs(STEPS["jpeg"].do(image, np.random.default_rng(seed)).astype(int) - image).mean(axis=(0, 1))
        assert 2 < lost[0] < lost[2]


def test_cutout_hides_image_and_mask(section):
    """A few rectangles hold the mean colour and no mask; all else is unchanged, and so are the arguments."""
    image, mask = np.ascontiguousarray(section[0][..., :3]), np.ones((211, 307), np.uint8)
    colour = np.rint(image.mean(axis=(0, 1)))
    counts = []
    for seed in range(30):
        covered, hidden = steps.cutout(image, mask, np.random.default_rng(seed))
        hole = hidden == 0
        assert (covered[hole] == colour).all()
        assert np.array_equal(covered[~hole], image[~hole])
        assert 211 * 307 / 300 < hole.sum() < 4 * 211 * 307 / 15
        counts.append(cv2.connectedComponents(hole.astype(np.uint8))[0] - 1)
    assert mask.all()
    assert set(counts) == {1, 2, 3, 4}


@given(
    shape=st.tuples(st.integers(8, 67), st.integers(8, 67)),
    seed=st.integers(0, 2**32 - 1),
)
def test_cutmix_pastes_a_rectangle_with_its_mask(shape, seed):
    """One rectangle is the donor's, mask and all, of a tenth to half of the area; the arguments are unchanged."""
    patch = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    donor = np.full((*shape, 3), 9, np.uint8), np.ones(shape, np.uint8)
    donor[0][..., 0] = np.arange(shape[1]) + 1
    image, mask = steps.cutmix(patch, donor, np.random.default_rng(seed))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert np.array_equal(image, donor[0] * mask[..., None])
    slack = (len(rows) + len(columns)) / 2 + 1
    assert 0.1 * mask.size - slack <= mask.sum() <= 0.5 * mask.size + slack
    assert not patch[0].any()
    assert not patch[1].any()
    assert donor[1].all()


def test_cutmix_differs_in_size_place_and_shape():
    """Rectangles are of all sizes from a tenth to half, tall and wide, and lie anywhere."""
    patch, donor = ((np.zeros((101, 103, 3), np.uint8), np.full((101, 103), v, np.uint8)) for v in (0, 1))
    masks = [steps.cutmix(patch, donor, np.random.default_rng(seed))[1] for seed in range(150)]
    areas = [mask.mean() for mask in masks]
    assert min(areas) < 0.12
    assert max(areas) > 0.48
    tall = [mask.any(axis=1).sum() > mask.any(axis=0).sum() for mask in masks]
    assert 0.3 < np.mean(tall) < 0.7
    reached = np.any(masks, axis=0)
    assert all(edge.any() for edge in (reached[0], reached[-1], reached[:, 0], reached[:, -1]))
    assert reached.mean() > 0.95
