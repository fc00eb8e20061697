"""Networks of run folders, loaded for prediction, and the probability maps that they make of whole images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..competition import ByOrgan
from ..config import STRIDE, PredictConfig, scale_factors
from ..images.stain import Look, average, measure_bands, transfer
from ..models.hardware import compute_dtype, default_batch_size, has_gpu, memory_errors, start_tensorflow
from ..run import Run
from ..tiles import Predictor, predict_tiled
from ..words import count
from .ensemble import Member, predict_augmented

SPARING_OVERLAP = 0.25  # overlap of the smaller tiles that are used when the memory is full


def make_predictor(model: Callable[..., Any]) -> Predictor:
    """Compile a network to a predictor; it is compiled once for each batch shape.

    Args:
        model: ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` float32 logits.

    Returns:
        ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` float32 in [0, 1].
    """
    import tensorflow as tf

    def forward(batch: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(model(batch, training=False))

    # XLA is several times slower on a CPU, and Keras would turn it on by default.
    compiled = tf.function(forward, jit_compile=has_gpu(), reduce_retracing=False)

    def predict(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        with memory_errors():
            return np.asarray(compiled(tf.constant(batch)).numpy())

    return Sparing(predict)


class Sparing:
    """A predictor that goes on when the memory is full: it halves the batch, down to one tile, and then the tile.

    A size that failed is not tried again. Predictions in smaller batches are the same. Smaller tiles overlap and are
    blended, and the network sees less around each pixel.
    """

    def __init__(self, predict: Predictor) -> None:
        """Wrap a predictor, which takes batches and tiles of any size and raises a MemoryError."""
        self._predict = predict
        self._most_tiles, self._most_px = math.inf, math.inf

    def __call__(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Predict a batch, ``(B, tile, tile, 3)`` uint8 to ``(B, tile, tile)`` float32 in [0, 1].

        Raises:
            MemoryError: Not even the smallest tile can be predicted.
        """
        while True:
            tiles, px = int(min(len(batch), self._most_tiles)), int(min(batch.shape[1], self._most_px))
            try:
                if px < batch.shape[1]:
                    return np.stack([self._in_parts(tile, px) for tile in batch])
                return np.concatenate([self._predict(batch[i : i + tiles]) for i in range(0, len(batch), tiles)])
            except MemoryError as error:
                if tiles > 1:
                    self._most_tiles = tiles // 2
                    print(f"the memory is full: from here on {count(tiles // 2, 'tile')} at a time", flush=True)
                elif px > STRIDE:
                    self._most_tiles, self._most_px = 1, max(STRIDE, px // 2 // STRIDE * STRIDE)
                    print(f"the memory is full: from here on tiles of {self._most_px} px", flush=True)
                else:
                    raise MemoryError(f"the memory is too small to predict even a tile of {px} x {px} px") from error

    def _in_parts(self, tile: npt.NDArray[np.uint8], px: int) -> npt.NDArray[np.float32]:
        return predict_tiled(tile, self._predict, tile_size=px, overlap=SPARING_OVERLAP, batch_size=1)


def load_member(run: Run, config: PredictConfig) -> Member:
    """Load a run's network. Settings that are None in `config` are the run's.

    Raises:
        ValueError: Weights that cannot be loaded, or a run without the looks that `config.stain` needs.
    """
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
        rule=run.config.rule.override(config.thresholds(), config.min_regions_um2()),
        tta=config.tta,
        looks={} if config.stain == "none" else _looks(run, config.stain),
        network=network,
    )


def load_members(runs: Sequence[Run], config: PredictConfig) -> list[Member]:
    """Load the networks of runs, each once, with a member for each of ``config.scales``; see `load_member`."""
    start_tensorflow()
    loaded = [load_member(run, config) for run in runs]
    return [member.at_scale(factor) for member in loaded for factor in scale_factors(config.scales)]


def _looks(run: Run, method: str) -> ByOrgan[Look]:
    """The average look of a run's training images, by organ; for an organ without one, the average over organs."""
    looks = {organ: Look(method, values) for organ, values in run.config.looks.get(method, {}).items() if values}
    if not looks:
        raise ValueError(
            f"{run.folder} has no {method} look of its training images; predict with --stain none, or train again"
        )
    return ByOrgan(looks, average(list(looks.values())))


def probability_map(image: npt.NDArray[np.uint8], member: Member, organ: str) -> npt.NDArray[np.float32]:
    """Probability map of a whole image at the network's scale, as `stream.predict_masks` makes it.

    Args:
        image: ``(h, w, 3)`` uint8 RGB at the network's scale.
        member: The network.
        organ: The image's organ. If the member has a look for it, the image's colours are changed to that look.

    Returns:
        ``(h, w)`` float32 in [0, 1].
    """
    if look := member.looks.get(organ):
        shape = (image.shape[0], image.shape[1])
        own = measure_bands([image], shape, look.method, least_side=member.tile_size)
        image = transfer(image, own, look)
    return predict_tiled(
        image,
        lambda batch: predict_augmented(member, batch),
        tile_size=member.tile_size,
        overlap=member.overlap,
        batch_size=member.batch_size,
    )
