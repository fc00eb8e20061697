"""From an image's file to its tiles, for one or several tilings at once."""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing

import numpy as np
import numpy.typing as npt

from ..images import scaled_rows
from ..images.scaled_rows import ScaledRows, open_scaled
from ..images.scaling import resize
from ..images.stain import Look, measure_bands, transfer
from ..images.tiff_rows import RowReader
from ..images.tissue import is_background
from ..tables import Image
from ..tiles import pad_to_tile, tile_starts
from .ensemble import Tiling

_Tile = npt.NDArray[np.uint8]


def fits_its_row(image: Image) -> bool:
    """Whether an image's file can be opened and has the size that its row says; nothing is decoded."""
    try:
        RowReader(image.path, image.shape).close()
    except (OSError, ValueError):
        return False
    return True


def tiles_of(image: Image, tilings: Sequence[Tiling], skip_background: bool) -> Iterator[tuple[int, _Tile | None]]:
    """The tiles of an image; those of each tiling in the order in which a `hubmap_kit.tiles.Stitcher` takes them.

    All tilings go down the image side by side, so that none has to wait for the rows of another. An image that can be
    held whole is decoded once; a larger one is decoded once for each tiling, and once more to measure its look.

    Args:
        image: The image.
        tilings: At least one.
        skip_background: Whether to leave out tiles without tissue.

    Yields:
        The number of the tiling, and ``(tile, tile, 3)`` uint8 RGB; None for a tile without tissue.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It cannot be read, or its shape is not that of the table.
    """
    held = _hold(image, tilings)
    looks = _own_looks(image, tilings, held)
    with ExitStack() as stack:
        bands = [
            stack.enter_context(closing(_bands(image, number, tiling, held))) for number, tiling in enumerate(tilings)
        ]
        for _, number, band in heapq.merge(*bands, key=lambda item: item[0]):
            tiling, look = tilings[number], looks[number]
            for x in tile_starts(band.shape[1], tiling.tile_size, tiling.overlap):
                tile = band[:, x : x + tiling.tile_size]
                if skip_background and is_background(tile):
                    yield number, None
                elif look and tiling.look:
                    yield number, transfer(tile, look, tiling.look)
                else:
                    yield number, tile


def _hold(image: Image, tilings: Sequence[Tiling]) -> dict[float, ScaledRows]:
    """The image at each network's scale, by pixel size in µm; none if the image is too large to be held whole."""
    shapes = {tiling.network_um: tiling.scaled(image).shape for tiling in tilings}
    if max(map(math.prod, shapes.values())) > scaled_rows.HELD_WHOLE_PX:
        return {}
    with open_scaled(image.path, image.pixel_size_um, image.pixel_size_um, image.shape) as native:
        if native.streams:
            return {}
        whole = native.read(0, native.shape[0])
    return {um: ScaledRows(resize(whole, shape), image.shape, shape) for um, shape in shapes.items()}


def _open(image: Image, tiling: Tiling, held: dict[float, ScaledRows]) -> ScaledRows:
    return held.get(tiling.network_um) or tiling.scaled(image).open()


def _own_looks(image: Image, tilings: Sequence[Tiling], held: dict[float, ScaledRows]) -> list[Look | None]:
    """The image's own look for each tiling with a look, measured as in training; None for a tiling without one."""
    measured: dict[tuple[float, int, str], Look] = {}
    looks: list[Look | None] = []
    for tiling in tilings:
        if not tiling.look:
            looks.append(None)
            continue
        key = (tiling.network_um, tiling.tile_size, tiling.look.method)
        if key not in measured:
            with _open(image, tiling, held) as rows:
                height, step = rows.shape[0], tiling.tile_size
                bands = (rows.read(top, min(top + step, height)) for top in range(0, height, step))
                method = tiling.look.method
                measured[key] = measure_bands(bands, rows.shape, method, least_side=tiling.tile_size)
        looks.append(measured[key])
    return looks


def _bands(
    image: Image, number: int, tiling: Tiling, held: dict[float, ScaledRows]
) -> Generator[tuple[float, int, _Tile], None, None]:
    """Rows of tiles from the top: where each begins, as a fraction of the height; `number`; ``(tile, w, 3)`` uint8."""
    size = tiling.tile_size
    with _open(image, tiling, held) as rows:
        height = rows.shape[0]
        for y in tile_starts(max(height, size), size, tiling.overlap):
            band = rows.read(int(y), min(int(y) + size, height))
            yield y / height, number, pad_to_tile(band, size)
