"""Settings: one frozen dataclass a stage, and the named training recipes.

The command line is generated from these fields (their ``help`` and ``choices``), the kernels
pass them by name, and a run folder's ``config.json`` holds them beside the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .competition import ORGANS

STRIDE = 32  # the networks': the sides of what they see are multiples of it
ENCODERS = tuple(f"efficientnetb{i}" for i in range(8)) + tuple(f"efficientnetv2b{i}" for i in range(4))


def setting(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field with the text, and optionally the choices and bounds, of its flag."""
    return field(default=default, metadata={"help": help, **more})


def organ_values(value: float | str | Mapping[str, float], fallback: float) -> dict[str, float]:
    """One number for each organ.

    Args:
        value: A number for all organs; a mapping from organ to number; or text such as
            ``"0.4"``, ``"prostate=1.6"`` or ``"0.4,prostate=1.6"`` (a number on its own is for
            all organs not named).
        fallback: For organs that `value` does not name.

    Returns:
        Organ to positive number, all five organs.

    Raises:
        ValueError: An unknown organ, or a number that is not positive.
    """
    if isinstance(value, (int, float)):
        value = {organ: float(value) for organ in ORGANS}
    elif isinstance(value, str):
        named = {}
        for part in value.split(","):
            organ, sep, number = part.rpartition("=")
            try:
                named[organ.strip()] = float(number)
            except ValueError:
                raise ValueError(f"{part!r} is not a number or organ=number; write for example prostate=1.6") from None
            if sep and not organ.strip():
                raise ValueError(f"{part!r} names no organ; write for example prostate=1.6")
        fallback = named.pop("", fallback)
        value = named
    unknown = sorted(set(value) - set(ORGANS))
    if unknown:
        raise ValueError(f"unknown organ {', '.join(unknown)}; the organs are {', '.join(ORGANS)}")
    result = {organ: float(value.get(organ, fallback)) for organ in ORGANS}
    wrong = {organ: v for organ, v in result.items() if not (math.isfinite(v) and v > 0)}
    if wrong:
        raise ValueError(f"{wrong}: the number of each organ must be above 0")
    return result


def _check_bounds(config: Any) -> None:
    """Check each field against its ``choices``, ``least`` and ``below``; ValueError names the first that fails."""
    for f in fields(config):
        value, meta = getattr(config, f.name), f.metadata
        if value is None:
            continue
        if "choices" in meta and value not in meta["choices"]:
            raise ValueError(f"{f.name} is {value!r}; choose one of {', '.join(map(str, meta['choices']))}")
        if "least" in meta and not value >= meta["least"]:
            raise ValueError(f"{f.name} is {value!r}; it must be at least {meta['least']}")
        if "below" in meta and not value < meta["below"]:
            raise ValueError(f"{f.name} is {value!r}; it must be below {meta['below']}")


@dataclass(frozen=True)
class PrepareConfig:
    """Geometry of the patches and the split. The defaults are the starting design's.

    An image is brought to `pixel_size_um`, a patch is a square of `patch_size` pixels there, and
    the network sees it at `input_size` pixels. Both steps are one resampling: the store holds
    images at `network_um` of their organ.
    """

    patch_size: int = setting(1024, "side of a patch, in pixels of the working pixel size", least=32)
    input_size: int = setting(256, "side of a patch as the network sees it, in pixels", least=32)
    pixel_size_um: str = setting(
        "0.4", "working pixel size in um: a number, or organ=number, comma-separated", flag="--pixel-size"
    )
    min_mask_share: float = setting(
        0.05, "share of mask a patch must hold to count as foreground", least=0.0, below=1.0
    )
    test_size: int | None = setting(None, "test images, 0 for none (default: 65, or 65/351 of a smaller set)", least=0)
    val_size: int | None = setting(None, "validation images, 0 for none (default: as many as test images)", least=0)
    folds: int = setting(0, "K folds over the images not in the test split, 0 for none", least=0)
    groups: str | None = setting(None, "CSV with columns id,group; a group is never split")
    seed: int = setting(0, "seed of the split", least=0)
    jobs: int | None = setting(None, "images at once on this computer (default: one a core)", least=1)

    def __post_init__(self) -> None:
        _check_bounds(self)
        organ_values(self.pixel_size_um, 0.4)
        if self.input_size % STRIDE:
            raise ValueError(
                f"input_size is {self.input_size}; it must be a multiple of {STRIDE}, the networks' stride"
            )
        if self.folds == 1:
            raise ValueError("folds is 1; use 0 for none or at least 2")

    def network_um(self) -> dict[str, float]:
        """Organ to the pixel size in um at which the network sees it."""
        working = organ_values(self.pixel_size_um, 0.4)
        return {organ: um * self.patch_size / self.input_size for organ, um in working.items()}


@dataclass(frozen=True)
class TrainConfig:
    """One training. The defaults are the recipe ``default``'s; see `RECIPES`."""

    model: str = setting("efficientnet-unet", "network", choices=("efficientnet-unet", "unet"))
    encoder: str = setting("efficientnetb0", "encoder of the efficientnet-unet", choices=ENCODERS)
    encoder_weights: str = setting("imagenet", "imagenet (a download), none, or the path of a weights file")
    filters: int = setting(64, "filters of the plain U-Net's first stage; each of 4 stages doubles them", least=1)
    loss: str = setting("bce+dice", "loss", choices=("bce", "dice", "bce+dice"))
    batch_size: int = setting(16, "patches a step", least=1)
    epochs: int = setting(60, "most epochs", least=1)
    steps_per_epoch: int | None = setting(None, "steps an epoch (default: one pass over the patches)", least=1)
    learning_rate: float = setting(1e-3, "Adam's rate while the encoder is frozen, or throughout", least=0.0)
    schedule: str = setting("cosine", "learning rate over the steps", choices=("constant", "cosine"))
    freeze_epochs: int = setting(
        10, "epochs a pretrained encoder stays frozen, 0 for none; random encoders never are", least=0
    )
    freeze_batchnorm: bool = setting(
        True, "whether the frozen encoder's BatchNormalization is frozen with it (statistics and scale)"
    )
    finetune_learning_rate: float = setting(5e-4, "Adam's rate once the encoder is unfrozen", least=0.0)
    patience: int = setting(12, "epochs without a better validation Dice before stopping, 0 for never", least=0)
    validate_every: int = setting(1, "epochs between validations at full resolution", least=1)
    crops: str = setting(
        "random",
        "training patches: the prepared grid, or random squares balanced over organs",
        choices=("grid", "random"),
    )
    foreground_share: float = setting(0.7, "share of random squares laid over a foreground patch", least=0.0)
    augment: str = setting(
        "stain",
        "none; rotations and flips; or these with scale, stain and resolution",
        choices=("none", "geometry", "stain"),
    )
    threshold: float = setting(0.5, "probability from which a pixel is foreground", least=0.0, below=1.0)
    overlap: float = setting(0.25, "overlap of neighbouring tiles, a fraction", least=0.0, below=0.95)
    fold: int | None = setting(None, "validate on this fold and train on the others", least=0)
    seed: int = setting(0, "seed of weights, sampling and augmentation", least=0)

    def __post_init__(self) -> None:
        _check_bounds(self)


# Filled below, each recipe under what it costs and what score to expect.
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
    augment="geometry",
    threshold=0.3,
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


@dataclass(frozen=True)
class PredictConfig:
    """How images are predicted. What is None is taken from the run."""

    split: str = setting("test", "images to predict", choices=("test", "train"))
    tile_size: int | None = setting(
        None, "side of a tile in pixels of the working pixel size (default: the run's patch size)", least=32
    )
    overlap: float | None = setting(
        None, "overlap of neighbouring tiles, a fraction (default: the run's)", least=0.0, below=0.95
    )
    threshold: float | None = setting(
        None, "probability from which a pixel is foreground (default: the run's)", least=0.0, below=1.0
    )
    tta: str = setting("none", "test-time augmentation", choices=("none", "flips", "d4"))
    batch_size: int | None = setting(None, "tiles a batch (default: 16 on a GPU, 2 on a CPU)", least=1)
    precision: str = setting(
        "auto", "float32; mixed with float16; or mixed on a GPU alone", choices=("auto", "float32", "mixed")
    )
    skip_background: bool = setting(False, "take tiles without tissue as background, without a network")
    time_limit: float | None = setting(
        None,
        "minutes in which to finish, if need be without augmentation, overlap and networks (default: none)",
        least=0.0,
    )
    on_error: str = setting(
        "stop",
        "an image that cannot be predicted: end with status 1 after the rest, or write an empty mask",
        choices=("stop", "empty"),
    )

    def __post_init__(self) -> None:
        _check_bounds(self)
