"""A generated grid of TIFFs: codecs x layouts x tags that are missing or contradict each other or the data.

`cases` lists them; each writes a file. `readers` are the programs whose answers are compared with the kit's.
"""

from __future__ import annotations

import io
import itertools
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

Pixels = npt.NDArray[Any]

HEIGHT, WIDTH = 73, 53
SHORT, LONG = 3, 4
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes, by type of a tag
NEW_SUBFILE, SUBFILE, WIDTH_TAG, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
FILL_ORDER, STRIPS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS = 266, 273, 274, 277, 278, 279
PLANAR, PREDICTOR, COLORMAP, TILE_WIDTH, TILE_LENGTH, TILES, TILE_COUNTS = 284, 317, 320, 322, 323, 324, 325
INKSET, DOTS, EXTRA, FORMAT, JPEG_TABLES = 332, 336, 338, 339, 347
COEFFICIENTS, SUBSAMPLING, POSITIONING, REFERENCE, ICC = 529, 530, 531, 532, 34675


def picture(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """``(height, width, 3)`` uint8: waves, so that a shift of a pixel is seen, and JPEG stays close."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(y / 7 + x / 29), np.sin(x / 8 - y / 31 + 1), np.sin((x + y) / 11 + 2)]
    colours: Pixels = np.rint(128 + 100 * np.stack(waves, 2)).astype(np.uint8)
    return colours


# --- one file ---------------------------------------------------------------------------------------------------


def tags_of(data: bytes) -> tuple[dict[int, tuple[int, int, bytes]], int]:
    """The tags of the first page of a little-endian TIFF: (type, count, bytes) by number; and its next page."""
    first = int.from_bytes(data[4:8], "little")
    tags = {}
    for i in range(int.from_bytes(data[first : first + 2], "little")):
        tag, kind, count, value = struct.unpack("<HHI4s", data[first + 2 + 12 * i : first + 14 + 12 * i])
        length = SIZES[kind] * count
        at = int.from_bytes(value, "little")
        tags[tag] = (kind, count, value[:length] if length <= 4 else data[at : at + length])
    end = first + 2 + 12 * len(tags)
    return tags, int.from_bytes(data[end : end + 4], "little")


def with_tags(data: bytes, tags: dict[int, tuple[int, int, bytes]], following: int = 0) -> bytes:
    """The file with these tags instead of its first page's, which are written behind it."""
    out = bytearray(data + bytes(-len(data) % 2))
    entries = b""
    for tag, (kind, count, value) in sorted(tags.items()):
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place = len(out).to_bytes(4, "little")
            out += value + bytes(len(value) % 2)
        entries += struct.pack("<HHI", tag, kind, count) + place
    out[4:8] = len(out).to_bytes(4, "little")
    return bytes(out + struct.pack("<H", len(tags)) + entries + following.to_bytes(4, "little"))


def values(tags: dict[int, tuple[int, int, bytes]], tag: int) -> list[int]:
    kind, count, value = tags[tag]
    return list(struct.unpack(f"<{count}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", value))


Edit = Callable[[dict[int, tuple[int, int, bytes]]], None]


def put(tag: int, *numbers: int, kind: int = SHORT) -> Edit:
    """An edit that gives a tag these values."""

    def edit(tags: dict[int, tuple[int, int, bytes]]) -> None:
        letter = {1: "B", 3: "H", 4: "I", 7: "B"}[kind]
        tags[tag] = (kind, len(numbers), struct.pack(f"<{len(numbers)}{letter}", *numbers))

    return edit


def drop(*numbers: int) -> Edit:
    """An edit that takes tags out."""

    def edit(tags: dict[int, tuple[int, int, bytes]]) -> None:
        for tag in numbers:
            tags.pop(tag, None)

    return edit


def change(tags_of_kind: tuple[int, ...], new: Callable[[list[int]], list[int]]) -> Edit:
    """An edit of the numbers of a tag, the first of these that the file has."""

    def edit(tags: dict[int, tuple[int, int, bytes]]) -> None:
        for tag in tags_of_kind:
            if tag in tags:
                put(tag, *(max(0, number) for number in new(values(tags, tag))), kind=LONG)(tags)
                return

    return edit


def both(one: Edit, other: Edit) -> Edit:
    def edit(tags: dict[int, tuple[int, int, bytes]]) -> None:
        one(tags)
        other(tags)

    return edit


def rationals(tag: int, *numbers: float) -> Edit:
    def edit(tags: dict[int, tuple[int, int, bytes]]) -> None:
        tags[tag] = (5, len(numbers), b"".join(struct.pack("<II", round(n * 10000), 10000) for n in numbers))

    return edit


# --- the grid ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A file of the grid.

    Attributes:
        name: Base, and what was changed.
        data: The file.
        written: The picture ``(H, W, 3)`` uint8 that the data holds; None where it is none.
        edited: Whether tags were changed.
    """

    name: str
    data: bytes = field(repr=False)
    written: Pixels | None = field(repr=False)
    edited: bool


A = picture()
GREY = A[..., 0]
ALPHA = np.dstack([A, np.tile(np.arange(WIDTH, dtype=np.uint8) * 4 + 20, (HEIGHT, 1))])
YCC = np.ascontiguousarray(cv2.cvtColor(A, cv2.COLOR_RGB2YCrCb)[..., (0, 2, 1)])
CMYK = np.dstack([255 - A, np.full((HEIGHT, WIDTH), 40, np.uint8)])
MAP = np.stack([np.arange(256), np.arange(256)[::-1], (np.arange(256) * 7) % 256]).astype(np.uint16) * 257
FULL = (530, "H", 2, (1, 1), True)  # YCbCrSubSampling: none

# name: (samples, options of tifffile.imwrite)
KINDS: dict[str, tuple[Pixels, dict[str, Any]]] = {
    "rgb": (A, {"photometric": "rgb"}),
    "grey": (GREY, {"photometric": "minisblack"}),
    "white": (GREY, {"photometric": "miniswhite"}),
    "rgba": (ALPHA, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "rgbx": (ALPHA, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
    "grey-alpha": (
        ALPHA[..., (0, 3)],
        {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"},
    ),
    "rgb16": (A.astype(np.uint16) * 257, {"photometric": "rgb"}),
    "grey16": (GREY.astype(np.uint16) * 257, {"photometric": "minisblack"}),
    "bits1": (GREY > 128, {"photometric": "minisblack"}),
    "bits1-white": (GREY > 128, {"photometric": "miniswhite"}),
    "bits4": (GREY >> 4, {"photometric": "minisblack", "bitspersample": 4}),
    "bits12": (GREY.astype(np.uint16) << 4, {"photometric": "minisblack", "bitspersample": 12}),
    "palette": (GREY, {"photometric": "palette", "colormap": MAP}),
    "palette4": (GREY >> 4, {"photometric": "palette", "bitspersample": 4, "colormap": MAP[:, ::16]}),
    "cmyk": (CMYK, {"photometric": "separated"}),
    "ycbcr": (YCC, {"photometric": "ycbcr", "extratags": [FULL]}),
    "float": (A.astype(np.float32) / 255, {"photometric": "rgb"}),
    "lab": (A, {"photometric": "cielab"}),
}
CODECS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzw": {"compression": "lzw"},
    "lzw-predictor": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib"},
    "deflate-predictor": {"compression": "zlib", "predictor": True},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "lzma": {"compression": "lzma"},
    "webp": {"compression": "webp", "compressionargs": {"level": 100}},
    "jpeg": {"compression": "jpeg", "subsampling": (1, 1), "compressionargs": {"level": 97}},
    "jpeg-420": {"compression": "jpeg", "subsampling": (2, 2), "compressionargs": {"level": 97}},
    "jpeg-rgb": {"compression": "jpeg", "compressionargs": {"level": 97, "outcolorspace": "rgb"}},
    "jp2k": {"compression": "jpeg2000"},
    "aperio-rgb": {"compression": "aperio_jp2000_rgb"},
    "aperio-ycbcr": {"compression": "aperio_jp2000_ycbc"},
    "lerc": {"compression": "lerc"},
    "jpegxl": {"compression": "jpegxl"},
    "png": {"compression": "png"},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "strip": {},
    "strips": {"rowsperstrip": 16},
    "tiles": {"tile": (32, 16)},
    "planar": {"planarconfig": "separate", "rowsperstrip": 16},
    "planar-tiles": {"planarconfig": "separate", "tile": (16, 32)},
}


def base(kind: str, codec: str, layout: str) -> bytes | None:
    """A file whose tags are right; None where the kind, the codec and the layout do not go together."""
    data, options = KINDS[kind]
    options = {"metadata": None, **options, **CODECS[codec], **LAYOUTS[layout]}
    if "planar" in layout:
        if data.ndim == 2 or "jpeg" in codec or "aperio" in codec:
            return None
        data = np.ascontiguousarray(data.transpose(2, 0, 1))
        options["planarconfig"] = "separate"
    if kind == "rgb16" and "jpeg" in codec:  # JPEG has 12 bits
        return None
    if codec == "aperio-ycbcr":
        if kind != "rgb":
            return None
        data = YCC
    stream = io.BytesIO()
    try:
        tifffile.imwrite(stream, data, byteorder="<", **options)
    except Exception:  # imagecodecs raises errors of its own
        return None
    return stream.getvalue()


# name: (tag, values to try), separated by spaces; a comma where there are several.
NUMBERS: dict[str, tuple[int, str]] = {
    "photometric": (PHOTOMETRIC, "0 1 2 3 4 5 6 8 9 10 32803 32844 65000"),
    "samples": (SAMPLES, "0 1 2 3 4 5"),
    "bits": (BITS, "1 4 8 12 16 32 8,8 8,8,8 16,16,16 8,8,16 5,6,5 0"),
    "format": (FORMAT, "1 2 3 4 5 6 1,1,1 2,2,2 1,1,2 0"),
    "compression": (COMPRESSION, "0 1 2 3 4 5 6 7 8 32773 32946 33003 33005 34712 50000 9999"),
    "predictor": (PREDICTOR, "0 1 2 3 4 34892"),
    "fillorder": (FILL_ORDER, "0 1 2 3"),
    "planar": (PLANAR, "0 1 2 3"),
    "orientation": (ORIENTATION, "0 2 3 4 5 6 7 8 9"),
    "rows-per-strip": (ROWS_PER_STRIP, "0 1 8 15 17 32 73 1000"),
    "width": (WIDTH_TAG, "0 52 54 106 7"),
    "length": (LENGTH, "0 72 74 89 146 16"),
    "tile-width": (TILE_WIDTH, "0 8 15 32 64"),
    "tile-length": (TILE_LENGTH, "0 8 16 33 64"),
    "extra": (EXTRA, "0 1 2 0,0 999 1,2"),
    "new-subfile": (NEW_SUBFILE, "0 1 2 3 4 16"),
    "subfile": (SUBFILE, "1 2 3"),
    "subsampling": (SUBSAMPLING, "1,1 2,1 2,2 1,2 4,4 3,1 0,0 2"),
    "positioning": (POSITIONING, "1 2 0"),
    "inkset": (INKSET, "1 2 0"),
    "dots": (DOTS, "0,255 255,0 10,200"),
}
OFFSETS, COUNTS = (STRIPS, TILES), (STRIP_COUNTS, TILE_COUNTS)
EDITS: dict[str, Edit] = {
    **{f"no {name}": drop(tag) for name, (tag, _) in NUMBERS.items() if name not in ("fillorder", "subfile")},
    **{
        f"{name} {numbers}": put(tag, *map(int, numbers.split(",")))
        for name, (tag, lists) in NUMBERS.items()
        for numbers in lists.split()
    },
    "no colormap": drop(COLORMAP),
    "short colormap": put(COLORMAP, *range(0, 60000, 1000)),
    "colormap of bytes": put(COLORMAP, *([0, 255, 7, 9] * 192)),
    "byte colormap of bytes": put(COLORMAP, *([0, 255, 7, 9] * 192), kind=1),
    "no offsets": drop(*OFFSETS),
    "no byte counts": drop(*COUNTS),
    "byte counts 0": change(COUNTS, lambda v: [0] * len(v)),
    "byte counts halved": change(COUNTS, lambda v: [n // 2 for n in v]),
    "byte counts + 1": change(COUNTS, lambda v: [n + 1 for n in v]),
    "byte counts doubled": change(COUNTS, lambda v: [2 * n for n in v]),
    "byte counts - 1": change(COUNTS, lambda v: [n - 1 for n in v]),
    "byte counts: one fewer": change(COUNTS, lambda v: v[:-1] or v),
    "byte counts: one more": change(COUNTS, lambda v: [*v, v[-1]]),
    "byte counts: the first for all": change(COUNTS, lambda v: v[:1]),
    "offsets: one fewer": change(OFFSETS, lambda v: v[:-1] or v),
    "offsets: one more": change(OFFSETS, lambda v: [*v, v[-1]]),
    "offsets: the first for all": change(OFFSETS, lambda v: [v[0]] * len(v)),
    "offsets reversed": change(OFFSETS, lambda v: v[::-1]),
    "offsets + 1": change(OFFSETS, lambda v: [n + 1 for n in v]),
    "offsets 0": change(OFFSETS, lambda v: [0] * len(v)),
    "offsets beyond": change(OFFSETS, lambda v: [n + 10**6 for n in v]),
    "no strip or tile tags": drop(*OFFSETS, *COUNTS, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH),
    "no dimensions": drop(WIDTH_TAG, LENGTH),
    "tile tags as well": both(put(TILE_WIDTH, 16), put(TILE_LENGTH, 16)),
    "strip tags as well": both(put(STRIPS, 8, kind=LONG), put(STRIP_COUNTS, 99, kind=LONG)),
    "no JPEG tables": drop(JPEG_TABLES),
    "JPEG tables of rubbish": put(JPEG_TABLES, *b"\xff\xd8\xff\xc4\x00\x04\x01\x02\xff\xd9", kind=7),
    "JPEG tables cut": put(JPEG_TABLES, *b"\xff\xd8", kind=7),
    "coefficients of BT.709": rationals(COEFFICIENTS, 0.2126, 0.7152, 0.0722),
    "coefficients 0": rationals(COEFFICIENTS, 0, 0, 0),
    "reference of the specification": rationals(REFERENCE, 0, 255, 128, 255, 128, 255),
    "reference of video": rationals(REFERENCE, 16, 235, 128, 240, 128, 240),
    "an ICC profile that is none": put(ICC, *b"no profile", kind=7),
}
# Which kinds, codecs and layouts every edit is tried on; what is not here is tried without an edit only.
EDITED = [
    *itertools.product(("rgb", "grey"), ("none", "lzw", "jpeg"), ("strip", "strips", "tiles")),
    ("rgb", "none", "planar"),
    ("rgb", "deflate", "planar-tiles"),
    ("rgb", "deflate-predictor", "strips"),
    ("rgb", "jpeg-420", "tiles"),
    ("rgb", "jpeg-rgb", "strips"),
    ("rgb", "packbits", "strips"),
    ("rgb", "webp", "tiles"),
    ("rgb", "aperio-rgb", "tiles"),
    ("rgb", "aperio-ycbcr", "tiles"),
    ("rgb", "jp2k", "tiles"),
    ("rgba", "none", "strips"),
    ("rgba", "lzw", "tiles"),
    ("rgb16", "none", "strips"),
    ("rgb16", "lzw-predictor", "tiles"),
    ("grey16", "none", "strips"),
    ("bits1", "none", "strips"),
    ("bits1", "packbits", "strips"),
    ("bits4", "none", "strips"),
    ("palette", "none", "strips"),
    ("palette", "lzw", "tiles"),
    ("cmyk", "none", "strips"),
    ("cmyk", "deflate", "planar"),
    ("ycbcr", "none", "strips"),
    ("ycbcr", "lzw", "tiles"),
    ("float", "none", "strips"),
    ("float", "deflate-predictor", "tiles"),
]


def written_by(kind: str) -> Pixels | None:
    """What a file of that kind shows, by the specification."""
    grey = np.repeat(GREY[..., None], 3, 2)
    bits = np.repeat((GREY > 128)[..., None], 3, 2) * np.uint8(255)
    key = (255 - CMYK[..., 3:]) / 255
    return {
        "rgb": A, "rgba": A, "rgbx": A, "rgb16": A, "ycbcr": A, "float": A,
        "grey": grey, "grey-alpha": grey, "grey16": grey, "white": 255 - grey,
        "bits1": bits, "bits1-white": 255 - bits, "bits4": (grey >> 4) * np.uint8(17),
        "bits12": np.rint((grey.astype(int) << 4) * 255 / 4095).astype(np.uint8),
        "palette": (MAP.T[GREY] // 257).astype(np.uint8), "palette4": (MAP.T[::16][GREY >> 4] // 257).astype(np.uint8),
        "cmyk": np.rint(A * key).astype(np.uint8),
    }.get(kind)  # fmt: skip


def edited(data: bytes, *edits: Edit) -> bytes | None:
    """The file with its tags edited; None if that changes nothing."""
    tags, following = tags_of(data)
    before = dict(tags)
    for edit in edits:
        edit(tags)
    return None if tags == before else with_tags(data, tags, following)


def singles() -> Iterator[Case]:
    """Every kind, codec and layout that go together; and each edit of those in `EDITED`."""
    for kind, codec, layout in itertools.product(KINDS, CODECS, LAYOUTS):
        data = base(kind, codec, layout)
        if data is None:
            continue
        name = f"{kind} {codec} {layout}"
        yield Case(name, data, written_by(kind), edited=False)
        if (kind, codec, layout) not in EDITED:
            continue
        for what, edit in EDITS.items():
            changed = edited(data, edit)
            if changed is not None:
                yield Case(f"{name}: {what}", changed, written_by(kind), edited=True)


def pairs(seed: int, count: int) -> Iterator[Case]:
    """Two edits at once, drawn."""
    rng = np.random.default_rng(seed)
    names = list(EDITS)
    for _ in range(count):
        kind, codec, layout = EDITED[rng.integers(len(EDITED))]
        one, two = rng.choice(len(names), 2, replace=False)
        data = base(kind, codec, layout)
        changed = None if data is None else edited(data, EDITS[names[one]], EDITS[names[two]])
        if changed is not None:
            yield Case(f"{kind} {codec} {layout}: {names[one]}, {names[two]}", changed, written_by(kind), edited=True)


def adobe(mark: int | None, colours: str, *, jfif: bool = False) -> bytes:
    """The picture as JPEG of these colours, with an Adobe marker of this transform, or none."""
    jpeg = bytes(imagecodecs.jpeg8_encode(A, level=97, colorspace="rgb", outcolorspace=colours, subsampling="444"))
    for head in (b"\xff\xe0", b"\xff\xee"):
        at = jpeg.find(head)
        if at >= 0:
            jpeg = jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]
    marks = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" if jfif else b""
    if mark is not None:
        marks += b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([mark])
    return bytes(jpeg[:2] + marks + jpeg[2:])


def jpegs() -> Iterator[Case]:
    """JPEG data with and without markers of its colours, under each photometric interpretation."""
    for colours, mark, jfif, photometric in itertools.product(
        ("rgb", "ycbcr"), (None, 0, 1, 2), (False, True), ("rgb", "ycbcr", "minisblack")
    ):
        stream = io.BytesIO()
        options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
        tifffile.imwrite(
            stream, iter([adobe(mark, colours, jfif=jfif)]), shape=A.shape, dtype=np.uint8, byteorder="<", **options
        )
        number = {"rgb": 2, "ycbcr": 6, "minisblack": 1}[photometric]
        tags, _ = tags_of(stream.getvalue())
        put(PHOTOMETRIC, number)(tags)
        drop(SUBSAMPLING)(tags)
        if photometric == "ycbcr":
            put(SUBSAMPLING, 1, 1)(tags)
        data = with_tags(stream.getvalue(), tags)
        name = f"JPEG of {colours}, Adobe {mark}, {'JFIF' if jfif else 'no JFIF'}, tags say {photometric}"
        yield Case(name, data, A, edited=True)
    # The JPEG data has another size or other samples than the tags say.
    for what, image in {
        "narrower": A[:, :40],
        "lower": A[:50],
        "larger": picture(HEIGHT + 8, WIDTH + 8),
        "grey": A[..., 0],
    }.items():
        data = bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(image), level=97))
        stream = io.BytesIO()
        options = {"photometric": "rgb", "metadata": None, "compression": "jpeg"}
        tifffile.imwrite(stream, iter([data]), shape=A.shape, dtype=np.uint8, byteorder="<", **options)
        yield Case(f"JPEG data is {what}", stream.getvalue(), None, edited=True)


def pages() -> Iterator[Case]:
    """Files with more than one page: which one is the image."""
    small, mask = np.ascontiguousarray(A[::2, ::2]), A[..., 0] > 128
    rgb: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    grey: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
    tile: dict[str, Any] = {"tile": (16, 16)}
    lists: dict[str, tuple[list[tuple[Pixels, dict[str, Any]]], Pixels | None]] = {
        "thumbnail behind": ([(A, rgb), (small, {**rgb, "subfiletype": 1})], A),
        "thumbnail behind, not marked": ([(A, rgb), (small, rgb)], A),
        "thumbnail first, marked": ([(small, {**rgb, "subfiletype": 1}), (A, rgb)], A),
        "thumbnail first, not marked": ([(small, rgb), (A, rgb)], None),
        "pyramid of pages, in tiles": ([(A, {**rgb, **tile}), (small, {**rgb, **tile, "subfiletype": 1})], A),
        "pyramid in a SubIFD": ([(A, {**rgb, "subifds": 1}), (small, {**rgb, "subfiletype": 1})], A),
        "mask behind, marked": ([(A, rgb), (mask, {"photometric": "mask", "metadata": None, "subfiletype": 4})], A),
        "mask first, marked": ([(mask, {"photometric": "mask", "metadata": None, "subfiletype": 4}), (A, rgb)], A),
        "mask behind, not marked": ([(A, rgb), (mask, grey)], None),
        "two alike": ([(A, rgb), (A, rgb)], None),
        "two of other sizes": ([(A, rgb), (picture(WIDTH, HEIGHT), rgb)], None),
        "three grey": ([(A[..., i], grey) for i in range(3)], None),
        "all marked as reduced": ([(A, {**rgb, "subfiletype": 1}), (small, {**rgb, "subfiletype": 1})], A),
        "page of a document": ([(A, {**rgb, "subfiletype": 2})], A),
    }
    for name, (images, written) in lists.items():
        stream = io.BytesIO()
        with tifffile.TiffWriter(stream, byteorder="<") as tif:
            for image, options in images:
                tif.write(np.ascontiguousarray(image), **options)
        yield Case(f"pages: {name}", stream.getvalue(), written, edited=False)


def cases(seed: int, drawn: int) -> Iterator[Case]:
    """The whole grid: every single edit, `drawn` pairs of edits, JPEG's markers, pages."""
    yield from singles()
    yield from jpegs()
    yield from pages()
    yield from pairs(seed, drawn)


# --- the readers ------------------------------------------------------------------------------------------------

Reader = Callable[[Path], Pixels]


def as_rgb(image: Pixels) -> Pixels:
    """``(H, W)`` or ``(H, W, C)`` of a reader's own type to ``(H, W, 3)`` uint8; further channels are dropped."""
    if image.dtype == np.uint16:
        image = np.rint(image / 257)
    elif image.dtype.kind == "f":
        image = np.rint(np.clip(image, 0, 1) * 255)
    elif image.dtype == bool:
        image = image * np.uint8(255)
    elif image.dtype != np.uint8:
        raise ValueError(f"samples of type {image.dtype}")
    image = image[..., None] if image.ndim == 2 else image
    image = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, 2)
    return image.astype(np.uint8)


def opencv(path: Path) -> Pixels:
    with tempfile.TemporaryFile() as log:  # OpenCV says on stderr only that what it gives is damaged
        saved, level = os.dup(2), cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_WARNING)
        os.dup2(log.fileno(), 2)
        try:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            cv2.utils.logging.setLogLevel(level)
        log.seek(0)
        said = log.read()
    if image is None or b"TIFF_Error" in said or b"JPEGLib" in said:
        raise ValueError("OpenCV reads nothing, or says that the file is damaged")
    return as_rgb(image[..., ::-1])


def pillow(path: Path) -> Pixels:
    import PIL.Image

    with PIL.Image.open(path) as image:
        if image.mode in ("I;16", "I;16B", "F", "1"):
            return as_rgb(np.asarray(image))
        if image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX", "P", "CMYK", "YCbCr"):
            raise ValueError(f"mode {image.mode}")
        return np.asarray(image.convert("RGBA" if image.mode == "RGBA" else "RGB"))[..., :3]


def vips(path: Path) -> Pixels:
    import pyvips

    image = pyvips.Image.tiffload(str(path), fail_on="error", revalidate=True)
    data = image.numpy()
    if image.interpretation == "cmyk":
        light = 255 - data.astype(float)
        return as_rgb(np.rint(light[..., :3] * light[..., 3:4] / 255).astype(np.uint8))
    if image.interpretation == "lab":
        raise ValueError("lab")
    return as_rgb(data)


def openslide(path: Path) -> Pixels:
    import openslide as library

    with library.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def answer(read: Reader, path: Path) -> Pixels | None:
    """What a reader gives, or None."""
    with suppress(Exception):
        return read(path)
    return None


def same(one: Pixels, other: Pixels, tolerance: int = 12) -> bool:
    """Whether two readers give the same picture, but for rounding and the upsampling of JPEG's colours."""
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= tolerance


def shows(image: Pixels, written: Pixels) -> bool:
    """Whether an image is the picture that was written, or the part of it that the tags leave, within JPEG's loss."""
    height, width = np.minimum(image.shape[:2], written.shape[:2])
    return float(np.abs(image[:height, :width].astype(int) - written[:height, :width]).mean()) <= 4
