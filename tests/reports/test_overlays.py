"""Tests of the sheet of predicted images."""

from __future__ import annotations

import cv2
import numpy as np

from hubmap_kit import rle
from hubmap_kit.outlines import PREDICTION_RGB, TRUTH_RGB
from hubmap_kit.reports.overlays import contact_sheet
from hubmap_kit.tables import read_cells, read_images


def test_sheet(demo, tmp_path):
    """Every test image has its place, and both outlines are seen in their colours where the masks are."""
    truth = read_cells(demo / "test_truth.csv", ("id", "rle"))
    images = {image.id: image for image in read_images(demo, "test")}
    rows = []
    for number, (image_id, text) in enumerate(zip(truth["id"], truth["rle"], strict=True)):
        mask = np.roll(rle.decode(text, images[int(image_id)].shape), 9 * number, axis=1)
        rows.append(f"{image_id},{rle.encode(mask)}")
    (tmp_path / "submission.csv").write_text("\n".join(["id,rle", *rows]))
    out = tmp_path / "sheet.png"
    contact_sheet(demo, tmp_path / "submission.csv", demo / "test_truth.csv", out, cell=200, columns=3)
    sheet = cv2.imread(str(out), cv2.IMREAD_COLOR_RGB)
    assert sheet is not None
    assert sheet.shape == (34 + 2 * (200 + 26 + 8), 3 * 208 + 8, 3)
    for colour in (TRUTH_RGB, PREDICTION_RGB):
        found = (sheet[34:] == colour).all(axis=-1)
        for column in range(3):
            assert found[:200, 8 + 208 * column : 208 + 208 * column].sum() > 20
