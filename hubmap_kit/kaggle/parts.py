"""The parts of a push and their order. The command line, the push itself and its checks take them from here."""

from __future__ import annotations

from typing import NamedTuple

KIT, WEIGHTS = "hubmap-kit", "hubmap-weights"  # datasets
TRAIN, INFER = "hubmap-train", "hubmap-infer"  # kernels


class Part(NamedTuple):
    """A part of a push.

    Attributes:
        name: Its name on the command line, and the method of `hubmap_kit.kaggle.push.Push` that pushes it.
        slug: The dataset or kernel on Kaggle.
    """

    name: str
    slug: str


PARTS = (Part("kit", KIT), Part("train", TRAIN), Part("weights", WEIGHTS), Part("infer", INFER))
