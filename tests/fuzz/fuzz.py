"""Fuzzes the kit, guided by coverage: ``nox -s fuzz -- [--seconds N] [--target NAME]``.

atheris (libFuzzer) changes the seeds of each target, and keeps what reaches new branches of the kit or of tifffile, in
``dist/fuzz``. A finding is a file ``dist/fuzz/TARGET-crash-...``: put it into `FINDINGS` of `test_fuzz.py`.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

OUT = Path("dist/fuzz")
SLOWEST_S = 20  # an input that takes longer is a finding
MEMORY_MB = 3000  # and one that takes more


def main() -> int:
    """Fuzz the targets one after the other, and write what was done to ``dist/fuzz/result.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="time for each target (default: 60)")
    parser.add_argument("--target", action="append", choices=("rle", "tables", "tiff"), help="default: all")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.inside, options.seconds)
    results = [fuzz(name, options.seconds) for name in options.target or ("rle", "tables", "tiff")]
    versions = {name: metadata.version(name) for name in ("atheris", "numpy", "pandas", "tifffile", "imagecodecs")}
    done = {"python": platform.python_version(), "versions": versions, "targets": results}
    (OUT / "result.json").write_text(json.dumps(done, indent=2) + "\n")
    for result in results:
        print("{target}: {executions} executions in {seconds} s, {findings} findings".format(**result))
    return 1 if any(result["findings"] for result in results) else 0


def fuzz(name: str, seconds: int) -> dict[str, int | str]:
    """Fuzz a target in a process of its own, which libFuzzer ends."""
    corpus = OUT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob(f"{name}-*"):
        old.unlink()
    started = time.monotonic()
    command = [sys.executable, __file__, "--inside", name, "--seconds", str(seconds)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    took_s = round(time.monotonic() - started)
    executed = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    findings = len(list(OUT.glob(f"{name}-*")))
    if done.returncode and not findings:
        raise SystemExit(f"the fuzzer of {name} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    if findings:
        print(done.stderr[-4000:], file=sys.stderr)
    return {
        "target": name,
        "seconds": took_s,
        "executions": int(executed[1]) if executed else 0,
        "branches": int(covered[-1]) if covered else 0,
        "findings": findings,
    }


def inside(name: str, seconds: int) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris  # here: the first process does without it

    with atheris.instrument_imports(include=["hubmap_kit", "tifffile"]):
        from targets import TARGETS
    target, corpus = TARGETS[name], OUT / name
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [
        __file__,
        str(corpus),
        f"-max_total_time={seconds}",
        f"-max_len={target.longest}",
        f"-timeout={SLOWEST_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-artifact_prefix={OUT}/{name}-",
        "-print_final_stats=1",
        "-seed=18",
    ]
    atheris.Setup(arguments, target.do)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
