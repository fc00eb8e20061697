"""The layout of a network, without TensorFlow: a run folder keeps it, to build the network again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..files import check_types
from .encoders import ENCODERS

MODELS = ("efficientnet-unet", "unet")


@dataclass(frozen=True)
class NetworkConfig:
    """The layout of a network.

    Attributes:
        model: ``efficientnet-unet``, a U-Net on a pretrainable encoder, or ``unet``, the plain one.
        encoder: Encoder of the efficientnet-unet, a name of `ENCODERS`; None in the plain U-Net.
        filters: Filters of the plain U-Net's first stage, or of the efficientnet-unet's first decoder stage.
        auxiliary: Whether it has two more heads, for organ and pixel size.
        mean: Per-channel mean that the network subtracts from RGB in [0, 1].
        std: Per-channel standard deviation that it divides by.

    Raises:
        ValueError: An unknown model or encoder, or numbers that cannot be right.
    """

    model: str
    encoder: str | None
    filters: int
    auxiliary: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        known = self.encoder is None if self.model == "unet" else self.encoder in ENCODERS
        if self.model not in MODELS or not known:
            raise ValueError(
                f"this version cannot build the network {self.model} with encoder {self.encoder}; "
                "use the version of the kit that trained it, or train again"
            )
        if self.filters < 1:
            raise ValueError(f"filters is {self.filters}; it must be at least 1")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(std > 0 for std in self.std):
            raise ValueError(f"mean is {self.mean}, std {self.std}; both have a number by channel, std above 0")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """A layout from its fields as JSON values, as `dataclasses.asdict` and a run folder of format 2 have them.

        Raises:
            KeyError, TypeError, ValueError: A value is missing or has another type.
        """
        normalisation = values.get("normalisation", values)
        given = {
            "model": values["model"],
            "encoder": values.get("encoder"),
            "filters": values["filters"] if "filters" in values else values["decoder_filters"],
            "auxiliary": values["auxiliary"],
            "mean": tuple(normalisation["mean"]),
            "std": tuple(normalisation["std"]),
        }
        check_types(cls, given)
        return cls(**given)
