"""The competition's score from per-image Dice, and its table by organ."""

from __future__ import annotations

import pandas as pd

from .competition import ORGAN, SOURCE
from .words import count


def mean_dice(scores: pd.DataFrame) -> float:
    """Mean of the column ``dice`` over images, the competition's score, in [0, 1]; NaN without images."""
    return float(scores["dice"].mean())


def dice_by_organ(scores: pd.DataFrame) -> dict[str, float]:
    """Mean Dice of each organ's images; empty if there is no column ``organ``."""
    if ORGAN not in scores:
        return {}
    return {str(organ): float(dice) for organ, dice in scores.groupby(ORGAN)["dice"].mean().items()}


def score_text(scores: pd.DataFrame) -> str:
    """A line ``name  dice  (n images)`` for each organ and source, and ``mean Dice <number>`` as the last line."""
    lines = []
    for column, heading in ((ORGAN, "Dice by organ"), (SOURCE, "Dice by source")):
        if column in scores:
            lines.append(heading)
            for name, dice in scores.groupby(column)["dice"]:
                lines.append(f"{name:<15} {dice.mean():.4f}  ({count(len(dice), 'image')})")
    return "\n".join([*lines, f"mean Dice {mean_dice(scores):.4f}"])
