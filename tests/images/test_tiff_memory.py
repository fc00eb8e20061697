"""Tests of TIFFs that are larger decoded than they look: nothing is decoded before its size is known to fit."""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from hubmap_kit.files import size_text
from hubmap_kit.images import read_image, tiff
from hubmap_kit.images.scaled_rows import open_scaled
from hubmap_kit.images.scaling import load_image
from hubmap_kit.images.tiff_rows import RowReader

SHAPE = (211, 157)


def bomb(path: Path, side: int, *, bits: int = 8, data: bytes = b"") -> Path:
    """A TIFF of one deflated strip, which claims ``side`` x ``side`` px of zeros and holds ``data``."""
    data = data or zlib.compress(bytes(1000))
    tags = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, bits), (259, 3, 1, 8), (262, 3, 1, 2), (273, 4, 1, 8)]
    tags += [
        (277, 3, 1, 3),
        (278, 4, 1, side),
        (279, 4, 1, len(data)),
        (284, 3, 1, 1),
        (339, 3, 1, 3 if bits > 16 else 1),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    return path


@pytest.fixture
def image(tmp_path):
    """A compressed TIFF of `SHAPE`, in strips."""
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, np.zeros((*SHAPE, 3), np.uint8), photometric="rgb", compression="zlib", rowsperstrip=16)
    return path


@pytest.fixture
def undecoded(monkeypatch):
    """Every try to decode is a failure of the test."""

    def decode(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(tiff, "decode", decode)
    monkeypatch.setattr(RowReader, "_decode", decode)


@pytest.mark.parametrize("open_it", [load_image, open_scaled], ids=["whole", "by rows"])
def test_another_size_than_the_row_says_is_refused_undecoded(tmp_path, undecoded, open_it):
    """A file of another size than its row of the table says is refused before anything of it is decoded."""
    path = bomb(tmp_path / "7.tiff", 20000)
    with pytest.raises(ValueError, match=r"7\.tiff: is 20000 x 20000 px .* the table says 211 x 157; correct"):
        open_it(path, 0.4, 0.8, SHAPE)


@pytest.mark.parametrize(
    ("side", "bits", "rule"), [(100000, 8, "claims 100000 x 100000 x 3 values"), (20000, 64, r"claims 8\.9 GiB of")]
)
def test_sizes_that_no_image_has(tmp_path, undecoded, side, bits, rule):
    """What claims more pixels, or more bytes of them, than an image has is refused undecoded, whatever the row says."""
    path = bomb(tmp_path / "7.tiff", side, bits=bits)
    for read in (read_image, RowReader):
        with pytest.raises(ValueError, match=rule):
            read(path)


def test_what_memory_does_not_hold_is_not_decoded(image, monkeypatch):
    """An image that needs more memory than is free is refused with both numbers; by rows it needs that of a band."""
    whole = SHAPE[0] * SHAPE[1] * 6
    monkeypatch.setattr("hubmap_kit.images.tiff_rows.VALUES_AT_ONCE", 1)
    for free, read in ((whole - 1, False), (whole, True)):
        monkeypatch.setattr(tiff, "free_memory", lambda free=free: free)
        if read:
            assert read_image(image).shape == (*SHAPE, 3)
        else:
            sizes = f"needs {size_text(whole)} of memory, but {size_text(free)} are free; save it in tiles"
            with pytest.raises(ValueError, match=re.escape(sizes)):
                read_image(image)
        with RowReader(image) as reader:
            assert reader.read(0, SHAPE[0]).shape == (*SHAPE, 3)
    monkeypatch.setattr(tiff, "free_memory", lambda: 16 * SHAPE[1] * 6 - 1)
    with RowReader(image) as reader, pytest.raises(ValueError, match="save it in tiles"):
        reader.read(0, 1)
    monkeypatch.setattr(tiff, "free_memory", lambda: None)
    assert read_image(image).shape == (*SHAPE, 3)


def test_a_strip_that_holds_more_than_it_claims(tmp_path):
    """A deflated strip of a gigabyte in an image of 64 x 64 px is not inflated beyond what the image claims."""
    import resource

    packer = zlib.compressobj(9)
    data = b"".join([*(packer.compress(bytes(2**20)) for _ in range(1024)), packer.flush()])
    path = bomb(tmp_path / "7.tiff", 64, data=data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ValueError):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10


def test_an_image_that_is_enlarged_to_a_huge_one_is_not_held(image):
    """An image whose row gives it a huge pixel size is enlarged by rows: the whole is never in memory."""
    with open_scaled(image, 20.0, 0.25, SHAPE) as rows:
        assert rows.streams
        assert rows.read(0, 40).shape == (40, SHAPE[1] * 80, 3)
