"""Tests of the progress of a prediction on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import an_image

from hubmap_kit.prediction.journal import Journal


@pytest.mark.parametrize(
    "line",
    ["{", "5", "[]", '{"id": 7}', '{"rle": "1 1"}', '{"id": 7, "made_from": [], "rle": 5}', '{"id": [], "rle": "1 1"}'],
)
def test_a_damaged_line_is_passed_over(tmp_path: Path, line: str) -> None:
    """A line that holds no mask is passed over; the masks before and after it count."""
    images = [an_image(image_id, tmp_path / f"{image_id}.tiff", "lung", 0.4, (3, 5)) for image_id in (7, 8)]
    path = tmp_path / "journal"
    journal = Journal(path, "key")
    journal.add(images[0], "1 2")
    path.write_text(path.read_text() + line + "\n")
    Journal(path, "key").add(images[1], "3 4")
    assert Journal(path, "key").masks(images) == {7: "1 2", 8: "3 4"}
    assert json.loads(path.read_text().splitlines()[0]) == {"key": "key"}
    assert Journal(path, "another key").masks(images) == {}


def test_damaged_text_is_not_taken(tmp_path: Path) -> None:
    """A journal of other bytes begins anew, and a mask that is no RLE of its image is predicted again."""
    image = an_image(7, tmp_path / "7.tiff", "lung", 0.4, (3, 5))
    path = tmp_path / "journal"
    path.write_bytes(b"\xff\xfe\x00\n")
    Journal(path, "key").add(image, "1 99")
    assert Journal(path, "key").masks([image]) == {}
    Journal(path, "key").add(image, "1 2")
    path.write_bytes(path.read_bytes() + b"\xff\xfe\x00\n")
    assert Journal(path, "key").masks([image]) == {7: "1 2"}
