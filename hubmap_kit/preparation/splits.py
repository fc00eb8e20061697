"""Train / validation / test split and folds: stratified by organ, optionally by group."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from ..tables import DataError, Problem, check_ids, read_cells

DEFAULT_TEST_SIZE = 65
DEFAULT_TEST_SHARE = 65 / 351


def split_sizes(count: int, test_size: int | None, val_size: int | None) -> tuple[int, int]:
    """Number of test and of validation images.

    Args:
        count: Number of all images.
        test_size: The number that was asked for; None for 65, or the same share (65 of 351) of a smaller set.
        val_size: The number that was asked for; None for as many as test images.

    Returns:
        ``(test, validation)``.

    Raises:
        ValueError: No image would be left for training.
    """
    if test_size is None:
        test_size = DEFAULT_TEST_SIZE if count >= 351 else round(count * DEFAULT_TEST_SHARE)
    if val_size is None:
        val_size = test_size
    if test_size + val_size >= count:
        raise ValueError(
            f"{test_size} test and {val_size} validation images leave none of {count} for training; lower them"
        )
    return test_size, val_size


def assign_splits(
    organs: pd.Series, test_size: int, val_size: int, seed: int, groups: pd.Series | None = None
) -> pd.Series:
    """Assign each image to a split.

    Each organ gives its proportional number of images to each split (largest remainders). With groups, a whole group
    goes to one split, so that the sizes hold only as nearly as the groups allow.

    Args:
        organs: Organ by image id.
        test_size: Images for the test split.
        val_size: Images for the validation split.
        seed: Seed of the shuffle.
        groups: Group by image id, or None.

    Returns:
        ``train``, ``validation`` or ``test`` by image id, in the order of `organs`.
    """
    wanted = {
        "test": _share_out(organs.value_counts(), test_size, len(organs)),
        "validation": _share_out(organs.value_counts(), val_size, len(organs)),
    }
    return _deal(organs, groups, wanted, "train", np.random.default_rng(seed))


def assign_folds(organs: pd.Series, folds: int, seed: int, groups: pd.Series | None = None) -> pd.Series:
    """Number the fold, 0 to K-1, of each image; stratified by organ, whole groups together.

    Args:
        organs: Organ by image id.
        folds: K.
        seed: Seed of the shuffle.
        groups: Group by image id, or None.

    Returns:
        Fold by image id.

    Raises:
        ValueError: More folds than groups, or than images of the commonest organ.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    units = len(organs) if groups is None else groups.loc[organs.index].nunique()
    if folds > min(units, organs.value_counts().max()):
        raise ValueError(
            f"{folds} folds of {len(organs)} images are too many: each needs an image of the commonest organ, "
            "and a group of its own; lower the number of folds"
        )
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    result = pd.Series(0, index=organs.index)
    with warnings.catch_warnings():
        # scikit-learn warns of an organ with fewer images than folds; some folds then have none of it.
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = splitter.split(organs, organs, None if groups is None else groups.loc[organs.index])
        for fold, (_, held_out) in enumerate(parts):
            result.iloc[held_out] = fold
    return result


def read_groups(path: Path, ids: pd.Index) -> pd.Series:
    """Read a CSV with columns ``id,group``; other columns are ignored.

    Args:
        path: The CSV.
        ids: Image ids that the file must have.

    Returns:
        Group, as text, by image id.

    Raises:
        DataError: The file lacks a column or an id, or has an id twice.
    """
    cells = read_cells(path, ("id", "group"))
    problems = check_ids(path.name, cells["id"])
    missing = [str(i) for i in ids if str(i) not in set(cells["id"])]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        problems.append(Problem("error", path.name, None, f"has no row for id {listed}", "give each image a group"))
    if problems:
        raise DataError(problems)
    return cells.set_index("id")["group"].reindex([str(i) for i in ids]).set_axis(ids)


def _share_out(counts: pd.Series, size: int, total: int) -> dict[str, int]:
    """Deal `size` over organs in proportion to their counts, largest remainders first."""
    exact = counts.sort_index() * size / total
    dealt = np.floor(exact).astype(int)
    for organ in (exact - dealt).sort_values(ascending=False, kind="stable").index[: size - int(dealt.sum())]:
        dealt[organ] += 1
    return {str(organ): int(n) for organ, n in dealt.items()}


def _deal(
    organs: pd.Series,
    groups: pd.Series | None,
    wanted: dict[str, dict[str, int]],
    rest: str,
    rng: np.random.Generator,
) -> pd.Series:
    """Deal shuffled units (images or groups) to the parts until each part has its number of each organ."""
    left = {part: Counter(by_organ) for part, by_organ in wanted.items()}
    names, result = organs.to_numpy(str), np.full(len(organs), rest, object)
    units = pd.Series(np.arange(len(organs)), index=organs.index) if groups is None else groups.loc[organs.index]
    members = units.groupby(units, sort=False).indices
    # Large groups first, because they fit less easily once little is left to deal.
    for unit in sorted(rng.permutation(units.unique().tolist()), key=lambda unit: len(members[unit]), reverse=True):
        counts = Counter(names[members[unit]].tolist())
        for part, lacking in left.items():
            if counts <= lacking:
                lacking.subtract(counts)
                result[members[unit]] = part
                break
    return pd.Series(result.tolist(), index=organs.index)
