"""Prediction of an image of any size in tiles: their grid, the blending window, and the stitching."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["predict_tiled"]  # the public interface; the kit itself uses more

_ROWS_AT_ONCE = 64  # rows blended at once: they stay in the processor's cache

_Scalar = TypeVar("_Scalar", bound=np.generic)
# (B, tile, tile, 3) uint8 RGB to (B, tile, tile) float32 in [0, 1]
Predictor = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


def tile_starts(length: int, tile: int, overlap: float) -> npt.NDArray[np.int64]:
    """First pixel of each tile along one axis.

    The number of tiles is the least that gives at least `overlap`. They are spread evenly; the last one ends with the
    axis.

    Args:
        length: Length of the axis in px.
        tile: Side of a tile in px.
        overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).

    Returns:
        int64, sorted, from 0 to ``length - tile``; ``[0]`` if the tile covers the axis.

    Raises:
        ValueError: A length below 1 px, or an overlap outside [0, 1).

    >>> tile_starts(750, 256, 0.0).tolist()
    [0, 247, 494]
    """
    if length < 1 or tile < 1:
        raise ValueError(f"length {length} and tile {tile} must be at least 1 px")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}; it is a fraction of the tile, at least 0 and below 1")
    if length <= tile:
        return np.zeros(1, np.int64)
    stride = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // stride) + 1
    return np.round(np.linspace(0, length - tile, count)).astype(np.int64)


def grid(shape: tuple[int, int], tile: int, overlap: float) -> npt.NDArray[np.int64]:
    """Top left corner of each tile of an image, row by row.

    Args:
        shape: ``(height, width)`` in px.
        tile: Side of a tile in px.
        overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).

    Returns:
        ``(n, 2)`` int64, ``(y, x)``.

    >>> grid((50, 100), 64, 0.0).tolist()
    [[0, 0], [0, 36]]
    """
    y, x = (tile_starts(side, tile, overlap) for side in shape)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def blending_window(tile: int) -> npt.NDArray[np.float32]:
    """Weights of a tile along one axis: a Gaussian of sigma ``tile / 8``, at least 1e-3.

    The shape is nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). The floor avoids a division by almost
    zero for a pixel that only the corner of a tile covers.

    Args:
        tile: Side of a tile in px.

    Returns:
        ``(tile,)`` float32 in (0, 1]; the weights of a tile are the outer product of this with itself.

    >>> [f"{weight:.2f}" for weight in blending_window(4)]
    ['0.01', '0.61', '0.61', '0.01']
    """
    position = np.arange(tile, dtype=np.float32) - (tile - 1) / 2
    gaussian: npt.NDArray[np.float32] = np.exp(-0.5 * (position / (tile / 8)) ** 2)
    return np.maximum(gaussian, 1e-3).astype(np.float32)


def pad_to_tile(image: npt.NDArray[_Scalar], tile: int) -> npt.NDArray[_Scalar]:
    """Extend an image to at least one tile, by mirroring it at its lower and right edge.

    Args:
        image: ``(H, W, ...)``.
        tile: Least side in px.

    Returns:
        ``(max(H, tile), max(W, tile), ...)``; the image itself if it is large enough.

    >>> pad_to_tile(np.array([[1, 2]]), 3).tolist()
    [[1, 2, 2], [1, 2, 2], [1, 2, 2]]
    """
    height, width = image.shape[:2]
    if height >= tile and width >= tile:
        return image
    pad = ((0, max(0, tile - height)), (0, max(0, tile - width)), *((0, 0),) * (image.ndim - 2))
    return np.pad(image, pad, mode="symmetric")


def predict_tiled(
    image: npt.NDArray[np.uint8], predict: Predictor, *, tile_size: int, overlap: float, batch_size: int
) -> npt.NDArray[np.float32]:
    """Predict an image tile by tile and blend the tiles.

    An image smaller than a tile is mirrored up to one. Every batch has `batch_size` tiles: the last one is filled up
    with copies of its first tile, whose predictions are dropped.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        predict: ``(B, tile, tile, 3)`` uint8 to ``(B, tile, tile)`` float32 in [0, 1]; B is always `batch_size`.
        tile_size: Side of a tile in px.
        overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).
        batch_size: Number of tiles in a batch, at least 1.

    Returns:
        ``(H, W)`` float32 probability map in [0, 1].

    Raises:
        ValueError: An image that is not ``(H, W, 3)`` uint8, a setting out of bounds, or a predictor whose answer has
            another shape or is not finite.

    >>> image = np.full((50, 70, 3), 51, np.uint8)
    >>> red = lambda batch: batch[..., 0].astype(np.float32) / 255
    >>> probability = predict_tiled(image, red, tile_size=32, overlap=0.25, batch_size=4)
    >>> probability.shape, round(float(probability.mean()), 6)
    ((50, 70), 0.2)
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    height, width = image.shape[:2]
    padded = pad_to_tile(image, tile_size)
    corners = grid((padded.shape[0], padded.shape[1]), tile_size, overlap)
    result = np.empty((height, width), np.float32)
    stitcher = Stitcher((height, width), tile_size, overlap, result)
    batch = np.empty((batch_size, tile_size, tile_size, 3), np.uint8)
    for first in range(0, len(corners), batch_size):
        chunk = corners[first : first + batch_size]
        for slot, (y, x) in enumerate(chunk):
            batch[slot] = padded[y : y + tile_size, x : x + tile_size]
        batch[len(chunk) :] = batch[0]
        tiles = check_prediction(predict(batch), batch)
        for tile in tiles[: len(chunk)]:
            stitcher.add(tile)
    return result


def check_prediction(tiles: npt.NDArray[np.float32], batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Check the shape of a predictor's answer, and return the answer.

    Args:
        tiles: The answer, ``(B, tile, tile)``.
        batch: The batch, ``(B, tile, tile, 3)``.

    Raises:
        ValueError: The answer has another shape.
    """
    tiles = np.asarray(tiles)
    if tiles.shape != batch.shape[:3]:
        raise ValueError(f"the predictor gave {tiles.shape} for a batch of {batch.shape}; it must give (B, tile, tile)")
    return tiles


class Stitcher:
    """Blends the tiles of an image, and returns rows as soon as no later tile can change them.

    Memory is taken for one row of tiles, whatever the image's height.

    Example:
        >>> stitcher = Stitcher((6, 8), tile=8, overlap=0.0)
        >>> stitcher.add(np.full((8, 8), 0.5, np.float32)).shape
        (6, 8)
        >>> stitcher.finished
        True
    """

    def __init__(
        self, shape: tuple[int, int], tile: int, overlap: float, out: npt.NDArray[np.float32] | None = None
    ) -> None:
        """Begin an image.

        Args:
            shape: ``(height, width)`` in px.
            tile: Side of a tile in px. A smaller image is predicted as mirrored up to it, see `pad_to_tile`.
            overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).
            out: Array of this shape, float32, that the rows are written to. None for a new array at each return.
        """
        self._shape = shape
        padded = max(shape[0], tile), max(shape[1], tile)
        window = blending_window(tile)
        self._starts_y, self._starts_x = (tile_starts(side, tile, overlap) for side in padded)
        # The grid is a product of two axes, so the sum of all windows is one too.
        self._cover_y, self._cover_x = (_cover(side, tile, overlap, window) for side in padded)
        self._window = window[:, None] * window[None, :]
        self._weighted = np.empty((_ROWS_AT_ONCE, tile), np.float32)
        self._total = np.zeros((tile, padded[1]), np.float32)
        self._row = self._column = 0
        self._out = out

    @property
    def finished(self) -> bool:
        """Whether all tiles were added."""
        return self._row == len(self._starts_y)

    def add(self, tile: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        """Add the next tile; tiles come in the order of `grid`.

        Args:
            tile: ``(tile, tile)`` float32 in [0, 1]; None for zeros.

        Returns:
            The rows that are now complete, ``(n, width)`` float32 in [0, 1]; n may be 0.

        Raises:
            ValueError: A value that is not finite.
        """
        size = len(self._total)
        if tile is not None:
            start = self._starts_x[self._column]
            for top in range(0, size, _ROWS_AT_ONCE):
                piece = tile[top : top + _ROWS_AT_ONCE]
                weighted = self._weighted[: len(piece)]
                np.multiply(piece, self._window[top : top + _ROWS_AT_ONCE], out=weighted)
                self._total[top : top + _ROWS_AT_ONCE, start : start + size] += weighted
        self._column += 1
        if self._column < len(self._starts_x):
            return self._total[:0, : self._shape[1]]
        self._column, self._row = 0, self._row + 1
        top = int(self._starts_y[self._row - 1])
        done = size if self.finished else int(self._starts_y[self._row]) - top
        rows = self._finish(top, min(done, self._shape[0] - top))
        self._total[: size - done] = self._total[done:]
        self._total[size - done :] = 0
        return rows

    def _finish(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """The blended rows ``[first, first + count)`` of the image, the first ones of the total: ``(count, width)``."""
        width = self._shape[1]
        rows = np.empty((count, width), np.float32) if self._out is None else self._out[first : first + count]
        for top in range(0, count, _ROWS_AT_ONCE):
            piece = rows[top : top + _ROWS_AT_ONCE]
            cover_y = self._cover_y[first + top : first + top + len(piece), None]
            np.divide(self._total[top : top + len(piece), :width], cover_y, out=piece)
            piece /= self._cover_x[:width]
            low, high = piece.min(), piece.max()
            # NaN or infinity in one pixel would spoil only this pixel, but it is an error.
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError("the predictor gave a value that is not finite; the network's weights may be damaged")
            if low < 0 or high > 1:  # rounding may leave 1 + 1e-7
                np.clip(piece, 0, 1, out=piece)
        return rows


def _cover(length: int, tile: int, overlap: float, window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sum of the windows of all tiles along one axis: ``(length,)`` float32, above 0."""
    cover = np.zeros(length, np.float32)
    for start in tile_starts(length, tile, overlap):
        cover[start : start + tile] += window
    return cover
