"""Tests of files of images and masks."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import tifffile

from hubmap_kit.exchange.pixels import large_pictures, name_of, read_mask, take_image
from hubmap_kit.images import read_image

SHAPE = (13, 17)


@pytest.fixture
def rgb(rng):
    return rng.integers(0, 256, (*SHAPE, 3), np.uint8)


@pytest.fixture
def mask(rng):
    found = rng.random(SHAPE) < 0.4
    found[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    return found


def taken(path, tmp_path):
    assert take_image(path, tmp_path / "taken.tiff") == SHAPE
    return read_image(tmp_path / "taken.tiff")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_a_png_comes_without_loss(tmp_path, rgb, mode):
    """A PNG of any kind becomes a TIFF with the same colours; its alpha channel is dropped."""
    image = PIL.Image.fromarray(rgb).convert(mode)
    if mode.endswith("A"):
        image.putalpha(PIL.Image.fromarray(rgb[..., 0]))
    image.save(tmp_path / "a.PNG")
    np.testing.assert_array_equal(taken(tmp_path / "a.PNG", tmp_path), np.asarray(image.convert("RGB")))


def test_a_jpeg_comes_as_it_is_decoded(tmp_path, rgb):
    """A JPEG becomes a TIFF with the pixels that its decoder gives, in grey and in CMYK too."""
    for mode in ("RGB", "L", "CMYK"):
        PIL.Image.fromarray(rgb).convert(mode).save(tmp_path / "a.jpeg")
        with PIL.Image.open(tmp_path / "a.jpeg") as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(taken(tmp_path / "a.jpeg", tmp_path), expected)


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_sixteen_bits(tmp_path, rng, channels):
    """A PNG of 16 bits keeps them in the TIFF, which is read as any TIFF of 16 bits."""
    import cv2

    deep = rng.integers(0, 65536, (*SHAPE, *channels)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    found = taken(tmp_path / "a.png", tmp_path)
    stored = tifffile.imread(tmp_path / "taken.tiff")
    np.testing.assert_array_equal(stored, deep[..., 2::-1] if channels else deep)
    tifffile.imwrite(tmp_path / "b.tiff", stored, photometric="rgb" if channels else "minisblack")
    np.testing.assert_array_equal(found, read_image(tmp_path / "b.tiff"))


def test_a_tiff_is_copied(tmp_path, rgb):
    """A TIFF stays as it is, to the byte."""
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb")
    taken(tmp_path / "a.tif", tmp_path)
    assert (tmp_path / "taken.tiff").read_bytes() == (tmp_path / "a.tif").read_bytes()


def test_turned_pictures_are_refused(tmp_path, rgb):
    """A JPEG that EXIF turns is refused, as nobody knows which way its mask was drawn; an upright one is not."""
    path = tmp_path / "a.jpg"
    for orientation in (1, 6):
        exif = PIL.Image.Exif()
        exif[274] = orientation
        PIL.Image.fromarray(rgb).save(path, exif=exif)
        if orientation == 1:
            taken(path, tmp_path)
    with pytest.raises(ValueError, match=r"a\.jpg: is stored turned \(EXIF orientation 6\).*; save it upright"):
        take_image(path, tmp_path / "b.tiff")
    assert not (tmp_path / "b.tiff").exists()


def test_damaged_pictures_are_named(tmp_path, rgb):
    """A cut PNG or JPEG and one that is none are errors with the file; nothing is filled in."""
    for suffix in ("png", "jpg"):
        data = io.BytesIO()
        PIL.Image.fromarray(rgb).save(data, "PNG" if suffix == "png" else "JPEG")
        for content in (data.getvalue()[: len(data.getvalue()) * 2 // 3], b"", b"\x89PNG no"):
            path = tmp_path / f"a.{suffix}"
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"a\.{suffix}: cannot be read .*; copy or export"):
                take_image(path, tmp_path / "b.tiff")
    with pytest.raises(FileNotFoundError):
        take_image(tmp_path / "none.png", tmp_path / "b.tiff")


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB", "RGBA", "P"])
def test_masks_of_any_kind(tmp_path, mask, mode):
    """Black and white, grey, 16 bits, grey as colours, opaque alpha, and a palette of greys."""
    if mode == "I;16":
        image = PIL.Image.fromarray(mask.astype(np.uint16) * 700)
    else:
        image = PIL.Image.fromarray(mask.astype(np.uint8) * 255).convert(mode)
    image.save(tmp_path / "a.png")
    found, doubt = read_mask(tmp_path / "a.png", SHAPE)
    np.testing.assert_array_equal(found, mask)
    assert not doubt


def test_labels_and_thresholds(tmp_path, rng):
    """Each label is foreground; a threshold chooses higher values; blurred edges raise a doubt."""
    labels = rng.integers(0, 7, SHAPE).astype(np.uint8)
    path = tmp_path / "a.png"
    PIL.Image.fromarray(labels).save(path)
    found, doubt = read_mask(path, SHAPE)
    np.testing.assert_array_equal(found, labels > 0)
    assert not doubt
    np.testing.assert_array_equal(read_mask(path, SHAPE, 5)[0], labels >= 5)
    labels[3, 4:7] = 255
    PIL.Image.fromarray(labels).save(path)
    assert "has 6 values between 0 and 255" in read_mask(path, SHAPE)[1]
    assert not read_mask(path, SHAPE, 128)[1]
    assert read_mask(path, SHAPE, 128)[0].sum() == 3


def test_masks_that_are_refused(tmp_path, rgb, mask):
    """A mask of another size, in colour, with transparency or a coloured palette is an error with the remedy."""
    path = tmp_path / "a.png"
    grey = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
    coloured, transparent = PIL.Image.fromarray(rgb), grey.convert("RGBA")
    transparent.putalpha(grey)
    palette = grey.convert("P")
    palette.putpalette([0, 0, 0] + [9, 0, 0] * 255)
    cases = [(coloured, "is in colour"), (transparent, "is transparent in places"), (palette, "is in colour")]
    for image, rule in cases:
        image.save(path)
        with pytest.raises(ValueError, match=rf"a\.png: {rule}.*; save it in grey"):
            read_mask(path, SHAPE)
    grey.save(path)
    with pytest.raises(ValueError, match=r"a\.png: is 13 x 17 px \(height x width\), and its image 17 x 13; export"):
        read_mask(path, SHAPE[::-1])


def test_large_pictures(tmp_path, monkeypatch):
    """A picture that Pillow takes for an attack is read, and Pillow's limit is the old one afterwards."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    PIL.Image.new("L", SHAPE[::-1]).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="DecompressionBomb"):
        read_mask(tmp_path / "a.png", SHAPE)
    with large_pictures():
        assert not read_mask(tmp_path / "a.png", SHAPE)[0].any()
    assert PIL.Image.MAX_IMAGE_PIXELS == 10


def test_names(tmp_path):
    """The name of an image is its file's without the ending, and without .ome of a TIFF."""
    assert [name_of(tmp_path / name) for name in ("a.b.png", "a.ome.tiff", "a.ome.png")] == ["a.b", "a", "a.ome"]
