"""The networks of an ensemble: which tiles they see, which they share, and test-time augmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..competition import ByOrgan
from ..images.scaled_rows import ScaledImage
from ..images.stain import Look
from ..masks import MaskRule
from ..tables import Image
from ..tiles import Predictor, check_prediction, tile_starts


@dataclass(frozen=True)
class Member:
    """One network of an ensemble, and how it sees images.

    Attributes:
        predict: ``(B, tile, tile, 3)`` uint8 to ``(B, tile, tile)`` float32 in [0, 1].
        network_um: Pixel size at which it sees each organ, in µm, by organ.
        tile_size: Side of a tile at the network's scale, in px.
        overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).
        batch_size: Number of tiles in a batch.
        rule: How its probability maps become masks.
        tta: Test-time augmentation, one of `AUGMENTATIONS`.
        looks: Look of its training images, by organ. An image's colours are changed to it; images of an organ without
            a look keep their colours.
        scale: How many times larger than in training it sees an image; `network_um` includes this.
        network: The Keras model behind `predict`, if there is one.
    """

    predict: Predictor
    network_um: ByOrgan[float]
    tile_size: int
    overlap: float
    batch_size: int
    rule: MaskRule
    tta: str = "none"
    looks: Mapping[str, Look] = field(default_factory=dict)
    scale: float = 1.0
    network: Any = None

    def at_scale(self, factor: float) -> Member:
        """The same network, which sees images `factor` times as large."""
        return replace(self, network_um=self.network_um.map(lambda um: um / factor), scale=self.scale * factor)


@dataclass(frozen=True)
class Tiling:
    """How images of an organ are cut into tiles. Members with the same tiling share the tiles.

    Attributes:
        network_um: Pixel size of the tiles, in µm.
        tile_size: Side of a tile, in px.
        overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).
        batch_size: Number of tiles in a batch.
        look: The look that tiles are given; None to keep their colours.
    """

    network_um: float
    tile_size: int
    overlap: float
    batch_size: int
    look: Look | None

    def scaled(self, image: Image) -> ScaledImage:
        """An image at the scale of its tiles."""
        return ScaledImage(image, self.network_um)

    def count(self, image: Image) -> int:
        """Number of tiles of an image."""
        sides = self.scaled(image).shape
        return math.prod(len(tile_starts(side, self.tile_size, self.overlap)) for side in sides)


def tilings_of(members: Sequence[Member], organ: str) -> dict[Tiling, list[Member]]:
    """The tilings of an organ's images, each with the members that share it."""
    tilings: dict[Tiling, list[Member]] = {}
    for member in members:
        look = member.looks.get(organ)
        tiling = Tiling(member.network_um[organ], member.tile_size, member.overlap, member.batch_size, look)
        tilings.setdefault(tiling, []).append(member)
    return tilings


def networks_of(members: Sequence[Member]) -> list[list[Member]]:
    """The members of each network; a network has one member for each scale at which it sees an image."""
    networks: dict[int, list[Member]] = {}
    for member in members:
        networks.setdefault(id(member.predict), []).append(member)
    return list(networks.values())


def nearest_scale(members: Sequence[Member]) -> Member:
    """The member of a network whose scale is nearest to that of its training."""
    return min(members, key=lambda member: abs(math.log(member.scale)))


_Turn = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
# Pairs of functions of (B, H, W, ...): the first mirrors or turns the two image axes, the second undoes it.
_FLIPS: list[tuple[_Turn, _Turn]] = [
    (lambda t: t, lambda t: t),
    (lambda t: t[:, ::-1], lambda t: t[:, ::-1]),
    (lambda t: t[:, :, ::-1], lambda t: t[:, :, ::-1]),
    (lambda t: t[:, ::-1, ::-1], lambda t: t[:, ::-1, ::-1]),
]


def _turned(turn: _Turn, back: _Turn) -> tuple[_Turn, _Turn]:
    return lambda t: turn(t.swapaxes(1, 2)), lambda t: back(t).swapaxes(1, 2)


AUGMENTATIONS = {"none": _FLIPS[:1], "flips": _FLIPS, "d4": _FLIPS + [_turned(*flip) for flip in _FLIPS]}


def predict_augmented(member: Member, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Average a network over the copies of a batch: 1 (``none``), 4 mirrored (``flips``), or 8 also turned (``d4``).

    Args:
        member: The network.
        batch: ``(B, tile, tile, 3)`` uint8.

    Returns:
        ``(B, tile, tile)`` float32 in [0, 1].

    Raises:
        ValueError: The network's answer has another shape.
    """
    ways = AUGMENTATIONS[member.tta]
    if len(ways) == 1:
        return check_prediction(member.predict(batch), batch)
    total = np.zeros(batch.shape[:3], np.float32)
    for turn, back in ways:
        total += back(check_prediction(member.predict(np.ascontiguousarray(turn(batch))), batch))
    return total / np.float32(len(ways))


def pixels_seen(members: Sequence[Member], tile_size: int) -> float:
    """Number of pixels that the members' networks see for one tile, copies included."""
    return float(sum(len(AUGMENTATIONS[member.tta]) for member in members) * tile_size**2)
