"""The state of a training after its last epoch, in one file, from which it can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from ..run import CHECKPOINT

# Settings that say how a computer is used or where a file lies there, and change nothing in the result:
# the groups act through the splits.
_LOCAL = {"prepare": {"jobs", "groups"}}
_ON_KAGGLE = "; on Kaggle, detach the kernel's own earlier output (kernel_sources in kernel-metadata.json)"


def write(run: Path, model: Any, optimizer: Any, history: list[dict[str, Any]], about: dict) -> None:
    """Everything the next epoch needs, in one file: it is either of this epoch or of the one before."""
    state = {
        "history": history,
        "settings": {part: about[part] for part in ("train", "prepare", "network", "splits")},
        "versions": about["versions"],
    }
    arrays: dict[str, Any] = {f"model_{i:05d}": np.asarray(v) for i, v in enumerate(model.variables)}
    arrays |= {f"optimizer_{i:05d}": np.asarray(v) for i, v in enumerate(optimizer.variables)}
    with replacing(run / CHECKPOINT) as part:
        np.savez(part, state=np.array(json.dumps(state)), **arrays)


def read(run: Path, about: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint's state, or None where no epoch was finished.

    It may come from another session or computer: paths and versions of libraries may differ, and the
    latter are told.

    Args:
        run: Run folder.
        about: What its ``config.json`` is going to hold.

    Raises:
        ValueError: It cannot be read, or is of other settings.
    """
    path = run / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = json.loads(str(arrays.pop("state")))
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and train again{_ON_KAGGLE}") from error
    for part, settings in state["settings"].items():
        before, now = _comparable(part, settings), _comparable(part, about[part])
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            what = ", ".join(f"{key} split" if part == "splits" else key for key in changed)
            raise ValueError(
                f"{run} was trained with another {what}; resume with the same, or name another folder{_ON_KAGGLE}"
            )
    now = about["versions"]
    others = {name: version for name, version in state.get("versions", {}).items() if version != now.get(name)}
    if others:
        told = ", ".join(f"{name} {version} (here {now.get(name)})" for name, version in others.items())
        print(f"warning: {run} was begun with {told}; the result may differ a little from an unbroken training's")
    return {"history": state["history"], "arrays": arrays}


def restore(checkpoint: dict[str, Any], model: Any, optimizer: Any | None) -> None:
    """Put a checkpoint's values back; the optimizer's only within the phase that made them.

    Raises:
        ValueError: They do not fit: another version of the kit or of a library builds another network.
    """
    for kind, owner in (("model", model), ("optimizer", optimizer)):
        if owner is None:
            continue
        values = list(_arrays(checkpoint, kind))
        if [value.shape for value in values] != [tuple(variable.shape) for variable in owner.variables]:
            raise ValueError(
                f"the checkpoint's {kind} is built otherwise than here, by other versions of the kit, TensorFlow or "
                f"Keras; resume with those, or train again in another folder{_ON_KAGGLE}"
            )
        for variable, value in zip(owner.variables, values, strict=True):
            variable.assign(value)


def _comparable(part: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON values, without what differs between computers alone."""
    kept = {key: value for key, value in settings.items() if key not in _LOCAL.get(part, ())}
    if "encoder_weights" in kept:
        # Another session may mount the file elsewhere, and resuming does not read it.
        kept["encoder_weights"] = Path(kept["encoder_weights"]).name
    return json.loads(json.dumps(kept))


def _arrays(checkpoint: dict[str, Any], kind: str) -> Iterator[np.ndarray]:
    return (checkpoint["arrays"][name] for name in sorted(checkpoint["arrays"]) if name.startswith(f"{kind}_"))
