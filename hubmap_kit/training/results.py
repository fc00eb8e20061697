"""The end of a training: thresholds are chosen, every split is scored, and the tables are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..files import replacing, write_text
from ..masks import MaskRule
from ..metrics import dice_by_organ
from ..preparation.store import SPLITS
from ..run import MAPS, RESULTS, RESULTS_TABLE, SCORES, SWEEP, TEST_MAPS
from .evaluation import Evaluator
from .thresholds import choose, dice_at


def write_results(
    run: Path, ids: Mapping[str, list[int]], evaluator: Evaluator, *, tune: bool
) -> tuple[MaskRule, dict[str, dict[str, float]]]:
    """Score every split, and write the tables of scores and the maps of the images that were held out.

    Args:
        run: Run folder.
        ids: Images by split.
        evaluator: Scores them.
        tune: Whether to choose the rule for masks on the validation images first.

    Returns:
        The rule, and the results by split, for ``config.json``.
    """
    writes = evaluator.devices.worker == 0
    scores = {}
    if ids["validation"]:
        validation = evaluator.score(ids["validation"], maps=run / MAPS, tries=True)
        scores["validation"] = validation.scores
        if tune:
            before, rule = evaluator.member.rule, choose(validation.sweep, evaluator.member.rule)
            evaluator = replace(evaluator, member=replace(evaluator.member, rule=rule))
            # A pair that was chosen was tried; one that stayed, such as --threshold 0.37, may not have been.
            table, sweep = validation.scores, validation.sweep
            for organ in table["organ"].unique():
                if rule.of(organ) != before.of(organ):
                    table.loc[table["organ"] == organ, "dice"] = dice_at(sweep[sweep["organ"] == organ], rule)
        if writes:
            with replacing(run / SWEEP) as part:
                validation.sweep.to_csv(part, index=False, float_format="%.6f")
    for split in SPLITS:
        if ids[split] and split not in scores:
            maps = run / TEST_MAPS if split == "test" else None  # for the report; nothing is chosen on them
            scores[split] = evaluator.score(ids[split], maps=maps).scores
    parts = [scores[split].assign(split=split) for split in SPLITS if split in scores]
    table = pd.concat(parts, ignore_index=True)
    results = results_by_split(table)
    if writes:
        with replacing(run / SCORES) as part:
            table[["split", "id", "organ", "dice", "loss"]].to_csv(part, index=False, float_format="%.6f")
        with replacing(run / RESULTS_TABLE) as part:
            results.to_csv(part, index=False, float_format="%.6f")
        write_text(run / RESULTS, results.to_string(index=False, float_format="%.4f", na_rep="-") + "\n")
    return evaluator.member.rule, {
        str(row.pop("split")): {str(key): round(value, 6) for key, value in row.items() if pd.notna(value)}
        for row in results.to_dict("records")
    }


def results_by_split(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean loss and Dice of each split, and Dice of each organ, of a table ``split, id, organ, dice, loss``."""
    rows = []
    for split, part in scores.groupby("split", sort=False):
        row = {"split": split, "images": len(part), "loss": part["loss"].mean(), "dice": part["dice"].mean()}
        rows.append(row | dice_by_organ(part))
    return pd.DataFrame(rows)
