"""Preparation: a competition folder's training images to a patch store, see `hubmap_kit.preparation.store`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from .. import rle
from ..competition import ORGANS, TABLES
from ..config import WHOLE, WORKING_UM, PrepareConfig
from ..images.scaling import load_image, resize_mask
from ..tables import DataError, Image, Problem, few_images, read_images, remarks
from ..words import count, did_you_mean
from .splits import assign_folds, assign_splits, read_groups, split_sizes
from .store import (
    MIN_MASK_SHARE,
    NEXT,
    NOW,
    PatchStore,
    StoredImage,
    StoreInfo,
    Written,
    begin_store,
    finish_store,
    write_image,
    write_images,
)

LEAST_PATCH_PX = 32


def prepare(
    data: Path, out: Path, config: PrepareConfig, *, overwrite: bool = False, scheduler: str | None = None
) -> PatchStore:
    """Write the patch store of a competition folder's training images.

    Images are prepared in parallel. One whose file, mask and geometry are as in an earlier run is left as it is, so
    that a killed or repeated preparation does only what is missing. A finished store in `out` stays usable until the
    new one is complete.

    Args:
        data: Competition folder; ``train.csv`` and ``train_images/`` are read.
        out: Folder of the store.
        config: Settings. If the context is ``whole``, the store's settings have the patch size of `whole_patch_size`.
        overwrite: Whether to replace a store of other data.
        scheduler: Address of a Dask scheduler whose workers prepare the images, the same to the byte, instead of this
            process. `data` and `out` must then lie on a file system that they share. See `hubmap_kit.cluster`.

    Returns:
        The store, opened.

    Raises:
        DataError: Every problem of the tables, or every image that cannot be read.
        ValueError: `out` holds something else, or a store of other data without `overwrite`; sizes of the splits that
            leave nothing to train on; a cluster that cannot be used, or one that
            writes to another file system than this.
    """
    images = read_images(data.absolute(), "train")
    for remark in remarks(images):
        print(remark, flush=True)
    if config.context == WHOLE:
        config = replace(config, patch_size=whole_patch_size(images), context=None)
    organs = pd.Series({image.id: image.organ for image in images})
    groups = read_groups(Path(config.groups), organs.index) if config.groups else None
    sizes = split_sizes(len(images), config.test_size, config.val_size)
    splits = assign_splits(organs, *sizes, config.seed, groups)
    folds = pd.Series(-1, index=organs.index)
    if config.folds:
        rest = organs[splits != "test"]
        folds.loc[rest.index] = assign_folds(rest, config.folds, config.seed, groups)
    network_um = config.network_um()
    if strangers := [organ for organ in network_um if organ not in ORGANS and organ not in set(organs)]:
        raise ValueError(
            f"the context names {', '.join(strangers)}, and no training image of {data} is of that organ"
            f"{did_you_mean(strangers[0], organs.unique())}; its organs are {', '.join(organs.unique())}"
        )

    before = _written_at(out, images)
    folder = begin_store(out, StoreInfo(data, config), overwrite=overwrite)
    write = partial(_prepare_image, out.absolute(), folder, config.input_size, network_um)
    written, problems = write_images("prepare", write, images, scheduler=scheduler)
    if kept := len(before.items() & _written_at(out, images).items()):
        print(f"{kept} of {count(len(images), 'image')} were there already", flush=True)
    if problems:
        raise DataError(problems)
    elsewhere = [image.id for image in images if image.id not in _written_at(out, [image])]
    if elsewhere:
        raise ValueError(
            f"{len(elsewhere)} prepared images are not in {out}, such as {elsewhere[0]}.npy; "
            "the workers must see this folder, on a file system that they share"
        )
    stored = [
        StoredImage(i, written[i.id].shape, network_um[i.organ], str(splits[i.id]), int(folds[i.id])) for i in images
    ]
    return finish_store(out, StoreInfo(data, config), stored, written)


def _written_at(out: Path, images: Sequence[Image]) -> dict[int, tuple[int, ...]]:
    """Times at which a store's image files were written, in ns since 1970, by image id."""
    found = {}
    for image in images:
        paths = [out / folder / f"{image.id}.npy" for folder in (NOW, NEXT)]
        if times := tuple(path.stat().st_mtime_ns for path in paths if path.is_file()):
            found[image.id] = times
    return found


def _prepare_image(out: Path, folder: str, input_size: int, network_um: Mapping[str, float], image: Image) -> Written:
    """Write one image of the store and its true mask; `network_um` is the network's pixel size by organ, in um."""
    um = network_um[image.organ]

    def read() -> tuple[np.ndarray, np.ndarray]:
        # One thread each, because the images share the cores already.
        rgb, _ = load_image(image.path, image.pixel_size_um, um, expect_shape=image.shape, threads=1)
        return rgb, small_mask(image.rle, image.shape, (rgb.shape[0], rgb.shape[1]))

    facts = {"rle_sha256": hashlib.sha256(image.rle.encode()).hexdigest()}
    return write_image(out, folder, image, um, input_size, facts, read)


def whole_patch_size(images: Sequence[Image]) -> int:
    """Side of a patch that holds each image whole.

    Args:
        images: The images.

    Returns:
        The longest side of any image in pixels of `WORKING_UM`, at least 32. With that patch size no side is longer
        than the input size at the network's scale.
    """
    longest = max(max(image.shape) * image.pixel_size_um / WORKING_UM for image in images)
    # A side such as 3000 x 0.1 / 0.1 is a whole number, whatever the last digit of the quotient.
    return max(LEAST_PATCH_PX, math.ceil(round(longest, 6)))


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
    columns = rle.decode(text, shape).T  # the order in memory; OpenCV would copy a transposed view
    if shape[0] % small[0] or shape[1] % small[1]:
        return resize_mask(cv2.transpose(columns), small)
    # Each target pixel covers whole source pixels, so uint8 is exact enough: 255 times a share of at least one half
    # rounds to at least 128.
    columns *= 255
    share: np.ndarray = cv2.resize(columns, small, interpolation=cv2.INTER_AREA)
    return (share >= 128).view(np.uint8).T


def gaps(store: PatchStore) -> list[Problem]:
    """A warning for the organs and for the sources of which no image is left to train on."""
    problems = []
    for what in ("organ", "source"):
        found = {(str(getattr(stored.image, what)), stored.split) for stored in store.images.values()}
        if missing := sorted({name for name, _ in found} - {name for name, split in found if split == "train"}):
            rule = f"no image of {what} {', '.join(missing)} is left to train on: all are in validation or test"
            remedy = "make these smaller with --test-size and --val-size, or add images"
            problems.append(Problem("warning", TABLES["train"], None, rule, remedy))
    return problems


def summary(store: PatchStore) -> str:
    """A store in a few lines for the terminal: images by organ and split, patches, and how many of them hold mask."""
    rows = [(stored.image.organ, stored.split) for stored in store.images.values()]
    counts = pd.DataFrame(rows, columns=["organ", "split"]).groupby(["organ", "split"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[s for s in ("train", "validation", "test") if s in counts])
    counts.loc["all"] = counts.sum()
    kept = int((store.patches["mask_share"] >= MIN_MASK_SHARE).sum())
    few = few_images(store.counts([i for i, stored in store.images.items() if stored.split == "train"]))
    contexts = {str(organ): store.config.contexts_um()[str(organ)] for organ in counts.index if organ != "all"}
    return (
        f"{counts.rename_axis(None).rename_axis(None, axis=1).to_string()}\n"
        f"{count(len(store.patches), 'patch')} seen at {store.config.input_size} px, "
        f"{kept} with at least {MIN_MASK_SHARE:.0%} mask\n"
        f"{few}{few and chr(10)}"
        f"side of a patch: {', '.join(f'{organ} {um:.4g} um' for organ, um in contexts.items())}"
    )
