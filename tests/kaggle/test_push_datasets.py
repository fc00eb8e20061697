"""Push: datasets are made, versioned and waited for."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import pytest
from kaggle_standin import Dataset, KernelResult
from kaggle_workplace import commit_change, pretend_rehearsal, run_kernels

from hubmap_kit.kaggle import failures
from hubmap_kit.kaggle.api_datasets import Datasets
from hubmap_kit.kaggle.clone import DATASET_METADATA
from hubmap_kit.kaggle.connection import Connection

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


def test_changed_dataset(place):
    """A dataset is uploaded again if its metadata changed, or if its version on Kaggle is another one or is gone."""
    place.run("push", "kit")
    dataset = place.kaggle.datasets[f"{place.kaggle.user}/hubmap-kit"]
    path = place.clone / "rehearsal" / "kit" / DATASET_METADATA
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


def test_dataset_that_exists(place):
    """A dataset that was made by hand gets a new version with all files."""
    ref = f"{place.kaggle.user}/hubmap-kit"
    place.run("push", "kit")
    shutil.rmtree(place.clone / "records")
    place.run("push", "kit")
    assert [len(files) for files in place.kaggle.datasets[ref].versions] == [3, 3]
    assert place.kaggle.datasets[ref].notes[1].startswith("hubmap-kit commit ")


def test_slug_in_use(place):
    """If another dataset has the title, the push ends with an error and a remedy."""
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
    """A dataset that Kaggle refuses is an error, whichever field of the answer reports it."""
    monkeypatch.setattr(Connection, "call", lambda self, method, request, kind, **how: kind.from_dict(answer))
    metadata = {"id": "me/hubmap-kit", "title": "", "subtitle": "", "description": "", "licenses": [{"name": "other"}]}
    with pytest.raises(failures.KaggleError, match=f"no version of hubmap-kit: {answer.get('error', 'no reason')}"):
        Datasets(Connection(None, "me")).save(metadata, [], "", create=create)


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
