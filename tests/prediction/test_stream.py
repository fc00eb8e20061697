"""Tests of prediction as a stream of batches."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from builders import an_image

from hubmap_kit import rle
from hubmap_kit.images import read_image
from hubmap_kit.images.scaling import resize, scaled_shape
from hubmap_kit.images.stain import Look, measure, transfer
from hubmap_kit.masks import MaskRule
from hubmap_kit.prediction import budget
from hubmap_kit.prediction.budget import Budget, _steps
from hubmap_kit.prediction.ensemble import AUGMENTATIONS, Member, groups_of, predict_augmented
from hubmap_kit.prediction.stream import _ahead, predict_masks
from hubmap_kit.tables import Image
from hubmap_kit.tiles import predict_tiled

ORGANS = ["kidney", "prostate", "largeintestine", "spleen", "lung"]
PALE = Look("reinhard", (0.3, 0.02, 0.01, 0.05, 0.02, 0.02))
SHAPES = [(211, 307), (97, 31), (64, 64), (13, 503), (401, 149)]


def smooth(batch: np.ndarray) -> np.ndarray:
    """Light is foreground, and so are its surroundings: a predictor that sees more than one pixel."""
    return np.stack([cv2.blur(tile[..., 1], (9, 9)) for tile in batch]).astype(np.float32) / 255


def pixelwise(batch: np.ndarray) -> np.ndarray:
    """White pixels are foreground."""
    return (batch.min(axis=-1) / 255).astype(np.float32)


def member(um: float = 0.5, predict=smooth, **changes) -> Member:
    settings = {"tile_size": 64, "overlap": 0.25, "batch_size": 3, "rule": MaskRule.uniform(0.5)}
    return Member(predict=predict, network_um=dict.fromkeys(ORGANS, um), **settings | changes)


@pytest.fixture
def jobs(tmp_path, rng) -> list[Image]:
    """Images of several shapes, none square but one, smaller and larger than a tile."""
    made = []
    for number, shape in enumerate(SHAPES):
        noise = cv2.GaussianBlur(rng.random((*shape, 3)).astype(np.float32), (0, 0), 6)
        image = np.clip((noise - 0.5) * 2500 + 128, 0, 255).astype(np.uint8)
        path = tmp_path / f"{number}.tiff"
        tifffile.imwrite(path, image, photometric="rgb")
        made.append(an_image(number, path, ORGANS[number], 0.5, shape))
    return made


def plain_map(job: Image, network: Member) -> np.ndarray:
    """The probability map at the image's own size, the plain way."""
    image = read_image(job.path)
    small = resize(image, scaled_shape(job.shape, job.pixel_size_um, network.network_um[job.organ]))
    if look := network.looks.get(job.organ):
        small = transfer(small, measure(small, look.method), look)
    settings = {"tile_size": network.tile_size, "overlap": network.overlap, "batch_size": network.batch_size}
    return resize(predict_tiled(small, lambda batch: predict_augmented(network, batch), **settings), job.shape)


def assert_mask(text: str | None, job: Image, probability: np.ndarray, threshold: float = 0.5) -> None:
    """The mask is the map's; where the map is at the threshold, as near as float32 tells, either answer is right."""
    assert text is not None
    mask = rle.decode(text, job.shape).astype(bool)
    assert ((mask == (probability >= threshold)) | (np.abs(probability - threshold) < 2e-5)).all()
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize("um", [0.5, 0.31, 1.7])
@pytest.mark.parametrize("tta", ["none", "d4"])
def test_stream_is_the_plain_way(jobs, um, tta):
    """Masks are those of reading, tiling, blending and growing each image whole, at any scale."""
    network = member(um, tta=tta)
    results = {result.id: result for result in predict_masks(jobs, [network])}
    for job in jobs:
        assert_mask(results[job.id].rle, job, plain_map(job, network))


def test_ensemble_of_scales(jobs):
    """Members that see an image at different scales and tile sizes are averaged at its own size."""
    networks = [member(0.5), member(0.9, tile_size=96, overlap=0.0), member(0.5, predict=pixelwise)]
    results = {result.id: result for result in predict_masks(jobs, networks)}
    for job in jobs:
        assert_mask(results[job.id].rle, job, np.mean([plain_map(job, network) for network in networks], axis=0))


def test_a_network_at_several_scales(jobs):
    """At a scale of 2 a network sees an image twice as large; the maps of all scales are averaged at its own size."""
    network = member(0.5, predict=lambda batch: smooth(batch))
    networks = [network.at_scale(factor) for factor in (0.7, 1.0, 2.0)]
    assert [m.network_um["lung"] for m in networks] == pytest.approx([0.5 / 0.7, 0.5, 0.25])
    results = {result.id: result for result in predict_masks(jobs, networks)}
    for job in jobs:
        assert_mask(results[job.id].rle, job, np.mean([plain_map(job, m) for m in networks], axis=0))


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_images_take_on_the_look_of_the_training(jobs, method, rng):
    """Each image is given its organ's look by its own, measured on the whole; a network without looks sees it as is."""
    looks = dict.fromkeys(ORGANS[:2], PALE)
    if method == "macenko":
        stained = np.clip(rng.normal((150, 90, 160), (30, 40, 10), (97, 101, 3)), 0, 255).astype(np.uint8)
        looks = dict.fromkeys(ORGANS[:2], measure(stained, method))
    given, plain = member(0.5, looks=looks), member(0.31)
    for using in ([given], [given, plain]):
        results = {result.id: result for result in predict_masks(jobs, using)}
        for job in jobs:
            assert_mask(results[job.id].rle, job, np.mean([plain_map(job, m) for m in using], axis=0))
    masks, as_they_are = ({r.id: r.rle for r in predict_masks(jobs, [m])} for m in (given, replace(given, looks={})))
    assert {i for i in masks if masks[i] != as_they_are[i]} == {0, 1}


def test_a_look_is_measured_on_a_small_copy(jobs, monkeypatch):
    """However large an image, its look is measured once, on a copy of limited size; the file is decoded once."""
    from hubmap_kit.prediction import stream

    seen, opened, real = [], [], stream.open_scaled
    monkeypatch.setattr(stream, "LOOK_SIDE", 150)
    monkeypatch.setattr(stream, "measure", lambda image, method: seen.append(image.shape) or measure(image, method))
    monkeypatch.setattr(stream, "open_scaled", lambda *a, **k: opened.append(a) or real(*a, **k))
    looks = dict.fromkeys(ORGANS, PALE)
    list(predict_masks(jobs, [member(0.5, looks=looks), member(0.5, predict=pixelwise, looks=looks)]))
    assert seen == [(103, 150, 3), (97, 31, 3), (64, 64, 3), (4, 150, 3), (150, 56, 3)]
    assert len(opened) == len(jobs)


def test_members_of_different_looks_share_no_tiles():
    """Tiles are shared where scale, tiles and look are the same; the look counts for its own organ alone."""
    networks = [member(), member(looks={"lung": PALE}), member(looks={"lung": replace(PALE)}), member(0.4)]
    assert [len(sharing) for sharing in groups_of(networks, "lung").values()] == [1, 2, 1]
    assert [len(sharing) for sharing in groups_of(networks, "kidney").values()] == [3, 1]


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
    networks = [member(um, predict=pixelwise, rule=rule) for rule in rules]
    (result,) = predict_masks([an_image(1, path, "lung", um, image.shape)], networks)
    image[:, :20] = 0
    assert result.rle == rle.encode(image)


def test_an_ensemble_averages_maps_and_thresholds(jobs):
    """Two members that answer 0.2 and 0.6 are together at 0.4, whether or not they share their tiles."""
    for um in (0.5, 1.0):
        for threshold, foreground in ((0.39, True), (0.41, False)):
            rule = MaskRule.uniform(threshold)
            networks = [
                member(scale, predict=lambda b, v=v: np.full(b.shape[:3], v, np.float32), rule=rule)
                for v, scale in ((0.2, 0.5), (0.6, um))
            ]
            for result in predict_masks(jobs, networks):
                assert bool(result.rle) is foreground


def test_batches_are_filled_across_images(jobs):
    """Batches have one shape and are full, but for the last: small images do not waste them."""
    shapes = []

    def spy(batch):
        shapes.append(batch.shape)
        return smooth(batch)

    alone = [sum(1 for _ in count_batches(job)) for job in jobs]
    list(predict_masks(jobs, [member(predict=spy, batch_size=5)]))
    assert set(shapes) == {(5, 64, 64, 3)}
    assert len(shapes) == -(-sum(alone) // 5)


def count_batches(job: Image):
    """The tiles of a job, one batch each."""
    seen: list[int] = []
    list(predict_masks([job], [member(predict=lambda b: seen.append(0) or smooth(b), batch_size=1)]))
    return seen


def test_shared_tiles_are_cut_once(jobs, monkeypatch):
    """Members of one geometry share reading and tiling, and so do the copies of test-time augmentation."""
    from hubmap_kit.prediction import stream

    opened = []
    real = stream.open_scaled
    monkeypatch.setattr(stream, "open_scaled", lambda *a, **k: opened.append(a) or real(*a, **k))
    list(predict_masks(jobs, [member(tta="flips"), member(predict=pixelwise, tta="d4")]))
    assert len(opened) == len(jobs)
    opened.clear()
    list(predict_masks(jobs, [member(um) for um in (0.3, 0.5, 0.9)]))
    assert len(opened) == len(jobs)


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("flips", 4), ("d4", 8)])
def test_augmentation_is_undone(kind, count, rng):
    """Each pose is taken once and turned back: a pixelwise predictor gives the same with and without."""
    seen = set()

    def spy(batch):
        seen.add(batch.tobytes())
        return pixelwise(batch)

    batch = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = predict_augmented(member(predict=spy, tta=kind), batch)
    np.testing.assert_allclose(found, pixelwise(batch), atol=1e-6)
    assert len(seen) == len(AUGMENTATIONS[kind]) == count


def test_tiles_without_tissue(tmp_path, rng):
    """Tiles of bare glass are background and no network sees them; the rest of the mask stays as it is."""
    image = np.full((256, 384, 3), 240, np.uint8)
    image[:128, :128] = rng.integers(0, 256, (128, 128, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tiff", image, photometric="rgb")
    job, seen = an_image(1, tmp_path / "a.tiff", "lung", 0.5, (256, 384)), []
    # What is dark is foreground, so that bare glass is background for the network too.
    dark = member(predict=lambda b: seen.append(len(b)) or 1 - smooth(b), overlap=0.0, batch_size=1)
    (every,) = predict_masks([job], [dark])
    assert len(seen) == 24
    (some,) = predict_masks([job], [dark], skip_background=True)
    assert len(seen) == 24 + 4
    assert some.rle == every.rle != ""


def test_tissue_is_looked_for_in_the_image_itself(tmp_path, monkeypatch):
    """Bare glass is bare glass whatever look the image is given."""
    from hubmap_kit.prediction import stream

    monkeypatch.setattr(stream, "transfer", lambda tile, *_: tile // 2)
    tifffile.imwrite(tmp_path / "a.tiff", np.full((97, 131, 3), 240, np.uint8), photometric="rgb")
    network = member(predict=lambda _: pytest.fail("a network saw glass"), looks={"lung": PALE})
    (result,) = predict_masks(
        [an_image(1, tmp_path / "a.tiff", "lung", 0.5, (97, 131))], [network], skip_background=True
    )
    assert result.rle == ""


def test_an_organ_that_a_network_does_not_know(jobs):
    """An organ that was added after the training costs its images alone, with an error that names it and the remedy."""
    old = member(rule=MaskRule({organ: 0.5 for organ in ORGANS if organ != "lung"}))
    results = {result.id: result for result in predict_masks(jobs, [member(), old])}
    assert [job.organ for job in jobs if results[job.id].error] == ["lung"]
    assert "no threshold for organ 'lung'" in str(results[4].error)
    assert "train a run with this version" in str(results[4].error)


def test_bad_images_cost_only_themselves(jobs):
    """A damaged and a missing image have an error, the others their masks, though they share batches."""
    jobs[1].path.write_bytes(b"II*\0 broken")
    jobs[3].path.unlink()
    jobs[2] = replace(jobs[2], shape=(64, 65))
    results = {result.id: result for result in predict_masks(jobs, [member()])}
    assert {i for i, result in results.items() if result.error} == {1, 2, 3}
    assert "1.tiff" in str(results[1].error)
    for job in (jobs[0], jobs[4]):
        assert_mask(results[job.id].rle, job, plain_map(job, member()))


def test_values_that_are_not_finite(jobs):
    """A network that gives NaN for an image costs that image's mask."""

    def spoiled(batch):
        found = smooth(batch)
        found[batch.min(axis=(1, 2, 3)) < 0] = 0
        found[:, 5, 5] = np.nan
        return found

    assert all("not finite" in str(result.error) for result in predict_masks(jobs, [member(predict=spoiled)]))


def test_a_predictor_of_another_shape(jobs):
    """A network that breaks its contract ends the prediction with an error that says so."""
    with pytest.raises(ValueError, match="the predictor gave"):
        list(predict_masks(jobs, [member(predict=lambda batch: batch)]))


def test_stopping_early_leaves_no_threads(jobs):
    """Whoever stops listening ends the stages that run ahead."""
    before = threading.active_count()
    results = predict_masks(jobs, [member()])
    next(results)
    results.close()
    assert threading.active_count() == before


def test_ahead_hands_errors_on():
    """What goes wrong in a thread goes wrong where its items are read, after those that came before."""

    def items():
        yield 1
        raise OSError("gone")

    seen = _ahead(items())
    assert next(seen) == 1
    with pytest.raises(OSError, match="gone"):
        next(seen)


def many(jobs: list[Image], count: int) -> list[Image]:
    return [replace(jobs[0], id=number) for number in range(count)]


def slow(batch: np.ndarray) -> np.ndarray:
    time.sleep(0.004)
    return smooth(batch)


def test_budget_is_kept(jobs, capsys):
    """When the limit is near, augmentation goes first, then overlap, then networks; every image has its mask."""
    every = many(jobs, 40)
    networks = [member(predict=lambda b: slow(b), tta="flips", batch_size=1) for _ in range(2)]
    begin = time.monotonic()
    list(predict_masks(every[:4], networks))
    each = (time.monotonic() - begin) / 4
    limit = each * 40 / 5  # all of it would take five times as long
    begin = time.monotonic()
    results = list(predict_masks(every, networks, budget=Budget(limit, every, networks)))
    assert time.monotonic() - begin < limit
    assert all(result.rle for result in results)
    used = [(len(r.members), r.members[0].tta, r.members[0].overlap) for r in results]
    assert used[0] == (2, "flips", 0.25)
    assert used == sorted(used, key=lambda u: (-u[0], u[1] != "flips", -u[2]))
    assert used[-1][1] == "none"
    assert "are left: from here on no test-time augmentation" in capsys.readouterr().out


def test_what_a_budget_gives_up():
    """Augmentation goes first, then scales but the nearest to the network's own, then overlap, then networks."""
    ensemble = [m.at_scale(f) for m in (member(predict=lambda b: smooth(b), tta="d4"), member()) for f in (0.6, 1.2)]
    steps = _steps(ensemble)
    assert [name for name, _ in steps] == [
        "all that was asked for",
        "no test-time augmentation",
        "no test-time augmentation, one scale",
        "no test-time augmentation, one scale, no overlap of tiles",
        "no test-time augmentation, one scale, no overlap of tiles, 1 of 2 networks",
    ]
    assert [len(using) for _, using in steps] == [4, 4, 2, 2, 1]
    assert {m.tta for _, using in steps[1:] for m in using} == {"none"}
    assert {m.scale for _, using in steps[2:] for m in using} == {1.2}
    assert [{m.overlap for m in using} for _, using in steps] == [{0.25}] * 3 + [{0.0}] * 2


def test_budget_that_suffices(jobs):
    """With time enough, nothing is given up."""
    networks = [member(tta="flips")]
    results = predict_masks(jobs, networks, budget=Budget(600, jobs, networks))
    assert {result.members[0].tta for result in results} == {"flips"}


def test_pauses_are_taken_out_of_the_limit(jobs, monkeypatch):
    """A pause, in which networks are adapted, is no part of the pace, and there is none that the images would pay."""
    now = [100.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    every = many(jobs, 40)
    networks = [member(overlap=0.0, tta="flips")]
    limit = Budget(100.0, every, networks)
    works = [limit._work[job.id][0] for job in every]

    def predict(first, stop):  # a million pixels a second
        for job, work in zip(every[first:stop], works[first:stop], strict=True):
            assert limit.choose(job) is networks
            now[0] += work / 1e6
            limit.count(work)

    assert limit.pause_fits()  # the first one, of which nothing is known
    with limit.pause():
        now[0] += 30
    predict(0, 10)
    assert limit._needed(0) == pytest.approx(sum(works[10:]) / 1e6)
    assert limit.pause_fits()
    with limit.pause():
        now[0] += 30
    assert limit._needed(0) == pytest.approx(sum(works[10:]) / 1e6)
    assert not limit.pause_fits()  # 40 s less those of ten images, a tenth to spare, are no 30 and those of thirty
    predict(10, 11)
    now[0] += 100
    assert not limit.pause_fits()


def test_limit_that_is_over(jobs):
    """Images that do not fit at all are told as such, and the rest is not lost."""
    every = many(jobs, 30)
    networks = [member(predict=slow, overlap=0.0, batch_size=1)]
    results = list(predict_masks(every, networks, budget=Budget(0.3, every, networks)))
    assert len(results) == 30
    errors = [result.error for result in results if result.error]
    assert 0 < len(errors) < 30
    assert all("the time limit is over" in str(error) for error in errors)


def test_seconds(jobs):
    """Each image's seconds count its own work, and its share of the batches that it shares."""
    slowly = member(predict=slow, batch_size=2, overlap=0.0)
    results = {result.id: result for result in predict_masks(jobs, [slowly])}
    tiles = [len(count_batches(job)) for job in jobs]
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize(("um", "most"), [("1.0", 200), ("2.5", 200), ("1.0 2.5", 400)])
def test_memory_does_not_grow_with_the_area(tmp_path, um, most):
    """An image of 72 Mpx, 216 MB, and 288 MB a float map, takes little more memory than one of 1 Mpx."""
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
