"""``python -m bench [--quick] [--only NAME ...]``: one table of the kit against its peers.

In full about 20 minutes on two cores; ``--quick`` shows in two minutes that it runs. A peer that is not installed is
skipped and named. Absolute speed fails nothing: the exit status is 0.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import io
import os
import platform
import tempfile
import time
from pathlib import Path

# TensorFlow and albumentations read these on import: no start-up notes, no check for updates.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from . import codec, network, pixels, process
from .harness import HEADER, Result, Setting, judge, markdown_table, take_turns, text_table

# The case `pipeline` is the first to import TensorFlow; the cases before it are measured without its threads.
CASES = {
    "encode": codec.encode,
    "decode": codec.decode,
    "score": codec.score,
    "tiff": pixels.tiff,
    "prepare": pixels.prepare,
    "startup": process.startup,
    "memory": process.memory,
    "augment": pixels.augment,
    "pipeline": network.pipeline,
    "train": network.train,
    "native": network.native,
    "small": network.small,
    "reduced": network.reduced,
}
LIBRARIES = (
    "numpy opencv-python-headless tifffile imagecodecs tensorflow keras pycocotools albumentations torch monai".split()
)


def machine(quick: bool, rounds: int) -> list[str]:
    """Lines that describe the machine, the versions of the libraries and the number of rounds."""
    import cv2

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    load = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{library} not installed")
    return [
        f"{name}, {cores} cores{load}; {platform.system()}, Python {platform.python_version()}",
        ", ".join(versions),
        f"Threads: OpenCV {cv2.getNumThreads()}, PyTorch and TensorFlow their default, one per core.",
        f"{rounds} rounds after one that is not counted, the calls in turn; a value is the median over the rounds."
        + (" --quick: small inputs, the figures mean nothing." if quick else ""),
    ]


def write(out: Path, notes: list[str], results: list[Result], turns: list[tuple[str, ...]]) -> None:
    """Write ``table.md``, ``table.csv`` and every figure of every round in ``rounds.csv``."""
    cells = [HEADER, *(result.cells() for result in results)]
    (out / "table.md").write_text(markdown_table(cells) + "\n\n" + "\n\n".join(notes) + "\n", encoding="utf-8")
    header = ("case", "call", "round", "figure", "unit", "cpu_seconds")
    for name, rows in (("table.csv", cells), ("rounds.csv", [header, *turns])):
        with (out / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def main() -> None:
    """Run the cases one after the other; the tables are written anew after each."""
    parser = argparse.ArgumentParser(prog="bench", description="The kit against its peers, in one table.")
    parser.add_argument("--quick", action="store_true", help="small inputs and 2 rounds, to see that it runs")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=CASES, default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--rounds", metavar="N", type=int, help="turns of each call (default: 7; 2 with --quick)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("dist/bench"), help="default: %(default)s")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (2 if arguments.quick else 7)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    notes = machine(arguments.quick, rounds)
    print("\n".join(notes), flush=True)
    results: list[Result] = []
    all_turns: list[tuple[str, ...]] = []
    for name in arguments.only:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
            with contextlib.redirect_stderr(io.StringIO()):  # progress
                case = CASES[name](Setting(Path(folder), arguments.quick, out))
                turns = take_turns(case, rounds)
            case.after(turns)
        new = judge(case, turns)
        results += new
        all_turns += [(name, t.call, str(t.round), f"{t.figure:.6g}", case.unit, f"{t.cpu_seconds:.6g}") for t in turns]
        write(out, notes, results, all_turns)
        print(f"\n{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        for result in new:
            print("  " + "  ".join(filter(None, result.cells())), flush=True)
        del case
    print("\n" + text_table([HEADER, *(result.cells() for result in results)]))
    print(f"\nwritten to {out}: table.md, table.csv, rounds.csv")


if __name__ == "__main__":
    main()
