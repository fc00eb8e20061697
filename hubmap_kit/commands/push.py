"""hubmap-kit push. It is run in a clone."""

from __future__ import annotations

import argparse
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
    changes = _changes(arguments.settings, names, clone)
    connection = Connection.connect(dry_run=dry_run)
    with Records(clone / FOLDER, connection.owner).locked():
        reasons, kit = obstacles(clone)
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
        for slug, values in changes.items():
            print(f"{slug}: changed {', '.join(f'{key} = {value!r}' for key, value in values.items())}", flush=True)
        push = Push(connection, clone, kit, runs=arguments.runs, settings=changes, poll_s=arguments.poll)
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


def _changes(texts: list[str], names: list[str], clone: Path) -> dict[str, dict[str, Any]]:
    """The settings that ``--set`` changes, by kernel, checked as the kernels check their own.

    Raises:
        UsageError: No kernel that is pushed has the setting, or its value is not allowed.
    """
    from ..kaggle.metadata import KERNELS, kernel_metadata
    from ..kaggle.source import settings_in
    from ..kernels import InferSettings, TrainSettings, changed, value_of

    if not texts:
        return {}
    kinds: dict[str, Any] = {"train": TrainSettings, "infer": InferSettings}
    slugs = {part.name: part.slug for part in PARTS if part.name in kinds and part.name in names}
    given = {}
    for name, slug in slugs.items():
        folder = clone / KERNELS[slug]
        code = folder / kernel_metadata(folder, slug)["code_file"]
        given[name] = settings_in(code.read_text(encoding="utf-8"))
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
            changes.setdefault(name, {})[setting] = value_of(kinds[name], setting, value.strip())
    try:
        for name, values in changes.items():
            changed(kinds[name], given[name], values, "--set").check()
    except ValueError as error:
        raise UsageError(str(error)) from error
    return {slugs[name]: values for name, values in changes.items()}


def try_settings(clone: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Try changed settings here. If this Python lacks TensorFlow, the rehearsal's Python tries them.

    Raises:
        ValueError: The settings do not work, or TensorFlow is missing.
    """
    import importlib.util
    import json
    import subprocess
    import sys

    folder = clone / ".nox" / "rehearse"
    pythons = [sys.executable] if importlib.util.find_spec("tensorflow") else []
    pythons += [str(path) for path in (folder / "bin/python", folder / "Scripts/python.exe") if path.is_file()]
    if not pythons:
        raise ValueError("TensorFlow is needed to try the changed settings; run: nox -s rehearse")
    settings = {part.name: changes[part.slug] for part in PARTS if part.slug in changes}
    command = [pythons[0], "-m", "hubmap_kit", "rehearse", "--smoke", "--settings", json.dumps(settings)]
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
