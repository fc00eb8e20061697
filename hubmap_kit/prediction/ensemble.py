"""What is predicted, and with what: images, the networks of an ensemble, and test-time augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..images.stain import Look
from ..masks import MaskRule
from ..tables import Image
from ..tiles import Predictor, check_prediction

Job = Image  # the name is on its way out


@dataclass(frozen=True)
class Member:
    """One network of an ensemble and the geometry it was trained with.

    Attributes:
        predict: ``(B, tile, tile, 3)`` uint8 to ``(B, tile, tile)`` float32 in [0, 1].
        network_um: Pixel size in µm at which it sees each organ.
        tile_size: Side of a tile in px at the network's scale.
        overlap: Least overlap of tiles, a fraction.
        batch_size: Tiles a batch.
        rule: How its probability maps become masks.
        tta: Test-time augmentation, of `AUGMENTATIONS`.
        looks: What its training images of each organ look like, to which an image's colours are brought first;
            none to take them as they are.
        scale: How much larger than in training it sees an image; `network_um` is with it.
        network: The Keras model behind `predict`, if there is one.
    """

    predict: Predictor
    network_um: dict[str, float]
    tile_size: int
    overlap: float
    batch_size: int
    rule: MaskRule
    tta: str = "none"
    looks: dict[str, Look] = field(default_factory=dict)
    scale: float = 1.0
    network: Any = None

    def at_scale(self, factor: float) -> Member:
        """The same network, with images `factor` times as large."""
        network_um = {organ: um / factor for organ, um in self.network_um.items()}
        return replace(self, network_um=network_um, scale=self.scale * factor)


@dataclass(frozen=True)
class Result:
    """What came of an image.

    Attributes:
        id: Its id.
        rle: Its mask; None where it could not be predicted.
        error: Why not, else None.
        seconds: Work on it in all stages, which overlap: reading, its share of its batches, and writing.
        members: The networks and their settings that were used.
    """

    id: int
    rle: str | None
    error: Exception | None
    seconds: float
    members: Sequence[Member]


# Each turns or mirrors the two image axes of (B, H, W, ...) and is undone by its second half.
_FLIPS: list[tuple[Any, Any]] = [
    (lambda t: t, lambda t: t),
    (lambda t: t[:, ::-1], lambda t: t[:, ::-1]),
    (lambda t: t[:, :, ::-1], lambda t: t[:, :, ::-1]),
    (lambda t: t[:, ::-1, ::-1], lambda t: t[:, ::-1, ::-1]),
]
_TURNED: list[tuple[Any, Any]] = [
    (lambda t, f=forth: f(t.swapaxes(1, 2)), lambda t, b=back: b(t).swapaxes(1, 2)) for forth, back in _FLIPS
]
AUGMENTATIONS = {"none": _FLIPS[:1], "flips": _FLIPS, "d4": _FLIPS + _TURNED}


def predict_augmented(member: Member, batch: np.ndarray) -> np.ndarray:
    """Average a network over mirrored (``flips``: 4) or also turned (``d4``: 8) copies of a batch.

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
    for forth, back in ways:
        total += back(check_prediction(member.predict(np.ascontiguousarray(forth(batch))), batch))
    return total / np.float32(len(ways))


@dataclass(frozen=True)
class Geometry:
    """What members must have in common to share an image's tiles."""

    um: float
    tile_size: int
    overlap: float
    batch_size: int
    look: Look | None


def groups_of(members: Sequence[Member], organ: str) -> dict[Geometry, list[Member]]:
    """The members that share the tiles of an organ's images."""
    groups: dict[Geometry, list[Member]] = {}
    for member in members:
        look = member.looks.get(organ)
        geometry = Geometry(member.network_um[organ], member.tile_size, member.overlap, member.batch_size, look)
        groups.setdefault(geometry, []).append(member)
    return groups


def networks_of(members: Sequence[Member]) -> dict[int, list[Member]]:
    """The members of each network, which are one for each scale at which it sees an image."""
    networks: dict[int, list[Member]] = {}
    for member in members:
        networks.setdefault(id(member.predict), []).append(member)
    return networks


def nearest_scale(members: Sequence[Member]) -> Member:
    """Of a network's members, the one that sees images at the scale nearest to its training's."""
    return min(members, key=lambda member: abs(math.log(member.scale)))


def cost(members: Sequence[Member], tile: int) -> float:
    """Pixels that the networks see for one tile, all copies counted."""
    return float(sum(len(AUGMENTATIONS[member.tta]) for member in members) * tile**2)
