"""Tests of the networks."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import efficientnet.model
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from hubmap_kit.config import TrainConfig
from hubmap_kit.models.encoders import ENCODERS, IMAGENET
from hubmap_kit.models.network import build_model, load_model
from hubmap_kit.models.network_config import NetworkConfig

# The smallest encoder of each family.
FAMILIES = ("efficientnetb0", "efficientnetv2b0", "resnet18", "mobilenet", "mobilenetv2", "convnexttiny")


MEAN, STD = IMAGENET


def encoder_config(encoder, **more):
    return TrainConfig(encoder=encoder, decoder_filters=16, **more).network()


def unet_config(filters, **more):
    return TrainConfig(model="unet", filters=filters, **more).network()


def forward(model, image):
    return np.asarray(model(image[None], training=False))[0]


def network_of(model):
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


def shaken(model, rng):
    """The model with every weight moved, statistics of BatchNormalization included."""
    model.set_weights([value + rng.uniform(0, 0.01, value.shape) for value in model.get_weights()])
    return model


@pytest.mark.parametrize("encoder", ["", *(pytest.param(encoder, marks=pytest.mark.slow) for encoder in FAMILIES)])
def test_networks_take_any_multiple_of_32(encoder, rng):
    """uint8 images of any multiple of 32 give float32 logits of their size."""
    model, layers = build_model(encoder_config(encoder) if encoder else unet_config(4))
    assert bool(layers) == bool(encoder)
    for shape in (64, 96), (96, 32):
        logits = forward(model, rng.integers(0, 256, (*shape, 3), np.uint8))
        assert logits.dtype == np.float32
        assert logits.shape == shape
    if not encoder:
        return
    # The decoder's skips are the encoder's layers at strides 16, 8, 4 and 2; ConvNeXt begins at 4.
    skips = [network_of(model).get_layer(skip).output for skip in ENCODERS[encoder].skips]
    shapes = keras.Model(network_of(model).input, skips).compute_output_shape((1, 64, 96, 3))
    strides = (16, 8, 4) if encoder == "convnexttiny" else (16, 8, 4, 2)
    assert [shape[1:3] for shape in shapes] == [(64 // stride, 96 // stride) for stride in strides]
    for stage, skip in enumerate(skips):
        assert network_of(model).get_layer(f"decoder_stage{stage}_concat").input[1] is skip


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet18", "convnexttiny"])
def test_weights_are_kept(encoder, rng, tmp_path):
    """A network that is built again from its description and its weights file gives the same logits."""
    config = encoder_config(encoder)
    model = shaken(build_model(config)[0], rng)
    image = rng.integers(0, 256, (64, 96, 3), np.uint8)
    model.save_weights(tmp_path / "model.weights.h5")
    again = load_model(NetworkConfig.from_json(json.loads(json.dumps(asdict(config)))), tmp_path / "model.weights.h5")
    np.testing.assert_allclose(forward(again, image), forward(model, image), rtol=1e-4, atol=1e-5)


def test_plain_unet_has_the_classic_width():
    """64 filters give 31 million parameters, 64 to 1024 filters deep."""
    model, _ = build_model(unet_config(64))
    assert 30e6 < model.count_params() < 32e6


@pytest.mark.parametrize(("first", "stages"), [(256, [256, 128, 64, 32, 16]), (40, [40, 20, 16, 16, 16])])
def test_decoder_filters(first, stages):
    """Each decoder stage has half the filters of the one before, and at least 16."""
    model, _ = build_model(TrainConfig(encoder="mobilenet", decoder_filters=first).network())
    network = network_of(model)
    assert [network.get_layer(f"decoder_stage{i}b_conv").filters for i in range(5)] == stages


def test_every_encoder_is_known():
    """Each encoder that can be chosen is in the table, with the values that black and white had in its pretraining."""
    imagenet = [(-np.array(MEAN) / STD).tolist(), ((1 - np.array(MEAN)) / STD).tolist()]
    spans = {
        "efficientnetb": imagenet,
        "efficientnetv2b": imagenet,
        **{f"efficientnetv2{size}": [[-1] * 3, [127 / 128] * 3] for size in "sml"},
        "resnet": [[0] * 3, [255] * 3],
        "mobilenet": [[-1] * 3, [1] * 3],
        "convnext": imagenet,
    }
    for name in ENCODERS:
        config = encoder_config(name)
        mean, std = np.array(config.mean), np.array(config.std)
        (span,) = (span for family, span in spans.items() if name.startswith(family))
        np.testing.assert_allclose([(0 - mean) / std, (1 - mean) / std], span, atol=1e-12, err_msg=name)


def test_normalisation_is_part_of_the_network():
    """The network itself turns uint8 into ImageNet's normalised values."""
    model, _ = build_model(unet_config(1))
    layer = model.get_layer("normalisation")
    image = np.array([[[[0, 128, 255]]]], np.uint8)
    np.testing.assert_allclose(layer(image)[0, 0, 0], (image[0, 0, 0] / 255 - MEAN) / STD, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "published", "preprocess"),
    [
        ("efficientnetv2b0", "EfficientNetV2B0", None),
        ("convnexttiny", "ConvNeXtTiny", None),
        ("mobilenet", "MobileNet", keras.applications.mobilenet.preprocess_input),
        ("mobilenetv2", "MobileNetV2", keras.applications.mobilenet_v2.preprocess_input),
    ],
)
def test_encoder_weights_from_keras_own_file(encoder, published, preprocess, rng, tmp_path):
    """A weights file of Keras's network without top fills the encoder, which then gives Keras's features."""
    source = shaken(getattr(keras.applications, published)(include_top=False, weights=None), rng)
    path = tmp_path / "encoder.weights.h5"
    source.save_weights(path)
    model, layers = build_model(encoder_config(encoder), str(path))
    image = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    _, features = network_of(model)(model.get_layer("normalisation")(image))
    assert layers[-1].output.shape[-1] == features.shape[-1]
    raw = image.astype(np.float32)
    expected = np.asarray(source(preprocess(raw) if preprocess else raw))
    assert expected.std() > 0
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "preprocess"),
    [
        ("efficientnetb0", partial(efficientnet.model.preprocess_input, backend=keras.backend)),
        ("resnet18", lambda image: image),
    ],
)
def test_encoder_weights_from_file(encoder, preprocess, rng, tmp_path):
    """A weights file of another library's encoder fills it, which then gives that library's features."""
    source = shaken(ENCODERS[encoder].build(None), rng)
    path = tmp_path / "encoder.weights.h5"
    source.save_weights(path)
    model, _ = build_model(encoder_config(encoder), str(path))
    image = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    _, features = network_of(model)(model.get_layer("normalisation")(image))
    expected = np.asarray(source(preprocess(image.astype(np.float32))))
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_bad_weights_are_named(tmp_path):
    """A missing file, a file of another network and a damaged one are each an error naming the file."""
    config = encoder_config("mobilenet")
    with pytest.raises(ValueError, match=r"no weights file .*none\.h5"):
        build_model(config, str(tmp_path / "none.h5"))
    other, _ = build_model(unet_config(2))
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"other\.weights\.h5 does not hold weights of mobilenet"):
        build_model(config, str(tmp_path / "other.weights.h5"))
    (tmp_path / "model.weights.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"model\.weights\.h5 cannot be loaded"):
        load_model(unet_config(2), tmp_path / "model.weights.h5")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["efficientnetb0", "efficientnetv2b0", "resnet18"])
def test_imagenet_weights_are_downloaded(encoder, tmp_path, monkeypatch):
    """`imagenet` fetches the encoder's file from its publisher's address, here a local server, and loads it."""
    from classification_models.weights import WEIGHTS_COLLECTION
    from keras.src.applications import efficientnet_v2
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.utils import file_utils

    if encoder == "efficientnetv2b0":
        source = keras.applications.EfficientNetV2B0(include_top=False, weights=None)
    else:
        source = ENCODERS[encoder].build(None)
    name = {
        "efficientnetb0": "efficientnet-b0_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5",
        "efficientnetv2b0": "efficientnetv2-b0_notop.h5",
        "resnet18": "resnet18_imagenet_1000_no_top.h5",
    }[encoder]
    served, cache, empty = (tmp_path / folder for folder in ("served", "cache", "empty"))
    for folder in (served, cache, empty):
        folder.mkdir()  # Keras takes another folder where its own does not exist
    with h5py.File(served / name, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, source)
    content = (served / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()

    handler = partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        for publisher, key in ((efficientnet.model, "efficientnet-b0"), (efficientnet_v2, "b0")):
            monkeypatch.setattr(publisher, "BASE_WEIGHTS_PATH", address)
            monkeypatch.setitem(publisher.WEIGHTS_HASHES, key, (digest, digest))
        for weights in WEIGHTS_COLLECTION:
            if weights["name"] == name:
                monkeypatch.setitem(weights, "url", address + name)
                monkeypatch.setitem(weights, "md5", hashlib.md5(content).hexdigest())
        monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(cache))
        _, loaded = build_model(encoder_config(encoder), "imagenet")
        server.shutdown()
    weighted = [layer.get_weights() for layer in loaded if layer.weights]
    originals = [layer.get_weights() for layer in source.layers if layer.weights]
    for ours, theirs in zip(weighted, originals, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert np.array_equal(a, b)

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(empty))
    with pytest.raises(ValueError, match=r"cannot be downloaded.*--encoder-weights"):
        build_model(encoder_config(encoder), "imagenet")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["efficientnetb0", "efficientnetv2b0"])
def test_half_precision_and_xla(encoder, tmp_path, rng):
    """Loaded for a GPU, in float16 and through XLA, a network gives nearly its float32 values."""
    config = encoder_config(encoder)
    model, _ = build_model(config)
    model.save_weights(tmp_path / "model.weights.h5")
    batch = tf.constant(rng.integers(0, 256, (1, 64, 64, 3), np.uint8))
    plain = tf.sigmoid(model(batch, training=False)).numpy()
    half = load_model(config, tmp_path / "model.weights.h5", compute_dtype="float16")
    assert network_of(half).get_layer("final_conv").compute_dtype == "float16"
    found = tf.function(lambda x: tf.sigmoid(half(x, training=False)), jit_compile=True)(batch)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found.numpy(), plain, atol=0.02)
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("encoder", "half"), [("", None), pytest.param("mobilenet", "bfloat16", marks=pytest.mark.slow)]
)
def test_auxiliary_heads(encoder, half, tmp_path, rng):
    """With heads a network predicts organ and pixel size too, from the mean of its deepest features, in float32."""
    config = encoder_config(encoder, auxiliary=0.1) if encoder else unet_config(2, auxiliary=0.1)
    assert config.auxiliary
    model, encoder_layers = build_model(config, compute_dtype=half)
    images = rng.integers(0, 256, (3, 64, 96, 3), np.uint8)
    outputs = model(images, training=False)
    assert {key: (tuple(value.shape), value.dtype) for key, value in outputs.items()} == {
        "logits": ((3, 64, 96), tf.float32),
        "organ": ((3, 5), tf.float32),
        "log2_um": ((3,), tf.float32),
    }
    assert model.get_layer("pooled").compute_dtype == "float32"
    network = network_of(model)
    deepest = encoder_layers[-1] if encoder else network.get_layer("bottleneck_relu2")
    features = keras.Model(network.input, deepest.output)(model.get_layer("normalisation")(images))
    pooled = np.asarray(features).astype(np.float32).mean((1, 2))
    for head in ("organ", "log2_um"):
        kernel, bias = model.get_layer(head).get_weights()
        expected = pooled @ kernel + bias
        np.testing.assert_allclose(outputs[head], expected.reshape(outputs[head].shape), atol=1e-4)

    model.save_weights(tmp_path / "model.weights.h5")
    loaded = load_model(config, tmp_path / "model.weights.h5", compute_dtype=half)
    np.testing.assert_allclose(loaded(images, training=False), outputs["logits"], atol=1e-3 if half else 1e-5)


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from hubmap_kit.config import TrainConfig
from hubmap_kit.models.network import build_model
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
config = TrainConfig(model="unet", filters=2).network()
single, _ = build_model(config)
rng = np.random.default_rng(0)
single.set_weights([value + rng.uniform(0, 0.5, value.shape) for value in single.get_weights()])
with strategy.scope():
    several, _ = build_model(config, synchronized=True)
    several.set_weights(single.get_weights())

def normalisations(model):
    layers = model._flatten_layers()
    return [layer.synchronized for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]

assert normalisations(single) and not any(normalisations(single))
assert all(normalisations(several))

# One replica's patches are darker than the other's.
images = np.concatenate([rng.integers(0, 100, (1, 32, 64, 3)), rng.integers(90, 256, (2, 32, 64, 3))]).astype(np.uint8)
parts = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant((images[:1], images[1:])[context.replica_id_in_sync_group])
)
logits = tf.function(lambda: strategy.run(lambda x: several(x, training=True), (parts,)))()
together = np.concatenate([part.numpy() for part in strategy.experimental_local_results(logits)])
np.testing.assert_allclose(together, single(images, training=True), atol=1e-3)
for ours, theirs in zip(several.get_weights(), single.get_weights()):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.slow
def test_replicas_normalise_by_the_whole_batch():
    """Two replicas of a training network give the logits and statistics of one process with all their patches."""
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["unet", pytest.param("mobilenet", marks=pytest.mark.slow)])
def test_decoder_dropout_changes_training_alone(kind, rng, tmp_path):
    """With dropout in the decoder, training drops channels; the weights are those of the network without it."""
    config = unet_config(2) if kind == "unet" else encoder_config(kind)
    dropping = shaken(build_model(config, decoder_dropout=0.5)[0], rng)
    dropping.save_weights(tmp_path / "dropping.weights.h5")
    plain = load_model(config, tmp_path / "dropping.weights.h5")
    images = rng.integers(0, 256, (2, 32, 64, 3), np.uint8)
    assert np.array_equal(plain(images), dropping(images))
    assert not np.array_equal(dropping(images, training=True), dropping(images, training=True))
    assert sum(layer.name.endswith("_dropout") for layer in dropping.layers[2].layers) == 4
