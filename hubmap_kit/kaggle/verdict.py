"""``verdict.json``: what a rehearsal found, and whether this clone may be pushed because of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import check_types, read_object, sha256_of, write_json
from ..words import listed
from .bundle import is_whole
from .clone import changes_in, commit_of, why_no_commit
from .hours import Hours
from .manifest import MANIFEST

FORMAT = 1  # files without a number, which earlier versions wrote, have the same keys
FILE = "verdict.json"
REHEARSAL = "rehearsal"  # folder in the clone for the rehearsal that a push looks at


@dataclass(frozen=True)
class Verdict:
    """What a rehearsal found.

    Attributes:
        passed: Whether everything that was rehearsed works.
        bundle: The bundle that was rehearsed, relative to the folder of the rehearsal.
        failure: What failed, if anything did.
        commit: Commit of the clone; None if it is unknown, or if the rehearsal failed before the bundle was built.
        dirty: Whether there were changes since that commit.
        manifest_sha256: Hash of the bundle's manifest.
        finished_at: When the rehearsal ended, in UTC, in ISO 8601.
        mean_dice: Mean Dice of the scored images, in [0, 1]; None if none was scored.
        extrapolated_hours: Hours that the inference kernel would take on this machine for Kaggle's hidden test set.
        hours: What `hubmap_kit.kaggle.hours.Hours` holds: how long the kernels take on Kaggle; None if it is unknown.
        seconds: How long each step took.
        peak_memory_bytes: The most memory that each kernel held at a time.
        isolated: Whether the kernels ran isolated from this machine.
        not_isolated: What was not isolated, in words.
        versions: Packages with another version here than in Kaggle's image: name to ``here`` and ``kaggle``.
        options: The options of the rehearsal, for the record.
    """

    passed: bool
    bundle: str
    failure: str | None = None
    commit: str | None = None
    dirty: bool = False
    manifest_sha256: str | None = None
    finished_at: str = ""
    mean_dice: float | None = None
    extrapolated_hours: float | None = None
    hours: Mapping[str, Any] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: Mapping[str, int] = field(default_factory=dict)
    isolated: bool = False
    not_isolated: tuple[str, ...] = ()
    versions: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Verdict:
        """Read the verdict in the folder of a rehearsal.

        Raises:
            ValueError: There is none, it is damaged, or a newer version of hubmap-kit wrote it.
        """
        return read_object(folder / FILE, cls._from_json, "rehearse again", formats=(FORMAT,), unnumbered=FORMAT)

    @classmethod
    def _from_json(cls, values: Mapping[str, Any]) -> Verdict:
        known = {key: values[key] for key in (f.name for f in fields(cls)) if key in values}
        check_types(cls, {"passed": values["passed"], "bundle": values["bundle"], **known})
        if known.get("hours") is not None:
            Hours.from_json(known["hours"])
        return cls(**known | {"not_isolated": tuple(known.get("not_isolated", ()))})

    def write(self, folder: Path) -> None:
        """Write the verdict into the folder of a rehearsal."""
        write_json(folder / FILE, {"format": FORMAT, **asdict(self)})


def obstacles(clone: Path, *, trains: bool) -> tuple[list[str], Path | None]:
    """Find out why a clone should not be pushed.

    Args:
        clone: The clone.
        trains: Whether the push runs the training kernel.

    Returns:
        The reasons, each with a remedy; and the bundle that was rehearsed, or None if there are reasons.
    """
    commit, dirty = commit_of(clone)
    found = []
    if commit is None:
        found.append(f"the commit is not known, so nobody could tell what was pushed: {why_no_commit(clone)}")
    elif dirty:
        names = listed(changes_in(clone))
        found.append(f"the clone has changes that are not committed: {names}; commit or remove them, and rehearse")
    folder = clone / REHEARSAL
    if not (folder / FILE).is_file():
        return [*found, "no rehearsal has passed; run: nox -s rehearse"], None
    verdict = Verdict.read(folder)
    if not verdict.passed:
        found.append(f"the rehearsal failed ({folder / FILE}); correct what it names and rehearse")
    if verdict.manifest_sha256 is None:  # it failed before there was a bundle
        return found, None
    if verdict.dirty or verdict.commit != commit:
        rehearsed = f"commit {verdict.commit}" + (" with changes" if verdict.dirty else "")
        return [*found, f"the rehearsal was of {rehearsed}, this is {commit}; run: nox -s rehearse"], None
    if trains and verdict.options.get("runs"):
        found.append("the rehearsal used --run, so the training kernel did not run; run: nox -s rehearse")
    kit = folder / verdict.bundle
    if not is_whole(kit) or sha256_of(kit / MANIFEST) != verdict.manifest_sha256:
        found.append(f"{kit} is not the bundle that was rehearsed; run: nox -s rehearse")
    return found, None if found else kit
