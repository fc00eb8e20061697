"""The rows of an ablation: each changes one thing of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from ..config import STRIDE, WHOLE, PrepareConfig, TrainConfig, organ_text
from ..recipes import STRONG

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
        augment: Augmentations and the least share of patches that each is done to; 0 leaves one out.
        predict: Settings of the prediction that differ; such a row is predicted with the base's runs.
        special: How a row is scored that is neither a training nor a prediction with other settings: ``thresholds``,
            ``ensemble``, ``pseudo`` or ``distil``. Empty for all other rows.
    """

    about: str
    geometry: Callable[[PrepareConfig], PrepareConfig] = _as_it_is
    keeps_pixels: bool = False
    train: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, float] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    special: str = ""

    @property
    def is_trained(self) -> bool:
        """Whether the row is trained, not only predicted with the base's runs."""
        return not self.predict and self.special not in ("thresholds", "ensemble")

    def training(self, config: TrainConfig) -> TrainConfig:
        """The row's settings of the training, for a base with these."""
        given = config.augment_shares()
        shares = given | {name: share and max(share, given.get(name, 0.0)) for name, share in self.augment.items()}
        shares = {name: share for name, share in shares.items() if share}
        if shares != given:
            config = replace(config, augment=",".join(f"{name}={share}" for name, share in shares.items()))
        return replace(config, **self.train)

    def changes(self, geometry: PrepareConfig, config: TrainConfig) -> bool:
        """Whether the row differs from a base of these settings."""
        trained = self.geometry(geometry) != geometry or self.training(config) != config
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


MILD = TrainConfig().augment
OPTICS = ("brightness", "blur", "noise", "jpeg")
ROWS: dict[str, Row] = {
    BASE: Row("the recipe as given"),
    "finer": Row("pixels 3/4 the size, same context", geometry=_seen_at(4 / 3)),
    "coarser": Row("pixels 4/3 the size, same context", geometry=_seen_at(3 / 4)),
    "context-small": Row("half the context, pixels of the same size", geometry=_context(0.5), keeps_pixels=True),
    "context-large": Row("twice the context, pixels of the same size", geometry=_context(2), keeps_pixels=True),
    "no-scale": Row("no random scale", train={"scale_range": 1.0}),
    "scale-more": Row("random scale to a factor of 2", train={"scale_range": 2.0}),
    "no-stain": Row("no stain augmentation, no coarsening", augment={"stain": 0, "coarse": 0}),
    "no-coarse": Row("no coarsening", augment={"coarse": 0}),
    "stain-more": Row(
        "stain mixing on all patches, HED and colour on a third", augment={"stain": 1, "hed": 0.33, "colour": 0.33}
    ),
    "hed": Row(
        "HED, colour and brightness in place of stain mixing",
        augment={"stain": 0, "hed": 0.75, "colour": 0.5, "brightness": 0.5},
    ),
    "reinhard": Row("stain transfer (Reinhard) on a third of the patches as well", augment={"reinhard": 0.33}),
    "macenko": Row("stain transfer (Macenko) on a third of the patches as well", augment={"macenko": 0.33}),
    "mild": Row("flips, turns, scale, stain mixing and coarsening alone", train={"augment": MILD, "cutmix": 0.0}),
    "strong": Row("the augmentation and cutmix of the recipe default", train={"augment": STRONG, "cutmix": 0.3}),
    "elastic": Row("elastic deformation as well", augment={"elastic": 0.3}),
    "no-elastic": Row("no elastic deformation", augment={"elastic": 0}),
    "optics": Row("brightness, blur, noise and JPEG as well", augment=dict.fromkeys(OPTICS, 0.2)),
    "no-optics": Row("no brightness, blur, noise and JPEG", augment=dict.fromkeys(OPTICS, 0)),
    "cutout": Row("cut-out and cutmix as well", train={"cutmix": 0.3}, augment={"cutout": 0.2}),
    "no-cutout": Row("no cut-out and no cutmix", train={"cutmix": 0.0}, augment={"cutout": 0}),
    "glass": Row("empty glass on a fifth of the patches as well", augment={"glass": 0.2}),
    "bce": Row("cross-entropy alone", train={"loss": "bce"}),
    "lovasz": Row("BCE and Lovász", train={"loss": "bce+lovasz"}),
    "focal": Row("focal loss and Dice", train={"loss": "focal+dice"}),
    "tversky": Row("BCE and Tversky", train={"loss": "bce+tversky"}),
    "auxiliary": Row("heads for organ and pixel size", train={"auxiliary": 0.1}),
    "weight-decay": Row("weight decay of 0.05", train={"weight_decay": 0.05}),
    "dropout": Row("dropout of 0.2 in the decoder", train={"decoder_dropout": 0.2}),
    "smoothing": Row("label smoothing of 0.1", train={"label_smoothing": 0.1}),
    "encoder-rate": Row("a third of the learning rate for the encoder", train={"encoder_rate": 0.33}),
    "ema": Row("moving average of the weights", train={"ema": 0.98}),
    "ema-long": Row("a moving average five times as long", train={"ema": 0.996}),
    "no-ema": Row("no moving average of the weights", train={"ema": 0.0}),
    "decoder-256": Row("decoder twice as wide", train={"decoder_filters": 256}),
    "random-weights": Row("no pretrained encoder", train={"encoder_weights": "none"}),
    "pseudo": Row("soft masks of the base on the validation images, as further training data", special="pseudo"),
    "distil": Row(
        "soft masks of all seeds of the base on the training images, as further training data", special="distil"
    ),
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
