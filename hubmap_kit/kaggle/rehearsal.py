"""The rehearsal: a whole competition on this machine, through the very kernels that Kaggle will run.

Demo competition, bundle, training kernel, its output as a dataset, inference kernel, validation,
score, pictures. The kernels run in `hubmap_kit.kaggle.isolation`, offline, and see only the sources
that their ``kernel-metadata.json`` names. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..competition import SLUG
from ..demo import write_demo
from ..files import read_json
from ..metrics import mean_dice, score_text
from ..overlays import contact_sheet
from ..report import write_report
from ..submission import score, validate
from . import isolation
from .bundle import CLONE, METADATA, build_bundle

LEAST_DICE = 0.75  # mean Dice on the demo's test set that shows that the network learned

# The kernels' settings that differ from their files: a network for two cores and minutes, no download.
SETTINGS: dict[str, dict[str, Any]] = {
    "train": {"RECIPE": "fast", "ENCODER_WEIGHTS": "none", "INPUT_SIZE": 128},
    "infer": {},
}

OWNER = "rehearsal"
LAYOUTS = ("nested", "flat")
_MARKER = "rehearsal.json"
_SHOWN = 160  # characters of a kernel's line that are shown; the log has it whole
_TAIL = 30  # lines of the log that are shown when a kernel fails


def rehearse(
    out: Path,
    *,
    source: Path = CLONE,
    train: int = 40,
    test: int = 20,
    size: int = 1024,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    extras: bool = True,
    least_dice: float = LEAST_DICE,
) -> int:
    """Rehearse the competition.

    Args:
        out: Folder for all that comes of it; an earlier rehearsal there is replaced.
        source: The clone, whose kernels and library are rehearsed.
        train: Training images of the demo.
        test: Test images of the demo.
        size: Side of its training images, in px.
        seed: Seed of the demo.
        settings: Kernel (``train``, ``infer``) to setting to value, on top of `SETTINGS`.
        extras: Whether the bundle holds the wheels that Kaggle's image lacks; False where this
            Python has them all.
        least_dice: Mean Dice that has to be reached.

    Returns:
        0 if the submission is valid and good enough, else 1. All is told on stdout.

    Raises:
        ValueError: `out` holds something else, or the bundle cannot be built.
    """
    unknown = set(settings or {}) - set(SETTINGS)
    if unknown:
        raise ValueError(f"there is no kernel {', '.join(sorted(unknown))}; settings are for {', '.join(SETTINGS)}")
    out = out.resolve()
    _clear(out)
    begin = time.monotonic()
    attached = out / "input"
    data = attached / "competitions" / SLUG
    kit, weights = (attached / "datasets" / OWNER / name for name in ("hubmap-kit", "hubmap-weights"))
    truth, submission = out / "test_truth.csv", out / "infer" / "submission.csv"

    with _step("demo competition"):
        write_demo(data, train=train, test=test, size=size, seed=seed)
        shutil.move(data / truth.name, truth)
    with _step("bundle"):
        build_bundle(source, kit, extras=extras)
    obstacle = isolation.obstacle()
    if obstacle:
        print(f"The kernels run without isolation: {obstacle}. Not isolated are")
        print("\n".join(f"  {what}" for what in isolation.NOT_ISOLATED))
    for kernel, layout in zip(SETTINGS, LAYOUTS, strict=True):
        changes = SETTINGS[kernel] | dict((settings or {}).get(kernel, {}))
        with _step(f"{kernel} kernel, offline, sources mounted {layout}"):
            status = _run_kernel(kernel, source, out, layout, changes, isolated=obstacle is None)
        product = {"train": out / "train" / "run", "infer": submission}[kernel]
        if status or not product.exists():
            what = f"ended with status {status}" if status else f"left no {product.name} in /kaggle/working"
            log = out / f"{kernel}.log"
            tail = log.read_text(encoding="utf-8").splitlines()[-_TAIL:]
            print("\n".join([f"The {kernel} kernel {what}. The end of {log}:", *tail]))
            return 1
        if kernel == "train":
            shutil.copytree(product, weights / "run")
            shutil.copyfile(source / "datasets" / weights.name / METADATA, weights / METADATA)

    with _step("validate and score"):
        problems = validate(submission, data)
        print("\n".join(map(str, problems)) or f"{submission} is valid")
        if any(problem.severity == "error" for problem in problems):
            return 1
        scores = score(submission, truth)
        scores.to_csv(out / "scores.csv", index=False)
    with _step("pictures"):
        contact_sheet(data, submission, truth, out / "overlays.png")
        write_report([out / "train" / "run"], out / "rehearsal.html")
        print(f"{out / 'overlays.png'}\n{out / 'rehearsal.html'}")
    print(f"rehearsed in {time.monotonic() - begin:.0f} s")
    dice = mean_dice(scores)
    if dice < least_dice:
        print(f"The mean Dice {dice:.4f} is below {least_dice}: the network has not learned what it should.")
    print(score_text(scores))
    return 0 if dice >= least_dice else 1


def sources(metadata: Mapping[str, Any], attached: Path, layout: str) -> dict[str, Path]:
    """What a kernel finds below ``/kaggle/input``.

    Args:
        metadata: Its ``kernel-metadata.json``.
        attached: Folder with ``competitions/<slug>`` and ``datasets/<owner>/<slug>``.
        layout: ``nested`` as newer sessions mount sources, or ``flat`` as others do.

    Returns:
        Path below ``/kaggle/input`` to the folder that is seen there.

    Raises:
        ValueError: The metadata names a source that the rehearsal does not have.
    """
    found = {}
    for slug in metadata["competition_sources"]:
        found[f"competitions/{slug}" if layout == "nested" else slug] = attached / "competitions" / slug
    for reference in metadata["dataset_sources"]:
        slug = reference.partition("/")[2]
        found[f"datasets/{OWNER}/{slug}" if layout == "nested" else slug] = attached / "datasets" / OWNER / slug
    for folder in found.values():
        if not folder.is_dir():
            raise ValueError(
                f"{metadata['id']} needs {folder.name}, which a rehearsal does not have; correct its sources"
            )
    return found


def _run_kernel(
    kernel: str, source: Path, out: Path, layout: str, changes: Mapping[str, Any], *, isolated: bool
) -> int:
    """Run a kernel on ``out/<kernel>`` as its working folder, with its output in ``out/<kernel>.log``."""
    folder = source / "kernels" / kernel
    metadata = read_json(folder / "kernel-metadata.json")
    working = out / kernel
    working.mkdir()
    with (out / f"{kernel}.log").open("w", encoding="utf-8") as log:

        def on_line(line: str) -> None:
            log.write(line + "\n")
            log.flush()
            print("  " + (line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"), flush=True)

        return isolation.run(
            folder / metadata["code_file"],
            inputs=sources(metadata, out / "input", layout),
            working=working,
            hidden=(source, out),
            environment={"KAGGLE_KERNEL_RUN_TYPE": "Batch", "HUBMAP_SETTINGS": json.dumps(changes)},
            on_line=on_line,
            isolated=isolated,
        )


def _clear(out: Path) -> None:
    """Make `out` an empty folder, with a marker that a later rehearsal may clear it."""
    if out.exists() and not (out / _MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and holds no rehearsal; name another folder")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARKER).write_text("{}\n", encoding="utf-8")


@contextmanager
def _step(name: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    print(f"== {name}", flush=True)
    begin = time.monotonic()
    yield
    print(f"== {name}: {time.monotonic() - begin:.0f} s", flush=True)


def main() -> int:
    """The command ``python -m hubmap_kit.kaggle.rehearsal OUT``, run in a clone; 0 passed, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m hubmap_kit.kaggle.rehearsal", description="Rehearse the competition on this machine."
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; an earlier rehearsal is replaced")
    parser.add_argument("--train", metavar="N", type=int, default=40, help="training images (default: %(default)s)")
    parser.add_argument("--test", metavar="N", type=int, default=20, help="test images (default: %(default)s)")
    parser.add_argument("--size", metavar="PX", type=int, default=1024, help="side of a training image (default: 1024)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of every image (default: %(default)s)")
    parser.add_argument(
        "--settings", metavar="JSON", type=json.loads, default={}, help='as {"train": {"EPOCHS": 2}, "infer": {}}'
    )
    arguments = parser.parse_args()
    try:
        return rehearse(**vars(arguments))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
