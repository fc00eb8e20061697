"""Tests of prediction as a stream of batches."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from builders import a_member, an_image, pixelwise, slow, smooth, write_images

from hubmap_kit import rle
from hubmap_kit.competition import ORGANS
from hubmap_kit.images import read_image
from hubmap_kit.images.scaling import resize, scaled_shape
from hubmap_kit.images.stain import Look, measure
from hubmap_kit.masks import MaskRule
from hubmap_kit.prediction import stream
from hubmap_kit.prediction.assembly import Assembly
from hubmap_kit.prediction.ensemble import Member, tilings_of
from hubmap_kit.prediction.networks import probability_map
from hubmap_kit.prediction.reading import tiles_of
from hubmap_kit.prediction.stream import predict_masks
from hubmap_kit.tables import Image
from hubmap_kit.tiles import Predictor

PALE = Look("reinhard", (0.3, 0.02, 0.01, 0.05, 0.02, 0.02))


@pytest.fixture
def images(tmp_path, rng) -> list[Image]:
    """Images of each organ, see `write_images`."""
    return write_images(tmp_path, rng)


def plain_map(image: Image, network: Member) -> npt.NDArray[np.float32]:
    """The probability map at the image's own size, by whole arrays."""
    shape = scaled_shape(image.shape, image.pixel_size_um, network.network_um[image.organ])
    return resize(probability_map(resize(read_image(image.path), shape), network, image.organ), image.shape)


def assert_mask(text: str | None, image: Image, probability: npt.NDArray[Any], threshold: float = 0.5) -> None:
    """The mask is that of the map; a pixel whose value is the threshold, within float32, may be either."""
    assert text is not None
    mask = rle.decode(text, image.shape).astype(bool)
    assert ((mask == (probability >= threshold)) | (np.abs(probability - threshold) < 2e-5)).all()
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize("um", [0.5, 0.31, 1.7])
@pytest.mark.parametrize("tta", ["none", "d4"])
def test_stream_is_the_plain_way(images, um, tta):
    """Masks are those of reading, tiling, blending and resizing each image as a whole, at any scale."""
    network = a_member(um, tta=tta)
    results = {result.id: result for result in predict_masks(images, [network])}
    for image in images:
        assert_mask(results[image.id].rle, image, plain_map(image, network))


def test_ensemble_of_scales(images):
    """Members that see an image at different scales and tile sizes are averaged at its own size."""
    networks = [a_member(0.5), a_member(0.9, tile_size=96, overlap=0.0), a_member(0.5, predict=pixelwise)]
    results = {result.id: result for result in predict_masks(images, networks)}
    for image in images:
        assert_mask(results[image.id].rle, image, np.mean([plain_map(image, network) for network in networks], axis=0))


def test_a_network_at_several_scales(images):
    """At a scale of 2 a network sees an image twice as large; the maps of all scales are averaged at its own size."""
    network = a_member(0.5, predict=lambda batch: smooth(batch))
    networks = [network.at_scale(factor) for factor in (0.7, 1.0, 2.0)]
    assert [m.network_um["lung"] for m in networks] == pytest.approx([0.5 / 0.7, 0.5, 0.25])
    results = {result.id: result for result in predict_masks(images, networks)}
    for image in images:
        assert_mask(results[image.id].rle, image, np.mean([plain_map(image, m) for m in networks], axis=0))


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_images_take_on_the_look_of_the_training(images, method, rng):
    """Each image is changed from its own look to that of its organ; a network without looks sees it as it is."""
    looks = dict.fromkeys(["kidney", "prostate"], PALE)
    if method == "macenko":
        stained = np.clip(rng.normal((150, 90, 160), (30, 40, 10), (97, 101, 3)), 0, 255).astype(np.uint8)
        looks = dict.fromkeys(["kidney", "prostate"], measure(stained, method))
    given, plain = a_member(0.5, looks=looks), a_member(0.31)
    for using in ([given], [given, plain]):
        results = {result.id: result for result in predict_masks(images, using)}
        for image in images:
            assert_mask(results[image.id].rle, image, np.mean([plain_map(image, m) for m in using], axis=0))
    masks, as_they_are = ({r.id: r.rle for r in predict_masks(images, [m])} for m in (given, replace(given, looks={})))
    assert {i for i in masks if masks[i] != as_they_are[i]} == {0, 1}


@pytest.mark.parametrize("um", [0.5, 2.0])
@pytest.mark.parametrize("least", [(60, 38), (98, None), (49, 49)])
def test_small_regions_are_dropped(tmp_path, um, least):
    """Regions below the mean of the members' least areas, in um2 of the image's own pixels, are not in the mask."""
    image = np.zeros((61, 83), np.uint8)
    for left, side in ((0, 3), (10, 5), (20, 7), (73, 9)):  # 9, 25, 49 and 81 px
        image[left % 3 : left % 3 + side, left : left + side] = 255
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, np.dstack([image] * 3), photometric="rgb")
    areas = [{} if px is None else {"lung": px * um**2, "spleen": 1e9} for px in least]
    rules = [MaskRule(dict.fromkeys(ORGANS, 0.5), area) for area in areas]
    networks = [a_member(um, predict=pixelwise, rule=rule) for rule in rules]
    (result,) = predict_masks([an_image(1, path, "lung", um, image.shape)], networks)
    image[:, :20] = 0
    assert result.rle == rle.encode(image)


def answering(value: float) -> Predictor:
    """A predictor that answers one value everywhere."""
    return lambda batch: np.full(batch.shape[:3], value, np.float32)


def test_an_ensemble_averages_maps_and_thresholds(images):
    """The mean of two members that answer 0.2 and 0.6 is 0.4, whether or not they share their tiles."""
    for um in (0.5, 1.0):
        for threshold, foreground in ((0.39, True), (0.41, False)):
            rule = MaskRule.uniform(threshold)
            networks = [a_member(0.5, predict=answering(0.2), rule=rule), a_member(um, answering(0.6), rule=rule)]
            for result in predict_masks(images, networks):
                assert bool(result.rle) is foreground


def test_batches_are_filled_across_images(images):
    """All batches have one shape, and only the last one is not full: small images fill them together."""
    shapes = []

    def spy(batch):
        shapes.append(batch.shape)
        return smooth(batch)

    alone = [count_tiles(image) for image in images]
    list(predict_masks(images, [a_member(predict=spy, batch_size=5)]))
    assert set(shapes) == {(5, 64, 64, 3)}
    assert len(shapes) == -(-sum(alone) // 5)


def count_tiles(image: Image) -> int:
    """Number of tiles of an image."""
    (tiling,) = tilings_of([a_member()], image.organ)
    return tiling.count(image)


def test_an_organ_that_a_network_does_not_know(images):
    """Images of an organ on which a network was not trained get its mean threshold."""
    others = [organ for organ in ORGANS if organ != "lung"]
    old = a_member(rule=MaskRule(dict(zip(others, (0.3, 0.4, 0.6, 0.7), strict=True))))
    mean = a_member(rule=MaskRule.uniform(0.5))
    found, expected = ({r.id: r.rle for r in predict_masks(images[4:], [member])} for member in (old, mean))
    assert images[4].organ == "lung"
    assert found == expected
    assert found[4]


def test_bad_images_cost_only_themselves(images):
    """A damaged, a missing and a mis-sized image have an error; the others have their masks, in the same batches."""
    images[1].path.write_bytes(b"II*\0 broken")
    images[3].path.unlink()
    images[2] = replace(images[2], shape=(64, 65))
    results = {result.id: result for result in predict_masks(images, [a_member()])}
    assert {i for i, result in results.items() if result.error} == {1, 2, 3}
    assert "1.tiff" in str(results[1].error)
    for image in (images[0], images[4]):
        assert_mask(results[image.id].rle, image, plain_map(image, a_member()))


@pytest.mark.parametrize("place", ["tiles_of", "Assembly.add", "Assembly.runs"])
def test_an_unexpected_error_costs_one_image(images, monkeypatch, place):
    """Whatever goes wrong with an image, at any stage, it has one result, with the error; the others have masks."""
    calls, name = [], place.removeprefix("Assembly.")
    owner: Any = Assembly if "." in place else stream
    real = getattr(owner, name)

    def broken(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise OverflowError("absurd")
        return real(*arguments)

    monkeypatch.setattr(owner, name, broken)
    results = list(predict_masks(images, [a_member()]))
    assert sorted(result.id for result in results) == [0, 1, 2, 3, 4]
    (error,) = (result.error for result in results if result.error)
    assert isinstance(error, OverflowError)
    assert sum(bool(result.rle) for result in results) == 4


def test_an_image_that_fails_late_has_one_result(images, monkeypatch):
    """An image whose file breaks off has one result, although tiles of it were predicted before."""
    real = tiles_of

    def cut(image, *arguments):
        for number, tile in enumerate(real(image, *arguments)):
            if image.id == 0 and number == 12:
                raise ValueError("broken off")
            yield tile

    monkeypatch.setattr(stream, "tiles_of", cut)
    for _ in range(5):
        results = list(predict_masks(images, [a_member(batch_size=1)]))
        assert sorted(result.id for result in results) == [0, 1, 2, 3, 4]
        assert [result.id for result in results if result.error] == [0]


def test_full_memory_costs_the_images_of_a_batch(images):
    """If not even a single tile can be predicted, its image has an error, and the others go on."""
    calls = []

    def full(batch):
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError("full")
        return smooth(batch)

    results = {result.id: result for result in predict_masks(images, [a_member(predict=full, batch_size=1)])}
    assert [i for i, result in results.items() if result.error] == [0]
    assert isinstance(results[0].error, MemoryError)
    assert_mask(results[4].rle, images[4], plain_map(images[4], a_member()))


def test_values_that_are_not_finite(images):
    """An image for which a network returns NaN has an error."""

    def spoiled(batch):
        found = smooth(batch)
        found[batch.min(axis=(1, 2, 3)) < 0] = 0
        found[:, 5, 5] = np.nan
        return found

    assert all("not finite" in str(result.error) for result in predict_masks(images, [a_member(predict=spoiled)]))


def test_a_predictor_of_another_shape(images):
    """A network whose answer has another shape ends the prediction with an error that says so."""
    with pytest.raises(ValueError, match="the predictor gave"):
        list(predict_masks(images, [a_member(predict=lambda batch: batch.astype(np.float32))]))


def test_stopping_early_leaves_no_threads(images):
    """Closing the results ends the threads of the stages."""
    before = threading.active_count()
    with closing(predict_masks(images, [a_member()])) as results:
        next(results)
    assert threading.active_count() == before


def test_seconds(images):
    """Each image's seconds count its own work, and its share of the batches that it shares."""
    slowly = a_member(predict=slow, batch_size=2, overlap=0.0)
    results = {result.id: result for result in predict_masks(images, [slowly])}
    tiles = [count_tiles(image) for image in images]
    assert results[0].seconds > results[2].seconds > 0
    assert sum(result.seconds for result in results.values()) >= 0.004 * sum(tiles) / 2 * 0.5


PEAK = """
import sys
from pathlib import Path
import numpy as np
from hubmap_kit.masks import MaskRule
from hubmap_kit.prediction.ensemble import Member
from hubmap_kit.tables import Image
from hubmap_kit.prediction.stream import predict_masks

def peak():  # MB; not ru_maxrss, which counts the process that started this one
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

def predict(path, shape):
    light = lambda batch: batch[..., 1] * np.float32(1 / 255)
    members = [Member(light, {"lung": float(um)}, 512, 0.25, 2, MaskRule({"lung": 0.5})) for um in sys.argv[2:]]
    (result,) = predict_masks([Image(1, "lung", "HPA", shape, 1.0, 4.0, Path(path), 2)], members)
    assert result.rle, result.error

predict(sys.argv[1] + "/small.tiff", (1000, 1000))
before = peak()
predict(sys.argv[1] + "/large.tiff", (9000, 8001))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize(("um", "most"), [("1.0", 200), ("2.5", 200), ("1.0 2.5", 400)])
def test_memory_does_not_grow_with_the_area(tmp_path, um, most):
    """An image of 72 Mpx (216 MB; a float map of it has 288 MB) takes little more memory than one of 1 Mpx."""
    for name, height, width in (("small", 1000, 1000), ("large", 9000, 8001)):
        wave = np.sin(np.arange(width) / 60)[None, :, None] * np.ones((1, 1, 3))
        bands = (((wave * np.sin(y / 60) + 1) * 127).astype(np.uint8) for y in range(0, height))
        image = np.memmap(tmp_path / "raw", np.uint8, "w+", shape=(height, width, 3))
        for y, band in enumerate(bands):
            image[y] = band[0]
        tifffile.imwrite(
            tmp_path / f"{name}.tiff", image, photometric="rgb", tile=(512, 512), compression="zlib", predictor=True
        )
    code = [sys.executable, "-P", "-c", PEAK, str(tmp_path), *um.split()]
    done = subprocess.run(code, check=True, capture_output=True, text=True)
    assert float(done.stdout) < most  # MB
