"""Preparation: a competition folder's training images to a patch store, see `hubmap_kit.preparation.store`."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from .. import rle
from ..competition import DataError, image_path, scan_images
from ..config import PrepareConfig
from ..images.scaling import load_image, resize_mask
from ..settings import organ_values
from .splits import assign_folds, assign_splits, read_groups, split_sizes
from .store import PatchStore, begin_store, finish_store, write_image, write_images

LEAST_PATCH = 32  # px


def prepare(data: Path, out: Path, config: PrepareConfig, *, scheduler: str | None = None) -> PatchStore:
    """Write the patch store of a competition folder's training images.

    Images are done in parallel. One whose file, mask and geometry are as in an earlier run is
    left as it is, so that a killed or repeated preparation does only what is missing.

    Args:
        data: Competition folder; ``train.csv`` and ``train_images/`` are read.
        out: Folder of the store.
        config: Settings; with `config.whole` the store's have the patch size that came of it.
        scheduler: Address of a Dask scheduler whose workers do the images, the same to the byte, in place of this
            process; `data` and `out` then lie on a file system that they share. See `hubmap_kit.cluster`.

    Returns:
        The store, opened.

    Raises:
        DataError: Bad tables, or images that cannot be read, all of them.
        ValueError: Sizes of the splits that leave nothing to train on, a cluster that cannot be used, or one that
            writes to another file system than this.
    """
    images, problems, rows = scan_images(data, "train")
    if problems:
        raise DataError(problems)
    if config.whole:
        config = replace(config, patch_size=whole_patch_size(images, config))
    groups = read_groups(Path(config.groups), images.index) if config.groups else None
    images["split"] = assign_splits(
        images["organ"], *split_sizes(len(images), config.test_size, config.val_size), config.seed, groups
    )
    images["fold"] = -1
    if config.folds:
        rest = images.index[images["split"] != "test"]
        images.loc[rest, "fold"] = assign_folds(images["organ"].loc[rest], config.folds, config.seed, groups)
    images["network_um"] = images["organ"].map(config.network_um())

    begin_store(out)
    work = partial(_prepare_image, data.absolute(), out.absolute(), config.input_size)
    made, problems = write_images("prepare", work, images, rows, scheduler=scheduler, jobs_at_once=config.jobs)
    if problems:
        raise DataError(problems)
    elsewhere = [i for i in images.index if not (out / "images" / f"{i}.npy").is_file()]
    if elsewhere:
        raise ValueError(
            f"{len(elsewhere)} prepared images are not in {out}, such as {elsewhere[0]}.npy; "
            "the workers must see this folder, on a file system that they share"
        )
    return finish_store(out, data, config, images, made)


def _prepare_image(data: Path, out: Path, input_size: int, job: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """Write one image of the store and its true mask.

    Args:
        data: Competition folder.
        out: Folder of the store.
        input_size: Least side of what is stored, in px.
        job: The image's id, and its row of the table.

    Returns:
        See `store.write_image`.
    """
    image_id, row = job
    source = image_path(data, "train", image_id)

    def read() -> tuple[np.ndarray, np.ndarray]:
        shape = (int(row["img_height"]), int(row["img_width"]))
        # One thread each: the images share the cores already.
        image, _ = load_image(source, row["pixel_size"], row["network_um"], expect_shape=shape, threads=1)
        return image, small_mask(row["rle"], shape, (image.shape[0], image.shape[1]))

    facts = {"rle_sha256": hashlib.sha256(row["rle"].encode()).hexdigest()}
    return write_image(out, job, source, input_size, facts, read)


def whole_patch_size(images: pd.DataFrame, config: PrepareConfig) -> int:
    """Side of a patch that holds each image whole.

    Args:
        images: ``organ``, ``img_height``, ``img_width`` (px) and ``pixel_size`` (um) of each.
        config: Settings, of which the working pixel size counts.

    Returns:
        The longest side of all images, in pixels of the working pixel size of their organ, at least 32. At
        `PrepareConfig.network_um` of that patch size no side is longer than the input size.
    """
    working_um = images["organ"].map(organ_values(config.pixel_size_um, 0.4))
    longest = (images[["img_height", "img_width"]].max(axis=1) * images["pixel_size"] / working_um).max()
    # A side such as 3000 x 0.1 / 0.1 is a whole number, whatever the last digit of the quotient.
    return max(LEAST_PATCH, math.ceil(round(longest, 6)))


def small_mask(text: str, shape: tuple[int, int], small: tuple[int, int]) -> np.ndarray:
    """``resize_mask(rle.decode(text, shape), small)`` to the pixel, several times faster.

    Args:
        text: An RLE.
        shape: ``(height, width)`` of its mask in px.
        small: ``(height, width)`` wanted in px.

    Returns:
        ``small`` uint8 in {0, 1}: 1 where at least half of a pixel is foreground.

    Raises:
        ValueError: See `rle.parse`.
    """
    columns = rle.decode(text, shape).T  # as it lies in memory; OpenCV would first copy the mask to rows
    if shape[0] % small[0] or shape[1] % small[1]:
        return resize_mask(cv2.transpose(columns), small)
    # Of blocks of whole pixels bytes are enough: 255 times a share is rounded to 128 or more from a half on.
    columns *= 255
    share = cv2.resize(columns, small, interpolation=cv2.INTER_AREA)
    return (share >= 128).view(np.uint8).T


def summary(store: PatchStore) -> str:
    """What a store holds, for the terminal: images by organ and split, patches, and how many hold mask."""
    counts = store.images.groupby(["organ", "split"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[s for s in ("train", "validation", "test") if s in counts])
    counts.loc["all"] = counts.sum()
    kept = int((store.patches["mask_share"] >= store.config.min_mask_share).sum())
    contexts = {organ: um for organ, um in store.config.contexts().items() if organ in counts.index}
    return (
        f"{counts.rename_axis(None).rename_axis(None, axis=1).to_string()}\n"
        f"{len(store.patches)} patches seen at {store.config.input_size} px, "
        f"{kept} with at least {store.config.min_mask_share:.0%} mask\n"
        f"side of a patch: {', '.join(f'{organ} {um:.4g} um' for organ, um in contexts.items())}"
    )
