"""A push is refused unless this very state of the clone was rehearsed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from kaggle_workplace import WRITES, commit_change, git, pretend_rehearsal

from hubmap_kit.kaggle import bundle
from hubmap_kit.kaggle.manifest import MANIFEST
from hubmap_kit.kaggle.verdict import REHEARSAL, Verdict

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


def make_dirty(clone: Path) -> None:
    (clone / "hubmap_kit" / "mine.py").write_text("")


def change_readme(clone: Path) -> None:
    (clone / "README.md").write_text("mine")


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
        (make_dirty, "not committed: hubmap_kit/mine.py; commit or remove them"),
        (change_readme, "not committed: README.md; commit"),
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


def test_a_rehearsal_with_given_runs_is_not_one_of_the_training_kernel(place):
    """A verdict with --run stands for all parts but the training, whose kernel did not run."""
    pretend_rehearsal(place.clone, options={"runs": ["/somewhere/run"]})
    text = place.run("push", "train", status=1)
    assert "the rehearsal used --run, so the training kernel did not run; run: nox -s rehearse" in text
    assert place.calls() == []
    place.run("push", "kit")
    assert place.versions() == {"hubmap-kit": 1}


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "inside another clone"])
def test_push_without_git(place, inside):
    """A folder without a git repository of its own is not pushed, since its commit would be unknown."""
    shutil.rmtree(place.clone / ".git")
    if inside:
        git(place.clone.parent, "init", "--quiet")
        git(place.clone.parent, "commit", "--quiet", "--allow-empty", "--message", "other")
    text = place.run("push", status=1)
    assert "the commit is not known, so nobody could tell what was pushed: " in text
    assert (f"lies in {place.clone.parent}" if inside else "git says: not a git repository") in text
    assert place.calls() == []


def without_git() -> None:
    os.environ["PATH"] = "/nonexistent"


def without_sudo() -> None:
    os.environ.pop("SUDO_UID", None)


def test_push_without_the_program_git(place):
    """Without git installed, that is the reason that is given."""
    text = place.run("push", status=1, before=without_git)
    assert "git cannot be run (No such file or directory); install git" in text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file to another user")
def test_clone_of_another_user(place):
    """Of a clone that belongs to another user, git's own words are given, with its remedy."""
    for path in (place.clone, *place.clone.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    text = place.run("push", status=1, before=without_sudo)
    assert "git says: detected dubious ownership in repository" in text
    assert "safe.directory" in text


def test_scratch_files_are_harmless(place):
    """Files that git does not track and a push does not send, as the commands of README leave, do not stop a push."""
    (place.clone / "submission.csv").write_text("id,rle\n")
    (place.clone / "PATCHES").mkdir()
    (place.clone / "PATCHES" / "store.json").write_text("{}")
    place.run("push", "kit")
    assert place.rows("pushes.csv")[0]["commit"] == git(place.clone, "rev-parse", "HEAD")


def rewrite(clone: Path, file: str, **changes: Any) -> None:
    """Change JSON in a clone, commit it, and pretend a rehearsal."""
    path = clone / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    git(clone, "commit", "--quiet", "--all", "--message", "change")
    pretend_rehearsal(clone)


INFER, TRAIN = "kernels/infer/kernel-metadata.json", "kernels/train/kernel-metadata.json"


@pytest.mark.parametrize(
    ("file", "changes", "rule"),
    [
        (INFER, {"enable_internet": True}, "enable_internet is true"),
        (INFER, {"is_private": False}, "is_private is false"),
        (TRAIN, {"is_private": False}, "is_private is false"),
        (INFER, {"is_private": "true"}, "is_private is 'true'; it must be True or False"),
        (INFER, {"code_file": "/etc/hostname"}, "code_file is '/etc/hostname'"),
        (INFER, {"code_file": "../train/train.py"}, "code_file is '../train/train.py'"),
        (INFER, {"code_file": "gone.py"}, "code_file is 'gone.py'"),
        (INFER, {"id": "OWNER/hubmap-other"}, "id is 'OWNER/hubmap-other'"),
        (INFER, {"id": "another/hubmap-infer"}, "id is 'another/hubmap-infer'"),
        (INFER, {"title": "my model"}, "title is 'my model'"),
        (INFER, {"dataset_sources": "OWNER/hubmap-kit"}, "dataset_sources is"),
        ("datasets/hubmap-weights/dataset-metadata.json", {"isPrivate": False}, "isPrivate is false"),
        ("datasets/hubmap-weights/dataset-metadata.json", {"licenses": []}, "licenses must be"),
        ("datasets/hubmap-kit/dataset-metadata.json", {"is_private": False}, "is_private is false"),
    ],
)
def test_metadata_is_checked_before_anything_is_sent(place, file, changes, rule):
    """Metadata that would publish something, give a prediction internet or send another file is refused at once."""
    rewrite(place.clone, file, **changes)
    for arguments in (["push"], ["push", "--dry-run"]):
        text = place.run(*arguments, status=1)
        assert f"{file}: {rule}" in text or f"{file} {rule}" in text or (rule in text and Path(file).name in text)
        assert not WRITES & set(place.calls())


def test_metadata_lacks_a_key(place):
    """A key that is left out is refused, because Kaggle's default may be the opposite of what is meant."""
    path = place.clone / INFER
    metadata = json.loads(path.read_text())
    del metadata["enable_internet"]
    path.write_text(json.dumps(metadata))
    git(place.clone, "commit", "--quiet", "--all", "--message", "change")
    pretend_rehearsal(place.clone)
    assert f"{INFER} has no enable_internet" in place.run("push", status=1)
    assert not WRITES & set(place.calls())


@pytest.mark.parametrize("what", ["infer.py", "kernel-metadata.json"])
def test_linked_kernel(place, tmp_path, what):
    """A kernel whose code or metadata is a link is refused, because the link may lead out of the clone."""
    path = place.clone / "kernels" / "infer" / what
    (tmp_path / "secret").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    git(place.clone, "commit", "--quiet", "--all", "--message", "link")
    pretend_rehearsal(place.clone)
    assert "link" in place.run("push", status=1)
    assert not WRITES & set(place.calls())


def add_a_file(kit: Path) -> None:
    (kit / "notes.txt").write_text("mine")


def add_a_folder(kit: Path) -> None:
    (kit / "more").mkdir()


def link_a_wheel(kit: Path) -> None:
    wheel = kit / "other-1-py3-none-any.whl"
    wheel.rename(kit.parent / "elsewhere.whl")
    wheel.symlink_to(kit.parent / "elsewhere.whl")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (add_a_file, "notes.txt would be uploaded, but"),
        (add_a_folder, "more would be uploaded, but"),
        (link_a_wheel, "other-1-py3-none-any.whl is a link"),
    ],
)
def test_only_what_the_manifest_names_is_sent(place, change, rule):
    """A file in the bundle that its manifest does not name is refused; so is a link."""
    change(place.clone / REHEARSAL / "kit")
    assert rule in place.run("push", status=1)
    assert not WRITES & set(place.calls())


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
        (
            '{"format": 99, "passed": true, "bundle": "kit"}',
            "is of format 99, and this version reads 1; update",
        ),
        ('{"passed": true}', "is damaged"),
        ("[]", "is damaged"),
        ('{"passed": "no", "bundle": "kit"}', "is damaged .passed is 'no'; it must be True or False.; rehearse again"),
        ('{"passed": true, "bundle": null}', "is damaged .bundle is None"),
        ('{"passed": true, "bundle": "kit", "not_isolated": null}', "is damaged .not_isolated is None"),
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
