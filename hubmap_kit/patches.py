"""Preparation, and the patch store it writes.

The store holds each image once, at the pixel size the network sees, with its mask as a fourth
channel; a patch is a view into it. That is smaller than overlapping patches, lets training cut
random squares as well as the grid, and lets validation see whole images::

    store.json            format, settings, the competition folder, whether masks are soft
    images.csv            id, organ, source, sizes, split, fold, rle
    patches.csv           id, y, x, mask_share of the grid
    images/{id}.npy       (h, w, 4) uint8: RGB, and the mask in {0, 1}, or 255 times the probability where it is soft
    images/{id}.json      what that file was made from, so that a second run can skip it

A store of soft masks is one that networks wrote, see `hubmap_kit.pseudo`; its rle is empty.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from . import __version__, rle
from .cluster import spread
from .competition import DataError, Problem, image_path, scan_images
from .config import PrepareConfig
from .files import read_json, replacing, write_json
from .images import load_image, resize_mask
from .progress import track
from .settings import organ_values
from .splits import assign_folds, assign_splits, read_groups, split_sizes
from .tiles import grid, pad_to_tile

FORMAT = 1
LEAST_PATCH = 32  # px
SOFT_FOREGROUND = 128  # of 255: a soft mask's least value with a probability of at least 0.5
MEMORY_SHARE = 0.25  # of the free memory, which training images may take; the network needs the rest
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class PatchStore:
    """A prepared competition folder, open for reading.

    Attributes:
        folder: The store.
        data: The competition folder it was made from.
        config: Settings it was made with.
        images: One row an image, indexed by ``id``; see the module's docstring.
        patches: One row a grid patch: ``id``, ``y``, ``x`` (px at the network's scale),
            ``mask_share`` in [0, 1]; of a soft mask that is the share with a probability of at least 0.5.
        soft: Whether a mask is 255 times the probability of foreground, and not 0 or 1.
    """

    folder: Path
    data: Path
    config: PrepareConfig
    images: pd.DataFrame
    patches: pd.DataFrame
    soft: bool = False

    @classmethod
    def open(cls, folder: Path) -> PatchStore:
        """Open a store.

        Raises:
            ValueError: The folder is no store, or an unfinished or incompatible one.
        """
        if not (folder / "store.json").is_file():
            raise ValueError(f"{folder} is not a finished patch store; make it with: hubmap-kit prepare DATA {folder}")
        about = read_json(folder / "store.json")
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{folder} has format {about.get('format')}, this version reads {FORMAT}; prepare it again"
            )
        return cls(
            folder,
            Path(about["data"]),
            PrepareConfig(**about["config"]),
            pd.read_csv(folder / "images.csv", index_col="id", keep_default_na=False),
            pd.read_csv(folder / "patches.csv"),
            about.get("soft", False),
        )

    def ids(self, split: str, fold: int | None = None) -> list[int]:
        """Image ids of a split.

        Args:
            split: ``train``, ``validation`` or ``test``.
            fold: None for the prepared split; otherwise validation is that fold and training
                the other folds.

        Raises:
            ValueError: There is no such fold.
        """
        column = self.images["split"]
        if fold is not None and split != "test":
            if fold not in set(self.images["fold"]):
                raise ValueError(f"{self.folder} has no fold {fold}; prepare it with --folds {fold + 1} or more")
            held_out = self.images["fold"] == fold
            return list(self.images.index[(held_out if split == "validation" else ~held_out) & (column != "test")])
        return list(self.images.index[column == split])

    def read(self, image_id: int) -> np.ndarray:
        """An image and its mask at the network's scale: ``(h, w, 4)`` uint8, mapped from disk."""
        return np.load(self.folder / "images" / f"{image_id}.npy", mmap_mode="r", allow_pickle=False)

    def reader(self, ids: list[int]) -> tuple[Callable[[int], np.ndarray], str]:
        """How to read images many times: from memory where they fit `MEMORY_SHARE` of what is free, or from disk.

        Args:
            ids: Images that will be read.

        Returns:
            A function as `read`, and a line that says where it reads.
        """
        needed = sum((self.folder / "images" / f"{i}.npy").stat().st_size for i in ids)
        free = _free_memory()
        size = f"{len(ids)} training images, {needed / 1e6:.0f} MB"
        if free is None or needed > MEMORY_SHARE * free:
            known = "unknown" if free is None else f"{free / 1e6:.0f} MB"
            return (
                self.read,
                f"{size}, are read from disk (free memory: {known}; they may take {MEMORY_SHARE:.0%} of it)",
            )
        held = {i: np.array(self.read(i)) for i in ids}
        return held.__getitem__, f"{size}, are held in memory"


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


def begin_store(out: Path, *, soft: bool = False) -> None:
    """Make the folder of a store; until `finish_store` it counts as unfinished.

    Raises:
        ValueError: There is a store of the other kind already.
    """
    about = out / "store.json"
    if about.is_file() and read_json(about).get("soft", False) != soft:
        kind = "prepared patches" if soft else "soft masks"
        raise ValueError(f"{out} is a store of {kind}, which would be lost; name another folder, or remove it")
    (out / "images").mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)


def write_images(
    step: str,
    write: Callable[[tuple[int, dict[str, Any]]], dict[str, Any]],
    images: pd.DataFrame,
    rows: dict[int, int],
    *,
    file: str = "train.csv",
    scheduler: str | None = None,
    jobs_at_once: int | None = None,
) -> tuple[dict[int, dict[str, Any]], list[Problem]]:
    """Write the images of a store in parallel, those that can be.

    Args:
        step: What this is called beside its progress.
        write: Writes an image, given its id and its row of `images`; returns what `write_image` does.
        images: The table, indexed by id.
        rows: Row of each id in `file`.
        file: Name of the table for the user.
        scheduler: See `prepare`.
        jobs_at_once: See `cluster.spread`.

    Returns:
        What `write` gave, by id; and a problem for each image that cannot be read, by row.
    """
    made, problems = {}, []
    jobs = list(images.to_dict("index").items())
    with closing(spread(write, jobs, scheduler=scheduler, jobs_at_once=jobs_at_once)) as done:
        for (image_id, _), result in track(done, len(jobs), step):
            if isinstance(result, (OSError, ValueError)):
                remedy = "replace the image or delete the row"
                problems.append(Problem("error", file, rows[image_id], str(result), remedy))
            elif isinstance(result, Exception):
                raise result
            else:
                made[image_id] = result
    return made, sorted(problems, key=lambda problem: problem.row or 0)


def finish_store(
    out: Path,
    data: Path,
    config: PrepareConfig,
    images: pd.DataFrame,
    made: dict[int, dict[str, Any]],
    *,
    soft: bool = False,
) -> PatchStore:
    """Write the tables of a store whose images are written.

    Args:
        out: Folder of the store.
        data: Competition folder.
        config: Settings.
        images: Columns of ``images.csv`` but ``height`` and ``width``, indexed by id; others are left out.
        made: What `write_image` gave, by id.
        soft: Whether masks are soft.

    Returns:
        The store, opened.
    """
    images = images.assign(
        height=[made[i]["shape"][0] for i in images.index], width=[made[i]["shape"][1] for i in images.index]
    )
    columns = ["organ", "data_source", "img_height", "img_width", "pixel_size", "network_um", "height", "width"]
    columns += ["split", "fold", "rle"]
    with replacing(out / "images.csv") as part:
        images[columns].to_csv(part)
    patches = [(i, y, x, share) for i in images.index for y, x, share in made[i]["patches"]]
    with replacing(out / "patches.csv") as part:
        pd.DataFrame(patches, columns=["id", "y", "x", "mask_share"]).to_csv(part, index=False)
    about = {"format": FORMAT, "kit": __version__, "data": str(data.resolve()), "soft": soft}
    write_json(out / "store.json", about | {"config": asdict(config)})
    return PatchStore.open(out)


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


def _prepare_image(data: Path, out: Path, input_size: int, job: tuple[int, dict[str, Any]]) -> dict[str, Any]:
    """Write one image of the store and its true mask.

    Args:
        data: Competition folder.
        out: Folder of the store.
        input_size: Least side of what is stored, in px.
        job: The image's id, and its row of the table.

    Returns:
        See `write_image`.
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


def write_image(
    out: Path,
    job: tuple[int, dict[str, Any]],
    source: Path,
    input_size: int,
    facts: dict[str, Any],
    read: Callable[[], tuple[np.ndarray, np.ndarray]],
    *,
    soft: bool = False,
) -> dict[str, Any]:
    """Write one image of a store, and a sidecar that says what it was made from, unless both are there already.

    Args:
        out: Folder of the store.
        job: The image's id, and its row of the table: ``pixel_size`` and ``network_um`` (um) are used.
        source: Its file.
        input_size: Least side of what is stored, in px.
        facts: What the mask was made from; JSON values.
        read: Gives the image ``(h, w, 3)`` uint8 RGB at ``network_um`` and its mask ``(h, w)`` uint8; called where
            there is something to write.
        soft: Whether the mask is soft.

    Returns:
        The content of the sidecar: ``made_from``, ``stored_bytes``, ``shape`` (h, w) and ``patches`` (y, x, share
        of mask).
    """
    image_id, row = job
    target = out / "images" / f"{image_id}.npy"
    stat = source.stat()
    made_from = {
        "format": FORMAT,
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "pixel_size_um": row["pixel_size"],
        "network_um": row["network_um"],
        "input_size": input_size,
        **facts,
    }
    sidecar = target.with_suffix(".json")
    if sidecar.is_file() and target.is_file():
        try:
            about = read_json(sidecar)
            done = about["made_from"] == made_from and target.stat().st_size == about["stored_bytes"]
        except (ValueError, KeyError, TypeError):
            done = False
        if done:
            return about

    image, mask = read()
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    pixels[..., 3] = mask
    pixels = pad_to_tile(pixels, input_size)
    foreground = pixels[..., 3] >= (SOFT_FOREGROUND if soft else 1)
    with replacing(target) as part:
        np.save(part, pixels, allow_pickle=False)
    about = {
        "made_from": made_from,
        "stored_bytes": target.stat().st_size,
        "shape": list(image.shape[:2]),
        "patches": [[*corner, share] for corner, share in _grid_shares(foreground, input_size)],
    }
    write_json(sidecar, about)
    return about


def _free_memory() -> int | None:
    """Bytes of memory that are free in this computer and container; None where the system does not say (not Linux)."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        # No such files outside of a container with that version of control groups; "max" is no limit.
        with suppress(OSError, ValueError):
            free = min(free, int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text()))
    return free


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


def _grid_shares(foreground: np.ndarray, size: int) -> Iterator[tuple[tuple[int, int], float]]:
    """Corner and share of foreground of each grid patch, neighbours overlapping only as far as they must."""
    for y, x in grid((foreground.shape[0], foreground.shape[1]), size, 0.0):
        yield (int(y), int(x)), round(float(foreground[y : y + size, x : x + size].mean()), 6)
