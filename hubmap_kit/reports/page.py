"""One HTML file with everything in it, or one with its pictures in a folder beside it; its templates lie beside this.

A page holds a card for each image, a table of all images, and the data of the viewer that opens on a card. A content
security policy inside the page forbids every request, and Jinja escapes every text.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup

from .. import __version__
from ..files import replacing
from .pictures import QUALITIES, THUMB_PX, VIEW_PX, Drawn

MAX_MB = 30.0
MB = 10**6


@dataclass(frozen=True)
class Layer:
    """An outline that the images of a page can have; its place in the page's list decides how it is drawn.

    Attributes:
        key: Lower-case letters and digits, such as ``truth``; see `Subject.masks`.
        label: Its name for people.
    """

    key: str
    label: str


@dataclass(frozen=True)
class Flag:
    """Something about an image that a person should look at.

    Attributes:
        key: One word for all flags of a kind, by which the page filters.
        text: What was found on this image, in one sentence.
        severity: How bad it is.
    """

    key: str
    text: str
    severity: Literal["error", "warning", "note"] = "warning"


@dataclass(frozen=True)
class Column:
    """A column of the table of all images.

    Attributes:
        key: Key of `Card.values`.
        label: Its header.
        digits: Decimal places of its numbers.
        unit: Their unit.
        kind: Whether it holds numbers or text.
    """

    key: str
    label: str
    digits: int = 3
    unit: str = ""
    kind: Literal["number", "text"] = "number"


@dataclass(frozen=True)
class Card:
    """One image on a page.

    Attributes:
        drawn: Its pictures.
        split: The split it belongs to; empty if there are none.
        dice: Its Dice in [0, 1], if it is known.
        flags: What a person should look at.
        values: Its row of the table of all images, by `Column.key`.
        note: One line about it.
        related: Links to other cards: what they are to this one, and their `key`.
        wanted: A page that has no room for all large pictures takes those of the highest numbers.
        group: Put before the id where two images of a page could have the same one, such as ``train``.
    """

    drawn: Drawn
    split: str = ""
    dice: float | None = None
    flags: Sequence[Flag] = ()
    values: Mapping[str, float | str | None] = field(default_factory=dict)
    note: str = ""
    related: Sequence[tuple[str, str]] = ()
    wanted: float = 0.0
    group: str = ""

    @property
    def key(self) -> str:
        """Names the card within its page: the image's id, after the group if there is one."""
        return f"{self.group}-{self.drawn.subject.image.id}".lstrip("-")


def write_page(
    out: Path,
    template: str,
    *,
    title: str,
    cards: Sequence[Card],
    layers: Sequence[Layer],
    columns: Sequence[Column] = (),
    content: Mapping[str, Any],
    max_mb: float = MAX_MB,
    folder: bool = False,
) -> str:
    """Write a page.

    Args:
        out: HTML file to write.
        template: Name of a template that extends ``page.html.j2``.
        title: Title of the page.
        cards: Its images, in the order in which it shows them.
        layers: The outlines that they have.
        columns: Columns of the table of all images, beside id, organ, source, split and Dice.
        content: What the template reads as ``content``.
        max_mb: Size of the page, in MB of 10^6 bytes, to keep to: first the quality of the pictures is lowered, then
            large pictures and parts in native pixels are left out. Not for a page with a folder.
        folder: Write the pictures to a folder beside the page, ``report_files`` for ``report.html``.

    Returns:
        One line: the page, its size, and what was lowered or left out.

    Raises:
        ValueError: `max_mb` is not above 0.
    """
    if not max_mb > 0:
        raise ValueError(f"--max-mb is {max_mb:g}; it must be above 0, in MB")
    pictures = out.with_name(f"{out.stem}_files") if folder else None
    if pictures:
        _check_folder(pictures)
    environment = _environment()
    style, script = (_text(environment, name) for name in ("page.css", "viewer.js"))
    names = [template, title, *(card.key for card in cards)]
    context = {
        "title": title,
        "style": Markup(style),
        "script": Markup(script),
        "csp": _policy(style, script, folder),
        "layers": [asdict(layer) | {"number": number} for number, layer in enumerate(layers)],
        "columns": [asdict(column) for column in columns],
        "content": content,
        "made": {"kit": __version__, "time": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")},
        "folder": folder,
        "meta": {
            "page": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
            "layers": [asdict(layer) for layer in layers],
            "cards": {card.key: _facts(card) for card in cards},
        },
    }
    # What the page takes beside its pictures is known only once it is written: if it became too large, once more.
    room = math.inf if folder else max_mb * MB
    with replacing(out) as part:
        for _ in range(3):
            chosen = _Choice.best(cards, room)
            shown = [_shown(card, chosen, pictures) for card in cards]
            with part.open("w", encoding="utf-8", newline="\n") as file:
                # In pieces: each picture is read when its turn comes, so that the page is never whole in memory.
                pieces = environment.get_template(template).generate(context, cards=shown, notes=chosen.notes)
                file.writelines(pieces)
            size = part.stat().st_size
            if folder or size <= max_mb * MB:
                break
            room -= size - max_mb * MB
        if pictures:
            size += _fill(pictures, cards, chosen)
    line = f"{out}, {size / MB:.1f} MB" + (f" with its pictures in {pictures}" if pictures else "")
    notes = list(chosen.notes)
    if not folder and size > max_mb * MB:
        notes.append(f"--max-mb {max_mb:g} cannot be kept: text, outlines and small pictures take more")
    return "; ".join([line, *notes])


def _text(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader
    return environment.loader.get_source(environment, name)[0]


def _environment() -> jinja2.Environment:
    """Templates by name, read as resources of the package, because the library may be imported from a zip file."""
    folder = importlib.resources.files(__package__).joinpath("templates")
    texts = {entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.is_file()}
    return jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _policy(style: str, script: str, folder: bool) -> str:
    """The content security policy: nothing but our own style and script, and pictures that the page holds."""

    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    images = "data: blob: 'self' file:" if folder else "data: blob:"
    return (
        f"default-src 'none'; img-src {images}; style-src {digest(style)}; script-src {digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )


@dataclass(frozen=True)
class _Choice:
    """Which pictures a page holds: the quality of small ones, and of each card the large one and the native part.

    Attributes:
        quality: Quality of thumbnails and native parts, one of `QUALITIES`.
        crops: Keys of the cards whose native part is shown.
        views: Kind of the large picture, by card's key.
        notes: What was lowered or left out, for people.
    """

    quality: int
    crops: frozenset[str]
    views: Mapping[str, str]
    notes: tuple[str, ...]

    @classmethod
    def best(cls, cards: Sequence[Card], room: float) -> _Choice:
        """The best choice with which a page of these cards takes about `room` bytes; everything if that is infinite."""
        by_want = sorted(cards, key=lambda card: -card.wanted)
        if math.isinf(room):
            return cls(QUALITIES[0], frozenset(card.key for card in cards), _views(by_want, VIEW_PX[0], room), ())
        room -= sum(_text_bytes(card.drawn) for card in cards)
        for quality in QUALITIES:
            left = room - sum(_stored(card.drawn, kind, quality) for card in cards for kind in ("thumb", "crop"))
            if left >= 0:
                break
        crops = [card.key for card in by_want]
        for card in reversed(by_want):
            if left >= 0:
                break
            left += _stored(card.drawn, "crop", quality)
            crops.pop()
        wanted = sum(_has_view(card.drawn) for card in cards)
        for side in VIEW_PX:
            views = _views(by_want, side, left)
            if len(views) == wanted:
                break
        notes = []
        if quality != QUALITIES[0]:
            notes.append(f"pictures have quality {quality} of 100 in place of {QUALITIES[0]}")
        if len(views) < wanted:
            notes.append(f"{wanted - len(views)} of {wanted} images have no large picture")
        if len(crops) < len(cards):
            notes.append(f"{len(cards) - len(crops)} of {len(cards)} images have no part in native pixels")
        if notes:
            notes.append("a larger --max-mb, or --folder, shows more")
        return cls(quality, frozenset(crops), views, tuple(notes))


def _views(by_want: Sequence[Card], side: int, room: float) -> dict[str, str]:
    """Kind of the large picture, up to `side` px, of as many cards as fit in `room` bytes, by card's key."""
    views = {}
    for card in by_want:
        kinds = [kind for kind, _ in card.drawn.sizes if kind.startswith("view") and int(kind[4:]) <= side]
        if kinds:
            room -= _stored(card.drawn, kinds[0], QUALITIES[0])
            if room < 0:
                break
            views[card.key] = kinds[0]
    return views


def _has_view(drawn: Drawn) -> bool:
    return any(kind.startswith("view") for kind, _ in drawn.sizes)


def _stored(drawn: Drawn, kind: str, quality: int) -> float:
    """Bytes that a picture takes in a page, as base64."""
    return drawn.sizes.get((kind, quality), 0) * 4 / 3


def _text_bytes(drawn: Drawn) -> float:
    """Bytes that an image's outlines and maps take in a page."""
    outlines = sum(len(path) for layer in drawn.outlines().values() for path in layer.values())
    return outlines + sum(drawn.map(layer).stat().st_size * 4 / 3 for layer in drawn.maps)


@dataclass(frozen=True)
class _Stored:
    """A picture of a page; its text, base64 or a data URL, is read when it is written."""

    path: Path
    prefix: str = ""

    def __str__(self) -> str:
        return self.prefix + base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class _Outline:
    """An SVG path of a page; it is read when it is written."""

    drawn: Drawn
    layer: str
    detail: str

    def __str__(self) -> str:
        return self.drawn.outlines()[self.layer][self.detail]


def _facts(card: Card) -> dict[str, Any]:
    """What the script knows of a card."""
    drawn, image = card.drawn, card.drawn.subject.image
    return {
        "id": image.id,
        "name": image.name,
        "organ": image.organ,
        "source": image.source,
        "split": card.split,
        "dice": card.dice,
        "flags": [flag.key for flag in card.flags],
        "shape": drawn.shape,
        "um": image.pixel_size_um,
        "crop": drawn.crop,
        "layers": list(drawn.subject.masks),
        "compare": drawn.subject.compare,
        "thresholds": dict(drawn.subject.thresholds),
        "note": card.note,
        "related": card.related,
    }


def _shown(card: Card, chosen: _Choice, pictures: Path | None) -> dict[str, Any]:
    """What the template reads of a card."""
    drawn, image = card.drawn, card.drawn.subject.image

    def url(kind: str, quality: int) -> Any:
        path = drawn.picture(kind, quality)
        return f"{pictures.name}/{path.name}" if pictures else _Stored(path, "data:image/webp;base64,")

    blobs = []
    for kind, quality in _chosen_pictures(card, chosen):
        if kind != "thumb":
            path = drawn.picture(kind, quality)
            stored = {"url": url(kind, quality), "text": ""} if pictures else {"url": "", "text": _Stored(path)}
            blobs.append({"kind": kind.rstrip("0123456789"), "layer": "", **stored})
    # Maps stay in the page: a script may not read the pixels of a file beside it.
    blobs += [{"kind": "map", "layer": layer, "url": "", "text": _Stored(drawn.map(layer))} for layer in drawn.maps]
    outlined = list(drawn.outlines())
    blobs += [{"kind": "outline", "layer": key, "url": "", "text": _Outline(drawn, key, "fine")} for key in outlined]
    scale = min(1, THUMB_PX / max(drawn.shape))
    return {
        "key": card.key,
        "id": image.id,
        "name": image.name,
        "organ": image.organ,
        "source": image.source,
        "split": card.split,
        "dice": card.dice,
        "flags": [asdict(flag) for flag in card.flags],
        "note": card.note,
        "related": card.related,
        "error": drawn.error,
        "shape": drawn.shape,
        "pixel_size_um": image.pixel_size_um,
        "values": card.values,
        "thumb": url("thumb", chosen.quality) if drawn.crop else "",
        "thumb_size": tuple(max(1, round(side * scale)) for side in reversed(drawn.shape)),
        "coarse": {key: _Outline(drawn, key, "coarse") for key in outlined},
        "blobs": blobs,
    }


def _chosen_pictures(card: Card, chosen: _Choice) -> Iterator[tuple[str, int]]:
    """Kind and quality of the pictures of a card that the page holds."""
    if card.drawn.crop is None:
        return
    yield "thumb", chosen.quality
    if card.key in chosen.crops:
        yield "crop", chosen.quality
    if card.key in chosen.views:
        yield chosen.views[card.key], QUALITIES[0]


def _check_folder(pictures: Path) -> None:
    """Raise unless a folder for pictures is new, or holds pictures of an earlier page alone."""
    if pictures.exists() and not (pictures.is_dir() and len(_files(pictures)) == len(list(pictures.iterdir()))):
        raise ValueError(f"{pictures} holds other files than a page's pictures; name another --out, or move them")


def _fill(pictures: Path, cards: Iterable[Card], chosen: _Choice) -> int:
    """Write the folder beside a page, in place of that of an earlier page; returns its bytes."""
    part = pictures.with_name(f".{os.getpid()}.part.{pictures.name}")
    try:
        part.mkdir()
        for card in cards:
            for kind, quality in _chosen_pictures(card, chosen):
                path = card.drawn.picture(kind, quality)
                shutil.copyfile(path, part / path.name)
        shutil.rmtree(pictures, ignore_errors=True)
        part.rename(pictures)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return sum(path.stat().st_size for path in _files(pictures))


def _files(pictures: Path) -> list[Path]:
    """The pictures in a page's folder."""
    return [path for path in pictures.glob("*.webp") if re.fullmatch(r"\d+-[a-z]+\d*-\d+\.webp", path.name)]
