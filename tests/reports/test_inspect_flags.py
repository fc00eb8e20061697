"""Tests of what is flagged, and of what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import an_image

from hubmap_kit.images.stain import Look
from hubmap_kit.reports.inspect_flags import KINDS, Seen, find_copies, find_flags
from hubmap_kit.reports.inspect_image import HEAT_SIDE, HUES_SIDE, PICTURE_SIDE, ImageMeasures, MaskMeasures
from hubmap_kit.reports.review_fit import Fit

SHAPE = (601, 701)
NO_SHIFTS = np.zeros((49, 49), np.float32)


def an_unflagged_image(number, rng):
    """An image like all others of these tests."""
    mask = MaskMeasures(
        share=0.1 * rng.uniform(0.9, 1.1),
        units_um2=np.array([900.0, 1100.0, 1000.0]),
        specks=0,
        touching=0,
        on_glass=0,
        glass_share=0.0,
        white=0.1,
        heat=np.full((HEAT_SIDE, HEAT_SIDE), 0.1, np.float32),
        fit=Fit(0.4, {"upside-down": 0.1, "mirrored": 0.1, "transposed": 0.1}, NO_SHIFTS),
    )
    picture = rng.standard_normal((PICTURE_SIDE, PICTURE_SIDE)).astype(np.float32)
    measures = ImageMeasures(
        shape=SHAPE,
        sha256=str(number),
        picture=picture / np.linalg.norm(picture),
        hues=np.full((HUES_SIDE, HUES_SIDE), 1 / HUES_SIDE, np.float32),
        look=Look("reinhard", tuple(np.array([0.5, 0.1, 0.1, 0.2, 0.05, 0.05]) + rng.normal(0, 0.02, 6))),
        tissue_share=0.7,
        contrast=40.0,
        mask=mask,
    )
    return Seen("train", replace(an_image(number, Path(f"{number}.tiff"), "kidney", 0.4, SHAPE), rle="1 9"), measures)


@pytest.fixture
def usual(rng):
    """Twelve images without a flag."""
    return [an_unflagged_image(number, rng) for number in range(12)]


def flags_of(seen):
    return find_flags(seen, find_copies(seen))


def with_measures(seen, number, **changes):
    """The images, one of them with other measures."""
    one = seen[number]
    return [*seen[:number], replace(one, measures=replace(one.measures, **changes)), *seen[number + 1 :]]


def with_mask(seen, number, **changes):
    return with_measures(seen, number, mask=replace(seen[number].mask, **changes))


def with_image(seen, number, **changes):
    one = seen[number]
    return [*seen[:number], replace(one, image=replace(one.image, **changes)), *seen[number + 1 :]]


def the_flag(seen, number=3):
    """The one flag there is, on this image."""
    flags = flags_of(seen)
    assert [n for n, of in enumerate(flags) if of] == [number]
    (flag,) = flags[number]
    return flag


def test_usual_images_have_no_flag(usual):
    """Images that are like each other are not flagged."""
    assert not any(flags_of(usual))


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"share": 0.01}, "area", "covers 1 % of the image"),
        ({"share": 0.95}, "full", "95 %"),
        (
            {"touching": 2},
            "border",
            "2 of its 3 units touch the border; units touch it in only 1 of 12 kidney images of HPA",
        ),
        ({"on_glass": 1, "glass_share": 0.3}, "glass", "1 of 3 units, 30 % of the mask, lies on glass"),
        (
            {"fit": Fit(0.1, {"transposed": 0.4}, NO_SHIFTS)},
            "turned",
            "better with rows and columns exchanged: the tissue explains 40 %",
        ),
    ],
)
def test_odd_masks(usual, changes, key, words):
    """A mask that is unlike the others is flagged, with its numbers."""
    flag = next(flag for flag in flags_of(with_mask(usual, 3, **changes))[3] if flag.key == key)
    assert words in flag.text
    assert flag.severity == "warning"


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"contrast": 0.5}, "blank", "vary by 0.5 of 255"),
        ({"tissue_share": 0.0002}, "blank", "0.02 % of the image is tissue"),
        ({"look": Look("reinhard", (0.5, 0.1, -0.4, 0.2, 0.05, 0.05))}, "stain", "it is redder"),
    ],
)
def test_odd_images(usual, changes, key, words):
    """An image that is unlike the others is flagged, with its numbers."""
    flag = the_flag(with_measures(usual, 3, **changes))
    assert flag.key == key
    assert words in flag.text


def test_another_size_is_odd_and_one_like_its_row_is_no_error(usual):
    """An image of twice the size, as its row says, is odd; with the row of the others it is an error."""
    large = (1201, 1401)
    flag = the_flag(with_image(with_measures(usual, 3, shape=large), 3, shape=large))
    assert (flag.key, flag.severity) == ("odd", "warning")
    keys = {flag.key: flag for flag in flags_of(with_measures(usual, 3, shape=large))[3]}
    assert keys["file"].severity == "error"
    assert "1201 × 1401 px, its row says 601 × 701 px" in keys["file"].text


def test_exchanged_rows_and_columns_are_named(usual):
    """A row with height and width exchanged is an error that says so."""
    flag = the_flag(with_image(usual, 3, shape=SHAPE[::-1]))
    assert (flag.key, flag.severity) == ("file", "error")
    assert "rows and columns look exchanged" in flag.text


@pytest.mark.parametrize(
    ("pixel_um", "words"), [(0.8, "most kidney images of HPA have 0.4 µm"), (400.0, "microscopes")]
)
def test_odd_pixel_sizes(usual, pixel_um, words):
    """A pixel twice as large as that of the others is flagged, and one that no microscope has."""
    flag = the_flag(with_image(usual, 3, pixel_size_um=pixel_um))
    assert flag.key == "pixel"
    assert words in flag.text


def test_an_empty_mask_is_flagged_in_training_alone(usual):
    """A training image without a mask is flagged; a test image has none anyway."""
    assert the_flag(with_mask(with_image(usual, 3, rle=""), 3, share=0.0)).key == "empty"
    tests = [replace(one, split="test", image=replace(one.image, rle="")) for one in usual]
    assert not any(flags_of([replace(one, measures=replace(one.measures, mask=None)) for one in tests]))


def test_a_copy_in_the_test_set_is_flagged_on_both(usual):
    """The same pixels in training and test are flagged on both images as a leak."""
    usual = with_measures(usual, 3, picture=usual[5].measures.picture, sha256=usual[5].measures.sha256)
    seen = [*usual[:5], replace(usual[5], split="test"), *usual[6:]]
    flags = flags_of(seen)
    assert [n for n, of in enumerate(flags) if of] == [3, 5]
    assert flags[3][0].text.startswith("It has the same pixels as test image 5; a test image in the training set")
    assert flags[5][0].text.startswith("It has the same pixels as training image 3;")
    (pair,) = find_copies(seen)
    assert [pair] == [replace(pair, first=3, second=5, turned=False)]


def test_units_at_the_border_are_usual_where_many_have_them(usual):
    """Where a third of the images are cut through units, none is flagged."""
    for number in range(4):
        usual = with_mask(usual, number, touching=1)
    assert not any(flags_of(usual))


def test_masks_that_are_all_turned_are_an_error(usual):
    """One mask that fits slightly better turned is no flag; if most do in the same way, each is an error."""
    turned = Fit(0.2, {"upside-down": 0.34, "mirrored": 0.1}, NO_SHIFTS)
    assert not any(flags_of(with_mask(usual, 3, fit=turned)))
    for number in range(11):
        usual = with_mask(usual, number, fit=turned)
    flags = flags_of(usual)
    assert [[flag.severity for flag in of] for of in flags] == [["error"]] * 11 + [[]]
    assert (
        "better flipped from top to bottom: the tissue explains 34 % of it then, and 20 % as it is. "
        "The same holds for 11 of 12 masks" in flags[0][0].text
    )


def test_masks_that_are_all_moved_are_an_error(usual):
    """If masks fit best moved by a tenth of the side, every image says so."""
    shifts = np.zeros((49, 49), np.float32)
    shifts[24 + 12, 24] = 0.4
    for number in range(12):
        usual = with_mask(usual, number, fit=Fit(0.2, {"mirrored": 0.1}, shifts))
    assert all("better moved 9 % of the side down" in flags[0].text for flags in flags_of(usual))


def test_few_images_are_not_compared(usual):
    """Among five images no size, stain, area or border is odd."""
    few = with_mask(usual[:5], 3, share=0.001, touching=1)
    few = with_measures(few, 2, look=Look("reinhard", (0.5, 0.1, -0.9, 0.2, 0.05, 0.05)))
    assert not any(flags_of(few))


def test_polygons_and_what_cannot_be_read(usual, tmp_path):
    """Other polygons, an unreadable file and unreadable polygons are flagged with what was found."""
    path = tmp_path / "3.tiff"
    path.write_bytes(b"")
    usual[1] = replace(usual[1], polygons=0.9123)
    usual[2] = replace(usual[2], polygons=0.999, polygons_error="2.json is not a list of polygons")
    usual[3] = replace(usual[3], image=replace(usual[3].image, path=path), measures=None, error="no TIFF")
    flags = flags_of(usual)
    assert "polygons is 0.912" in flags[1][0].text
    assert flags[2][0].text == "2.json is not a list of polygons."
    assert (flags[3][0].severity, flags[3][0].text) == ("error", "No TIFF.")


def test_every_kind_has_words():
    """Each kind of flag has one word as its key, a short name and a heading."""
    assert all(key.isalpha() and kind.short and kind.heading for key, kind in KINDS.items())
