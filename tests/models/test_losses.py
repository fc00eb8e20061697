"""Tests of the losses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import corner_mask

from hubmap_kit.models.losses import LOSSES, auxiliary_loss, make_loss

SHAPE = (7, 13)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def bce(masks, logits):
    p = sigmoid(logits)
    return -np.mean(masks * np.log(p) + (1 - masks) * np.log(1 - p))


def focal(masks, logits):
    p = sigmoid(logits)
    return -np.mean(0.25 * masks * (1 - p) ** 2 * np.log(p) + 0.75 * (1 - masks) * p**2 * np.log(1 - p))


def dice(masks, logits):
    p = sigmoid(logits)
    return 1 - (2 * (masks * p).sum() + 1) / (masks.sum() + p.sum() + 1)


def tversky(masks, logits):
    p = sigmoid(logits)
    both = (masks * p).sum()
    return 1 - (both + 1) / (both + 0.3 * ((1 - masks) * p).sum() + 0.7 * (masks * (1 - p)).sum() + 1)


def lovasz(masks, logits):
    """By the definition: the Jaccard loss of ever larger sets of wrong pixels, weighted by their errors."""
    values = []
    for mask, image in zip(masks >= 0.5, logits, strict=True):
        truth = set(np.flatnonzero(mask))
        errors = np.maximum(0, 1 - image * np.where(mask, 1, -1)).ravel()
        wrong, before, value = set(), 0.0, 0.0
        for pixel in np.argsort(-errors, kind="stable"):
            wrong.add(pixel)
            loss = len(wrong) / len(truth | wrong)
            value, before = value + errors[pixel] * (loss - before), loss
        values.append(value)
    return np.mean(values)


BY_DEFINITION = {"bce": bce, "dice": dice, "focal": focal, "tversky": tversky, "lovasz": lovasz}


@pytest.fixture
def batch(rng):
    """A mask with corners, an empty, a full and a soft one, and logits."""
    masks = np.stack([corner_mask(SHAPE, rng), np.zeros(SHAPE), np.ones(SHAPE), rng.random(SHAPE)]).astype(np.float32)
    return masks, rng.normal(0, 2, masks.shape).astype(np.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_their_definitions(name, batch):
    """Each loss that can be chosen is what its paper defines, on hard, soft, empty and full masks."""
    masks, logits = batch
    assert float(make_loss(name)(masks, logits)) == pytest.approx(BY_DEFINITION[name](masks, logits), rel=1e-5)


def test_lovasz_of_a_mask_is_its_jaccard_loss(rng):
    """Where each pixel's error is 0 or 2, the Lovasz hinge is twice the mean of the images' Jaccard losses."""
    truth, found = rng.random((2, 3, *SHAPE)) < 0.4
    truth[1], found[1] = False, False
    union = (truth | found).sum((1, 2))
    jaccard = np.where(union > 0, (truth & found).sum((1, 2)) / np.maximum(union, 1), 1)
    value = make_loss("lovasz")(truth.astype(np.float32), np.where(found, 1.0, -1.0))
    assert float(value) == pytest.approx(2 * np.mean(1 - jaccard), rel=1e-5)


def test_lovasz_takes_half_as_foreground(batch):
    """A soft mask is foreground from 0.5 on; its value does not count otherwise."""
    _, logits = batch
    soft = np.linspace(0, 1, 2 * logits.size + 1)[::2][:-1].reshape(logits.shape)
    soft.flat[5] = 0.5
    loss = make_loss("lovasz")
    assert float(loss(soft, logits)) == float(loss((soft >= 0.5).astype(np.float32), logits))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("logit", [-100.0, 0.0, 100.0])
def test_extremes_are_finite(name, logit):
    """Logits of -100, 0 and 100 give finite losses and gradients at empty, full and soft masks."""
    for value in (0.0, 0.5, 1.0):
        logits = tf.fill((2, *SHAPE), logit)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = make_loss(name)(tf.fill((2, *SHAPE), value), logits)
        assert np.isfinite(float(loss))
        assert np.isfinite(tape.gradient(loss, logits).numpy()).all()


@pytest.mark.parametrize("name", ["bce", "focal", "lovasz"])
def test_sure_mistakes_are_corrected(name):
    """At logits of 100 on the wrong side the losses that are not shares of areas still have a gradient."""
    logits = tf.fill((1, *SHAPE), 100.0)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = make_loss(name)(tf.zeros((1, *SHAPE)), logits)
    assert float(loss) > 50
    assert tf.reduce_sum(tape.gradient(loss, logits)) > 0.5


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_reduced_in_float32(name, rng):
    """Float16 logits of an area that overflows float16 give the float32 loss."""
    masks = (rng.random((1, 331, 257)) < 0.9).astype(np.uint8)
    logits = rng.normal(2, 1, masks.shape).astype(np.float16)
    value = make_loss(name)(masks, logits)
    assert value.dtype == tf.float32
    assert float(value) == float(make_loss(name)(masks.astype(np.float32), logits.astype(np.float32)))
    assert np.isfinite(float(value))


def test_weighted_sums(batch):
    """A sum of losses weights each as written; a text that is no sum of losses is an error."""
    masks, logits = batch
    value = float(make_loss("bce+0.5*lovasz + 2*tversky")(masks, logits))
    assert value == pytest.approx(
        bce(masks, logits) + 0.5 * lovasz(masks, logits) + 2 * tversky(masks, logits), rel=1e-5
    )
    with pytest.raises(ValueError, match="hinge"):
        make_loss("bce+hinge")


def test_auxiliary_loss():
    """Cross-entropy of the organ plus a size loss that is quadratic within an octave and linear beyond."""
    organs, log2_um = np.array([0, 3, 4]), np.log2([0.5, 1.6, 6.4])
    logits = np.arange(15, dtype=np.float32).reshape(3, 5) / 7
    found = np.add(log2_um, (0.5, -3, 0)).astype(np.float32)
    entropy = np.log(np.exp(logits).sum(1)) - logits[range(3), organs]
    expected = np.mean(np.add(entropy, (0.5 * 0.5**2, 3 - 0.5, 0)))
    value = auxiliary_loss(organs, log2_um, {"organ": logits, "log2_um": found})
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(expected, rel=1e-5)


REPLICAS = """
import numpy as np, tensorflow as tf
from hubmap_kit.models.losses import LOSSES, auxiliary_loss, make_loss
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
masks = rng.random((4, 7, 13)).astype(np.float32)
masks[1] = masks[2] > 0.9
images = rng.normal(0, 2, (4, 7, 13)).astype(np.float32)
organs, log2_um = rng.integers(0, 5, 4), rng.normal(0, 2, 4).astype(np.float32)
with strategy.scope():
    weights = tf.Variable([1.5, 0.3])

def segment(name):
    loss = make_loss(name)
    return lambda masks, images, organs, log2_um: loss(masks, weights[0] * images + weights[1])

def auxiliary(masks, images, organs, log2_um):
    logits = weights[0] * images[:, 0, :5] + weights[1] * tf.range(5.0)
    return auxiliary_loss(organs, log2_um, {"organ": logits, "log2_um": weights[1] * images[:, 1, 1]})

def gradient(loss, batch, replicas):
    with tf.GradientTape() as tape:
        value = loss(*batch)
        scaled = value / replicas
    return value, tape.gradient(scaled, weights)

PARTS = slice(0, 3), slice(3, 4)  # one replica has fewer patches than the other
batch = masks, images, organs, log2_um
for name in (*LOSSES, "bce+0.5*lovasz", "auxiliary"):
    loss = auxiliary if name == "auxiliary" else segment(name)
    value, slope = gradient(loss, [tf.constant(x) for x in batch], 1)
    parts = [
        strategy.experimental_distribute_values_from_function(
            lambda context, x=x: tf.constant(x[PARTS[context.replica_id_in_sync_group]])
        )
        for x in batch
    ]
    values, slopes = tf.function(lambda: strategy.run(gradient, (loss, parts, 2)))()
    for one in strategy.experimental_local_results(values):
        np.testing.assert_allclose(one, value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        strategy.reduce("SUM", slopes, axis=None), slope, rtol=1e-5, atol=1e-5, err_msg=name
    )
    print(name)
"""


@pytest.mark.slow
def test_replicas_share_the_loss_of_one_process():
    """On each of two replicas every loss is that of the whole batch, and their gradients add up to its gradient."""
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*LOSSES, "bce+0.5*lovasz", "auxiliary"]
