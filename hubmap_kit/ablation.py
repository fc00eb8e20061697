"""The ablation table: what each part of a recipe brings, on validation images, one row a change.

Every row is trained (or, where only prediction changes, predicted) with the same budget and with several seeds,
and scored at threshold 0.5 on the same validation images. What is done is kept, so that a stopped command goes on
with the next row::

    stores/                patch stores, one for each geometry
    runs/{row}-seed{n}/    run folders
    scores/{row}-seed{n}.csv   id, organ, dice
    ablation.csv, .md      the table
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from . import rle
from .adaptation import adapted
from .competition import ORGANS, image_path, read_train
from .config import STRIDE, PredictConfig, PrepareConfig, TrainConfig
from .evaluation import MAPS, SWEEP
from .files import replacing, write_text
from .inference import predict_jobs
from .members import Job
from .metrics import dice_by_organ, mean_dice
from .patches import PatchStore, prepare
from .pseudo import pseudo_label
from .run import Run, is_finished
from .thresholds import choose
from .training import train

BASE = "base"
# All rows are compared at the same, plain threshold, so that a row is judged by its network.
PLAIN = PredictConfig(threshold=0.5, min_region_um2=0.0)


@dataclass(frozen=True)
class Row:
    """A change against the base.

    Attributes:
        about: What is changed, for the table.
        geometry: Changes the geometry.
        train: Settings of the training that are changed.
        predict: Settings of the prediction that are changed, on the base's runs.
        own: A row that is neither a training nor a prediction of its own: ``thresholds``, ``ensemble``, ``pseudo``.
    """

    about: str
    geometry: Callable[[PrepareConfig], PrepareConfig] | None = None
    train: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    own: str = ""


def _seen_at(factor: float) -> Callable[[PrepareConfig], PrepareConfig]:
    """The same tissue in `factor` times as many pixels."""
    return lambda config: replace(config, input_size=round(config.input_size * factor / STRIDE) * STRIDE)


def _context(factor: float) -> Callable[[PrepareConfig], PrepareConfig]:
    """`factor` times as much tissue at the same pixel size."""

    def change(config: PrepareConfig) -> PrepareConfig:
        size = round(config.input_size * factor / STRIDE) * STRIDE
        exact = size / config.input_size
        if config.context_um is not None:
            wider = ",".join(f"{organ}={um * exact:g}" for organ, um in config.contexts().items())
            return replace(config, input_size=size, context_um=wider)
        return replace(config, input_size=size, patch_size=round(config.patch_size * exact))

    return change


PLAIN_GEOMETRY = "flip,turn,scale"
ROWS: dict[str, Row] = {
    BASE: Row("the recipe, cut short"),
    "finer": Row("pixels 3/4 the size, same context", geometry=_seen_at(4 / 3)),
    "coarser": Row("pixels 4/3 the size, same context", geometry=_seen_at(3 / 4)),
    "context-small": Row("half the context, same pixels, 4 times the patches", geometry=_context(0.5)),
    "context-large": Row("twice the context, same pixels, a quarter of the patches", geometry=_context(2)),
    "no-scale": Row("no random scale", train={"scale_range": 1.0}),
    "scale-more": Row("random scale to a factor of 2", train={"scale_range": 2.0}),
    "no-stain": Row("no stain augmentation", train={"augment": PLAIN_GEOMETRY}),
    "stain-only": Row("stain augmentation without coarsening", train={"augment": f"{PLAIN_GEOMETRY},stain=0.75"}),
    "hed": Row(
        "HED, colour and brightness in place of stain mixing",
        train={"augment": f"{PLAIN_GEOMETRY},hed=0.75,colour=0.5,brightness=0.5,coarse=0.25"},
    ),
    "reinhard": Row(
        "stain transfer (Reinhard) on a third of the patches as well",
        train={"augment": f"{PLAIN_GEOMETRY},reinhard=0.33,stain=0.75,coarse=0.25"},
    ),
    "macenko": Row(
        "stain transfer (Macenko) on a third of the patches as well",
        train={"augment": f"{PLAIN_GEOMETRY},macenko=0.33,stain=0.75,coarse=0.25"},
    ),
    "everything": Row(
        "elastic, brightness, blur, noise, JPEG and cut-out as well",
        train={
            "augment": f"{PLAIN_GEOMETRY},elastic=0.3,stain=0.75,brightness=0.3,coarse=0.25,blur=0.2,noise=0.2,"
            "jpeg=0.2,cutout=0.2"
        },
    ),
    "cutmix": Row("cutmix on half of the patches", train={"cutmix": 0.5}),
    "bce": Row("cross-entropy alone", train={"loss": "bce"}),
    "lovasz": Row("BCE and Lovász", train={"loss": "bce+lovasz"}),
    "focal": Row("focal loss and Dice", train={"loss": "focal+dice"}),
    "tversky": Row("BCE and Tversky", train={"loss": "bce+tversky"}),
    "auxiliary": Row("heads for organ and pixel size", train={"auxiliary": 0.1}),
    "ema": Row("moving average of the weights", train={"ema": 0.98}),
    "no-ema": Row("no moving average of the weights", train={"ema": 0.0}),
    "decoder-256": Row("decoder twice as wide", train={"decoder_filters": 256}),
    "random-weights": Row("no pretrained encoder", train={"encoder_weights": "none"}),
    "pseudo": Row("soft masks of the base on the validation images, as further training data", own="pseudo"),
    "flips": Row("test-time augmentation: flips", predict={"tta": "flips"}),
    "d4": Row("test-time augmentation: flips and quarter turns", predict={"tta": "d4"}),
    "scales": Row("test-time augmentation: three scales", predict={"scales": "0.8,1,1.25"}),
    "to-reinhard": Row("images brought to the training's look (Reinhard)", predict={"stain": "reinhard"}),
    "to-macenko": Row("images brought to the training's look (Macenko)", predict={"stain": "macenko"}),
    "batchnorm": Row("BatchNormalization re-estimated on the test tissue", predict={"adapt": "batchnorm"}),
    "self-training": Row("training on its own confident masks", predict={"adapt": "self-training"}),
    "thresholds": Row("thresholds and region sizes chosen on the other half of the images", own="thresholds"),
    "ensemble": Row("all seeds of the base together", own="ensemble"),
}


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
        geometry: Settings of the patches; with folds.
        config: Settings of the base; `fold` is the one it is validated on (0 by default).
        rows: Names of `ROWS`; all by default. The base always comes first.
        seeds: Trainings a row.

    Returns:
        The table: columns ``row``, ``dice``, ``spread``, ``gain``, ``gain_spread``, one column an organ, ``seeds``,
        ``about``. ``dice`` is the mean over seeds, ``gain`` what it is above the base with the same seeds, and the
        spreads are standard deviations over seeds.

    Raises:
        ValueError: Unknown rows, no folds, or settings other than those that `out` was begun with.
    """
    unknown = sorted(set(rows or ()) - ROWS.keys())
    if unknown:
        raise ValueError(f"there is no row {', '.join(unknown)}; choose among {', '.join(ROWS)}")
    if not geometry.folds:
        raise ValueError("an ablation is scored on a validation fold; give --folds 2 or more")
    config = replace(config, fold=config.fold or 0, tune=True)
    _check_begun(out, geometry, config)
    wanted = [BASE, *(name for name in ROWS if name != BASE and (rows is None or name in rows))]
    work = _Work(data, out, geometry, config, seeds)
    for name in wanted:
        for seed in range(seeds):
            work.score(name, seed)
        table = _table(out, seeds)
        _write_table(out, table)
        print(_line(table, name), flush=True)
    return table


def _check_begun(out: Path, geometry: PrepareConfig, config: TrainConfig) -> None:
    """Keep what the folder was begun with, or refuse other settings."""
    about = json.loads(json.dumps({"geometry": asdict(geometry), "train": asdict(config)}))
    path = out / "ablation.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != about:
        raise ValueError(f"{out} was begun with other settings; give the same, or name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(about, indent=2) + "\n")


@dataclass(frozen=True)
class _Work:
    """What it takes to do a row."""

    data: Path
    out: Path
    geometry: PrepareConfig
    config: TrainConfig
    seeds: int

    def score(self, name: str, seed: int) -> None:
        """Do a row with a seed unless its scores are there."""
        target = self.out / "scores" / f"{name}-seed{seed}.csv"
        if target.is_file():
            return
        print(f"{name}, seed {seed}: {ROWS[name].about}", flush=True)
        scores = self._scores(name, seed)
        target.parent.mkdir(exist_ok=True)
        with replacing(target) as part:
            scores[["id", "organ", "dice"]].to_csv(part, index=False, float_format="%.6f")

    def _scores(self, name: str, seed: int) -> pd.DataFrame:
        row = ROWS[name]
        if row.own == "thresholds":
            return self._cross_fitted(seed)
        if row.own == "ensemble":
            return self._predicted([self._run(BASE, each) for each in range(self.seeds)], PLAIN)
        if row.predict:
            return self._predicted([self._run(BASE, seed)], replace(PLAIN, **row.predict))
        return self._predicted([self._trained(name, seed)], PLAIN)

    def _run(self, name: str, seed: int) -> Path:
        return self.out / "runs" / f"{name}-seed{seed}"

    def _store(self, name: str) -> Path:
        """The patch store of a row's geometry."""
        change = ROWS[name].geometry
        folder = self.out / "stores" / (name if change else BASE)
        if not (folder / "store.json").is_file():
            prepare(self.data, folder, change(self.geometry) if change else self.geometry)
        return folder

    def _trained(self, name: str, seed: int) -> Path:
        """The row's run, trained if need be."""
        run = self._run(name, seed)
        if is_finished(run):
            return run
        row = ROWS[name]
        store = self._store(name)
        config = replace(self.config, seed=seed, **row.train)
        ratio = self.geometry.input_size / PatchStore.open(store).config.input_size
        if name.startswith("context"):  # as many pixels a step
            config = replace(config, batch_size=max(1, round(config.batch_size * ratio**2)))
        if row.own == "pseudo":
            soft = self.out / "stores" / f"pseudo-seed{seed}"
            pseudo_label(self._unlabelled(), store, soft, [self._run(BASE, seed)], PLAIN)
            config = replace(config, pseudo=str(soft))
        train(store, run, config, recipe=f"ablation {name}", resume=run.exists())
        shutil.rmtree(run / MAPS, ignore_errors=True)
        return run

    def _unlabelled(self) -> Path:
        """The validation images as a competition folder's test images, without masks."""
        folder = self.out / "unlabelled"
        validation = PatchStore.open(self._store(BASE)).ids("validation", self.config.fold)
        table = read_train(self.data).loc[validation].drop(columns="rle")
        (folder / "test_images").mkdir(parents=True, exist_ok=True)
        for image_id in validation:
            link = image_path(folder, "test", image_id)
            if not link.exists():
                link.symlink_to(image_path(self.data.resolve(), "train", image_id))
        with replacing(folder / "test.csv") as part:
            table.to_csv(part)
        return folder

    def _jobs(self) -> list[Job]:
        store = PatchStore.open(self._store(BASE))
        jobs = []
        for image_id in store.ids("validation", self.config.fold):
            row = store.images.loc[image_id]
            shape = (int(row["img_height"]), int(row["img_width"]))
            path = image_path(store.data, "train", image_id)
            jobs.append(Job(image_id, path, row["organ"], float(row["pixel_size"]), shape, row["data_source"]))
        return jobs

    def _predicted(self, runs: list[Path], config: PredictConfig) -> pd.DataFrame:
        """Dice of the validation images, predicted as a submission is."""
        truth = PatchStore.open(self._store(BASE)).images["rle"]
        jobs = {job.id: job for job in self._jobs()}
        scores = []
        for result in predict_jobs(list(jobs.values()), [Run.open(run) for run in runs], config, adapt=adapted):
            if result.rle is None:
                raise ValueError(f"image {result.id} cannot be predicted: {result.error}") from result.error
            job = jobs[result.id]
            scores.append((job.id, job.organ, rle.dice(result.rle, truth[job.id], job.shape)))
        return pd.DataFrame(scores, columns=["id", "organ", "dice"])

    def _cross_fitted(self, seed: int) -> pd.DataFrame:
        """Dice of each half of the validation images with what is best for the other half."""
        sweep = pd.read_csv(self._run(BASE, seed) / SWEEP)
        halves = [set(ids) for ids in (sorted(set(sweep["id"]))[0::2], sorted(set(sweep["id"]))[1::2])]
        parts = []
        for judged, by in (halves, halves[::-1]):
            # An organ without images in the other half is judged at the plain threshold.
            chosen = choose(sweep[sweep["id"].isin(by)], dict.fromkeys(ORGANS, 0.5), dict.fromkeys(ORGANS, 0.0))
            table = sweep[sweep["id"].isin(judged)]
            parts.append(table.drop_duplicates("id")[["id", "organ"]].assign(dice=chosen.dice(table)))
        return pd.concat(parts)


def _table(out: Path, seeds: int) -> pd.DataFrame:
    """The table of what is done."""
    done = {
        (name, seed): pd.read_csv(path)
        for name in ROWS
        for seed in range(seeds)
        if (path := out / "scores" / f"{name}-seed{seed}.csv").is_file()
    }
    rows = []
    for name in ROWS:
        scores = {seed: done[name, seed] for seed in range(seeds) if (name, seed) in done}
        if not scores:
            continue
        dice = pd.Series({seed: mean_dice(table) for seed, table in scores.items()})
        gain = pd.Series({seed: dice[seed] - mean_dice(done[BASE, seed]) for seed in scores if (BASE, seed) in done})
        organs = dice_by_organ(pd.concat(scores.values()))
        spread, gain_spread = (float(values.std(ddof=0)) for values in (dice, gain))
        row = {"row": name, "dice": dice.mean(), "spread": spread, "gain": gain.mean(), "gain_spread": gain_spread}
        rows.append(row | organs | {"seeds": len(scores), "about": ROWS[name].about})
    return pd.DataFrame(rows)


def _write_table(out: Path, table: pd.DataFrame) -> None:
    with replacing(out / "ablation.csv") as part:
        table.to_csv(part, index=False, float_format="%.5f")
    shown = [column for column in table if column != "about"]
    lines = ["| " + " | ".join(["change", *shown]) + " |", "|---" * (len(shown) + 1) + "|"]
    for _, row in table.iterrows():
        cells = [f"{value:+.4f}" if name == "gain" else _cell(value) for name, value in row[shown].items()]
        lines.append("| " + " | ".join([row["about"], *cells]) + " |")
    write_text(out / "ablation.md", "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _line(table: pd.DataFrame, name: str) -> str:
    row = table.set_index("row").loc[name]
    return f"{name}: mean Dice {row['dice']:.4f} ± {row['spread']:.4f}, {row['gain']:+.4f} against the base"
