"""Tries changed settings of kernels that were rehearsed without the changes: one step on a few drawn images."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..competition import SLUG
from ..demo.write import write_demo
from ..kaggle.bundle import build_bundle, is_whole
from ..kaggle.names import KIT, WEIGHTS
from ..kaggle.verdict import REHEARSAL, Verdict
from ..kaggle.weights import build_weights, unpack
from . import isolation
from .kernels import FEW, FEW_PX, ONE_STEP, SMALL, KernelRunner, Limits

LIMITS = Limits(time_s=240)  # four times what it takes
# Values that are tried instead of those of the kernel files, unless they are changed.
SMALLER: dict[str, dict[str, Any]] = {"train": SMALL, "infer": {}}
# Settings that would take long, or need Kaggle, are tried with these values; their types and bounds were checked.
NOT_TRIED: dict[str, dict[str, Any]] = {
    "train": {**ONE_STEP, "TIME_LIMIT": 1},
    "infer": {"RUNS": None, "BATCH_SIZE": None, "TIME_LIMIT": 1},
}
# Largest values that are tried, because there are few small images.
MOST = {"TEST_SIZE": 2, "VAL_SIZE": 2, "FOLDS": 2, "INPUT_SIZE": 256}


def smoke(clone: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Run each kernel whose settings are changed, as a rehearsal does.

    Args:
        clone: The clone; its kernels and the bundle that was rehearsed are used.
        changes: Settings to change, for ``train`` and ``infer``.

    Raises:
        Failure: A kernel fails.
        ValueError: The bundle cannot be built, or no rehearsal has left a run to predict with.
    """
    (clone / "dist").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=clone / "dist", prefix=".smoke-") as folder:
        out = Path(folder)
        (out / "input").mkdir()
        demo, kit, weights = (out / "input" / name for name in ("demo", KIT, WEIGHTS))
        write_demo(demo, train=FEW, test=1, size=FEW_PX, seed=0)
        _copy_bundle(clone, kit)
        attached = {SLUG: demo, KIT: kit, WEIGHTS: weights}
        runner = KernelRunner(out, clone, LIMITS, isolated=isolation.obstacle() is None)
        rehearsed = clone / REHEARSAL / "input" / WEIGHTS
        if changes.get("train"):
            run = runner.train("train", _tried("train", changes["train"]), attached, "nested")
            unpack(build_weights([run], out / WEIGHTS, clone), weights)
        elif rehearsed.is_dir():
            shutil.copytree(rehearsed, weights)
        else:
            raise ValueError(f"there is no {rehearsed} to predict with; run: nox -s rehearse")
        if changes.get("infer"):
            runner.predict("predict", _tried("infer", changes["infer"]), attached, "nested")


def _copy_bundle(clone: Path, out: Path) -> None:
    """Copy the bundle that was rehearsed, or build one if there is none."""
    verdict = Verdict.read(clone / REHEARSAL)
    rehearsed = clone / REHEARSAL / verdict.bundle
    if is_whole(rehearsed):
        shutil.copytree(rehearsed, out)
    else:
        build_bundle(clone, out)


def _tried(kernel: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with which a kernel is tried."""
    tried = {**SMALLER[kernel], **changes, **NOT_TRIED[kernel]}
    if tried.get("FOLD") is not None:
        tried["FOLD"] = 0
    for name, most in MOST.items():
        if tried.get(name):
            tried[name] = min(tried[name], most)
    return tried
