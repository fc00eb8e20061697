"""Pictures for notebooks: images with their masks, patches, augmentations, curves, and the errors of a prediction.

Lines and colours are those of the pages: the truth is a solid white line, a prediction a dashed light blue one, both on
a dark casing, so that they stand out on pale and on dark tissue. Missed tissue is hatched in orange, extra tissue in
blue.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects, rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline

from .. import rle
from ..images import read_image
from ..images.augment import augment
from ..images.scaling import resize, resize_mask
from ..outlines import CASING_RGB, PREDICTION_RGB, TRUTH_RGB, rings
from ..preparation.store import MIN_MASK_SHARE, PatchStore
from ..run import HISTORY, read_table
from ..tables import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Pixels = npt.NDArray[np.uint8]

TRUTH, PREDICTION, CASING = ("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in (TRUTH_RGB, PREDICTION_RGB, CASING_RGB))
ORANGE = "#ffb04d"
MISSED, EXTRA = ORANGE, PREDICTION
SIDE_PX = 480  # longer side of an image as it is drawn
WIDTH_IN = 12.0
DPI = 100
SCALE_BARS_UM = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
MOST_PATCHES = 8  # of one image that are drawn


@dataclass(frozen=True)
class Picture:
    """A picture, which a notebook shows when it is the value of a cell.

    Attributes:
        png: The file.
        text: What it shows, in words.
    """

    png: bytes = field(repr=False)
    text: str

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: Path) -> None:
        """Write it to a PNG file."""
        path.write_bytes(self.png)


def show_images(images: Sequence[Image], predicted: Mapping[int, str] | None = None, *, columns: int = 5) -> Picture:
    """Images with the outlines of their masks and a scale bar.

    Args:
        images: The images.
        predicted: Predicted RLE by id, to be drawn instead of the true masks, which images of a test set do not have.
        columns: Most images in a line.

    Raises:
        OSError, ValueError: An image cannot be read.
    """
    columns = min(columns, len(images))
    lines = -(-len(images) // columns)
    figure, axes = _axes(lines, columns)
    for axis, image in zip(axes, images, strict=False):
        pixels, shape = _small(image)
        _draw(axis, pixels, f"{image.id}  {image.organ}, {image.source}\n{_size_text(image)}")
        if predicted is not None:
            _outline(axis, _small_mask(predicted.get(image.id, ""), image, shape), PREDICTION, dashed=True)
        elif image.rle:
            _outline(axis, _small_mask(image.rle, image, shape), TRUTH)
        _scale_bar(axis, shape, image.pixel_size_um * image.shape[1] / shape[1])
    return _picture(figure, f"{len(images)} images with the outlines of their masks")


def show_patches(store: PatchStore, image_id: int) -> Picture:
    """An image of a patch store with its grid of patches, and the patches as the network sees them.

    Args:
        store: The store.
        image_id: The image.
    """
    pixels, side = np.asarray(store.read(image_id)), store.config.input_size
    patches = _patches(store, image_id)
    shown = patches[:MOST_PATCHES]
    figure, axes = _axes(2, 2 + -(-len(shown) // 2), wide=True)
    whole, cells = axes[0], axes[1:]
    height, width = store.images[image_id].shape
    _draw(whole, pixels[..., :3], f"{image_id} at the network's scale\n{height} × {width} px, {len(patches)} patches")
    for y, x, share in reversed(patches):
        box = Rectangle((x - 0.5, y - 0.5), side, side, fill=False, edgecolor="white", linestyle=":")
        if share >= MIN_MASK_SHARE:
            box.set(edgecolor=ORANGE, linestyle="-", linewidth=2.5)
        box.set_path_effects([patheffects.withStroke(linewidth=4.5, foreground=CASING)])
        whole.add_patch(box)
    for axis, (y, x, share) in zip(cells, shown, strict=False):
        patch = pixels[y : y + side, x : x + side]
        _draw(axis, patch[..., :3], f"y {y}, x {x}\n{share:.0%} mask")
        _outline(axis, patch[..., 3], TRUTH)
    return _picture(figure, f"image {image_id} with its grid of {len(patches)} patches, and {len(shown)} of them")


def show_augmented(
    store: PatchStore, image_id: int, shares: Mapping[str, float], *, count: int = 9, seed: int = 0
) -> Picture:
    """The patch of an image with most mask, and what augmentation makes of it.

    Args:
        store: The store.
        image_id: The image.
        shares: Augmentations, see `TrainConfig.augment_shares`; none that imitates other images.
        count: Number of augmented patches.
        seed: Seed of the augmentations.
    """
    pixels = np.asarray(store.read(image_id))
    (y, x, _), *_ = _patches(store, image_id)
    columns = -(-(count + 1) // 2)
    figure, axes = _axes(2, columns)
    rng = np.random.default_rng(seed)
    for number, axis in enumerate(axes[: count + 1]):
        image, mask, _ = augment(pixels, (y, x), store.config.input_size, shares if number else {}, rng)
        _draw(axis, image, f"augmented {number}" if number else "as it is stored")
        _outline(axis, mask, TRUTH)
    return _picture(figure, f"a patch of image {image_id} and {count} augmented ones: {', '.join(shares)}")


def show_curves(run: Path) -> Picture:
    """Loss and validation Dice by epoch, with the epochs of a frozen encoder shaded and the best epoch marked.

    Args:
        run: Run folder.

    Raises:
        ValueError: It has no ``history.csv``, or a damaged one.
    """
    history = read_table(run / HISTORY, ["epoch", "train_loss", "frozen"])
    if history is None:
        raise ValueError(f"{run / HISTORY} is missing; train the run first")
    epochs = history["epoch"].to_numpy(float)
    with rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 11}):
        figure = Figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
        loss, dice = figure.subplots(1, 2)
    loss.plot(epochs, history["train_loss"], "o-", color=CASING, markersize=4, label="training")
    text, kept = "loss by epoch", "not measured"
    if "validation_dice" in history:
        scored = history.dropna(subset=["validation_dice"])
        at, values = (scored[name].to_numpy(float) for name in ("epoch", "validation_dice"))
        loss.plot(at, scored["validation_loss"], "s--", color="#d55e00", markersize=4, label="validation")
        dice.plot(at, values, "s--", color="#d55e00", markersize=4)
        best = int(values.argmax())
        kept = f"kept: epoch {at[best]:.0f}, Dice {values[best]:.3f}"
        dice.plot(at[best], values[best], "o", color="#0072b2", markersize=12, fillstyle="none")
        text = f"loss and validation Dice by epoch; {kept}"
    frozen = epochs[history["frozen"].to_numpy() > 0]
    for axis, title in ((loss, "loss"), (dice, f"Dice on the validation images ({kept})")):
        if len(frozen):
            label = "encoder frozen" if axis is loss else None
            axis.axvspan(frozen.min() - 0.5, frozen.max() + 0.5, color="#0072b2", alpha=0.1, lw=0, label=label)
        axis.set(title=title, xlabel="epoch", ylim=(0, None), xlim=(0.5, epochs.max() + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(axis="y", color="#dddddd")
    dice.set_ylim(0, 1)
    loss.legend(frameon=False)
    return _picture(figure, text)


def show_predictions(images: Sequence[Image], predicted: Mapping[int, str], true: Mapping[int, str]) -> Picture:
    """Truth, prediction and error of each image, one line for each.

    Args:
        images: The images.
        predicted: Predicted RLE by id.
        true: True RLE by id.

    Raises:
        KeyError: An image has no true or no predicted mask.
        OSError, ValueError: An image cannot be read.
    """
    figure, axes = _axes(len(images), 3)
    for number, image in enumerate(images):
        truth, answer, error = axes[3 * number : 3 * number + 3]
        pixels, shape = _small(image)
        texts = true[image.id], predicted[image.id]
        wanted, found = (_small_mask(text, image, shape) for text in texts)
        dice = rle.dice(*texts, image.shape)
        _draw(truth, pixels, f"{image.id}  {image.organ}, {image.source}: truth")
        _outline(truth, wanted, TRUTH)
        _draw(answer, pixels, f"prediction, Dice {dice:.3f}")
        _outline(answer, found, PREDICTION, dashed=True)
        _draw(error, _pale(pixels), "missed \\\\\\ orange, extra /// blue")
        _hatch(error, wanted & (1 - found), MISSED, "\\\\\\\\")
        _hatch(error, found & (1 - wanted), EXTRA, "////")
        _scale_bar(truth, shape, image.pixel_size_um * image.shape[1] / shape[1])
    return _picture(figure, f"truth, prediction and error of {len(images)} images")


def _patches(store: PatchStore, image_id: int) -> list[tuple[int, int, float]]:
    """``(y, x, share)`` of an image's patches: corner in px and share of mask in [0, 1]; most mask first."""
    table = store.patches.loc[store.patches["id"] == image_id, ["y", "x", "mask_share"]].to_numpy(float)
    return sorted(((int(y), int(x), share) for y, x, share in table.tolist()), key=lambda patch: -patch[2])


def _axes(lines: int, columns: int, *, wide: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes without frames; with `wide` the first one fills two columns of two lines."""
    cell = WIDTH_IN / columns
    layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.04)
    figure = Figure(figsize=(WIDTH_IN, lines * (cell + 0.5)), layout=layout)
    grid = figure.add_gridspec(lines, columns)
    places = [grid[0:2, 0:2]] if wide else []
    places += [grid[line, column] for line in range(lines) for column in range(2 * wide, columns)]
    axes = [figure.add_subplot(place) for place in places]
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def _picture(figure: Figure, text: str) -> Picture:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    return Picture(file.getvalue(), text)


def _small(image: Image) -> tuple[_Pixels, tuple[int, int]]:
    """An image with a longer side of at most `SIDE_PX`, and its shape."""
    factor = min(1.0, SIDE_PX / max(image.shape))
    height, width = (max(1, round(side * factor)) for side in image.shape)
    return resize(read_image(image.path), (height, width)), (height, width)


def _small_mask(text: str, image: Image, shape: tuple[int, int]) -> _Pixels:
    return resize_mask(rle.decode(text, image.shape), shape)


def _draw(axis: Axes, pixels: _Pixels, title: str) -> None:
    axis.imshow(pixels, interpolation="antialiased")
    axis.set_title(title, fontsize=10)


def _path(mask: _Pixels) -> Outline | None:
    """The outlines of a mask, in the coordinates of `imshow`, where a pixel's centre has whole numbers."""
    found = [np.vstack((ring, ring[:1]))[:, ::-1] - 0.5 for ring in rings(mask)]
    if not found:
        return None
    codes = [[Outline.MOVETO, *[Outline.LINETO] * (len(ring) - 2), Outline.CLOSEPOLY] for ring in found]
    return Outline(np.concatenate(found), np.concatenate(codes))


def _outline(axis: Axes, mask: _Pixels, colour: str, *, dashed: bool = False) -> None:
    place = axis.get_subplotspec()
    if (path := _path(mask)) and place:
        width = 0.5 + 1.3 * len(place.colspan) * 3 / place.get_gridspec().ncols  # thinner in narrow pictures
        axis.add_patch(PathPatch(path, fill=False, edgecolor=CASING, linewidth=2 * width))
        style = (0, (4, 2)) if dashed else "solid"
        axis.add_patch(PathPatch(path, fill=False, edgecolor=colour, linewidth=width, linestyle=style))


def _hatch(axis: Axes, mask: _Pixels, colour: str, hatch: str) -> None:
    if path := _path(mask):
        with rc_context({"hatch.linewidth": 1.6}):
            axis.add_patch(PathPatch(path, facecolor="none", edgecolor=colour, linewidth=1.2, hatch=hatch))


def _pale(pixels: _Pixels) -> _Pixels:
    """An image in dark grey, on which coloured hatches stand out."""
    grey = pixels.mean(axis=-1, keepdims=True) * 0.45
    return np.repeat(grey.astype(np.uint8), 3, axis=-1)


def _scale_bar(axis: Axes, shape: tuple[int, int], um_per_px: float) -> None:
    """Draw a scale bar of about a fifth of the width in the lower left corner."""
    height, width = shape
    um = max((bar for bar in SCALE_BARS_UM if bar <= 0.3 * width * um_per_px), default=SCALE_BARS_UM[0])
    left, bottom = 0.04 * width, 0.95 * height
    casing = [patheffects.withStroke(linewidth=5, foreground="white")]
    axis.plot([left, left + um / um_per_px], [bottom] * 2, color=CASING, linewidth=3, path_effects=casing)
    axis.text(left, bottom - 0.025 * height, f"{um} µm", fontsize=9, color=CASING, va="bottom", path_effects=casing)


def _size_text(image: Image) -> str:
    height, width = image.shape
    return f"{height} × {width} px of {image.pixel_size_um:g} µm"
