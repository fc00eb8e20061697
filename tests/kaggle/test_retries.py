"""Push and submit when calls fail, answers are lost, and commands are killed or stopped: nothing is made twice."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kaggle_standin import Answer, Call, Dataset, Refusal
from kaggle_workplace import ONCE, Workplace, commit_change, pretend_rehearsal, pushed

from hubmap_kit.kaggle import failures, waiting
from hubmap_kit.kaggle.connection import Connection

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


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


def test_output_that_is_there_is_kept(place):
    """A file that was downloaded before an interruption is not downloaded again; the error shows no signed URL."""
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


@pytest.mark.parametrize("method", ["CreateDataset", "SaveKernel"])
def test_change_after_an_interruption(place, method):
    """After a change, a version that an interrupted push made of the state before is not taken for the new one."""
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


@pytest.mark.parametrize("module", ["push", "submit"])
def test_second_push_at_the_same_time(place, module):
    """Two pushes or submissions in one clone do not get into each other's way: the second is refused."""
    said = []
    inner = Workplace(place.clone, place.home, place.kaggle)
    place.kaggle.fault("GetDatasetStatus", lambda call: said.append(inner.run(module, status=1)))
    place.run("push", "kit")
    assert "records is being written by process" in said[0]
    assert place.versions() == {"hubmap-kit": 1}


def test_version_that_shows_late(place):
    """A version whose answer was lost, and which Kaggle shows only after a while, is not made again."""
    place.run("push", "kit")
    commit_change(place.clone)
    pretend_rehearsal(place.clone)
    place.kaggle.old_ready = 2
    place.kaggle.fault("CreateDatasetVersion", "lose")
    place.run("push", "kit")
    assert place.versions() == {"hubmap-kit": 2}


READS = ["GetDataset", "GetDatasetStatus", "GetKernel", "GetKernelSessionStatus", "ListKernelSessionOutput", "GET"]


CHANGES = ["StartBlobUpload", "CreateDataset", "SaveKernel"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [429, 503, "drop", "lose"])
def test_one_failure_of_every_call(place, kind):
    """When every kind of call fails once, the push still succeeds, and makes each version once."""
    for method in READS + CHANGES:
        place.kaggle.fault(method, kind, retry_after=0.01 if kind == 429 else None)
    place.run("push")
    assert place.versions() == ONCE


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_call(place, after):
    """Killed at every kind of call, before or after Kaggle did it, a push goes on: each version is made once."""
    for method in [*READS, *CHANGES, "PUT"]:
        place.kaggle.fault(method, place.kill if after else place.kill_before, after=after)
    for _ in range(len(READS + CHANGES) + 2):
        place.run("push", status=None)
        if place.process.exitcode == 0:
            break
    assert place.process.exitcode == 0
    assert place.versions() == ONCE
    assert all(len(dataset.versions[0]) > 1 for dataset in place.kaggle.datasets.values())


@pytest.mark.parametrize(
    ("module", "method", "said"),
    [
        ("push", "GetDatasetStatus", "stopped; kernels that run on Kaggle go on; go on with: hubmap-kit "),
        ("submit", "ListSubmissions", "stopped; Kaggle goes on with the submission; go on with: hubmap-kit "),
        ("data", "DownloadDataFiles", "stopped; what was downloaded is kept; go on with: hubmap-kit "),
    ],
)
def test_interrupt(place, module, method, said):
    """Ctrl-C ends a command with one line that says what to do."""

    def interrupt(call: Call) -> None:
        place.signal(signal.SIGINT)

    if module == "submit":
        place.run("push")
    place.kaggle.fault(method, interrupt)
    assert place.run(module, status=130).splitlines()[-1].startswith(said)


def test_waiting(capsys):
    """A lost connection does not end the waiting for Kaggle, but it does not wait for ever."""
    answers: list[str | Exception] = ["QUEUED", failures.Unreachable("nobody answers"), "READY"]

    def look() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert waiting.until("it", look, {"READY"}, pause_s=0, patience_s=60) == "READY"
    assert "it is not known, since nobody answers" in capsys.readouterr().out
    with pytest.raises(failures.KaggleError, match=r"it is still QUEUED after .* run the same command again"):
        waiting.until("it", lambda: "QUEUED", {"READY"}, pause_s=0, patience_s=-1)


def test_unreachable(monkeypatch, capsys):
    """Kaggle is asked several times, ever later; then one line says what to do."""
    import requests

    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)

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
    """If Kaggle asks to wait, the next attempt comes after that time, even of a call that changes something."""
    import requests

    response = requests.Response()
    response.status_code = 429
    if asked is not None:
        response.headers["Retry-After"] = asked
    answers = [requests.HTTPError(response=response)]
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def call() -> str:
        if answers:
            raise answers.pop()
        return "done"

    assert failures.retry(call, "SaveKernel", repeat=False) == "done"
    assert pauses == [pause]


def test_download_of_another_size(tmp_path):
    """A file that did not arrive whole is not kept, nor is its unfinished part."""

    def download_file(response: Any, outfile: str, *_: Any, **how: Any) -> None:
        Path(outfile).write_bytes(b"half")
        raise ValueError("Downloaded file size (4) does not match expected size (8)")

    api = SimpleNamespace(download_file=download_file)
    with pytest.raises(failures.KaggleError, match=r"a.zip did not arrive whole \(Downloaded file size"):
        Connection(api, "me").receive(SimpleNamespace(headers={}), tmp_path / "a.zip", quiet=True)
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["GetSubmissionLimits", "CreateCodeSubmission", "ListSubmissions"])
def test_submit_is_killed(place, method, after):
    """A submit that was killed goes on with the same submission; it is never made twice."""
    pushed(place).kaggle.fault(method, place.kill if after else place.kill_before, after=after)
    place.run("submit", status=None)
    place.run("submit")
    assert len(place.kaggle.submissions) == 1
    assert place.rows("submissions.csv")[-1]["status"] == "COMPLETE"


@pytest.mark.parametrize("separator", [b",", b";"])
def test_records_saved_by_a_spreadsheet(place, separator):
    """A push and a submission go on with records that a spreadsheet has saved, with what was made before."""
    place.run("push")
    path = place.clone / "records" / "pushes.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b",", separator).replace(b"\n", b"\r\n"))
    before = place.versions()
    place.run("push")
    assert place.versions() == before
    place.run("submit")
    assert [body["kernelVersion"] for body in place.kaggle.submissions] == [before["hubmap-infer"]]


def test_damaged_records_stop_a_push_before_it_makes_anything(place):
    """Records that cannot be understood are named, with nothing made on Kaggle."""
    place.run("push", "kit")
    path = place.clone / "records" / "pushes.csv"
    path.write_text(path.read_text().replace("version", "v"))
    commit_change(place.clone)
    pretend_rehearsal(place.clone)
    text = place.run("push", "kit", status=1)
    assert "pushes.csv has no column version" in text
    assert place.versions() == {"hubmap-kit": 1}


def answer(data: bytes, kind: str, status: int = 200) -> Callable[[Call], None]:
    """A fault: something else answers in Kaggle's place."""

    def fault(call: Call) -> None:
        refusal = Refusal(status)
        refusal.answer = Answer(status, data, {"Content-Type": kind} if kind else {})
        raise refusal

    return fault


FOREIGN = {
    "page": (b"<html><head><title>Sign in to the network</title></head></html>", "text/html; charset=utf-8", 200),
    "forbidden page": (b"<html><title>Sign in to the network</title></html>", "text/html", 403),
    "page of a gateway": (b"<html><title>Sign in to the network</title></html>", "text/html", 401),
    "page called JSON": (b"<html><title>Sign in</title></html>", "application/json", 200),
    "empty": (b"", "application/json", 200),
    "empty without a type": (b"", "", 200),
    "list": (b"[]", "application/json", 200),
    "text": (b'"blocked"', "application/json", 200),
    "number": (b"3", "application/json", 200),
    "other object": (b'{"blocked": true}', "application/json", 200),
    "number as a text": (b'{"currentVersionNumber": "x"}', "application/json", 200),
    "other types": (b'{"currentVersionNumber": [], "files": "x"}', "application/json", 200),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_answer_that_is_not_kaggles(monkeypatch, what):
    """What something else answers in Kaggle's place is named as such, never taken for an answer."""
    import requests
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk.datasets.types.dataset_api_service import ApiDataset, ApiGetDatasetRequest

    data, kind, status = FOREIGN[what]
    response = requests.Response()
    response.status_code, response._content, response.headers["Content-Type"] = status, data, kind
    monkeypatch.setattr(requests.Session, "send", lambda self, request, **how: response)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    connection = Connection(KaggleApi(), "me")
    for writes, raised in ((False, failures.Unreachable), (True, failures.AnswerLost)):
        with pytest.raises(raised, match="Kaggle does not answer; ") as caught:
            connection.call("datasets.DatasetApiService/GetDataset", ApiGetDatasetRequest(), ApiDataset, writes=writes)
        assert ("Sign in to the network" in str(caught.value)) == kind.startswith("text/html")


def test_push_goes_on_after_answers_that_are_not_kaggles(place):
    """A page, nothing or something else in place of an answer does not end a push, and nothing is made twice."""
    faults = {"GetDataset": "page", "CreateDataset": "empty", "SaveKernel": "page", "GetKernelSessionStatus": "list"}
    for method, what in faults.items():
        place.kaggle.fault(method, answer(*FOREIGN[what]))
    text = place.run("push", "kit", "train")
    assert "Kaggle does not answer; an HTML page (Sign in to the network) comes instead" in text
    assert place.versions() == {"hubmap-kit": 1, "hubmap-train": 1}


def test_nothing_but_a_login_page(place):
    """If nothing but a login page answers, the command ends with one line that names it and its remedy."""
    place.kaggle.fault("GetDataset", answer(*FOREIGN["page"]), times=99)
    text = place.run("push", "kit", status=1)
    assert "an HTML page (Sign in to the network) comes instead" in text.splitlines()[-1]
    assert "in a browser on this network" in text.splitlines()[-1]
    assert place.versions() == {}


def test_nothing_but_empty_answers(place):
    """If every answer is empty, that is an error, and nothing counts as made."""
    for method in ("GetDataset", "CreateDataset", "GetDatasetStatus"):
        place.kaggle.fault(method, answer(b"", ""), times=999)
    assert "an empty answer" in place.run("push", "kit", status=1)
    assert not (place.clone / "records" / "pushes.csv").exists()


def test_proxy_and_certificate(monkeypatch):
    """A proxy that cannot be reached and a certificate that is not trusted are named, with what to do."""
    import requests

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("https_proxy", "http://me:secret-word@proxy.example:3128")

    def fail(error: Exception) -> Callable[[], None]:
        def call() -> None:
            raise error

        return call

    proxy = requests.exceptions.ProxyError("Unable to connect to proxy http://me:secret-word@proxy.example:3128")
    with pytest.raises(failures.Unreachable, match=r"through the proxy http://\*\*\*@proxy\.example:3128") as caught:
        failures.retry(fail(proxy), "GetDataset", repeat=True)
    assert "secret-word" not in str(caught.value)
    assert "https_proxy" in str(caught.value)
    certificate = requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    for repeat in (True, False):
        with pytest.raises(failures.Unreachable, match=r"certificate is not trusted .*REQUESTS_CA_BUNDLE"):
            failures.retry(fail(certificate), "GetDataset", repeat=repeat)


class KillAtWrite:
    """Kills this process before or after the nth time that it puts a file of the records in place."""

    def __init__(self, nth: int, *, after: bool) -> None:
        self.left, self.after = nth, after

    def __call__(self) -> None:
        replace = os.replace

        def counted(source: Any, target: Any, **how: Any) -> None:
            self.left -= 1
            if not self.left and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target, **how)
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = counted  # type: ignore[assignment]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_every_write(place, seed):
    """Killed before or after any write of the records, push and submit go on: one row for each version, and right."""
    random, points = np.random.default_rng(seed), 0
    while True:
        points += 1
        place.run("push", before=KillAtWrite(int(random.integers(1, 6)), after=bool(random.integers(2))), status=None)
        if place.process.exitcode == 0:
            break
        assert points < 60
    assert points > 5
    assert place.versions() == ONCE
    rows = place.rows("pushes.csv")
    assert [row["name"].rpartition("/")[2] for row in rows] == list(ONCE)
    assert all(row["version"] == "1" and row["commit"] and row["url"] for row in rows)
    assert place.run("push").count("unchanged") == 4
    for _ in range(60):
        text = place.run(
            "submit", before=KillAtWrite(int(random.integers(1, 4)), after=bool(random.integers(2))), status=None
        )
        if place.process.exitcode >= 0:
            break
    assert place.process.exitcode == 0 or "version 1 was submitted on" in text  # killed after its last write
    assert [body["kernelVersion"] for body in place.kaggle.submissions] == [1]
    assert [row["status"] for row in place.rows("submissions.csv") if row["status"] != "NOT SENT"] == ["COMPLETE"]
