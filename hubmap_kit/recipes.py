"""The named training recipes, each under what it costs and what score to expect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .config import TrainConfig

RECIPES: dict[str, TrainConfig] = {}


def recipe(name: str, **changes: Any) -> TrainConfig:
    """The recipe of that name, with some of its settings changed.

    Raises:
        ValueError: There is no such recipe, or a setting is out of bounds.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return replace(RECIPES[name], **changes)


# For a GPU: 60 epochs of one pass over the competition's 1989 training patches.
# Not trained in full yet, so without a score to expect.
RECIPES["default"] = TrainConfig()
# The starting design as far as its facts are known: EfficientNet-B3, cross-entropy, the prepared grid's
# patches with rotation and flip, frozen for 10 epochs at 1e-3, then up to 50 at 5e-4, threshold 0.3.
# Its published table has no full-resolution Dice, so there is no score to compare with.
RECIPES["seed"] = TrainConfig(
    encoder="efficientnetb3",
    loss="bce",
    schedule="constant",
    crops="grid",
    augment="flip,quarter",
    threshold=0.3,
    tune=False,
    overlap=0.0,
)
# Two cores without a GPU: 15.5 minutes on the README's real-ftu (122 images, a weights file for the encoder);
# Dice 0.894 on validation, 0.920 on test with four flips.
RECIPES["cpu"] = TrainConfig(
    encoder="efficientnetv2b0",
    batch_size=8,
    epochs=12,
    steps_per_epoch=40,
    freeze_epochs=0,
    patience=0,
    validate_every=4,
)
# The rehearsal's: on two cores 3.5 minutes for 26 demo images of 1024 px seen at 96 px (prepare
# --input-size 96); Dice 0.92 on the demo's validation split. At 128 px with 80 steps an epoch, in the same time, 0.90.
RECIPES["fast"] = TrainConfig(
    model="unet",
    filters=16,
    batch_size=8,
    epochs=10,
    steps_per_epoch=120,
    learning_rate=2e-3,
    patience=0,
    validate_every=2,
)
