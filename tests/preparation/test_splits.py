"""Tests of splits and folds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubmap_kit.competition import ORGANS
from hubmap_kit.preparation.splits import assign_folds, assign_splits, read_groups, split_sizes
from hubmap_kit.tables import DataError

COUNTS = {"kidney": 99, "prostate": 93, "largeintestine": 58, "spleen": 53, "lung": 48}
COMPETITION = pd.Series([organ for organ, n in COUNTS.items() for _ in range(n)], index=range(1000, 1351))


def test_starting_designs_split():
    """The competition's 351 images are split 221/65/65, each organ in proportion to one image."""
    assert split_sizes(351, None, None) == (65, 65)
    splits = assign_splits(COMPETITION, 65, 65, seed=0)
    assert splits.value_counts().to_dict() == {"train": 221, "validation": 65, "test": 65}
    for organ, n in COUNTS.items():
        sizes = splits[organ == COMPETITION].value_counts()
        assert abs(sizes["test"] - n * 65 / 351) < 1
        assert abs(sizes["validation"] - n * 65 / 351) < 1


def test_sizes():
    """A smaller set keeps the share, 0 makes none, validation follows test, and training is never left empty."""
    assert split_sizes(146, None, None) == (27, 27)
    assert split_sizes(10, 0, None) == (0, 0)
    assert split_sizes(10, 0, 3) == (0, 3)
    assert split_sizes(10, 4, None) == (4, 4)
    with pytest.raises(ValueError, match="leave none of 10"):
        split_sizes(10, 5, None)


def test_split_depends_on_the_seed_alone():
    """The same seed gives the same split, another one another."""
    first, again, other = (assign_splits(COMPETITION, 65, 65, seed=s) for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_splits_stay_the_same_in_later_versions():
    """A seed gives the images that it gave in earlier versions, so that scores remain comparable."""
    patients = pd.Series([f"p{i % 60}" for i in range(351)], index=COMPETITION.index)
    alone = [1000, 1005, 1018, 1031, 1036, 1038], [1008, 1010, 1017, 1025, 1026, 1033]
    grouped = [1002, 1004, 1008, 1010, 1016, 1020], [1001, 1003, 1011, 1018, 1023, 1024]
    for groups, (test, validation) in ((None, alone), (patients, grouped)):
        splits = assign_splits(COMPETITION, 65, 65, 0, groups)
        assert list(splits.index[splits == "test"][:6]) == test
        assert list(splits.index[splits == "validation"][:6]) == validation


@given(
    st.lists(st.tuples(st.sampled_from(list(ORGANS)), st.integers(0, 30)), min_size=6, max_size=120),
    st.integers(0, 1000),
)
def test_groups_are_never_split(images, seed):
    """Whole groups go to one split and one fold, and no split is larger than asked."""
    organs = pd.Series([organ for organ, _ in images])
    groups = pd.Series([str(group) for _, group in images])
    test_size, val_size = split_sizes(len(organs), None, None)
    splits = assign_splits(organs, test_size, val_size, seed, groups)
    assert (splits.groupby(groups).nunique() == 1).all()
    assert (splits == "test").sum() <= test_size
    if min(groups.nunique(), organs.value_counts().max()) >= 3:
        folds = assign_folds(organs, 3, seed, groups)
        assert (folds.groupby(groups).nunique() == 1).all()


def test_folds_are_stratified():
    """Each of five folds holds a fifth of each organ, to one image."""
    folds = assign_folds(COMPETITION, 5, seed=0)
    table = pd.crosstab(COMPETITION, folds)
    assert table.shape == (5, 5)
    assert (np.abs(table.to_numpy() - np.array([[COUNTS[o] / 5] for o in table.index])) <= 1).all()


def test_too_many_folds():
    """More folds than images of any organ is an error, not a fold without images."""
    with pytest.raises(ValueError, match="9 folds"):
        assign_folds(COMPETITION.iloc[:8], 9, seed=0)


def test_groups_file(tmp_path):
    """A groups file is read by id; what it lacks or has twice is named."""
    path = tmp_path / "groups.csv"
    path.write_text("id,stain,group\n2,PAS,b\n1,PAS,a\n")
    assert read_groups(path, pd.Index([1, 2])).to_dict() == {1: "a", 2: "b"}
    with pytest.raises(DataError, match="no row for id 3"):
        read_groups(path, pd.Index([1, 3]))
    path.write_text("id,group\n1,a\n1,b\n")
    with pytest.raises(DataError, match="row 3: id 1 is already in row 2"):
        read_groups(path, pd.Index([1]))
    path.write_text("id\n1\n")
    with pytest.raises(DataError, match="column 'group' is missing"):
        read_groups(path, pd.Index([1]))
