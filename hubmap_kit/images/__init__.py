"""Images: any TIFF to RGB, brought to the network's scale; stain; augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tiff import read_image

__all__ = ["read_image"]


def __getattr__(name: str) -> Any:
    """`read_image`, imported when it is asked for: the names of the augmentations are listed without NumPy."""
    if name == "read_image":
        from .tiff import read_image

        return read_image
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
