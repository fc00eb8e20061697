"""Tests of the networks."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from hubmap_kit.config import ENCODERS
from hubmap_kit.models import MEAN, STD, build_model, describe_model, load_model


def forward(model, image):
    return np.asarray(model(image[None], training=False))[0]


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("unet", ""), ("efficientnet-unet", "efficientnetb0"), ("efficientnet-unet", "efficientnetv2b0")],
)
def test_networks_take_any_multiple_of_32(name, encoder, rng, tmp_path):
    """uint8 images of any multiple of 32 give logits of their size, and saved weights give the same ones."""
    about = describe_model(name, encoder, filters=4)
    model, layers = build_model(about)
    assert bool(layers) == (name != "unet")
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in ((64, 96), (96, 32))]
    logits = [forward(model, image) for image in images]
    assert [value.shape for value in logits] == [(64, 96), (96, 32)]
    assert all(value.dtype == np.float32 for value in logits)
    model.save_weights(tmp_path / "model.weights.h5")
    again = load_model(about, tmp_path / "model.weights.h5")
    for image, before in zip(images, logits, strict=True):
        np.testing.assert_allclose(forward(again, image), before, atol=1e-5)


def test_plain_unet_has_the_classic_width():
    """64 filters give 31 million parameters, 64 to 1024 filters deep."""
    model, _ = build_model(describe_model("unet", "", 64))
    assert 30e6 < model.count_params() < 32e6


def test_every_encoder_is_known():
    """Each encoder that can be chosen has its skips in segmentation-models' factory."""
    from hubmap_kit.models.efficientnet_unet import Backbones

    assert len(ENCODERS) == 12
    for encoder in ENCODERS:
        assert len(Backbones.get_feature_layers(encoder, n=4)) == 4


def test_normalisation_is_part_of_the_network():
    """The network itself turns uint8 into ImageNet's normalised values."""
    model, _ = build_model(describe_model("unet", "", 1))
    layer = model.get_layer("normalisation")
    image = np.array([[[[0, 128, 255]]]], np.uint8)
    np.testing.assert_allclose(layer(image)[0, 0, 0], (image[0, 0, 0] / 255 - MEAN) / STD, rtol=1e-5)


def test_v2_encoder_weights_from_keras_own_file(tmp_path):
    """A weights file of Keras's EfficientNetV2B0 without top fills the encoder, which then gives Keras's features."""
    source = keras.applications.EfficientNetV2B0(include_top=False, weights=None)
    path = tmp_path / "encoder.weights.h5"
    source.save_weights(path)
    model, layers = build_model(describe_model("efficientnet-unet", "efficientnetv2b0", 0), str(path))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.float32)
    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    features = keras.Model(network.input, layers[-1].output)((image / 255 - MEAN) / STD)
    np.testing.assert_allclose(features, source(image), atol=1e-4)


def test_b0_encoder_weights_from_file(tmp_path):
    """A weights file of an EfficientNet-B0 encoder is loaded into it."""
    about = describe_model("efficientnet-unet", "efficientnetb0", 0)
    first, layers = build_model(about)
    network = next(layer for layer in first.layers if isinstance(layer, keras.Model))
    path = tmp_path / "encoder.weights.h5"
    keras.Model(network.input, layers[-1].output).save_weights(path)
    _, loaded = build_model(about, str(path))
    for ours, theirs in zip(loaded, layers, strict=True):
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            assert np.array_equal(a, b)


def test_bad_weights_are_named(tmp_path):
    """A missing file, a file of another network and a damaged one are each an error naming the file."""
    about = describe_model("efficientnet-unet", "efficientnetv2b0", 0)
    with pytest.raises(ValueError, match=r"no weights file .*none\.h5"):
        build_model(about, str(tmp_path / "none.h5"))
    other, _ = build_model(describe_model("unet", "", 2))
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"other\.weights\.h5 does not hold weights of efficientnetv2b0"):
        build_model(about, str(tmp_path / "other.weights.h5"))
    (tmp_path / "model.weights.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"model\.weights\.h5 cannot be loaded"):
        load_model(describe_model("unet", "", 2), tmp_path / "model.weights.h5")


@pytest.mark.parametrize("encoder", ["efficientnetb0", "efficientnetv2b0"])
def test_imagenet_weights_are_downloaded(encoder, tmp_path, monkeypatch):
    """`imagenet` fetches the encoder's file from its publisher's address, here a local server, and loads it."""
    import efficientnet.model
    from keras.src.applications import efficientnet_v2
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.utils import file_utils

    if encoder == "efficientnetv2b0":
        source = keras.applications.EfficientNetV2B0(include_top=False, weights=None)
        publisher, key = efficientnet_v2, "b0"
        name = "efficientnetv2-b0_notop.h5"
    else:
        first, layers = build_model(describe_model("efficientnet-unet", encoder, 0))
        network = next(layer for layer in first.layers if isinstance(layer, keras.Model))
        source, publisher, key = keras.Model(network.input, layers[-1].output), efficientnet.model, "efficientnet-b0"
        name = "efficientnet-b0_weights_tf_dim_ordering_tf_kernels_autoaugment_notop.h5"
    served, cache, empty = (tmp_path / folder for folder in ("served", "cache", "empty"))
    for folder in (served, cache, empty):
        folder.mkdir()  # Keras takes another folder where its own does not exist
    with h5py.File(served / name, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, source)
    digest = hashlib.sha256((served / name).read_bytes()).hexdigest()

    handler = partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(publisher, "BASE_WEIGHTS_PATH", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setitem(publisher.WEIGHTS_HASHES, key, (digest, digest))
        monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(cache))
        _, loaded = build_model(describe_model("efficientnet-unet", encoder, 0), "imagenet")
        server.shutdown()
    weighted = [layer.get_weights() for layer in loaded if layer.weights]
    originals = [layer.get_weights() for layer in source.layers if layer.weights]
    for ours, theirs in zip(weighted, originals, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert np.array_equal(a, b)

    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(empty))
    with pytest.raises(ValueError, match=r"cannot be downloaded.*--encoder-weights"):
        build_model(describe_model("efficientnet-unet", encoder, 0), "imagenet")


@pytest.mark.parametrize("encoder", ["efficientnetb0", "efficientnetv2b0"])
def test_half_precision_and_xla(encoder, tmp_path, rng):
    """Loaded for a GPU, in float16 and through XLA, a network gives what it gives in float32, nearly."""
    about = describe_model("efficientnet-unet", encoder, 16)
    build_model(about)[0].save_weights(tmp_path / "model.weights.h5")
    batch = tf.constant(rng.integers(0, 256, (1, 64, 64, 3), np.uint8))
    plain = tf.sigmoid(load_model(about, tmp_path / "model.weights.h5")(batch, training=False)).numpy()
    half = load_model(about, tmp_path / "model.weights.h5", half=True)
    found = tf.function(lambda x: tf.sigmoid(half(x, training=False)), jit_compile=True)(batch)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found.numpy(), plain, atol=0.02)
    assert keras.config.dtype_policy().name == "float32"
