"""How messages say numbers."""

from __future__ import annotations

import pytest

from hubmap_kit.words import percent


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1.0, "100 %"),
        (0.5, "50 %"),
        (0.0996, "10 %"),
        (0.0995, "10 %"),
        (0.055, "5.5 %"),
        (0.0099, "0.99 %"),
        (0.0007, "0.07 %"),
        (1e-5, "0.001 %"),
    ],
)
def test_percent(share, text):
    """Shares are short, and small ones keep two digits that count and are not 0."""
    assert percent(share) == text
