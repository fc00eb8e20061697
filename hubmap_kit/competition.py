"""The competition: its name on Kaggle, its organs and data sources, and the names of its files and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SLUG = "hubmap-organ-segmentation"
SOURCES = ("HPA", "Hubmap")
TEST_IMAGES = 550  # approximate number in Kaggle's hidden test set
LARGEST_UM2 = 1e12  # largest least region: one square metre

# Columns of train.csv, test.csv and sample_submission.csv.
ID: Final = "id"
ORGAN: Final = "organ"
SOURCE: Final = "data_source"
HEIGHT: Final = "img_height"  # px
WIDTH: Final = "img_width"  # px
PIXEL_SIZE: Final = "pixel_size"  # um
THICKNESS: Final = "tissue_thickness"  # um
RLE: Final = "rle"

NAME: Final = "name"

TABLES: Final = {"train": "train.csv", "test": "test.csv"}  # by split
SAMPLE_SUBMISSION: Final = "sample_submission.csv"
SUBMISSION: Final = "submission.csv"  # what the inference kernel leaves, and Kaggle scores
NAMES: Final = "names.csv"  # `ID` and name of each image, in a folder that `hubmap-kit import` made


@dataclass(frozen=True)
class Organ:
    """One organ of the competition.

    The pixel sizes and section thicknesses are those of the competition's data page, by data source. They are used
    where an image's row of the table leaves the cell empty. A table may hold other organs and sources too, if it gives
    the pixel size of their images.

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


def default_pixel_size_um(organ: str, source: str) -> float | None:
    """Pixel size of the competition's images of an organ and source, in µm; None for any other organ or source."""
    return ORGANS[organ].pixel_size_um.get(source) if organ in ORGANS else None


def default_thickness_um(organ: str, source: str) -> float | None:
    """Section thickness of the competition's images of an organ and source, in µm; None for any others."""
    return ORGANS[organ].thickness_um.get(source) if organ in ORGANS else None


class ByOrgan(dict[str, T], Generic[T]):
    """A value for each organ: those that are named have their own, and every other organ has `other`.

    >>> context_um = ByOrgan({"kidney": 512.0}, 410.0)
    >>> context_um["kidney"], context_um["liver"]
    (512.0, 410.0)
    """

    def __init__(self, values: Mapping[str, T], other: T) -> None:
        """Take the values.

        Args:
            values: Value by organ.
            other: Value of an organ that is not named.
        """
        super().__init__(values)
        self.other = other

    def __missing__(self, organ: str) -> T:
        return self.other

    def get(self, organ: str, default: object = None) -> T:
        """The organ's value; there always is one, so the default is not used."""
        return self[organ]

    def map(self, change: Callable[[T], T]) -> ByOrgan[T]:
        """The changed values, of organs that are not named too."""
        return ByOrgan({organ: change(value) for organ, value in self.items()}, change(self.other))


def table_path(folder: Path, split: str) -> Path:
    """The table of a competition folder's split, ``train`` or ``test``: ``{split}.csv``."""
    return folder / TABLES[split]


def image_path(folder: Path, split: str, image_id: int) -> Path:
    """The file of an image: ``{split}_images/{id}.tiff``."""
    return folder / f"{split}_images" / f"{image_id}.tiff"
