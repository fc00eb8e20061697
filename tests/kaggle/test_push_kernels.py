"""Push: kernels are pushed and waited for, their output is fetched, and a long training goes on in several sessions."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from kaggle_standin import Call, KernelResult
from kaggle_workplace import CLONE, a_run, git, pretend_rehearsal_of_same_library, run_kernels, write_files

from hubmap_kit.kaggle import failures
from hubmap_kit.kaggle.api_kernels import Kernels
from hubmap_kit.kaggle.connection import Connection

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


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
    """Change the training kernel and pretend a rehearsal with the same library."""
    path = clone / "kernels" / "train" / file
    path.write_text(path.read_text().replace(old, new, 1))
    git(clone, "commit", "--quiet", "--all", "--message", "change")
    pretend_rehearsal_of_same_library(clone)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [("dataset", "push it first"), ("competition", f"accept its rules at {failures.RULES_PAGE}")],
)
def test_invalid_sources(place, source, remedy):
    """A source that Kaggle leaves out is an error, and the next push makes a new version."""
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
    """Each kind of source that Kaggle may leave out of a kernel is an error."""
    answer = {"versionNumber": 1, f"invalid{source}Sources": ["me/some-source"]}
    monkeypatch.setattr(Connection, "call", lambda self, method, request, kind, **how: kind.from_dict(answer))
    metadata = json.loads((CLONE / "kernels/train/kernel-metadata.json").read_text())
    with pytest.raises(failures.KaggleError, match=rf"but not its {source.lower()} me/some-source, .*then push again"):
        Kernels(Connection(None, "me")).save(metadata, "")


def test_kernel_refused(place):
    """If Kaggle refuses a kernel, the error has its reason, although the answer has status 200."""
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
    """A run that was cancelled, or whose status the client does not know, ends the push."""
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


def test_pages_of_a_kernel(place):
    """Pages that a kernel left are fetched, and push says where they are."""
    files = {"data.html": b"<p>", "run/report.html": b"<p>"} | {f"run/{name}": data for name, data in a_run().items()}
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output=files)
    printed = place.run("push", "kit", "train")
    for page in ("data.html", "run/report.html"):
        path = place.clone / "records/output" / place.kaggle.user / "hubmap-train/v1" / page
        assert path.read_bytes() == b"<p>"
        assert f"look at {path}" in printed


def test_kernel_leaves_nothing(place):
    """A training kernel that ends well without a run folder is an error."""
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
    """A training whose kernel changed begins anew."""
    ref, ends = f"{place.kaggle.user}/hubmap-train", [False, True, True]

    def run(ref: str, body: dict[str, Any]) -> KernelResult:
        return KernelResult(output={f"run/{name}": data for name, data in a_run(finished=ends.pop(0)).items()})

    place.kaggle.on_kernel_run = run
    place.run("push", "kit", "train")
    change_kernel(place.clone, "train.py", "import", "import ")
    place.run("push", "kit", "train")
    sources = [version.body.get("kernelDataSources", []) for version in place.kaggle.kernels[ref]]
    assert sources == [[], [ref], []]


def test_endless_training(place):
    """A training that does not end is given up after ten sessions, with a remedy."""
    files = {f"run/{name}": data for name, data in a_run(finished=False).items()}
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output=files)
    text = place.run("push", "kit", "train", status=1)
    assert "hubmap-train is not finished after 10 sessions; give it fewer EPOCHS" in text
    assert place.versions()["hubmap-train"] == 10


def test_pace_comes_back(place):
    """What the kernels measured on Kaggle is kept: the newest of each, and nothing that cannot be understood."""
    train = {
        "format": 1,
        "step": "unet of 16 filters, batch of 8, 96 px",
        "devices": ["Tesla T4", "Tesla T4"],
        "seconds_per_step": 0.5,
    }
    train |= {"seconds_per_fold": 4000, "peak_memory_bytes": 2**33, "peak_gpu_memory_bytes": 2**32, "other": 3}

    def run(ref: str, body: dict[str, Any]) -> KernelResult:
        result = run_kernels(ref, body)
        if ref.endswith("train"):
            result.output["run/pace.json"] = json.dumps(train).encode()
        else:
            columns = b"id,seconds,networks,scales,tta,overlap\n"
            result.output["submission.csv.timings.csv"] = columns + b"1,6.5,1,4,flips,0.25\n2,8.5,1,4,flips,0.25\n"
        return result

    place.kaggle.on_kernel_run = run
    place.run("push")
    known = {key: train[key] for key in ("step", "devices", "seconds_per_step", "seconds_per_fold")}
    known |= {"peak_memory_bytes": 2**33, "peak_gpu_memory_bytes": 2**32, "seconds_per_image": 7.5}
    known |= {"format": 1, "kernel": "hubmap-train", "version": 1}  # the step's
    assert json.loads((place.clone / "records" / "pace.json").read_text()) == known


def test_a_pace_that_cannot_be_understood(place):
    """A damaged pace.json of a kernel does not stop a push."""
    results = {f"run/{name}": data for name, data in a_run().items()} | {"run/pace.json": b"{"}
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output=results)
    place.run("push", "kit", "train")
    assert not (place.clone / "records" / "pace.json").exists()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_a_console_that_cannot_show_every_character(place, encoding, monkeypatch):
    """What a console cannot show of a kernel's log or a file's name is replaced; the reason is told, files are kept."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(
        "ERROR", log="Collecting ━━━ 100%\n", failure="no memory"
    )
    assert "hubmap-train version 1 failed on Kaggle: no memory" in place.run("push", "kit", "train", status=1)
    files = {f"run/{name}": data for name, data in a_run().items()} | {"run/α.txt": b"x"}
    place.kaggle.on_kernel_run = lambda ref, body: KernelResult(output=files)
    place.run("push", "kit", "train")
    assert (place.clone / "records/output" / place.kaggle.user / "hubmap-train/v2/run/α.txt").read_bytes() == b"x"
