"""Reading TIFF, preparation, and the augmentation of a patch."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import threadpoolctl  # scikit-learn brings it
import tifffile

from hubmap_kit import rle
from hubmap_kit.config import PrepareConfig, TrainConfig
from hubmap_kit.demo.write import write_table
from hubmap_kit.images import read_image
from hubmap_kit.images.augment import COARSENING, GAMMA
from hubmap_kit.images.augment import augment as augment_patch
from hubmap_kit.preparation.prepare import prepare as prepare_store

from .harness import Call, Case, Row, Setting, peer
from .inputs import COMPRESSIONS, drawn, table_of, write_tiff

CORES = os.cpu_count() or 1
PATCH = 256
Augment = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
# The kit's augmentation that is closest to `albumentations_list`.
AUGMENT = "flip,turn,scale,stain=0.75,coarse=0.25"
SHARES, SCALE = TrainConfig(augment=AUGMENT).augment_shares(), 1.33
DISTINCT = 10  # files to prepare; the others are links to them


def opencv_read(path: Path) -> np.ndarray:
    """An image as RGB, by OpenCV alone."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def tiff(setting: Setting) -> Case:
    """A 3000² image to RGB, tifffile is given all cores, as the kit is; OpenCV's decoder uses one."""
    image = drawn(700 if setting.quick else 3000)[0]
    calls: dict[str, Call] = {}
    rows = []
    for kind in COMPRESSIONS:
        path = write_tiff(setting.folder / f"{kind}.tiff", image, kind)
        ours, theirs, others = f"kit, {kind}", f"tifffile, {kind}", f"cv2, {kind}"
        calls[ours] = functools.partial(read_image, path)
        calls[theirs] = functools.partial(tifffile.imread, path, maxworkers=CORES)
        calls[others] = functools.partial(opencv_read, path)
        rows += [Row(f"read {image.shape[0]}², {kind}", ours, other, "share") for other in (theirs, others)]

    def check() -> None:
        for name, call in calls.items():
            # JPEG decoders differ by rounding; the image as read is compared, not as it was before JPEG.
            wanted, bound = (calls["kit, JPEG tiles"](), 4) if "JPEG" in name else (image, 0)
            assert np.abs(call().astype(int) - wanted).max() <= bound, name

    return Case(calls, rows, check=check)


def prepare(setting: Setting) -> Case:
    """Folder to patch store, against decoding the same files, one per thread on all cores; cv2 does not check files."""
    side, count = (700, 2) if setting.quick else (3000, 40)
    image, mask = drawn(side)
    calls: dict[str, Call] = {}
    rows = []
    numbers = itertools.count()
    for kind in ("LZW", "deflate"):
        data = setting.folder / kind
        table = table_of(dict.fromkeys(range(1, count + 1), (side, side)))
        texts = []
        for i in table["id"]:
            path, shift = data / "train_images" / f"{i}.tiff", i % DISTINCT
            if i <= DISTINCT:
                write_tiff(path, np.roll(image, 97 * shift, axis=1), kind)
            else:
                os.link(data / "train_images" / f"{shift or DISTINCT}.tiff", path)
            texts.append(rle.encode(np.roll(mask, 97 * shift, axis=1)))
        write_table(data / "train.csv", table.assign(rle=texts))
        files = sorted((data / "train_images").iterdir())

        def ours(data: Path = data) -> object:
            # A new folder each time, because images that an earlier round prepared would be skipped.
            return prepare_store(
                data, setting.folder / f"store-{next(numbers)}", PrepareConfig(test_size=0, val_size=0)
            )

        def bare(files: list[Path] = files) -> None:
            with ThreadPoolExecutor(CORES) as pool:
                for _ in pool.map(lambda file: tifffile.imread(file, maxworkers=1), files):
                    pass

        def opencv(files: list[Path] = files) -> None:
            with ThreadPoolExecutor(CORES) as pool:
                for _ in pool.map(lambda file: cv2.imread(str(file)), files):
                    pass

        calls |= {f"prepare {kind}": ours, f"tifffile decodes {kind}": bare, f"cv2 decodes {kind}": opencv}
        work = f"prepare {count} files of {side}², {kind}"
        rows.append(Row(work, f"prepare {kind}", f"tifffile decodes {kind}", "share", aim=1.25))
        rows.append(Row(work, f"prepare {kind}", f"cv2 decodes {kind}", "share"))
    return Case(calls, rows, count, "image")


def albumentations_list(stain: str) -> Augment | None:
    """The default augmentation with albumentations, as closely as it can; None if it is not installed.

    The differences: it turns a patch that is already cut out, so that corners show mirrored tissue where the kit shows
    the tissue itself; its scale is uniform, not log-uniform; channel shuffle, grey and gamma are each drawn for a share
    of all patches, not only of the stained ones; and gamma changes the colours, not their density.

    Args:
        stain: ``HEStain``, its change of stain in optical density; or ``ColorJitter``, which changes colours, not the
            stain, and is the cheapest substitute in use.
    """
    library = peer("albumentations")
    if not library:
        return None
    steps = {
        "HEStain": lambda: library.HEStain("random_preset", intensity_scale_range=(0.6, 1.6), p=SHARES["stain"]),
        "ColorJitter": lambda: library.ColorJitter((0.6, 1.6), (0.6, 1.6), (0.6, 1.6), (-0.1, 0.1), p=SHARES["stain"]),
    }
    gamma = tuple(round(100 * g) for g in GAMMA)
    compose = library.Compose(
        [
            library.Affine(
                scale=(1 / SCALE, SCALE),
                rotate=(0, 360),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_REFLECT,
                p=1,
            ),
            library.HorizontalFlip(p=0.5),
            steps[stain](),
            library.ChannelShuffle(p=0.3 * SHARES["stain"]),
            library.ToGray(p=0.15 * SHARES["stain"]),
            library.RandomGamma(gamma, p=0.5 * SHARES["stain"]),
            library.Downscale(
                (1 / COARSENING[1], 1 / COARSENING[0]),
                interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR},
                p=SHARES["coarse"],
            ),
        ]
    )

    def apply(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made = compose(image=image, mask=mask)
        return made["image"], made["mask"]

    return apply


class AlbumentationsPatches:
    """A data set for PyTorch's DataLoader: patches of stored images, augmented by `albumentations_list`.

    Args:
        files: ``(h, w, 4)`` uint8 arrays, RGB and mask, by image id.
        chosen: ``(n, 4)`` int64, ``0, id, y, x`` of each patch.
        stain: See `albumentations_list`.
    """

    def __init__(self, files: dict[int, Path], chosen: np.ndarray, stain: str):
        self.files, self.chosen, self.stain = files, chosen, stain
        self.apply: Augment | None = None  # made in each process

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self.apply is None:
            self.apply = albumentations_list(self.stain)
            assert self.apply is not None, "albumentations is not installed"
            self.pixels = {i: np.load(path) for i, path in self.files.items()}
        _, image_id, y, x = self.chosen[index]
        patch = self.pixels[int(image_id)][y : y + PATCH, x : x + PATCH]
        return self.apply(np.ascontiguousarray(patch[..., :3]), np.ascontiguousarray(patch[..., 3]))


def one_thread(_: int) -> None:
    """Limit a process of the DataLoader to one thread, because there is one process per core."""
    cv2.setNumThreads(1)
    threadpoolctl.threadpool_limits(1)


def augment(setting: Setting) -> Case:
    """Patches of 256² augmented one after the other, without a pipeline."""
    image, mask = drawn(700 if setting.quick else 1500)
    pixels = np.dstack((image, mask))
    count = 20 if setting.quick else 200
    rng = np.random.default_rng(0)
    corners = rng.integers(0, image.shape[0] - PATCH, (count, 2))

    def ours() -> None:
        for i, (y, x) in enumerate(corners):
            augment_patch(pixels, (float(y), float(x)), PATCH, SHARES, np.random.default_rng([0, i]), scale_range=SCALE)

    def theirs(apply: Augment) -> None:
        for y, x in corners:
            patch = pixels[y : y + PATCH, x : x + PATCH]
            apply(np.ascontiguousarray(patch[..., :3]), np.ascontiguousarray(patch[..., 3]))

    calls: dict[str, Call] = {"kit": ours}
    rows = []
    for stain in ("HEStain", "ColorJitter"):
        name = f"albumentations, {stain}"
        if apply := albumentations_list(stain):
            calls[name] = functools.partial(theirs, apply)
        rows.append(Row("augment, one patch after the other", "kit", name))

    def check() -> None:
        made = augment_patch(pixels, (5.0, 7.0), PATCH, SHARES, rng)[:2]
        assert [m.shape for m in made] == [(PATCH, PATCH, 3), (PATCH, PATCH)]
        assert all(m.dtype == np.uint8 for m in made)
        if apply := albumentations_list("HEStain"):
            both = apply(image[:PATCH, :PATCH].copy(), mask[:PATCH, :PATCH].copy())
            assert [(m.shape, m.dtype) for m in both] == [(m.shape, m.dtype) for m in made]

    return Case(calls, rows, count, "patch", check)
