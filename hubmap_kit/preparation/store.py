"""The patch store: prepared images with their masks, and the grid of patches over them.

The store holds each image once, at the pixel size the network sees, with its mask as a fourth channel. A patch is a
view into an image. This is smaller than overlapping patches, lets training cut random squares as well as the grid, and
lets validation see whole images::

    store.json            what was prepared and how, see `StoreInfo`
    images.csv            one row for each image, see `StoredImage`
    patches.csv           id, y, x, mask_share of each patch of the grid
    images/{id}.npy       (h, w, 4) uint8: RGB, and the mask in {0, 1}, or 255 times the probability in a soft mask
    images/{id}.json      what that file was made from, see `Written`, so that a second run can skip it
    images-next/          files of the store that will replace this one, while it is made

A store of soft masks holds masks that networks predicted, see `hubmap_kit.training.pseudo_labels`; its rle is empty.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from .. import __version__, rle
from ..cluster import spread
from ..competition import (
    HEIGHT,
    ID,
    ORGAN,
    PIXEL_SIZE,
    RLE,
    SOURCE,
    THICKNESS,
    WIDTH,
    default_thickness_um,
    image_path,
)
from ..config import PrepareConfig, flag_of
from ..files import (
    check_types,
    number,
    read_json,
    read_object,
    read_rows,
    replacing,
    size_text,
    whole_number,
    write_json,
    write_rows,
)
from ..machine import free_memory
from ..progress import track
from ..run import read_prepare
from ..tables import Image, Problem
from ..tiles import grid, pad_to_tile
from ..words import count, listed

FORMAT = 2
READABLE = (1, 2)  # format 1 lacks the columns row and tissue_thickness, and data_split
IMAGE_FORMAT = 1  # of images/{id}.npy
AGAIN = "prepare it again"
STORE, IMAGES, PATCHES = "store.json", "images.csv", "patches.csv"
NOW, NEXT = "images", "images-next"  # folders
COLUMNS = [ID, ORGAN, SOURCE, HEIGHT, WIDTH, PIXEL_SIZE, THICKNESS, "row"]
COLUMNS += ["network_um", "height", "width", "split", "fold", RLE]
PATCH_COLUMNS = [ID, "y", "x", "mask_share"]
SMALLEST_UM = 1e-6  # lower bound of a length in a store's table
SPLITS = ("train", "validation", "test")
MIN_MASK_SHARE = 0.05  # share of mask from which a patch of the grid counts as foreground
SOFT_FOREGROUND = 128  # of 255: the least value of a soft mask that stands for a probability of at least 0.5
MEMORY_SHARE = 0.25  # share of the free memory that training images may take; the network needs the rest


@dataclass(frozen=True)
class StoreInfo:
    """``store.json``: what was prepared and how. It is written last, so that a store without it is unfinished.

    Attributes:
        data: The competition folder; in a file its absolute path.
        config: Settings of the preparation.
        soft: Whether a mask is 255 times the probability of foreground, and not 0 or 1.
        data_split: ``train`` or ``test``: the table and image folder of `data` that were prepared.
        kit: Version of hubmap-kit that wrote the store.
    """

    data: Path
    config: PrepareConfig
    soft: bool = False
    data_split: str = "train"
    kit: str = __version__

    def write(self, folder: Path) -> None:
        """Write ``store.json``."""
        write_json(folder / STORE, {"format": FORMAT} | asdict(self) | {"data": str(self.data)})

    @classmethod
    def read(cls, folder: Path) -> StoreInfo:
        """Read ``store.json``.

        Raises:
            ValueError: It is missing, damaged, or of a format that this version cannot read.
        """
        if not (folder / STORE).is_file():
            raise ValueError(
                f"{folder} is not a finished patch store: it has no {STORE}; make it with: hubmap-kit prepare, "
                "or, for soft masks, with: hubmap-kit pseudo"
            )
        return read_object(folder / STORE, cls._from_json, AGAIN, formats=READABLE)

    @classmethod
    def _from_json(cls, values: Mapping[str, Any]) -> StoreInfo:
        soft = values.get("soft", False)
        given = {
            "data": Path(values["data"]),
            "config": read_prepare(values["config"]),
            "soft": soft,
            "data_split": values.get("data_split", "test" if soft else "train"),
            "kit": values["kit"],
        }
        check_types(cls, given)
        if given["data_split"] not in ("train", "test"):
            raise ValueError(f"data_split is {given['data_split']!r}; it must be train or test")
        return cls(**given)


@dataclass(frozen=True)
class StoredImage:
    """``images.csv``: one image of a store.

    Attributes:
        image: The image, as the competition's table describes it.
        shape: ``(h, w)`` in px at the network's scale, without the padding of small images.
        network_um: Side of a pixel at the network's scale, in um.
        split: ``train``, ``validation`` or ``test``.
        fold: Its fold; -1 if there are none, and in the test split.
    """

    image: Image
    shape: tuple[int, int]
    network_um: float
    split: str
    fold: int


@dataclass(frozen=True)
class Written:
    """``images/{id}.json``: what an image of a store was made from, and its grid of patches.

    Attributes:
        made_from: Every fact that the image and its mask depend on. Equal facts make equal files.
        stored_bytes: Size of ``images/{id}.npy``.
        shape: ``(h, w)`` in px at the network's scale, without padding.
        patches: ``(y, x, share)`` of each patch of the grid: its corner in px, and its share of mask in [0, 1].
    """

    made_from: dict[str, Any]
    stored_bytes: int
    shape: tuple[int, int]
    patches: list[tuple[int, int, float]]

    def write(self, path: Path) -> None:
        """Write the file."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Written | None:
        """Read the file; None if it is missing or damaged, so that the image is made again."""
        try:
            values = read_json(path)
            height, width = values["shape"]
            patches = [(int(y), int(x), float(share)) for y, x, share in values["patches"]]
            return cls(values["made_from"], values["stored_bytes"], (height, width), patches)
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class PatchStore:
    """A prepared competition folder, open for reading.

    Attributes:
        folder: The store.
        info: What was prepared and how.
        images: Every image by id.
        patches: One row for each patch of the grid: ``id``, ``y``, ``x`` (px at the network's scale), ``mask_share``
            in [0, 1], which in a soft mask is the share with a probability of at least 0.5.
    """

    folder: Path
    info: StoreInfo
    images: dict[int, StoredImage]
    patches: pd.DataFrame

    @property
    def config(self) -> PrepareConfig:
        """Settings it was made with."""
        return self.info.config

    def counts(self, ids: Sequence[int]) -> dict[str, dict[str, int]]:
        """How many of some images are of each ``organ`` and ``source`` of the store; 0 where none is.

        Args:
            ids: The images.
        """
        counted = {}
        for what in ("organ", "source"):
            of = {i: str(getattr(stored.image, what)) for i, stored in self.images.items()}
            counted[what] = dict.fromkeys(of.values(), 0) | Counter(of[i] for i in ids)
        return counted

    @classmethod
    def open(cls, folder: Path) -> PatchStore:
        """Open a store.

        Raises:
            ValueError: The folder is no store, or an unfinished or incompatible one.
        """
        info = StoreInfo.read(folder)
        for name in (IMAGES, PATCHES):
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing; {AGAIN}")
        images: dict[int, StoredImage] = {}
        for row, cells in enumerate(read_rows(folder / IMAGES, [ID], AGAIN), start=2):
            try:
                stored = _stored(info, row, cells)
                if stored.image.id in images:
                    raise ValueError(f"id {stored.image.id} is in an earlier row too")
            except (KeyError, ValueError) as error:
                rule = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
                raise ValueError(f"{folder / IMAGES}, row {row}: {rule}; {AGAIN}") from error
            images[stored.image.id] = stored
        if not images:
            raise ValueError(f"{folder / IMAGES} has no rows; {AGAIN}")
        patches = []
        for row, cells in enumerate(read_rows(folder / PATCHES, PATCH_COLUMNS, AGAIN), start=2):
            try:
                patches.append(_patch(info, images, cells))
            except ValueError as error:
                raise ValueError(f"{folder / PATCHES}, row {row}: {error}; {AGAIN}") from error
        if without := images.keys() - {image_id for image_id, *_ in patches}:
            raise ValueError(f"{folder / PATCHES} has no patch of image {min(without)}; {AGAIN}")
        return cls(folder, info, images, pd.DataFrame(patches, columns=PATCH_COLUMNS))

    def ids(self, split: str, fold: int | None = None) -> list[int]:
        """Image ids of a split.

        Args:
            split: ``train``, ``validation`` or ``test``.
            fold: None for the prepared split. Otherwise the validation images are that fold, and the training
                images are the other folds.

        Raises:
            ValueError: There is no such fold.
        """
        if fold is None or split == "test":
            return [image_id for image_id, stored in self.images.items() if stored.split == split]
        if fold not in {stored.fold for stored in self.images.values()}:
            raise ValueError(f"{self.folder} has no fold {fold}; prepare it with --folds {max(2, fold + 1)} or more")
        wanted = split == "validation"
        folds = {image_id: stored.fold for image_id, stored in self.images.items() if stored.split != "test"}
        return [image_id for image_id, own in folds.items() if (own == fold) == wanted]

    def read(self, image_id: int) -> np.ndarray:
        """An image and its mask at the network's scale: ``(h, w, 4)`` uint8, mapped from disk.

        Raises:
            ValueError: The file is missing or damaged.
        """
        path = self.folder / "images" / f"{image_id}.npy"
        try:
            pixels: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} is missing or damaged; {AGAIN}") from error
        wanted = (*(max(side, self.config.input_size) for side in self.images[image_id].shape), 4)
        if pixels.shape != wanted or pixels.dtype != np.uint8:
            raise ValueError(f"{path} is damaged (it holds {pixels.shape} {pixels.dtype}, not {wanted} uint8); {AGAIN}")
        return pixels

    def reader(self, ids: list[int]) -> tuple[Callable[[int], np.ndarray], str]:
        """A function that reads images many times: from memory if `MEMORY_SHARE` of it holds them, else from disk.

        Args:
            ids: Images that will be read.

        Returns:
            A function with the arguments of `read`, and a line for the user that says where it reads from.
        """
        needed = sum(self.read(i).nbytes for i in ids)
        free = free_memory()
        size = f"{count(len(ids), 'training image')}, {size_text(needed)}"
        if free is None or needed > MEMORY_SHARE * free:
            known = "unknown" if free is None else f"{free / 1e6:.0f} MB"
            return (
                self.read,
                f"{size}: read from disk (free memory: {known}; they may take {MEMORY_SHARE:.0%} of it)",
            )
        held = {i: np.array(self.read(i)) for i in ids}
        return held.__getitem__, f"{size}: held in memory"


def begin_store(out: Path, info: StoreInfo, *, overwrite: bool = False) -> str:
    """Make the folder of a store. A finished store in it stays as it is until `finish_store`.

    Args:
        out: The folder.
        info: What will be prepared and how. If the store holds something else, one line says so.
        overwrite: Whether to replace a store of other data.

    Returns:
        The folder inside it that images are written to: `NOW`, or `NEXT` beside a finished store.

    Raises:
        ValueError: It holds something else, a store of the other kind, or one of other data without `overwrite`.
    """
    folder = NEXT if (out / STORE).is_file() else NOW
    if folder == NEXT:
        is_soft, earlier = info.soft, None
        with suppress(ValueError):  # a damaged file is made again, as its error says
            is_soft = read_object(out / STORE, lambda values: values.get("soft") is True, AGAIN)
            earlier = StoreInfo.read(out)
        if is_soft != info.soft:
            kind = "prepared patches" if info.soft else "soft masks"
            raise ValueError(f"{out} is a store of {kind}, which would be lost; name another folder, or remove it")
        if earlier:
            _say_replaced(out, earlier, info, overwrite=overwrite)
    else:
        own = (NOW, NEXT, IMAGES, PATCHES)
        names = [path.name for path in out.iterdir()] if out.is_dir() else []
        if others := sorted(name for name in names if not (name in own or name.startswith("."))):
            raise ValueError(f"{out} holds other files ({listed(others)}); name an empty or new folder for the store")
    (out / folder).mkdir(parents=True, exist_ok=True)
    return folder


def _say_replaced(out: Path, earlier: StoreInfo, info: StoreInfo, *, overwrite: bool) -> None:
    """Say which store will be replaced; refuse one of other data, unless `overwrite`."""
    data = info.data.resolve()
    if (earlier.data, earlier.data_split) != (data, info.data_split):
        theirs = f"the {earlier.data_split} images of {earlier.data}"
        if not overwrite:
            raise ValueError(f"{out} is a store of {theirs}; name another folder, or replace it with --overwrite")
        print(f"{out}: replaces a store of {theirs}", flush=True)
        return
    before, now = asdict(earlier.config), asdict(info.config)
    if changed := [name for name in now if before[name] != now[name]]:
        each = [f"{flag_of(PrepareConfig, name)} {before[name]}, now {now[name]}" for name in changed]
        print(f"{out}: replaces a store of the same data with other settings ({'; '.join(each)})", flush=True)


def write_images(
    step: str,
    write: Callable[[Image], Written],
    images: Sequence[Image],
    *,
    scheduler: str | None = None,
    images_at_once: int | None = None,
) -> tuple[dict[int, Written], list[Problem]]:
    """Write the images of a store in parallel, and go on after one that cannot be read.

    Args:
        step: Name of this step, shown beside its progress.
        write: Writes one image.
        images: The images.
        scheduler: See `hubmap_kit.cluster.spread`.
        images_at_once: Images at once on this computer; one per core by default.

    Returns:
        What was written, by id; and a problem for each image that cannot be read, by row.
    """
    written, problems = {}, []
    with closing(spread(write, images, scheduler=scheduler, jobs_at_once=images_at_once)) as done:
        for image, result in track(done, len(images), step):
            if isinstance(result, (OSError, ValueError)):
                problems.append(image.problem(str(result), "replace the image or delete the row"))
            elif isinstance(result, Exception):
                raise result
            else:
                written[image.id] = result
    return written, sorted(problems, key=lambda problem: problem.row or 0)


def write_image(
    out: Path,
    folder: str,
    image: Image,
    network_um: float,
    input_size: int,
    facts: Mapping[str, Any],
    read: Callable[[], tuple[np.ndarray, np.ndarray]],
    *,
    soft: bool = False,
) -> Written:
    """Write one image of a store and its `Written`, unless both exist already and were made from the same facts.

    Args:
        out: Folder of the store.
        folder: Folder inside it to write to, see `begin_store`.
        image: The image.
        network_um: Side of a pixel at the network's scale, in um.
        input_size: Least side of the stored array, in px.
        facts: What the mask depends on; JSON values.
        read: Called if there is something to write. Returns the image ``(h, w, 3)`` uint8 RGB at the network's scale
            and its mask ``(h, w)`` uint8.
        soft: Whether the mask is soft.
    """
    stat = image.path.stat()
    made_from = {
        "format": IMAGE_FORMAT,
        "bytes": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "pixel_size_um": image.pixel_size_um,
        "network_um": network_um,
        "input_size": input_size,
        **facts,
    }
    for path in (out / NOW / f"{image.id}.npy", out / NEXT / f"{image.id}.npy"):
        earlier = Written.read(path.with_suffix(".json"))
        if earlier and earlier.made_from == made_from:
            with suppress(FileNotFoundError):
                if path.stat().st_size == earlier.stored_bytes:
                    return earlier

    target = out / folder / f"{image.id}.npy"
    rgb, mask = read()
    pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)
    pixels[..., 3] = mask
    pixels = pad_to_tile(pixels, input_size)
    foreground = pixels[..., 3] >= (SOFT_FOREGROUND if soft else 1)
    target.with_suffix(".json").unlink(missing_ok=True)  # first, so that it never describes another file
    with replacing(target, pixels.nbytes + 2**10) as part:
        np.save(part, pixels, allow_pickle=False)
    shape = (rgb.shape[0], rgb.shape[1])
    written = Written(made_from, target.stat().st_size, shape, list(_grid_shares(foreground, input_size)))
    written.write(target.with_suffix(".json"))
    return written


def finish_store(
    out: Path, info: StoreInfo, images: Sequence[StoredImage], written: Mapping[int, Written]
) -> PatchStore:
    """Write the tables of a store whose images are written, and put them in place of an earlier store's.

    All that needs room on the disk is written before the earlier store is touched.

    Args:
        out: Folder of the store.
        info: What was prepared and how.
        images: Its images.
        written: What `write_image` returned, by id.

    Returns:
        The store, as `PatchStore.open` reads it.
    """
    rows = []
    for stored in images:
        image = stored.image
        cells: list[Any] = [image.id, image.organ, image.source, *image.shape, image.pixel_size_um]
        cells += [image.thickness_um, image.row]
        cells += [stored.network_um, *stored.shape, stored.split, stored.fold, image.rle]
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    after = out / NEXT
    write_rows(after / IMAGES, COLUMNS, rows)
    patches = pd.DataFrame(
        [(stored.image.id, *patch) for stored in images for patch in written[stored.image.id].patches],
        columns=PATCH_COLUMNS,
    )
    with replacing(after / PATCHES) as part:
        patches.to_csv(part, index=False)
    info = replace(info, data=info.data.resolve())
    info.write(after)
    (out / STORE).unlink(missing_ok=True)
    for image_id, made in written.items():
        npy, facts = (Path(f"{image_id}{suffix}") for suffix in (".npy", ".json"))
        if (after / npy).is_file() and Written.read(out / NOW / facts) != made:
            (out / NOW / facts).unlink(missing_ok=True)  # first, so that it never describes another file
            os.replace(after / npy, out / NOW / npy)
            os.replace(after / facts, out / NOW / facts)
    for name in (IMAGES, PATCHES, STORE):
        os.replace(after / name, out / name)
    shutil.rmtree(after, ignore_errors=True)
    return PatchStore(out, info, {stored.image.id: stored for stored in images}, patches)


def _stored(info: StoreInfo, row: int, cells: Mapping[str, str]) -> StoredImage:
    """A row of ``images.csv``; `row` is its line in the file."""
    organ, source = cells[ORGAN], cells[SOURCE]
    image = Image(
        id=whole_number(cells, ID),
        organ=organ,
        source=source,
        shape=(whole_number(cells, HEIGHT, 1), whole_number(cells, WIDTH, 1)),
        pixel_size_um=number(cells, PIXEL_SIZE, SMALLEST_UM),
        thickness_um=number(cells, THICKNESS, SMALLEST_UM)
        if cells.get(THICKNESS)
        else default_thickness_um(organ, source),
        path=image_path(info.data, info.data_split, whole_number(cells, ID)),
        row=whole_number(cells, "row", 1) if cells.get("row") else row,
        rle=cells[RLE],
    )
    rle.parse(image.rle, image.shape)
    if cells["split"] not in SPLITS:
        raise ValueError(f"split is {cells['split']!r}; it must be {', '.join(SPLITS)}")
    shape = whole_number(cells, "height", 1), whole_number(cells, "width", 1)
    network_um = number(cells, "network_um", SMALLEST_UM)
    return StoredImage(image, shape, network_um, cells["split"], whole_number(cells, "fold", -1))


def _patch(info: StoreInfo, images: Mapping[int, StoredImage], cells: Mapping[str, str]) -> tuple[int, int, int, float]:
    """A row of ``patches.csv``."""
    image_id = whole_number(cells, ID)
    if image_id not in images:
        raise ValueError(f"id {image_id} is not in {IMAGES}")
    height, width = images[image_id].shape
    size = info.config.input_size
    y, x = whole_number(cells, "y", 0, max(height - size, 0)), whole_number(cells, "x", 0, max(width - size, 0))
    return image_id, y, x, number(cells, "mask_share", 0, 1)


def _grid_shares(foreground: np.ndarray, size: int) -> Iterator[tuple[int, int, float]]:
    """Corner and share of foreground of each patch of the grid; neighbours overlap as little as possible."""
    for y, x in grid((foreground.shape[0], foreground.shape[1]), size, 0.0):
        yield int(y), int(x), round(float(foreground[y : y + size, x : x + size].mean()), 6)
