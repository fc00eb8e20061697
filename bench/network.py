"""The steps before and after the network, each as a share of the network's own time.

The network is the EfficientNet-B0 U-Net with random weights; TensorFlow runs it on all cores, as in the kit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hubmap_kit import rle
from hubmap_kit.config import PrepareConfig, TrainConfig
from hubmap_kit.demo.write import write_table
from hubmap_kit.images.scaling import load_image, resize
from hubmap_kit.models.network_config import NetworkConfig
from hubmap_kit.preparation.prepare import prepare as prepare_store
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.tiles import Predictor, grid, pad_to_tile, predict_tiled

from . import kit
from .codec import notebook_encode
from .harness import Call, Case, Row, Setting, peer
from .inputs import drawn, table_of, write_tiff
from .pixels import AUGMENT, CORES, PATCH, SCALE, AlbumentationsPatches, one_thread

PIXEL_UM = 0.4


def make_store(setting: Setting, input_size: int) -> PatchStore:
    """A patch store of five images of 1500² at their own scale."""
    side, count = (500, 2) if setting.quick else (1500, 5)
    image, mask = drawn(side)
    data = setting.folder / "data"
    table = table_of(dict.fromkeys(range(1, count + 1), (side, side)))
    for i in table["id"]:
        write_tiff(data / "train_images" / f"{i}.tiff", np.roll(image, 97 * i, axis=1))
    write_table(data / "train.csv", table.assign(rle=[rle.encode(np.roll(mask, 97 * i, axis=1)) for i in table["id"]]))
    config = PrepareConfig(patch_size=input_size, input_size=input_size, test_size=0, val_size=0)
    return prepare_store(data, setting.folder / "patches", config)


def pipeline(setting: Setting) -> Case:
    """Batches of 16 patches of 256² with the default augmentation, as training takes them.

    albumentations gets the same patches and runs as usual in PyTorch's DataLoader, with one process per core; the
    processes are started before anything is timed. In threads, as in the kit's pipeline, it is slower.
    """
    from hubmap_kit.training.dataset import PatchSampler
    from hubmap_kit.training.devices import open_devices

    store = make_store(setting, PATCH)
    steps = 2 if setting.quick else 25
    config = TrainConfig(encoder_weights="none", augment=AUGMENT, scale_range=SCALE, steps_per_epoch=steps)
    ids = store.ids("train")
    sampler = PatchSampler(store, ids, config)
    count = sampler.steps * sampler.batch_size
    files = {i: store.folder / "images" / f"{i}.npy" for i in ids}

    def drain(batches: Iterable[tuple[Any, ...]]) -> None:
        seen = sum(len(images) for images, *_ in batches)
        assert seen == count, (seen, count)

    one = open_devices("one")
    calls: dict[str, Call] = {"kit": lambda: drain(sampler.batches(0, one))}
    work = f"input pipeline, {PATCH}², default augmentation"
    rows = [Row(work, "kit", "", "rate", 400, "patches/s")]
    loaders = peer("torch.utils.data") if peer("albumentations") else None
    for stain, aim in (("HEStain", 1.5), ("ColorJitter", None)):
        name = f"albumentations, {stain}, in a DataLoader"
        rows.append(Row(work, "kit", name, aim=aim))
        if loaders:
            loader = loaders.DataLoader(
                AlbumentationsPatches(files, sampler.choose(0), stain),
                batch_size=sampler.batch_size,
                num_workers=CORES,
                worker_init_fn=one_thread,
                multiprocessing_context="spawn",
                persistent_workers=True,
            )
            calls[name] = functools.partial(drain, loader)
    return Case(calls, rows, count, "patch")


def train(setting: Setting) -> Case:
    """A few training steps on batches of the pipeline, against as many steps on one batch in memory.

    The steps in memory are also compared with those of the same network with Keras's own BatchNormalization.
    """
    import keras
    import tensorflow as tf

    from hubmap_kit.models.blocks import BatchNormalization
    from hubmap_kit.models.losses import make_loss
    from hubmap_kit.models.network import build_model
    from hubmap_kit.training.dataset import PatchSampler
    from hubmap_kit.training.devices import open_devices

    size, batch, steps = (96, 2, 2) if setting.quick else (256, 8, 4)
    config = TrainConfig(encoder_weights="none", batch_size=batch, steps_per_epoch=steps)
    store = make_store(setting, size)
    sampler = PatchSampler(store, store.ids("train"), config)
    loss = make_loss(config.loss)

    def make_step(model: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        optimizer, variables = keras.optimizers.Adam(1e-4), model.trainable_variables
        optimizer.build(variables)

        def step(images: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                value = loss(tf.cast(masks, tf.float32) / 255, model(images, training=True))
            optimizer.apply(tape.gradient(value, variables), variables)
            return value

        compiled: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = tf.function(step, jit_compile=False)
        return compiled

    model, keras_model = (build_model(describe_network(setting.quick))[0] for _ in range(2))
    (unet,) = (layer for layer in keras_model.layers if isinstance(layer, keras.Model))
    for layer in unet.layers:
        if isinstance(layer, BatchNormalization):
            layer.__class__ = keras.layers.BatchNormalization
    step, keras_step = make_step(model), make_step(keras_model)
    one = open_devices("one")
    kept = next(iter(sampler.batches(0, one)))[:2]
    calls: dict[str, Call] = {
        "batches of the pipeline": lambda: [float(step(*batch[:2])) for batch in sampler.batches(0, one)],
        "batch in memory": lambda: [float(step(*kept)) for _ in range(steps)],
        "Keras's BatchNormalization": lambda: [float(keras_step(*kept)) for _ in range(steps)],
    }
    work = f"training step, {batch} × {size}²"
    rows = [Row(work, "batches of the pipeline", "batch in memory", "share", 1.03)]
    rows.append(Row(work, "batch in memory", "Keras's BatchNormalization"))
    return Case(calls, rows, steps, "step")


def describe_network(quick: bool) -> NetworkConfig:
    """The EfficientNet-B0 U-Net; for `quick`, whose figures mean nothing, a plain U-Net that is built in a second."""
    return (TrainConfig(model="unet", filters=4) if quick else TrainConfig(encoder="efficientnetb0")).network()


@functools.cache
def make_network(quick: bool) -> tuple[Any, Predictor]:
    """The network, as a Keras model of probabilities and as the kit's predictor.

    The output of random weights is noise, and its masks have a hundred times as many RLE runs as real masks. So the
    output is scaled down, and the darkness of each 16 x 16 px area, relative to the median, is added to it.
    """
    import keras

    from hubmap_kit.models.network import build_model
    from hubmap_kit.prediction.networks import make_predictor

    keras.utils.set_random_seed(0)
    unet, _ = build_model(describe_network(quick))
    light = float(np.median(drawn(500)[0]))
    grey = keras.layers.Rescaling(1 / 255)(unet.input)
    pooled = keras.layers.AveragePooling2D(16)(grey)
    smooth = keras.layers.UpSampling2D(16, interpolation="bilinear")(pooled)
    logits = keras.layers.Lambda(lambda x: 1e-3 * x[0] + 10 * (light / 255 - keras.ops.mean(x[1], -1)))(
        [unet.output, smooth]
    )
    model = keras.Model(unet.input, logits)
    probabilities = keras.Model(unet.input, keras.ops.sigmoid(logits))
    # Keras would turn on XLA, which is several times slower on a CPU and would make the comparison unfair.
    probabilities.compile(jit_compile=False)
    return probabilities, make_predictor(model)


def loop_over_tiles(images: list[np.ndarray], model: Any, tile: int, stride: int) -> list[str]:
    """The usual way in notebooks: ``model.predict`` on one tile after the other, averaged where they overlap."""
    texts = []
    for image in images:
        padded = pad_to_tile(image, tile)
        height, width = padded.shape[:2]
        total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
        for y in sorted({*range(0, height - tile, stride), height - tile}):
            for x in sorted({*range(0, width - tile, stride), width - tile}):
                answer = model.predict(padded[None, y : y + tile, x : x + tile], verbose=0)[0]
                total[y : y + tile, x : x + tile] += answer
                count[y : y + tile, x : x + tile] += 1
        texts.append(notebook_encode(((total / count)[: image.shape[0], : image.shape[1]] >= 0.5).astype(np.uint8)))
    return texts


def predict_case(
    setting: Setting,
    name: str,
    images: list[np.ndarray],
    tile: int,
    network_um: float,
    aim: float,
    *,
    loop: bool = False,
    packed: bool = False,
) -> Case:
    """Image files to RLE against the bare forward time of the tiles.

    The files are not compressed, so reading them is a copy. The bare forward pass takes its tiles from memory, in
    full batches across images.

    Args:
        setting: The setting.
        name: Name of the work in the table.
        images: ``(H, W, 3)`` uint8 RGB with pixels of `PIXEL_UM`.
        tile: Side of a tile in px.
        network_um: Pixel size at which the network sees them, in µm.
        aim: Largest allowed ratio of the kit's time to the bare time.
        loop: Whether `loop_over_tiles` runs too.
        packed: Whether the kit runs on LZW files too.
    """
    from hubmap_kit.models.hardware import default_batch_size

    model, predict = make_network(setting.quick)
    batch = default_batch_size()
    member = kit.make_member(predict, tile, network_um, batch)
    table = table_of({i: image.shape[:2] for i, image in enumerate(images, start=1)}, PIXEL_UM)
    files: dict[str, list[Path]] = {}
    for kind in ("none", "LZW") if packed else ("none",):
        files[kind] = [write_tiff(setting.folder / kind / f"{i}.tiff", image, kind) for i, image in enumerate(images)]
    scaled = [load_image(path, PIXEL_UM, network_um)[0] for path in files["none"]]
    tiles = []
    for image in scaled:
        padded = pad_to_tile(image, tile)
        tiles += [padded[y : y + tile, x : x + tile] for y, x in grid(padded.shape[:2], tile, kit.OVERLAP)]
    batches = [np.stack(tiles[i : i + batch]) for i in range(0, len(tiles), batch)]

    def bare() -> None:
        for tiles in batches:
            predict(tiles)

    def check() -> None:
        """The pipeline's masks equal those of its parts called one by one, except for rounding."""
        first = slice(0, 2)
        made = kit.predict_all(files["none"][first], table[first], member)
        for text, image, small in zip(made.values(), images[first], scaled[first], strict=True):
            map_ = predict_tiled(small, predict, tile_size=tile, overlap=kit.OVERLAP, batch_size=batch)
            wanted = rle.encode(resize(map_, image.shape[:2]) >= 0.5)
            assert wanted, "an empty mask compares nothing"
            assert rle.dice(text, wanted, image.shape[:2]) > 0.999, "the pipeline's mask is another"

    calls: dict[str, Call] = {
        "kit": lambda: kit.predict_all(files["none"], table, member),
        "bare forward": bare,
    }
    work = f"predict {name}, {len(tiles)} tiles of {tile}²"
    rows = [Row(work, "kit", "bare forward", "share", aim)]
    if packed:
        calls["kit, LZW"] = lambda: kit.predict_all(files["LZW"], table, member)
        rows.append(Row(f"{work}, decoding LZW too", "kit, LZW", "bare forward", "share"))
    if loop:
        calls["model.predict in a loop"] = lambda: loop_over_tiles(scaled, model, tile, int(tile * (1 - kit.OVERLAP)))
        rows.append(Row(work, "kit", "model.predict in a loop"))
    return Case(calls, rows, len(images), "image", check)


def native(setting: Setting) -> Case:
    """A 3000² image at its own scale; also tiling and blending alone, with a predictor that costs nothing.

    MONAI gets the image as a float tensor that is made before the timing.
    """
    side, tile = (500, 128) if setting.quick else (3000, 512)
    image = drawn(side)[0]
    case = predict_case(setting, f"{side}² at its own scale", [image], tile, PIXEL_UM, 1.05)
    free, batch = kit.free_predictor(tile), 2

    def ours(predict: Predictor = free) -> np.ndarray:
        return predict_tiled(image, predict, tile_size=tile, overlap=kit.OVERLAP, batch_size=batch)

    case.calls["kit, free predictor"] = ours
    work = f"tile and blend {side}², tile {tile}, free predictor"
    case.rows += [
        Row(f"{work}, of the bare forward", "kit, free predictor", "bare forward", "share", 1.5, "%"),
        Row(work, "kit, free predictor", "MONAI", "share", 1),
        Row(f"{work}, of the bare forward", "MONAI", "bare forward", "share", None, "%"),
    ]
    torch, inferers = peer("torch"), peer("monai.inferers")
    if not (torch and inferers):
        return case
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()
    constant = torch.from_numpy(free(np.empty((batch, 0), np.uint8))[:, None])

    def monai(predict: Callable[[Any], Any] = lambda tiles: constant[: len(tiles)]) -> Any:
        with torch.inference_mode():
            return inferers.sliding_window_inference(
                tensor, (tile, tile), batch, predict, overlap=kit.OVERLAP, mode="gaussian"
            )

    check_prediction = case.check

    def check() -> None:
        """With a predictor that returns its input, both return the image, and in equally many batches."""
        check_prediction()
        batches = {"kit": 0, "monai": 0}

        def see(batch: np.ndarray) -> np.ndarray:
            batches["kit"] += 1
            return batch[..., 0].astype(np.float32) / 255

        def see_tensor(batch: Any) -> Any:
            batches["monai"] += 1
            return batch[:, :1] / 255

        assert np.allclose(ours(see), image[..., 0] / 255, atol=1e-5)
        assert np.allclose(monai(see_tensor)[0, 0].numpy(), image[..., 0] / 255, atol=1e-5)
        assert batches["kit"] == batches["monai"], batches

    case.check = check
    case.calls["MONAI"] = monai
    return case


def small(setting: Setting) -> Case:
    """Images of 300 to 500 px at their own scale, each a single tile: shows the cost of batches that are not full."""
    count, tile = (3, 128) if setting.quick else (40, 512)
    rng = np.random.default_rng(1)
    source = drawn(500 if setting.quick else 3000)[0]
    images = []
    for _ in range(count):
        height, width = rng.integers(300, 501, 2) * tile // 512
        y, x = rng.integers(0, source.shape[0] - 500 * tile // 512, 2)
        images.append(source[y : y + height, x : x + width])
    sides = f"{count} images of {300 * tile // 512} to {500 * tile // 512} px"
    return predict_case(setting, sides, images, tile, PIXEL_UM, 1.15, loop=True)


def reduced(setting: Setting) -> Case:
    """Images of 3000² that the network sees at a quarter of their scale, as with the kit's default settings."""
    side, count, tile = (500, 2, 64) if setting.quick else (3000, 6, 256)
    image = drawn(side)[0]
    images = [np.roll(image, 97 * i, axis=1) for i in range(count)]
    return predict_case(setting, f"{count} images of {side}² at 1.6 µm", images, tile, 4 * PIXEL_UM, 1.15, packed=True)
