"""What is fuzzed: functions that take any bytes, and fail where the kit breaks a promise.

`TARGETS` is the table of them, with the files from which a fuzzer starts.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tifffile

from hubmap_kit import rle, submission, tables
from hubmap_kit.images import tiff, tiff_checks, tiff_rows

LARGEST = 2**20  # values of an image; a fuzzer needs small ones
HEADER = b"id,organ,data_source,img_height,img_width,pixel_size,tissue_thickness,rle,age,sex\n"
ROW = b"10044,prostate,HPA,12,7,0.4,4,1 5 9 2,37.0,Male\n"


def fuzz_rle(data: bytes) -> None:
    """Any text is an RLE of the mask that it decodes to, or one ValueError."""
    shape = (data[0] % 40 + 1, data[1] % 40 + 1) if len(data) > 1 else (3, 5)
    text = data[2:].decode(errors="replace")
    mask = None
    with refused("RLE"):
        mask = rle.decode(text, shape)
    if mask is None:
        return
    assert mask.shape == shape
    assert set(np.unique(mask)) <= {0, 1}
    written = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(written, shape), mask)
    assert rle.area(rle.parse(text, shape)) == mask.sum()
    assert rle.dice(text, written, shape) == 1.0


def fuzz_tables(data: bytes) -> None:
    """Any table is read, or its problems are listed by one error that names the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("train.csv", "test.csv", "truth.csv", "submission.csv", "sample_submission.csv"):
            (folder / file).write_bytes(data)
        for split in ("train", "test"):
            with refused(split):
                for image in tables.read_images(folder, split, check_files=False):
                    assert min(image.shape) > 0
                    assert 0 < image.pixel_size_um < 1000
        with refused("truth"):
            submission.read_truth(folder / "truth.csv")
        with refused("sample_submission"):
            tables.read_sample_submission(folder)
        (folder / "test.csv").write_bytes(HEADER + ROW)
        (folder / "sample_submission.csv").write_bytes(b"id,rle\n10044,1 1\n")
        with refused("submission"):
            problems = submission.validate(folder / "submission.csv", folder)
            if not any(problem.severity == "error" for problem in problems):
                texts, runs, _ = submission.read_masks(folder / "submission.csv", {10044: (12, 7)})
                assert texts.keys() == runs.keys() == {10044}


def fuzz_tiff(data: bytes) -> None:
    """Any file is an image, the same whole and by rows, or one error that names the file."""
    small, banded = patch.object(tiff_checks, "MAX_VALUES", LARGEST), patch.object(tiff_rows, "VALUES_AT_ONCE", 1)
    with small, banded, tempfile.TemporaryDirectory() as name:
        path = Path(name, "image.tiff")
        path.write_bytes(data)
        whole = by_rows = None
        with refused("image.tiff"):
            whole = tiff.read_image(path, threads=1)
        with refused("image.tiff"), tiff_rows.RowReader(path) as reader:
            height = reader.shape[0]
            by_rows = np.concatenate([reader.read(top, min(top + 7, height)) for top in range(0, height, 7)])
        assert (whole is None) == (by_rows is None)
        if whole is not None and by_rows is not None:
            assert whole.dtype == np.uint8
            np.testing.assert_array_equal(whole, by_rows)


class refused(suppress):  # in lower case, as contextlib's own
    """Accepts a ValueError or OSError whose message names the file, or what was wrong."""

    def __init__(self, name: str) -> None:
        super().__init__(ValueError, OSError)
        self._name = name

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if isinstance(error, (ValueError, OSError)):
            assert self._name in str(error), f"does not name {self._name}: {error!r}"
        return bool(super().__exit__(kind, error, trace))


def seeds_rle() -> Iterator[bytes]:
    for text in (
        "",
        "1 1",
        "1 3 7 2",
        "12 1 1 4",
        "0 1",
        "1 -1",
        "1 1 1",
        "1 99999999999999999999",
        "1.0 2",
        "١ 2",
        "nan",
    ):
        yield b"\x0b\x06" + text.encode()


def seeds_tables() -> Iterator[bytes]:
    yield from (
        HEADER + ROW,
        b"\xef\xbb\xbf" + HEADER + ROW,
        (HEADER + ROW).replace(b",", b";"),
        (HEADER + ROW).decode().encode("utf-16"),
        HEADER,
        b"id,rle\n10044,1 1\n",
        b'id,rle\n10044,"1 1"\n10044,\n',
        b"id,rle,img_height,img_width\n10044,1 1,12,7\n",
        b"id;rle\r\n10044;nan\r\n",
    )


def seeds_tiff() -> Iterator[bytes]:
    image = np.random.default_rng(0).integers(0, 256, (23, 17, 3), np.uint8)
    rgb: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    for options in (
        {},
        {"rowsperstrip": 5},
        {"tile": (16, 16)},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "tile": (16, 16)},
        {"compression": "packbits", "rowsperstrip": 5},
        {"compression": "jpeg", "tile": (16, 16)},
        {"compression": "jpeg", "compressionargs": {"outcolorspace": "rgb"}, "rowsperstrip": 8},
        {"compression": "aperio_jp2000_ycbc"},
        {"compression": "webp", "tile": (16, 16)},
        {"bigtiff": True},
        {"byteorder": ">"},
    ):
        stream = io.BytesIO()
        tifffile.imwrite(stream, image, **rgb | options)
        yield stream.getvalue()
    for grey in (image[..., 0], image[..., 0] > 99, image[..., 0].astype(np.uint16) * 257, image.transpose(2, 0, 1)):
        stream = io.BytesIO()
        tifffile.imwrite(stream, np.ascontiguousarray(grey), photometric="minisblack", metadata=None)
        yield stream.getvalue()


@dataclass(frozen=True)
class Target:
    """Something that is fuzzed.

    Attributes:
        do: Takes any bytes; an AssertionError, or any other error, is a finding.
        seeds: The inputs that a fuzzer starts from.
        longest: Bytes of the longest input that a fuzzer makes.
    """

    do: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    longest: int


TARGETS = {
    "rle": Target(fuzz_rle, seeds_rle, 400),
    "tables": Target(fuzz_tables, seeds_tables, 2000),
    "tiff": Target(fuzz_tiff, seeds_tiff, 6000),
}
