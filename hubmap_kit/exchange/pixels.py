"""Files of images and of masks, as other programs write them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import tifffile

from ..demo.write import write_tiff
from ..images import read_image
from ..images.tiff_checks import MAX_VALUES

TIFF, OTHERS = (".tif", ".tiff"), (".png", ".jpg", ".jpeg")
IMAGE_SUFFIXES = (*TIFF, *OTHERS)
MASK_SUFFIXES = (".png", *TIFF)
COPY = "copy or export the file again"
GREY = "save it in grey without transparency, 0 for background"

_ORIENTATION = 274  # of EXIF; 1 is upright
_UPRIGHT = 1


def name_of(path: Path) -> str:
    """The name of an image, without what its file's format adds.

    >>> name_of(Path("scans/Case 7.ome.tif")), name_of(Path("Case 7.PNG"))
    ('Case 7', 'Case 7')
    """
    return path.stem.removesuffix(".ome") if path.suffix.lower() in TIFF else path.stem


def take_image(path: Path, target: Path) -> tuple[int, int]:
    """Write an image to a TIFF without loss: a TIFF is copied, a PNG or JPEG is decoded.

    Args:
        path: TIFF as `hubmap_kit.images.read_image` reads it, PNG or JPEG. An alpha channel is dropped, as in a TIFF.
        target: The TIFF to write.

    Returns:
        ``(height, width)`` in px.

    Raises:
        OSError: The file cannot be opened, or the target not be written.
        ValueError: It is no such image, is damaged, or is stored turned; the error names file, rule and remedy.
    """
    if path.suffix.lower() in TIFF:
        shape = read_image(path, threads=1).shape
        shutil.copyfile(path, target)
        return shape[0], shape[1]
    with _opened(path) as image:
        turn = image.getexif().get(_ORIENTATION, _UPRIGHT)
        if turn != _UPRIGHT:
            raise ValueError(
                f"{path}: is stored turned (EXIF orientation {turn}), and programs do not agree whether to turn it "
                "back, so that its mask may not fit; save it upright, and draw or export its mask on that file"
            )
        if image.format == "PNG" and _bits(path) == 16:
            _write_deep(path, target)
        else:
            write_tiff(target, np.asarray(image.convert("RGB")))
        return image.height, image.width


def _bits(png: Path) -> int:
    """Bits of a sample of a PNG, which are byte 24 of the file."""
    with png.open("rb") as file:
        return file.read(25)[24]


def _write_deep(path: Path, target: Path) -> None:
    """Write a PNG of 16 bits as a TIFF of 16 bits; Pillow reads its colours with 8 bits only."""
    import cv2

    stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16:
        raise ValueError(f"{path}: its 16 bits cannot be decoded; save it with 8 bits, or as TIFF")
    grey = stored.ndim == 2
    pixels = stored if grey else np.ascontiguousarray(stored[..., 2::-1])
    tifffile.imwrite(target, pixels, photometric="minisblack" if grey else "rgb", compression="zlib", metadata=None)


def read_mask(path: Path, shape: tuple[int, int], least: int | None = None) -> tuple[npt.NDArray[np.bool_], str]:
    """Read a mask or an image of labels.

    Args:
        path: PNG or TIFF in grey, in black and white, or with a grey palette.
        shape: ``(height, width)`` of its image, in px.
        least: Value from which a pixel is foreground; None for 1, so that every label is.

    Returns:
        ``(H, W)``, and a doubt that the user should know of, or an empty text.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is damaged, in colour, transparent, or not of the image's size.
    """
    with _opened(path) as image:
        if image.size != (shape[1], shape[0]):
            raise ValueError(
                f"{path}: is {image.size[1]} x {image.size[0]} px (height x width), and its image "
                f"{shape[0]} x {shape[1]}; export the mask at the image's own size"
            )
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        values = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        if (values[..., -1] != 255).any():
            raise ValueError(f"{path}: is transparent in places, which can mean either; {GREY}")
        values = values[..., :-1]
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise ValueError(f"{path}: is in colour, which does not say what is foreground; {GREY}")
        values = values[..., 0]
    doubt = ""
    if least is None and values.dtype == np.uint8 and values.max(initial=0) == 255:
        between = len(np.unique(values)) - 2
        if between > 0:
            doubt = f"{path}: has {between} values between 0 and 255, and all above 0 count as foreground"
    return np.asarray(values >= (1 if least is None else least)), doubt


@contextmanager
def large_pictures() -> Iterator[None]:
    """Let Pillow read pictures as large as our TIFFs may be; by itself it refuses them as an attack."""
    before = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = MAX_VALUES // 3
    try:
        yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    """Open and decode a picture; every error names the file."""
    with path.open("rb"):  # a missing file or missing rights: Python's own error names the file
        pass
    try:
        with PIL.Image.open(path) as image:
            image.load()
            loaded = image
    except Exception as error:  # a damaged file can raise anything: SyntaxError, struct.error, zlib.error
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}: {error}); {COPY}") from error
    yield loaded
