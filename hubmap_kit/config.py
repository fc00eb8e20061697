"""Settings: one frozen dataclass per stage, and the command-line flags made from its fields.

Patch stores and run folders keep these settings as JSON.
"""

from __future__ import annotations

import argparse
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from .competition import LARGEST_UM2, ORGANS, ByOrgan
from .images.augment import STEPS
from .models.encoders import ENCODERS, IMAGENET
from .models.losses import LOSSES, loss_terms
from .models.network_config import MODELS, NetworkConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STRIDE = 32  # px; the networks halve their input five times, so its sides are multiples of this
WORKING_UM = 0.4  # pixel size in µm of the competition's training images; the unit of --patch-size and --tile-size
# Upper bounds of settings, far above anything useful. A larger value is a mistake, and would fail later.
LARGEST_PX = 10**7  # side of a patch, which may show a whole image
LARGEST_INPUT_PX = 8192  # side of what the network sees
LARGEST_SEED = 2**32 - 1  # of TensorFlow and NumPy
LARGEST_UM = 1e7
LONGEST_MIN = 1e6
MANY = 10**7
WHOLE = "whole"  # context: each image is one patch

Config = TypeVar("Config", bound="DataclassInstance")


class SettingError(ValueError):
    """A setting is out of bounds.

    Attributes:
        name: The setting.
        rule: What is wrong with it, to follow its name or its flag.
    """

    def __init__(self, name: str, rule: str):
        super().__init__(f"{name} {rule}")
        self.name, self.rule = name, rule


class UsageError(Exception):
    """A flag's value is out of bounds."""


# --- Values written as text: by organ, shares, scales -------------------------------------------------------------


def organ_values(value: float | str | Mapping[str, float], fallback: float | ByOrgan[float]) -> ByOrgan[float]:
    """One number for each organ.

    Args:
        value: A number for all organs; a mapping from organ to number; or text such as ``"410"``, ``"kidney=512"`` or
            ``"410,kidney=512"``, where a number on its own is for the organs that are not named.
        fallback: For organs that `value` does not name: a number, or one for each organ.

    Returns:
        Organ to positive number: the competition's organs, those that `value` names, and one for any other.

    Raises:
        ValueError: Text that cannot be read, or a number that is not positive.

    >>> organ_values("410,kidney=512", 1.0)
    {'kidney': 512.0, 'prostate': 410.0, 'largeintestine': 410.0, 'spleen': 410.0, 'lung': 410.0}
    >>> organ_values("410,kidney=512", 1.0)["liver"]
    410.0
    """
    named: dict[str, float] = {}
    if isinstance(value, (int, float)):
        fallback = value
    elif isinstance(value, str):
        named = named_numbers(value)
        fallback = named.pop("", fallback)
    else:
        named |= value
    default = fallback if isinstance(fallback, ByOrgan) else ByOrgan({}, float(fallback))
    organs = dict.fromkeys((*ORGANS, *default, *named))
    result = ByOrgan({organ: float(named.get(organ, default[organ])) for organ in organs}, default.other)
    for organ, um in (("", result.other), *result.items()):
        if not 0 < um <= LARGEST_UM:
            raise ValueError(f"{organ}{'=' * bool(organ)}{um:g} is not a number above 0 and up to {LARGEST_UM:g}")
    return result


def named_numbers(text: str) -> dict[str, float]:
    """Parse numbers by organ; the key ``""`` has the number on its own, for the organs that are not named.

    Raises:
        ValueError: Text that cannot be read.

    >>> named_numbers("0.5,lung=0.3")
    {'': 0.5, 'lung': 0.3}
    """
    named: dict[str, float] = {}
    for part in text.split(","):
        organ, sep, digits = part.rpartition("=")
        try:
            named[organ.strip()] = float(digits)
        except ValueError:
            raise ValueError(f"{part!r} is not a number or organ=number; write for example kidney=512") from None
        if sep and not organ.strip():
            raise ValueError(f"{part!r} names no organ; write for example kidney=512")
    return named


def organ_text(values: Mapping[str, float]) -> str:
    """Numbers by organ as the text that `organ_values` reads, each to its last digit.

    In a `ByOrgan` the number of the organs that are not named comes first.

    >>> organ_text({"kidney": 512.0, "lung": 0.1 * 3})
    'kidney=512.0,lung=0.30000000000000004'
    """
    named = [f"{organ}={value!r}" for organ, value in values.items()]
    return ",".join([repr(values.other), *named] if isinstance(values, ByOrgan) else named)


def named_shares(text: str, names: Collection[str], what: str) -> dict[str, float]:
    """Parse a comma-separated list of names, each with a share from 0 to 1; a name without one has share 1.

    Args:
        text: The list; ``none`` and ``""`` are empty lists.
        names: The names that it may hold.
        what: Word for a name in errors, such as ``augmentation``.

    Returns:
        Name to share, in the order of `names`.

    Raises:
        ValueError: An unknown name, one that comes twice, or a share out of bounds.

    >>> named_shares("stain=0.75, flip", ["flip", "turn", "stain"], "augmentation")
    {'flip': 1.0, 'stain': 0.75}
    """
    found: dict[str, float] = {}
    for part in (part.strip() for part in text.split(",")):
        name, sep, number = part.partition("=")
        if part in ("", "none"):
            continue
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}; choose among {', '.join(names)}")
        if name in found:
            raise ValueError(f"{what} {name} is listed twice; list it once")
        try:
            found[name] = float(number) if sep else 1.0
        except ValueError:
            found[name] = math.nan
        if not 0 <= found[name] <= 1:
            raise ValueError(f"{what} {part!r}: the number must be a share from 0 to 1, as in {name}=0.5")
    return {name: found[name] for name in names if name in found}


def scale_factors(text: str) -> tuple[float, ...]:
    """Parse a list of scales.

    Raises:
        ValueError: An item is no number, is not from 0.05 to 20, or comes twice.

    >>> scale_factors("0.8,1,1.25")
    (0.8, 1.0, 1.25)
    """
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if not factors or len(set(factors)) < len(factors) or not all(0.05 <= f <= 20 for f in factors):
        raise ValueError(f"scales are {text!r}; write numbers from 0.05 to 20, each once, such as 0.8,1,1.25")
    return factors


# --- A setting, and the settings of each stage --------------------------------------------------------------------


def setting(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field with the metadata for its flag.

    Args:
        default: The default.
        help: The flag's help.
        more: ``choices``; the bounds ``least``, ``most`` and ``below`` (exclusive); ``flag``, if it is not named
            like the field; ``group``, the heading in ``--help``; ``metavar``, the value's name in ``--help``.
    """
    return field(default=default, metadata={"help": help, **more})


def check_bounds(config: DataclassInstance) -> None:
    """Check each field of a settings dataclass against its ``choices``, ``least``, ``most`` and ``below``.

    Raises:
        SettingError: The first one that fails.
    """
    for f in fields(config):
        value, meta = getattr(config, f.name), f.metadata
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingError(f.name, f"is {value}; it must be a finite number")
        if "choices" in meta and value not in meta["choices"]:
            raise SettingError(f.name, f"is {value!r}; choose one of {', '.join(map(str, meta['choices']))}")
        if "least" in meta and not value >= meta["least"]:
            raise SettingError(f.name, f"is {value!r}; it must be at least {meta['least']}")
        if "most" in meta and not value <= meta["most"]:
            raise SettingError(f.name, f"is {value!r}; it must be at most {meta['most']}")
        if "below" in meta and not value < meta["below"]:
            raise SettingError(f.name, f"is {value!r}; it must be below {meta['below']}")


def check_text(config: Any, name: str, parse: Callable[[str], Any]) -> None:
    """Check that a field's text can be parsed.

    Raises:
        SettingError: It cannot.
    """
    try:
        parse(getattr(config, name))
    except ValueError as error:
        raise SettingError(name, f"is wrong: {error}") from error


PRECISION_HELP = "auto: mixed on a GPU, else float32; mixed: float16 on a GPU, bfloat16 elsewhere"
PRECISIONS = ("auto", "float32", "mixed")


@dataclass(frozen=True)
class PrepareConfig:
    """Geometry of the patches, and the split.

    A patch is a square of tissue, `context` µm on a side (by default `patch_size` pixels of `WORKING_UM`), which the
    network sees at `input_size` px. The store holds each image at that scale: `network_um`.
    """

    patch_size: int = setting(
        1024,
        f"side of a patch, in pixels of {WORKING_UM} um; --tile-size counts the same pixels",
        least=32,
        most=LARGEST_PX,
        metavar="PX",
        group="geometry",
    )
    input_size: int = setting(
        256,
        f"side of a patch as the network sees it, in px, a multiple of {STRIDE}",
        least=32,
        most=LARGEST_INPUT_PX,
        metavar="PX",
        group="geometry",
    )
    context: str | None = setting(
        None,
        "side of the tissue in a patch, in um: a number, organ=number by organ (410,kidney=512), or whole for the "
        f"longest side of any image (default: the patch size times {WORKING_UM} um); measured worse: half the "
        "context -0.014 Dice, twice the context -0.019",
        metavar="UM",
        group="geometry",
    )
    test_size: int | None = setting(
        None, "test images, 0 for none (default: 65, or 65/351 of a smaller set)", least=0, most=MANY, group="split"
    )
    val_size: int | None = setting(
        None, "validation images, 0 for none (default: as many as test images)", least=0, most=MANY, group="split"
    )
    folds: int = setting(
        0,
        "K folds over the images outside the test split, 0 for none",
        least=0,
        most=1000,
        group="split",
    )
    groups: str | None = setting(
        None, "CSV with columns id,group; a group is never split", group="split", metavar="CSV"
    )
    seed: int = setting(0, "seed of the split", least=0, most=LARGEST_SEED, group="split")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.context not in (None, WHOLE):
            check_text(self, "context", lambda text: organ_values(text, 1.0))
        if self.input_size % STRIDE:
            raise SettingError(
                "input_size", f"is {self.input_size}; it must be a multiple of {STRIDE}, the networks' stride"
            )
        if self.folds == 1:
            raise SettingError("folds", "is 1; use 0 for none or at least 2")

    def contexts_um(self) -> ByOrgan[float]:
        """Side of the tissue in a patch, in µm, by organ.

        Raises:
            ValueError: The context is ``whole``, so it depends on the images; the patch store's settings have it.
        """
        if self.context == WHOLE:
            raise ValueError("context is whole, so it depends on the images; take the settings of their patch store")
        default = WORKING_UM * self.patch_size
        return organ_values(default if self.context is None else self.context, default)

    def network_um(self) -> ByOrgan[float]:
        """Pixel size at which the network sees each organ, in µm, by organ; raises as `contexts_um` does."""
        return self.contexts_um().map(lambda um: um / self.input_size)


@dataclass(frozen=True)
class TrainConfig:
    """One training. The recipes of `hubmap_kit.recipes` change some of the defaults."""

    model: str = setting(
        "efficientnet-unet",
        "efficientnet-unet: a U-Net with a pretrainable encoder; unet: the plain U-Net",
        choices=MODELS,
        group="network",
    )
    encoder: str = setting(
        "efficientnetb0",
        f"encoder of the efficientnet-unet: {', '.join(ENCODERS)}",
        choices=tuple(ENCODERS),
        group="network",
        metavar="NAME",
    )
    encoder_weights: str = setting(
        "imagenet",
        "imagenet (a download), none, or the path of a weights file; none measured worse: -0.37 Dice",
        metavar="NAME",
        group="network",
    )
    decoder_filters: int = setting(
        256,
        "filters of the efficientnet-unet's first decoder stage; each later stage has half as many, at least 16",
        least=16,
        most=4096,
        group="network",
    )
    decoder_dropout: float = setting(
        0.0,
        "share of a decoder stage's input channels that a training step sets to 0, other ones for each patch",
        least=0.0,
        below=1.0,
        group="network",
    )
    filters: int = setting(
        64,
        "filters of the plain U-Net's first stage; the next 4 each have twice as many",
        least=1,
        most=4096,
        group="network",
    )
    auxiliary: float = setting(
        0.0,
        "weight of the losses of two more heads, for organ and pixel size; 0 for none. Measured worse: -0.011 Dice",
        least=0.0,
        most=1000.0,
        group="network",
    )
    loss: str = setting(
        "bce+dice",
        f"loss: a weighted sum of {', '.join(LOSSES)}, such as bce+0.5*lovasz",
        group="network",
        metavar="SUM",
    )
    label_smoothing: float = setting(
        0.0,
        "share by which the training loss moves masks towards 1/2: with 0.1, foreground is 0.95 and background 0.05",
        least=0.0,
        below=1.0,
        group="training",
    )
    batch_size: int = setting(16, "patches in a step, on all devices together", least=1, most=65536, group="training")
    epochs: int = setting(60, "most epochs", least=1, most=MANY, group="training")
    steps_per_epoch: int | None = setting(
        None, "steps in an epoch; without a number one pass over the patches", least=1, most=MANY, group="training"
    )
    learning_rate: float = setting(
        1e-3,
        "Adam's learning rate until a frozen encoder is unfrozen, which sets 5e-4",
        least=1e-9,
        most=10.0,
        group="training",
    )
    encoder_rate: float = setting(
        1.0,
        "the encoder's learning rate, as a multiple of the decoder's",
        least=0.0,
        most=1000.0,
        group="training",
    )
    weight_decay: float = setting(
        0.0,
        "weight decay (AdamW): each step shrinks a weight by this share times the learning rate; offsets and "
        "normalisation factors do not shrink",
        least=0.0,
        most=1000.0,
        group="training",
    )
    schedule: str = setting(
        "cosine", "course of the learning rate over the steps", choices=("constant", "cosine"), group="training"
    )
    freeze_epochs: int = setting(
        10,
        "epochs that a pretrained encoder stays frozen, 0 for none; an encoder with random weights is never frozen",
        least=0,
        most=MANY,
        group="training",
    )
    ema: float = setting(
        0.0,
        "momentum of the moving average of the weights; the average is kept. 0 for none",
        least=0.0,
        below=1.0,
        group="training",
    )
    patience: int = setting(
        12, "epochs without a better validation Dice before stopping, 0 for never", least=0, most=MANY, group="training"
    )
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS, group="devices")
    devices: str = setting(
        "auto",
        "one; mirrored: all GPUs of this computer; tpu; workers: the computers named in TF_CONFIG; "
        "auto: the last of these that is available",
        choices=("auto", "one", "mirrored", "tpu", "workers"),
        group="devices",
    )
    crops: str = setting(
        "random",
        "training patches: the prepared grid, or random squares balanced over organs",
        choices=("grid", "random"),
        group="augmentation",
    )
    augment: str = setting(
        "flip,turn,scale,stain=0.75,coarse=0.25",
        "augmentations, each with the share of patches it is done to (1 where none is given), such as "
        f"flip,stain=0.75: {', '.join(STEPS)}. hed, colour and brightness in place of "
        "stain measured worse: -0.018 Dice",
        metavar="LIST",
        group="augmentation",
    )
    scale_range: float = setting(
        1.33,
        "largest factor by which the augmentation scale enlarges or shrinks",
        least=1.0,
        most=10.0,
        group="augmentation",
    )
    looks_from: str | None = setting(
        None,
        "competition folder; the augmentations reinhard and macenko imitate its test images (default: training images "
        "of the same organ)",
        flag="--looks",
        metavar="DATA",
        group="augmentation",
    )
    cutmix: float = setting(
        0.0,
        "share of patches that get a rectangle of another patch of the same organ",
        least=0.0,
        most=1.0,
        group="augmentation",
    )
    pseudo: str | None = setting(
        None,
        "store of soft masks to train on as well; made by hubmap-kit pseudo",
        group="augmentation",
        metavar="STORE",
    )
    validate_every: int = setting(
        1,
        "epochs between validations at full resolution",
        least=1,
        most=MANY,
        group="validation",
    )
    threshold: float = setting(
        0.5, "probability from which a pixel is foreground", least=0.0, below=1.0, group="validation"
    )
    tune: bool = setting(
        True,
        "choose the least region of each organ on the training masks, and when the training ends, choose the threshold "
        "and the least region on the validation images",
        group="validation",
    )
    overlap: float = setting(
        0.25, "overlap of neighbouring tiles, as a fraction of a tile", least=0.0, below=0.95, group="validation"
    )
    fold: int | None = setting(
        None,
        "validate on this fold and train on the others (default: the prepared split)",
        least=0,
        most=999,
        group="validation",
    )
    seed: int = setting(0, "seed of weights, sampling and augmentation", least=0, most=LARGEST_SEED)

    def __post_init__(self) -> None:
        check_bounds(self)
        check_text(self, "loss", loss_terms)
        check_text(self, "augment", lambda _: self.augment_shares())

    def augment_shares(self) -> dict[str, float]:
        """Share of patches that each augmentation is done to, by name, in the order in which they are done."""
        return named_shares(self.augment, STEPS, "augmentation")

    def step_text(self, input_size: int) -> str:
        """What a training step does: two trainings with the same text take the same time for it on the same machine.

        Args:
            input_size: Side of the patches, in px.
        """
        network = f"unet of {self.filters}" if self.model == "unet" else f"{self.encoder}, {self.decoder_filters}"
        return f"{network} filters, batch of {self.batch_size}, {input_size} px"

    def network(self) -> NetworkConfig:
        """Layout of the network that is trained."""
        auxiliary = self.auxiliary > 0
        if self.model == "unet":
            return NetworkConfig(self.model, None, self.filters, auxiliary, *IMAGENET)
        encoder = ENCODERS[self.encoder]
        return NetworkConfig(self.model, self.encoder, self.decoder_filters, auxiliary, encoder.mean, encoder.std)


@dataclass(frozen=True)
class PredictConfig:
    """How images are predicted. A setting that is None is taken from the run."""

    split: str = setting("test", "images to predict", choices=("test", "train"))
    tile_size: int | None = setting(
        None,
        "tile side, in the units of --patch-size (default: the run's patch size)",
        least=32,
        most=LARGEST_PX,
        metavar="PX",
        group="geometry",
    )
    overlap: float | None = setting(
        None,
        "overlap of neighbouring tiles, as a fraction of a tile (default: the run's)",
        least=0.0,
        below=0.95,
        group="geometry",
    )
    threshold: str | float | None = setting(
        None,
        "probability from which a pixel is foreground: a number, or by organ, such as 0.5,lung=0.3 (default: the "
        "run's, by organ)",
        metavar="X",
        group="masks",
    )
    min_region_um2: str | float | None = setting(
        None,
        "area in um2 below which a region of a mask is dropped: a number, or by organ, such as 0,lung=2000 (default: "
        "the run's, by organ)",
        flag="--min-region",
        metavar="UM2",
        group="masks",
    )
    tta: str = setting(
        "none",
        "test-time augmentation: flips (4 views of each tile), or d4 (8 views, quarter turns too)",
        choices=("none", "flips", "d4"),
        group="geometry",
    )
    scales: str = setting(
        "1",
        "factors of size at which each network sees an image, such as 0.8,1,1.25; 1 is its own scale",
        metavar="LIST",
        group="geometry",
    )
    stain: str = setting(
        "none",
        "bring the colours of each image to those of the run's training images; macenko measured worse: -0.038 Dice",
        choices=("none", "reinhard", "macenko"),
        group="stain and adaptation",
    )
    adapt: str = setting(
        "none",
        "adapt the network to the images of each organ and source. batchnorm: re-estimate the statistics of its "
        "BatchNormalization (measured worse: -0.007 Dice); self-training: train on its own confident masks",
        choices=("none", "batchnorm", "self-training"),
        group="stain and adaptation",
    )
    batch_size: int | None = setting(
        None, "tiles in a batch (default: 16 on a GPU, 2 on a CPU)", least=1, most=65536, group="devices and time"
    )
    precision: str = setting("auto", PRECISION_HELP, choices=PRECISIONS, group="devices and time")
    skip_background: bool = setting(
        False, "do not run the network on tiles without tissue: they are background", group="devices and time"
    )
    time_limit_min: float | None = setting(
        None,
        "minutes in which to finish; if they are too few, adaptation, test-time augmentation, scales, overlap and "
        "networks are given up, in this order (default: no limit)",
        flag="--time-limit",
        metavar="MINUTES",
        least=0.0,
        most=LONGEST_MIN,
        group="devices and time",
    )
    on_error: str = setting(
        "stop",
        "an image that cannot be predicted: stop ends with status 1 after the other images, empty writes an empty mask",
        choices=("stop", "empty"),
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        check_text(self, "scales", scale_factors)
        self._check_numbers("threshold", self.thresholds(), 1.0)
        self._check_numbers("min_region_um2", self.min_regions_um2(), LARGEST_UM2)

    def thresholds(self) -> dict[str, float]:
        """The thresholds that are given, by organ; ``""`` stands for the organs that are not named."""
        return self._by_organ("threshold")

    def min_regions_um2(self) -> dict[str, float]:
        """The least areas that are given, in µm², by organ; ``""`` stands for the organs that are not named."""
        return self._by_organ("min_region_um2")

    def _by_organ(self, name: str) -> dict[str, float]:
        value = getattr(self, name)
        if not isinstance(value, str):
            return {} if value is None else {"": float(value)}
        try:
            return named_numbers(value)
        except ValueError as error:
            raise SettingError(name, f"is wrong: {error}") from error

    def _check_numbers(self, name: str, values: Mapping[str, float], below: float) -> None:
        for organ, value in values.items():
            where = f" for {organ}" if organ else ""
            if not value >= 0:
                raise SettingError(name, f"is {value}{where}; it must be at least 0.0")
            if not value < below:
                raise SettingError(name, f"is {value}{where}; it must be below {below}")


# --- Flags --------------------------------------------------------------------------------------------------------


def flag_of(config: type[DataclassInstance], name: str) -> str:
    """The flag of a field of a settings dataclass, such as ``--batch-size``."""
    (found,) = (f for f in fields(config) if f.name == name)
    return str(found.metadata.get("flag", "--" + name.replace("_", "-")))


def add_flags(
    parser: argparse.ArgumentParser,
    config: type[DataclassInstance],
    *,
    only: Iterable[str] | None = None,
    shown: DataclassInstance | None = None,
) -> None:
    """Add a flag for each field of a settings dataclass, or for those named in `only`.

    A flag that is not given leaves no attribute in the namespace; see `from_flags`.

    Args:
        parser: The parser to add them to.
        config: The settings dataclass.
        only: Names of fields.
        shown: Settings whose values the help shows as defaults; those of the class by default.
    """
    hints = typing.get_type_hints(config)
    names = [f.name for f in fields(config)] if only is None else list(only)
    groups: dict[str, Any] = {"": parser}
    for f in (f for f in fields(config) if f.name in names):
        kind = hints[f.name]
        if isinstance(kind, types.UnionType):
            kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
        options: dict[str, Any] = {"help": f.metadata["help"], "dest": f.name, "default": argparse.SUPPRESS}
        default = f.default if shown is None else getattr(shown, f.name)
        if default is not None:
            options["help"] += f" (default: {_shown(default)})"
        options["help"] = options["help"].replace("%", "%%")
        heading = f.metadata.get("group", "")
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        flag = flag_of(config, f.name)
        if kind is bool:
            groups[heading].add_argument(flag, action=argparse.BooleanOptionalAction, **options)
            continue
        options["choices"] = choices = f.metadata.get("choices")
        if not choices or "metavar" in f.metadata:
            options["metavar"] = f.metadata.get("metavar", {int: "N", float: "X", str: "TEXT"}[kind])
        groups[heading].add_argument(flag, type=kind, **options)
    if config is PrepareConfig:
        removed: dict[str, Any] = {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
        parser.add_argument("--pixel-size", dest="--pixel-size", **removed)  # `from_flags` says what to write now
        parser.add_argument("--whole", dest="--whole", action="store_true", **removed)


def _shown(value: Any) -> str:
    """A default as the help shows it."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def from_flags(
    config: type[Config], arguments: argparse.Namespace, make: Callable[..., Config] | None = None
) -> Config:
    """Settings from the flags that were given.

    Args:
        config: The settings dataclass.
        arguments: Parsed with the flags of `add_flags`.
        make: Builds the settings from the values given, such as a recipe; by default the class itself.

    Raises:
        UsageError: A value is out of bounds, or a flag was removed.
    """
    given = {f.name: getattr(arguments, f.name) for f in fields(config) if hasattr(arguments, f.name)}
    try:
        if config is PrepareConfig:
            _refuse_removed_flags(vars(arguments), given)
        return (make or config)(**given)
    except SettingError as error:
        raise UsageError(f"{flag_of(config, error.name)} {error.rule}") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _refuse_removed_flags(arguments: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise a ValueError that says how to write ``--pixel-size`` and ``--whole`` now."""
    if "--whole" in arguments:
        raise ValueError("--whole is now written --context whole")
    if "--pixel-size" not in arguments:
        return
    side = given.get("patch_size", PrepareConfig.patch_size)
    if given.get("context") is None:
        working = organ_values(arguments["--pixel-size"], WORKING_UM)
        # To the last digit, so that a training of an earlier version goes on.
        contexts = {organ: f"{um * side!r}".removesuffix(".0") for organ, um in working.items()}
        common = max(contexts.values(), key=list(contexts.values()).count)
        text = ",".join([common, *(f"{organ}={um}" for organ, um in contexts.items() if um != common)])
        raise ValueError(f"--pixel-size is now part of --context, the side of a patch in um: write --context {text}")
    raise ValueError("--pixel-size is gone; --context alone says what a patch shows: leave --pixel-size out")
