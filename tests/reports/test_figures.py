"""Pictures for notebooks: that they show what they say, and that masks lie where their pixels do."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hubmap_kit import rle
from hubmap_kit.config import TrainConfig
from hubmap_kit.preparation.store import PatchStore
from hubmap_kit.reports import figures
from hubmap_kit.tables import read_images


def pixels_of(picture: figures.Picture) -> np.ndarray:
    """A picture as ``(h, w, 3)`` RGB."""
    read = cv2.imdecode(np.frombuffer(picture.png, np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    return cv2.cvtColor(read, cv2.COLOR_BGR2RGB)


def coloured(picture: figures.Picture, colour: str) -> int:
    """How many pixels of a picture have a colour, nearly."""
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    return int((np.abs(pixels_of(picture).astype(int) - wanted).max(axis=-1) < 24).sum())


def test_a_notebook_shows_a_picture(demo, tmp_path):
    """A picture is shown as a PNG by a notebook, is named in words by its text, and can be saved."""
    picture = figures.show_images(read_images(demo, "train")[:2])
    assert picture._repr_png_() == picture.png
    assert picture.png not in repr(picture).encode()
    assert "2 images" in repr(picture)
    picture.save(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes() == picture.png


def test_images_have_outlines_only_if_they_have_masks(demo):
    """True masks are drawn, or predicted ones in another colour; images without masks have no outlines."""
    images = read_images(demo, "train")[:3]
    predicted = {image.id: image.rle for image in images}
    bare, true, answer = (figures.show_images(images, masks) for masks in ({}, None, predicted))
    drawn = [int((pixels_of(picture) != pixels_of(bare)).any(axis=-1).sum()) for picture in (true, answer)]
    assert min(drawn) > 500
    assert [coloured(picture, figures.PREDICTION) > 100 for picture in (bare, true, answer)] == [False, False, True]


def test_outlines_lie_on_the_borders_of_pixels():
    """The outline of a mask surrounds its pixels, whose centres `imshow` puts on whole numbers."""
    mask = np.zeros((5, 7), np.uint8)
    mask[1:3, 2:6] = 1
    path = figures._path(mask)
    assert path is not None
    assert list(path.get_extents().extents) == [1.5, 0.5, 5.5, 2.5]
    assert figures._path(np.zeros((5, 7), np.uint8)) is None


def test_missed_and_extra_tissue_are_told_apart(demo):
    """What is missed has one colour, what is extra another; a perfect mask has neither."""
    image = read_images(demo, "train")[0]
    true = {image.id: image.rle}
    height, width = image.shape
    everything = rle.encode(np.ones((height, width), np.uint8))

    def error(predicted: str) -> figures.Picture:
        picture = pixels_of(figures.show_predictions([image], {image.id: predicted}, true))
        third = np.ascontiguousarray(picture[:, 2 * picture.shape[1] // 3 + 10 :])
        return figures.Picture(cv2.imencode(".png", cv2.cvtColor(third, cv2.COLOR_RGB2BGR))[1].tobytes(), "")

    counts = {
        name: [coloured(error(text), colour) for colour in (figures.MISSED, figures.EXTRA)]
        for name, text in (("right", image.rle), ("empty", ""), ("all", everything))
    }
    assert max(counts["right"]) < 50
    assert counts["empty"][0] > 500 > 50 > counts["empty"][1]
    assert counts["all"][1] > 500 > 50 > counts["all"][0]


def test_patches_and_augmentations(store):
    """The patches of an image are counted, and the first augmented patch is the one with most mask."""
    opened = PatchStore.open(store)
    image_id = next(iter(opened.images))
    count = int((opened.patches["id"] == image_id).sum())
    patches = figures._patches(opened, image_id)
    assert len(patches) == count > 1
    assert [share for *_, share in patches] == sorted((share for *_, share in patches), reverse=True)
    assert f"its grid of {count} patches" in figures.show_patches(opened, image_id).text
    shares = TrainConfig(augment="flip,quarter").augment_shares()
    assert "flip, quarter" in figures.show_augmented(opened, image_id, shares, count=3).text


@pytest.mark.parametrize("validated", [True, False])
def test_curves(tmp_path, validated):
    """The best epoch is named; a training without validation has a curve too."""
    rows = ["epoch,frozen,train_loss,seconds,validation_loss,validation_dice"]
    rows += ["1,1,0.9,3,0.8,0.4", "2,0,0.7,3,,", "3,0,0.6,3,0.7,0.75", "4,0,0.5,3,0.7,0.7"]
    if not validated:
        rows = [row.rsplit(",", 2)[0] for row in rows]
    (tmp_path / "history.csv").write_text("\n".join(rows))
    text = figures.show_curves(tmp_path).text
    assert ("kept: epoch 3, Dice 0.750" in text) == validated
