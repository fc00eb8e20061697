"""Measurements that need a new process: start-up time, and peak memory by image size."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from pathlib import Path

from hubmap_kit.demo.write import write_test_tables

from .harness import Call, Case, Row, Setting, Turn, peer
from .inputs import table_of, write_large_tiff
from .kit import write_free_run

ROOT = Path(__file__).parent.parent
TILE = 512


def run(*arguments: str) -> None:
    """Run this Python from the clone's folder; its output is dropped."""
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)


def startup(setting: Setting) -> Case:
    """The command line's help against an import of pandas, each a new process."""
    calls: dict[str, Call] = {
        "hubmap-kit validate --help": lambda: run("-m", "hubmap_kit", "validate", "--help"),
        'python -c "import pandas"': lambda: run("-c", "import pandas"),
    }
    ours, theirs = calls
    return Case(calls, [Row("start-up", ours, theirs, "share", aim=1)])


def peak_and_seconds(arguments: list[str]) -> tuple[float, float]:
    """Run this Python; returns the peak memory of it and its children in MB, and its seconds."""
    import psutil

    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    status = Path(f"/proc/{process.pid}/status")
    peak = 0
    while process.poll() is None:
        # A look every 10 ms may miss a short peak, so on Linux the kernel's own peak (VmHWM) counts too. It is not
        # ru_maxrss, which a child inherits from the process that started it.
        try:
            own = psutil.Process(process.pid)
            now = sum(one.memory_info().rss for one in (own, *own.children(recursive=True)))
            if status.exists():
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                now = max(now, 1024 * int(lines.get("VmHWM", "0 kB").split()[0]))
            peak = max(peak, now)
        except (psutil.Error, OSError):
            pass
        time.sleep(0.01)
    took = time.perf_counter() - begin
    if process.returncode:
        assert process.stderr is not None
        raise RuntimeError(process.stderr.read().decode(errors="replace"))
    return peak / 1e6, took


def memory(setting: Setting) -> Case:
    """Peak memory and time of ``hubmap-kit predict``, with a free network, on tiled TIFFs of growing size."""
    sides = (600, 1200) if setting.quick else (1000, 4500, 10000, 20000)
    write_free_run(setting.folder / "run", TILE)
    times: dict[str, list[float]] = {}

    def call(side: int) -> float:
        name, data = f"{side}²", setting.folder / str(side)
        out = setting.folder / f"{side}.csv"
        for left in setting.folder.glob(f"{out.name}*"):
            left.unlink()
        peak, took = peak_and_seconds(["-m", "bench.kit", str(data), str(setting.folder / "run"), str(out)])
        times.setdefault(name, []).append(took)
        return peak

    calls: dict[str, Call] = {}
    for side in sides if peer("psutil") else ():
        data = setting.folder / str(side)
        (data / "test_images").mkdir(parents=True)
        write_large_tiff(data / "test_images" / "1.tiff", side)
        write_test_tables(data, table_of({1: (side, side)}))
        calls[f"{side}²"] = functools.partial(call, side)

    def after(turns: list[Turn]) -> None:
        peaks: dict[str, float] = {}
        for turn in turns:
            peaks[turn.call] = max(peaks.get(turn.call, 0), turn.figure)
        plot_sizes(setting.out, {int(name[:-1]): (min(times[name]), peak) for name, peak in peaks.items()})

    least, *others = (f"{side}²" for side in sides)
    rows = [
        Row(
            f"peak memory of predict, {name} above {least}",
            name,
            least,
            "above",
            300 if name == others[-1] else None,
            "MB",
        )
        for name in others
    ]
    return Case(
        calls,
        rows,
        measure=lambda call: call(),
        unit="MB",
        rounds=2 if setting.quick else 3,
        needs="psutil",
        after=after,
    )


def plot_sizes(out: Path, sizes: dict[int, tuple[float, float]]) -> None:
    """Write ``size.csv`` and ``size.png``: least time and highest memory against the side of an image."""
    if not sizes:
        return
    lines = ["side_px,seconds,peak_mb", *(f"{side},{took:.3f},{peak:.1f}" for side, (took, peak) in sizes.items())]
    (out / "size.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, index, label in ((left, 0, "time, s"), (right, 1, "peak memory, MB")):
        axes.plot(list(sizes), [values[index] for values in sizes.values()], "o-")
        axes.set_xlabel("side of the image, px")
        axes.set_ylabel(label)
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
    figure.suptitle("hubmap-kit predict, one tiled TIFF, a network that costs nothing", fontsize=10)
    figure.savefig(out / "size.png", dpi=150)
