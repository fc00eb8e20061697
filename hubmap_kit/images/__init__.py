"""Images: any TIFF to RGB, brought to the network's scale; stain; augmentation."""

from .tiff import read_image as read_image
