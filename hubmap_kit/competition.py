"""The competition: its name on Kaggle, its organs and data sources, and the names of its files and columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SLUG = "hubmap-organ-segmentation"
SOURCES = ("HPA", "Hubmap")

# Columns of train.csv, test.csv and sample_submission.csv.
ID: Final = "id"
ORGAN: Final = "organ"
SOURCE: Final = "data_source"
HEIGHT: Final = "img_height"  # px
WIDTH: Final = "img_width"  # px
PIXEL_SIZE: Final = "pixel_size"  # um
THICKNESS: Final = "tissue_thickness"  # um
RLE: Final = "rle"

TABLES: Final = {"train": "train.csv", "test": "test.csv"}  # by split
SAMPLE_SUBMISSION: Final = "sample_submission.csv"
SUBMISSION: Final = "submission.csv"  # what the inference kernel leaves, and Kaggle scores


@dataclass(frozen=True)
class Organ:
    """One organ of the competition.

    The pixel sizes and section thicknesses are those of the competition's data page, by data source. They are used
    where an image's row of the table leaves the cell empty.

    Attributes:
        ftu: The functional tissue unit that is segmented.
        pixel_size_um: Side of a pixel in um, by data source.
        thickness_um: Thickness of the tissue section in um, by data source.
    """

    ftu: str
    pixel_size_um: dict[str, float]
    thickness_um: dict[str, float]


ORGANS = {
    "kidney": Organ("glomerulus", {"HPA": 0.4, "Hubmap": 0.5}, {"HPA": 4, "Hubmap": 10}),
    "prostate": Organ("glandular acinus", {"HPA": 0.4, "Hubmap": 6.263}, {"HPA": 4, "Hubmap": 5}),
    "largeintestine": Organ("crypt", {"HPA": 0.4, "Hubmap": 0.229}, {"HPA": 4, "Hubmap": 8}),
    "spleen": Organ("white pulp", {"HPA": 0.4, "Hubmap": 0.4945}, {"HPA": 4, "Hubmap": 4}),
    "lung": Organ("alveolus", {"HPA": 0.4, "Hubmap": 0.7562}, {"HPA": 4, "Hubmap": 5}),
}

# Smallest and largest share of the image that a true mask covers, and the number of images, by organ: counted in the
# competition's train.csv, whose 351 images are all by HPA.
AREA_SHARES: Final = {
    "kidney": (0.0031, 0.0795, 99),
    "prostate": (0.0099, 0.4293, 93),
    "largeintestine": (0.0211, 0.3483, 58),
    "spleen": (0.0081, 0.3433, 53),
    "lung": (0.0007, 0.0889, 48),
}


def table_path(folder: Path, split: str) -> Path:
    """The table of a competition folder's split, ``train`` or ``test``: ``{split}.csv``."""
    return folder / TABLES[split]


def image_path(folder: Path, split: str, image_id: int) -> Path:
    """The file of an image: ``{split}_images/{id}.tiff``."""
    return folder / f"{split}_images" / f"{image_id}.tiff"
