"""What a person should look at in a competition folder: each finding as one sentence with its numbers.

A rule that compares an image with others does so within its group: the same split, organ and source. Limits are set so
that real tissue has few flags; each says on what they were tried.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import rle
from ..images.tissue import TISSUE_SHARE
from ..tables import Image, Problem
from ..words import count, percent
from .inspect_alike import Copy, copies, robust_z, stain_distances
from .inspect_image import ImageMeasures, MaskMeasures
from .page import Flag
from .review_fit import misfit, misfit_of_one

# Fewer images than this are not compared with each other: three spreads mean nothing among three values.
LEAST_GROUP = 8
BLANK_CONTRAST = 2.0  # grey levels; the noise of a camera alone has less
FULL = 0.9  # a mask that covers more is nearly full; the largest of the competition covers 0.43
AREA_Z, AREA_FACTOR = 5.0, 4.0  # 1 of the competition's 351 masks, and 3 of 146 of real-ftu: hardly any tissue
RARE_TOUCH = 0.1  # touching the border is odd only where at most this share of the group does; 3 of those 351
SIZE_FACTOR, SIZE_Z = 1.5, 5.0
PIXEL_FACTOR, SAME_PIXEL, AGREE = 1.5, 1.1, 0.8
PIXEL_UM = (0.05, 20.0)  # a light microscope's optics on the one side, a slide's overview on the other
STAIN_Z = 3.0  # 1 of 228 images of real-ftu: much redder than the others of its stain
POLYGONS_DICE = 0.98  # 0.9999 is the least of the competition's 351; 0.97 may be one pixel all round a small unit


@dataclass(frozen=True)
class Kind:
    """A kind of flag.

    Attributes:
        short: A few words, for a list of counts.
        heading: What all its images have in common.
    """

    short: str
    heading: str


KINDS = {
    "row": Kind("bad row", "Rows of the table that cannot be used"),
    "file": Kind("bad file", "Files that cannot be read, or have another size than their row says"),
    "blank": Kind("no tissue", "Images without tissue"),
    "copy": Kind("shown twice", "The same picture twice, also turned, mirrored or saved again"),
    "turned": Kind("mask misplaced", "Masks that fit the tissue better turned, mirrored or moved"),
    "glass": Kind("mask on glass", "Masks on glass"),
    "empty": Kind("empty mask", "Empty masks"),
    "full": Kind("mask nearly full", "Masks that cover nearly everything"),
    "area": Kind("odd mask area", "Masks far larger or smaller than those of the other images"),
    "border": Kind("cut unit", "Units cut off by the border, where hardly any other image has one"),
    "polygons": Kind("other polygons", "Polygons that differ from the mask of the table"),
    "pixel": Kind("odd pixel size", "Pixel sizes that cannot be right"),
    "odd": Kind("odd size", "Images of another size or shape than the others"),
    "stain": Kind("odd stain", "Images stained unlike the others"),
}


@dataclass(frozen=True)
class Seen:
    """One image with everything that is known of it.

    Attributes:
        split: ``train`` or ``test``.
        image: Its row.
        measures: None if the file cannot be read.
        error: Why it cannot be read, or else empty.
        problems: Problems of its row.
        polygons: Dice of its mask and its polygons, in [0, 1]; None without polygons.
        polygons_error: Why the polygons cannot be read, or else empty.
    """

    split: str
    image: Image
    measures: ImageMeasures | None
    error: str = ""
    problems: tuple[Problem, ...] = ()
    polygons: float | None = None
    polygons_error: str = ""

    @property
    def mask(self) -> MaskMeasures | None:
        """The measures of its mask, if it has one that fits its file."""
        return self.measures.mask if self.measures else None

    @property
    def name(self) -> str:
        """What a sentence calls it."""
        name = f" ({self.image.name})" if self.image.name else ""
        return f"{'training' if self.split == 'train' else 'test'} image {self.image.id}{name}"


_Found = Iterator[tuple[int, Flag]]


def find_copies(seen: Sequence[Seen]) -> list[Copy]:
    """Pairs of images that show the same, in one split or across; see `hubmap_kit.reports.inspect_alike.copies`."""
    read = [number for number, one in enumerate(seen) if one.measures]
    found = copies([measures.picture for one in seen if (measures := one.measures)])
    return [replace(pair, first=read[pair.first], second=read[pair.second]) for pair in found]


def find_flags(seen: Sequence[Seen], pairs: Sequence[Copy]) -> list[list[Flag]]:
    """All flags of each image, in the order of `KINDS`.

    Args:
        seen: The images of both splits.
        pairs: Those that show the same, by `find_copies`.
    """
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, one in enumerate(seen):
        groups[one.split, one.image.organ, one.image.source].append(number)
    found: list[list[Flag]] = [[] for _ in seen]
    sources: list[Iterable[tuple[int, Flag]]] = [_alone(seen), _copies(seen, pairs), _turned(seen)]
    for numbers in groups.values():
        for rule in (_area, _border, _pixel_size, _size, _stain):
            sources.append(rule(seen, numbers))
    order = list(KINDS)
    for source in sources:
        for number, flag in source:
            found[number].append(flag)
    for flags in found:
        flags.sort(key=lambda flag: order.index(flag.key))
    return found


def _alone(seen: Sequence[Seen]) -> _Found:
    """What an image shows without the others."""
    for number, one in enumerate(seen):
        image, measures, mask = one.image, one.measures, one.mask
        for problem in one.problems:
            yield number, Flag("row", f"{_sentence(problem.rule)}; {problem.remedy}.", problem.severity)
        if measures is None:
            if image.path.exists():
                yield number, Flag("file", f"{_sentence(one.error)}.", "error")
        else:
            if measures.shape != image.shape:
                exchanged = ": rows and columns look exchanged" if measures.shape == image.shape[::-1] else ""
                text = f"The file has {_size_text(measures.shape)}, its row says {_size_text(image.shape)}{exchanged}."
                yield number, Flag("file", text, "error")
            if measures.contrast < BLANK_CONTRAST:
                yield number, Flag("blank", f"It is blank: its grey levels vary by {measures.contrast:.1f} of 255.")
            elif measures.tissue_share < TISSUE_SHARE:
                yield (
                    number,
                    Flag("blank", f"It shows only glass: {percent(measures.tissue_share)} of the image is tissue."),
                )
        if one.split == "train" and not image.rle and not one.problems:
            yield number, Flag("empty", "Its mask is empty.")
        if mask:
            if mask.share > FULL:
                yield number, Flag("full", f"Its mask covers {percent(mask.share)} of the image.")
            if mask.on_glass and not (measures and measures.contrast < BLANK_CONTRAST):
                units = f"{mask.on_glass} of {count(len(mask.units_um2), 'unit')}"
                text = f"{units}, {percent(mask.glass_share)} of the mask, {_verb(mask.on_glass, 'lie')} on glass."
                yield number, Flag("glass", text)
        if one.polygons_error:
            yield number, Flag("polygons", f"{_sentence(one.polygons_error)}.", "warning")
        elif one.polygons is not None and one.polygons < POLYGONS_DICE:
            text = f"The Dice of its mask and its polygons is {one.polygons:.3f}; a shift of one row does not count."
            yield number, Flag("polygons", text)


def _copies(seen: Sequence[Seen], pairs: Sequence[Copy]) -> _Found:
    """Images that show the same."""
    for pair in pairs:
        numbers = pair.first, pair.second
        one, other = (seen[number] for number in numbers)
        assert one.measures
        assert other.measures
        same = one.measures.sha256 == other.measures.sha256
        leak = "; a test image in the training set makes scores too good" if one.split != other.split else ""
        if not leak and not pair.turned and one.mask and other.mask and one.image.shape == other.image.shape:
            leak = f"; their masks agree to a Dice of {rle.dice(one.image.rle, other.image.rle, one.image.shape):.2f}"
        for number, twin in zip(numbers, (other, one), strict=True):
            if same:
                text = f"It has the same pixels as {twin.name}{leak}."
            else:
                turned = ", turned or mirrored" if pair.turned else ""
                text = f"It shows the same as {twin.name}{turned} (correlation {pair.correlation:.3f}){leak}."
            yield number, Flag("copy", text)


def _area(seen: Sequence[Seen], numbers: Sequence[int]) -> _Found:
    """The area of the mask, in the group."""
    shares = {n: mask.share for n in numbers if (mask := seen[n].mask) and mask.share > 0}
    if len(shares) < LEAST_GROUP:
        return
    values = np.array(list(shares.values()))
    middle = float(np.median(values))
    low, high = np.percentile(values, (25, 75))
    for (number, share), z in zip(shares.items(), robust_z(np.log(values), 0.05), strict=True):
        if abs(z) > AREA_Z and max(share / middle, middle / share) > AREA_FACTOR:
            others = f"half of the {_others(seen[number])} have {percent(low)} to {percent(high)}"
            yield number, Flag("area", f"Its mask covers {percent(share)} of the image; {others}.")


def _border(seen: Sequence[Seen], numbers: Sequence[int]) -> _Found:
    """Units at the border, where hardly any other image of the group has one."""
    masked = {n: mask for n in numbers if (mask := seen[n].mask)}
    touching = [n for n, mask in masked.items() if mask.touching]
    if len(masked) < LEAST_GROUP or len(touching) > RARE_TOUCH * len(masked):
        return
    for number in touching:
        mask = masked[number]
        units = f"{mask.touching} of its {count(len(mask.units_um2), 'unit')} {_verb(mask.touching, 'touch')}"
        others = f"units touch it in only {len(touching)} of {len(masked)} {_others(seen[number])}"
        yield number, Flag("border", f"{units} the border; {others}.")


def _turned(seen: Sequence[Seen]) -> _Found:
    """Masks that fit the tissue better turned, mirrored or moved: most of them in the same way, or one clearly."""
    fits = {number: mask.fit for number, one in enumerate(seen) if (mask := one.mask) and mask.fit}
    together = misfit(list(fits.values()))
    for number, fit in fits.items():
        if together and together.key in fit.arranged and fit.arranged[together.key] > fit.as_it_is:
            text = _fit_text(fit.as_it_is, fit.arranged[together.key], together.words())
            yield (
                number,
                Flag("turned", f"{text}. The same holds for {together.better} of {together.images} masks.", "error"),
            )
        elif together and together.key not in fit.arranged:
            text = _fit_text(together.as_it_is, together.arranged, together.words())
            yield number, Flag("turned", f"{text} (mean of all {together.images} masks).", "error")
        elif not together and (alone := misfit_of_one(fit)):
            yield number, Flag("turned", f"{_fit_text(alone.as_it_is, alone.arranged, alone.words())}.")


def _fit_text(as_it_is: float, arranged: float, words: str) -> str:
    """That a mask fits better otherwise; both numbers are shares of its variance, see `review_fit`."""
    better, now = percent(arranged), percent(as_it_is)
    return f"The mask fits the tissue better {words}: the tissue explains {better} of it then, and {now} as it is"


def _pixel_size(seen: Sequence[Seen], numbers: Sequence[int]) -> _Found:
    """The size of a pixel: possible at all, and that of the group where it has one."""
    values = np.array([seen[n].image.pixel_size_um for n in numbers])
    middle = float(np.median(values))
    ratios = np.maximum(values / middle, middle / values)
    agree = len(numbers) >= LEAST_GROUP and (ratios < SAME_PIXEL).mean() >= AGREE
    for number, value, ratio in zip(numbers, values.tolist(), ratios.tolist(), strict=True):
        if not PIXEL_UM[0] <= value <= PIXEL_UM[1]:
            text = (
                f"Its row says that a pixel has {value:g} µm; microscopes give {PIXEL_UM[0]:g} to {PIXEL_UM[1]:g} µm."
            )
            yield number, Flag("pixel", text)
        elif agree and ratio > PIXEL_FACTOR:
            others = f"most {_others(seen[number])} have {middle:g} µm"
            yield number, Flag("pixel", f"Its row says that a pixel has {value:g} µm; {others}.")


def _size(seen: Sequence[Seen], numbers: Sequence[int]) -> _Found:
    """The size and the shape of the file, in the group."""
    shapes = {n: measures.shape for n in numbers if (measures := seen[n].measures)}
    if len(shapes) < LEAST_GROUP:
        return
    sides = np.array([math.sqrt(math.prod(shape)) for shape in shapes.values()])
    aspects = np.array([max(shape) / min(shape) for shape in shapes.values()])
    typical = _size_text(sorted(shapes.values(), key=math.prod)[len(shapes) // 2])
    odd = np.zeros(len(shapes), bool)
    for values in (sides, aspects):
        ratios = values / np.median(values)
        far = np.abs(robust_z(np.log(values), 0.05)) > SIZE_Z
        odd |= far & (np.maximum(ratios, 1 / ratios) > SIZE_FACTOR)
    for number in np.array(list(shapes))[odd].tolist():
        text = f"It has {_size_text(shapes[number])}; the median of the {_others(seen[number])} is {typical}."
        yield number, Flag("odd", text)


def _stain(seen: Sequence[Seen], numbers: Sequence[int]) -> _Found:
    """The stain, in the group."""
    looks = {n: measures.look for n in numbers if (measures := seen[n].measures) and measures.look.values}
    if len(looks) < LEAST_GROUP:
        return
    for number, (spreads, how) in zip(looks, stain_distances(list(looks.values())), strict=True):
        if spreads > STAIN_Z:
            text = f"Its stain lies {spreads:.1f} times the usual spread from the median of the {_others(seen[number])}"
            yield number, Flag("stain", f"{text}; it is {how}.")


def _others(one: Seen) -> str:
    return f"{one.image.organ} images of {one.image.source}"


def _size_text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} × {shape[1]} px"


def _verb(number: int, verb: str) -> str:
    if number != 1:
        return verb
    return verb + ("es" if verb.endswith("ch") else "s")


def _sentence(text: str) -> str:
    """A text with a capital letter, without a full stop."""
    return (text[:1].upper() + text[1:]).rstrip(".")
