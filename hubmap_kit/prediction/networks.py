"""A run's network, loaded to predict with: how it computes, and the probability map it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..competition import ORGANS
from ..config import STRIDE, PredictConfig, scale_factors
from ..images.stain import Look, average
from ..run import Run
from ..tiles import Predictor, predict_tiled
from .ensemble import Member, predict_augmented


def make_predictor(model: Callable) -> Predictor:
    """Compile a network to a predictor; one trace for each batch shape.

    Args:
        model: ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` float32 logits.

    Returns:
        ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` float32 in [0, 1].
    """
    import tensorflow as tf

    from ..models.hardware import has_gpu

    # XLA is several times slower on a CPU, and Keras would turn it on by default.
    @tf.function(jit_compile=has_gpu(), reduce_retracing=False)
    def forward(batch: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(model(batch, training=False))

    return lambda batch: forward(tf.constant(batch)).numpy()


def load_member(run: Run, config: PredictConfig) -> Member:
    """Load a run's network, with what `config` leaves open taken from the run.

    Raises:
        ValueError: Weights that cannot be loaded, or a run without the looks that `config.stain` needs.
    """
    from ..models.hardware import compute_dtype, default_batch_size
    from ..models.network import load_model

    prepare = run.config.prepare
    tile = prepare.input_size * (config.tile_size or prepare.patch_size) / prepare.patch_size
    network = load_model(run.config.network, run.weights, compute_dtype=compute_dtype(config.precision))
    return Member(
        predict=make_predictor(network),
        network_um=prepare.network_um(),
        tile_size=max(1, round(tile / STRIDE)) * STRIDE,
        overlap=run.config.train.overlap if config.overlap is None else config.overlap,
        batch_size=config.batch_size or default_batch_size(),
        rule=run.config.rule.override(config.threshold, config.min_region_um2),
        tta=config.tta,
        looks={} if config.stain == "none" else _looks(run, config.stain),
        network=network,
    )


def load_members(runs: Sequence[Run], config: PredictConfig) -> list[Member]:
    """Load runs' networks: a member for each, and for each of ``config.scales``; see `load_member`."""
    loaded = [load_member(run, config) for run in runs]
    return [member.at_scale(factor) for member in loaded for factor in scale_factors(config.scales)]


def _looks(run: Run, method: str) -> dict[str, Look]:
    """What the training images of each organ look like; of an organ without any, what all of them look like."""
    looks = {organ: Look(method, values) for organ, values in run.config.looks.get(method, {}).items() if values}
    if not looks:
        raise ValueError(
            f"{run.folder} does not say what its training images look like by {method}; "
            "predict with --stain none, or train again"
        )
    return dict.fromkeys(ORGANS, average(list(looks.values()))) | looks


def probability_map(image: np.ndarray, member: Member) -> np.ndarray:
    """Probability map of an image at the network's scale.

    Args:
        image: ``(h, w, 3)`` uint8 RGB at the network's scale.
        member: The network.

    Returns:
        ``(h, w)`` float32 in [0, 1].
    """
    return predict_tiled(
        image,
        lambda batch: predict_augmented(member, batch),
        tile_size=member.tile_size,
        overlap=member.overlap,
        batch_size=member.batch_size,
    )
