"""The ablation table: the gain of each part of a recipe, on validation images.

Every row of `hubmap_kit.ablation.rows` is trained with several seeds and the same number of steps; a row that changes
only the prediction is predicted with the base's runs. All rows are scored at threshold 0.5 on the same validation
images. Results are kept, and a stopped command goes on where it stopped::

    ablation.json              settings of the base
    stores/                    patch stores, one for each geometry, and those of soft masks
    runs/{row}-seed{n}/        run folders
    scores/{row}-seed{n}.csv   id, organ, dice; {row}-of{n}.csv for the ensemble of n seeds
    ablation.csv, .md          the table
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import rle
from ..competition import ID, ORGAN, RLE, SOURCE, image_path, table_path
from ..config import WHOLE, PredictConfig, PrepareConfig, TrainConfig
from ..files import is_free, read_json, replacing, sha256_of, write_json, write_text
from ..masks import MaskRule
from ..metrics import dice_by_organ, mean_dice
from ..models.hardware import start_tensorflow
from ..prediction.predict import predict_images
from ..preparation.prepare import prepare
from ..preparation.store import STORE, PatchStore
from ..run import MAPS, SWEEP, TEST_MAPS, Run, is_finished, read_prepare, read_train, turned_constants
from ..tables import read_images, table_of
from ..training.pseudo_labels import pseudo_label
from ..training.thresholds import choose, dice_at
from ..words import duration
from .rows import BASE, ROWS, plan

# All rows are compared at the same, plain threshold, so that a row is judged by its network.
PLAIN = PredictConfig(threshold=0.5, min_region_um2=0.0)


def ablation(
    data: Path,
    out: Path,
    geometry: PrepareConfig,
    config: TrainConfig,
    *,
    rows: list[str] | None = None,
    seeds: int = 2,
) -> pd.DataFrame:
    """Train, predict and score the rows, and write the table.

    Args:
        data: Competition folder.
        out: Folder to write; see the module's docstring.
        geometry: Settings of the patches; they must have folds.
        config: Settings of the base; it is validated on fold ``fold`` (default: 0).
        rows: Names of `hubmap_kit.ablation.rows.ROWS`; all by default. The base always comes first, and a row that does
            not differ from it is left out.
        seeds: Number of trainings for each row.

    Returns:
        The table of all rows in `out`: columns ``row``, ``dice``, ``spread``, ``gain``, ``error``, one column for each
        organ, ``seeds``, ``about``. ``dice`` is the mean over seeds and ``spread`` its standard deviation over seeds.
        ``gain`` is the difference to the base with the same seeds, and ``error`` its standard error from images and
        from seeds (the root of the sum of both squares). From images: the differences of each image are averaged over
        seeds, and their standard deviation is divided by the root of the number of images. From seeds: the standard
        deviation of the mean difference, divided by the root of the number of seeds; its square is averaged over all
        rows that are trained, or over all that are only predicted, since each row has few seeds. If all of these have
        one seed, the error is that from images alone.

    Raises:
        DataError: Bad tables, or images that cannot be read.
        ValueError: Unknown rows, no such fold, or settings other than those that `out` was begun with.
    """
    config = replace(config, fold=config.fold or 0, tune=True)
    wanted = plan(geometry, config, rows)
    for name in ROWS if rows is None else rows:
        if name not in {*wanted, BASE}:
            print(f"{name}: left out, since it does not differ from the base", flush=True)
    _check_begun(data, out, geometry, config)
    work = _Work(data, out, geometry, config, seeds)
    begin = time.monotonic()
    for done, name in enumerate(wanted, start=1):
        for seed in range(seeds):
            work.score(name, seed)
        table = work.table()
        _write_table(out, table)
        left_s = (time.monotonic() - begin) / done * (len(wanted) - done)
        left = f"; row {done} of {len(wanted)}, about {duration(left_s)} left" if left_s else ""
        print(_line(table, name) + left, flush=True)
    return table


def _check_begun(data: Path, out: Path, geometry: PrepareConfig, config: TrainConfig) -> None:
    """Keep the settings that a folder was begun with, or refuse other ones.

    Paths may differ, because the ablation may be continued on another computer. As long as the folder holds no
    finished store, no run and no score, the settings may change.
    """
    path = out / "ablation.json"
    holds_work = any(next(out.glob(each), None) for each in (f"stores/*/{STORE}", "runs", "scores"))
    if not (path.is_file() or holds_work or is_free(out)):
        raise ValueError(f"{out} holds other files and no ablation; name an empty or new folder")
    if not holds_work:
        read_images(data, "train")
    facts = asdict(geometry) | asdict(config)
    del facts["seed"]  # a row is trained with several seeds; the split's seed is added below
    facts |= {"split seed": geometry.seed, "training images": sha256_of(table_path(data, "train"))}
    facts["groups"] = sha256_of(Path(geometry.groups)) if geometry.groups else None
    for name in ("encoder_weights", "looks_from", "pseudo"):
        facts[name] = Path(facts[name]).name if facts[name] else None
    facts = json.loads(json.dumps(facts))
    begun = _read_begun(path) if holds_work and path.is_file() else facts
    changed = sorted(name for name in facts.keys() | begun.keys() if facts.get(name) != begun.get(name))
    if changed:
        raise ValueError(f"{out} was begun with other {', '.join(changed)}; give the same, or name another folder")
    write_json(path, facts)


def _read_begun(path: Path) -> dict[str, Any]:
    """The settings in an ``ablation.json``.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        values = read_json(path)
        if not isinstance(values, dict):
            raise TypeError("it is no JSON object")
        return _convert(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from a copy, or name another folder") from error


def _convert(begun: dict[str, Any]) -> dict[str, Any]:
    """The settings of an ``ablation.json`` that an earlier version wrote, under the names that they have now.

    A setting that has become a constant stays if it had another value; the folder is then refused by its name.
    """
    if "pixel_size_um" not in begun:
        return begun
    of_geometry = {
        "pixel_size_um",
        "context_um",
        "whole",
        "min_mask_share",
        *(each.name for each in fields(PrepareConfig)),
    }
    facts = {name: begun[name] for name in ("split seed", "training images")}
    prepare = read_prepare({name: value for name, value in begun.items() if name in of_geometry})
    if begun["whole"]:
        prepare = replace(prepare, context=WHOLE)
    train = read_train({name: value for name, value in begun.items() if name not in of_geometry | facts.keys()})
    settings = asdict(prepare) | asdict(train)
    del settings["seed"]
    return settings | facts | turned_constants(begun)


@dataclass(frozen=True)
class _Work:
    """Everything that is needed to do a row, see `ablation` for the fields."""

    data: Path
    out: Path
    geometry: PrepareConfig
    config: TrainConfig
    seeds: int

    def score(self, name: str, seed: int) -> None:
        """Write the scores of a row with a seed, unless they are there."""
        target = self._target(name, seed)
        if target.is_file():
            return
        print(f"{name}, seed {seed}: {ROWS[name].about}", flush=True)
        scores = self._scores(name, seed)
        with replacing(target) as part:
            scores[["id", "organ", "dice"]].to_csv(part, index=False, float_format="%.6f")

    def table(self) -> pd.DataFrame:
        """The table of the rows that are done, see `ablation`."""
        seeds = range(self.seeds)
        base = {seed: pd.read_csv(path) for seed in seeds if (path := self._target(BASE, seed)).is_file()}
        lines: dict[str, dict[str, Any]] = {}
        by_seed = {}
        for name, row in ROWS.items():
            scores = {s: pd.read_csv(path) for s in base if (path := self._target(name, s)).is_file()}
            if not scores:
                continue
            dice = pd.Series({seed: mean_dice(table) for seed, table in scores.items()})
            gains = pd.DataFrame(
                {s: table.set_index("id")["dice"] - base[s].set_index("id")["dice"] for s, table in scores.items()}
            )
            gain, by_seed[name] = gains.mean(axis=1), gains.mean()
            line = {
                "row": name,
                "dice": dice.mean(),
                "spread": dice.std(ddof=0),
                "gain": gain.mean(),
                "error": gain.sem(),
            }
            organs = dice_by_organ(pd.concat(scores.values()))
            lines[name] = line | organs | {"seeds": len(scores), "about": row.about}
        for trained in (True, False):
            alike = [name for name in by_seed if name != BASE and ROWS[name].is_trained == trained]
            with_several = [name for name in alike if lines[name]["seeds"] > 1]
            variance = float(np.mean([by_seed[name].var() for name in with_several])) if with_several else 0.0
            for name in alike:
                lines[name]["error"] = math.hypot(lines[name]["error"], math.sqrt(variance / lines[name]["seeds"]))
        return pd.DataFrame(lines.values())

    def _target(self, name: str, seed: int) -> Path:
        """The file of a row's scores."""
        of = f"of{self.seeds}" if ROWS[name].special == "ensemble" else f"seed{seed}"
        return self.out / "scores" / f"{name}-{of}.csv"

    def _scores(self, name: str, seed: int) -> pd.DataFrame:
        row = ROWS[name]
        if row.special == "thresholds":
            return self._cross_fitted(seed)
        if row.special == "ensemble":
            return self._predicted([self._trained(BASE, each) for each in range(self.seeds)], PLAIN)
        if row.predict:
            return self._predicted([self._trained(BASE, seed)], replace(PLAIN, **row.predict))
        return self._predicted([self._trained(name, seed)], PLAIN)

    def _store(self, name: str) -> Path:
        """The patch store of a row's geometry."""
        geometry = ROWS[name].geometry(self.geometry)
        folder = self.out / "stores" / (BASE if geometry == self.geometry else name)
        if not (folder / STORE).is_file():
            prepare(self.data, folder, geometry)
        return folder

    def _trained(self, name: str, seed: int) -> Path:
        """The row's run folder; the run is trained if it is not finished."""
        run = self.out / "runs" / f"{name}-seed{seed}"
        if is_finished(run):
            return run
        row, store = ROWS[name], self._store(name)
        config = replace(row.training(self.config), seed=seed)
        if row.keeps_pixels:
            larger = (row.geometry(self.geometry).input_size / self.geometry.input_size) ** 2
            config = replace(config, batch_size=max(1, round(config.batch_size / larger)))
        if row.special == "pseudo":
            config = replace(config, pseudo=self._soft_masks(f"pseudo-seed{seed}", "validation", [seed]))
        elif row.special == "distil":
            config = replace(config, pseudo=self._soft_masks("distil", "train", range(self.seeds)))
        start_tensorflow()
        from ..training.train import train

        train(store, run, config, recipe=f"ablation {name}", resume=run.exists(), page=False)
        for maps in (MAPS, TEST_MAPS):
            shutil.rmtree(run / maps, ignore_errors=True)
        return run

    def _soft_masks(self, name: str, split: str, seeds: Iterable[int]) -> str:
        """The store `name` of the soft masks of images of a split, by the base's networks of these seeds together.

        The networks are given the images as a competition folder's test images, without masks.
        """
        store, folder, soft = self._store(BASE), self.out / f"unlabelled-{split}", self.out / "stores" / name
        ids = PatchStore.open(store).ids(split, self.config.fold)
        (folder / "test_images").mkdir(parents=True, exist_ok=True)
        for image_id in ids:
            link = image_path(folder, "test", image_id)
            link.unlink(missing_ok=True)
            link.symlink_to(image_path(self.data.resolve(), "train", image_id))
        with replacing(table_path(folder, "test")) as part:
            images = [image for image in read_images(self.data, "train") if image.id in ids]
            table_of(images).drop(columns=RLE).to_csv(part, index=False)
        runs = [self._trained(BASE, each) for each in seeds]
        pseudo_label(folder, store, soft, runs, PLAIN, overwrite=True)
        return str(soft)

    def _predicted(self, runs: list[Path], config: PredictConfig) -> pd.DataFrame:
        """Dice of the validation images, predicted as a submission is."""
        store = PatchStore.open(self._store(BASE))
        # The store may name the folder of another computer.
        images = {
            i: replace(store.images[i].image, path=image_path(self.data, "train", i))
            for i in store.ids("validation", self.config.fold)
        }
        scores = []
        for result in predict_images(list(images.values()), [Run.open(run) for run in runs], config):
            if result.rle is None:
                raise ValueError(f"image {result.id} cannot be predicted: {result.error}") from result.error
            image = images[result.id]
            dice = rle.dice(result.rle, image.rle, image.shape)
            scores.append((image.id, image.organ, image.source, dice))
        return pd.DataFrame(scores, columns=[ID, ORGAN, SOURCE, "dice"])

    def _cross_fitted(self, seed: int) -> pd.DataFrame:
        """Dice of each half of the validation images, with the thresholds and region sizes chosen on the other half.

        Each organ's images are shared out to both halves.
        """
        sweep = pd.read_csv(self._trained(BASE, seed) / SWEEP)
        images = sweep[["id", "organ"]].drop_duplicates().sort_values(["organ", "id"])
        halves = [images["id"].iloc[0::2], images["id"].iloc[1::2]]
        parts = []
        for judged, others in (halves, halves[::-1]):
            # An organ without images in the other half is judged at the plain threshold.
            chosen = choose(sweep[sweep["id"].isin(others)], MaskRule.uniform(0.5))
            table = sweep[sweep["id"].isin(judged)]
            parts.append(table.drop_duplicates("id")[["id", "organ"]].assign(dice=dice_at(table, chosen)))
        return pd.concat(parts)


def _write_table(out: Path, table: pd.DataFrame) -> None:
    with replacing(out / "ablation.csv") as part:
        table.to_csv(part, index=False, float_format="%.5f")
    unknown = {"spread"} if (table["seeds"] == 1).all() else set()  # of one training
    shown = [str(column) for column in table if column not in {"about", *unknown}]
    lines = ["| " + " | ".join(["change", *shown]) + " |", "|---" * (len(shown) + 1) + "|"]
    for _, row in table.iterrows():
        cells = [_gain(value, row["error"]) if name == "gain" else _cell(value) for name, value in row[shown].items()]
        lines.append("| " + " | ".join([row["about"], *cells]) + " |")
    write_text(out / "ablation.md", "\n".join(lines) + "\n")


def _gain(gain: float, error: float) -> str:
    """A gain; one below its standard error is called none."""
    return f"none ({gain:+.4f})" if abs(gain) < error else f"{gain:+.4f}"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _line(table: pd.DataFrame, name: str) -> str:
    row: Any = table.set_index("row").loc[name]
    spread = f" ± {row['spread']:.4f}" if row["seeds"] > 1 else ""  # of one training none is known
    gain = "" if name == BASE else f", gain {_gain(row['gain'], row['error'])} ± {row['error']:.4f}"
    return f"{name}: mean Dice {row['dice']:.4f}{spread}{gain}"
