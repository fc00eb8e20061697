"""Tests of what is fuzzed: the seeds, what a fuzzer found, and changes that Hypothesis draws."""

from __future__ import annotations

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS

# What a fuzzer found, as Base64: (target, input, what was wrong).
FINDINGS: list[tuple[str, str, str]] = []


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_keep_the_promise(name: str) -> None:
    """What a fuzzer starts from is no finding."""
    for seed in TARGETS[name].seeds():
        TARGETS[name].do(seed)


@pytest.mark.parametrize(("name", "data", "was"), FINDINGS)
def test_findings_keep_the_promise(name: str, data: str, was: str) -> None:
    """What a fuzzer once found is right."""
    TARGETS[name].do(base64.b64decode(data))


@pytest.mark.parametrize("name", TARGETS)
def test_changed_seeds_keep_the_promise(name: str) -> None:
    """Seeds with a few other bytes, cut or extended, are no finding either."""
    target = TARGETS[name]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(list(target.seeds())), st.data())
    def changed(seed: bytes, data: st.DataObject) -> None:
        content = bytearray(seed)
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, max(0, len(content) - 1)))
            content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        target.do(bytes(content))

    changed()
