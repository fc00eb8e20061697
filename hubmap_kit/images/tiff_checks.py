"""Checks of a TIFF's tags, and of its data against the tags, before anything is decoded.

Programs read a file that breaks these rules as different pictures, or as noise; `tests/images/tiff_grid` compares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from ..files import size_text
from .tiff_errors import COPY, RESAVE, refuse

MAX_VALUES = 3 * 2**30  # OpenCV's limit of 2**30 px; more is a damaged header, or a slide too large for memory
MAX_BYTES = 2 * MAX_VALUES  # of all values, decoded
JPEG_HEAD = 4096  # bytes at the start of JPEG data in which its size and colours are stated
SPARE = 1.3  # uncompressed data may hold this many times the bytes that the pixels need; wrong bit depths make more

CCITT = {COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4}
# As in libtiff: with other compressions a Predictor is not applied.
PREDICTED = {COMPRESSION.LZW, COMPRESSION.DEFLATE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.ZSTD, COMPRESSION.LZMA}
PREDICTORS = {
    1: "bufc",
    2: "uf",
    3: "f",
    34892: "u",
    34893: "u",
    34894: "f",
    34895: "f",
}  # kinds of samples that each works on
LIMITLESS = {COMPRESSION.LZW, COMPRESSION.PACKBITS}  # decoders that do not notice more data than the tags describe
COLOURS = {
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.SEPARATED: 4,
}  # samples per pixel of a colour; others have 1
JPEG_COLOURS = {
    0: PHOTOMETRIC.RGB,
    1: PHOTOMETRIC.YCBCR,
}  # by the transform in the Adobe marker; Adobe Technical Note 5116
WIDTH, LENGTH, BITS, FILL_ORDER, STRIP_COUNTS, TILE_WIDTH, TILE_LENGTH = 256, 257, 258, 266, 279, 322, 323
TILE_COUNTS, SUBSAMPLING = 325, 530


def name_of(value: Any) -> str:
    """The name of an enumerated tag's value; the number where it has none."""
    return str(getattr(value, "name", value))


def check_tags(page: Any, shape: tuple[int, int, int]) -> None:
    """Refuse a page whose tags say that it cannot become an RGB image, or contradict each other.

    Tags that have no meaning here are ignored, as other readers do: this function changes `page`.

    Args:
        page: The page, by tifffile.
        shape: ``(rows, columns, samples)``.
    """
    if min(shape) < 1 or math.prod(shape) > MAX_VALUES:
        values = " x ".join(map(str, shape))
        refuse(f"claims {values} values, not 1 to {MAX_VALUES} in all", f"{COPY}, or cut it into parts")
    if page.dtype is not None and (size := math.prod(shape) * page.dtype.itemsize) > MAX_BYTES:
        refuse(f"claims {size_text(size)} of pixels, more than {size_text(MAX_BYTES)}", RESAVE)
    if page.planarconfig not in (1, 2):
        refuse(f"has PlanarConfiguration {page.planarconfig}, not 1 or 2", COPY)
    if not (WIDTH in page.tags and LENGTH in page.tags):
        refuse("has no ImageWidth or no ImageLength", COPY)
    if (TILE_WIDTH in page.tags) != (TILE_LENGTH in page.tags):
        refuse("has only one of TileWidth and TileLength", COPY)
    if page.tags.valueof(FILL_ORDER, 1) not in (1, 2):
        refuse(f"has FillOrder {page.tags.valueof(FILL_ORDER)}, not 1 or 2", COPY)
    _check_samples(page)
    if page.compression not in PREDICTED:
        page.predictor = 1
    elif page.dtype.kind not in PREDICTORS.get(page.predictor, ""):
        refuse(f"has Predictor {page.predictor:d}, which samples of type {page.dtype} cannot have", RESAVE)
    if page.photometric != PHOTOMETRIC.YCBCR:
        page.subsampling = None
    else:
        stated = page.tags.valueof(SUBSAMPLING, (2, 2))
        if not (isinstance(stated, tuple) and len(stated) == 2 and {*stated} <= {1, 2, 4}):
            refuse(f"has YCbCrSubSampling {stated}, not two of 1, 2 and 4", RESAVE)


def _check_samples(page: Any) -> None:
    """Refuse samples whose number, width or type is not that of the colours, or of the compression."""
    kind = "" if page.dtype is None else page.dtype.kind
    if not (kind == "f" or (kind in ("b", "u") and page.dtype.itemsize <= 2)):
        refuse(f"holds samples of type {page.dtype}, not unsigned integers of 1 to 16 bits or floats", RESAVE)
    photometric, samples = page.photometric, page.samplesperpixel
    if "PhotometricInterpretation" not in page.tags:
        refuse("does not say what its samples mean (no PhotometricInterpretation)", RESAVE)
    if photometric == PHOTOMETRIC.MINISWHITE and samples >= 3:
        refuse(f"has {samples} samples per pixel, and its tags say MINISWHITE", RESAVE)
    if samples - len(page.extrasamples) < COLOURS.get(photometric, 0) <= samples:
        extra = f"{len(page.extrasamples)} of its {samples} samples per pixel"
        refuse(f"says that {extra} are no colours, which leaves too few for {name_of(photometric)}", RESAVE)
    bits, stated = page.bitspersample, _stated_bits(page)
    if BITS not in page.tags and (samples > 1 or photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)):
        refuse(f"has no BitsPerSample for its {samples} samples per pixel of {name_of(photometric)}", RESAVE)
    if 1 < len(stated) < samples or (len(stated) > samples and len({*stated}) > 1):
        refuse(f"has BitsPerSample {stated} for {samples} samples per pixel", RESAVE)
    whole = isinstance(bits, int) and bits % 8 == 0
    if page.compression not in (COMPRESSION.NONE, COMPRESSION.JPEG) and samples > 1 and not whole:
        refuse(f"has BitsPerSample {bits} with {samples} samples per pixel", RESAVE)
    if page.compression in CCITT and (bits, samples) != (1, 1):
        refuse(f"has BitsPerSample {bits}, but compression {name_of(page.compression)} needs 1", RESAVE)
    if (
        photometric == PHOTOMETRIC.PALETTE
        and page.colormap is not None
        and page.colormap.shape[1] != 2 ** sum({*stated})
    ):
        refuse(f"has a ColorMap of {page.colormap.shape[1]} colours, and BitsPerSample {bits}", RESAVE)


def _stated_bits(page: Any) -> tuple[int, ...]:
    """BitsPerSample as it is stored: one number, or one for each sample."""
    stored = page.tags.valueof(BITS, 1)
    return stored if isinstance(stored, tuple) else (stored,)


def check_decoded(page: Any) -> None:
    """Make a page's decoder refuse data of another type than its tags say; such data would be shown too dark."""
    decode = page.decode

    def checked(*args: Any, **options: Any) -> Any:
        part = decode(*args, **options)
        if part[0] is not None and part[0].dtype.itemsize != page.dtype.itemsize:
            refuse(f"holds samples of type {part[0].dtype}, and its tags say {page.dtype}", RESAVE)
        return part

    page.decode = checked


def check_segments(tif: tifffile.TiffFile, page: Any) -> None:
    """Refuse missing or cut strips and tiles: tifffile would fill them with zeros, libjpeg with grey."""
    if page is None:
        refuse("lacks a page", COPY)
    key, file = page.keyframe, tif.filehandle
    plain, jpeg = key.compression == COMPRESSION.NONE, key.compression == COMPRESSION.JPEG
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    wanted = math.prod(key.chunked)
    if not plain and not {STRIP_COUNTS, TILE_COUNTS} & {tag.code for tag in key.tags}:
        refuse("has no StripByteCounts or TileByteCounts", COPY)
    if len(segments) != wanted:  # with more, the tags give another width or length than the data has
        refuse(f"lists {len(segments)} strips or tiles, and its tags describe {wanted}", COPY)
    if plain:
        held, most = sum(count for _, count in segments), sum(_bytes(key, index) for index in range(wanted))
        if held > SPARE * most + 64:
            refuse(f"holds {held} bytes of pixels, and its tags describe at most {most}", RESAVE)
    elif key.bitspersample in range(8) and key.compression in LIMITLESS:
        file.seek(segments[0][0])
        held = len(tifffile.TIFF.DECOMPRESSORS[key.compression](file.read(segments[0][1])))
        if held > SPARE * (most := _bytes(key, 0)) + 64:
            refuse(f"holds {held} bytes of pixels in its first strip or tile, and its tags describe {most}", RESAVE)
    for index, (offset, count) in enumerate(segments):
        which = f"strip or tile {index} of {wanted}"
        if offset <= 0 or count <= 0:
            refuse(f"has no data for {which}", COPY)
        if offset + count > file.size:
            refuse(f"ends at byte {file.size}, within {which}", COPY)
        if plain and count < (needed := _bytes(key, index)):
            refuse(f"holds {count} bytes of {which}, and its tags describe {needed}", COPY)
        if jpeg:
            # The end marker cannot occur inside the data; some writers leave a few bytes after it.
            tail = min(count, 64)
            file.seek(offset + count - tail)
            if b"\xff\xd9" not in file.read(tail):
                refuse(f"has no end of JPEG data in {which}", COPY)
            file.seek(offset)
            head = file.read(min(count, JPEG_HEAD))
            if key.jpegheader is None:  # NDPI keeps a head that is common to all strips
                _check_jpeg(key, _jpeg(key.jpegtables or b"", _jpeg(head, Jpeg())), _visible(key, index), which)


def _segment(page: Any) -> tuple[int, int]:
    """Rows and columns of a strip or tile, in px."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _visible(page: Any, index: int) -> tuple[int, int]:
    """Rows and columns of the image that a strip or tile holds, in px, without its padding."""
    rows, columns = _segment(page)
    down, across = math.ceil(page.imagelength / rows), math.ceil(page.imagewidth / columns)
    row, column = divmod(index % (down * across), across)
    return min(rows, page.imagelength - row * rows), min(columns, page.imagewidth - column * columns)


def _bytes(page: Any, index: int) -> int:
    """Bytes that a strip or tile takes without compression; rows begin at whole bytes, tiles are padded."""
    rows, columns = _segment(page) if page.is_tiled else _visible(page, index)
    stated, samples = _stated_bits(page), page.samplesperpixel
    bits = sum(stated) if len(stated) == samples else stated[0] * samples
    if page.planarconfig == 2:
        bits = math.ceil(bits / samples)
    elif page.photometric == PHOTOMETRIC.YCBCR and samples == 3:
        wide, high = page.tags.valueof(SUBSAMPLING, (2, 2))  # px that share one Cb and one Cr
        blocks = math.ceil(columns / wide) * math.ceil(rows / high)
        return int(blocks * math.ceil((wide * high + 2) * stated[0] / 8))
    return int((page.tiledepth if page.is_tiled else 1) * rows * math.ceil(columns * bits / 8))


@dataclass
class Jpeg:
    """What JPEG data states about itself.

    Attributes:
        size: ``(rows, columns)``, in px.
        bits: Bits of a sample.
        components: Identifiers of the components.
        sampling: Sampling factors of each component.
        jfif: Whether there is a JFIF marker, which means YCbCr.
        adobe: The transform in the Adobe marker.
    """

    size: tuple[int, int] | None = None
    bits: int = 0
    components: bytes = b""
    sampling: bytes = b""
    jfif: bool = False
    adobe: int | None = None


def _jpeg(data: bytes, found: Jpeg) -> Jpeg:
    """Add what JPEG data states before its first scan (ITU-T T.81, annex B) to what was found elsewhere."""
    at = 2  # behind the mark of its start
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in (0xD9, 0xDA):
            break
        body = data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        if marker == 0xE0 and body[:4] == b"JFIF":
            found.jfif = True
        elif marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            found.adobe = body[11]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6 and found.size is None:
            found.bits = body[0]
            found.size = (int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"))
            found.components, found.sampling = body[6::3], body[7::3]
        at += 4 + len(body)
    return found


def _check_jpeg(page: Any, jpeg: Jpeg, visible: tuple[int, int], which: str) -> None:
    """Refuse JPEG data that contradicts the tags: readers pad it, cut it, or mistake RGB for YCbCr."""
    if jpeg.size is None:
        refuse(f"states no size in the JPEG data of {which}", COPY)
    rows, columns = jpeg.size
    most = _segment(page)
    if not (visible[0] <= rows <= most[0] and visible[1] <= columns <= most[1]):
        refuse(f"holds {rows} x {columns} px of JPEG data in {which}, and its tags say {most[0]} x {most[1]}", RESAVE)
    if jpeg.bits != page.bitspersample:
        refuse(f"holds JPEG data of {jpeg.bits} bits, and its tags say {page.bitspersample}", RESAVE)
    samples = 1 if page.planarconfig == 2 else page.samplesperpixel
    if len(jpeg.components) != samples:
        refuse(f"holds JPEG data of {len(jpeg.components)} samples per pixel, and its tags say {samples}", RESAVE)
    if samples != 3:
        return
    if page.photometric not in (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
        refuse(f"holds JPEG data of 3 samples per pixel, and its tags say {name_of(page.photometric)}", RESAVE)
    stated = {JPEG_COLOURS[jpeg.adobe]} if jpeg.adobe in JPEG_COLOURS else set()
    if jpeg.jfif or len({*jpeg.sampling}) > 1:
        stated.add(PHOTOMETRIC.YCBCR)
    elif not stated and jpeg.components == b"RGB":
        stated.add(PHOTOMETRIC.RGB)
    for colours in stated - {page.photometric}:
        refuse(f"holds {colours.name} as JPEG data, and its tags say {name_of(page.photometric)}", RESAVE)
