"""Images: any TIFF to RGB, brought to the working pixel size; stain; augmentation."""

from .tiff import read_image

__all__ = ["read_image"]
