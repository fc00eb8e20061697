"""Data: the competition's data is downloaded, unpacked and checked."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from kaggle_workplace import Workplace

from hubmap_kit.kaggle import failures

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


@pytest.fixture
def competition(place: Workplace, demo: Path) -> Workplace:
    """A place whose Kaggle has the competition's data."""
    files = {path.relative_to(demo).as_posix(): path.read_bytes() for path in demo.rglob("*") if path.is_file()}
    place.kaggle.competition_files = {name: data for name, data in files.items() if name != "test_truth.csv"}
    return place


@pytest.mark.slow
def test_data(competition, demo):
    """The data is downloaded, in spite of a broken connection, unpacked and checked; a second command does nothing."""
    competition.kaggle.cut_downloads_after = 100_000
    text = competition.run("data")
    assert "10 training images, 5 test images" in text
    data = competition.clone / "data"
    assert (data / "train.csv").read_bytes() == (demo / "train.csv").read_bytes()
    assert not list(competition.clone.glob(".data*"))
    competition.calls()
    assert "is there already" in competition.run("data")
    assert competition.calls() == []


@pytest.mark.slow
def test_data_goes_on_after_a_kill(competition):
    """A download that was killed continues where it stopped."""
    competition.kaggle.cut_downloads_after = 1_500_000
    competition.kaggle.fault("GET", competition.kill, nth=2)
    competition.run("data", status=None)
    assert (competition.clone / "..data.zip.part").stat().st_size == 2**20  # the client writes by the MiB
    competition.calls()
    competition.run("data")
    ranges = [call.body["range"] for call in competition.kaggle.calls if call.method == "GET"]
    assert f"bytes={2**20}-" in ranges


def test_one_failure_of_data(competition):
    """The command succeeds although each call that downloads the data fails once."""
    for method in ("DownloadDataFiles", "GET"):
        competition.kaggle.fault(method, 503)
    competition.run("data")
    assert (competition.clone / "data" / "train.csv").is_file()


def test_data_goes_on_unpacking(competition):
    """A complete archive is not downloaded again; files of an interrupted unpacking are not kept."""
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
    """If the competition's rules are not accepted, the error names the page to accept them."""
    competition.kaggle.rules_accepted = False
    text = competition.run("data", status=1)
    assert f"accept the competition's rules at {failures.RULES_PAGE}" in text


def test_data_is_something_else(competition):
    """An archive without one of the competition's tables is refused, and the error names the table."""
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
