"""hubmap-kit import."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import SettingError, UsageError
from ..terminal import Ending, Parser, whole_between
from ..words import count

EXAMPLE = """\
hubmap-kit import images data --geojson annotations --organ liver --pixel-size 0.5
hubmap-kit import new-images data --organ liver --pixel-size 0.5
"""
STOPPED = "the folder is as it was"
WRITES = {"out": "folder"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("images", metavar="IMAGES", type=Path, help="folder of images: TIFF, PNG or JPEG")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make, or that of an earlier import, to add to")
    parser.add_argument("--masks", metavar="DIR", type=Path, help="folder of masks, PNG or TIFF, named as the images")
    parser.add_argument("--geojson", metavar="DIR", type=Path, help="folder of QuPath's GeoJSON, instead of --masks")
    parser.add_argument("--organ", metavar="NAME", required=True, help="organ of all the images, any name")
    parser.add_argument(
        "--pixel-size", metavar="UM", type=float, required=True, help="side of a pixel in um, in all the images"
    )
    parser.add_argument(
        "--source", metavar="NAME", default="own", help="lab or scanner that the images are from (default: %(default)s)"
    )
    parser.add_argument(
        "--split", choices=("train", "test"), help="split to add them to (default: train if they have masks, else test)"
    )
    parser.add_argument(
        "--mask-threshold",
        metavar="N",
        type=whole_between(1, 2**32),
        help="value of a mask from which a pixel is foreground (default: 1)",
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        dest="labels",
        action="append",
        default=[],
        help="class in the GeoJSON whose areas are foreground; may be repeated (default: all classes)",
    )


def run(arguments: Namespace) -> Ending:
    """Import the images."""
    from ..exchange.import_images import Import, import_images

    out = arguments.out
    try:
        given = Import(
            arguments.images,
            arguments.organ,
            arguments.pixel_size,
            source=arguments.source,
            split=arguments.split,
            masks=arguments.masks,
            geojson=arguments.geojson,
            mask_threshold=arguments.mask_threshold,
            labels=arguments.labels,
        )
    except SettingError as error:
        raise UsageError(f"--{error.name.replace('_', '-')} {error.rule}") from error
    done = import_images(given, out)
    to_train = done.split == "train"
    kind = "training image" if to_train else "test image"
    return Ending(
        f"{out}: {count(done.images, kind)} {'with' if done.masks else 'without'} masks; names in {out / 'names.csv'}",
        next=("prepare", out, "patches") if to_train else ("predict", out, "run", "--out", "submission.csv"),
        values={"folder": str(out), "images": done.images, "split": done.split, "masks": done.masks},
        problems=done.warnings,
    )
