"""Tests of the codec and of Dice on runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hubmap_kit import rle

SHAPES = st.tuples(st.integers(1, 23), st.integers(1, 23))
MASKS = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1)))


@given(MASKS)
def test_round_trip(mask):
    """Any mask comes back pixel for pixel."""
    assert np.array_equal(rle.decode(rle.encode(mask), mask.shape), mask)


@given(MASKS)
def test_encoding_follows_kaggles_rule(mask):
    """The string is the one a plain walk down the columns writes: 1-based, sorted, neighbours joined."""
    expected, previous = [], 0
    for position, value in enumerate(mask.T.ravel(), start=1):
        if value and not previous:
            expected.append([position, 0])
        if value:
            expected[-1][1] += 1
        previous = value
    assert rle.encode(mask) == " ".join(f"{start} {length}" for start, length in expected)


@given(SHAPES.flatmap(lambda s: st.tuples(*[arrays(np.uint8, s, elements=st.integers(0, 1))] * 2)))
def test_dice_on_runs_is_dice_on_pixels(masks):
    """Dice, area and overlap on runs equal those counted on the masks."""
    a, b = masks
    both, total = int((a & b).sum()), int(a.sum() + b.sum())
    runs = rle.mask_to_runs(a), rle.mask_to_runs(b)
    assert rle.area(runs[0]) == a.sum()
    assert rle.overlap(*runs) == both
    assert rle.dice(rle.encode(a), rle.encode(b), a.shape) == (2 * both / total if total else 1.0)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        ([], ""),
        ([(0, 0)], "1 1"),
        ([(2, 4)], "15 1"),
        ([(1, 2)], "8 1"),
        ([(2, 0), (0, 1)], "3 2"),
        ([(y, x) for y in range(3) for x in range(5)], "1 15"),
    ],
)
def test_known_strings(pixels, text):
    """Empty, first, last, one, across a column's end, and full: the strings worked out by hand."""
    mask = np.zeros((3, 5), np.uint8)
    for y, x in pixels:
        mask[y, x] = 255
    assert rle.encode(mask) == text
    decoded = rle.decode(text, (3, 5))
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, mask // 255)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_dtype_and_memory_order(dtype, order):
    """A mask is encoded alike whatever its dtype and however it lies in memory."""
    mask = np.zeros((4, 3), dtype, order=order)
    mask[1:3, 1] = 1
    assert rle.encode(mask) == "6 2"
    assert rle.encode(mask[:, ::-1]) == "6 2"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1", "odd count"),
        ("1 2 5", "odd count"),
        ("0 3", "numbered from 1"),
        ("-1 3", "sign"),
        ("3 0", "at least 1"),
        ("3 -2", "sign"),
        ("1 3 3 1", "overlaps"),
        ("5 1 2 1", "starts before"),
        ("15 2", "leaves the mask"),
        ("16 1", "leaves the mask"),
        ("9223372036854775807 9223372036854775807", "leaves the mask"),
        ("99999999999999999999999 1", "leaves the mask"),
        ("1 two", "not a whole number"),
        ("1.0 2", "not a whole number"),
        ("1,2", "not a whole number"),
        ("1\t2", "not a whole number"),
        ("nan", "empty field"),
        ("NaN", "empty field"),
        (float("nan"), "is text"),
        (None, "is text"),
        ("１ １", "not a whole number"),
    ],
)
def test_malformed_strings(text, rule):
    """Each kind of malformed string raises an error that names its rule."""
    with pytest.raises(ValueError, match=rule):
        rle.decode(text, (3, 5))


@given(st.text("0123456789 -+.an\t", max_size=30))
def test_any_text_is_decoded_or_refused(text):
    """Any text is either a mask that encodes to the same pixels, or a ValueError."""
    try:
        mask = rle.decode(text, (7, 11))
    except ValueError:
        return
    assert mask.shape == (7, 11)
    assert rle.dice(rle.encode(mask), text, (7, 11)) == 1.0


def test_bad_shapes():
    """A mask that is no matrix, or a shape without pixels, is refused."""
    with pytest.raises(ValueError, match="two dimensions"):
        rle.encode(np.zeros((2, 2, 1)))
    with pytest.raises(ValueError, match="at least"):
        rle.decode("", (0, 4))


def test_competitions_own_strings():
    """All 351 strings of the competition come back byte for byte."""
    folder = os.environ.get("HUBMAP_DATA")
    if not folder or not (Path(folder) / "competition" / "train.csv").is_file():
        pytest.skip("HUBMAP_DATA names no folder with competition/train.csv")
    table = pd.read_csv(Path(folder) / "competition" / "train.csv")
    assert len(table) == 351
    for row in table.to_dict("records"):
        text, shape = row["rle"], (row["img_height"], row["img_width"])
        mask = rle.decode(text, shape)
        assert rle.encode(mask) == text
        assert rle.dice(text, text, shape) == 1.0
