"""GeoJSON as QuPath writes and reads it: units of an image as polygons, in px of the image, with (0, 0) at its corner.

QuPath 0.4 and later write and read annotations as *features*: a geometry, an id (a UUID), and properties (object type,
class with its colour, measurements). GeoJSON itself is RFC 7946.
"""

from __future__ import annotations

import json
import math
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import write_text
from .polygons import Polygon, signed_area, to_polygons, to_runs

AREAS = ("Polygon", "MultiPolygon")
UNCLASSIFIED = "no class"
BEYOND_PX = 1.0  # how far outside the image a corner may lie: annotations drawn along its border do
EXPORT = "export the annotations again, with File > Export objects as GeoJSON in QuPath"


@dataclass(frozen=True)
class Annotations:
    """The annotations of one image.

    Attributes:
        runs: RLE runs of the mask that the chosen areas cover, ``(n, 2)`` int64, see `hubmap_kit.rle.mask_to_runs`.
        labels: Number of areas of each class in the file, chosen or not.
        others: Number of annotations that are not areas, by geometry.
    """

    runs: npt.NDArray[np.int64]
    labels: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)


def read_annotations(path: Path, shape: tuple[int, int], labels: Collection[str] = ()) -> Annotations:
    """Read the annotations of an image.

    Args:
        path: A FeatureCollection, a list of features, or one feature.
        shape: ``(height, width)`` of the image, in px.
        labels: Classes whose areas are foreground; those of all classes by default.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no GeoJSON, or an area has a ring that is not closed, a coordinate that is no finite number,
            or a corner outside the image; the error names file, feature, rule and remedy.
    """
    text = path.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}); {EXPORT}") from error
    found, others = Counter[str](), Counter[str]()
    chosen: list[Polygon] = []
    for number, feature in enumerate(_features(path, content), start=1):
        where = f"{path}: feature {number}"
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise ValueError(f"{where} is no feature; {EXPORT}")
        geometry = feature.get("geometry")
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        if not isinstance(geometry, dict) or kind not in AREAS:
            others[str(kind or "without geometry")] += 1
            continue
        label = _label(feature)
        found[label] += 1
        if labels and label not in labels:
            continue
        parts = geometry.get("coordinates")
        for part in _list(f"{where} ({label})", [parts] if kind == "Polygon" else parts):
            polygon = _list(f"{where} ({label})", part)
            chosen.append([_ring(f"{where} ({label})", ring, shape) for ring in polygon])
    return Annotations(to_runs(chosen, shape), found, others)


def _features(path: Path, content: Any) -> list[Any]:
    """The features of a file of any of the three forms."""
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    if not isinstance(content, list):
        raise ValueError(f"{path}: holds neither a FeatureCollection nor features; {EXPORT}")
    return content


def _label(feature: dict[str, Any]) -> str:
    """The class of an annotation; QuPath writes a name, or the names of a class and its subclasses."""
    properties = feature.get("properties")
    value = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(value, dict):
        names = value.get("names")
        value = value.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else None)
    return str(value) if value else UNCLASSIFIED


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} has no coordinates; delete it, or {EXPORT}")
    return value


def _ring(where: str, value: Any, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """A checked ring: ``(n, 2)`` corners ``(y, x)``, the first one not repeated."""
    corners = []
    for corner in _list(where, value):
        if not isinstance(corner, list) or len(corner) < 2 or not all(map(_is_finite, corner[:2])):
            raise ValueError(f"{where} has the corner {corner!r}; a corner is two finite numbers: {EXPORT}")
        corners.append((float(corner[1]), float(corner[0])))
    if corners[0] != corners[-1]:
        raise ValueError(f"{where} has a ring that does not end where it begins, at {_xy(corners[0])}; {EXPORT}")
    if len(corners) < 4:
        raise ValueError(f"{where} has a ring of {len(corners) - 1} corners; an area has at least 3: delete it")
    for y, x in corners:
        if not (-BEYOND_PX <= y <= shape[0] + BEYOND_PX and -BEYOND_PX <= x <= shape[1] + BEYOND_PX):
            raise ValueError(
                f"{where} has the corner {_xy((y, x))}, outside the image of {shape[1]} x {shape[0]} px (width x "
                "height); coordinates are px of this very image, not um, and not px of a slide that it was cut from"
            )
    return np.array(corners[:-1])


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _xy(corner: tuple[float, float]) -> str:
    return f"x {corner[1]:g}, y {corner[0]:g}"


def write_annotations(
    path: Path,
    mask: npt.NDArray[np.generic],
    *,
    name: str,
    label: str,
    colour: Sequence[int],
    pixel_size_um: float,
) -> int:
    """Write the units of a mask as annotations that QuPath opens; their borders are those of the pixels.

    Args:
        path: The file; one feature a line.
        mask: ``(H, W)``, nonzero = foreground.
        name: The image's name; with the unit's number it makes the unit's id, which is the same each time.
        label: Class of the units.
        colour: Red, green and blue of the class, 0 to 255.
        pixel_size_um: Size of the image's pixels, in µm.

    Returns:
        The number of units.
    """
    polygons = to_polygons(mask)
    features = []
    for number, polygon in enumerate(polygons, start=1):
        area_um2 = sum(map(signed_area, polygon)) * pixel_size_um**2
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"hubmap-kit/{name}/{label}/{number}")),
            "geometry": {"type": "Polygon", "coordinates": [list(_closed(ring)) for ring in polygon]},
            "properties": {
                "objectType": "annotation",
                "name": f"{label} {number}",
                "classification": {"name": label, "color": list(colour)},
                "measurements": {"Area µm^2": round(area_um2, 3)},
            },
        }
        features.append(json.dumps(feature, ensure_ascii=False, separators=(",", ":")))
    lines = ",\n".join(features)
    write_text(path, f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n')
    return len(polygons)


def _closed(ring: npt.NDArray[np.int64]) -> Iterator[list[int]]:
    """Corners ``[x, y]``, the first one repeated at the end."""
    for y, x in [*ring.tolist(), ring[0].tolist()]:
        yield [x, y]
