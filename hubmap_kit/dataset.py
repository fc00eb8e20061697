"""Training batches from the patch store."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from .augment import augment
from .config import TrainConfig
from .patches import PatchStore


class PatchSampler:
    """Chooses and makes the training patches of every epoch, from the seed alone.

    Args:
        store: The patch store.
        ids: Training images.
        config: Settings; `crops`, `foreground_share`, `augment`, `batch_size`, `seed` are used.

    Attributes:
        batch_size: Patches a batch.
        steps: Batches an epoch.
        where: A line for the user: whether the images are in memory or on disk, and why.

    Raises:
        ValueError: There is no patch to train on.
    """

    def __init__(self, store: PatchStore, ids: list[int], config: TrainConfig):
        self.config = config
        self.size = store.config.input_size
        patches = store.patches[store.patches["id"].isin(ids)]
        self.foreground = patches[patches["mask_share"] >= store.config.min_mask_share]
        if self.foreground.empty:
            raise ValueError(
                f"none of the {len(patches)} training patches holds {store.config.min_mask_share:.0%} mask; "
                "prepare again with a lower --min-mask-share"
            )
        self.read, self.where = store.reader(ids)
        organs = store.images.loc[ids, "organ"]
        self.by_organ = [np.array(organs.index[organs == organ]) for organ in sorted(set(organs))]
        shapes = store.images.loc[ids, ["height", "width"]].clip(lower=self.size)
        self.room = {i: (height - self.size, width - self.size) for i, height, width in shapes.itertuples()}
        self.by_image = {i: rows[["y", "x"]].to_numpy() for i, rows in self.foreground.groupby("id")}
        count = len(self.foreground) if config.crops == "grid" else len(patches)
        self.batch_size = min(config.batch_size, count)
        self.steps = config.steps_per_epoch or count // self.batch_size

    def choose(self, epoch: int) -> np.ndarray:
        """The patches of an epoch: ``(n, 3)`` int64, ``id, y, x``; n is a multiple of the batch size."""
        rng = np.random.default_rng([self.config.seed, epoch])
        wanted = self.steps * self.batch_size
        if self.config.crops == "grid":
            rows = self.foreground[["id", "y", "x"]].to_numpy()
            passes = -(-wanted // len(rows))
            return np.concatenate([rng.permutation(rows) for _ in range(passes)])[:wanted]
        chosen = np.empty((wanted, 3), np.int64)
        for row in chosen:
            image_id = int(rng.choice(self.by_organ[rng.integers(len(self.by_organ))]))
            room = np.array(self.room[image_id])
            corner = rng.integers(0, room + 1)
            if image_id in self.by_image and rng.random() < self.config.foreground_share:
                jitter = rng.integers(-self.size // 4, self.size // 4 + 1, 2)
                corner = np.clip(rng.choice(self.by_image[image_id]) + jitter, 0, room)
            row[:] = image_id, *corner
        return chosen

    def batches(self, epoch: int) -> tf.data.Dataset:
        """The batches of an epoch: images ``(B, S, S, 3)`` uint8 and masks ``(B, S, S)`` uint8 in {0, 1}."""
        chosen = self.choose(epoch).reshape(self.steps, self.batch_size, 3)
        shape = (self.batch_size, self.size, self.size)

        def make(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            images, masks = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
            for slot, (image_id, y, x) in enumerate(chosen[step].tolist()):
                rng = np.random.default_rng([self.config.seed, epoch, int(step) * self.batch_size + slot])
                images[slot], masks[slot] = augment(self.read(image_id), (y, x), self.size, self.config.augment, rng)
            return images, masks

        def shaped(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            images, masks = tf.numpy_function(make, [step], (tf.uint8, tf.uint8))
            return tf.ensure_shape(images, (*shape, 3)), tf.ensure_shape(masks, shape)

        # Whole batches, because each call of Python from TensorFlow costs as much as a patch does.
        dataset = tf.data.Dataset.range(self.steps).map(shaped, num_parallel_calls=os.cpu_count(), deterministic=True)
        return dataset.prefetch(2)
