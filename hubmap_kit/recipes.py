"""The named training recipes. Each says what it is for, the command, and the time and score that were measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .config import TrainConfig


def default() -> TrainConfig:
    """For Kaggle's two T4, within one session.

    ``hubmap-kit train PATCHES RUN``

    60 epochs of one pass over the competition's 1989 training patches. Not trained in full yet: no score is claimed.
    """
    return TrainConfig()


def seed() -> TrainConfig:
    """The starting design as far as its facts are known, for comparison.

    ``hubmap-kit train PATCHES RUN --recipe seed``

    EfficientNet-B3, cross-entropy, the prepared grid's patches with rotation and flip, frozen for 10 epochs at 1e-3,
    then up to 50 at 5e-4, threshold 0.3. Its published table has no full-resolution Dice, so there is no score to
    compare with. Not trained in full.
    """
    return TrainConfig(
        encoder="efficientnetb3",
        loss="bce",
        schedule="constant",
        crops="grid",
        augment="flip,quarter",
        threshold=0.3,
        tune=False,
        overlap=0.0,
    )


def cpu() -> TrainConfig:
    """The best of 30 minutes on two cores, without a GPU.

    ``hubmap-kit train PATCHES RUN --recipe cpu --encoder-weights FILE``

    1000 steps of 8 patches, at 256 px: 18 minutes on two cores. On ``real-ftu``, test rows, three seeds, without
    test-time augmentation: colon glands 0.932 +- 0.003, glomeruli in Masson, which training never saw, 0.913 +- 0.004.
    README.md has the commands.
    """
    return TrainConfig(
        encoder="efficientnetv2b0",
        decoder_filters=128,
        batch_size=8,
        epochs=25,
        steps_per_epoch=40,
        freeze_epochs=0,
        ema=0.98,
        patience=0,
        validate_every=5,
    )


def fast() -> TrainConfig:
    """The rehearsal's: a plain U-Net for drawn tissue.

    ``hubmap-kit train PATCHES RUN --recipe fast``, PATCHES prepared with ``--input-size 96``

    5 minutes on two cores; Dice 0.93 on the validation split of the rehearsal's demo. Its length was raised after a
    rehearsal that fell below its bound. On earlier demos the moving average brought 0.03, and 128 px lost 0.02.
    """
    return TrainConfig(
        model="unet",
        filters=16,
        batch_size=8,
        epochs=15,
        steps_per_epoch=120,
        learning_rate=2e-3,
        ema=0.98,
        patience=0,
        validate_every=2,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {make.__name__: make for make in (default, seed, cpu, fast)}


def recipe(name: str, **changes: Any) -> TrainConfig:
    """The recipe of that name, with some of its settings changed.

    Raises:
        ValueError: There is no such recipe, or a setting is out of bounds.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return replace(RECIPES[name](), **changes)
