"""Prediction: image files to ``submission.csv``, with any predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import rle, submission
from .competition import Problem, image_path, read_sample_submission, scan_images
from .config import STRIDE, PredictConfig
from .files import replacing
from .images import load_image, resize
from .progress import track
from .run import Run
from .tiles import Predictor, predict_tiled

# Each turns or mirrors the two image axes and is undone by its second half.
_FLIPS: list[tuple[Callable, Callable]] = [
    (lambda t: t, lambda t: t),
    (lambda t: t[:, ::-1], lambda t: t[:, ::-1]),
    (lambda t: t[:, :, ::-1], lambda t: t[:, :, ::-1]),
    (lambda t: t[:, ::-1, ::-1], lambda t: t[:, ::-1, ::-1]),
]
_TURNED: list[tuple[Callable, Callable]] = [
    (lambda t, f=forth: f(t.swapaxes(1, 2)), lambda t, b=back: b(t).swapaxes(1, 2)) for forth, back in _FLIPS
]
AUGMENTATIONS = {"none": _FLIPS[:1], "flips": _FLIPS, "d4": _FLIPS + _TURNED}


@dataclass(frozen=True)
class Member:
    """One network of an ensemble and the geometry it was trained with.

    Attributes:
        predict: ``(B, tile, tile, 3)`` uint8 to ``(B, tile, tile)`` float32 in [0, 1].
        network_um: Pixel size in um at which it sees each organ.
        tile_size: Side of a tile in px at the network's scale.
        overlap: Least overlap of tiles, a fraction.
        batch_size: Tiles a batch.
        thresholds: Probability from which a pixel is foreground, by organ.
    """

    predict: Predictor
    network_um: dict[str, float]
    tile_size: int
    overlap: float
    batch_size: int
    thresholds: dict[str, float]


def make_predictor(model: Callable) -> Predictor:
    """Compile a network to a predictor; one trace for each batch shape.

    Args:
        model: ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` float32 logits.

    Returns:
        ``(B, H, W, 3)`` uint8 to ``(B, H, W)`` float32 in [0, 1].
    """
    import tensorflow as tf

    # XLA is several times slower on a CPU, and Keras would turn it on by default.
    @tf.function(jit_compile=False, reduce_retracing=False)
    def forward(batch: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(model(batch, training=False))

    return lambda batch: forward(tf.constant(batch)).numpy()


def with_augmentation(predict: Predictor, kind: str) -> Predictor:
    """Average a predictor over mirrored (``flips``: 4) or also turned (``d4``: 8) copies of each tile."""
    ways = AUGMENTATIONS[kind]

    def averaged(batch: np.ndarray) -> np.ndarray:
        total = np.zeros(batch.shape[:3], np.float32)
        for forth, back in ways:
            total += back(predict(np.ascontiguousarray(forth(batch))))
        return total / len(ways)

    return predict if len(ways) == 1 else averaged


def default_batch_size() -> int:
    """Tiles a batch: 16 where TensorFlow sees a GPU, 2 on a CPU, where larger ones gain nothing."""
    import tensorflow as tf

    return 16 if tf.config.list_physical_devices("GPU") else 2


def load_member(run: Run, config: PredictConfig) -> Member:
    """Load a run's network, with what `config` leaves open taken from the run.

    Raises:
        ValueError: Weights that cannot be loaded.
    """
    from .models import load_model

    prepare = run.prepare
    tile = prepare.input_size * (config.tile_size or prepare.patch_size) / prepare.patch_size
    return Member(
        predict=with_augmentation(make_predictor(load_model(run.about["network"], run.weights)), config.tta),
        network_um=prepare.network_um(),
        tile_size=max(1, round(tile / STRIDE)) * STRIDE,
        overlap=run.train.overlap if config.overlap is None else config.overlap,
        batch_size=config.batch_size or default_batch_size(),
        thresholds=run.thresholds if config.threshold is None else dict.fromkeys(run.thresholds, config.threshold),
    )


def probability_map(image: np.ndarray, member: Member) -> np.ndarray:
    """Probability map of an image at the network's scale.

    Args:
        image: ``(h, w, 3)`` uint8 RGB at the network's scale.
        member: The network.

    Returns:
        ``(h, w)`` float32 in [0, 1].
    """
    return predict_tiled(
        image, member.predict, tile_size=member.tile_size, overlap=member.overlap, batch_size=member.batch_size
    )


def predict_masks(
    jobs: list[tuple[int, Path, pd.Series]], members: list[Member]
) -> Iterator[tuple[int, str | Exception]]:
    """Predict images one after the other; the next one is read while the network works.

    An ensemble averages its members' maps at the image's own size, and its thresholds.

    Args:
        jobs: Image id, file, and its row of the table.
        members: The networks.

    Yields:
        Image id, and its RLE or the error that kept it from being predicted.
    """
    scales = sorted({scale for member in members for scale in member.network_um.items()})

    def load(job: tuple[int, Path, pd.Series]) -> tuple[dict[float, np.ndarray], tuple[int, int]]:
        _, path, row = job
        images = {}
        shape = (int(row["img_height"]), int(row["img_width"]))
        for um in {um for organ, um in scales if organ == row["organ"]}:
            images[um], _ = load_image(path, row["pixel_size"], um, expect_shape=shape)
        return images, shape

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(load, jobs[0]) if jobs else None
        for index, (image_id, _, row) in enumerate(jobs):
            current = waiting
            waiting = pool.submit(load, jobs[index + 1]) if index + 1 < len(jobs) else None
            try:
                assert current is not None
                images, shape = current.result()
                organ = row["organ"]
                total = np.zeros(shape, np.float32)
                for member in members:
                    total += resize(probability_map(images[member.network_um[organ]], member), shape)
                threshold = float(np.mean([member.thresholds[organ] for member in members]))
                yield image_id, rle.encode(total >= threshold * len(members))
            except (OSError, ValueError, MemoryError) as error:
                yield image_id, error


def predict(data: Path, runs: list[Path], out: Path, config: PredictConfig) -> list[Problem]:
    """Predict a competition folder's images with one run or an ensemble.

    The ids are those of ``test.csv``, their order ``sample_submission.csv``'s. An image that
    cannot be predicted does not stop the others; it gets an empty mask.

    Args:
        data: Competition folder.
        runs: Run folders.
        out: The submission to write; ``<out>.problems.csv`` lists the problems, if any, and ``<out>.timings.csv``
            the ``seconds`` that each ``id`` took. Reading an image overlaps the one before, and counts only
            as far as it was waited for.
        config: Settings.

    Returns:
        Problems; with `config.on_error` ``stop`` they are errors, with ``empty`` warnings.

    Raises:
        DataError: A table that as a whole cannot be read.
        ValueError: A run that cannot be loaded.
    """
    table, problems, rows = scan_images(data, config.split)
    ids = pd.Index(rows, name="id", dtype="int64")
    if config.split == "test":
        sample = read_sample_submission(data)
        stray = sample.difference(ids)
        if len(stray):
            rule = f"ids {', '.join(map(str, stray[:5]))} are not in test.csv"
            problems.append(Problem("warning", "sample_submission.csv", None, rule, "they are left out"))
        ids = sample.intersection(ids, sort=False).append(ids.difference(sample, sort=False))
    members = [load_member(Run.open(run), config) for run in runs]
    jobs = [(int(i), image_path(data, config.split, int(i)), row) for i, row in table.iterrows()]
    masks: dict[int, str] = {}
    seconds: dict[int, float] = {}
    begin = time.monotonic()
    for image_id, result in track(predict_masks(jobs, members), len(jobs), "predict"):
        end = time.monotonic()
        begin, seconds[image_id] = end, end - begin
        if isinstance(result, str):
            masks[image_id] = result
        else:
            text = str(result) or type(result).__name__
            remedy = "its mask is empty"
            problems.append(Problem("error", f"{config.split}.csv", rows[image_id], f"id {image_id}: {text}", remedy))
    submission.write(out, masks, ids)
    with replacing(out.with_name(out.name + ".timings.csv")) as part:
        pd.DataFrame({"id": seconds.keys(), "seconds": seconds.values()}).to_csv(part, index=False, float_format="%.4f")
    if config.on_error == "empty":
        problems = [Problem("warning", p.file, p.row, p.rule, p.remedy) for p in problems]
    report = out.with_name(out.name + ".problems.csv")
    if problems:
        with replacing(report) as part:
            pd.DataFrame(problems).to_csv(part, index=False)
    else:
        report.unlink(missing_ok=True)
    return problems
