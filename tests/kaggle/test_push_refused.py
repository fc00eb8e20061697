"""A push is refused unless this very state of the clone was rehearsed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from kaggle_workplace import commit_change, git, pretend_rehearsal

from hubmap_kit.kaggle import bundle
from hubmap_kit.kaggle.manifest import MANIFEST
from hubmap_kit.kaggle.verdict import REHEARSAL, Verdict

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


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
    (clone / "rehearsal" / "kit" / MANIFEST).unlink()


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
    """A state of the clone that was not rehearsed is not pushed; a dry run says why and goes on."""
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
    """A folder without a git repository of its own is not pushed, since its commit would be unknown."""
    shutil.rmtree(place.clone / ".git")
    if inside:
        git(place.clone.parent, "init", "--quiet")
        git(place.clone.parent, "commit", "--quiet", "--allow-empty", "--message", "other")
    assert "this is no git clone with a commit" in place.run("push", status=1)
    assert place.calls() == []


def use_rehearsed_bundle() -> None:
    """Let the command take the rehearsed bundle in place of building one."""
    bundle.build_bundle = lambda clone, out: clone / REHEARSAL / "kit"  # type: ignore[assignment, misc]


def test_push_forced(place):
    """With --force a change that is not committed is pushed, and the command says what was overridden."""
    make_dirty(place.clone)
    text = place.run("push", "kit", "--force", before=use_rehearsed_bundle)
    assert "overridden by --force: the clone has changes that are not committed" in text
    assert place.versions() == {"hubmap-kit": 1}
    assert place.rows("pushes.csv")[0]["commit"] == git(place.clone, "rev-parse", "HEAD") + "-dirty"


def test_verdict_is_read_as_it_was_written(tmp_path):
    """A verdict that is written and read again is the same."""
    verdict = Verdict(
        True, "kit", commit="0" * 40, mean_dice=0.5, seconds={"train": 3.5}, not_isolated=("the network",)
    )
    verdict.write(tmp_path)
    assert Verdict.read(tmp_path) == verdict


def test_verdict_without_a_format_number(tmp_path):
    """A verdict of an earlier version, which had no format number and fewer keys, is read."""
    old = {"passed": True, "bundle": "input/hubmap-kit", "commit": "0" * 40, "dirty": False, "bootstrap": 1.5}
    (tmp_path / "verdict.json").write_text(json.dumps(old | {"manifest_sha256": "1" * 64, "not_isolated": []}))
    verdict = Verdict.read(tmp_path)
    assert (verdict.passed, verdict.bundle, verdict.commit) == (True, "input/hubmap-kit", "0" * 40)
    assert verdict.not_isolated == ()
    assert verdict.mean_dice is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"format": 99, "passed": true, "bundle": "kit"}', "has format 99, and this version of hubmap-kit reads 1"),
        ('{"passed": true}', "is damaged"),
        ("[]", "is damaged"),
        ('{"passed": "no", "bundle": "kit"}', "is damaged: passed is 'no'; it must be True or False; rehearse again"),
        ('{"passed": true, "bundle": null}', "is damaged: bundle is None"),
        ('{"passed": true, "bundle": "kit", "not_isolated": null}', "is damaged: not_isolated is None"),
        ("{", "is not valid JSON"),
    ],
)
def test_bad_verdict(tmp_path, text, rule):
    """A verdict that is damaged, or that a newer version wrote, is refused with its path."""
    (tmp_path / "verdict.json").write_text(text)
    with pytest.raises(ValueError, match=rule) as caught:
        Verdict.read(tmp_path)
    assert str(tmp_path / "verdict.json") in str(caught.value)


def test_rehearsal_that_failed_early(place):
    """After a rehearsal that failed before it built a bundle, a push is refused with that reason alone."""
    Verdict(False, "input/hubmap-kit", failure="no space left").write(place.clone / REHEARSAL)
    text = place.run("push", status=1)
    assert text.startswith("error: the rehearsal failed")
    assert text.count("\n") == 1
