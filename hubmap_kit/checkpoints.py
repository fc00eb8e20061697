"""The state of a training after its last epoch, in one file, from which it can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .files import replacing

FILE = "checkpoint.npz"


def write(run: Path, model: Any, optimizer: Any, history: list[dict[str, Any]], about: dict) -> None:
    """Everything the next epoch needs, in one file: it is either of this epoch or of the one before."""
    state = {
        "history": history,
        "settings": {"train": about["train"], "prepare": about["prepare"], "splits": about["splits"]},
    }
    arrays: dict[str, Any] = {f"model_{i:05d}": np.asarray(v) for i, v in enumerate(model.variables)}
    arrays |= {f"optimizer_{i:05d}": np.asarray(v) for i, v in enumerate(optimizer.variables)}
    with replacing(run / FILE) as part:
        np.savez(part, state=np.array(json.dumps(state)), **arrays)


def read(run: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint's state, or None where no epoch was finished.

    Raises:
        ValueError: It cannot be read, or is of other settings.
    """
    path = run / FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = json.loads(str(arrays.pop("state")))
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and train again") from error
    for part, before in state["settings"].items():
        now = json.loads(json.dumps(about[part]))
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            raise ValueError(
                f"{run} was trained with another {', '.join(changed)}; resume with the same, or name another folder"
            )
    return {"history": state["history"], "arrays": arrays}


def restore(checkpoint: dict[str, Any], model: Any, optimizer: Any | None) -> None:
    """Put a checkpoint's values back; the optimizer's only within the phase that made them."""
    for kind, variables in (("model", model.variables), ("optimizer", optimizer.variables if optimizer else [])):
        for variable, value in zip(variables, _arrays(checkpoint, kind), strict=False):
            variable.assign(value)


def _arrays(checkpoint: dict[str, Any], kind: str) -> Iterator[np.ndarray]:
    return (checkpoint["arrays"][name] for name in sorted(checkpoint["arrays"]) if name.startswith(f"{kind}_"))
