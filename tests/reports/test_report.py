"""Tests of the page about runs: what it says and shows of each kind of run."""

from __future__ import annotations

import json
import re
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from builders import write_run

from hubmap_kit import rle
from hubmap_kit.masks import MaskRule
from hubmap_kit.recipes import recipe
from hubmap_kit.reports.report import write_report
from hubmap_kit.reports.runs import open_all
from hubmap_kit.run import FoldsConfig, RunConfig, read_map, write_map
from hubmap_kit.tables import read_images

THRESHOLDS = (0.3, 0.5, 0.7)


def fake_run(folder, demo, held_out, *, worse=0.0, data=True, **changes):
    """Write a finished run on the demo whose maps are blurred truth, shifted by `worse` of the image's width."""
    images = {image.id: image for image in read_images(demo, "train")}
    ids = sorted(images)
    scores, sweep = [], []
    for split, numbers in held_out.items():
        for image_id in (ids[number] for number in numbers):
            image = images[image_id]
            truth = rle.decode(image.rle, image.shape)
            moved = np.roll(truth, int(worse * image.shape[1]), axis=1).astype(np.float32)
            small = cv2.resize(cv2.GaussianBlur(moved, (0, 0), 3), (60, 60), interpolation=cv2.INTER_AREA)
            write_map(folder / split / f"{image_id}.png", np.clip(small, 0, 1))
            mask = (cv2.resize(small, image.shape[::-1]) >= 0.5).astype(np.uint8)
            dice = rle.dice(image.rle, rle.encode(mask), image.shape)
            scores.append((split, image_id, image.organ, dice, 0.5))
            sweep += [
                (image_id, image.organ, t, 0.0, max(0, dice - abs(t - 0.5)))
                for t in THRESHOLDS
                if split == "validation"
            ]
    splits = {"train": [ids[-1]], "validation": [], "test": []} | {
        split: [ids[number] for number in numbers] for split, numbers in held_out.items()
    }
    facts: dict[str, Any] = {"splits": splits, "data": str(demo) if data else "", "recipe": "fast", "epochs": 3}
    write_run(folder, **facts | changes)
    columns = ["split", "id", "organ", "dice", "loss"]
    pd.DataFrame([*scores, ("train", ids[-1], "lung", 0.99, 0.1)], columns=columns).to_csv(
        folder / "scores.csv", index=False
    )
    pd.DataFrame(sweep, columns=["id", "organ", "threshold", "min_region_um2", "dice"]).to_csv(
        folder / "sweep.csv", index=False
    )
    (folder / "history.csv").write_text(
        "epoch,frozen,train_loss,seconds,validation_loss,validation_dice,validation_dice_lung\n"
        "1,1,1.5,60,,,\n2,0,1.0,60,1.2,0.6,0.4\n3,0,0.9,60,1.3,0.5,0.4\n"
    )
    (folder / "results.csv").write_text("split,images,loss,dice,lung\ntrain,2,1.0,0.5432,0.5432\n")
    return folder


def text_of(page):
    """The page without its scripts, pictures and style."""
    html = page.read_text(encoding="utf-8")
    return re.sub(r"<(script|style)\b.*?</\1>|data:image/[^\"]*", "", html, flags=re.DOTALL)


def meta_of(page):
    """What the viewer is given of each image."""
    found = re.search(r'id="meta">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])["cards"]


def test_the_page_of_a_run(demo, tmp_path):
    """Every image that was held out has a card with its outlines, its map and its Dice, the worst first."""
    run = fake_run(tmp_path / "a<b>", demo, {"validation": [0, 1, 2, 3], "test": [4, 5]})
    page = tmp_path / "report.html"
    line = write_report([run], page)
    assert line.startswith(f"{page}, ")
    text, cards = text_of(page), meta_of(page)
    scores = pd.read_csv(run / "scores.csv").set_index("id")["dice"]
    assert sorted(int(card["id"]) for card in cards.values()) == sorted(scores.index[:-1])
    for card in cards.values():
        assert card["dice"] == pytest.approx(scores[card["id"]], abs=1e-6)
        assert card["layers"] == ["truth", "run0"]
        assert card["thresholds"] == {"run0": 0.5}
        assert card["note"]
    shown = [float(found) for found in re.findall(r'class="dice">Dice ([\d.]+)', text)]
    assert shown == sorted(shown)
    assert len(shown) == 6
    assert "a&lt;b&gt;" in text
    assert "<b>a" not in text
    assert "epoch 2 kept" in text
    assert "encoder unfrozen" in text
    assert "Thresholds and least regions are chosen on the validation images" in text
    assert page.read_text(encoding="utf-8").count('data-kind="map"') == 6


def test_nothing_but_the_page_is_needed(demo, tmp_path):
    """The page refers to no other file or host."""
    write_report([fake_run(tmp_path / "run", demo, {"validation": [0, 1]})], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'\b(?:src|href|data-url)="(?!data:|#)', html)
    assert "default-src &#39;none&#39;" in html


def test_settings_are_shown_as_the_difference_from_the_recipe(demo, tmp_path):
    """Only what differs from the recipe is listed, with the recipe's value."""
    train = recipe("default", ema=0.5)
    run = fake_run(tmp_path / "run", demo, {"validation": [0]}, train=train, network=train.network(), recipe="default")
    write_report([run], tmp_path / "report.html")
    text = text_of(tmp_path / "report.html")
    assert f"0.5 (recipe: {recipe('default').ema})" in text
    assert "--loss" not in text


def test_runs_side_by_side(demo, tmp_path):
    """Two runs have the mean and the change of each image side by side; the image that changed most comes first."""
    held_out = {"validation": [0, 1, 2, 3]}
    good = fake_run(tmp_path / "good", demo, held_out)
    bad = fake_run(tmp_path / "bad", demo, held_out, worse=0.1)
    write_report([good, bad], tmp_path / "report.html")
    text, cards = text_of(tmp_path / "report.html"), meta_of(tmp_path / "report.html")
    assert "Change of Dice from good to bad" in text
    tables = [pd.read_csv(run / "scores.csv").set_index("id")["dice"].iloc[:-1] for run in (good, bad)]
    assert f"<b>{tables[0].mean():.3f}</b>" in text
    change = (tables[1] - tables[0]).abs().sort_values(ascending=False)
    assert [int(i) for i in re.findall(r'class="card" id="image=(\d+)"', text)] == change.index.tolist()
    assert all(card["layers"] == ["truth", "run0", "run1"] for card in cards.values())


def test_an_ensemble_is_shown_as_one(demo, tmp_path):
    """The ensemble is a further column, on the images that no member trained on, by the mean of maps and rules."""
    one = fake_run(tmp_path / "one", demo, {"validation": [0, 1, 2]}, rule=MaskRule.uniform(0.4))
    two = fake_run(tmp_path / "two", demo, {"validation": [1, 2, 3]}, rule=MaskRule.uniform(0.6))
    *members, joined = open_all([one, two], ensemble=True)
    assert set(joined.maps) == set(members[0].maps) & set(members[1].maps)
    for image_id in joined.maps:
        mean = (members[0].map(image_id) + members[1].map(image_id)) / 2
        assert np.allclose(joined.map(image_id), mean)
    assert joined.rule.thresholds["lung"] == pytest.approx(0.5)
    write_report([one, two], tmp_path / "report.html", ensemble=True)
    assert "mean of the probability maps of 2 columns, on the 2 images held out by all" in text_of(
        tmp_path / "report.html"
    )
    other = fake_run(tmp_path / "other", demo, {"validation": [7]})
    with pytest.raises(ValueError, match="no image was held out by all of these runs"):
        open_all([one, other], ensemble=True)


def test_folds_are_one_column(demo, tmp_path):
    """Each image is shown by the fold that did not train on it, with the scores and the rule of all folds together."""
    folds = tmp_path / "folds"
    for fold in range(2):
        fake_run(folds / f"fold{fold}", demo, {"validation": [2 * fold, 2 * fold + 1]})
    ids = sorted(image.id for image in read_images(demo, "train"))[:4]
    rows = [f"{n // 2},{image_id},lung,0.{n + 1}" for n, image_id in enumerate(ids)]
    (folds / "oof_scores.csv").write_text("\n".join(["fold,id,organ,dice", *rows]))
    FoldsConfig(2, finished=True, rule=MaskRule.uniform(0.25)).write(folds)
    write_report([folds], tmp_path / "report.html")
    cards = meta_of(tmp_path / "report.html")
    assert {card["id"]: card["dice"] for card in cards.values()} == pytest.approx(
        {image_id: (n + 1) / 10 for n, image_id in enumerate(ids)}
    )
    assert all(card["thresholds"] == {"run0": 0.25} for card in cards.values())
    text = text_of(tmp_path / "report.html")
    assert "2 of 2 folds" in text
    assert "Epochs kept: fold0 2, fold1 2." in text


def test_the_better_of_two_runs_is_named(demo, tmp_path):
    """The better run is named only where the images' differences are clear; the images that differ are listed."""
    held_out = {"validation": [0, 1, 2, 3, 4, 5]}
    good = fake_run(tmp_path / "good", demo, held_out)
    bad = fake_run(tmp_path / "bad", demo, held_out, worse=0.1)
    write_report([bad, good], tmp_path / "report.html")
    text = text_of(tmp_path / "report.html")
    tables = [pd.read_csv(run / "scores.csv").set_index("id")["dice"].iloc[:-1] for run in (good, bad)]
    gain = tables[0] - tables[1]
    assert gain.mean() > 2 * gain.std() / 6**0.5
    means = f"mean Dice {tables[0].mean():.3f} against {tables[1].mean():.3f} on the 6 images"
    assert f"good is better than bad: {means}" in text
    listed = re.search(r'aria-labelledby="differences">(.*?)</div>', text, re.DOTALL)
    assert listed
    assert [int(key) for key in re.findall(r'href="#image=(\d+)"', listed[1])] == gain.abs().nlargest(6).index.tolist()
    for image_id in gain.index:
        assert f"<b>{max(table[image_id] for table in tables):.3f}</b>" in listed[1]
    copy = fake_run(tmp_path / "copy", demo, held_out)
    write_report([good, copy], tmp_path / "report.html")
    assert "good is not clearly better than copy" in text_of(tmp_path / "report.html")
    other = fake_run(tmp_path / "other", demo, {"validation": [7]})
    write_report([good, other], tmp_path / "report.html")
    assert "they cannot be compared" in text_of(tmp_path / "report.html")


def test_the_extremes_say_what_is_wrong(demo, tmp_path):
    """The worst, median and best image of each organ stand with their line of explanation."""
    run = fake_run(tmp_path / "run", demo, {"validation": list(range(8))}, worse=0.2)
    write_report([run], tmp_path / "report.html")
    section = text_of(tmp_path / "report.html").split('id="extremes"')[1].split("</section>")[0]
    cards = meta_of(tmp_path / "report.html")
    shown = re.findall(r'data-picture="(\d+)".*?</a>\s*<p>(.*?)</p>', section, re.DOTALL)
    assert {cards[key]["organ"] for key, _ in shown} == {card["organ"] for card in cards.values()}
    for key, note in shown:
        assert note == cards[key]["note"]
        assert re.search(r"(?:Misses|Finds) .* the widest error is \d+ µm across, (?:missed|extra), ", note)


def test_a_network_that_learned_nothing_is_called_that(demo, tmp_path):
    """Where masks of the whole images would score as well, the verdict says so."""
    run = fake_run(tmp_path / "run", demo, {"validation": [0, 1, 2]})
    scores = pd.read_csv(run / "scores.csv")
    scores.assign(dice=0.01).to_csv(run / "scores.csv", index=False)
    write_report([run], tmp_path / "report.html")
    images = {image.id: image for image in read_images(demo, "train")}
    shares = [rle.decode(images[i].rle, images[i].shape).mean() for i in scores["id"][:3]]
    expected = np.mean([2 * share / (1 + share) for share in shares])
    assert f"no better than a mask of every whole image, which gives {expected:.3f}" in text_of(
        tmp_path / "report.html"
    )


def test_thresholds_at_the_same_place_have_one_mark(demo, tmp_path):
    """Organs that share a threshold share its mark, and one at the end of those that were tried is named."""
    held_out = {"validation": list(range(8))}
    run = fake_run(tmp_path / "run", demo, held_out)
    write_report([run], tmp_path / "report.html")
    text = text_of(tmp_path / "report.html")
    assert text.count('class="mark-text') - text.count("kept<") - text.count("unfrozen<") == 1
    assert "0.5, all<" in text
    assert "threshold that was tried" not in text
    rule = MaskRule({**MaskRule.uniform(0.5).thresholds, "lung": 0.7}, {"lung": 250.0})
    write_report([fake_run(tmp_path / "other", demo, held_out, rule=rule)], tmp_path / "report.html")
    text = text_of(tmp_path / "report.html")
    assert "0.7, lung<" in text
    assert "0.7 is the highest threshold that was tried." in text
    assert "Smaller regions are dropped: lung 250 µm²." in text


def test_an_image_without_a_map_is_named(demo, tmp_path):
    """A run of an earlier version keeps no maps of its test images; a line says why they have no outlines."""
    run = fake_run(tmp_path / "run", demo, {"validation": [0, 1], "test": [2]})
    next((run / "test").iterdir()).unlink()
    write_report([run], tmp_path / "report.html")
    assert "the probability maps of 1 image are not in the run folder" in text_of(tmp_path / "report.html")
    assert sorted(len(card["layers"]) for card in meta_of(tmp_path / "report.html").values()) == [1, 2, 2]


def test_test_images_of_folds_are_predicted_by_all_of_them(demo, tmp_path):
    """No fold trained on the test images, so their map is the mean of all folds' maps."""
    folds = tmp_path / "folds"
    for fold in range(2):
        fake_run(folds / f"fold{fold}", demo, {"validation": [fold], "test": [5]}, worse=0.1 * fold)
    FoldsConfig(2, finished=True, rule=MaskRule.uniform(0.4)).write(folds)
    (shown,) = open_all([folds], ensemble=False)
    (test_id,) = (i for i, split in shown.splits.items() if split == "test")
    maps = [read_map(folds / f"fold{fold}" / "test" / f"{test_id}.png") for fold in range(2)]
    assert np.allclose(shown.map(test_id), (maps[0] + maps[1]) / 2)
    assert test_id not in shown.dice  # those of single folds are not the ensemble's
    write_report([folds], tmp_path / "report.html")
    card = meta_of(tmp_path / "report.html")[str(test_id)]
    image = next(image for image in read_images(demo, "train") if image.id == test_id)
    mean = cv2.resize((maps[0] + maps[1]) / 2, image.shape[::-1]) >= 0.4
    assert card["dice"] == pytest.approx(rle.dice(image.rle, rle.encode(mask=mean), image.shape), abs=0.02)


@pytest.mark.parametrize("where", [None, "missing", "empty"])
def test_without_the_images_there_is_still_a_page(demo, tmp_path, where):
    """Scores and curves are shown, and one line says why there are no pictures."""
    run = fake_run(tmp_path / "run", demo, {"validation": [0, 1]}, data=False)
    (tmp_path / "empty").mkdir()
    write_report([run], tmp_path / "report.html", data=tmp_path / where if where else None)
    text = text_of(tmp_path / "report.html")
    assert text.count("There are no pictures") == 1
    assert "--data" in text
    assert "Mean Dice" in text


def test_an_unfinished_run_has_a_page(demo, tmp_path):
    """It says that there are no scores yet, and shows the epochs that there are."""
    run = fake_run(tmp_path / "run", demo, {"validation": [0, 1]}, finished=False, epochs=None)
    for name in ("scores.csv", "sweep.csv", "results.csv"):
        (run / name).unlink()
    for folder in ("validation",):
        for path in (run / folder).iterdir():
            path.unlink()
    write_report([run], tmp_path / "report.html")
    text = text_of(tmp_path / "report.html")
    assert "run: unfinished, after 3 of 60 epochs; there are no scores yet" in text
    assert "run is unfinished: its best mean validation Dice is 0.600 so far, after epoch 2." in text
    assert "3 of 60, kept 2, unfinished" in text
    assert "Loss of run" in text
    assert "Every image" not in text
    assert "Thresholds and least regions are chosen" not in text


def test_an_old_run_has_a_page(old_run, tmp_path):
    """A run of format 2 names neither its images nor its devices, and has a page all the same."""
    assert RunConfig.read(old_run).data == ""
    write_report([old_run], tmp_path / "report.html")
    assert "There are no pictures" in text_of(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("history.csv", b"", "no column epoch"),
        ("history.csv", b"epoch,train_loss\n1,0.5\n2,many\n", "row 3: train_loss is 'many'; it must be a number"),
        ("scores.csv", b"a\n1\n", "no column split, id, dice"),
        ("scores.csv", b"split,id,dice\nvalidation,inf,0.5\n", "row 2: id is 'inf'; it must be a number"),
        ("scores.csv", b"split,id,dice\nvalidation,5,bad\n", "row 2: dice is 'bad'; it must be a number from 0 to 1"),
        ("scores.csv", b"split,id,dice\nvalidation,-7,0.5\n", "row 2: id is '-7'"),
        ("scores.csv", b"split,id,dice\nvalidation,5,0.5\n", "has id 5, which config.json does not name"),
        ("results.csv", b"\xff", "no CSV as UTF-8 text"),
        ("sweep.csv", b"id\n", "no column organ, threshold, min_region_um2, dice"),
        ("sweep.csv", b"id,organ,threshold,min_region_um2,dice\n1,lung,half,0,0.5\n", "row 2: threshold is 'half'"),
    ],
)
def test_damaged_tables(demo, tmp_path, name, content, rule):
    """A table of a run folder that is damaged is named with the remedy; an earlier page stays."""
    run = fake_run(tmp_path / "run", demo, {"validation": [0]})
    (run / name).write_bytes(content)
    (tmp_path / "report.html").write_text("earlier")
    with pytest.raises(ValueError, match=f"{rule}.*; restore it from a copy, or remove it") as caught:
        write_report([run], tmp_path / "report.html")
    assert str(run / name) in str(caught.value)
    assert (tmp_path / "report.html").read_text() == "earlier"
