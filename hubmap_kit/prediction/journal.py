"""The progress of a prediction, kept on disk, so that a prediction that was killed can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import replacing
from ..rle import parse
from ..tables import Image


class Journal:
    """The masks that are done: a first line with the key, then one JSON line per image."""

    def __init__(self, path: Path, key: str) -> None:
        """Open a journal, or begin one.

        Args:
            path: The file.
            key: Fingerprint of everything but the images that the masks depend on. A journal with another key is
                begun anew.
        """
        self._path = path
        self._lines: list[dict[str, Any]] = []
        head = {"key": key}
        if path.is_file():
            lines = [
                line for line in map(_json, path.read_text(encoding="utf-8", errors="replace").splitlines()) if line
            ]
            if lines[:1] == [head]:
                self._lines = [line for line in lines[1:] if _holds_mask(line)]
        # Written anew, because a kill may have cut the last line.
        with replacing(path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in (head, *self._lines)), encoding="utf-8")

    def masks(self, images: Iterable[Image]) -> dict[int, str]:
        """Masks by id, of the images that have not changed since; a damaged mask is left out."""
        wanted = {image.id: image for image in images}
        found = {}
        for line in self._lines:
            image = wanted.get(line["id"])
            if image is not None and _made_from(image) == line["made_from"]:
                with suppress(ValueError):
                    parse(line["rle"], image.shape)
                    found[image.id] = line["rle"]
        return found

    def add(self, image: Image, mask: str) -> None:
        """Add the mask of an image."""
        with self._path.open("a", encoding="utf-8") as file:
            head = json.dumps({"id": image.id, "made_from": _made_from(image)})
            # In parts, because a mask may be large; it has no characters that JSON would escape.
            file.writelines((head[:-1], ', "rle": "', mask, '"}\n'))

    def end(self) -> None:
        """Remove the journal, once all masks are in the submission."""
        self._path.unlink(missing_ok=True)


def _made_from(image: Image) -> list[Any]:
    """The facts about an image that its mask depends on, as JSON values; empty if its file is missing."""
    try:
        stat = image.path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, image.organ, image.pixel_size_um, *image.shape]


def _holds_mask(line: dict[str, Any]) -> bool:
    """Whether a line is one that `Journal.add` writes."""
    types = {"id": int, "made_from": list, "rle": str}
    return all(isinstance(line.get(name), kind) for name, kind in types.items())


def _json(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
