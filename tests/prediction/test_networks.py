"""Tests of networks that run out of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from builders import smooth

from hubmap_kit.models.hardware import memory_errors
from hubmap_kit.prediction.networks import Sparing, make_predictor


class Memory:
    """A predictor with memory for so many pixels; it remembers what it was asked for."""

    def __init__(self, pixels: int) -> None:
        self.pixels, self.asked = pixels, list[tuple[int, ...]]()

    def __call__(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.asked.append(batch.shape[:3])
        if np.prod(batch.shape[:3]) > self.pixels:
            raise MemoryError
        return smooth(batch)


@pytest.fixture
def tiles(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A batch of five tiles."""
    return rng.integers(0, 256, (5, 96, 96, 3), np.uint8)


def test_a_batch_that_is_too_large_is_halved(tiles: npt.NDArray[np.uint8], capsys: Any) -> None:
    """Smaller batches give the same maps; what was too much once is not tried again, and is said once."""
    memory = Memory(2 * 96 * 96)
    predict = Sparing(memory)
    np.testing.assert_array_equal(predict(tiles), smooth(tiles))
    assert [shape[0] for shape in memory.asked] == [5, 2, 2, 1]
    assert capsys.readouterr().out == "the memory is full: from here on 2 tiles at a time\n"
    memory.asked.clear()
    np.testing.assert_array_equal(predict(tiles), smooth(tiles))
    assert [shape[0] for shape in memory.asked] == [2, 2, 1]
    assert not capsys.readouterr().out


def test_a_tile_that_is_too_large_is_halved(tiles: npt.NDArray[np.uint8], capsys: Any) -> None:
    """If a single tile does not fit, smaller ones are blended; only what the network sees around a pixel is less."""
    memory = Memory(50 * 50)
    maps = Sparing(memory)(tiles)
    assert maps.shape == (5, 96, 96)
    assert maps.dtype == np.float32
    assert np.abs(maps - smooth(tiles)).mean() < 0.01
    assert memory.asked[:4] == [(5, 96, 96), (2, 96, 96), (1, 96, 96), (1, 32, 32)]
    assert capsys.readouterr().out.splitlines()[-1] == "the memory is full: from here on tiles of 32 px"


def test_memory_that_holds_nothing(tiles: npt.NDArray[np.uint8]) -> None:
    """If not even the smallest tile fits, it is a MemoryError that says so."""
    with pytest.raises(MemoryError, match="even a tile of 32 x 32 px"):
        Sparing(Memory(100))(tiles)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), True),
        (tf.errors.InternalError(None, None, "CUBLAS_STATUS_ALLOC_FAILED"), True),
        (tf.errors.InternalError(None, None, "Failed to allocate 3 bytes"), True),
        (tf.errors.InternalError(None, None, "something else"), False),
    ],
)
def test_errors_of_full_memory(error: Exception, full: bool) -> None:
    """Every way in which TensorFlow says that the memory is full is a MemoryError; its other errors stay."""
    with pytest.raises(MemoryError if full else tf.errors.InternalError), memory_errors():
        raise error


def test_other_errors_of_a_network_are_not_hidden(tiles: npt.NDArray[np.uint8]) -> None:
    """A mistake in a network is not taken for full memory."""

    def broken(batch: Any, training: bool) -> Any:
        raise TypeError("broken")

    with pytest.raises(TypeError, match="broken"):
        make_predictor(broken)(tiles)
