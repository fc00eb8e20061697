"""The state of a training after an epoch, in one file, from which the training can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..config import PrepareConfig, TrainConfig, flag_of
from ..files import replacing
from ..models.network_config import NetworkConfig
from ..run import CHECKPOINT, CONFIG, CONSTANTS, FORMAT, RunConfig, read_prepare, read_train, turned_constants

_ON_KAGGLE = "; or detach the kernel's own earlier output (kernel_sources in kernel-metadata.json)"


@dataclass(frozen=True)
class Checkpoint:
    """A training after an epoch.

    Attributes:
        history: One row for each epoch, as in ``history.csv``.
        arrays: Values of the variables of model and optimizer, by ``model_00000``, ``optimizer_00000`` and so on.
    """

    history: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]

    def restore(self, model: Any, optimizer: Any | None) -> None:
        """Give model and optimizer their values back.

        Args:
            model: A Keras model.
            optimizer: Its optimizer; None for one that starts anew, since another phase of the training made the
                checkpoint.

        Raises:
            ValueError: The values do not fit: another version of the kit or of a library builds another network.
        """
        for kind, owner in (("model", model), ("optimizer", optimizer)):
            if owner is None:
                continue
            values = [self.arrays[name] for name in sorted(self.arrays) if name.startswith(f"{kind}_")]
            if [value.shape for value in values] != [tuple(variable.shape) for variable in owner.variables]:
                raise ValueError(
                    f"the checkpoint's {kind} does not have the layout that it has here; other versions of the kit, "
                    f"TensorFlow or Keras made it: resume with those, or train again in another folder{_on_kaggle()}"
                )
            for variable, value in zip(owner.variables, values, strict=True):
                variable.assign(value)


def write(run: Path, model: Any, optimizer: Any, history: list[dict[str, Any]], config: RunConfig) -> None:
    """Write all that the next epoch needs, in one file: a process that is killed leaves the one of the epoch before.

    Args:
        run: Run folder.
        model: A Keras model.
        optimizer: Its optimizer.
        history: One row for each epoch.
        config: Settings of the training.
    """
    settings = config.to_json()
    state = {
        "format": FORMAT,
        "history": history,
        "settings": {part: settings[part] for part in ("train", "prepare", "network", "splits")},
        "versions": settings["versions"],
    }
    arrays: dict[str, Any] = {f"model_{i:05d}": np.asarray(v) for i, v in enumerate(model.variables)}
    arrays |= {f"optimizer_{i:05d}": np.asarray(v) for i, v in enumerate(optimizer.variables)}
    with replacing(run / CHECKPOINT, sum(array.nbytes + 2**10 for array in arrays.values()) + 2**16) as part:
        np.savez(part, state=np.array(json.dumps(state)), **arrays)


def read(run: Path, config: RunConfig) -> Checkpoint | None:
    """Read the checkpoint of a training that is to go on.

    It may come from another session or computer. Paths and versions of libraries may differ; a warning names the
    versions that do.

    Args:
        run: Run folder.
        config: Settings of the training that goes on.

    Returns:
        The checkpoint; None if no epoch was finished.

    Raises:
        ValueError: The file cannot be read, or was made with other settings.
    """
    path = run / CHECKPOINT
    if not path.is_file():
        _say_begun_anew(run, config)
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = json.loads(str(arrays.pop("state")))
        settings = state["settings"]
        network = NetworkConfig.from_json(settings["network"])
        before = _comparable(
            read_prepare(settings["prepare"]), read_train(settings["train"]), network, settings["splits"]
        )
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and train again{_on_kaggle()}") from error
    _check_constants(run, settings)
    _check_same(run, before, _comparable(config.prepare, config.train, config.network, config.splits))
    here = config.versions
    others = {name: version for name, version in state.get("versions", {}).items() if version != here.get(name)}
    if others:
        listed = ", ".join(f"{name} {version} (here {here.get(name)})" for name, version in others.items())
        print(f"warning: {run} was begun with {listed}; the result may differ a little from an unbroken training's")
    epochs = len(state["history"])
    print(f"{run}: goes on after epoch {epochs} of {config.train.epochs}, with the settings that it was begun with")
    return Checkpoint(state["history"], arrays)


def _say_begun_anew(run: Path, config: RunConfig) -> None:
    """Say that no epoch of a training was finished, and which settings changed since."""
    if not (run / CONFIG).is_file():
        return
    done = RunConfig.read(run)
    before = _comparable(done.prepare, done.train, done.network, done.splits)
    now = _comparable(config.prepare, config.train, config.network, config.splits)
    changed = [_change(name, before.get(name), now.get(name)) for name in now if before.get(name) != now.get(name)]
    print(f"{run}: begins anew, since no epoch was finished{', with another ' * bool(changed)}{', '.join(changed)}")


def check_finished(run: Path, prepare: PrepareConfig, train: TrainConfig, splits: Mapping[str, list[int]]) -> None:
    """Check that a finished training is the one that is asked for.

    Args:
        run: Its run folder.
        prepare: Settings of the patch store.
        train: Settings of the training.
        splits: Image ids by split.

    Raises:
        ValueError: It was made with other settings.
    """
    done = RunConfig.read(run)
    before = _comparable(done.prepare, done.train, done.network, done.splits)
    _check_same(run, before, _comparable(prepare, train, train.network(), splits))


def _check_same(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to take a training for another; both are from `_comparable`.

    Raises:
        ValueError: A setting differs.
    """
    if changed := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        listed = ", ".join(_change(name, before.get(name), now.get(name)) for name in changed)
        raise ValueError(
            f"{run} was trained with another {listed}; leave these flags out or give the same, or name another "
            f"folder{_on_kaggle()}"
        )


def _change(name: str, before: Any, now: Any) -> str:
    """A setting that differs, as its flag, with both values unless they are long."""
    if any(each.name == name for each in fields(TrainConfig)):
        name = flag_of(TrainConfig, name)
    values = f" ({before}, now {now})"
    return name + (values if len(values) < 60 else "")


def _on_kaggle() -> str:
    """What else to do in a kernel on Kaggle; nothing elsewhere."""
    return _ON_KAGGLE if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") else ""


def _comparable(
    prepare: PrepareConfig, train: TrainConfig, network: NetworkConfig, splits: Mapping[str, list[int]]
) -> dict[str, Any]:
    """Everything that a training's result depends on, by a name that its user knows.

    Splits and folds count only by the ids of their images, and the encoder's weights file only by its name.
    """
    values = {**asdict(network), **asdict(train), "encoder_weights": Path(train.encoder_weights).name}
    values |= {"input_size": prepare.input_size, "context": prepare.contexts_um()}
    return values | {f"{split} split": ids for split, ids in splits.items()}


def _check_constants(run: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a checkpoint of an earlier version with a setting that is a constant now and had another value.

    Raises:
        ValueError: There is such a setting.
    """
    if other := turned_constants({**settings["prepare"], **settings["train"]}):
        listed = ", ".join(f"{name} {value} (now {CONSTANTS[name]})" for name, value in other.items())
        raise ValueError(
            f"{run} was begun by an earlier version of the kit with {listed}, which are constants now; "
            f"resume with that version, or name another folder{_on_kaggle()}"
        )
