"""Submit: which version is submitted, and how its result is reported."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
from kaggle_standin import KernelResult
from kaggle_workplace import a_run, git, pretend_rehearsal, pushed, write_files

from hubmap_kit.kaggle import failures, submit
from hubmap_kit.kaggle.connection import Connection
from hubmap_kit.kaggle.records import Records

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


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
        ("Notebook Timeout", "predict faster: SCALES '1', TTA 'none'"),
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
    """If no submission is left today, nothing is sent."""
    pushed(place).kaggle.submissions_left = 0
    assert "no submission is left today; come back after midnight UTC" in place.run("submit", status=1)
    assert place.kaggle.submissions == []
    assert "CreateCodeSubmission" not in place.calls()


def test_submit_without_rules(place):
    """If the competition's rules are not accepted, the error names the page to accept them."""
    pushed(place).kaggle.rules_accepted = False
    assert f"accept the competition's rules at {failures.RULES_PAGE}" in place.run("submit", status=1)


def test_submit_dry_run(place):
    """A dry run shows the submission and the number left, and sends nothing."""
    text = pushed(place).run("submit", "--dry-run")
    assert "5 submissions are left today" in text
    assert "POST competitions.CompetitionApiService/CreateCodeSubmission" in text
    assert place.kaggle.submissions == []
    assert not (place.clone / "records" / "submissions.csv").exists()
    place.kaggle.fault("CreateCodeSubmission", place.kill, after=True)
    place.run("submit", status=None)
    (row,) = place.rows("submissions.csv")
    place.run("submit", "--dry-run", status=1)  # does not go on with an interrupted one either
    assert place.rows("submissions.csv") == [row]


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

    following = submit.Submissions(Connection(None, "me"), Records(tmp_path, "me"), poll_s=0)
    monkeypatch.setattr(following._competition, "submissions", submissions)
    assert following._follow(row)["public_score"] == "0.7"
    assert "the submission is not known, since nobody answers" in capsys.readouterr().out
    monkeypatch.setattr(submit, "PATIENCE_S", -1)
    with pytest.raises(failures.KaggleError, match=r"is still not listed yet after .* run the same command again"):
        following._follow(row)


def test_a_newer_version_that_has_not_run(place):
    """If the newest version that was pushed has not run, submit says which one it sends instead."""
    place.run("push")
    place.kaggle.fault("GetKernelSessionStatus", place.kill)
    kernel = place.clone / "kernels" / "infer" / "infer.py"
    kernel.write_text(kernel.read_text() + "# changed\n")
    git(place.clone, "commit", "--quiet", "--all", "--message", "change")
    pretend_rehearsal(place.clone)
    place.run("push", "infer", status=None)
    assert place.versions()["hubmap-infer"] == 2
    assert "version 2 of hubmap-infer was pushed and has not run: version 1 is submitted" in place.run("submit")
    assert [body["kernelVersion"] for body in place.kaggle.submissions] == [1]
