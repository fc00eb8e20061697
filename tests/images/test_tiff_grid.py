"""The kit's reader against OpenCV, Pillow, libvips and OpenSlide, over a generated grid of TIFFs.

A file of the grid has to give the picture that was written, or one error. Where the kit gives another picture, or
refuses what the readers agree on, `PICTURES` or `REFUSALS` says why.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiff_grid as grid

from hubmap_kit.images import read_image, tiff_rows
from hubmap_kit.images.tiff_rows import RowReader

SEED = 18
DRAWN = 1500  # pairs of edits
QUICK = 12  # one of so many cases is tried in the quick test

READERS: dict[str, grid.Reader] = {"OpenCV": grid.opencv, "Pillow": grid.pillow}
FURTHER: dict[str, grid.Reader] = {"pyvips": grid.vips, "openslide": grid.openslide}  # by the module they need

# Part of the error: why the kit refuses what other readers read and agree about.
REFUSALS = {
    r"says? that .* are no colours": "ExtraSamples leaves too few colours; some readers drop channels for it",
    r"bytes of (pixels|strip)": "more or fewer bytes than the tags describe: readers guess, or show noise",
    r"lists \d+ strips|has no data for|has no StripByte|ends at byte": "a strip or tile is missing, or too "
    "many: readers guess",
    r"px of JPEG data": "JPEG data of another size than its strip or tile: readers fill it up, or cut it",
    r"end of JPEG data": "JPEG data that is cut: readers fill it up",
    r"as JPEG data|JPEG data of": "data and tags state other colours; libtiff believes the tags, libjpeg the data",
    r"LZWDecode|ZIPDecode|DeflateError|ImcdError|PackBits|not yet in table|cannot be reshaped": "the data "
    "does not decode to what the tags describe: readers stop at what they need, and some fill up",
    r"MINISWHITE": "three samples that would be inverted: each reader does something else",
    r"CIELAB|PALETTE|YCbCr colours|of kind": "colours that the kit does not convert",
    r"pages": "more than one page may be the image: readers take the first",
    r"floats from|sample formats|samples of type": "samples that have no range in 8 bits: readers clip or wrap them",
    r"BitsPerSample|ColorMap": "BitsPerSample contradicts the number of samples or colours",
    r"Predictor|predictor": "a Predictor that samples of this type cannot have",
    r"FillOrder|YCbCrSubSampling|only one of Tile|PlanarConfiguration|ImageWidth|PhotometricInter": "a tag that "
    "libtiff refuses, or that leaves the layout open; Pillow's own reader ignores it",
}
# Part of the case's name: why the kit gives a picture that is not the one that was written, and that no other gives.
PICTURES = {
    r"compression 3300[35]|compression 34712|aperio-ycbcr.*photometric": "JPEG 2000 does not say which colours it "
    "holds: the compression does",
    r"photometric 1": "MINISBLACK with three or more samples is RGB: tifffile writes (H, W, 3) arrays so",
    r"grey16.*photometric 0": "MINISWHITE is inverted, which OpenCV and Pillow leave out for 16 bits",
    r"pages: three grey": "three grey pages are the channels of one image",
    r"offsets": "without compression nothing tells that an offset is wrong",
    r"fillorder 2": "the bits of each byte are reversed, as libtiff does",
    r"orientation": "masks refer to the pixels as stored, so Orientation is ignored; libtiff turns them",
    r"colormap of bytes": "a ColorMap of values below 256 is one of bytes",
}


@pytest.fixture(autouse=True)
def _small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of one strip, or of one row of tiles; else these small images would be read in one band."""
    monkeypatch.setattr(tiff_rows, "VALUES_AT_ONCE", 1)


def reading(path: Path, whole: bool) -> grid.Pixels | str:
    """The image, whole or by rows, or the error."""
    try:
        if whole:
            return read_image(path)
        with RowReader(path) as reader:
            height = reader.shape[0]
            return np.concatenate([reader.read(top, min(top + 7, height)) for top in range(0, height, 7)])
    except (ValueError, OSError) as error:
        return str(error)


def unexplained(case: grid.Case, path: Path, readers: dict[str, grid.Reader]) -> Iterator[str]:
    """What is wrong with the kit's answer to a file."""
    path.write_bytes(case.data)
    ours, by_rows = reading(path, True), reading(path, False)
    if isinstance(ours, str) != isinstance(by_rows, str) or not (
        isinstance(ours, str) or np.array_equal(ours, by_rows)
    ):
        yield "rows differ from the whole image"
    if isinstance(ours, str) and str(path) not in ours:
        yield f"does not name the file: {ours}"
    if isinstance(ours, str) and "install" in ours:
        yield f"names what is installed: {ours}"
    if not isinstance(ours, str) and case.written is not None and grid.shows(ours, case.written):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [image for read in readers.values() if (image := grid.answer(read, path)) is not None]
    if not isinstance(ours, str):
        if not case.edited and case.written is not None:
            yield "is not the picture that was written"
        elif not any(grid.same(ours, other) for other in answers) and not matches(PICTURES, case.name):
            yield f"is a picture that no other reader gives; {len(answers)} give one"
        return
    agree = len(answers) >= 2 and all(grid.same(answers[0], other) for other in answers)
    if (agree or not case.edited) and not matches(REFUSALS, ours):
        yield f"is refused, and {len(answers)} readers agree: {ours}"


def matches(table: dict[str, str], text: str) -> bool:
    return any(re.search(pattern, text) for pattern in table)


def faults(tmp_path: Path, readers: dict[str, grid.Reader], every: int) -> list[str]:
    """Each unexplained answer, with the name of its file."""
    start = np.random.default_rng(SEED).integers(every)
    path = tmp_path / "image.tiff"
    return [
        f"{case.name}: {fault}"
        for number, case in enumerate(grid.cases(SEED, DRAWN))
        if number % every == start
        for fault in unexplained(case, path, readers)
    ]


def test_a_share_of_the_grid_gives_the_picture_or_an_error(tmp_path: Path) -> None:
    """Whatever tag is wrong, no file gives a picture that is neither the one written nor another reader's."""
    assert faults(tmp_path, READERS, QUICK) == []


@pytest.mark.slow
def test_the_whole_grid_gives_the_picture_or_an_error(tmp_path: Path) -> None:
    """The same, for every tag of every codec and layout, and for drawn pairs of tags."""
    assert faults(tmp_path, READERS, 1) == []


@pytest.mark.slow
@pytest.mark.parametrize("module", FURTHER)
def test_further_readers_agree_where_they_are_installed(tmp_path: Path, module: str) -> None:
    """The same holds with libvips and OpenSlide, which have decoders of their own for some files."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install pyvips[binary] openslide-python openslide-bin")
    assert faults(tmp_path, READERS | {module: FURTHER[module]}, 5) == []


def test_an_answer_that_is_another_picture_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that shows every image upside down does not pass."""
    real = read_image
    monkeypatch.setattr("test_tiff_grid.read_image", lambda path: real(path)[::-1])
    assert faults(tmp_path, READERS, 400)
