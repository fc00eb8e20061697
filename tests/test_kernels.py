"""The kernels, run as Kaggle runs them: on /kaggle, offline, from the bundle alone."""

import hashlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wheels import write_wheel

from hubmap_kit import kernels
from hubmap_kit.competition import SLUG
from hubmap_kit.kaggle.bundle import WHEELS, build_bundle
from hubmap_kit.kaggle.manifest import MANIFEST, BundledWheel, Manifest
from hubmap_kit.kaggle.session import find_competition, find_runs
from hubmap_kit.kernels import InferSettings, TrainSettings, apply_changes, install_missing
from hubmap_kit.rehearsal import isolation

CLONE = Path(__file__).resolve().parents[1]
KERNELS = ("train", "infer")
DATASETS = ("hubmap-kit", "hubmap-weights")
OBSTACLE = isolation.obstacle()
# Settings for pip that some users have, each of which breaks an installation into a folder of its own.
PIP = {"PIP_USER": "1", "PIP_TARGET": "elsewhere", "PIP_PREFIX": "elsewhere", "PIP_REQUIRE_VIRTUALENV": "1"}


def read_json(*parts: str) -> Any:
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


def test_kernels_differ_in_their_settings_alone():
    """Below the settings both kernels have the same lines, except for the function of the library that they call."""
    parts = [script(kernel).read_text().partition("\nSETTINGS = ")[2].replace(kernel, "KERNEL") for kernel in KERNELS]
    assert "find_kit" in parts[0]
    assert parts[0] == parts[1]


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_short(kernel):
    """Besides its settings a kernel has at most 45 lines."""
    lines = script(kernel).read_text().splitlines()
    assert len([line for line in lines if not re.match(r"[A-Z_]+ = ", line)]) <= 45


@pytest.mark.slow
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


@pytest.mark.slow
def test_bundle_is_reproducible(kit, tmp_path):
    """The same library gives the same bytes, whatever the README, the user's umask, time zone and settings of pip."""
    clone = tmp_path / "clone"
    for name in ("hubmap_kit", "datasets", "kernels"):
        shutil.copytree(CLONE / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copyfile(CLONE / name, clone / name)
    (clone / "README.md").write_text("another text")
    code = f"import hubmap_kit.kaggle.bundle as b, pathlib as p; b.build_bundle(p.Path({str(clone)!r}), "
    code += f"p.Path({str(tmp_path / 'again')!r}), extras=False)"
    umask = 0o077 if os.name == "posix" else -1
    subprocess.run(
        [sys.executable, "-P", "-c", code], check=True, umask=umask, env=os.environ | PIP | {"TZ": "Asia/Tokyo"}
    )
    of_commit = Manifest.read(kit)  # the copy has none
    replace(Manifest.read(tmp_path / "again"), commit=of_commit.commit, dirty=of_commit.dirty).write(tmp_path / "again")
    names = sorted(path.name for path in kit.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (kit / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.slow
def test_missing_wheels_are_installed_whatever_pip_is_set_to(tmp_path, monkeypatch):
    """A kernel installs the wheels that the image lacks, whatever a user's settings for pip are."""
    wheel = write_wheel(tmp_path)
    for name, value in PIP.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pip.conf").write_text(f"[install]\nuser = true\ntarget = {tmp_path / 'elsewhere'}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    manifest = Manifest("0", None, False, (BundledWheel(wheel.name, "thing_for_test", ""),))
    assert install_missing(tmp_path, manifest) == [wheel.name]
    assert importlib.util.find_spec("thing_for_test") is not None
    assert not (tmp_path / "elsewhere").exists()


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


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"wheels": []}', '{"wheels": [{"file": 5}]}', "null"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_damaged_manifest(kernel, text, tmp_path):
    """If the manifest of the bundle is damaged, the kernel names it and says what to do."""
    manifest = tmp_path / "hubmap-kit" / MANIFEST
    manifest.parent.mkdir()
    manifest.write_text(text)
    with pytest.raises(SystemExit, match=r"is damaged: it names no wheel .* upload the dataset again") as caught:
        runpy.run_path(str(script(kernel)))["find_kit"](tmp_path)
    assert str(manifest) in str(caught.value)


@pytest.mark.slow
def test_unknown_setting(kit, tmp_path):
    """A setting that the kernel does not have is an error that lists those it has."""
    settings = '{"PATCH": 1}'
    status, text = run_kernel(script("infer"), tmp_path / "working", {"hubmap-kit": kit}, HUBMAP_SETTINGS=settings)
    assert status == 1
    assert "names PATCH; the settings are ADAPT, BATCH_SIZE, MIN_REGION, ON_ERROR," in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "settings", "message"),
    [
        ("train", {"CONTEXT": "lung=x"}, "context is wrong: 'lung=x' is not a number"),
        ("train", {"RECIPE": "slow"}, "there is no recipe 'slow'"),
        ("infer", {"TTA": "all"}, "tta is 'all'; choose one of none, flips, d4"),
    ],
)
def test_setting_out_of_bounds(kit, tmp_path, kernel, settings, message):
    """A setting of a wrong value ends the kernel with the rule in one line within 10 s, before TensorFlow is loaded."""
    begin = time.monotonic()
    status, text = run_kernel(
        script(kernel), tmp_path / "working", {"hubmap-kit": kit}, HUBMAP_SETTINGS=json.dumps(settings)
    )
    assert status == 1
    assert message in text.splitlines()[-1]
    assert "Traceback" not in text
    assert time.monotonic() - begin < 10


@pytest.mark.slow
def test_damaged_bundle(kit, tmp_path):
    """If the library's wheel differs from the manifest, the kernel ends and names it."""
    damaged = tmp_path / "kit"
    shutil.copytree(kit, damaged)
    (wheel,) = damaged.glob("*.whl")
    wheel.write_bytes(wheel.read_bytes() + b"x")
    status, text = run_kernel(script("train"), tmp_path / "working", {"hubmap-kit": damaged})
    assert status == 1
    assert wheel.name in text
    assert "upload the dataset again" in text


@pytest.mark.slow
def test_bundle_is_found_by_its_marker(kit, tmp_path):
    """A bundle at another place is found and imported; the kernel then names the missing competition."""
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
    with pytest.raises(ValueError, match="no run folder is named; name one, or None for all"):
        find_runs(tmp_path, [])


def test_no_runs(tmp_path):
    """Without a run folder the error names the dataset to attach."""
    with pytest.raises(ValueError, match="attach the dataset hubmap-weights"):
        find_runs(tmp_path)


@pytest.mark.parametrize(
    ("kernel", "settings", "message"),
    [
        ("train", {"EPOCHS": "2"}, "EPOCHS is '2' in HUBMAP_SETTINGS; it must be a whole number or None"),
        ("train", {"FOLD": "every"}, "FOLD is 'every' in HUBMAP_SETTINGS; it must be a whole number or 'all' or None"),
        ("train", {"SEED": True}, "SEED is True in HUBMAP_SETTINGS; it must be a whole number"),
        ("train", {"TIME_LIMIT": "1"}, "TIME_LIMIT is '1' in HUBMAP_SETTINGS; it must be a number or None"),
        ("infer", {"RUNS": "run"}, "RUNS is 'run' in HUBMAP_SETTINGS; it must be a list of texts or None"),
        ("infer", {"SKIP_BACKGROUND": 1}, "SKIP_BACKGROUND is 1 in HUBMAP_SETTINGS; it must be True or False"),
        ("infer", ["TTA"], "it must be a JSON object"),
    ],
)
def test_bad_changes(kernel, settings, message):
    """A change of the wrong type is refused with the setting, its value, where it is set, and what it must be."""
    kind, given = settings_of(kernel)
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_changes(kind, given, json.dumps(settings))


def settings_of(kernel: str) -> tuple[Any, dict[str, Any]]:
    """The type of a kernel's settings, and the settings in its file."""
    path = script(kernel)
    return {"train": TrainSettings, "infer": InferSettings}[kernel], runpy.run_path(str(path))["SETTINGS"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_settings_of_a_kernel_file(kernel):
    """The settings in a kernel file are those that the library knows, and of their types."""
    kind, given = settings_of(kernel)
    assert vars(apply_changes(kind, given, "{}")) == given


def test_changes_are_applied(capsys):
    """HUBMAP_SETTINGS changes the settings that it names and no others, and the log says so."""
    kind, given = settings_of("train")
    settings = apply_changes(kind, given, '{"EPOCHS": 2, "FOLD": "all", "TIME_LIMIT": 3}')
    assert vars(settings) == given | {"EPOCHS": 2, "FOLD": "all", "TIME_LIMIT": 3}
    assert 'settings changed by HUBMAP_SETTINGS: {"EPOCHS": 2, "FOLD": "all"' in capsys.readouterr().out


def test_wrong_type_in_a_kernel_file():
    """A setting of the wrong type in the kernel file is refused, and the message says that it is there."""
    kind, given = settings_of("infer")
    with pytest.raises(ValueError, match="TTA is None in the kernel file; it must be a text"):
        apply_changes(kind, given | {"TTA": None}, "{}")


def test_changes_that_are_not_json():
    """A HUBMAP_SETTINGS that is not JSON is refused by that name."""
    kind, given = settings_of("infer")
    with pytest.raises(ValueError, match="HUBMAP_SETTINGS is not valid JSON"):
        apply_changes(kind, given, "{TTA}")


def test_kernel_and_library_of_different_commits():
    """A kernel file with other settings than the library knows is refused, with the settings in which they differ."""
    kind, given = settings_of("infer")
    with pytest.raises(ValueError, match="of different commits: only one has OLDER; take both from one commit"):
        apply_changes(kind, given | {"OLDER": 1}, "{}")


def with_wheel(kit: Path, folder: Path, metadata_version: str) -> Path:
    """A copy of the bundle with one more wheel, whose module is installed nowhere."""
    copied = shutil.copytree(kit, folder)
    wheel = copied / "added_module-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("added_module.py", "")
        info = "added_module-1.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: added-module\nVersion: 1\n")
        archive.writestr(
            f"{info}/WHEEL", f"Wheel-Version: {metadata_version}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    manifest = Manifest.read(copied)
    added = BundledWheel(wheel.name, "added_module", hashlib.sha256(wheel.read_bytes()).hexdigest())
    replace(manifest, wheels=(*manifest.wheels, added)).write(copied)
    return copied


@pytest.mark.slow
def test_what_a_kernel_says(kit, tmp_path):
    """In its first lines a kernel says version, commit and place of the library and what it installed, within 10 s."""
    begin = time.monotonic()
    seen: dict[str, float] = {}

    def on_line(line: str) -> None:
        seen[line] = time.monotonic() - begin

    (tmp_path / "working").mkdir()
    inputs = {"datasets/me/hubmap-kit": with_wheel(kit, tmp_path / "kit", "1.0")}
    isolation.run(
        script("infer"),
        inputs=inputs,
        working=tmp_path / "working",
        hidden=(CLONE,),
        environment={},
        on_line=on_line,
        isolated=OBSTACLE is None,
    )
    manifest = Manifest.read(kit)
    first, second = list(seen)[:2]
    assert first.startswith(f"hubmap-kit {manifest.version}, commit {manifest.commit}")
    assert ("with uncommitted changes" in first) is manifest.dirty
    assert first.endswith("/input/datasets/me/hubmap-kit")
    assert second == "installed added_module-1-py3-none-any.whl"
    assert seen[second] < 10


@pytest.mark.slow
def test_nothing_to_install(kit, tmp_path):
    """Where the image has all modules, a kernel says that it installed nothing."""
    _, text = run_kernel(script("infer"), tmp_path / "working", {"hubmap-kit": kit})
    assert "\ninstalled nothing: this image has all modules" in text


@pytest.mark.slow
def test_wheel_that_cannot_be_installed(kit, tmp_path):
    """Where pip refuses a wheel, a kernel ends with what pip said and the version of Python."""
    kit = with_wheel(kit, tmp_path / "kit", "99.0")
    status, text = run_kernel(script("infer"), tmp_path / "working", {"hubmap-kit": kit})
    assert status == 1
    assert f"cannot be installed on Python {sys.version.split()[0]}" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_other_damaged_wheel(kit, tmp_path):
    """A wheel that is not the library's is checked as well, before it is installed."""
    kit = with_wheel(kit, tmp_path / "kit", "1.0")
    (kit / "added_module-1-py3-none-any.whl").unlink()
    status, text = run_kernel(script("train"), tmp_path / "working", {"hubmap-kit": kit})
    assert status == 1
    assert "added_module-1-py3-none-any.whl is missing or is not the file that hubmap-kit.json describes" in text
    assert text.rstrip().endswith("upload the dataset again")


@pytest.mark.slow
def test_library_is_imported_from_its_wheel(kit, tmp_path):
    """The library runs from its wheel as it is: no module needs files beside its code."""
    (wheel,) = kit.glob("hubmap_kit-*.whl")
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import importlib, pkgutil, hubmap_kit\n"
        f"assert hubmap_kit.__file__.startswith({str(wheel)!r}), hubmap_kit.__file__\n"
        "for module in pkgutil.walk_packages(hubmap_kit.__path__, 'hubmap_kit.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=tmp_path, env=environment)


def test_context_may_be_a_number():
    """CONTEXT is a number of micrometres or a text that names organs."""
    kind, given = settings_of("train")
    for context in (410, 409.6, "410,kidney=512", "whole"):
        settings = apply_changes(kind, given | {"CONTEXT": context}, "{}")
        assert vars(settings)["CONTEXT"] == context


@pytest.mark.parametrize(
    ("left_s", "rerun", "says"),
    [
        (None, "", "look at "),
        (kernels.PAGE_S + 60, "", "look at "),
        (kernels.PAGE_S - 1, "", "review.html is not written, because the time limit is near"),
        (None, "1", ""),
    ],
)
def test_page_beside_the_submission(demo, tmp_path, monkeypatch, capsys, left_s, rerun, says):
    """A page is written if there is time, and not in the scoring rerun."""
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", rerun)
    page, submission = tmp_path / "review.html", tmp_path / "submission.csv"
    shutil.copyfile(demo / "sample_submission.csv", submission)
    kernels._write_page(page, ("review", submission, "--data", demo), left_s)
    assert capsys.readouterr().out.startswith(says)
    assert page.is_file() == says.startswith("look")


def test_page_that_fails_or_takes_too_long(demo, tmp_path, monkeypatch, capsys):
    """A page that cannot be written, for whatever reason, is one line, and nothing is left of it."""
    page = tmp_path / "review.html"
    kernels._write_page(page, ("review", tmp_path / "none.csv", "--data", tmp_path, "--run", tmp_path / "none"), None)
    printed = capsys.readouterr().out
    assert printed.startswith("review.html is not written: error: ")
    assert printed.count("\n") == 1
    kernels._write_page(page, ("review", demo / "sample_submission.csv", "--data", demo), None, 0.01)
    assert "review.html is not written: it takes more than" in capsys.readouterr().out
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    kernels._write_page(page, ("review", demo / "sample_submission.csv", "--data", demo), None)
    assert "review.html is not written: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
