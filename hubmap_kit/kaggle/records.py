"""What was pushed and submitted from a clone, in its folder ``records`` (not tracked by git).

::

    state.json        newest version of each dataset and kernel, and what was begun but not ended
    pushes.csv        one row for every version made
    submissions.csv   one row for every submission
    pace.json         times of a step, a fold and an image on Kaggle, as the newest kernels measured them
    output/           what kernels left: output/<owner>/<kernel>/v<version>/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..claim import claim
from ..competition import SUBMISSION
from ..files import has_type, read_json, read_rows, write_json, write_rows
from .clone import find_clone

FOLDER = "records"
PUSHES, SUBMISSIONS = "pushes.csv", "submissions.csv"
PUSH_COLUMNS = ("time", "commit", "name", "version", "sources", "runs", "local_score", "url")
PACE = "pace.json"  # in the records, and in a kernel's output
# Values that a kernel may measure, and their types; a value that it did not measure is left out.
PACE_KEYS: dict[str, Any] = {
    "step": str,
    "devices": list[str],
    "seconds_per_step": float,
    "seconds_per_fold": float,
    "seconds_per_image": float,
    "peak_memory_bytes": int,  # of the process
    "peak_gpu_memory_bytes": int,  # of the fullest GPU, where there is one
    "kernel": str,  # which measured the step; in the records only, as its version
    "version": int,
}
SETTINGS = "settings"  # one more column, which files of earlier versions do not have: what --set changed


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
            ValueError: ``state.json`` or ``pushes.csv`` is damaged.
        """
        self.folder = folder
        self.owner = owner
        path = folder / "state.json"
        self._state: dict[str, Any] = read_json(path) if path.is_file() else {}
        if not has_type(self._state, dict[str, dict[str, Any]]):
            raise ValueError(f"{path} is damaged: it must be an object of objects; restore it from a copy")
        read_rows(folder / PUSHES, PUSH_COLUMNS)  # what is damaged is named before anything is made on Kaggle

    def get(self, name: str) -> dict[str, Any]:
        """What is recorded about a dataset or kernel; empty if nothing is."""
        entry: dict[str, Any] = self._state.get(f"{self.owner}/{name}", {})
        return entry

    def put(self, name: str, entry: dict[str, Any]) -> None:
        """Replace what is recorded about a dataset or kernel."""
        self._state[f"{self.owner}/{name}"] = entry
        write_json(self.folder / "state.json", self._state)

    def log_push(self, row: dict[str, str]) -> None:
        """Add a row, some of `PUSH_COLUMNS`, to ``pushes.csv``, or replace the row of the same version.

        The time and the owner are added.
        """
        path = self.folder / PUSHES
        row = row | {"time": now(), "name": f"{self.owner}/{row['name']}"}
        others = [
            each for each in read_rows(path, PUSH_COLUMNS) if any(each[key] != row[key] for key in ("name", "version"))
        ]
        write_rows(path, [*PUSH_COLUMNS, SETTINGS], [*others, row])

    def pushed(self, name: str) -> dict[int, dict[str, str]]:
        """Rows of ``pushes.csv`` of a dataset or kernel, by version; the last row of each version."""
        path = self.folder / PUSHES
        rows = [row for row in read_rows(path, PUSH_COLUMNS) if row["name"] == f"{self.owner}/{name}"]
        if wrong := [row["version"] for row in rows if not row["version"].isdecimal()]:
            raise ValueError(f"{path}: version is {wrong[0]!r}; it must be a whole number: correct it")
        return {int(row["version"]): row for row in rows}

    def output(self, kernel: str, version: int) -> Path:
        """Folder for the files that a kernel's version left."""
        return self.folder / "output" / self.owner / kernel / f"v{version}"

    def keep_pace(self, kernel: str, version: int) -> bool:
        """Put the pace that a version measured into ``pace.json``; returns whether it measured one.

        The time of an image is that of the submission's timings. Values that it did not measure are kept from the other
        kernel; ``kernel`` and ``version`` are those that measured the step. A damaged file is ignored, because its
        values only improve an estimate.
        """
        from ..submission import read_timings  # here, because it imports NumPy, which --help does without

        output = self.output(kernel, version)
        measured = self._pace(output / PACE) or self._pace(output / "run" / PACE)
        with suppress(ValueError):
            if seconds := [timing.seconds for timing in read_timings(output / SUBMISSION)]:
                measured["seconds_per_image"] = sum(seconds) / len(seconds)
        if measured:
            known = self._pace(self.folder / PACE)
            if "seconds_per_step" in measured:
                measured |= {"kernel": kernel, "version": version}
            write_json(self.folder / PACE, {"format": 1, **known, **measured})
        return bool(measured)

    @staticmethod
    def _pace(path: Path) -> dict[str, Any]:
        """The values of a ``pace.json`` that are as they should be; none if there is no such file."""
        try:
            values = read_json(path)
        except ValueError:
            return {}
        if not isinstance(values, dict) or values.get("format") != 1:
            return {}
        return {key: values[key] for key, kind in PACE_KEYS.items() if has_type(values.get(key), kind)}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second push or submission from running in this clone.

        Raises:
            ValueError: One is running.
        """
        with claim(self.folder, "hubmap-kit push or submit", folder=True):
            yield


def earlier_submissions(start: Path | None = None) -> list[tuple[str, Path]]:
    """What versions of the inference kernel predicted, as far as this clone fetched it: a name and a CSV for each.

    Args:
        start: A folder in the clone; the current one by default.

    Returns:
        The newest first; none outside a clone.
    """
    try:
        outputs = find_clone(start) / FOLDER / "output"
    except ValueError:
        return []
    files = sorted(outputs.glob(f"*/*/v*/{SUBMISSION}"), key=lambda path: path.stat().st_mtime, reverse=True)
    return [(f"version {path.parent.name.removeprefix('v')} of {path.parent.parent.name}", path) for path in files]


def now() -> str:
    """This moment in UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
