"""The rows of an ablation: changes of a recipe, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from ..config import STRIDE, WHOLE, PrepareConfig, TrainConfig, organ_text

BASE = "base"


def _as_it_is(config: PrepareConfig) -> PrepareConfig:
    return config


@dataclass(frozen=True)
class Change:
    """A change of the base.

    Attributes:
        about: What is changed, for the table.
        geometry: Settings of the patches to those of this row.
        keeps_pixels: Whether a training step has as many pixels as the base's, whatever the size of a patch.
        train: Settings of the training that are changed.
        predict: Settings of the prediction that are changed, on the base's runs.
        own: A row that is neither a training nor a prediction of its own: ``thresholds``, ``ensemble``, ``pseudo``.
    """

    about: str
    geometry: Callable[[PrepareConfig], PrepareConfig] = _as_it_is
    keeps_pixels: bool = False
    train: dict[str, Any] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    own: str = ""

    def changes(self, geometry: PrepareConfig, config: TrainConfig) -> bool:
        """Whether there is something that it changes."""
        trained = self.geometry(geometry) != geometry or replace(config, **self.train) != config
        return trained or bool(self.predict or self.own)


def _sized(config: PrepareConfig, factor: float) -> PrepareConfig:
    """Patches of about `factor` times as many pixels a side, of the same tissue."""
    return replace(config, input_size=max(1, round(config.input_size * factor / STRIDE)) * STRIDE)


def _seen_at(factor: float) -> Callable[[PrepareConfig], PrepareConfig]:
    """The same tissue in `factor` times as many pixels a side."""
    return lambda config: _sized(config, factor)


def _context(factor: float) -> Callable[[PrepareConfig], PrepareConfig]:
    """A side of `factor` times as much tissue, at the same pixel size; images taken whole have no more to show."""

    def change(config: PrepareConfig) -> PrepareConfig:
        sized = _sized(config, factor)
        if config.context == WHOLE or sized == config:
            return config
        wider = {organ: um * sized.input_size for organ, um in config.network_um().items()}
        return replace(sized, context=organ_text(wider))

    return change


PLAIN_GEOMETRY = "flip,turn,scale"
CHANGES: dict[str, Change] = {
    BASE: Change("the recipe as given"),
    "finer": Change("pixels 3/4 the size, same context", geometry=_seen_at(4 / 3)),
    "coarser": Change("pixels 4/3 the size, same context", geometry=_seen_at(3 / 4)),
    "context-small": Change("half the context, pixels of the same size", geometry=_context(0.5), keeps_pixels=True),
    "context-large": Change("twice the context, pixels of the same size", geometry=_context(2), keeps_pixels=True),
    "no-scale": Change("no random scale", train={"scale_range": 1.0}),
    "scale-more": Change("random scale to a factor of 2", train={"scale_range": 2.0}),
    "no-stain": Change("no stain augmentation", train={"augment": PLAIN_GEOMETRY}),
    "stain-only": Change("stain augmentation without coarsening", train={"augment": f"{PLAIN_GEOMETRY},stain=0.75"}),
    "hed": Change(
        "HED, colour and brightness in place of stain mixing",
        train={"augment": f"{PLAIN_GEOMETRY},hed=0.75,colour=0.5,brightness=0.5,coarse=0.25"},
    ),
    "reinhard": Change(
        "stain transfer (Reinhard) on a third of the patches as well",
        train={"augment": f"{PLAIN_GEOMETRY},reinhard=0.33,stain=0.75,coarse=0.25"},
    ),
    "macenko": Change(
        "stain transfer (Macenko) on a third of the patches as well",
        train={"augment": f"{PLAIN_GEOMETRY},macenko=0.33,stain=0.75,coarse=0.25"},
    ),
    "everything": Change(
        "elastic, brightness, blur, noise, JPEG and cut-out as well",
        train={
            "augment": f"{PLAIN_GEOMETRY},elastic=0.3,stain=0.75,brightness=0.3,coarse=0.25,blur=0.2,noise=0.2,"
            "jpeg=0.2,cutout=0.2"
        },
    ),
    "cutmix": Change("cutmix on half of the patches", train={"cutmix": 0.5}),
    "bce": Change("cross-entropy alone", train={"loss": "bce"}),
    "lovasz": Change("BCE and Lovász", train={"loss": "bce+lovasz"}),
    "focal": Change("focal loss and Dice", train={"loss": "focal+dice"}),
    "tversky": Change("BCE and Tversky", train={"loss": "bce+tversky"}),
    "auxiliary": Change("heads for organ and pixel size", train={"auxiliary": 0.1}),
    "ema": Change("moving average of the weights", train={"ema": 0.98}),
    "no-ema": Change("no moving average of the weights", train={"ema": 0.0}),
    "decoder-256": Change("decoder twice as wide", train={"decoder_filters": 256}),
    "random-weights": Change("no pretrained encoder", train={"encoder_weights": "none"}),
    "pseudo": Change("soft masks of the base on the validation images, as further training data", own="pseudo"),
    "flips": Change("test-time augmentation: flips", predict={"tta": "flips"}),
    "d4": Change("test-time augmentation: flips and quarter turns", predict={"tta": "d4"}),
    "scales": Change("test-time augmentation: three scales", predict={"scales": "0.8,1,1.25"}),
    "to-reinhard": Change("images brought to the training's look (Reinhard)", predict={"stain": "reinhard"}),
    "to-macenko": Change("images brought to the training's look (Macenko)", predict={"stain": "macenko"}),
    "batchnorm": Change("BatchNormalization re-estimated on the test tissue", predict={"adapt": "batchnorm"}),
    "self-training": Change("training on its own confident masks", predict={"adapt": "self-training"}),
    "thresholds": Change("thresholds and region sizes chosen on the other half of the images", own="thresholds"),
    "ensemble": Change("all seeds of the base together", own="ensemble"),
}


def plan(geometry: PrepareConfig, config: TrainConfig, rows: Collection[str] | None) -> list[str]:
    """The rows to do, in the table's order: the base, and those that change something of it.

    Args:
        geometry: Settings of the patches.
        config: Settings of the base.
        rows: Names of `CHANGES`; None for all.

    Raises:
        ValueError: An unknown row, or no such fold to validate on.
    """
    unknown = sorted(set(rows or ()) - CHANGES.keys())
    if unknown:
        raise ValueError(f"there is no row {', '.join(map(repr, unknown))}; choose among {', '.join(CHANGES)}")
    fold = config.fold or 0
    if fold >= geometry.folds:
        raise ValueError(
            f"an ablation is scored on a validation fold, here fold {fold}, but there are {geometry.folds} folds; "
            f"give --folds {max(2, fold + 1)} or more"
        )
    wanted = [name for name in CHANGES if rows is None or name in rows]
    return [BASE, *(name for name in wanted if name != BASE and CHANGES[name].changes(geometry, config))]
