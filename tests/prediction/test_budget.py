"""Tests of the time limit on prediction."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from builders import a_member, slow, smooth, write_images

from hubmap_kit.prediction.budget import Budget, giants, levels, work_of
from hubmap_kit.prediction.stream import predict_masks
from hubmap_kit.tables import Image


@pytest.fixture
def images(tmp_path, rng) -> list[Image]:
    """Images of each organ, see `write_images`."""
    return write_images(tmp_path, rng)


def many(images: list[Image], count: int) -> list[Image]:
    return [replace(images[0], id=number) for number in range(count)]


@pytest.mark.slow
def test_budget_is_kept(images, capsys):
    """When the limit is near, augmentation goes first, then overlap, then networks; every image has its mask."""
    every = many(images, 40)
    networks = [a_member(predict=lambda b: slow(b), tta="flips", batch_size=1) for _ in range(2)]
    begin = time.monotonic()
    list(predict_masks(every[:4], networks))
    each = (time.monotonic() - begin) / 4
    limit = each * 40 / 5  # with all settings it would take five times as long
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
    """Augmentation goes first, then all scales but the one nearest to the training's, then overlap, then networks."""
    ensemble = [
        m.at_scale(f) for m in (a_member(predict=lambda b: smooth(b), tta="d4"), a_member()) for f in (0.6, 1.2)
    ]
    found = levels(ensemble)
    assert [name for name, _ in found] == [
        "all settings",
        "no test-time augmentation",
        "no test-time augmentation, one scale",
        "no test-time augmentation, one scale, no overlap of tiles",
        "no test-time augmentation, one scale, no overlap of tiles, 1 of 2 networks",
    ]
    assert [len(using) for _, using in found] == [4, 4, 2, 2, 1]
    assert {m.tta for _, using in found[1:] for m in using} == {"none"}
    assert {m.scale for _, using in found[2:] for m in using} == {1.2}
    assert [{m.overlap for m in using} for _, using in found] == [{0.25}] * 3 + [{0.0}] * 2


def test_budget_that_suffices(images):
    """With enough time nothing is given up."""
    networks = [a_member(tta="flips")]
    results = predict_masks(images, networks, budget=Budget(600, images, networks))
    assert {result.members[0].tta for result in results} == {"flips"}


def test_pauses_are_taken_out_of_the_limit(images, monkeypatch):
    """A pause does not count for the pace, and there is no pause that would leave too little time for the images."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    every = many(images, 40)
    networks = [a_member(overlap=0.0, tta="flips")]
    limit = Budget(100.0, every, networks)
    works = [work_of(image, networks) for image in every]

    def predict(first, stop):  # a million pixels per second
        for image, work in zip(every[first:stop], works[first:stop], strict=True):
            assert limit.choose(image) is networks
            now[0] += work / 1e6
            limit.count(work)

    assert limit.pause_fits()  # always before the first pause
    with limit.pause():
        now[0] += 30
    predict(0, 10)
    assert limit.needed_s() == pytest.approx(sum(works[10:]) / 1e6)
    assert limit.pause_fits()
    with limit.pause():
        now[0] += 30
    assert limit.needed_s() == pytest.approx(sum(works[10:]) / 1e6)
    assert not limit.pause_fits()  # 40 s less ten images' time is too little for 30 s and thirty images
    predict(10, 11)
    now[0] += 100
    assert not limit.pause_fits()


def test_work_that_was_not_done_is_not_waited_for(images, monkeypatch):
    """Images that fail, or have tiles without tissue, leave no work behind that costs the others their settings."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    networks, every = [a_member(overlap=0.0, tta="flips")], many(images, 10)
    budget, work = Budget(1000.0, every, networks), work_of(every[0], networks)
    for number, seen in enumerate((work, work, 0.0, work / 2)):
        budget.choose(every[number])
        budget.correct(every[number], seen)
        budget.count(seen)
        now[0] += 10
    assert budget.needed_s() == pytest.approx(6 * work / (1.5 * work / 40))


def test_an_image_that_is_known_to_fail_has_no_work(images):
    """An image that the budget was not given takes no time from the others."""
    networks = [a_member()]
    budget = Budget(1000.0, images[1:], networks)
    assert budget.choose(images[0]) == networks
    budget.correct(images[0], 0.0)
    assert budget.needed_s() == 0.0


def test_giants(images):
    """An image of a hundred times the usual work is a giant; large ones are not, nor are images of one size."""
    networks, every = [a_member()], many(images, 10)
    assert not giants(every, networks)
    assert not giants([], networks)
    every[3], every[4] = replace(every[3], pixel_size_um=20.0), replace(every[4], pixel_size_um=2.5)
    assert giants(every, networks) == {3}


def test_the_limit_is_kept_within_an_image(tmp_path, rng):
    """An image that takes longer than the limit is given up in its middle."""
    (image, *_) = write_images(tmp_path, rng)
    network = a_member(um=0.05, predict=slow, batch_size=1)
    begin = time.monotonic()
    (result,) = predict_masks([image], [network], budget=Budget(0.5, [image], [network]))
    assert time.monotonic() - begin < 5  # without a limit it would take at least 15 s
    assert "not predicted to its end, since the time limit is over" in str(result.error)


def test_limit_that_is_over(images):
    """Images for which no time is left have an error that says so; the others have masks."""
    every = many(images, 30)
    networks = [a_member(predict=slow, overlap=0.0, batch_size=1)]
    results = list(predict_masks(every, networks, budget=Budget(0.3, every, networks)))
    assert len(results) == 30
    errors = [result.error for result in results if result.error]
    assert 0 < len(errors) < 30
    assert all("the time limit is over" in str(error) for error in errors)
