"""From a probability map to a mask: a threshold, then a least area of regions, both by organ.

Validation, the choice of thresholds, out-of-fold masks and prediction all use `MaskRule`, so that the same map gives
the same mask everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from . import rle
from .competition import LARGEST_UM2, ORGANS
from .regions import Regions, area_px


@dataclass(frozen=True)
class MaskRule:
    """How a run turns the probability maps of each organ into masks.

    Attributes:
        thresholds: Probability from which a pixel is foreground, by organ.
        min_region_um2: Area in µm² below which a region of the mask is dropped, by organ; 0 for an organ without one.

    Example:
        >>> rule = MaskRule({"lung": 0.5}, {"lung": 2.0})
        >>> probability = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.6]], np.float32)
        >>> rule.runs(probability, "lung", pixel_size_um=1.0).tolist()  # the region of one pixel, 1 µm², is dropped
        [[0, 2]]
        >>> rule.runs(probability, "lung", pixel_size_um=2.0).tolist()
        [[0, 2], [5, 6]]
    """

    thresholds: Mapping[str, float]
    min_region_um2: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def uniform(cls, threshold: float, min_region_um2: float = 0.0, organs: Iterable[str] = ORGANS) -> MaskRule:
        """The same threshold and least area for every organ.

        >>> MaskRule.uniform(0.5).thresholds["kidney"]
        0.5
        """
        return cls(dict.fromkeys(organs, threshold), dict.fromkeys(organs, min_region_um2))

    def of(self, organ: str) -> tuple[float, float]:
        """Threshold and least area in µm² of an organ; for one that the rule does not know, the means over its organs.

        Raises:
            ValueError: The rule knows no organ at all.

        >>> rule = MaskRule({"lung": 0.25, "spleen": 0.75}, {"spleen": 100.0})
        >>> rule.of("lung"), rule.of("liver")
        ((0.25, 0.0), (0.5, 50.0))
        """
        if not self.thresholds:
            raise ValueError(
                "the run has no thresholds; train it again, or give one for all organs, such as --threshold 0.5"
            )
        organs = [organ] if organ in self.thresholds else list(self.thresholds)
        return (
            float(np.mean([self.thresholds[each] for each in organs])),
            float(np.mean([self.min_region_um2.get(each, 0.0) for each in organs])),
        )

    @classmethod
    def mean(cls, rules: Sequence[MaskRule]) -> MaskRule:
        """The rule of an ensemble: the means of its members' thresholds and least areas.

        Args:
            rules: One rule per member, at least one.

        Returns:
            The means, for the organs that any rule knows; see `of` for a rule that does not know one of them.

        >>> MaskRule.mean([MaskRule({"lung": 0.4}, {"lung": 100.0}), MaskRule({"lung": 0.5})])
        MaskRule(thresholds={'lung': 0.45}, min_region_um2={'lung': 50.0})
        """
        organs = dict.fromkeys(organ for rule in rules for organ in rule.thresholds)
        of = {organ: np.mean([rule.of(organ) for rule in rules], axis=0).tolist() for organ in organs}
        return cls({organ: pair[0] for organ, pair in of.items()}, {organ: pair[1] for organ, pair in of.items()})

    def override(
        self,
        threshold: float | Mapping[str, float] | None = None,
        min_region_um2: float | Mapping[str, float] | None = None,
    ) -> MaskRule:
        """The rule with other numbers.

        Args:
            threshold: For every organ, or by organ, where ``""`` stands for the organs that are not named; organs
                without a number keep the rule's own.
            min_region_um2: The same for the least areas.

        >>> MaskRule({"lung": 0.4, "kidney": 0.4}).override({"": 0.5, "lung": 0.3}).of("kidney")
        (0.5, 0.0)
        >>> MaskRule({"lung": 0.4}, {"lung": 100.0}).override(min_region_um2=0.0).min_region_um2["lung"]
        0.0
        """
        return MaskRule(self._with(self.thresholds, threshold), self._with(self.min_region_um2, min_region_um2))

    def _with(self, own: Mapping[str, float], given: float | Mapping[str, float] | None) -> Mapping[str, float]:
        if given is None:
            return own
        named = dict(given) if isinstance(given, Mapping) else {"": given}
        others = named.pop("", None)
        return {**(own if others is None else dict.fromkeys((*ORGANS, *self.thresholds), others)), **named}

    def runs(self, probability: npt.NDArray[np.float32], organ: str, pixel_size_um: float) -> npt.NDArray[np.int64]:
        """RLE runs of the mask of a whole probability map.

        Args:
            probability: ``(H, W)`` float32 in [0, 1], at the image's own size.
            organ: The image's organ.
            pixel_size_um: Size of the image's own pixels, in µm.

        Returns:
            ``(n, 2)`` int64, see `hubmap_kit.rle.mask_to_runs`.

        Raises:
            ValueError: See `of`.
        """
        builder = self.builder(organ, (probability.shape[0], probability.shape[1]), pixel_size_um)
        builder.add(probability)
        return builder.runs()

    def builder(self, organ: str, shape: tuple[int, int], pixel_size_um: float, *, maps: int = 1) -> MaskBuilder:
        """Begin the mask of a probability map that comes in bands of rows.

        Args:
            organ: The image's organ.
            shape: ``(height, width)`` of the image, in px.
            pixel_size_um: Size of the image's own pixels, in µm.
            maps: How many maps are added up in the rows; their sum is compared with the threshold times this number.

        Raises:
            ValueError: See `of`.
        """
        threshold, area_um2 = self.of(organ)
        return MaskBuilder(shape, pixel_size_um, threshold * maps, area_um2)

    def to_json(self) -> dict[str, dict[str, float]]:
        """The rule as JSON values: two objects, ``thresholds`` and ``min_region_um2``, by organ."""
        return {"thresholds": dict(self.thresholds), "min_region_um2": dict(self.min_region_um2)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MaskRule:
        """The rule that `to_json` wrote; other keys of `value` are ignored.

        Raises:
            ValueError: A key is missing, or a value is no number of at least 0, or a threshold above 1.

        >>> MaskRule.from_json(MaskRule({"lung": 0.5}).to_json())
        MaskRule(thresholds={'lung': 0.5}, min_region_um2={})
        """
        try:
            parts = [{str(k): float(v) for k, v in value[key].items()} for key in cls.__dataclass_fields__]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{value!r} is no rule for masks; it needs thresholds and min_region_um2, each with a number per organ"
            ) from error
        for name, part, most in zip(cls.__dataclass_fields__, parts, (1.0, LARGEST_UM2), strict=True):
            if wrong := {organ: number for organ, number in part.items() if not 0 <= number <= most}:
                raise ValueError(f"{name} has {wrong}; the number of each organ must be from 0 to {most:g}")
        return cls(*parts)


class MaskBuilder:
    """The mask of a probability map that comes in bands of rows, from the top; only the mask's edges are kept.

    Example:
        >>> builder = MaskBuilder((2, 3), pixel_size_um=1.0, threshold=0.5)
        >>> builder.add(np.array([[0.9, 0.1, 0.2]], np.float32))
        >>> builder.add(np.array([[0.8, 0.3, 0.6]], np.float32))
        >>> builder.runs().tolist()
        [[0, 2], [5, 6]]
        >>> builder.runs(min_region_um2=2.0).tolist()
        [[0, 2]]
    """

    def __init__(
        self, shape: tuple[int, int], pixel_size_um: float, threshold: float, min_region_um2: float = 0.0
    ) -> None:
        """Begin a mask.

        Args:
            shape: ``(height, width)`` of the image, in px.
            pixel_size_um: Size of the image's own pixels, in µm.
            threshold: Value from which a pixel is foreground.
            min_region_um2: Area in µm² below which `runs` drops a region.
        """
        self._shape, self._um = shape, pixel_size_um
        self._threshold, self._area_um2 = threshold, min_region_um2
        self._rows = rle.RunBuilder(shape)
        self._regions: Regions | None = None

    def add(self, rows: npt.NDArray[np.float32]) -> None:
        """Add the next rows of the map, ``(n, width)`` float32; n may be 0."""
        self._rows.add(rows >= self._threshold)

    def runs(self, min_region_um2: float | None = None) -> npt.NDArray[np.int64]:
        """RLE runs of the mask, once all rows were added.

        Args:
            min_region_um2: Drop the regions below this area; the builder's own area by default. Further
                calls, with other areas, do not search the regions again.

        Returns:
            ``(n, 2)`` int64, see `hubmap_kit.rle.mask_to_runs`.
        """
        if self._regions is None:
            self._regions = Regions(self._rows.runs(), self._shape)
        return self._regions.at_least(area_px(self._area_um2 if min_region_um2 is None else min_region_um2, self._um))
