"""``hubmap-kit.json``, the manifest of the dataset ``hubmap-kit``: which wheels it holds, and from which commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import check_types, read_object, sha256_of, write_json
from .names import KIT

MANIFEST = f"{KIT}.json"
LIBRARY = "hubmap_kit"  # the module of the library's own wheel, which the manifest lists first


@dataclass(frozen=True)
class BundledWheel:
    """A wheel in the dataset.

    Attributes:
        file: Its file name.
        module: The module it brings.
        sha256: Its hash.
    """

    file: str
    module: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The manifest.

    Attributes:
        version: Version of the library.
        commit: Git commit that the library was built from; None where it is unknown.
        dirty: Whether there were changes since that commit.
        wheels: All wheels of the dataset; the library's own is the first.
    """

    version: str
    commit: str | None
    dirty: bool
    wheels: tuple[BundledWheel, ...]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a dataset folder.

        Raises:
            ValueError: The folder has no manifest, or a damaged one.
        """
        return read_object(folder / MANIFEST, cls._from_json, "build the bundle again")

    @classmethod
    def _from_json(cls, values: Mapping[str, Any]) -> Manifest:
        for wheel in values["wheels"]:
            check_types(BundledWheel, wheel)
        wheels = tuple(BundledWheel(wheel["file"], wheel["module"], wheel["sha256"]) for wheel in values["wheels"])
        given = {name: values[name] for name in ("version", "commit", "dirty")} | {"wheels": wheels}
        check_types(cls, given)
        return cls(**given)

    def write(self, folder: Path) -> None:
        """Write the manifest into a dataset folder."""
        write_json(folder / MANIFEST, {"name": KIT, **asdict(self)})

    def damaged(self, folder: Path) -> list[Path]:
        """The wheels that are missing in a dataset folder, or are not the file that the manifest describes."""
        paths = {folder / wheel.file: wheel.sha256 for wheel in self.wheels}
        return [path for path, sha256 in paths.items() if not path.is_file() or sha256_of(path) != sha256]
