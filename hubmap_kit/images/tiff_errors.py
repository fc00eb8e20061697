"""Errors about TIFF files: each names the file, the rule that it breaks, and the remedy."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

RESAVE = "save it as 8-bit RGB, e.g. tifffile.imwrite(path, image, photometric='rgb')"
COPY = "copy or download the file again"


def decoder_remedy() -> str:
    """What to do about a compression that cannot be decoded: install imagecodecs, unless it is there."""
    if importlib.util.find_spec("imagecodecs") is None:
        return f"install imagecodecs (pip install imagecodecs), or {RESAVE}"
    return RESAVE


class _Refused(ValueError):
    """A rule that the file breaks, and the remedy; `naming` puts the file's name in front."""


def refuse(rule: str, remedy: str) -> NoReturn:
    """Raise the error of a rule that a file breaks; to be called within `naming`."""
    raise _Refused(f"{rule}; {remedy}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn every error about a file that could be opened into a ValueError with its name, the rule and a remedy."""
    try:
        yield
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a damaged file can raise anything: struct.error, MemoryError, codecs' own errors
        needed = "'imagecodecs'" in str(error)
        remedy = decoder_remedy() if needed else f"it is damaged or no TIFF: {COPY}"
        raise ValueError(f"{path}: cannot be read as TIFF ({type(error).__name__}: {error}); {remedy}") from error


def check_shape(shape: tuple[int, int], expected: tuple[int, int] | None) -> None:
    """Refuse an image whose shape is not the table's; to be called within `naming`.

    Args:
        shape: ``(height, width)`` of the file, in px.
        expected: ``(height, width)`` in the table, in px; None accepts any shape.
    """
    if expected is not None and shape != tuple(expected):
        refuse(
            f"is {shape[0]} x {shape[1]} px (height x width), but the table says {expected[0]} x {expected[1]}",
            "correct img_height and img_width there, or replace the file",
        )
