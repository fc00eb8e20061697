"""Tile grid, blending window and stitching: prediction of an image of any size in fixed batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["predict_tiled"]  # the public interface; the kit itself uses more

PIECE = 64  # rows blended at once: what is done to them stays in the processor's cache

Predictor = Callable[[np.ndarray], np.ndarray]


def tile_starts(length: int, tile: int, overlap: float) -> np.ndarray:
    """First pixels of the tiles along one axis.

    As few tiles as give at least `overlap`, spread evenly, the last one ending with the axis.

    Args:
        length: Length of the axis in px.
        tile: Side of a tile in px.
        overlap: Least overlap of neighbours, a fraction of the tile in [0, 1).

    Returns:
        int64, sorted, from 0 to ``length - tile``; ``[0]`` where the tile covers the axis.

    Raises:
        ValueError: A length below 1 px, or an overlap outside [0, 1).
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


def grid(shape: tuple[int, int], tile: int, overlap: float) -> np.ndarray:
    """Top left corners of the tiles of an image, row by row.

    Args:
        shape: ``(height, width)`` in px.
        tile: Side of a tile in px.
        overlap: Least overlap of neighbours, a fraction in [0, 1).

    Returns:
        ``(n, 2)`` int64, ``(y, x)``.
    """
    y, x = (tile_starts(side, tile, overlap) for side in shape)
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def blending_window(tile: int) -> np.ndarray:
    """Weights of a tile along one axis: a Gaussian of sigma ``tile / 8``, never below 1e-3.

    The shape is nnU-Net's (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z); the floor keeps
    a pixel that only a tile's corner covers well away from a division by zero.

    Args:
        tile: Side of a tile in px.

    Returns:
        ``(tile,)`` float32 in (0, 1]; the window of a tile is its outer product with itself.
    """
    position = np.arange(tile, dtype=np.float32) - (tile - 1) / 2
    return np.maximum(np.exp(-0.5 * (position / (tile / 8)) ** 2), 1e-3).astype(np.float32)


def pad_to_tile(image: np.ndarray, tile: int) -> np.ndarray:
    """Extend an image to at least one tile by mirroring it at its lower and right edge.

    Args:
        image: ``(H, W, ...)``.
        tile: Least side in px.

    Returns:
        ``(max(H, tile), max(W, tile), ...)``; the image itself where it is large enough.
    """
    height, width = image.shape[:2]
    if height >= tile and width >= tile:
        return image
    pad = ((0, max(0, tile - height)), (0, max(0, tile - width)), *((0, 0),) * (image.ndim - 2))
    return np.pad(image, pad, mode="symmetric")


def predict_tiled(
    image: np.ndarray, predict: Predictor, *, tile_size: int, overlap: float, batch_size: int
) -> np.ndarray:
    """Predict an image tile by tile and blend the tiles.

    An image smaller than a tile is mirrored up to one. Every batch has `batch_size` tiles; the
    last one is filled up with its first tile, whose surplus predictions are dropped.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        predict: ``(B, tile, tile, 3)`` uint8, B fixed, to ``(B, tile, tile)`` float32 in [0, 1].
        tile_size: Side of a tile in px.
        overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).
        batch_size: B, at least 1.

    Returns:
        ``(H, W)`` float32 probability map in [0, 1].

    Raises:
        ValueError: An image that is not ``(H, W, 3)`` uint8, a setting out of bounds, or a
            predictor whose answer has another shape or is not finite.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    height, width = image.shape[:2]
    padded = pad_to_tile(image, tile_size)
    corners = grid((padded.shape[0], padded.shape[1]), tile_size, overlap)
    stitcher = Stitcher((height, width), tile_size, overlap)
    result, done = np.empty((height, width), np.float32), 0
    batch = np.empty((batch_size, tile_size, tile_size, 3), np.uint8)
    for first in range(0, len(corners), batch_size):
        chunk = corners[first : first + batch_size]
        for slot, (y, x) in enumerate(chunk):
            batch[slot] = padded[y : y + tile_size, x : x + tile_size]
        batch[len(chunk) :] = batch[0]
        tiles = check_prediction(predict(batch), batch)
        for tile in tiles[: len(chunk)]:
            rows = stitcher.add(tile)
            result[done : done + len(rows)] = rows
            done += len(rows)
    return result


def check_prediction(tiles: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """What a predictor gave, once it has the shape that it promised.

    Args:
        tiles: ``(B, tile, tile)``.
        batch: ``(B, tile, tile, 3)``.

    Raises:
        ValueError: It has another shape.
    """
    tiles = np.asarray(tiles)
    if tiles.shape != batch.shape[:3]:
        raise ValueError(f"the predictor gave {tiles.shape} for a batch of {batch.shape}; it must give (B, tile, tile)")
    return tiles


class Stitcher:
    """Blends the tiles of an image, and hands out rows as soon as no later tile touches them.

    It holds one row of tiles, whatever the image's height.
    """

    def __init__(self, shape: tuple[int, int], tile: int, overlap: float) -> None:
        """Begin an image.

        Args:
            shape: ``(height, width)`` in px.
            tile: Side of a tile in px; a smaller image is taken as mirrored up to it, see `pad_to_tile`.
            overlap: Least overlap of neighbouring tiles, a fraction in [0, 1).
        """
        self._shape = shape
        padded = max(shape[0], tile), max(shape[1], tile)
        window = blending_window(tile)
        self._starts_y, self._starts_x = (tile_starts(side, tile, overlap) for side in padded)
        # The grid is a product of two axes, and so is the sum of its windows.
        self._cover_y, self._cover_x = (_cover(side, tile, overlap, window) for side in padded)
        self._window = window[:, None] * window[None, :]
        self._weighted = np.empty((PIECE, tile), np.float32)
        self._total = np.zeros((tile, padded[1]), np.float32)
        self._row = self._column = 0

    @property
    def finished(self) -> bool:
        """Whether all tiles were added."""
        return self._row == len(self._starts_y)

    def add(self, tile: np.ndarray | None) -> np.ndarray:
        """Add the next tile, row by row from the top left.

        Args:
            tile: ``(tile, tile)`` float32 in [0, 1]; None for zeros.

        Returns:
            The rows that are complete now, ``(n, width)`` float32 in [0, 1]; n may be 0.

        Raises:
            ValueError: A value that is not finite.
        """
        size = len(self._total)
        if tile is not None:
            start = self._starts_x[self._column]
            for top in range(0, size, PIECE):
                piece = tile[top : top + PIECE]
                weighted = self._weighted[: len(piece)]
                np.multiply(piece, self._window[top : top + PIECE], out=weighted)
                self._total[top : top + PIECE, start : start + size] += weighted
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

    def _finish(self, first: int, count: int) -> np.ndarray:
        """The first rows of the total, which are the image's from `first`: ``(count, width)``."""
        width = self._shape[1]
        rows = np.empty((count, width), np.float32)
        for top in range(0, count, PIECE):
            piece = rows[top : top + PIECE]
            cover_y = self._cover_y[first + top : first + top + len(piece), None]
            np.divide(self._total[top : top + len(piece), :width], cover_y, out=piece)
            piece /= self._cover_x[:width]
            low, high = piece.min(), piece.max()
            # A NaN or inf of the predictor has spread no further than its pixel, but is an error.
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError("the predictor gave a value that is not finite; the network's weights may be damaged")
            if low < 0 or high > 1:  # rounding may leave 1 + 1e-7
                np.clip(piece, 0, 1, out=piece)
        return rows


def _cover(length: int, tile: int, overlap: float, window: np.ndarray) -> np.ndarray:
    """Sum of the windows of all tiles along one axis: ``(length,)`` float32, above 0."""
    cover = np.zeros(length, np.float32)
    for start in tile_starts(length, tile, overlap):
        cover[start : start + tile] += window
    return cover
