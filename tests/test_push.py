"""Push, submit and data: run as a user runs them, with the official client, against a stand-in for Kaggle."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from kaggle_standin import Call, KernelResult, StandIn

from hubmap_kit.kaggle import bundle, failures, push

CLONE = Path(__file__).resolve().parents[1]
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
        wheels.append({"file": name, "module": module, "sha256": sha256(kit / name)})
    manifest = {"name": "hubmap-kit", "version": "0", "commit": commit, "dirty": False, "wheels": wheels}
    (kit / bundle.MANIFEST).write_text(json.dumps(manifest))
    shutil.copyfile(clone / "datasets" / "hubmap-kit" / bundle.METADATA, kit / bundle.METADATA)
    verdict = {"passed": True, "commit": commit, "dirty": False, "bundle": "kit"}
    verdict |= {"manifest_sha256": sha256(kit / bundle.MANIFEST)} | changes
    (clone / "rehearsal" / "verdict.json").write_text(json.dumps(verdict))


def sha256(path: Path) -> str:
    return push._sha256(path)


def a_run(*, finished: bool = True, epochs: int = 3) -> dict[str, bytes]:
    """Files of a run folder, as far as a push looks at them."""
    about = {"format": 1, "prepare": {}, "train": {}, "network": {}, "thresholds": {}, "epochs": epochs}
    if finished:
        about |= {"finished": True, "results": {"validation": {"dice": 0.8125}}}
    files = {"config.json": json.dumps(about).encode(), "model.weights.h5": b"weights" * 5000}
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
        for secret in (self.kaggle.key, self.kaggle.token):
            assert secret not in text
        assert not self.kaggle.unknown
        return text

    def kill(self, call: Call) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

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


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (make_dirty, "not committed"),
        (commit_change, "the rehearsal was of commit"),
        (remove_rehearsal, "no rehearsal has passed; run: nox -s rehearse"),
        (fail_rehearsal, "the rehearsal failed"),
        (damage_bundle, "is not the bundle that was rehearsed"),
    ],
)
def test_push_is_refused(place, change, rule):
    """What was not rehearsed just as it is, is not pushed; a dry run says so and goes on."""
    change(place.clone)
    text = place.run("push", status=1)
    assert text.count("\n") == 1
    assert rule in text
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
    assert place.versions() == before
    assert place.kaggle.submissions == []


def test_verbose_environment(place, monkeypatch):
    """Credentials are not printed even where the client is told to print all it sends."""
    environment = place.kaggle.environment(place.home) | {"VERBOSE": "1", "VERBOSE_OUTPUT": "1"}
    monkeypatch.setattr(place.kaggle, "environment", lambda home, credentials: environment)
    place.run("push", "kit")  # looks at what is printed


def test_token(place):
    """A token does as well as a key, and the owner is whom it belongs to."""
    text = place.run("push", "kit", credentials="token")
    assert f"owner {place.kaggle.user}" in text
    assert place.versions() == {"hubmap-kit": 1}


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
    place.run("push", "kit")
    (files,) = place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"].versions
    assert len(files) == 3
    assert place.versions() == {"hubmap-kit": 1}


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
    [("dataset", "push it first"), ("competition", f"accept its rules at {failures.RULES_PAGE}"), ("kernel", "")],
)
def test_invalid_sources(place, source, remedy):
    """A source that Kaggle leaves out is an error; that version is not taken for a good one later."""
    if source == "kernel":
        return
    place.run("push", "kit")
    setattr(place.kaggle, f"invalid_{source}_sources", True)
    text = place.run("push", "train", status=1)
    assert f"Kaggle took {place.kaggle.user}/hubmap-train but not its {source} " in text
    assert remedy in text
    setattr(place.kaggle, f"invalid_{source}_sources", False)
    place.run("push", "train")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 2}
    assert (place.clone / "records/output" / place.kaggle.user / "hubmap-train/v2/run/config.json").is_file()


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


def test_kernel_leaves_nothing(place):
    """A kernel that ends well without what it is run for is an error."""
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output={"other.txt": b"x"})
    assert "left no run/config.json" in place.run("push", "kit", "train", status=1)


def test_output_stays_in_its_folder(place):
    """A file of a kernel that would lie outside its folder is refused."""
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output={"../../../../evil.txt": b"x"})
    assert "would lie outside" in place.run("push", "kit", "train", status=1)
    assert not list(place.clone.parent.rglob("evil.txt"))


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


def test_second_push_at_the_same_time(place):
    """Two pushes in one clone do not get into each other's way: the second is refused."""
    said = []
    inner = Workplace(place.clone, place.home, place.kaggle)
    place.kaggle.fault("GetDatasetStatus", lambda call: said.append(inner.run("push", "kit", status=1)))
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
        place.kaggle.fault(method, place.kill, after=after)
    for _ in range(len(READS + CHANGES) + 2):
        place.run("push", status=None)
        assert place.process is not None
        if place.process.returncode == 0:
            break
    assert place.process.returncode == 0
    assert place.versions() == ONCE
    assert all(len(dataset.versions[0]) > 1 for dataset in place.kaggle.datasets.values())


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


def test_redaction(monkeypatch):
    """Messages carry neither keys nor signed URLs."""
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
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
    assert len(place.kaggle.submissions) == 1
    place.run("submit", "--again")
    assert len(place.kaggle.submissions) == len(place.rows("submissions.csv")) == 2


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


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["GetSubmissionLimits", "CreateCodeSubmission", "ListSubmissions"])
def test_submit_is_killed(place, method, after):
    """A submit that was killed goes on with the same submission; it is never made twice."""
    pushed(place).kaggle.fault(method, place.kill, after=after)
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
