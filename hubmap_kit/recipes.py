"""The named training recipes. Each says what it is for, its command, and the time and the score that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from .config import PrepareConfig, TrainConfig

# Quarter turns and elastic deformation change shapes; stain and coarse imitate another laboratory and its microscope.
STRONG = (
    "flip,quarter,turn=0.5,scale,elastic=0.3,stain=0.75,brightness=0.3,coarse=0.25,blur=0.2,noise=0.2,jpeg=0.2,"
    "cutout=0.2"
)


def default() -> TrainConfig:
    """For Kaggle's two T4: five folds within one session.

    It is made for whole fields of view, as the training kernel prepares them: patches of 3072 px of 0.4 um, 1.2 mm,
    seen at 768 px. In the competition, whole images at 768 px or more raised scores from 0.68 to 0.76 against tiles of
    1024 px shrunk to 256, and strong augmentation from 0.6 to 0.75, as participants report.

    Command: ``hubmap-kit train PATCHES RUN --all-folds``; PATCHES prepared with ``--patch-size 3072 --input-size 768
    --test-size 0 --folds 5``, see `made_for`. 150 epochs of one pass over the images.

    Time: not measured; `hubmap-kit plan` estimates 3.3 hours on two T4 for all five folds.

    Score: not measured; it has not been trained in full.
    """
    return TrainConfig(
        encoder="efficientnetv2s",
        batch_size=8,
        epochs=150,
        ema=0.99,
        patience=0,
        augment=STRONG,
        cutmix=0.3,
        validate_every=10,
    )


def seed() -> TrainConfig:
    """The starting design as far as it is known, for comparison.

    Command: ``hubmap-kit train PATCHES RUN --recipe seed``

    EfficientNet-B3, cross-entropy, patches of the prepared grid with quarter turns and flips. The encoder is frozen for
    10 epochs at a learning rate of 1e-3, then trained for up to 50 at 5e-4. The threshold is 0.3.

    Time and score: not measured; it has not been trained in full. The starting design's published table has no
    full-resolution Dice to compare with.
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
    """The best network that 30 minutes on two cores train, without a GPU.

    Command: ``hubmap-kit train PATCHES RUN --recipe cpu --encoder-weights FILE``; 1600 steps of 8 patches of 256 px.

    Time: 30 minutes on two cores, at 1.1 s a step.

    Score: mean Dice on the test rows of ``real-ftu``, three seeds, without test-time augmentation: colon glands
    0.936 ± 0.001; glomeruli in Masson, a stain that training never saw, 0.922 ± 0.002.
    """
    return TrainConfig(
        encoder="efficientnetv2b0",
        decoder_filters=128,
        batch_size=8,
        epochs=40,
        steps_per_epoch=40,
        freeze_epochs=0,
        ema=0.98,
        patience=0,
        augment=STRONG,
        cutmix=0.3,
        validate_every=5,
    )


def fast() -> TrainConfig:
    """A plain U-Net for drawn tissue, as the rehearsal trains it.

    Command: ``hubmap-kit train PATCHES RUN --recipe fast``; PATCHES prepared with ``--input-size 96``.

    Time: 5 minutes on two cores.

    Score: mean Dice 0.93 on the validation split of the rehearsal's demo. The number of steps was raised after a
    rehearsal that fell below its bound. On earlier demos the moving average gained 0.03, and 128 px lost 0.02.
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
GEOMETRIES = {
    "default": PrepareConfig(patch_size=3072, input_size=768, test_size=0, folds=5),
    "fast": PrepareConfig(input_size=96),
}


def recipe(name: str, **changes: Any) -> TrainConfig:
    """The recipe of that name, with some of its settings changed.

    Raises:
        ValueError: There is no such recipe, or a setting is out of bounds.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}")
    return replace(RECIPES[name](), **changes)


def made_for(name: str, **changes: Any) -> PrepareConfig:
    """The patches that a recipe is made for, with some of the settings changed; raises ValueError at one out of bounds.

    Recipes that are not in `GEOMETRIES` are made for those that ``hubmap-kit prepare`` makes without flags.
    """
    return replace(GEOMETRIES.get(name, PrepareConfig()), **changes)


def remark_on(name: str, input_size: int) -> str:
    """A line for the user if a recipe is made for patches of at least twice as many pixels on a side, else "".

    Args:
        name: The recipe.
        input_size: Side of the patches as the network sees them, in px.
    """
    wanted = made_for(name)
    if input_size > wanted.input_size / 2:
        return ""
    flags = f"--patch-size {wanted.patch_size} --input-size {wanted.input_size}"
    return (
        f"warning: the recipe {name} is made for patches seen at {wanted.input_size} px, and these are seen at "
        f"{input_size} px; prepare them with {flags}, or name another recipe"
    )


def suited_to(input_size: int) -> str:
    """The recipe for patches that the network sees at this side, in px."""
    if not remark_on("default", input_size):
        return "default"
    return "cpu" if input_size >= 128 else "fast"


def recipe_in(argv: Sequence[str], default: str) -> str:
    """The recipe that a command line names with ``--recipe``; `default` if it names none that exists."""
    named = [value for flag, value in pairwise(argv) if flag == "--recipe"]
    named += [word.partition("=")[2] for word in argv if word.startswith("--recipe=")]
    return next((name for name in named if name in RECIPES), default)
