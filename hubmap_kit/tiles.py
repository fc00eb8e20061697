"""Tile grid, blending window and stitching: prediction of an image of any size in fixed batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
    window = blending_window(tile_size)
    weights = window[:, None] * window[None, :]
    total = np.zeros(padded.shape[:2], np.float32)
    batch = np.empty((batch_size, tile_size, tile_size, 3), np.uint8)
    for first in range(0, len(corners), batch_size):
        chunk = corners[first : first + batch_size]
        for slot, (y, x) in enumerate(chunk):
            batch[slot] = padded[y : y + tile_size, x : x + tile_size]
        batch[len(chunk) :] = batch[0]
        tiles = np.asarray(predict(batch))
        if tiles.shape != batch.shape[:3]:
            raise ValueError(
                f"the predictor gave {tiles.shape} for a batch of {batch.shape}; it must give (B, tile, tile)"
            )
        for tile, (y, x) in zip(tiles, chunk, strict=False):
            total[y : y + tile_size, x : x + tile_size] += tile * weights
    # The grid is a product of two axes, and so is the sum of its windows.
    cover_y, cover_x = (_cover(side, tile_size, overlap, window) for side in padded.shape[:2])
    total /= cover_y[:, None]
    total /= cover_x[None, :]
    result = total[:height, :width]
    # Rounding may leave 1 + 1e-7; a NaN or inf of the predictor has spread nowhere but is an error.
    if not np.isfinite(result.sum(dtype=np.float64)):
        raise ValueError("the predictor gave a value that is not finite; the network's weights may be damaged")
    return np.clip(result, 0, 1, out=result)


def _cover(length: int, tile: int, overlap: float, window: np.ndarray) -> np.ndarray:
    """Sum of the windows of all tiles along one axis: ``(length,)`` float32, above 0."""
    cover = np.zeros(length, np.float32)
    for start in tile_starts(length, tile, overlap):
        cover[start : start + tile] += window
    return cover
