"""Tests of GeoJSON, read and written."""

from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hubmap_kit import rle
from hubmap_kit.exchange.geojson import read_annotations, write_annotations

SHAPE = (7, 11)
SQUARE = [[1, 1], [5, 1], [5, 4], [1, 4], [1, 1]]  # x, y
HOLE = [[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]]


def feature(coordinates, kind="Polygon", **properties):
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def read(tmp_path, content, **arguments):
    path = tmp_path / "case.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations(path, SHAPE, **arguments)


def mask_of(annotations, shape=SHAPE):
    return rle.decode(rle.encode_runs(annotations.runs), shape)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example overwrites its file
@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 13), st.integers(1, 11)), fill=st.nothing()))
def test_any_mask_comes_back(tmp_path, mask):
    """A mask is written, with holes, diagonals, single pixels and borders, and read back without a changed pixel."""
    path = tmp_path / "a.geojson"
    write_annotations(path, mask, name="a", label="crypt", colour=(1, 2, 3), pixel_size_um=0.5)
    np.testing.assert_array_equal(mask_of(read_annotations(path, mask.shape), mask.shape), mask)


def test_what_qupath_needs(tmp_path):
    """A unit is an annotation with a UUID, a class with its colour, closed rings, and its area in um²."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 1:5] = 1
    mask[2, 2] = 0
    mask[6, 10] = 1
    path = tmp_path / "a.geojson"
    options: dict[str, Any] = {"name": "Fall ä", "label": "bile duct", "colour": (230, 159, 0), "pixel_size_um": 0.5}
    assert write_annotations(path, mask, **options) == 2
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    first, second = content["features"]
    assert first["type"] == "Feature"
    assert first["geometry"] == {"type": "Polygon", "coordinates": [SQUARE, [[2, 3], [3, 3], [3, 2], [2, 2], [2, 3]]]}
    assert first["properties"]["objectType"] == "annotation"
    assert first["properties"]["classification"] == {"name": "bile duct", "color": [230, 159, 0]}
    assert first["properties"]["measurements"] == {"Area µm^2": 11 * 0.25}
    assert uuid.UUID(first["id"]) != uuid.UUID(second["id"])
    before = path.read_bytes()
    write_annotations(path, mask, **options)
    assert path.read_bytes() == before
    write_annotations(path, 0 * mask, **options)
    assert json.loads(path.read_text())["features"] == []


def test_the_three_forms_of_a_file(tmp_path):
    """A collection, a list of features and one feature are read alike, with a third coordinate too."""
    expected = np.zeros(SHAPE, np.uint8)
    expected[1:4, 1:5] = 1
    expected[2, 2] = 0
    one = feature([[[*corner, 0] for corner in SQUARE], HOLE])
    for content in ({"type": "FeatureCollection", "features": [one]}, [one], one):
        np.testing.assert_array_equal(mask_of(read(tmp_path, content)), expected)
    assert len(read(tmp_path, []).runs) == 0


def test_classes_and_other_geometry(tmp_path):
    """Areas are chosen by class, several polygons are one area, and what is no area is counted."""
    moved = [[x + 6, y] for x, y in SQUARE]
    content = [
        feature([[SQUARE], [moved]], "MultiPolygon", classification={"name": "crypt", "color": [1, 2, 3]}),
        feature([[[0, 5], [11, 5], [11, 7], [0, 7], [0, 5]]], classification={"names": ["tissue", "pale"]}),
        feature([[[0, 0], [1, 0], [1, 1], [0, 0]]]),
        feature([[0, 0], [5, 5]], "LineString", name="ruler"),
        {"type": "Feature", "geometry": None, "properties": None},
    ]
    found = read(tmp_path, content, labels=["crypt"])
    assert found.labels == {"crypt": 1, "tissue: pale": 1, "no class": 1}
    assert found.others == {"LineString": 1, "without geometry": 1}
    assert rle.area(found.runs) == 24
    assert rle.area(read(tmp_path, content).runs) == 24 + 22  # the triangle holds no centre


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ({"type": "Topology"}, "holds neither a FeatureCollection nor features; export"),
        ([feature([SQUARE]), {"type": "Point"}], "feature 2 is no feature"),
        (
            [feature([SQUARE[:-1]], classification={"name": "crypt"})],
            r"feature 1 \(crypt\) has a ring that does not end",
        ),
        ([feature([[[1, 1], [2, 2], [1, 1]]])], "a ring of 2 corners; an area has at least 3"),
        ([feature([])], "has no coordinates"),
        ([feature(None)], "has no coordinates"),
        ([feature([[[1, 1], [2, "x"], [3, 3], [1, 1]]])], r"corner \[2, 'x'\]; a corner is two finite numbers"),
        ('[{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[0,0],[NaN,1],[1,1],[0,0]]]}}]', "finite"),
        ([feature([[[1, 1], [12.5, 1], [5, 4], [1, 1]]])], "x 12.5, y 1, outside the image of 11 x 7 px"),
        ([feature([[[1, 1], [5, -2], [5, 4], [1, 1]]])], "x 5, y -2, outside the image"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, rule):
    """A file that is wrong is an error with file, feature and rule."""
    with pytest.raises(ValueError, match=rule) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "case.geojson"))
    assert "; " in str(caught.value)


def test_corners_along_the_border(tmp_path):
    """A corner up to a pixel outside is cut off at the image's border."""
    found = read(tmp_path, feature([[[-1, -0.5], [12, -0.5], [12, 8], [-1, 8], [-1, -0.5]]]))
    np.testing.assert_array_equal(mask_of(found), np.ones(SHAPE))
