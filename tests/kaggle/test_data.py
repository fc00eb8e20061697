"""Data: the competition's data is downloaded, unpacked and checked."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from pathlib import Path

import pytest
from kaggle_standin import Answer, Call, Refusal
from kaggle_workplace import Workplace

from hubmap_kit.kaggle import failures
from hubmap_kit.kaggle.data import ARCHIVE

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
    assert not list(data.glob(".*"))
    competition.calls()
    assert "is there already" in competition.run("data")
    assert competition.calls() == []


@pytest.mark.slow
def test_data_goes_on_after_a_kill(competition):
    """A download that was killed continues where it stopped."""
    competition.kaggle.cut_downloads_after = 1_500_000
    competition.kaggle.fault("GET", competition.kill, nth=2)
    competition.run("data", status=None)
    assert (competition.clone / "data" / f".{ARCHIVE}.part").stat().st_size == 2**20  # the client writes by the MiB
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
    data = competition.clone / "data"
    part = data / ".99.part.data"
    part.mkdir(parents=True)
    (data / ARCHIVE).write_bytes(competition.kaggle._file("data/archive.zip"))
    (part / "old.txt").write_text("old")
    competition.run("data")
    assert "GET" not in competition.calls()
    assert (data / "train.csv").is_file()
    assert not (data / "old.txt").exists()
    assert not part.exists()


def a_page(call: Call) -> None:
    """Answer with a login page in place of what was asked for."""
    refusal = Refusal(200)
    page = b"<html><title>Sign in to the network</title></html>"
    refusal.answer = Answer(200, page, {"Content-Type": "text/html; charset=utf-8"})
    raise refusal


def damaged(whole: bytes, how: str) -> Answer:
    """The archive as it may arrive: as long as it should be, but with other bytes, or too short."""
    md5 = {"x-goog-hash": "crc32c=AAAA,md5=" + base64.b64encode(hashlib.md5(whole).digest()).decode()}
    if how == "hash":
        return Answer(200, whole[:-100] + bytes(100), md5)
    if how == "short":
        return Answer(200, whole[: len(whole) // 2])
    middle = len(whole) // 2
    return Answer(200, whole[:middle] + bytes(2000) + whole[middle + 2000 :] if how == "bytes" else b"no archive")


@pytest.mark.parametrize("how", ["hash", "short", "bytes", "no archive", "page"])
def test_damaged_data(competition, how):
    """An archive that arrives damaged, or a page in its place, is downloaded again by the same command."""

    def damage(call: Call) -> None:
        refusal = Refusal(200)
        refusal.answer = damaged(competition.kaggle._file("data/archive.zip"), how)
        raise refusal

    competition.kaggle.fault("GET", a_page if how == "page" else damage)
    text = competition.run("data")
    assert ("Sign in to the network" if how == "page" else "damaged") in text
    assert (competition.clone / "data" / "train.csv").is_file()
    assert [call.method for call in competition.kaggle.calls].count("GET") == 2


def test_archive_that_stays_damaged(competition):
    """An archive that is damaged each time is deleted, and the error says so."""
    competition.kaggle.fault("GET", lambda call: (_ for _ in ()).throw(broken()), times=2)
    text = competition.run("data", status=1)
    assert "the archive arrived damaged twice" in text
    assert "run the same command again" in text
    competition.run("data")
    assert (competition.clone / "data" / "train.csv").is_file()


def broken() -> Refusal:
    refusal = Refusal(200)
    refusal.answer = Answer(200, b"no archive")
    return refusal


@pytest.mark.parametrize("holds", [(), ("lost+found",)], ids=["empty", "lost+found"])
def test_data_on_a_volume(competition, holds):
    """A folder that is there but empty, as a volume's mount point is, gets the data; all is written inside of it."""
    folder = competition.clone / "volume"
    folder.mkdir()
    for name in holds:
        (folder / name).mkdir()
    number = folder.stat().st_ino
    beside = set(competition.clone.iterdir())
    competition.run("data", "volume")
    assert (folder / "train.csv").is_file()
    assert folder.stat().st_ino == number
    assert set(competition.clone.iterdir()) == beside
    assert "is there already" in competition.run("data", "volume")


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
