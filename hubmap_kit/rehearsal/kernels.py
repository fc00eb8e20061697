"""Running a kernel in a rehearsal: what it finds, what it may take, and what it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..competition import SLUG
from ..files import read_json, size_text
from ..submission import validate
from . import isolation

OWNER = "rehearsal"
_SHOWN = 160  # characters of a kernel's line that are shown; the log has it whole
_TAIL = 30  # lines of the log that are shown when a kernel fails
REMEDIES = {
    ("train", "memory"): "choose a smaller ENCODER, INPUT_SIZE or PATCH_SIZE in kernels/train/train.py",
    ("train", "time"): "choose fewer EPOCHS or STEPS_PER_EPOCH in kernels/train/train.py",
    ("infer", "memory"): "choose a smaller BATCH_SIZE or PATCH_SIZE, or fewer RUNS, in kernels/infer/infer.py",
    ("infer", "time"): 'choose TTA = "none", less OVERLAP or fewer RUNS in kernels/infer/infer.py',
}


class Failure(Exception):
    """Something that a rehearsal is there to find; its text is for the user."""


@dataclass
class Stage:
    """Where the kernels run, and what was measured of them.

    Attributes:
        out: The rehearsal's folder.
        source: The clone.
        memory_limit: Bytes that a kernel may hold.
        time_limit: Seconds that it may take.
        isolated: Whether it gets namespaces.
        seconds: Time of each step.
        peak_memory: Bytes that each kernel held at its peak.
        bootstrap: Seconds until a kernel had installed the bundle, the most of all.
    """

    out: Path
    source: Path
    memory_limit: float
    time_limit: float
    isolated: bool
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    bootstrap: float = 0.0

    @contextmanager
    def step(self, name: str, more: str = "") -> Iterator[None]:
        """Say what begins, and how long it took."""
        print(f"== {name}{more}", flush=True)
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 2)
        print(f"== {name}: {self.seconds[name]:.0f} s", flush=True)

    def train(self, name: str, changes: Mapping[str, Any], attached: Mapping[str, Path], layout: str) -> Path:
        """Run the training kernel; returns its run, as ``runs/<name>``."""
        product = self._run(name, "train", "run", changes, attached, layout)
        run = self.out / "runs" / name
        run.parent.mkdir(exist_ok=True)
        return product.rename(run)

    def predict(
        self, name: str, changes: Mapping[str, Any], attached: Mapping[str, Path], layout: str, **environment: str
    ) -> Path:
        """Run the inference kernel; returns its submission, which is valid."""
        submission = self._run(name, "infer", "submission.csv", changes, attached, layout, **environment)
        errors = [problem for problem in validate(submission, attached[SLUG]) if problem.severity == "error"]
        if errors:
            raise Failure("\n".join([f"{submission} is not valid:", *map(str, errors)]))
        return submission

    def _run(
        self,
        name: str,
        kernel: str,
        product: str,
        changes: Mapping[str, Any],
        attached: Mapping[str, Path],
        layout: str,
        **environment: str,
    ) -> Path:
        """Run a kernel on ``<name>`` as its working folder, with its output in ``<name>.log``; returns its product."""
        folder = self.source / "kernels" / kernel
        metadata = read_json(folder / "kernel-metadata.json")
        working, log = self.out / name, self.out / f"{name}.log"
        working.mkdir()
        if changes:
            environment["HUBMAP_SETTINGS"] = json.dumps(changes)
        begin = time.monotonic()
        with (
            self.step(name, f": {kernel} kernel, offline, sources mounted {layout}"),
            log.open("w", encoding="utf-8") as file,
        ):

            def on_line(line: str) -> None:
                file.write(line + "\n")
                file.flush()
                print("  " + (line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"), flush=True)
                if line.startswith("installed "):
                    self.bootstrap = max(self.bootstrap, time.monotonic() - begin)

            outcome = isolation.run(
                folder / metadata["code_file"],
                inputs=sources(metadata, attached, layout),
                working=working,
                hidden=(self.source, self.out),
                environment={"KAGGLE_KERNEL_RUN_TYPE": "Batch", **environment},
                on_line=on_line,
                isolated=self.isolated,
                memory_limit=self.memory_limit,
                time_limit=self.time_limit,
            )
        self.peak_memory[name] = outcome.peak_memory
        self._check(name, kernel, outcome, working / product)
        return working / product

    def _check(self, name: str, kernel: str, outcome: isolation.Outcome, product: Path) -> None:
        what = f"The {kernel} kernel ({name})"
        if outcome.stopped:
            took = {
                "memory": f"{size_text(outcome.peak_memory)} of memory, more than {size_text(self.memory_limit)}",
                "time": f"{outcome.seconds:.0f} s, more than {self.time_limit:.0f} s",
            }[outcome.stopped]
            raise Failure(f"{what} was stopped: it took {took}; {REMEDIES[kernel, outcome.stopped]}.")
        if outcome.status:
            what += f" ended with status {outcome.status}"
            if outcome.status == -9:
                what += ", killed, perhaps because this machine has too little memory"
        elif not product.exists():
            what += f" left no {product.name} in /kaggle/working"
        else:
            return
        log = self.out / f"{name}.log"
        tail = log.read_text(encoding="utf-8").splitlines()[-_TAIL:]
        raise Failure("\n".join([f"{what}. The end of {log}:", *tail]))


def sources(metadata: Mapping[str, Any], attached: Mapping[str, Path], layout: str) -> dict[str, Path]:
    """What a kernel finds below ``/kaggle/input``.

    Args:
        metadata: Its ``kernel-metadata.json``.
        attached: Slug of a competition or dataset to its folder.
        layout: ``nested`` as newer sessions mount sources, or ``flat`` as others do.

    Returns:
        Path below ``/kaggle/input`` to the folder that is seen there.

    Raises:
        ValueError: The metadata names a source that the rehearsal does not have.
    """
    nested = {slug: f"competitions/{slug}" for slug in metadata["competition_sources"]}
    for reference in metadata["dataset_sources"]:
        slug = reference.partition("/")[2]
        nested[slug] = f"datasets/{OWNER}/{slug}"
    for slug in nested:
        if slug not in attached:
            raise ValueError(f"{metadata['id']} needs {slug}, which a rehearsal does not have; correct its sources")
    return {place if layout == "nested" else slug: attached[slug] for slug, place in nested.items()}
