"""A page about one or more runs: settings, curves and scores, in one HTML file that needs no other file or host."""

from __future__ import annotations

import base64
import importlib.resources
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from ..files import write_text
from ..run import HISTORY, RESULTS_TABLE, SCORES, Run

_TEMPLATE = "report.html.j2"
_SETTINGS = ("prepare", "train", "thresholds", "min_region_um2")  # of config.json, shown on the page

_TABLES = ((HISTORY, ["epoch"]), (RESULTS_TABLE, ["split"]), (SCORES, ["split", "dice"]))  # and needed columns


def write_report(runs: list[Path], out: Path) -> None:
    """Write the page.

    Args:
        runs: Run folders.
        out: HTML file to write; it holds the pictures too.

    Raises:
        ValueError: A folder is no run folder.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = importlib.resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    page = environment.from_string(template).render(runs=[_describe(Run.open(run)) for run in runs])
    write_text(out, page + "\n")


def _describe(run: Run) -> dict[str, Any]:
    history, results, scores = (_read(run.folder / name, needed) for name, needed in _TABLES)
    config, network = run.config, run.config.network
    unfinished = f"unfinished, {0 if history is None else len(history)}"
    worst = None
    if scores is not None:
        held_out = scores[scores["split"] != "train"].nsmallest(10, "dice")
        worst = None if held_out.empty else _html(held_out)
    return {
        "name": run.folder.resolve().name,
        "config": config,
        "epochs": unfinished if config.epochs is None else config.epochs,
        "network": f"{network.model} {network.encoder or ''}".strip(),
        "results": None if results is None else _html(results),
        "history": None if history is None else history.to_dict("records"),
        "curves": None if history is None else _curves(history),
        "worst": worst,
        "settings": json.dumps({key: config.to_json()[key] for key in _SETTINGS}, indent=2),
    }


def _read(path: Path, needed: list[str]) -> pd.DataFrame | None:
    """A table of a run folder, which has the needed columns; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
        table[needed]  # raises a KeyError that names those that are missing
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy, or remove it") from error
    return table


def _html(table: pd.DataFrame) -> Any:
    # pandas escapes the cells itself.
    return Markup(table.to_html(index=False, border=0, float_format="{:.4f}".format, na_rep="–"))


def _curves(history: pd.DataFrame) -> str:
    """Loss on the left, validation Dice (all, and by organ) on the right, as base64 PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, label in (("train_loss", "training"), ("validation_loss", "validation")):
        if column in history:
            rows = history.dropna(subset=[column])
            left.plot(rows["epoch"], rows[column], marker=".", label=label)
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    for column in [str(name) for name in history if str(name).startswith("validation_dice")]:
        rows = history.dropna(subset=[column])
        organ = column.removeprefix("validation_dice").lstrip("_")
        style = {"linewidth": 1, "alpha": 0.7} if organ else {"linewidth": 2.5, "color": "black"}
        right.plot(rows["epoch"], rows[column], marker=".", label=organ or "mean", **style)
    right.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    if right.lines:
        right.legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return base64.b64encode(buffer.getvalue()).decode()
