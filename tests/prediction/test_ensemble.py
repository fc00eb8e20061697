"""Tests of the networks of an ensemble."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import a_member, pixelwise

from hubmap_kit.images.stain import Look
from hubmap_kit.prediction.ensemble import AUGMENTATIONS, predict_augmented, tilings_of

PALE = Look("reinhard", (0.3, 0.02, 0.01, 0.05, 0.02, 0.02))


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("flips", 4), ("d4", 8)])
def test_augmentation_is_undone(kind, count, rng):
    """Each copy is different, and its map is turned back: the answer of a pixelwise predictor does not change."""
    seen = set()

    def spy(batch):
        seen.add(batch.tobytes())
        return pixelwise(batch)

    batch = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = predict_augmented(a_member(predict=spy, tta=kind), batch)
    np.testing.assert_allclose(found, pixelwise(batch), atol=1e-6)
    assert len(seen) == len(AUGMENTATIONS[kind]) == count


def test_members_of_different_looks_share_no_tiles():
    """Members share tiles if scale, tile size, overlap and look are the same; a look counts for its own organ only."""
    networks = [a_member(), a_member(looks={"lung": PALE}), a_member(looks={"lung": replace(PALE)}), a_member(0.4)]
    assert [len(sharing) for sharing in tilings_of(networks, "lung").values()] == [1, 2, 1]
    assert [len(sharing) for sharing in tilings_of(networks, "kidney").values()] == [3, 1]
