"""Run a kernel in a rehearsal: attach its sources, limit it, measure it, and check what it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..competition import SLUG, SUBMISSION
from ..files import size_text
from ..kaggle.hours import SCORING_H
from ..kaggle.metadata import KERNELS, kernel_metadata
from ..kaggle.names import CHANGES, INFER, TRAIN
from ..submission import validate
from . import isolation

OWNER = "rehearsal"  # owner of the datasets, in the nested layout
_SHOWN = 160  # characters of a kernel's line that are shown; the log has it whole
_TAIL = 30  # lines of the log that are shown when a kernel fails
# Settings of the training kernel for a trial: one step without a download, and one small patch on one fold.
ONE_STEP: dict[str, Any] = {"EPOCHS": 1, "STEPS_PER_EPOCH": 1, "BATCH_SIZE": 1, "ENCODER_WEIGHTS": "none"}
SMALL: dict[str, Any] = {"FOLDS": 2, "FOLD": 0, "INPUT_SIZE": 256}
FEW, FEW_PX = 10, 256  # training images of the drawn competition for a trial, and their side
REMEDIES = {
    ("train", "memory"): "choose a smaller ENCODER, INPUT_SIZE or PATCH_SIZE in kernels/train/train.py",
    ("train", "time"): "choose fewer EPOCHS or STEPS_PER_EPOCH in kernels/train/train.py",
    ("infer", "memory"): "choose a smaller BATCH_SIZE or PATCH_SIZE, or fewer RUNS, in kernels/infer/infer.py",
    ("infer", "time"): 'choose TTA = "none", less OVERLAP or fewer RUNS in kernels/infer/infer.py',
}


class Failure(Exception):
    """A mistake that the rehearsal found; its text is for the user."""


@dataclass(frozen=True)
class Limits:
    """What a kernel may take. The defaults are those of a Kaggle session with two T4.

    Attributes:
        memory_bytes: The memory that it may hold.
        time_s: The time that it may run.
    """

    memory_bytes: float = 30 * 2**30
    time_s: float = SCORING_H * 3600


@dataclass
class KernelRunner:
    """Runs kernels, and measures them.

    Attributes:
        out: The rehearsal's folder.
        clone: The clone.
        limits: What a kernel may take.
        isolated: Whether a kernel gets namespaces.
        seconds: How long each step took.
        peak_memory: The most bytes that each kernel held at a time.
        bootstrap_s: The longest time until a kernel had installed the bundle.
    """

    out: Path
    clone: Path
    limits: Limits
    isolated: bool
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    bootstrap_s: float = 0.0

    @contextmanager
    def step(self, name: str, more: str = "") -> Iterator[None]:
        """Print that a step begins and, when it ends, how long it took."""
        print(f"== {name}{more}", flush=True)
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 2)
        print(f"== {name}: {self.seconds[name]:.0f} s", flush=True)

    def train(self, name: str, changes: Mapping[str, Any], attached: Mapping[str, Path], layout: str) -> Path:
        """Run the training kernel; returns its run folder, moved to ``runs/<name>``."""
        product = self._run(name, "train", "run", changes, attached, layout)
        run = self.out / "runs" / name
        run.parent.mkdir(exist_ok=True)
        return product.rename(run)

    def predict(
        self, name: str, changes: Mapping[str, Any], attached: Mapping[str, Path], layout: str, **environment: str
    ) -> Path:
        """Run the inference kernel; returns its submission, after a check that it is valid."""
        submission = self._run(name, "infer", SUBMISSION, changes, attached, layout, **environment)
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
        """Run a kernel and check that it left its product.

        Args:
            name: Name of this run; its working folder is ``<name>`` and its output goes to ``<name>.log``.
            kernel: Which kernel, ``train`` or ``infer``.
            product: The file or folder that the kernel is run for.
            changes: Settings that differ from the kernel file.
            attached: Slug of a competition or dataset to its folder.
            layout: See `sources`.
            **environment: More variables for the kernel.

        Returns:
            The product.

        Raises:
            Failure: The kernel failed, exceeded a limit, or left no product.
        """
        slug = {"train": TRAIN, "infer": INFER}[kernel]
        folder = self.clone / KERNELS[slug]
        metadata = kernel_metadata(folder, slug)
        working, log = self.out / name, self.out / f"{name}.log"
        working.mkdir()
        if changes:
            environment[CHANGES] = json.dumps(changes)
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
                    self.bootstrap_s = max(self.bootstrap_s, time.monotonic() - begin)

            outcome = isolation.run(
                folder / metadata["code_file"],
                inputs=sources(metadata, attached, layout),
                working=working,
                hidden=(self.clone, self.out),
                environment={"KAGGLE_KERNEL_RUN_TYPE": "Batch", **environment},
                on_line=on_line,
                isolated=self.isolated,
                memory_limit=self.limits.memory_bytes,
                time_limit_s=self.limits.time_s,
            )
        self.peak_memory[name] = outcome.peak_memory
        self._check(name, kernel, outcome, working / product)
        return working / product

    def _check(self, name: str, kernel: str, outcome: isolation.Outcome, product: Path) -> None:
        """Raise `Failure` unless a kernel ended well and left its product."""
        what = f"The {kernel} kernel ({name})"
        if outcome.stopped:
            memory, most = size_text(outcome.peak_memory), size_text(self.limits.memory_bytes)
            took = {
                "memory": f"{memory} of memory, more than {most}",
                "time": f"{outcome.seconds:.0f} s, more than {self.limits.time_s:.0f} s",
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
    """The folders that a kernel finds below ``/kaggle/input``.

    Args:
        metadata: Its ``kernel-metadata.json``.
        attached: Slug of a competition or dataset to its folder.
        layout: How sources are mounted: ``nested`` as in newer sessions, or ``flat`` as in others.

    Returns:
        Path below ``/kaggle/input`` to the folder that the kernel sees there.

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
