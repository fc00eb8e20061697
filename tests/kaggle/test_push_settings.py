"""Push with --set: settings of a kernel are changed for one push, checked, tried, sent and recorded."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kaggle_workplace import CLONE, WRITES, Workplace

from hubmap_kit.kaggle.source import settings_in, with_settings
from hubmap_kit.kernels import InferSettings, TrainSettings, value_of

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")
TRIED = "tried.json"


def note_what_is_tried() -> None:
    """In place of a run of the kernels, note which settings would be tried."""
    from hubmap_kit.commands import push

    push.try_settings = lambda clone, changes: (clone / "dist" / TRIED).write_text(json.dumps(changes))  # type: ignore[assignment]


def fail_to_rehearse() -> None:
    """Let each ``rehearse --smoke`` fail."""
    run = subprocess.run

    def failing(command: list[str], **how: Any) -> Any:
        return run(["false"] if "--smoke" in command else command, **how)

    subprocess.run = failing  # type: ignore[assignment]


def push_with(place: Workplace, *arguments: str, status: int = 0) -> str:
    (place.clone / "dist").mkdir(exist_ok=True)
    return place.run("push", *arguments, before=note_what_is_tried, status=status)


def sent(place: Workplace, kernel: str) -> dict[str, object]:
    """The settings in the newest source of a kernel on Kaggle."""
    return settings_in(place.kaggle.kernels[f"{place.kaggle.user}/{kernel}"][-1].body["text"])


def test_settings_are_changed(place):
    """Each kernel that has a setting gets its new value, tried first; nothing in the clone changes; records name it."""
    sets = ["--set", "EPOCHS=3", "--set", "TTA=none", "--set", "train.BATCH_SIZE=8", "--set", "THRESHOLD=0.5,lung=0.3"]
    text = push_with(place, *sets)
    assert "hubmap-train: changed EPOCHS = 3, BATCH_SIZE = 8" in text
    train, infer = sent(place, "hubmap-train"), sent(place, "hubmap-infer")
    assert (train["EPOCHS"], train["BATCH_SIZE"]) == (3, 8)
    assert (infer["TTA"], infer["BATCH_SIZE"], infer["THRESHOLD"]) == ("none", None, "0.5,lung=0.3")
    tried = json.loads((place.clone / "dist" / TRIED).read_text())
    assert tried["train"] == {"EPOCHS": 3, "BATCH_SIZE": 8}
    rows = {row["name"].rpartition("/")[2]: row["settings"] for row in place.rows("pushes.csv")}
    assert rows["hubmap-train"] == "EPOCHS=3 BATCH_SIZE=8"
    assert rows["hubmap-infer"] == "TTA='none' THRESHOLD='0.5,lung=0.3'"
    assert rows["hubmap-kit"] == ""
    assert "commit" in text or (place.clone / "kernels/train/train.py").read_text().count("EPOCHS = None") == 1
    assert push_with(place, *sets).count("unchanged") == 4
    push_with(place, "train")  # without them, the settings of the clone are pushed
    assert sent(place, "hubmap-train")["EPOCHS"] is None


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        ("EPOCHS=many", "EPOCHS is 'many' in --set; it must be a whole number or None"),
        ("EPOCHS=0", "epochs is 0; it must be at least 1"),
        ("EPOCHS=2.5", "EPOCHS is '2.5' in --set"),
        ("BATCH_SIZE=-1", "batch_size is -1; it must be at least 1"),
        ("LOSS=best", "loss"),
        ("AUGMENT=flipp", "augment"),
        ("RECIPE=quick", "quick"),
        ("INPUT_SIZE=100", "input_size is 100; it must be a multiple of 32"),
        ("OVERLAP=1.5", "overlap is 1.5"),
        ("TTA=all", "tta is 'all'; choose one of"),
        ("TIME_LIMIT=0", "TIME_LIMIT is 0; it must be above 0"),
        ("TIME_LIMIT=13", "TIME_LIMIT is 13"),
        ("EPOCH=3", "did you mean EPOCHS?"),
        ("infer.EPOCHS=3", "write NAME=VALUE"),
        ("EPOCHS", "write NAME=VALUE"),
        ("=3", "write NAME=VALUE"),
    ],
)
def test_wrong_settings(place, argument, rule):
    """A setting that no pushed kernel has, or a value of the wrong type or out of bounds, is wrong usage at once."""
    text = push_with(place, "--set", argument, status=2)
    assert rule in text
    assert not WRITES & set(place.calls())


def test_setting_of_a_kernel_that_is_not_pushed(place):
    """A setting of the training is refused where nothing is trained."""
    assert "the settings are not pushed" in push_with(place, "kit", "--set", "EPOCHS=3", status=2)
    assert "write NAME=VALUE" in push_with(place, "infer", "--set", "EPOCHS=3", status=2)


def test_settings_that_do_not_work(place):
    """Settings that fail when they are tried are not pushed."""
    text = place.run("push", "--set", "EPOCHS=3", status=1, before=fail_to_rehearse)
    assert "the changed settings do not work here" in text
    assert not WRITES & set(place.calls())


def test_dry_run_with_settings(place):
    """A dry run shows the changes and tries nothing."""
    text = push_with(place, "--dry-run", "--set", "EPOCHS=3")
    assert not (place.clone / "dist" / TRIED).exists()
    assert "hubmap-train: changed EPOCHS = 3" in text
    assert not WRITES & set(place.calls())


def test_settings_need_no_more_than_a_push():
    """Changed settings are checked with what the session push installs: no SciPy, no OpenCV, no TensorFlow."""
    code = (
        "import sys; from pathlib import Path; from hubmap_kit.commands import push\n"
        "changes = ['EPOCHS=3', 'AUGMENT=flip', 'LOSS=bce', 'TTA=none']\n"
        "push.changed_settings(changes, ['train', 'infer'], Path(sys.argv[1]))\n"
        "bad = {'scipy', 'cv2', 'sklearn', 'matplotlib', 'tifffile', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(CLONE)], check=True, cwd=CLONE)


@pytest.mark.parametrize("kernel", ["train", "infer"])
def test_every_setting_can_be_changed(kernel):
    """A changed source has the new value of each setting, and the rest as it was, comments too."""
    text = (CLONE / "kernels" / kernel / f"{kernel}.py").read_text()
    given = settings_in(text)
    assert given.keys() == (TrainSettings if kernel == "train" else InferSettings).__annotations__.keys()
    assert with_settings(text, {}) == text
    for name in given:
        changed = with_settings(text, {name: "a 'word'"})
        assert settings_in(changed) == given | {name: "a 'word'"}
        assert [len(changed.splitlines()), changed.count("#")] == [len(text.splitlines()), text.count("#")]


@pytest.mark.parametrize(
    ("kind", "name", "text", "value"),
    [
        (TrainSettings, "EPOCHS", "None", None),
        (TrainSettings, "FOLD", "all", "all"),
        (TrainSettings, "FOLD", "1", 1),
        (TrainSettings, "LEARNING_RATE", "1e-3", 0.001),
        (TrainSettings, "AUGMENT", "flip,stain=0.75", "flip,stain=0.75"),
        (InferSettings, "THRESHOLD", "0.3", 0.3),
        (InferSettings, "RUNS", '["cv"]', ["cv"]),
        (InferSettings, "SKIP_BACKGROUND", "True", True),
        (InferSettings, "TTA", "'d4'", "d4"),
    ],
)
def test_values_as_they_are_typed(kind, name, text, value):
    """A value is read as Python where that has the setting's type, else as a text."""
    assert value_of(kind, name, text) == value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"train": {"BATCH_SIZE": 8, "LOSS": "bce", "AUGMENT": "flip"}, "infer": {"TTA": "none"}}, True),
        ({"train": {"EPOCHS": 2}}, False),
    ],
)
def test_smoke(tmp_path, monkeypatch, changes, good):
    """Changed settings are tried with one step of training and one predicted image; a failed kernel is named."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from hubmap_kit.kaggle.bundle import build_bundle
    from hubmap_kit.rehearsal import smoke
    from hubmap_kit.rehearsal.kernels import Failure, Limits

    clone = tmp_path / "clone"
    for name in ("kernels", "datasets", "hubmap_kit"):
        shutil.copytree(CLONE / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(CLONE / name, clone / name)
    monkeypatch.setattr(smoke, "_copy_bundle", lambda clone, out: build_bundle(clone, out, extras=False))
    if good:
        smoke.smoke(clone, changes)
    else:
        monkeypatch.setattr(smoke, "LIMITS", Limits(time_s=0.5))
        with pytest.raises(Failure):
            smoke.smoke(clone, changes)
    assert not list((clone / "dist").glob(".smoke-*")), Path(clone / "dist")
