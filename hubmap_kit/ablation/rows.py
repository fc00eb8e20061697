"""The rows of an ablation: each changes one thing of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from ..config import STRIDE, WHOLE, PrepareConfig, TrainConfig, organ_text

BASE = "base"


def _as_it_is(config: PrepareConfig) -> PrepareConfig:
    return config


@dataclass(frozen=True)
class Row:
    """A row of the table: the base with one change.

    Attributes:
        about: The change, in words, for the table.
        geometry: Function from the base's settings of the patches to the row's.
        keeps_pixels: Whether the batch size is changed so that a training step has as many pixels as the base's.
        train: Settings of the training that differ from the base's.
        predict: Settings of the prediction that differ; such a row is predicted with the base's runs.
        special: How a row is scored that is neither a training nor a prediction with other settings: ``thresholds``,
            ``ensemble`` or ``pseudo``. Empty for all other rows.
    """

    about: str
    geometry: Callable[[PrepareConfig], PrepareConfig] = _as_it_is
    keeps_pixels: bool = False
    train: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    special: str = ""

    def changes(self, geometry: PrepareConfig, config: TrainConfig) -> bool:
        """Whether the row differs from a base of these settings."""
        trained = self.geometry(geometry) != geometry or replace(config, **self.train) != config
        return trained or bool(self.predict or self.special)


def _sized(config: PrepareConfig, factor: float) -> PrepareConfig:
    """Patches of the same tissue with about `factor` times as many pixels on a side."""
    return replace(config, input_size=max(1, round(config.input_size * factor / STRIDE)) * STRIDE)


def _seen_at(factor: float) -> Callable[[PrepareConfig], PrepareConfig]:
    """A geometry that shows the same tissue in `factor` times as many pixels on a side."""
    return lambda config: _sized(config, factor)


def _context(factor: float) -> Callable[[PrepareConfig], PrepareConfig]:
    """A geometry whose context is `factor` times as long, at the same pixel size.

    It changes nothing if images are taken whole, because there is no more tissue to show.
    """

    def change(config: PrepareConfig) -> PrepareConfig:
        sized = _sized(config, factor)
        if config.context == WHOLE or sized == config:
            return config
        wider = config.network_um().map(lambda um: um * sized.input_size)
        return replace(sized, context=organ_text(wider))

    return change


PLAIN_GEOMETRY = "flip,turn,scale"
ROWS: dict[str, Row] = {
    BASE: Row("the recipe as given"),
    "finer": Row("pixels 3/4 the size, same context", geometry=_seen_at(4 / 3)),
    "coarser": Row("pixels 4/3 the size, same context", geometry=_seen_at(3 / 4)),
    "context-small": Row("half the context, pixels of the same size", geometry=_context(0.5), keeps_pixels=True),
    "context-large": Row("twice the context, pixels of the same size", geometry=_context(2), keeps_pixels=True),
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
    "pseudo": Row("soft masks of the base on the validation images, as further training data", special="pseudo"),
    "flips": Row("test-time augmentation: flips", predict={"tta": "flips"}),
    "d4": Row("test-time augmentation: flips and quarter turns", predict={"tta": "d4"}),
    "scales": Row("test-time augmentation: three scales", predict={"scales": "0.8,1,1.25"}),
    "to-reinhard": Row("images brought to the training's look (Reinhard)", predict={"stain": "reinhard"}),
    "to-macenko": Row("images brought to the training's look (Macenko)", predict={"stain": "macenko"}),
    "batchnorm": Row("BatchNormalization re-estimated on the test tissue", predict={"adapt": "batchnorm"}),
    "self-training": Row("training on its own confident masks", predict={"adapt": "self-training"}),
    "thresholds": Row("thresholds and region sizes chosen on the other half of the images", special="thresholds"),
    "ensemble": Row("all seeds of the base together", special="ensemble"),
}


def plan(geometry: PrepareConfig, config: TrainConfig, rows: Collection[str] | None) -> list[str]:
    """Choose the rows to do: the base, and those rows that differ from it.

    Args:
        geometry: Settings of the base's patches.
        config: Settings of the base's training.
        rows: Names of `ROWS`; None for all.

    Returns:
        Names of rows, in the order of the table.

    Raises:
        ValueError: There is no such row, or no such fold to validate on.
    """
    unknown = sorted(set(rows or ()) - ROWS.keys())
    if unknown:
        raise ValueError(f"there is no row {', '.join(map(repr, unknown))}; choose among {', '.join(ROWS)}")
    fold = config.fold or 0
    if fold >= geometry.folds:
        raise ValueError(
            f"an ablation is scored on a validation fold, here fold {fold}, but there are {geometry.folds} folds; "
            f"give --folds {max(2, fold + 1)} or more"
        )
    wanted = [name for name in ROWS if rows is None or name in rows]
    return [BASE, *(name for name in wanted if name != BASE and ROWS[name].changes(geometry, config))]
