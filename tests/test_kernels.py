"""The kernels, run as Kaggle runs them: on /kaggle, offline, from the bundle alone."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hubmap_kit.competition import SLUG
from hubmap_kit.kaggle.bundle import MANIFEST, WHEELS, build_bundle
from hubmap_kit.kaggle.session import find_competition, find_runs
from hubmap_kit.rehearsal import isolation

CLONE = Path(__file__).resolve().parents[1]
KERNELS = ("train", "infer")
DATASETS = ("hubmap-kit", "hubmap-weights")
OBSTACLE = isolation.obstacle()


def read_json(*parts: str) -> dict:
    return json.loads(CLONE.joinpath(*parts).read_text(encoding="utf-8"))


def script(kernel: str) -> Path:
    return CLONE / "kernels" / kernel / f"{kernel}.py"


def run_kernel(path: Path, working: Path, inputs: dict[str, Path], isolated: bool = OBSTACLE is None, **environment):
    """Run a kernel; returns its exit status and its output."""
    working.mkdir(exist_ok=True)
    lines: list[str] = []
    outcome = isolation.run(
        path,
        inputs=inputs,
        working=working,
        hidden=(CLONE,),
        environment=environment,
        on_line=lines.append,
        isolated=isolated,
    )
    return outcome.status, "\n".join(lines)


@pytest.fixture(scope="module")
def kit(tmp_path_factory) -> Path:
    """The bundle with the library's own wheel only: this Python has the others."""
    return build_bundle(CLONE, tmp_path_factory.mktemp("bundle") / "kit", extras=False)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_metadata(kernel):
    """A kernel's metadata points at its file, at our datasets and the competition, and keeps it private."""
    metadata = read_json("kernels", kernel, "kernel-metadata.json")
    owner, slug = metadata["id"].split("/")
    assert owner == "OWNER"
    assert slug == re.sub(r"[^a-z0-9]+", "-", metadata["title"].lower())
    assert (CLONE / "kernels" / kernel / metadata["code_file"]).is_file()
    assert (metadata["language"], metadata["kernel_type"]) == ("python", "script")
    assert metadata["is_private"] is True
    assert metadata["competition_sources"] == [SLUG]
    assert {source.removeprefix("OWNER/") for source in metadata["dataset_sources"]} <= set(DATASETS)


def test_inference_has_no_internet():
    """The inference kernel asks for no internet, without which Kaggle takes no submission, and has the weights."""
    metadata = read_json("kernels", "infer", "kernel-metadata.json")
    assert metadata["enable_internet"] is False
    assert metadata["dataset_sources"] == ["OWNER/hubmap-kit", "OWNER/hubmap-weights"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_dataset_metadata(dataset):
    """A dataset's folder, id and title agree, and its title has a length that Kaggle takes."""
    metadata = read_json("datasets", dataset, "dataset-metadata.json")
    assert metadata["id"] == f"OWNER/{dataset}"
    assert metadata["title"].replace(" ", "-") == dataset
    assert 6 <= len(metadata["title"]) <= 50
    assert metadata["licenses"]


def test_bootstrap_is_the_same_in_both_kernels():
    """Both kernels begin with the same bootstrap."""
    parts = [script(kernel).read_text().partition("# Bootstrap")[2].partition("# End of") for kernel in KERNELS]
    assert parts[0][1]
    assert parts[0][0] == parts[1][0]


def test_manifest_describes_the_bundle(kit):
    """The manifest names every wheel of the bundle with its hash, the version and the commit."""
    manifest = json.loads((kit / MANIFEST).read_text())
    assert {wheel["file"] for wheel in manifest["wheels"]} == {path.name for path in kit.glob("*.whl")}
    for wheel in manifest["wheels"]:
        assert hashlib.sha256((kit / wheel["file"]).read_bytes()).hexdigest() == wheel["sha256"]
    assert manifest["wheels"][0]["file"] == f"hubmap_kit-{manifest['version']}-py3-none-any.whl"
    assert manifest["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", manifest["commit"])
    assert read_json("datasets", "hubmap-kit", "dataset-metadata.json") == json.loads(
        (kit / "dataset-metadata.json").read_text()
    )


def test_bundle_is_reproducible(kit, tmp_path):
    """The same commit gives the same bytes, whatever the user's umask and time zone."""
    code = f"import hubmap_kit.kaggle.bundle as b, pathlib as p; b.build_bundle(p.Path({str(CLONE)!r}), "
    code += f"p.Path({str(tmp_path / 'again')!r}), extras=False)"
    umask = 0o077 if os.name == "posix" else -1
    subprocess.run([sys.executable, "-P", "-c", code], check=True, umask=umask, env=os.environ | {"TZ": "Asia/Tokyo"})
    names = sorted(path.name for path in kit.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (kit / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_bundled_wheels_fit_kaggle():
    """Every bundled wheel is pure Python, or abi3 for Linux, so that a newer Python takes it too."""
    for wheel in WHEELS:
        assert re.search(r"-(py3-none-any|cp311-abi3-manylinux\w*_x86_64)\.whl$", wheel.file)
        assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)


def test_bundle_replaces_only_a_bundle(tmp_path):
    """A folder that holds something else is not deleted for a bundle."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no bundle"):
        build_bundle(CLONE, tmp_path, extras=False)
    assert (tmp_path / "notes.txt").is_file()


def test_bundle_needs_a_clone(tmp_path):
    """Outside a clone the bundle says what is missing."""
    with pytest.raises(ValueError, match="not a clone"):
        build_bundle(tmp_path, tmp_path / "kit")


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_without_bundle(kernel, tmp_path):
    """Without the bundle a kernel stops, and says what is missing and where it looked."""
    other = tmp_path / "other"
    other.mkdir()
    status, text = run_kernel(script(kernel), tmp_path / "working", {"other": other})
    assert status == 1
    assert "the dataset hubmap-kit is missing" in text
    for place in ("input/datasets/*/hubmap-kit", "input/hubmap-kit", "which holds other", "dataset_sources"):
        assert place in text


def test_unknown_setting(tmp_path):
    """A setting that the kernel does not have is an error that lists those it has."""
    status, text = run_kernel(script("infer"), tmp_path / "working", {}, HUBMAP_SETTINGS='{"PATCH": 1}')
    assert status == 1
    assert "names PATCH; the settings are ADAPT, BATCH_SIZE, MIN_REGION, ON_ERROR," in text


def test_damaged_bundle(kit, tmp_path):
    """A wheel that is not the one in the manifest is refused by name."""
    damaged = tmp_path / "kit"
    shutil.copytree(kit, damaged)
    (wheel,) = damaged.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    status, text = run_kernel(script("train"), tmp_path / "working", {"hubmap-kit": damaged})
    assert status == 1
    assert wheel.name in text
    assert "upload the dataset again" in text


def test_bundle_is_found_by_its_marker(kit, tmp_path):
    """A bundle at an unforeseen place is found and imported; then the missing competition is told."""
    status, text = run_kernel(script("infer"), tmp_path / "working", {"a/b": kit})
    assert status == 1
    assert "input/a/b" in text
    assert "the competition's data is missing" in text
    assert "competition_sources" in text


def make_files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


TABLES = ("test.csv", "sample_submission.csv")
RUN = ("config.json", "model.weights.h5")


@pytest.mark.parametrize("place", [f"competitions/{SLUG}", SLUG, "else/where"])
def test_competition_is_found(place, tmp_path):
    """The competition is found in both mount layouts, and by its tables anywhere else."""
    folder = make_files(tmp_path / place, *TABLES)
    make_files(tmp_path / "unrelated", "test.csv")
    assert find_competition(tmp_path) == folder


def test_competition_is_not_guessed(tmp_path):
    """Two folders that could be the competition are both named, and neither is taken."""
    make_files(tmp_path / "a", *TABLES)
    make_files(tmp_path / "b", *TABLES)
    with pytest.raises(ValueError, match=r"a, .*b could all be meant"):
        find_competition(tmp_path)


def test_runs_are_found(tmp_path):
    """Run folders are found in datasets and in kernel output; a name chooses among them."""
    first = make_files(tmp_path / "datasets/me/hubmap-weights/fold0", *RUN)
    second = make_files(tmp_path / "hubmap-train/run", *RUN)
    make_files(tmp_path / "unfinished", "config.json")
    assert find_runs(tmp_path) == [first, second]
    assert find_runs(tmp_path, ["run"]) == [second]
    with pytest.raises(ValueError, match="no run folder has the name 'fold1'"):
        find_runs(tmp_path, ["fold1"])


def test_no_runs(tmp_path):
    """Without a run folder the dataset to attach is named."""
    with pytest.raises(ValueError, match="attach the dataset hubmap-weights"):
        find_runs(tmp_path)
