"""The threshold and the least region size of each organ.

`first_rule` takes the region sizes to begin with from the true masks of the training images. `sweep` computes the
Dice of an image that the network was not trained on, for every pair of a threshold and a least region size. `choose`
takes the best pair of each organ from a table of them; with the tables of several folds together it chooses on all
images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.ndimage import correlate1d

from .. import rle
from ..config import TrainConfig
from ..masks import MaskBuilder, MaskRule
from ..regions import Regions, area_px
from ..tables import Image

THRESHOLDS = tuple(percent / 100 for percent in range(10, 95, 5))
# The units are larger: a crypt has some 5000 um², an alveolus 8000, a glomerulus 25 000.
REGION_UM2 = (0.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0)
PAIR = ["threshold", "min_region_um2"]
LEAST_KEPT = 0.998  # least mean Dice of true masks without their small regions
LEAST_IMAGES = 5  # least number of images of an organ on which to choose
LEAST_GAIN = 2.0  # in standard errors
NEAR = 1e-3  # mean Dice values that differ by less count as equal


def first_rule(images: Sequence[Image], config: TrainConfig) -> MaskRule:
    """The rule before validation: the settings' threshold, and least region sizes that spare nearly all units.

    A region that is smaller than the annotated units is seldom one of them. So the true masks are scored without their
    small regions, and the largest size of `REGION_UM2` that keeps the mean Dice of an organ at `LEAST_KEPT` is taken.

    Args:
        images: Training images, with their true masks.
        config: Settings; without ``tune`` no region is dropped.

    Returns:
        The rule for the organs of `images`.
    """
    kept = defaultdict(list)
    for image in images if config.tune else ():
        if image.rle:  # an empty mask has no unit to spare
            truth = rle.parse(image.rle, image.shape)
            regions = Regions(truth, image.shape)
            sizes = [area_px(area, image.pixel_size_um) for area in REGION_UM2]
            kept[image.organ].append([rle.dice_of_runs(regions.at_least(size), truth) for size in sizes])
    spared = {organ: np.mean(rows, axis=0) >= LEAST_KEPT for organ, rows in kept.items()}
    least_um2 = {organ: max(np.array(REGION_UM2)[these].tolist()) for organ, these in spared.items()}
    organs = sorted({image.organ for image in images})
    return MaskRule.uniform(config.threshold, organs=organs).override(min_region_um2=least_um2)


def sweep(probability: np.ndarray, truth: np.ndarray, pixel_size_um: float) -> np.ndarray:
    """Dice of an image for every threshold and least region size.

    Args:
        probability: ``(H, W)`` float32 in [0, 1], at the image's own size.
        truth: Runs of its true mask, ``(n, 2)`` int64, ``[start, stop)``.
        pixel_size_um: Size of its pixels, in um.

    Returns:
        ``(len(THRESHOLDS), len(REGION_UM2))`` float64 in [0, 1].
    """
    dice = np.empty((len(THRESHOLDS), len(REGION_UM2)))
    for row, threshold in zip(dice, THRESHOLDS, strict=True):
        mask = MaskBuilder((probability.shape[0], probability.shape[1]), pixel_size_um, threshold)
        mask.add(probability)
        row[:] = [rle.dice_of_runs(mask.runs(area), truth) for area in REGION_UM2]
    return dice


def sweep_table(ids: Sequence[int], organs: Sequence[str], dice: np.ndarray) -> pd.DataFrame:
    """Images' sweeps as one table.

    Args:
        ids: Ids of the images.
        organs: Organs of the images.
        dice: ``(n, len(THRESHOLDS), len(REGION_UM2))``.

    Returns:
        Columns ``id``, ``organ``, ``threshold``, ``min_region_um2``, ``dice``; one row per image and pair,
        the images in their order.
    """
    pairs = pd.MultiIndex.from_product([THRESHOLDS, REGION_UM2], names=PAIR).to_frame(index=False)
    images = pd.DataFrame({"id": ids, "organ": organs})
    return images.merge(pairs, how="cross").assign(dice=dice.ravel())


def dice_at(table: pd.DataFrame, rule: MaskRule) -> npt.NDArray[np.float64]:
    """Dice of each image by a rule, looked up in a sweep.

    Args:
        table: See `sweep_table`. An image whose organ's threshold and least region size were not tried is left out.
        rule: Threshold and least region size of each organ.

    Returns:
        float64 in [0, 1], one for each image, in the order in which the images come in `table`.
    """
    pairs = {organ: rule.of(organ) for organ in table["organ"].unique()}
    chosen = np.isclose(table["threshold"], table["organ"].map({organ: pair[0] for organ, pair in pairs.items()}))
    chosen &= np.isclose(table["min_region_um2"], table["organ"].map({organ: pair[1] for organ, pair in pairs.items()}))
    return np.asarray(table.loc[chosen, "dice"], np.float64)


def choose(table: pd.DataFrame, present: MaskRule) -> MaskRule:
    """Choose the threshold and least region size of each organ by the mean Dice of its images.

    An organ keeps its present pair unless it has at least `LEAST_IMAGES` images, and their mean gain with the best pair
    is above `LEAST_GAIN` times its standard error. A choice on few images would be luck, and lose on other images.

    Args:
        table: See `sweep_table`; for one validation, or for those of several folds together.
        present: The rule to improve.

    Returns:
        The chosen rule, for the organs of `present` and of `table`.

    Raises:
        ValueError: The images of an organ were not tried with the same thresholds and sizes.
    """
    thresholds, min_region_um2 = dict(present.thresholds), dict(present.min_region_um2)
    # Rounded, because a number may come back from a CSV with another last digit.
    for organ, rows in table.round(dict.fromkeys(PAIR, 6)).groupby("organ"):
        dice = rows.pivot(index="id", columns=PAIR, values="dice")
        if dice.isna().any(axis=None) or len(rows) != dice.size or dice.shape[1] != len(THRESHOLDS) * len(REGION_UM2):
            raise ValueError(
                f"the images of {organ} were not all tried with the same thresholds and least region sizes; "
                "the tables are of different versions of the kit: train the folds again with one"
            )
        best = _best(dice.mean().unstack())
        thresholds[str(organ)], min_region_um2[str(organ)] = present.of(str(organ))
        before = _nearest(thresholds[str(organ)], THRESHOLDS), _nearest(min_region_um2[str(organ)], REGION_UM2)
        gain = (dice[best] - dice[before]).to_numpy(np.float64)
        if len(gain) >= LEAST_IMAGES and gain.mean() > LEAST_GAIN * gain.std(ddof=1) / len(gain) ** 0.5:
            thresholds[str(organ)], min_region_um2[str(organ)] = best
    return MaskRule(thresholds, min_region_um2)


def _best(mean: pd.DataFrame) -> tuple[float, float]:
    """The best pair in a table of mean Dice, with one row for each threshold and one column for each least region size.

    The curve over thresholds is rough if there are few images, and its highest point is partly luck. Therefore each
    mean is first averaged with those of the neighbouring thresholds (weights 1/4, 1/2, 1/4). From the least region
    sizes whose best mean is within `NEAR` of the best of all, the smallest is taken; from its thresholds that are
    within `NEAR` of its best one, the middle one, or the lower of the two in the middle.
    """
    smooth = correlate1d(mean.to_numpy(), [0.25, 0.5, 0.25], axis=0, mode="nearest")
    best = smooth.max(axis=0)
    size = int(np.argmax(best >= best.max() - NEAR))
    near = np.flatnonzero(smooth[:, size] >= best[size] - NEAR)
    return float(mean.index[near[(len(near) - 1) // 2]]), float(mean.columns[size])


def _nearest(value: float, grid: Sequence[float]) -> float:
    return min(grid, key=lambda tried: abs(tried - value))
