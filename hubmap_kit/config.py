"""Settings: one frozen dataclass a stage.

The command line is generated from these fields (their ``help`` and ``choices``), the kernels
pass them by name, and a run folder's ``config.json`` holds them beside the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from .models.encoders import ENCODERS, IMAGENET
from .models.losses import LOSSES, loss_terms
from .models.network_config import MODELS, NetworkConfig
from .settings import check_bounds, named_numbers, organ_values, scale_factors, setting

STRIDE = 32  # the networks': the sides of what they see are multiples of it
# What `TrainConfig.augment` may list, in the order in which it is done; see `hubmap_kit.images.augment`.
GEOMETRY_STEPS = ("flip", "quarter", "turn", "scale", "elastic")
COLOUR_STEPS = ("reinhard", "macenko", "stain", "hed", "colour", "brightness")
OPTICS_STEPS = ("coarse", "blur", "noise", "jpeg", "cutout")
AUGMENT_STEPS = GEOMETRY_STEPS + COLOUR_STEPS + OPTICS_STEPS


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
    context_um: str | None = setting(
        None,
        "side of what the network sees at once, in um: a number, or organ=number, comma-separated "
        "(default: patch size times working pixel size)",
        flag="--context",
    )
    whole: bool = setting(
        False, "take each image whole as one patch: the largest one's side at the working pixel size is the patch size"
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
        check_bounds(self)
        organ_values(self.pixel_size_um, 0.4)
        if self.context_um is not None:
            if self.whole:
                raise ValueError("context_um and whole both set what the network sees at once; give one of them")
            organ_values(self.context_um, 1.0)
        if self.input_size % STRIDE:
            raise ValueError(
                f"input_size is {self.input_size}; it must be a multiple of {STRIDE}, the networks' stride"
            )
        if self.folds == 1:
            raise ValueError("folds is 1; use 0 for none or at least 2")

    def contexts(self) -> dict[str, float]:
        """Organ to the side in um of what the network sees of it at once."""
        working = organ_values(self.pixel_size_um, 0.4)
        default = {organ: um * self.patch_size for organ, um in working.items()}
        return default if self.context_um is None else organ_values(self.context_um, default)

    def network_um(self) -> dict[str, float]:
        """Organ to the pixel size in um at which the network sees it."""
        return {organ: um / self.input_size for organ, um in self.contexts().items()}


@dataclass(frozen=True)
class TrainConfig:
    """One training. The defaults are the recipe ``default``'s; see `hubmap_kit.recipes`."""

    model: str = setting(
        "efficientnet-unet",
        "U-Net with a pretrainable encoder, or the plain one",
        choices=MODELS,
    )
    encoder: str = setting("efficientnetb0", "encoder of the efficientnet-unet", choices=tuple(ENCODERS))
    encoder_weights: str = setting("imagenet", "imagenet (a download), none, or the path of a weights file")
    decoder_filters: int = setting(
        256,
        "filters of the efficientnet-unet's first decoder stage; each of 5 stages halves them, down to 16",
        least=16,
    )
    filters: int = setting(64, "filters of the plain U-Net's first stage; each of 4 stages doubles them", least=1)
    auxiliary: float = setting(
        0.0, "weight of the losses of two heads that tell organ and pixel size, 0 for none", least=0.0
    )
    loss: str = setting("bce+dice", f"loss: a weighted sum of {', '.join(LOSSES)}, such as bce+0.5*lovasz")
    batch_size: int = setting(16, "patches a step, over all devices", least=1)
    epochs: int = setting(60, "most epochs", least=1)
    steps_per_epoch: int | None = setting(None, "steps an epoch (default: one pass over the patches)", least=1)
    learning_rate: float = setting(1e-3, "Adam's rate while the encoder is frozen, or throughout", least=0.0)
    schedule: str = setting("cosine", "learning rate over the steps", choices=("constant", "cosine"))
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0, 0 for none", least=0)
    freeze_epochs: int = setting(
        10, "epochs a pretrained encoder stays frozen, 0 for none; random encoders never are", least=0
    )
    freeze_batchnorm: bool = setting(
        True, "whether the frozen encoder's BatchNormalization is frozen with it (statistics and scale)"
    )
    finetune_learning_rate: float = setting(5e-4, "Adam's rate once the encoder is unfrozen", least=0.0)
    clip_norm: float = setting(0.0, "norm of all gradients above which they are scaled down, 0 for never", least=0.0)
    ema: float = setting(
        0.0, "momentum of a moving average of the weights, which is what is kept; 0 for none", least=0.0, below=1.0
    )
    precision: str = setting(
        "auto",
        "float32; mixed (with float16 on a GPU, bfloat16 elsewhere); or mixed on a GPU alone",
        choices=("auto", "float32", "mixed"),
    )
    devices: str = setting(
        "auto",
        "one; mirrored (all GPUs of this computer); tpu; workers (computers named in TF_CONFIG); or what is there",
        choices=("auto", "one", "mirrored", "tpu", "workers"),
    )
    deterministic: bool = setting(False, "whether a GPU repeats a training to the bit too, more slowly")
    patience: int = setting(12, "epochs without a better validation Dice before stopping, 0 for never", least=0)
    validate_every: int = setting(1, "epochs between validations at full resolution", least=1)
    crops: str = setting(
        "random",
        "training patches: the prepared grid, or random squares balanced over organs",
        choices=("grid", "random"),
    )
    foreground_share: float = setting(0.7, "share of random squares laid over a foreground patch", least=0.0, most=1.0)
    augment: str = setting(
        "flip,turn,scale,stain=0.75,coarse=0.25",
        f"what is done to patches, and to which share of them (default 1): {', '.join(AUGMENT_STEPS)}",
    )
    scale_range: float = setting(1.33, "most factor by which the augmentation scale enlarges or shrinks", least=1.0)
    looks_from: str | None = setting(
        None,
        "competition folder whose test images the augmentations reinhard and macenko imitate "
        "(default: training images of the same organ)",
    )
    cutmix: float = setting(
        0.0, "share of patches with a rectangle of another one of the same organ pasted in", least=0.0, most=1.0
    )
    pseudo: str | None = setting(None, "store of soft masks to train on too; see hubmap-kit pseudo")
    pseudo_share: float = setting(0.25, "share of patches that are of that store", least=0.0, most=1.0)
    threshold: float = setting(0.5, "probability from which a pixel is foreground", least=0.0, below=1.0)
    tune: bool = setting(
        True, "whether thresholds and least region sizes of each organ are chosen on validation when the training ends"
    )
    overlap: float = setting(0.25, "overlap of neighbouring tiles, a fraction", least=0.0, below=0.95)
    fold: int | None = setting(None, "validate on this fold and train on the others", least=0)
    seed: int = setting(0, "seed of weights, sampling and augmentation", least=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        loss_terms(self.loss)
        self.augment_shares()

    def augment_shares(self) -> dict[str, float]:
        """Augmentation to the share of patches it is done to, in the order in which it is done."""
        return named_numbers(self.augment, AUGMENT_STEPS, "augmentation")

    def network(self) -> NetworkConfig:
        """Layout of the network that is trained."""
        auxiliary = self.auxiliary > 0
        if self.model == "unet":
            return NetworkConfig(self.model, None, self.filters, auxiliary, *IMAGENET)
        encoder = ENCODERS[self.encoder]
        return NetworkConfig(self.model, self.encoder, self.decoder_filters, auxiliary, encoder.mean, encoder.std)


@dataclass(frozen=True)
class PredictConfig:
    """How images are predicted. What is None is taken from the run."""

    split: str = setting("test", "images to predict", choices=("test", "train"))
    tile_size: int | None = setting(
        None, "side of a tile, in pixels of which the run's patch size makes one patch (default: that)", least=32
    )
    overlap: float | None = setting(
        None, "overlap of neighbouring tiles, a fraction (default: the run's)", least=0.0, below=0.95
    )
    threshold: float | None = setting(
        None, "probability from which a pixel is foreground (default: the run's)", least=0.0, below=1.0
    )
    min_region_um2: float | None = setting(
        None,
        "area in um2 below which a region of a mask is dropped (default: the run's, by organ)",
        flag="--min-region",
        least=0.0,
    )
    tta: str = setting("none", "test-time augmentation", choices=("none", "flips", "d4"))
    scales: str = setting("1", "factors of size at which each network sees an image, comma-separated; 1 is its own")
    stain: str = setting(
        "none",
        "bring each image's colours to those the run was trained on, by their statistics",
        choices=("none", "reinhard", "macenko"),
    )
    adapt: str = setting(
        "none",
        "adapt the network to the images of each organ and source: statistics of its BatchNormalization, "
        "or training on its own confident masks",
        choices=("none", "batchnorm", "self-training"),
    )
    adapt_share: float = setting(
        0.5, "weight of the images' own statistics in adapt batchnorm; the rest is the run's", least=0.0, most=1.0
    )
    adapt_steps: int = setting(40, "training steps of adapt self-training", least=1)
    batch_size: int | None = setting(None, "tiles a batch (default: 16 on a GPU, 2 on a CPU)", least=1)
    precision: str = setting(
        "auto",
        "float32; mixed (with float16 on a GPU, bfloat16 elsewhere); or mixed on a GPU alone",
        choices=("auto", "float32", "mixed"),
    )
    skip_background: bool = setting(False, "take tiles without tissue as background, without a network")
    time_limit: float | None = setting(
        None,
        "minutes in which to finish, if need be without adaptation, augmentation, scales, overlap and networks "
        "(default: none)",
        least=0.0,
    )
    on_error: str = setting(
        "stop",
        "an image that cannot be predicted: end with status 1 after the rest, or write an empty mask",
        choices=("stop", "empty"),
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        scale_factors(self.scales)
