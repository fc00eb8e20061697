"""hubmap-kit push. It is run in a clone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import UsageError
from ..kaggle.push import PARTS
from ..terminal import Ending, Parser, add_run_flag, number_between, show_error
from ..words import did_you_mean

EXAMPLE = """\
hubmap-kit push --dry-run
hubmap-kit push weights infer --run run
hubmap-kit push train --set EPOCHS=30
"""
STOPPED = "kernels that run on Kaggle go on; go on with: {command}"


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument("parts", metavar="PART", nargs="*", type=_part, default=[], help=f"all (default), {names}")
    parser.add_argument(
        "--notebook",
        action="store_true",
        help="push the notebook of the results as a private kernel; PARTs only if they are named",
    )
    add_run_flag(parser, "run folder for the weights, instead of training")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change a kernel setting for this push: EPOCHS=30, or train.BATCH_SIZE=8 for one kernel; repeat it for "
        "more settings; docs/kernel-settings.md lists them",
    )
    parser.add_argument("--dry-run", action="store_true", help="show every call and file, and change nothing on Kaggle")
    parser.add_argument(
        "--force", action="store_true", help="push although changes are not committed, or no rehearsal passed"
    )
    parser.add_argument(
        "--poll",
        metavar="S",
        type=number_between(0.01, 86_400),
        help="seconds between questions to Kaggle (default: 5; kernels: 30)",
    )


def run(arguments: argparse.Namespace) -> Ending:
    """Push."""
    from ..kaggle.bundle import build_bundle
    from ..kaggle.clone import find_clone
    from ..kaggle.connection import Connection
    from ..kaggle.names import KIT, NOTEBOOK
    from ..kaggle.push import Push
    from ..kaggle.records import FOLDER, Records
    from ..kaggle.verdict import obstacles

    parts = arguments.parts or ([] if arguments.notebook else ["all"])
    names = [part.name for part in PARTS if part.name in parts or "all" in parts]
    if arguments.runs:
        if "weights" not in names:
            raise UsageError("--run names run folders for the part weights, which is not pushed")
        names = [name for name in names if name != "train"]
    clone, dry_run = find_clone(), arguments.dry_run
    changes = changed_settings(arguments.settings, names, clone)
    connection = Connection.connect(dry_run=dry_run)
    with Records(clone / FOLDER, connection.owner).locked():
        reasons, kit = obstacles(clone, trains="train" in names)
        for reason in reasons:
            if arguments.force or dry_run:
                print(f"{'overridden by --force' if arguments.force else 'a push would be refused'}: {reason}")
            else:
                show_error(f"{reason} (or push with --force)")
        if reasons and not arguments.force and not dry_run:
            return Ending(failed=True)
        if kit is None and not dry_run:
            kit = build_bundle(clone, clone / "dist" / KIT)
        known = "" if connection.connected else ": there are no credentials, so nothing is read from Kaggle"
        print(f"owner {connection.owner}{known}")
        settings = {part.slug: changes[part.name] for part in PARTS if part.name in changes}
        for slug, values in settings.items():
            print(f"{slug}: changed {', '.join(f'{key} = {value!r}' for key, value in values.items())}", flush=True)
        hours = hours_of(clone, changes) if {"train", "infer"} & {*names} and not arguments.runs else {}
        push = Push(connection, clone, kit, runs=arguments.runs, settings=settings, hours=hours, poll_s=arguments.poll)
        push.check([*(part.slug for part in PARTS if part.name in names), *([NOTEBOOK] if arguments.notebook else [])])
        if changes and not dry_run:
            try_settings(clone, changes)
        push.run(names)
        if arguments.notebook:
            push.notebook()
    pushed = ", ".join([*names, *(["notebook"] if arguments.notebook else [])])
    return Ending(
        f"dry run: nothing was sent; a push sends {pushed}" if dry_run else f"pushed {pushed}",
        next=("push", *(word for word in arguments.parser.argv if word != "--dry-run")) if dry_run else ("submit",),
        values={"parts": names, "notebook": arguments.notebook, "dry_run": dry_run},
    )


def kernel_settings(clone: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings in the files of the kernels among the parts `names`."""
    from ..kaggle.metadata import KERNELS, kernel_metadata
    from ..kaggle.source import settings_in

    given = {}
    for part in PARTS:
        if part.name in names and part.slug in KERNELS:
            folder = clone / KERNELS[part.slug]
            code = folder / kernel_metadata(folder, part.slug)["code_file"]
            given[part.name] = settings_in(code.read_text(encoding="utf-8"))
    return given


def changed_settings(texts: Sequence[str], names: Sequence[str], clone: Path) -> dict[str, dict[str, Any]]:
    """The settings that ``--set`` changes, by part, checked as the kernels check their own.

    Args:
        texts: The values of ``--set``.
        names: The parts that are pushed.
        clone: The clone.

    Raises:
        UsageError: No kernel that is pushed has the setting, or its value is not allowed.
    """
    from ..kernels import KINDS, value_of

    if not texts:
        return {}
    given = kernel_settings(clone, names)
    changes: dict[str, dict[str, Any]] = {}
    for text in texts:
        typed, equals, value = text.partition("=")
        place, _, setting = typed.strip().rpartition(".")
        meant = [name for name in given if setting in given[name] and place in ("", name)]
        if not (equals and meant):
            known = sorted({key for values in given.values() for key in values})
            raise UsageError(
                f"--set {text}: write NAME=VALUE, with a setting of a kernel that is pushed"
                f"{did_you_mean(setting, known)} (the settings are {', '.join(known) or 'not pushed'})"
            )
        for name in meant:
            changes.setdefault(name, {})[setting] = value_of(KINDS[name], setting, value.strip())
    check_changes(changes, given, "--set")
    return changes


def check_changes(changes: Mapping[str, Mapping[str, Any]], given: Mapping[str, Mapping[str, Any]], flag: str) -> None:
    """Check changed settings as the kernels check their own.

    Args:
        changes: New values, for ``train``, ``infer``, and ``smoke``, which is the training kernel with one step.
        given: Settings of the kernel files, by part; see `kernel_settings`.
        flag: The flag that gives the new values.

    Raises:
        UsageError: There is no such setting, or its value is not allowed.
    """
    from ..kernels import KINDS, changed

    try:
        for name, values in changes.items():
            part = "infer" if name == "infer" else "train"
            changed(KINDS[part], given[part], values, flag).check()
    except ValueError as error:
        raise UsageError(str(error)) from error


def hours_of(clone: Path, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A line for each kernel, by its name on Kaggle: how long it takes there, or how to find out.

    Args:
        clone: The clone.
        changes: Changed settings, by part. They are estimated here; without any, the rehearsal did it.
    """
    from ..kaggle.clone import commit_of
    from ..kaggle.hours import Hours, estimate, read_pace
    from ..kaggle.records import FOLDER, PACE
    from ..kaggle.verdict import FILE, REHEARSAL, Verdict

    try:
        if changes:
            hours = estimate(clone, changes)
        else:
            verdict = Verdict.read(clone / REHEARSAL) if (clone / REHEARSAL / FILE).is_file() else None
            commit, dirty = commit_of(clone)
            known = verdict.hours if verdict and verdict.commit == commit and not (dirty or verdict.dirty) else None
            if known is None:
                raise ValueError("a rehearsal of this commit estimates them; run: nox -s rehearse")
            hours = Hours.from_json(known)
        return hours.lines(read_pace(clone / FOLDER / PACE, hours.step))
    except ValueError as error:
        unknown = f"hours on Kaggle unknown: {error}"
        return {part.slug: unknown for part in PARTS if part.name in ("train", "infer")}


def try_settings(clone: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Try changed settings here. If this Python lacks TensorFlow, the rehearsal's Python tries them.

    Args:
        clone: The clone.
        changes: The settings, by part.

    Raises:
        ValueError: The settings do not work, or TensorFlow is missing.
    """
    import json
    import subprocess

    from ..kaggle.hours import python_with_tensorflow

    python = python_with_tensorflow(clone)
    if python is None:
        raise ValueError("TensorFlow is needed to try the changed settings; run: nox -s rehearse")
    command = [python, "-m", "hubmap_kit", "rehearse", "--smoke", "--settings", json.dumps(changes)]
    if subprocess.run(command, cwd=clone).returncode:
        raise ValueError("the changed settings do not work here, as shown above; nothing was pushed")


def _part(name: str) -> str:
    """A part of a push, by its name."""
    names = ["all", *(part.name for part in PARTS)]
    if name not in names:
        raise argparse.ArgumentTypeError(
            f"there is no part {name}{did_you_mean(name, names)}; the parts are {', '.join(names)}"
        )
    return name
