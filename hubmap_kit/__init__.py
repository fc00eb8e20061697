"""Submission kit for the Kaggle code competition HuBMAP + HPA - Hacking the Human Body.

The public interface, which keeps its names and their meaning:

========================================  ==========================================================
``hubmap_kit.rle.encode``                 a mask as Kaggle's RLE
``hubmap_kit.rle.decode``                 an RLE as a mask
``hubmap_kit.rle.dice``                   Dice of two RLEs, without decoding them
``hubmap_kit.images.read_image``          any TIFF as ``(H, W, 3)`` uint8 RGB
``hubmap_kit.tiles.predict_tiled``        a probability map of an image of any size, tile by tile
``hubmap_kit.submission.validate``        the problems of a submission
``hubmap_kit.submission.score``           its Dice, image by image
========================================  ==========================================================

The records that these take and return, and the recipes, are kept too; docs/python.md lists all. So are the names
of commands, flags and nox sessions, and a later version reads the run folders of an earlier one.
Everything else may change with any version. Nothing is imported here, so that ``import hubmap_kit`` costs nothing.
"""

__all__ = ["__version__", "images", "rle", "submission", "tiles"]

__version__ = "0.4.0.dev0"
