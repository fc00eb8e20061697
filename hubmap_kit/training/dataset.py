"""Training batches from a patch store, and from a second one of soft masks if the setting ``pseudo`` names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from ..competition import ORGANS, ByOrgan
from ..config import TrainConfig
from ..images.augment import augment, cutmix
from ..images.scaling import load_image
from ..images.stain import METHODS, Look, average, measure
from ..machine import cores
from ..preparation.store import MIN_MASK_SHARE, PatchStore
from ..tables import read_images
from ..words import listed
from .devices import Devices

FOREGROUND_SHARE = 0.7  # share of random squares that are laid over a foreground patch
PSEUDO_SHARE = 0.25  # share of patches from the store of soft masks, if there is one

# Last part of a patch's seed, after seed, epoch and place: for the patch itself, and for one that cutmix pastes.
_OWN, _PASTED = 0, 1


class Batch(NamedTuple):
    """The patches on which a device trains in one step.

    Attributes:
        images: ``(B, S, S, 3)`` uint8 RGB.
        masks: ``(B, S, S)`` uint8, 255 times the probability of foreground; 0 or 255 where the masks are true.
        organs: ``(B,)`` int32, position of the organ in `ORGANS`; other organs have the numbers after them.
        log2_um: ``(B,)`` float32, binary logarithm of the pixel size in µm at which the tissue is shown.
    """

    images: tf.Tensor
    masks: tf.Tensor
    organs: tf.Tensor
    log2_um: tf.Tensor


@dataclass(frozen=True)
class _Source:
    """A store's images to train on."""

    read: Callable[[int], np.ndarray]
    soft: bool
    organs: dict[int, str]
    network_um: dict[int, float]
    by_organ: dict[str, np.ndarray]  # ids
    room: dict[int, tuple[int, int]]  # where a patch's corner may lie, px
    foreground: pd.DataFrame  # patches of the grid that hold enough mask
    by_image: dict[int, np.ndarray]  # corners of these patches, by image id
    looks: dict[tuple[str, int], Look]  # by stain method and id


def _open_source(store: PatchStore, ids: list[int]) -> tuple[_Source, str]:
    """Open a store's images. The second value is a line for the user that says where they are read from."""
    size = store.config.input_size
    patches = store.patches[store.patches["id"].isin(ids)]
    foreground = patches[patches["mask_share"] >= MIN_MASK_SHARE]
    if foreground.empty:
        raise ValueError(
            f"none of the {len(patches)} training patches of {store.folder} holds {MIN_MASK_SHARE:.0%} mask; "
            "prepare again with a smaller --context"
        )
    read, where = store.reader(ids)
    images = {i: store.images[i] for i in ids}
    organs = {i: stored.image.organ for i, stored in images.items()}
    source = _Source(
        read,
        store.info.soft,
        organs,
        {i: stored.network_um for i, stored in images.items()},
        {organ: np.array([i for i in ids if organs[i] == organ]) for organ in sorted(set(organs.values()))},
        {i: (max(0, stored.shape[0] - size), max(0, stored.shape[1] - size)) for i, stored in images.items()},
        foreground,
        {int(str(i)): group[["y", "x"]].to_numpy() for i, group in foreground.groupby("id")},
        {(method, i): measure(rgb(read(i)), method) for i in ids for method in METHODS},
    )
    return source, where


class PatchSampler:
    """Chooses and makes the training patches of every epoch. They depend on the settings and the seed only.

    Args:
        store: The patch store.
        ids: Training images.
        config: Settings.
        replicas: Number of devices that share a batch.

    Attributes:
        batch_size: Patches per batch, on all devices together.
        steps: Batches per epoch.
        where: Lines for the user: whether the images are in memory or on disk, and why; images that are never used.
        looks: The average look of the training images, by stain method and organ.

    Raises:
        ValueError: There is no patch to train on, a batch does not divide by the devices, or the store of soft masks
            has another geometry.
    """

    def __init__(self, store: PatchStore, ids: list[int], config: TrainConfig, replicas: int = 1):
        self.config = config
        self.size = store.config.input_size
        source, self.where = _open_source(store, ids)
        self._sources = [source]
        if config.pseudo:
            self._sources.append(_open_soft(Path(config.pseudo), store))
        if config.crops == "grid" and (unused := [i for i in ids if i not in source.by_image]):
            patch = f"which have no patch with {MIN_MASK_SHARE:.0%} mask: {listed(list(map(str, unused)))}"
            self.where += f"\nwarning: --crops grid never trains on {len(unused)} of them, {patch}"
        count = len(source.foreground) if config.crops == "grid" else int(store.patches["id"].isin(ids).sum())
        self.batch_size = min(config.batch_size, count) // replicas * replicas
        if self.batch_size == 0 or config.batch_size % replicas:
            raise ValueError(
                f"a batch of {min(config.batch_size, count)} patches cannot be shared by {replicas} devices; "
                "give --batch-size as a multiple of them, and no more than there are patches"
            )
        self.steps = config.steps_per_epoch or count // self.batch_size
        if (drawn := config.epochs * self.steps * self.batch_size) < len(ids):
            self.where += (
                f"\nwarning: {drawn} patches in all are fewer than the images; some images are never trained on"
            )
        self._shares = config.augment_shares()
        looks = {
            (method, organ): [source.looks[method, int(i)] for i in at]
            for method in METHODS
            for organ, at in source.by_organ.items()
        }
        self.looks: dict[str, dict[str, Look]] = {method: {} for method in METHODS}
        for (method, organ), of_images in looks.items():
            self.looks[method][organ] = average(of_images)
        self._donors = _looks_of(Path(config.looks_from), store) if config.looks_from else _by_method(looks)
        self._numbers = {organ: number for number, organ in enumerate(self._all_organs())}
        others = list(self._numbers)[len(ORGANS) :]
        if config.auxiliary and others:
            raise ValueError(
                f"auxiliary is {config.auxiliary}, and its head tells only {', '.join(ORGANS)} apart, but there are "
                f"images of {', '.join(others)}; train with --auxiliary 0"
            )

    def choose(self, epoch: int) -> np.ndarray:
        """The patches of an epoch: ``(n, 4)`` int64, ``source, id, y, x``; n is a multiple of the batch size."""
        rng = np.random.default_rng([self.config.seed, epoch])
        wanted = self.steps * self.batch_size
        chosen = np.zeros((wanted, 4), np.int64)
        if self.config.crops == "grid":
            rows = self._sources[0].foreground[["id", "y", "x"]].to_numpy()
            passes = -(-wanted // len(rows))
            chosen[:, 1:] = np.concatenate([rng.permutation(rows) for _ in range(passes)])[:wanted]
        for row in chosen:
            number = int(len(self._sources) > 1 and rng.random() < PSEUDO_SHARE)
            if number or self.config.crops == "random":
                row[:] = number, *self._random_square(self._sources[number], rng)
        return chosen

    def _random_square(self, source: _Source, rng: np.random.Generator) -> tuple[int, int, int]:
        organs = list(source.by_organ.values())
        image_id = int(rng.choice(organs[rng.integers(len(organs))]))
        room = np.array(source.room[image_id])
        corner = rng.integers(0, room + 1)
        if image_id in source.by_image and rng.random() < FOREGROUND_SHARE:
            jitter = rng.integers(-self.size // 4, self.size // 4 + 1, 2)
            corner = np.clip(rng.choice(source.by_image[image_id]) + jitter, 0, room)
        return image_id, int(corner[0]), int(corner[1])

    def _patch(self, row: np.ndarray, seed: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
        """Cut and augment a chosen patch; returns image, mask in 0 to 255, and the pixel size in µm of the result."""
        number, image_id, y, x = row.tolist()
        source = self._sources[number]
        organ = source.organs[image_id]
        rng = np.random.default_rng(seed)

        def donor(method: str, rng: np.random.Generator) -> Look:
            looks = self._donors[method][organ]
            return looks[rng.integers(len(looks))]

        image, mask, scale = augment(
            source.read(image_id),
            (y, x),
            self.size,
            self._shares,
            rng,
            scale_range=self.config.scale_range,
            look=lambda method: source.looks[method, image_id],
            donors=donor,
        )
        return image, mask if source.soft else mask * np.uint8(255), source.network_um[image_id] / scale

    def _make(self, chosen: np.ndarray, epoch: int, places: range) -> tuple[np.ndarray, ...]:
        """The patches at some places of an epoch, as the fields of a `Batch`."""
        images = np.empty((len(places), self.size, self.size, 3), np.uint8)
        masks = np.empty(images.shape[:3], np.uint8)
        um = np.empty(len(places), np.float32)
        # Only cutmix needs the organs of the whole epoch.
        of_organ = self._organs(chosen) if self.config.cutmix else None
        organs = self._organs(chosen[places])
        for slot, place in enumerate(places):
            seed = [self.config.seed, epoch, place]
            image, mask, um[slot] = self._patch(chosen[place], [*seed, _OWN])
            rng = np.random.default_rng([*seed, _PASTED])
            if of_organ is not None and rng.random() < self.config.cutmix:
                other = rng.choice(np.flatnonzero(of_organ == organs[slot]))
                pasted, pasted_mask, _ = self._patch(chosen[other], [*seed, _PASTED])
                image, mask = cutmix((image, mask), (pasted, pasted_mask), rng)
            images[slot], masks[slot] = image, mask
        return images, masks, organs, np.log2(um)

    def _organs(self, chosen: np.ndarray) -> np.ndarray:
        """Numbers of the organs of chosen patches, as in a `Batch`: ``(n,)`` int32."""
        organs = [self._numbers[self._sources[number].organs[i]] for number, i in chosen[:, :2].tolist()]
        return np.array(organs, np.int32)

    def _all_organs(self) -> list[str]:
        """The competition's organs, and then the others of the training images."""
        return list(dict.fromkeys([*ORGANS, *(organ for source in self._sources for organ in source.by_organ)]))

    def batches(self, epoch: int, devices: Devices) -> tf.distribute.DistributedDataset | tf.data.Dataset:
        """The batches of an epoch, each shared by the devices; a `Batch` for each device and step."""
        chosen = self.choose(epoch)
        part = self.batch_size // devices.replicas
        first = devices.worker * devices.local_replicas

        def make(number: np.ndarray) -> tuple[np.ndarray, ...]:
            step, local = divmod(int(number), devices.local_replicas)
            begin = step * self.batch_size + (first + local) * part
            return self._make(chosen, epoch, range(begin, begin + part))

        def shaped(number: tf.Tensor) -> Batch:
            made = tf.numpy_function(make, [number], (tf.uint8, tf.uint8, tf.int32, tf.float32))
            side = (part, self.size, self.size)
            shapes = ((*side, 3), side, (part,), (part,))
            return Batch(*(tf.ensure_shape(value, shape) for value, shape in zip(made, shapes, strict=True)))

        # Python makes whole batches, because each call from TensorFlow costs as much time as a patch.
        def dataset(_: tf.distribute.InputContext) -> tf.data.Dataset:
            numbers = tf.data.Dataset.range(self.steps * devices.local_replicas)
            return numbers.map(shaped, num_parallel_calls=cores(), deterministic=True).prefetch(2)

        return devices.strategy.distribute_datasets_from_function(dataset)


def rgb(pixels: np.ndarray) -> np.ndarray:
    """The image of a stored ``(h, w, 4)`` array: ``(h, w, 3)`` uint8."""
    return np.ascontiguousarray(pixels[..., :3])


def _open_soft(folder: Path, store: PatchStore) -> _Source:
    """Open all images of a store of soft masks.

    Raises:
        ValueError: The store has no soft masks, or another geometry than `store`.
    """
    soft = PatchStore.open(folder)
    if not soft.info.soft:
        raise ValueError(f"{folder} does not hold soft masks; make it with: hubmap-kit pseudo")
    if soft.config.input_size != store.config.input_size or soft.config.network_um() != store.config.network_um():
        raise ValueError(
            f"{folder} was made for another geometry than {store.folder}; make it again with: hubmap-kit pseudo"
        )
    return _open_source(soft, list(soft.images))[0]


def _looks_of(folder: Path, store: PatchStore) -> dict[str, ByOrgan[list[Look]]]:
    """Looks of a competition folder's test images, by method and organ; an organ without images has all of them."""
    found: dict[tuple[str, str], list[Look]] = {}
    for image in read_images(folder, "test"):
        um = store.config.network_um()[image.organ]
        pixels, _ = load_image(image.path, image.pixel_size_um, um)
        for method in METHODS:
            found.setdefault((method, image.organ), []).append(measure(pixels, method))
    return _by_method(found)


def _by_method(looks: Mapping[tuple[str, str], list[Look]]) -> dict[str, ByOrgan[list[Look]]]:
    """Looks, given by method and organ, of each method; an organ without looks has those of all organs."""
    found = {}
    for method in METHODS:
        by_organ = {organ: of_organ for (of, organ), of_organ in looks.items() if of == method}
        found[method] = ByOrgan(by_organ, [look for of_organ in by_organ.values() for look in of_organ])
    return found
