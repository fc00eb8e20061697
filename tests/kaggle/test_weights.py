"""The dataset of weights: which files of a run folder it holds, and how the inference kernel finds the runs."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from builders import write_run

from hubmap_kit.kaggle.session import find_runs
from hubmap_kit.kaggle.weights import MANIFEST, build_weights, unpack
from hubmap_kit.run import RunConfig

CLONE = Path(__file__).resolve().parents[2]


def make_run(folder: Path, *, finished: bool = True) -> Path:
    results = {"validation": {"dice": 0.875}} if finished else {}
    write_run(folder, b"weights of " + folder.name.encode(), finished=finished, results=results)
    (folder / "history.csv").write_text("epoch\n1\n")
    (folder / "checkpoint.npz").write_bytes(b"state")
    return folder


@pytest.fixture
def dataset(tmp_path) -> Path:
    runs = [make_run(tmp_path / name) for name in ("fold1", "fold0")]
    return build_weights(runs, tmp_path / "hubmap-weights", CLONE)


def test_dataset(dataset):
    """The dataset has an archive for every run, and a manifest with its files and validation Dice."""
    assert {path.name for path in dataset.iterdir()} == {"dataset-metadata.json", MANIFEST, "fold0.zip", "fold1.zip"}
    first = json.loads((dataset / MANIFEST).read_text())["runs"][0]
    assert (first["name"], first["validation_dice"]) == ("fold0", 0.875)
    assert set(first["files"]) == {"config.json", "model.weights.h5", "history.csv"}


def test_dataset_is_reproducible(dataset, tmp_path):
    """The same runs give the same bytes, in whatever order they are named."""
    again = build_weights([tmp_path / "fold0", tmp_path / "fold1"], tmp_path / "again", CLONE)
    for path in dataset.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.parametrize("unpacked", [False, True])
def test_runs_are_found(dataset, tmp_path, unpacked):
    """The runs come out as they went in, whether Kaggle unpacked the archives or not."""
    root = tmp_path / "input"
    unpack(dataset, root) if unpacked else root.symlink_to(dataset)
    found = find_runs(root)
    assert [run.name for run in found] == ["fold0", "fold1"]
    for run in found:
        assert (run / "model.weights.h5").read_bytes() == b"weights of " + run.name.encode()
        assert not (run / "checkpoint.npz").exists()
    assert [run.name for run in find_runs(root, ["fold1"])] == ["fold1"]


@pytest.mark.parametrize("unpacked", [False, True])
def test_folders_of_folds(tmp_path, unpacked):
    """Finished folds are packed under the name of their folder too, and found by it or by their own name."""
    for name in ("cv/fold0", "cv/fold1", "cv-later/fold0", "cv-single"):
        make_run(tmp_path / name)
    make_run(tmp_path / "cv" / "fold2", finished=False)
    runs = [tmp_path / name for name in ("cv", "cv-later", "cv-single")]
    dataset = build_weights(runs, tmp_path / "hubmap-weights", CLONE)
    names = ["cv-fold0", "cv-fold1", "cv-later-fold0", "cv-single"]
    assert [entry["name"] for entry in json.loads((dataset / MANIFEST).read_text())["runs"]] == names
    root = tmp_path / "input"
    unpack(dataset, root) if unpacked else root.symlink_to(dataset)
    assert [run.name for run in find_runs(root)] == names
    assert [run.name for run in find_runs(root, ["cv"])] == names[:2]
    assert [run.name for run in find_runs(root, ["cv-single", "cv-fold1"])] == ["cv-single", "cv-fold1"]
    assert (find_runs(root, ["cv-later"])[0] / "model.weights.h5").read_bytes() == b"weights of fold0"
    with pytest.raises(ValueError, match="no run folder has the name 'later'"):
        find_runs(root, ["later"])


def test_folds_in_the_output_of_a_kernel(tmp_path):
    """Folds are found by their folder where a kernel left it, unless that is a run; a fold found twice is refused."""
    runs = [make_run(tmp_path / "hubmap-train" / "run" / f"fold{fold}") for fold in (0, 1)]
    for run in runs:
        (run / "checkpoint.npz").unlink()
    assert find_runs(tmp_path, ["run"]) == runs
    again = make_run(tmp_path / "other" / "run" / "fold1")
    (again / "checkpoint.npz").unlink()
    with pytest.raises(ValueError, match="several run folders have the name 'run'"):
        find_runs(tmp_path, ["run"])
    single = make_run(tmp_path / "single" / "run")
    (single / "checkpoint.npz").unlink()
    assert find_runs(tmp_path, ["run"]) == [single]


@pytest.mark.parametrize("unpacked", [False, True])
def test_damaged_run(dataset, tmp_path, unpacked):
    """If a file differs from the manifest, the error names it."""
    manifest = json.loads((dataset / MANIFEST).read_text())
    manifest["runs"][1]["files"]["model.weights.h5"] = "0" * 64
    (dataset / MANIFEST).write_text(json.dumps(manifest))
    root = unpack(dataset, tmp_path / "input") if unpacked else dataset
    with pytest.raises(ValueError, match=r"fold1.model.weights.h5 is missing or is not the file .* upload"):
        find_runs(root)


def test_incomplete_run(dataset, tmp_path):
    """A file of the manifest that did not arrive is named."""
    root = unpack(dataset, tmp_path / "input")
    (root / "fold0" / "history.csv").unlink()
    with pytest.raises(ValueError, match=r"fold0.history.csv is missing or is not the file .* upload"):
        find_runs(root)


def test_run_without_a_score(tmp_path):
    """A run that was not scored is packed as well; its manifest says so."""
    run = make_run(tmp_path / "run")
    replace(RunConfig.read(run), results={}).write(run)
    dataset = build_weights([run], tmp_path / "out", CLONE)
    assert json.loads((dataset / MANIFEST).read_text())["runs"][0]["validation_dice"] is None


def test_dataset_is_built_again(dataset, tmp_path):
    """A dataset of other runs takes the place of the one before."""
    build_weights([tmp_path / "fold1"], dataset, CLONE)
    assert {path.name for path in dataset.glob("*.zip")} == {"fold1.zip"}


def test_which_runs_are_found(dataset, tmp_path):
    """Other archives and unfinished trainings are ignored; a name that two runs have is refused."""
    root = tmp_path / "input"
    unpack(dataset, root)
    (root / "notes.zip").write_bytes(b"no archive")
    with zipfile.ZipFile(root / "other.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    make_run(root / "hubmap-train" / "run")
    assert [run.name for run in find_runs(root)] == ["fold0", "fold1"]
    unpack(dataset, root / "another")
    with pytest.raises(ValueError, match="several run folders have the name 'fold0'"):
        find_runs(root, ["fold0"])


def test_bad_runs(tmp_path):
    """Refused are: no run, an unfinished run, two runs of one name, and a name that Kaggle does not allow."""
    good = make_run(tmp_path / "run")
    for runs, rule in (
        ([], "no run folder is given"),
        ([make_run(tmp_path / "half", finished=False)], "half is not finished"),
        ([good, make_run(tmp_path / "other" / "run")], "have the same name"),
        ([make_run(tmp_path / "my run")], "cannot be called 'my run'"),
        ([tmp_path], "is not a run folder"),
    ):
        with pytest.raises(ValueError, match=rule):
            build_weights(runs, tmp_path / "out", CLONE)
        assert not (tmp_path / "out").exists()


def test_other_folders_are_kept(tmp_path):
    """A folder that holds something else is not replaced by the dataset."""
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no weights dataset"):
        build_weights([run], tmp_path, CLONE)
    assert run.is_dir()


def test_unfinished_runs_are_not_used(tmp_path):
    """An unfinished training is not used for prediction."""
    make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="is not finished; push the training kernel again"):
        find_runs(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"runs": 5}', '{"runs": [{"name": "fold0"}]}', '{"runs": [[]]}'])
def test_damaged_manifest(dataset, tmp_path, text):
    """A manifest of the dataset that is damaged is named, with what to do."""
    seen = unpack(dataset, tmp_path / "seen" / "hubmap-weights")
    (seen / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"hubmap-weights.json is damaged .*; upload the dataset again"):
        find_runs(tmp_path / "seen")
