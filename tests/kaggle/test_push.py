"""Push: its parts and their order, run as a user runs them, with the official client, against a stand-in for Kaggle."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import zipfile

import pytest
from kaggle_workplace import (
    CLONE,
    ONCE,
    WRITES,
    a_run,
    git,
    pretend_rehearsal,
    pretend_rehearsal_of_same_library,
    write_files,
)

from hubmap_kit.kaggle.clone import DATASET_METADATA
from hubmap_kit.kaggle.records import Records

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


def test_push(place):
    """A first push makes both datasets and runs both kernels, in order; a second finds nothing to do."""
    kaggle = place.kaggle
    kaggle.run_polls, kaggle.ready_after = ["QUEUED", "RUNNING"], 2
    text = place.run("push")
    assert place.versions() == ONCE
    kit, stored = (kaggle.datasets[f"{kaggle.user}/{name}"].versions[0] for name in ("hubmap-kit", "hubmap-weights"))
    assert set(kit) == {"hubmap-kit.json", "hubmap_kit-0-py3-none-any.whl", "other-1-py3-none-any.whl"}
    assert set(stored) == {"hubmap-weights.json", "run.zip"}
    with zipfile.ZipFile(io.BytesIO(stored["run.zip"])) as archive:
        assert archive.read("model.weights.h5") == a_run()["model.weights.h5"]
    made = [method for method in place.calls() if method.startswith(("Create", "Save"))]
    assert made == ["CreateDataset", "SaveKernel", "CreateDataset", "SaveKernel"]
    (infer,) = kaggle.kernels[f"{kaggle.user}/hubmap-infer"]
    assert infer.body["enableInternet"] is False
    assert infer.body["datasetDataSources"] == [f"{kaggle.user}/hubmap-kit", f"{kaggle.user}/hubmap-weights"]
    assert infer.body["dockerImagePinningType"] == "original"
    assert infer.body["text"] == (place.clone / "kernels/infer/infer.py").read_text()
    assert [row["name"].rpartition("/")[2] for row in place.rows("pushes.csv")] == list(ONCE)
    assert place.rows("pushes.csv")[3]["sources"] == "hubmap-kit:1 hubmap-weights:1"
    assert place.rows("pushes.csv")[2]["local_score"] == "0.8125"
    assert "version 1 can be submitted" in text

    text = place.run("push")
    assert text.count("unchanged, version 1") == 4
    assert not WRITES & set(place.calls())
    assert place.versions() == ONCE


def test_push_parts_need_what_comes_before(place):
    """A part that needs another one says which to push first; an unknown part is wrong usage."""
    assert "push kit first" in place.run("push", "train", status=1)
    place.run("push", "kit")
    assert "push weights first" in place.run("push", "infer", status=1)
    assert "push train first, or name one with --run" in place.run("push", "weights", status=1)
    assert "the parts are all, kit, train, weights, infer" in place.run("push", "everything", status=2)
    assert "--run names run folders for the part weights" in place.run("push", "kit", "--run", "fold0", status=2)
    assert place.versions() == {"hubmap-kit": 1}


def test_push_given_runs(place, tmp_path):
    """With --run nothing is trained, and these runs are the weights; a changed run makes a new version."""
    runs = []
    for name in ("fold0", "fold1"):
        runs += ["--run", str(tmp_path / name)]
        write_files(tmp_path / name, a_run())
    place.run("push", *runs)
    assert place.versions() == {"hubmap-kit": 1, "hubmap-weights": 1, "hubmap-infer": 1}
    (tmp_path / "fold1" / "model.weights.h5").write_bytes(b"better")
    text = place.run("push", *runs)
    assert place.versions() == {"hubmap-kit": 1, "hubmap-weights": 2, "hubmap-infer": 2}
    assert "hubmap-kit: unchanged" in text
    assert {row["runs"] for row in place.rows("pushes.csv")} == {"", "fold0 fold1"}


def test_what_is_sent(place):
    """Datasets and kernels are private, and are sent with the values of their metadata."""
    place.run("push", "kit", "train")
    metadata = json.loads((place.clone / "datasets/hubmap-kit" / DATASET_METADATA).read_text())
    sent = place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"].metadata
    assert sent["isPrivate"] is True
    assert sent["licenseName"] == metadata["licenses"][0]["name"]
    assert [sent[name] for name in ("title", "subtitle", "description")] == [
        metadata[name] for name in ("title", "subtitle", "description")
    ]
    metadata = json.loads((place.clone / "kernels/train/kernel-metadata.json").read_text())
    (train,) = place.kaggle.kernels[f"{place.kaggle.user}/hubmap-train"]
    for name, sent in (
        ("is_private", "isPrivate"),
        ("enable_gpu", "enableGpu"),
        ("enable_internet", "enableInternet"),
        ("machine_shape", "machineShape"),
        ("kernel_type", "kernelType"),
        ("language", "language"),
        ("title", "newTitle"),
        ("competition_sources", "competitionDataSources"),
    ):
        assert train.body[sent] == metadata[name], name
    for row in place.rows("pushes.csv"):
        assert row["commit"] == git(place.clone, "rev-parse", "HEAD")
        assert row["url"] in {f"https://www.kaggle.com/{kind}/{row['name']}" for kind in ("datasets", "code")}


@pytest.mark.parametrize(
    ("run", "rule"),
    [({}, "is not a run folder"), (a_run(finished=False), "is not finished; go on with: hubmap-kit train")],
)
def test_push_bad_run(place, tmp_path, run, rule):
    """A folder that holds no finished run is not uploaded as weights."""
    write_files(tmp_path / "run", run)
    assert rule in place.run("push", "weights", "--run", str(tmp_path / "run"), status=1)
    assert place.versions() == {}


def test_dry_run(place):
    """A dry run shows every call that would change something and every file, and changes nothing."""
    text = place.run("push", "--dry-run")
    for shown in (
        "PUT  ",
        f"hubmap-infer: version 1, a private kernel of {place.kaggle.user}: infer.py\n  NvidiaTeslaT4, no internet;",
        f"    dataset {place.kaggle.user}/hubmap-weights\n",
        f"hubmap-kit: version 1, a private dataset of {place.kaggle.user}",
        "other-1-py3-none-any.whl",
        "POST datasets.DatasetApiService/CreateDataset {",
        "POST kernels.KernelsApiService/SaveKernel {",
        f'"slug": "{place.kaggle.user}/hubmap-infer"',
        '"enableInternet": false',
        f'"text": "<{len((place.clone / "kernels/infer/infer.py").read_text())} characters>"',
        "dry run: nothing was sent",
    ):
        assert shown in text
    assert not WRITES & set(place.calls())
    assert not (place.clone / "records" / "state.json").exists()
    assert max(len(line) for line in text.splitlines() if str(place.clone) not in line) <= 100


def test_a_commit_that_leaves_the_library_as_it_is_makes_no_version(place):
    """The bundle names the commit, but a training is not repeated for another commit with the same wheels."""
    place.run("push")
    git(place.clone, "commit", "--quiet", "--allow-empty", "--message", "only docs")
    pretend_rehearsal_of_same_library(place.clone)
    assert place.run("push").count("unchanged, version 1") == 4
    assert place.versions() == ONCE


def test_dry_run_shows_what_a_new_version_of_a_dataset_runs_again(place):
    """A dry run shows the kernels that the real push runs because of the dataset that it makes."""
    place.run("push")
    git(place.clone, "commit", "--quiet", "--allow-empty", "--message", "another library")
    pretend_rehearsal(place.clone)
    text = place.run("push", "--dry-run")
    assert "hubmap-kit: version 2, a private dataset" in text
    assert "hubmap-train: version 2, a private kernel" in text
    assert "hubmap-weights: the run folder that hubmap-train will leave" in text
    assert "hubmap-infer: version 2, a private kernel" in text
    place.run("push")
    assert place.versions() == ONCE | {"hubmap-kit": 2, "hubmap-train": 2, "hubmap-infer": 2}


def test_records_of_two_users(tmp_path):
    """Records of two users of one clone are kept apart."""
    first, second = Records(tmp_path, "me"), Records(tmp_path, "you")
    first.put("hubmap-kit", {"version": 3})
    first.log_push({"name": "hubmap-kit", "version": "3"})
    assert Records(tmp_path, "you").get("hubmap-kit") == {}
    assert second.pushed("hubmap-kit") == {}
    assert Records(tmp_path, "me").get("hubmap-kit") == {"version": 3}
    assert list(first.pushed("hubmap-kit")) == [3]
    assert first.output("hubmap-train", 1) != second.output("hubmap-train", 1)


@pytest.mark.parametrize("name", ["push", "submit", "data", "verdict"])
def test_what_the_commands_need(name):
    """Push, submit and data need no more than their nox sessions install: NumPy and pandas, but no SciPy or OpenCV."""
    bad = "{'scipy', 'cv2', 'sklearn', 'matplotlib', 'jinja2', 'tifffile', 'tensorflow', 'keras'}"
    code = f"import sys, hubmap_kit.kaggle.{name}\nassert not {bad} & set(sys.modules), {bad} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CLONE)


@pytest.mark.parametrize("text", ["[]", "null", '{"me/hubmap-kit": 3}'])
def test_damaged_records(tmp_path, text):
    """A state.json that is JSON but holds something else is named."""
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        Records(tmp_path, "me")
