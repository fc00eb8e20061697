"""Push, submit and data: run as a user runs them, with the official client, against a stand-in for Kaggle."""

from __future__ import annotations

import base64
import csv
import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import write_run
from kaggle_standin import Call, Dataset, KernelResult, Refusal, StandIn

from hubmap_kit.files import sha256_of
from hubmap_kit.kaggle import bundle, client, failures, push, submit
from hubmap_kit.kaggle.records import Records

CLONE = Path(__file__).resolve().parents[2]
WRITES = {"StartBlobUpload", "PUT", "CreateDataset", "CreateDatasetVersion", "SaveKernel", "CreateCodeSubmission"}
SUBMISSION = b"id,rle\n10078,12 34\n"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


def git(clone: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(clone), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    """A clone with one commit, of which a rehearsal has passed; its bundle is of two small files."""
    clone = tmp_path_factory.mktemp("template") / "clone"
    for name in ("hubmap_kit", "kernels", "datasets"):
        shutil.copytree(CLONE / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copyfile(CLONE / name, clone / name)
    git(clone, "init", "--quiet")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "all")
    pretend_rehearsal(clone)
    return clone


def pretend_rehearsal(clone: Path, **changes: Any) -> None:
    """Write what a rehearsal of the clone's commit leaves for a push."""
    kit = clone / "rehearsal" / "kit"
    kit.mkdir(parents=True, exist_ok=True)
    commit, wheels = git(clone, "rev-parse", "HEAD"), []
    for name, module in (("hubmap_kit-0-py3-none-any.whl", "hubmap_kit"), ("other-1-py3-none-any.whl", "other")):
        (kit / name).write_bytes(f"{module} {commit}".encode() * 1000)
        wheels.append({"file": name, "module": module, "sha256": sha256_of(kit / name)})
    manifest = {"name": "hubmap-kit", "version": "0", "commit": commit, "dirty": False, "wheels": wheels}
    (kit / bundle.MANIFEST).write_text(json.dumps(manifest))
    shutil.copyfile(clone / "datasets" / "hubmap-kit" / bundle.METADATA, kit / bundle.METADATA)
    verdict = {"passed": True, "commit": commit, "dirty": False, "bundle": "kit"}
    verdict |= {"manifest_sha256": sha256_of(kit / bundle.MANIFEST)} | changes
    (clone / "rehearsal" / "verdict.json").write_text(json.dumps(verdict))


def a_run(*, finished: bool = True, epochs: int = 3) -> dict[str, bytes]:
    """Files of a run folder, as far as a push looks at them."""
    results = {"validation": {"dice": 0.8125}} if finished else {}
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), b"weights" * 5000, finished=finished, epochs=epochs, results=results)
        files = {path.name: path.read_bytes() for path in run.iterdir()}
    return files | ({} if finished else {"checkpoint.npz": b"state" * 50000})


def run_kernels(ref: str, body: dict[str, Any]) -> KernelResult:
    """Kernels that do what ours do."""
    if ref.endswith("train"):
        return KernelResult(output={f"run/{name}": data for name, data in a_run().items()}, log="trained\n")
    return KernelResult(output={"submission.csv": SUBMISSION}, log="predicted\n")


class Workplace:
    """A clone, a home and a stand-in for Kaggle."""

    def __init__(self, clone: Path, home: Path, kaggle: StandIn) -> None:
        self.clone, self.home, self.kaggle = clone, home, kaggle
        self.process: subprocess.Popen[str] | None = None

    def run(
        self, module: str, *arguments: str, program: str = "", credentials: str = "key", status: int | None = 0
    ) -> str:
        """Run a command, or a program, in the clone; returns what it printed. It never prints a credential."""
        poll = [] if module == "data" else ["--poll", "0.02"]
        command = [program] if program else ["-m", f"hubmap_kit.kaggle.{module}", *arguments, *poll]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.clone,
            env=self.kaggle.environment(self.home, credentials=credentials),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        text, _ = self.process.communicate(timeout=120)
        assert status is None or self.process.returncode == status, text
        assert "Traceback" not in text, text
        login = base64.b64encode(f"{self.kaggle.user}:{self.kaggle.key}".encode()).decode()
        for secret in (self.kaggle.key, self.kaggle.token, login):
            assert secret not in text
        assert not self.kaggle.unknown
        return text

    def kill(self, call: Call) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_before(self, call: Call) -> None:
        """Kill the command, and let Kaggle do nothing of what it asked for."""
        self.kill(call)
        raise Refusal(503)

    def calls(self) -> list[str]:
        """Methods called since this was asked last."""
        methods = [call.method for call in self.kaggle.calls]
        self.kaggle.calls.clear()
        return methods

    def versions(self) -> dict[str, int]:
        """How many versions of each dataset and kernel there are."""
        every = {ref: len(dataset.versions) for ref, dataset in self.kaggle.datasets.items()}
        every |= {ref: len(versions) for ref, versions in self.kaggle.kernels.items()}
        return {ref.removeprefix(f"{self.kaggle.user}/"): count for ref, count in every.items()}

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.clone / "records" / name).open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def place(template, tmp_path):
    shutil.copytree(template, tmp_path / "clone", symlinks=True)
    with StandIn() as kaggle:
        kaggle.on_kernel_run = run_kernels
        place = Workplace(tmp_path / "clone", tmp_path / "home", kaggle)
        yield place
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert kaggle.key.encode() not in path.read_bytes(), path


ONCE = {"hubmap-kit": 1, "hubmap-train": 1, "hubmap-weights": 1, "hubmap-infer": 1}


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
    """Run folders that are named are the weights, and nothing is trained; a changed one makes a new version."""
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
    """Datasets and kernels are private, and are what their metadata says."""
    place.run("push", "kit", "train")
    metadata = json.loads((place.clone / "datasets/hubmap-kit" / bundle.METADATA).read_text())
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
    ("file", "old", "new"),
    [("kernel-metadata.json", '"NvidiaTeslaT4"', '"TpuV5E8"'), ("train.py", "import", "import ")],
)
def test_changed_kernel(place, file, old, new):
    """A kernel whose source or metadata changed is pushed again, though the bundle is the same."""
    place.run("push", "kit", "train")
    change_kernel(place.clone, file, old, new)
    place.run("push", "kit", "train")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 2}


def change_kernel(clone: Path, file: str, old: str, new: str) -> None:
    """Change the training kernel and pretend a rehearsal with the same bundle."""
    path = clone / "kernels" / "train" / file
    path.write_text(path.read_text().replace(old, new, 1))
    git(clone, "commit", "--quiet", "--all", "--message", "change")
    verdict = clone / "rehearsal" / "verdict.json"
    verdict.write_text(json.dumps(json.loads(verdict.read_text()) | {"commit": git(clone, "rev-parse", "HEAD")}))


def test_changed_dataset(place):
    """A dataset is uploaded again when its metadata changed, and when it is another or gone on Kaggle."""
    place.run("push", "kit")
    dataset = place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"]
    path = place.clone / "rehearsal" / "kit" / bundle.METADATA
    path.write_text(path.read_text().replace("The library", "A library"))
    place.run("push", "kit")
    assert len(dataset.versions) == 2
    assert dataset.metadata["subtitle"].startswith("A library")
    dataset.versions.append({"by-hand.txt": b""})
    place.run("push", "kit")
    assert [len(files) for files in dataset.versions] == [3, 3, 1, 3]
    place.kaggle.datasets.clear()
    place.run("push", "kit")
    assert place.versions() == {"hubmap-kit": 1}


@pytest.mark.parametrize(
    ("run", "rule"),
    [({}, "is not a run folder"), (a_run(finished=False), "is not finished; go on with: hubmap-kit train")],
)
def test_push_bad_run(place, tmp_path, run, rule):
    """What is no finished run is not uploaded as weights."""
    write_files(tmp_path / "run", run)
    assert rule in place.run("push", "weights", "--run", str(tmp_path / "run"), status=1)
    assert place.versions() == {}


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def commit_change(clone: Path) -> None:
    with (clone / "README.md").open("a") as file:
        file.write("changed\n")
    git(clone, "commit", "--quiet", "--all", "--message", "change")


def make_dirty(clone: Path) -> None:
    (clone / "notes.txt").write_text("mine")


def damage_bundle(clone: Path) -> None:
    (clone / "rehearsal" / "kit" / "other-1-py3-none-any.whl").write_bytes(b"else")


def remove_rehearsal(clone: Path) -> None:
    shutil.rmtree(clone / "rehearsal")


def fail_rehearsal(clone: Path) -> None:
    pretend_rehearsal(clone, passed=False)


def remove_wheel(clone: Path) -> None:
    (clone / "rehearsal" / "kit" / "other-1-py3-none-any.whl").unlink()


def remove_manifest(clone: Path) -> None:
    (clone / "rehearsal" / "kit" / bundle.MANIFEST).unlink()


def replace_bundle(clone: Path) -> None:
    pretend_rehearsal(clone, manifest_sha256="0" * 64)


def rehearse_dirty(clone: Path) -> None:
    pretend_rehearsal(clone, dirty=True)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (make_dirty, "not committed"),
        (commit_change, "the rehearsal was of commit"),
        (remove_rehearsal, "no rehearsal has passed; run: nox -s rehearse"),
        (fail_rehearsal, "the rehearsal failed"),
        (damage_bundle, "is not the bundle that was rehearsed"),
        (remove_wheel, "is not the bundle that was rehearsed"),
        (remove_manifest, "is not the bundle that was rehearsed"),
        (replace_bundle, "is not the bundle that was rehearsed"),
        (rehearse_dirty, "with changes, this is"),
    ],
)
def test_push_is_refused(place, change, rule):
    """What was not rehearsed just as it is, is not pushed; a dry run says so and goes on."""
    change(place.clone)
    text = place.run("push", status=1)
    assert text.count("\n") == 1
    assert rule in text
    assert place.calls() == []
    text = place.run("push", "kit", "--dry-run")
    assert "a push would be refused: " in text
    assert rule in text
    assert "dry run: nothing was sent" in text


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside another clone"])
def test_push_without_git(place, inside):
    """A folder that is no clone itself is not pushed, since nobody could tell what was."""
    shutil.rmtree(place.clone / ".git")
    if inside:
        git(place.clone.parent, "init", "--quiet")
        git(place.clone.parent, "commit", "--quiet", "--allow-empty", "--message", "other")
    assert "this is no git clone with a commit" in place.run("push", status=1)
    assert place.calls() == []


def test_push_forced(place):
    """With --force a change that is not committed is pushed, and it is said what was overridden."""
    make_dirty(place.clone)
    kit = place.clone / "rehearsal" / "kit"
    program = "import pathlib, sys\nfrom hubmap_kit.kaggle import bundle, push\n"
    program += f"bundle.build_bundle = lambda clone, out: pathlib.Path({str(kit)!r})\n"
    (place.clone / "force.py").write_text(program + 'sys.exit(push.main(["kit", "--force", "--poll", "0.02"]))')
    text = place.run("push", program="force.py")
    assert "overridden by --force: the clone has changes that are not committed" in text
    assert place.versions() == {"hubmap-kit": 1}
    assert place.rows("pushes.csv")[0]["commit"] == git(place.clone, "rev-parse", "HEAD") + "-dirty"


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        ("none", "no Kaggle credentials; make a token on https://www.kaggle.com/settings"),
        ("wrong-key", "Kaggle refuses the credentials in KAGGLE_USERNAME and KAGGLE_KEY; make a new token"),
        ("wrong-token", "Kaggle refuses the credentials in KAGGLE_API_TOKEN; make a new token"),
    ],
)
@pytest.mark.parametrize("module", ["push", "submit", "data"])
def test_credentials(place, module, credentials, said):
    """Without credentials, or with wrong ones, the last line says where to get them."""
    if module == "submit":
        place.run("push")
    before = place.versions()
    text = place.run(module, credentials=credentials, status=1)
    assert text.splitlines()[-1].startswith(f"error: {said}"), text
    assert text.count("error") == 1
    assert "export KAGGLE_API_TOKEN" not in text  # the client's own advice, a page of it
    assert place.versions() == before
    assert place.kaggle.submissions == []


@pytest.mark.parametrize("name", ["VERBOSE", "VERBOSE_OUTPUT"])
def test_verbose_environment(place, monkeypatch, name):
    """Credentials are not printed even where the client is told to print all it sends."""
    environment = place.kaggle.environment(place.home) | {name: "true"}
    monkeypatch.setattr(place.kaggle, "environment", lambda home, credentials: environment)
    place.kaggle.rules_accepted = False
    place.run("push", "kit")  # looks at what is printed
    place.run("data", status=1)


def test_token(place):
    """A token does as well as a key, and the owner is whom it belongs to."""
    text = place.run("push", "kit", credentials="token")
    assert f"owner {place.kaggle.user}" in text
    assert place.versions() == {"hubmap-kit": 1}


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("name", ["kaggle.json", "access_token"])
def test_credentials_in_a_file(place, name, right):
    """A token or a key in the folder .kaggle does as well; where Kaggle refuses it, the file is named."""
    file = place.home / ".kaggle" / name
    file.parent.mkdir(parents=True)
    key = place.kaggle.key if right else "wrong"
    token = place.kaggle.token if right else "wrong"
    file.write_text(json.dumps({"username": place.kaggle.user, "key": key}) if name == "kaggle.json" else token)
    text = place.run("push", "kit", credentials="none", status=0 if right else 1)
    file.unlink()
    if not right:
        assert "Kaggle refuses the credentials in " in text
        assert f"{name}; make a new token" in text
    assert place.versions() == ({"hubmap-kit": 1} if right else {})


def test_token_that_expired(place):
    """A token that Kaggle no longer knows is refused by name, not taken for none."""
    place.kaggle.fault("IntrospectToken", 403, times=9)
    text = place.run("push", "kit", credentials="token", status=1)
    assert text.startswith("error: Kaggle refuses the credentials in KAGGLE_API_TOKEN; make a new token")


def test_dry_run(place):
    """A dry run shows every call that would change something and every file, and changes nothing."""
    text = place.run("push", "--dry-run")
    for shown in (
        "PUT  ",
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


def test_dry_run_without_credentials(place):
    """Without credentials a dry run asks Kaggle nothing, and says so."""
    remove_rehearsal(place.clone)
    text = place.run("push", "infer", "--dry-run", "--force", credentials="none")
    assert "there are no credentials: nothing is asked of Kaggle" in text
    assert '"slug": "OWNER/hubmap-infer"' in text
    assert place.calls() == []


def test_lost_upload(place):
    """When a file does not arrive, no dataset is made without it; the next push makes it whole."""
    place.kaggle.lost_uploads = {"other-1-py3-none-any.whl"}
    text = place.run("push", "kit", status=1)
    assert "error: other-1-py3-none-any.whl did not arrive at Kaggle, so no version was made" in text
    assert place.versions() == {}
    place.kaggle.lost_uploads = set()
    by_hand = Dataset([{"by-hand.txt": b""}])
    place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"] = by_hand  # which is not taken for the one that was lost
    place.run("push", "kit")
    _, files = place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"].versions
    assert len(files) == 3
    assert place.versions() == {"hubmap-kit": 2}


def test_upload_that_expired(place):
    """A file whose upload was interrupted, and is no longer known to Kaggle, is sent from its beginning."""
    place.kaggle.fault("PUT", place.kill_before)
    place.run("push", "kit", status=None)
    place.kaggle.uploads.clear()
    place.run("push", "kit")
    (files,) = place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"].versions
    assert len(files) == 3


def test_dataset_that_exists(place):
    """A dataset that was made by hand gets a new version with all files."""
    ref = f"{place.kaggle.user}/hubmap-kit"
    place.run("push", "kit")
    shutil.rmtree(place.clone / "records")
    place.run("push", "kit")
    assert [len(files) for files in place.kaggle.datasets[ref].versions] == [3, 3]
    assert place.kaggle.datasets[ref].notes[1].startswith("hubmap-kit commit ")


def test_slug_in_use(place):
    """A title that another dataset has is an error with a remedy, not a silent nothing."""
    place.kaggle.slug_in_use = {"hubmap-kit"}
    text = place.run("push", "kit", status=1)
    assert 'Kaggle made no version of hubmap-kit: The requested title "hubmap kit" is already in use' in text
    assert "rename or delete it on Kaggle" in text
    place.kaggle.slug_in_use = set()
    place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"] = Dataset([{"by-hand.txt": b""}])
    place.run("push", "kit")  # that version is not taken for the one that was refused
    assert place.versions() == {"hubmap-kit": 2}


@pytest.mark.parametrize("answer", [{"error": "no more space"}, {"status": "error"}])
@pytest.mark.parametrize("create", [False, True])
def test_dataset_refused(monkeypatch, answer, create):
    """What Kaggle has against a dataset is an error, however it says so."""
    monkeypatch.setattr(client.Client, "_call", lambda self, method, request, kind, **how: kind.from_dict(answer))
    metadata = {"id": "me/hubmap-kit", "title": "", "subtitle": "", "description": "", "licenses": [{"name": "other"}]}
    with pytest.raises(failures.KaggleError, match=f"no version of hubmap-kit: {answer.get('error', 'no reason')}"):
        client.Client(None, "me").save_dataset(metadata, [], "", create=create)


@pytest.mark.parametrize("status", [403, 404])
def test_new_names(place, status):
    """A dataset or kernel that is not there yet is made, whether Kaggle calls it missing or forbidden."""
    place.kaggle.missing_status = status
    place.run("push", "kit", "train")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 1}


def test_ready_at_the_old_version(place):
    """A kernel is pushed only when its dataset is ready at the new version, not at the one before."""
    kaggle = place.kaggle
    place.run("push", "kit", "train")
    commit_change(place.clone)
    pretend_rehearsal(place.clone)
    kaggle.old_ready, kaggle.ready_after = 4, 3
    waiting = []

    def run(ref: str, body: dict[str, Any]) -> KernelResult:
        dataset = kaggle.datasets[f"{kaggle.user}/hubmap-kit"]
        waiting.append((len(dataset.versions), dataset.old_left, dataset.wait_left))
        return run_kernels(ref, body)

    kaggle.on_kernel_run = run
    place.run("push", "kit", "train")
    assert waiting == [(2, 0, 0)]


def test_dataset_fails(place):
    """A version that Kaggle cannot process is an error, and is made again by the next push."""
    place.kaggle.dataset_status = "FAILED"
    assert "Kaggle could not process version 1 of hubmap-kit (FAILED); push again" in place.run("push", "kit", status=1)
    place.kaggle.dataset_status = "READY"
    place.run("push", "kit")
    assert place.versions() == {"hubmap-kit": 2}


@pytest.mark.parametrize(
    ("source", "remedy"),
    [("dataset", "push it first"), ("competition", f"accept its rules at {failures.RULES_PAGE}")],
)
def test_invalid_sources(place, source, remedy):
    """A source that Kaggle leaves out is an error; that version is not taken for a good one later."""
    place.run("push", "kit")
    setattr(place.kaggle, f"invalid_{source}_sources", True)
    text = place.run("push", "train", status=1)
    assert f"Kaggle took {place.kaggle.user}/hubmap-train but not its {source} " in text
    assert remedy in text
    setattr(place.kaggle, f"invalid_{source}_sources", False)
    place.run("push", "train")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 2}
    assert (place.clone / "records/output" / place.kaggle.user / "hubmap-train/v2/run/config.json").is_file()


@pytest.mark.parametrize("source", ["Dataset", "Competition", "Kernel", "Model"])
def test_invalid_sources_of_every_kind(monkeypatch, source):
    """Whatever source Kaggle leaves out of a kernel, the version does not pass for a good one."""
    answer = {"versionNumber": 1, f"invalid{source}Sources": ["me/some-source"]}
    monkeypatch.setattr(client.Client, "_call", lambda self, method, request, kind, **how: kind.from_dict(answer))
    metadata = json.loads((CLONE / "kernels/train/kernel-metadata.json").read_text())
    with pytest.raises(failures.KaggleError, match=rf"but not its {source.lower()} me/some-source, .*then push again"):
        client.Client(None, "me").save_kernel(metadata, "")


def test_kernel_refused(place):
    """What Kaggle has against a kernel is told, though its answer has status 200."""
    place.run("push", "kit")
    place.kaggle.kernel_error = "Maximum batch GPU session count of 2 reached."
    text = place.run("push", "train", status=1)
    assert "Kaggle refuses the kernel" in text
    assert "Maximum batch GPU session count of 2 reached; " in text


def test_empty_push(place):
    """An answer that names no version is not taken for a success."""
    place.run("push", "kit")
    place.kaggle.empty_push = True
    assert "names no version" in place.run("push", "train", status=1)


def test_kernel_fails(place):
    """A kernel that fails ends the push with Kaggle's reason and the end of its log; the next push runs it again."""
    lines = json.dumps([{"stream_name": "stderr", "time": 1.5, "data": "ValueError: no such recipe\n"}])
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult("ERROR", log=lines, failure="Exited with code 1")
    text = place.run("push", "kit", "train", status=1)
    assert "\nValueError: no such recipe\n" in text
    assert "hubmap-train version 1 failed on Kaggle: Exited with code 1; its log is " in text
    log = place.clone / "records/output" / place.kaggle.user / "hubmap-train/v1/hubmap-train.log"
    assert log.read_text() == "ValueError: no such recipe\n"
    place.kaggle.on_kernel_run = run_kernels
    place.run("push", "kit", "train")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 2}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("CANCEL_REQUESTED", "failed on Kaggle: status CANCEL_REQUESTED; its log is "),
        ("CANCEL_ACKNOWLEDGED", "failed on Kaggle: status CANCEL_ACKNOWLEDGED; its log is "),
        ("FROZEN", "Kaggle's client does not know the answer 'FROZEN'; look on Kaggle"),
    ],
)
def test_kernel_ends_otherwise(place, status, said):
    """A run that was cancelled, or has a status nobody knows, ends the push."""
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(status)
    assert said in place.run("push", "kit", "train", status=1)


def test_long_log(place):
    """Of a long log only the end is shown."""
    log = "".join(f"line {number}\n" for number in range(100))
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult("ERROR", log=log)
    text = place.run("push", "kit", "train", status=1)
    assert "line 99\n" in text
    assert "line 50\n" not in text


def test_many_files(place):
    """All files that a kernel left are fetched, and its log, though Kaggle lists a hundred at a time."""
    files = {f"run/plot{number}.txt": b"x" for number in range(101)}
    files |= {f"run/{name}": data for name, data in a_run().items()}
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output=files, log="trained\n")
    place.run("push", "kit", "train")
    folder = place.clone / "records/output" / place.kaggle.user / "hubmap-train/v1"
    assert len(list((folder / "run").iterdir())) == len(files)
    assert (folder / "hubmap-train.log").read_text() == "trained\n"


def test_output_that_is_there_is_kept(place):
    """What was downloaded before an interruption is not downloaded again; the failure shows no signed URL."""
    place.kaggle.fault("GET", 404, nth=2)
    text = place.run("push", "kit", "train", status=1)
    assert "error: download model.weights.h5: Kaggle finds no such thing" in text
    assert "Signature" not in text
    place.kaggle.calls.clear()
    place.run("push", "kit", "train")
    assert [call.body["name"] for call in place.kaggle.calls if call.method == "GET"] == ["model.weights.h5"]


def test_kernel_saved_by_another(place):
    """A version with another source, saved while a push was interrupted, is not taken for the one to be pushed."""
    ref = f"{place.kaggle.user}/hubmap-train"
    place.kaggle.fault("SaveKernel", place.kill_before)
    place.run("push", "kit", "train", status=None)
    place.kaggle.save_kernel({"slug": ref, "newTitle": "hubmap train", "text": "print()"})
    place.run("push", "kit", "train")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 2}


def test_kernel_leaves_nothing(place):
    """A kernel that ends well without what it is run for is an error."""
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output={"other.txt": b"x"})
    assert "left no run/config.json" in place.run("push", "kit", "train", status=1)


def test_prediction_leaves_nothing(place, tmp_path):
    """An inference kernel without a submission.csv is an error, and that version is not submitted."""
    write_files(tmp_path / "run", a_run())
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output={"other.txt": b"x"})
    assert "left no submission.csv" in place.run("push", "--run", str(tmp_path / "run"), status=1)
    assert "no version of hubmap-infer has run yet" in place.run("submit", status=1)


def test_output_stays_in_its_folder(place):
    """A file of a kernel that would lie outside its folder is refused."""
    output = {"run/config.json": b"{}", "run/x/../../../../../../evil.txt": b"x"}
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output=output)
    text = place.run("push", "kit", "train", status=1)
    assert "would lie outside" in text
    assert "nothing is kept" in text
    assert not list(place.clone.parent.rglob("evil.txt"))
    assert not list((place.clone / "records").rglob("config.json"))


@pytest.mark.parametrize("method", ["CreateDataset", "SaveKernel"])
def test_change_after_an_interruption(place, method):
    """A version that an interrupted push made is not taken for one of what has changed since."""
    place.kaggle.fault(method, place.kill, after=True)
    place.run("push", "kit", "train", status=None)
    commit_change(place.clone)
    pretend_rehearsal(place.clone)
    place.run("push", "kit", "train")
    assert place.versions() == {"hubmap-kit": 2, "hubmap-train": 1 + (method == "SaveKernel")}


def test_kernel_saved_while_an_answer_is_lost(place):
    """A version with another source is not taken for the one whose answer was lost."""
    ref = f"{place.kaggle.user}/hubmap-train"

    def save_another(call: Call) -> None:
        place.kaggle.save_kernel({"slug": ref, "newTitle": "hubmap train", "text": "print()"})
        raise Refusal(503)

    place.kaggle.fault("SaveKernel", save_another)
    place.run("push", "kit", "train")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 2}
    assert place.rows("pushes.csv")[1]["version"] == "2"


def test_two_quick_pushes(place):
    """Status and output are those of the version that was pushed, though another is made meanwhile."""
    kaggle = place.kaggle
    ref = f"{kaggle.user}/hubmap-train"
    kaggle.run_polls = ["QUEUED", "RUNNING"]

    def push_another(call: Call) -> None:
        other = KernelResult("ERROR", {"run/config.json": b"{}"}, "another\n")
        kaggle.on_kernel_run = lambda ref, body: other
        kaggle.save_kernel(kaggle.kernels[ref][0].body)
        kaggle.on_kernel_run = run_kernels

    kaggle.fault("GetKernelSessionStatus", push_another)
    place.run("push", "kit", "train")
    assert len(kaggle.kernels[ref]) == 2
    run = place.clone / "records/output" / ref / "v1" / "run"
    assert json.loads((run / "config.json").read_text())["finished"] is True


@pytest.mark.parametrize("module", ["push", "submit"])
def test_second_push_at_the_same_time(place, module):
    """Two pushes or submissions in one clone do not get into each other's way: the second is refused."""
    said = []
    inner = Workplace(place.clone, place.home, place.kaggle)
    place.kaggle.fault("GetDatasetStatus", lambda call: said.append(inner.run(module, status=1)))
    place.run("push", "kit")
    assert "another push or submission is running in this clone" in said[0]
    assert place.versions() == {"hubmap-kit": 1}


def test_training_in_sessions(place):
    """An unfinished training goes on in the next version, from its own output, until it is finished."""
    kaggle, ref = place.kaggle, f"{place.kaggle.user}/hubmap-train"

    def run(ref: str, body: dict[str, Any]) -> KernelResult:
        if not ref.endswith("train"):
            return run_kernels(ref, body)
        session = 1 + len(kaggle.kernels.get(ref, []))
        files = a_run(finished=session >= 3, epochs=session)
        return KernelResult(output={f"run/{name}": data for name, data in files.items()})

    kaggle.on_kernel_run = run
    kaggle.fault("SaveKernel", place.kill, nth=2, after=True)  # the second session is on its way when we are killed
    place.run("push", status=None)
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 2}
    place.run("push")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 3, "hubmap-weights": 1, "hubmap-infer": 1}
    assert [version.body.get("kernelDataSources", []) for version in kaggle.kernels[ref]] == [[], [ref], [ref]]
    assert not list((place.clone / "records").rglob("checkpoint.npz"))
    assert place.run("push").count("unchanged") == 4


def test_changed_training_begins_anew(place):
    """A training whose kernel changed does not go on from what the one before left."""
    ref, ends = f"{place.kaggle.user}/hubmap-train", [False, True, True]

    def run(ref: str, body: dict[str, Any]) -> KernelResult:
        return KernelResult(output={f"run/{name}": data for name, data in a_run(finished=ends.pop(0)).items()})

    place.kaggle.on_kernel_run = run
    place.run("push", "kit", "train")
    change_kernel(place.clone, "train.py", "import", "import ")
    place.run("push", "kit", "train")
    sources = [version.body.get("kernelDataSources", []) for version in place.kaggle.kernels[ref]]
    assert sources == [[], [ref], []]


def test_version_that_shows_late(place):
    """A version whose answer was lost, and which Kaggle shows only after a while, is not made again."""
    place.run("push", "kit")
    commit_change(place.clone)
    pretend_rehearsal(place.clone)
    place.kaggle.old_ready = 2
    place.kaggle.fault("CreateDatasetVersion", "lose")
    place.run("push", "kit")
    assert place.versions() == {"hubmap-kit": 2}


def test_endless_training(place):
    """A training that does not end is given up, with what to do."""
    files = {f"run/{name}": data for name, data in a_run(finished=False).items()}
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output=files)
    text = place.run("push", "kit", "train", status=1)
    assert "hubmap-train is not finished after 10 sessions; give it fewer EPOCHS" in text
    assert place.versions()["hubmap-train"] == 10


READS = ["GetDataset", "GetDatasetStatus", "GetKernel", "GetKernelSessionStatus", "ListKernelSessionOutput", "GET"]
CHANGES = ["StartBlobUpload", "CreateDataset", "SaveKernel"]


@pytest.mark.parametrize("kind", [429, 503, "drop", "lose"])
def test_one_failure_of_every_call(place, kind):
    """When every kind of call fails once, the push still succeeds, and makes each version once."""
    for method in READS + CHANGES:
        place.kaggle.fault(method, kind, retry_after=0.01 if kind == 429 else None)
    place.run("push")
    assert place.versions() == ONCE


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_call(place, after):
    """Killed at every kind of call, before or after Kaggle did it, a push goes on: each version is made once."""
    for method in [*READS, *CHANGES, "PUT"]:
        place.kaggle.fault(method, place.kill if after else place.kill_before, after=after)
    for _ in range(len(READS + CHANGES) + 2):
        place.run("push", status=None)
        assert place.process is not None
        if place.process.returncode == 0:
            break
    assert place.process.returncode == 0
    assert place.versions() == ONCE
    assert all(len(dataset.versions[0]) > 1 for dataset in place.kaggle.datasets.values())


@pytest.fixture
def interruptible():
    """Ctrl-C reaches the commands, even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("module", "method", "said"),
    [
        ("push", "GetDatasetStatus", "stopped; what runs on Kaggle goes on, and run the same command again"),
        ("submit", "ListSubmissions", "stopped; Kaggle goes on with the submission, and run the same command again"),
        ("data", "DownloadDataFiles", "stopped; what was downloaded is kept, and run the same command again"),
    ],
)
def test_interrupt(place, module, method, said):
    """Ctrl-C ends a command with one line that says what to do."""

    def interrupt(call: Call) -> None:
        assert place.process is not None
        place.process.send_signal(signal.SIGINT)

    if module == "submit":
        place.run("push")
    place.kaggle.fault(method, interrupt)
    assert place.run(module, status=130).splitlines()[-1].startswith(said)


def test_waiting(capsys):
    """A lost connection does not end the waiting for Kaggle, but it does not wait for ever."""
    answers = ["QUEUED", failures.Unreachable("nobody answers"), "READY"]

    def look() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    waiting: Any = SimpleNamespace(_poll=0)
    assert push.Push._await(waiting, "it", look, {"READY"}, 0, 60) == "READY"
    assert "it is not known, since nobody answers" in capsys.readouterr().out
    with pytest.raises(failures.KaggleError, match=r"it is still QUEUED after .* run the same command again"):
        push.Push._await(waiting, "it", lambda: "QUEUED", {"READY"}, 0, -1)


def test_records_of_two_users(tmp_path):
    """What one user pushed from a clone is not taken for another's."""
    first, second = Records(tmp_path, "me"), Records(tmp_path, "you")
    first.put("hubmap-kit", {"version": 3})
    first.log_push({"name": "hubmap-kit", "version": "3"})
    assert Records(tmp_path, "you").get("hubmap-kit") == second.pushed("hubmap-kit") == {}
    assert Records(tmp_path, "me").get("hubmap-kit") == {"version": 3}
    assert list(first.pushed("hubmap-kit")) == [3]
    assert first.output("hubmap-train", 1) != second.output("hubmap-train", 1)


def test_unreachable(monkeypatch, capsys):
    """Kaggle is asked several times, ever later; then one line says what to do."""
    import requests

    pauses: list[float] = []
    monkeypatch.setattr(failures.time, "sleep", pauses.append)

    def fail() -> None:
        raise requests.ConnectionError("Max retries exceeded with url: /v1/x?token=secret")

    with pytest.raises(failures.Unreachable, match=r"^GetDataset: Kaggle cannot be reached .* check the connection"):
        failures.retry(fail, "GetDataset", repeat=True)
    assert pauses == [1, 2, 4, 8, 16, 32]
    with pytest.raises(failures.AnswerLost, match="not known whether it was done"):
        failures.retry(fail, "SaveKernel", repeat=False)
    assert "secret" not in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "pause"), [("7", 7), ("500", 60), ("Wed, 22 Jun 2022 00:00:00 GMT", 1), (None, 1)])
def test_asked_to_wait(monkeypatch, asked, pause):
    """Where Kaggle says how long to wait, it is not asked earlier; even a call that changes something is repeated."""
    import requests

    response = requests.Response()
    response.status_code = 429
    if asked is not None:
        response.headers["Retry-After"] = asked
    answers = [requests.HTTPError(response=response)]
    pauses: list[float] = []
    monkeypatch.setattr(failures.time, "sleep", pauses.append)

    def call() -> str:
        if answers:
            raise answers.pop()
        return "done"

    assert failures.retry(call, "SaveKernel", repeat=False) == "done"
    assert pauses == [pause]


def test_download_of_another_size(tmp_path):
    """A file that did not arrive whole is not kept, not even as a part to go on with."""

    def download_file(response: Any, outfile: str, *_: Any, **how: Any) -> None:
        Path(outfile).write_bytes(b"half")
        raise ValueError("Downloaded file size (4) does not match expected size (8)")

    api = SimpleNamespace(download_file=download_file)
    with pytest.raises(failures.KaggleError, match=r"a.zip did not arrive whole \(Downloaded file size"):
        client.Client(api, "me")._receive(None, tmp_path / "a.zip", quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["KAGGLE_KEY", "KAGGLE_API_TOKEN"])
def test_redaction(monkeypatch, name):
    """Messages carry neither keys nor signed URLs."""
    monkeypatch.setenv(name, "0123456789abcdef")
    text = failures.redact("403 for url: https://storage.example.org/a.zip?Signature=abc&x=1 with 0123456789abcdef")
    assert text == "403 for url: https://storage.example.org/a.zip?… with ***"


def pushed(place: Workplace) -> Workplace:
    """All pushed, by what a push leaves behind."""
    place.run("push")
    place.calls()
    return place


def test_submit(place):
    """A submission is made of the newest version that ran, followed until it is scored, and logged."""
    pushed(place).kaggle.submission_polls = 2
    text = place.run("submit")
    assert "5 submissions are left today" in text
    assert text.splitlines()[-1] == "public score 0.71, private score 0.68, local validation 0.8125"
    (submission,) = place.kaggle.submissions
    assert submission["kernelVersion"] == 1
    assert submission["fileName"] == "submission.csv"
    (row,) = place.rows("submissions.csv")
    assert row["commit"] == git(place.clone, "rev-parse", "HEAD")
    expected = {"status": "COMPLETE", "public_score": "0.71", "private_score": "0.68", "runs": "run"}
    assert expected.items() <= row.items()

    assert "version 1 was submitted on" in place.run("submit", status=1)
    log = place.clone / "records" / "submissions.csv"
    log.write_text(log.read_text().replace(place.kaggle.user, "someone-else"))
    place.run("submit")  # what another user submitted from this clone is not taken for ours
    assert len(place.kaggle.submissions) == 2
    place.run("submit", "--again")
    assert len(place.kaggle.submissions) == len(place.rows("submissions.csv")) == 3


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("Submission Scoring Error", "rehearse again, it validates them"),
        ("Notebook Timeout", "predict faster: TTA 'none'"),
        ("Notebook Threw Exception", "look at the largest and oddest images"),
        ("Notebook Exceeded Allowed Compute", "use less memory"),
        ("Submission CSV Not Found", "ended before it wrote submission.csv"),
    ],
)
def test_submission_fails(place, reason, remedy):
    """A submission that fails ends with Kaggle's reason and what to do about it, and is logged."""
    pushed(place).kaggle.submission_result = {"status": "ERROR", "errorDescription": reason}
    text = place.run("submit", status=1)
    assert f"error: the submission failed on Kaggle: {reason}; " in text
    assert remedy in text
    assert place.rows("submissions.csv")[0]["error"] == reason


def test_submit_an_earlier_version(place, tmp_path):
    """An earlier version, or the one that ran with earlier weights, can be submitted."""
    pushed(place)
    write_files(tmp_path / "other", a_run())
    place.run("push", "weights", "infer", "--run", str(tmp_path / "other"))
    assert place.versions()["hubmap-infer"] == 2
    assert "version 7 of hubmap-infer has not run; there are 1, 2" in place.run("submit", "--version", "7", status=1)
    place.run("submit", "--version", "1")
    place.run("submit", "--weights", "2")
    assert [submission["kernelVersion"] for submission in place.kaggle.submissions] == [1, 2]
    assert [row["runs"] for row in place.rows("submissions.csv")] == ["run", "other"]


def test_submit_the_newest_that_ran(place, tmp_path):
    """A version that failed, or weights that no version ran with, cannot be submitted; the newest good one is."""
    pushed(place)
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult("ERROR")
    write_files(tmp_path / "other", a_run())
    place.run("push", "weights", "infer", "--run", str(tmp_path / "other"), status=1)
    text = place.run("submit", "--weights", "2", status=1)
    assert "no version of hubmap-infer ran with version 2 of hubmap-weights; push infer again" in text
    place.run("submit")
    assert [submission["kernelVersion"] for submission in place.kaggle.submissions] == [1]


def test_submit_without_a_version(place):
    """Before anything was pushed, submit says what to do."""
    assert "no version of hubmap-infer has run yet; push one with: nox -s push" in place.run("submit", status=1)


def test_no_submission_left(place):
    """When none is left today, nothing is sent."""
    pushed(place).kaggle.submissions_left = 0
    assert "no submission is left today; come back after midnight UTC" in place.run("submit", status=1)
    assert place.kaggle.submissions == []
    assert "CreateCodeSubmission" not in place.calls()


def test_submit_without_rules(place):
    """Where the competition's rules are not accepted, the page to do so is named."""
    pushed(place).kaggle.rules_accepted = False
    assert f"accept the competition's rules at {failures.RULES_PAGE}" in place.run("submit", status=1)


def test_submit_dry_run(place):
    """A dry run shows the submission and the number left, and sends nothing."""
    text = pushed(place) and place.run("submit", "--dry-run")
    assert "5 submissions are left today" in text
    assert "POST competitions.CompetitionApiService/CreateCodeSubmission {" in text
    assert place.kaggle.submissions == []
    assert not (place.clone / "records" / "submissions.csv").exists()
    place.kaggle.fault("CreateCodeSubmission", place.kill, after=True)
    place.run("submit", status=None)
    (row,) = place.rows("submissions.csv")
    place.run("submit", "--dry-run", status=1)  # does not go on with an interrupted one either
    assert place.rows("submissions.csv") == [row]


@pytest.mark.parametrize("kind", ["lose", "drop", 503])
def test_answer_to_a_submission_is_lost(place, kind):
    """A submission whose answer is lost is found on Kaggle, or made by the next command; it is never made twice."""
    pushed(place).kaggle.fault("CreateCodeSubmission", kind)
    text = place.run("submit", status=0 if kind == "lose" else 1)
    if kind != "lose":
        assert "it is not known whether it was done" in text
        place.run("submit")
    assert len(place.kaggle.submissions) == 1
    assert place.rows("submissions.csv")[-1]["status"] == "COMPLETE"


def test_refused_submission(place):
    """A submission that Kaggle refuses, or that never arrived, does not count as one."""
    pushed(place).kaggle.fault("CreateCodeSubmission", 400)
    assert "CreateCodeSubmission: Kaggle refuses (400: " in place.run("submit", status=1)
    assert [row["status"] for row in place.rows("submissions.csv")] == ["NOT SENT"]
    place.kaggle.fault("CreateCodeSubmission", place.kill_before)
    place.run("submit", status=None)
    place.run("submit")
    assert [row["status"] for row in place.rows("submissions.csv")] == ["NOT SENT", "NOT SENT", "COMPLETE"]
    assert len(place.kaggle.submissions) == 1


def test_one_of_many_submissions(place):
    """An interrupted submission is found though Kaggle lists a hundred newer ones before it."""
    pushed(place).kaggle.fault("CreateCodeSubmission", place.kill, after=True)
    place.run("submit", status=None)
    (first,) = place.kaggle.submissions
    others = [first | {"ref": number, "submissionDescription": "by hand"} for number in range(1, 101)]
    place.kaggle.submissions += others
    place.run("submit")
    assert len(place.kaggle.submissions) == 101
    (row,) = place.rows("submissions.csv")
    assert (row["status"], row["ref"]) == ("COMPLETE", str(first["ref"]))


def test_waiting_for_a_score(monkeypatch, tmp_path, capsys):
    """A lost connection does not end the waiting for a score, but it does not wait for ever."""
    row = dict.fromkeys(submit.COLUMNS, "") | {"tag": "0a1b", "ref": "7", "status": "PENDING"}
    scored = {"ref": 7, "status": SimpleNamespace(name="COMPLETE"), "public_score": "0.7"}
    scored |= {"private_score": "", "error_description": "", "description": "[0a1b]"}
    answers = [failures.Unreachable("nobody answers"), [], [SimpleNamespace(**scored)]]

    def submissions() -> Any:
        answer = answers.pop(0) if answers else []
        if isinstance(answer, Exception):
            raise answer
        return answer

    kaggle: Any = SimpleNamespace(submissions=submissions)
    following = submit.Submissions(kaggle, Records(tmp_path, "me"), poll=0)
    assert following._follow(row)["public_score"] == "0.7"
    assert "the submission is not known, since nobody answers" in capsys.readouterr().out
    monkeypatch.setattr(submit, "_PATIENCE", -1)
    with pytest.raises(failures.KaggleError, match=r"is still not listed yet after .* run the same command again"):
        following._follow(row)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["GetSubmissionLimits", "CreateCodeSubmission", "ListSubmissions"])
def test_submit_is_killed(place, method, after):
    """A submit that was killed goes on with the same submission; it is never made twice."""
    pushed(place).kaggle.fault(method, place.kill if after else place.kill_before, after=after)
    place.run("submit", status=None)
    place.run("submit")
    assert len(place.kaggle.submissions) == 1
    assert place.rows("submissions.csv")[-1]["status"] == "COMPLETE"


@pytest.fixture
def competition(place, demo) -> Workplace:
    """A place whose Kaggle has the competition's data."""
    files = {path.relative_to(demo).as_posix(): path.read_bytes() for path in demo.rglob("*") if path.is_file()}
    place.kaggle.competition_files = {name: data for name, data in files.items() if name != "test_truth.csv"}
    return place


def test_data(competition, demo):
    """The data is downloaded, going on after a broken connection, unpacked and checked; once."""
    competition.kaggle.cut_downloads_after = 100_000
    text = competition.run("data")
    assert "10 training images, 5 test images" in text
    data = competition.clone / "data"
    assert (data / "train.csv").read_bytes() == (demo / "train.csv").read_bytes()
    assert not list(competition.clone.glob(".data*"))
    competition.calls()
    assert "is there already" in competition.run("data")
    assert competition.calls() == []


def test_data_goes_on_after_a_kill(competition):
    """A download that was killed goes on where it was."""
    competition.kaggle.cut_downloads_after = 1_500_000
    competition.kaggle.fault("GET", competition.kill, nth=2)
    competition.run("data", status=None)
    assert (competition.clone / "..data.zip.part").stat().st_size == 2**20  # the client writes by the MiB
    competition.calls()
    competition.run("data")
    ranges = [call.body["range"] for call in competition.kaggle.calls if call.method == "GET"]
    assert f"bytes={2**20}-" in ranges


def test_one_failure_of_data(competition):
    """When the calls that download the data fail once, it still succeeds."""
    for method in ("DownloadDataFiles", "GET"):
        competition.kaggle.fault(method, 503)
    competition.run("data")
    assert (competition.clone / "data" / "train.csv").is_file()


def test_data_goes_on_unpacking(competition):
    """What was downloaded whole is not downloaded again; what an interrupted unpacking left is not kept."""
    (competition.clone / ".data.zip").write_bytes(competition.kaggle._file("data/archive.zip"))
    (competition.clone / ".data.part").mkdir()
    (competition.clone / ".data.part" / "old.txt").write_text("old")
    competition.run("data")
    assert "GET" not in competition.calls()
    assert (competition.clone / "data" / "train.csv").is_file()
    assert not (competition.clone / "data" / "old.txt").exists()


def test_damaged_data(competition):
    """An archive that arrived damaged is deleted, and the next command downloads it again."""
    (competition.clone / ".data.zip").write_bytes(b"no archive")
    text = competition.run("data", status=1)
    assert "the archive arrived damaged" in text
    assert "run the same command again" in text
    competition.run("data")
    assert (competition.clone / "data" / "train.csv").is_file()


def test_data_without_rules(competition):
    """Where the competition's rules are not accepted, the page to do so is named."""
    competition.kaggle.rules_accepted = False
    text = competition.run("data", status=1)
    assert f"accept the competition's rules at {failures.RULES_PAGE}" in text


def test_data_is_something_else(competition):
    """An archive without the competition's tables is refused, and what is wrong is named."""
    competition.kaggle.competition_files.pop("test.csv")
    text = competition.run("data", status=1)
    assert "is not the competition's data" in text
    assert "test.csv" in text
    assert not (competition.clone / "data").exists()


def test_folder_in_use_is_kept(competition):
    """A folder that holds something else is not replaced by the data."""
    (competition.clone / "data").mkdir()
    (competition.clone / "data" / "notes.txt").write_text("mine")
    assert "is not the competition's data" in competition.run("data", status=1)
    assert (competition.clone / "data" / "notes.txt").is_file()
