"""A page of drawn cards, with every part that a page can have; text on it tries to be markup and script."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
import tifffile
from playwright.sync_api import Page

from hubmap_kit import rle
from hubmap_kit.reports import page
from hubmap_kit.reports.page import Card, Column, Flag, Layer, write_page
from hubmap_kit.reports.pictures import Subject, draw
from hubmap_kit.tables import Image

ORGANS = ("kidney", "lung", "spleen")
THRESHOLD = 0.45
TITLE = "Report: <b>run</b>"
EVIL = (
    "</script><script>hacked = 1</script><img src=x onerror='hacked = 2'>\"'>"
    "<a href=javascript:hacked=3>&amp;{{ 7 * 7 }}"
)
LAYERS = (Layer("truth", "truth"), Layer("prediction", "prediction"))
COLUMNS = (Column("area", "Area", 2, "%"), Column("stain", "Stain", kind="text"))
TEMPLATE = """
{% extends "page.html.j2" %}{% import "charts.html.j2" as charts %}
{% block top %}
{{ charts.verdict(content.text, "warning") }}
{{ charts.numbers([{"label": "mean Dice", "value": "0.713", "text": content.text}]) }}
<h2>Charts</h2>
{{ charts.strip("Dice " ~ content.text, content.groups, 0.0, 1.0, kinds=["HPA", content.text]) }}
{{ charts.lines("Loss", content.series, "epoch", "loss", [{"x": 8, "label": content.text}]) }}
{{ charts.bars("Change", [{"label": content.text, "value": -0.1, "text": "a"}]) }}
{{ charts.histogram("Area", [{"label": content.text, "counts": [1, 0, 4], "edges": [0, 1, 2, 3]}], "%") }}
{{ charts.heat("Where", [[0, 0.5], [1, 0.25]], content.text) }}
{{ charts.scatter("Dice and area", content.dots, "area, %", "Dice") }}
<p>{{ charts.picture(cards[0].key, content.text) }}</p>
{% endblock %}
{% block bottom %}<h2>Settings</h2><pre>{{ content.text }}</pre>{% endblock %}
"""


def pictures_of(
    number: int, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Pixels, truth and probability map of a drawn image; the larger the number, the less the map is like the truth."""

    def clouds(sigma: float) -> npt.NDArray[np.float32]:
        noise = cv2.GaussianBlur(rng.random(shape).astype(np.float32), (0, 0), sigma)
        return np.asarray((noise - noise.min()) / np.ptp(noise), np.float32)

    side = max(shape)
    noise, other = clouds(side / 25), clouds(side / 30)
    weight = 0.25 + 0.04 * number
    probability = np.clip(((1 - weight) * noise + weight * other - 0.55) * 6 + 0.5, 0, 1)
    pixels = np.array([225, 175, 205]) - 90 * noise[..., None] * np.array([0.6, 1, 0.5])
    return pixels.astype(np.uint8), (noise > 0.58).astype(np.uint8), probability.astype(np.float32)


def cards_of(folder: Path, count: int = 14) -> list[Card]:
    """Cards of drawn images: the first is larger than a crop, the last cannot be read; Dice falls with the number."""
    rng = np.random.default_rng(5)
    subjects = []
    for number in range(count):
        shape = (701, 911) if number == 0 else (127 + 20 * (number % 3), 181)
        pixels, truth, probability = pictures_of(number, shape, rng)
        path, map_path = folder / f"{number}.tiff", folder / f"{number}.png"
        if number != count - 1 or count == 1:
            tifffile.imwrite(path, pixels, photometric="rgb")
        half = (shape[1] // 2, shape[0] // 2)
        cv2.imwrite(str(map_path), cv2.resize((probability * 255).astype(np.uint8), half, interpolation=cv2.INTER_AREA))
        organ = EVIL if number == 3 else ORGANS[number % 3]
        source, name = ("HPA", "Hubmap")[number % 2], f"Färbung {EVIL}" if number == 8 else ""
        image = Image(100 + 7 * number, organ, source, shape, 0.5, 4.0, path, number + 2, name=name)
        masks = {"truth": rle.encode(truth), "prediction": rle.encode(probability >= THRESHOLD)}
        maps, thresholds = {"prediction": map_path}, {"prediction": THRESHOLD}
        subjects.append(Subject(image, masks, maps, thresholds, ("truth", "prediction")))
    drawn = draw(subjects, folder / "pictures")
    cards: list[Card] = []
    for number, one in enumerate(drawn):
        known = one.subject.masks
        dice = rle.dice(known["truth"], known["prediction"], one.subject.image.shape) if one.crop else None
        flags = []
        if number % 5 == 1:
            flags.append(Flag("border", f"The mask touches the border: {EVIL}"))
        if number == 2:
            flags.append(Flag("blank", "Nothing is on it.", "error"))
        related = [("nearest training image", cards[0].key)] if number == 4 else []
        values = {"area": None if number == 5 else 0.5 * number, "stain": EVIL if number == 6 else "PAS"}
        note = EVIL if number == 7 else ""
        split = ("train", "validation")[number % 2]
        cards.append(Card(one, split, dice, flags, values, note, related, wanted=float(-number)))
    return cards


@contextmanager
def template(text: str) -> Iterator[str]:
    """The name of a template that only `write_page` within this context knows."""
    real = page._environment

    def environment() -> jinja2.Environment:
        made = real()
        assert made.loader
        made.loader = jinja2.ChoiceLoader([made.loader, jinja2.DictLoader({"drawn.html.j2": text})])
        return made

    page._environment = environment
    try:
        yield "drawn.html.j2"
    finally:
        page._environment = real


def write(out: Path, cards: Sequence[Card], *, layers: Sequence[Layer] = LAYERS, folder: bool = False) -> Path:
    """Write a page of these cards with all charts."""

    def dot(card: Card, **place: float) -> dict[str, Any]:
        return {"key": card.key, "text": f"{card.key}: {EVIL}", "kind": card.drawn.subject.image.row % 2, **place}

    scored = [card for card in cards if card.dice is not None]
    content = {
        "text": EVIL,
        "groups": [
            {"label": organ, "dots": [dot(card, value=card.dice or 0) for card in scored[number::3]]}
            for number, organ in enumerate(ORGANS)
        ],
        "series": [
            {"label": name, "kind": kind, "points": [(x, (x + 1) ** -0.5 + kind / 9) for x in range(30)]}
            for kind, name in enumerate(("training", EVIL))
        ],
        "dots": [dot(card, x=float(number), y=card.dice or 0) for number, card in enumerate(scored)],
    }
    with template(TEMPLATE if cards else '{% extends "page.html.j2" %}') as name:
        write_page(out, name, title=TITLE, cards=cards, layers=layers, columns=COLUMNS, content=content, folder=folder)
    return out


def until(page: Page, expression: str, argument: Any = None, limit_s: float = 8) -> None:
    """Wait until a script's value is true; playwright's own wait would need the eval that a page's policy forbids."""
    end = time.monotonic() + limit_s
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"not in {limit_s:g} s: {expression}"
        page.wait_for_timeout(20)
