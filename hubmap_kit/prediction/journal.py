"""A prediction's progress, kept on disk, so that one that was killed goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import replacing
from .ensemble import Job


class Journal:
    """Masks that are done, one JSON line an image, from which a killed prediction goes on."""

    def __init__(self, path: Path, key: str) -> None:
        """Open a journal, or begin one.

        Args:
            path: The file.
            key: What the masks depend on besides their images; a journal of another key is begun anew.
        """
        self._path = path
        self._lines: list[dict[str, Any]] = []
        head = {"key": key}
        if path.is_file():
            lines = [line for line in map(_json, path.read_text(encoding="utf-8").splitlines()) if line]
            if lines[:1] == [head]:
                self._lines = lines[1:]
        # Written anew, so that a line that was cut in two by a kill does not spoil the next.
        with replacing(path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in (head, *self._lines)), encoding="utf-8")

    def masks(self, jobs: Iterable[Job]) -> dict[int, str]:
        """Masks by id of those images that are still what they were."""
        wanted = {job.id: _made_from(job) for job in jobs}
        return {line["id"]: line["rle"] for line in self._lines if wanted.get(line["id"]) == line["made_from"]}

    def add(self, job: Job, mask: str) -> None:
        """Keep a mask."""
        with self._path.open("a", encoding="utf-8") as file:
            about = json.dumps({"id": job.id, "made_from": _made_from(job)})
            # Piece by piece, as a mask may be large; it holds nothing that JSON would escape.
            file.writelines((about[:-1], ', "rle": "', mask, '"}\n'))

    def end(self) -> None:
        """Remove the journal: all is in the submission."""
        self._path.unlink(missing_ok=True)


def _made_from(job: Job) -> list[Any]:
    """What a mask depends on of its image, as JSON values."""
    try:
        stat = job.path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns, job.organ, job.pixel_size_um, *job.shape]


def _json(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
