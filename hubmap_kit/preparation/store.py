"""The patch store: prepared images with their masks, and the grid of patches over them.

It holds each image once, at the pixel size the network sees, with its mask as a fourth channel; a patch is a view
into it. That is smaller than overlapping patches, lets training cut random squares as well as the grid, and lets
validation see whole images::

    store.json            format, settings, the competition folder, whether masks are soft
    images.csv            id, organ, source, sizes, split, fold, rle
    patches.csv           id, y, x, mask_share of the grid
    images/{id}.npy       (h, w, 4) uint8: RGB, and the mask in {0, 1}, or 255 times the probability where it is soft
    images/{id}.json      what that file was made from, so that a second run can skip it

A store of soft masks is one that networks wrote, see `hubmap_kit.training.pseudo_labels`; its rle is empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from .. import __version__
from ..cluster import spread
from ..competition import Problem
from ..config import PrepareConfig
from ..files import read_json, replacing, write_json
from ..progress import track
from ..tiles import grid, pad_to_tile

FORMAT = 1
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
            raise ValueError(
                f"{folder} is not a finished patch store; make it with: hubmap-kit prepare, "
                "or, of soft masks, with: hubmap-kit pseudo"
            )
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
        scheduler: See `cluster.spread`.
        jobs_at_once: Likewise.

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


def _grid_shares(foreground: np.ndarray, size: int) -> Iterator[tuple[tuple[int, int], float]]:
    """Corner and share of foreground of each grid patch, neighbours overlapping only as far as they must."""
    for y, x in grid((foreground.shape[0], foreground.shape[1]), size, 0.0):
        yield (int(y), int(x)), round(float(foreground[y : y + size, x : x + size].mean()), 6)
