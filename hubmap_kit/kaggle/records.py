"""What was pushed and submitted from a clone, in its folder ``records`` (not tracked by git).

::

    state.json        newest version of each dataset and kernel, and what was begun but not ended
    pushes.csv        one row for every version made
    submissions.csv   one row for every submission
    output/           what kernels left: output/<owner>/<kernel>/v<version>/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import has_type, read_json, read_rows, write_json, write_rows

FOLDER = "records"
PUSHES, SUBMISSIONS = "pushes.csv", "submissions.csv"
PUSH_COLUMNS = ("time", "commit", "name", "version", "sources", "runs", "local_score", "url")


class Records:
    """The folder ``records`` of a clone, read once and written at every change.

    Attributes:
        folder: The folder.
        owner: The user on Kaggle whose datasets and kernels the records are about.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        """Read the records, if there are any.

        Args:
            folder: The folder; made when something is recorded.
            owner: See the class.

        Raises:
            ValueError: ``state.json`` is damaged.
        """
        self.folder = folder
        self.owner = owner
        path = folder / "state.json"
        self._state: dict[str, Any] = read_json(path) if path.is_file() else {}
        if not has_type(self._state, dict[str, dict[str, Any]]):
            raise ValueError(f"{path} is damaged: it must be an object of objects; restore it from a copy")

    def get(self, name: str) -> dict[str, Any]:
        """What is recorded about a dataset or kernel; empty if nothing is."""
        entry: dict[str, Any] = self._state.get(f"{self.owner}/{name}", {})
        return entry

    def put(self, name: str, entry: dict[str, Any]) -> None:
        """Replace what is recorded about a dataset or kernel."""
        self._state[f"{self.owner}/{name}"] = entry
        write_json(self.folder / "state.json", self._state)

    def log_push(self, row: dict[str, str]) -> None:
        """Add a row, some of `PUSH_COLUMNS`, to ``pushes.csv``; the time and the owner are added."""
        path = self.folder / PUSHES
        row = row | {"time": now(), "name": f"{self.owner}/{row['name']}"}
        write_rows(path, PUSH_COLUMNS, [*read_rows(path), row])

    def pushed(self, name: str) -> dict[int, dict[str, str]]:
        """Rows of ``pushes.csv`` of a dataset or kernel, by version; the last row of each version."""
        rows = read_rows(self.folder / PUSHES)
        return {int(row["version"]): row for row in rows if row["name"] == f"{self.owner}/{name}"}

    def output(self, kernel: str, version: int) -> Path:
        """Folder for the files that a kernel's version left."""
        return self.folder / "output" / self.owner / kernel / f"v{version}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second push or submission from running in this clone.

        Raises:
            ValueError: One is running.
        """
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            rule = f"another push or submission is running in this clone ({lock.lock_file})"
            raise ValueError(f"{rule}; wait for it") from None
        try:
            yield
        finally:
            lock.release()


def now() -> str:
    """This moment in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
