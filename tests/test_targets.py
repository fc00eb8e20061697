"""Tests of what commands write: never an input, never another process's, and links and devices stay what they are."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hubmap_kit.claim import claim
from hubmap_kit.cli import main
from hubmap_kit.files import is_special, replacing, write_text


@pytest.fixture
def scored(demo, tmp_path):
    """A submission with its truth, both copies."""
    truth = (demo / "test_truth.csv").read_text()
    (tmp_path / "truth.csv").write_text(truth)
    header = truth.splitlines()[0].split(",")
    place = header.index("rle")
    lines = [f"{row.split(',')[0]},{row.split(',')[place]}" for row in truth.splitlines()]
    (tmp_path / "submission.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def status_of(arguments):
    try:
        return main(list(map(str, arguments)))
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("score S --truth T --per-image T", "--per-image is"),
        ("predict D R --out D/test.csv", "--out is"),
        ("predict D R --out D/submission.csv", "lies in"),
        ("predict D R --out R/submission.csv", "lies in"),
        ("predict D R --out D", "which is a folder; name a file"),
        ("report R --out R/config.json", "name a file that ends in .html"),
        ("inspect D --out D", "which is a folder; name a file"),
        ("prepare D D", "which is also an input"),
        ("prepare D D/patches", "lies in"),
        ("prepare D S", "which is a file; name a folder"),
        ("train D D", "which is also an input"),
        ("export S --data D --out D", "which is also an input"),
    ],
)
def test_an_output_that_is_an_input_is_refused(demo, old_run, scored, capsys, arguments, said):
    """It is wrong usage, and every input stays as it was."""
    places = {"D": demo, "R": old_run, "S": scored / "submission.csv", "T": scored / "truth.csv"}

    def place(word):
        first, _, rest = word.partition("/")
        return str(places[first] / rest if rest else places[first]) if first in places else word

    before = {path: path.stat().st_mtime_ns for folder in (demo, old_run, scored) for path in folder.rglob("*")}
    assert status_of(map(place, arguments.split())) == 2
    assert said in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for folder in (demo, old_run, scored) for path in folder.rglob("*")}
    assert after == before


@pytest.mark.parametrize("out", ["images/out", "images"])
def test_an_import_into_its_own_images_is_refused(tmp_path, out, capsys):
    """The folder of images stays as it is."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    assert status_of(["import", tmp_path / "images", tmp_path / out, "--organ", "lung", "--pixel-size", 1]) == 2
    assert "OUT is" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["images", "a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of this kind")
def test_a_target_that_another_command_writes_is_refused(demo, tmp_path, capsys):
    """A second preparation into the same folder says who writes there, and changes nothing."""
    with claim(tmp_path / "patches", "hubmap-kit prepare", folder=True):
        assert status_of(["prepare", demo, tmp_path / "patches"]) == 1
        assert "patches is being written by process" in capsys.readouterr().err
        assert sorted(path.name for path in (tmp_path / "patches").iterdir()) == [".lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks of this kind")
@pytest.mark.parametrize(
    ("command", "place"), [("rehearse", "rehearsal"), ("bundle", "dist/hubmap-kit"), ("data", "data")]
)
def test_the_place_in_the_clone_is_claimed_when_no_other_is_named(tmp_path, monkeypatch, capsys, command, place):
    """A second rehearsal, bundle or download in the same clone is refused, also without an argument."""
    for part in ("hubmap_kit", "kernels", "datasets", "pyproject.toml"):
        (tmp_path / part).mkdir()
    monkeypatch.chdir(tmp_path)
    with claim(tmp_path / place, f"hubmap-kit {command}", folder=True):
        assert status_of([command]) == 1
    assert f"{place} is being written by process" in capsys.readouterr().err


def test_what_a_link_leads_to_is_written(tmp_path):
    """The link stays."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "file.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("disk/file.csv")
    write_text(tmp_path / "link.csv", "new")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "disk" / "file.csv").read_text() == "new"
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_written_through(tmp_path):
    """It stays a pipe, and its reader gets the whole."""
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as part:
        part.write_text("content")
    reader.join()
    assert got == ["content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="there is no /dev/stdout here")
def test_standard_output_is_written_to(scored):
    """--per-image /dev/stdout prints the table before the score, which stays the last line."""
    arguments = ["score", "submission.csv", "--truth", "truth.csv", "--per-image", "/dev/stdout"]
    done = subprocess.run(
        [sys.executable, "-m", "hubmap_kit", *arguments], cwd=scored, check=True, capture_output=True, text=True
    )
    assert "id,organ,dice\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("mean Dice ")
    assert os.path.islink("/dev/stdout")


@pytest.mark.parametrize(
    ("path", "special"),
    [("/dev/shm/s.csv", False), ("/dev/stdout", True), ("/dev/fd/3", True), ("/proc/self/fd/1", True)],
)
def test_files_in_shared_memory_are_files(monkeypatch, path, special):
    """A file in /dev/shm is replaced, and claimed, like any other; an open file of a process is written through."""
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    assert is_special(Path(path)) is special


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_there_is_no_folder_of_pictures_beside_a_pipe(demo, tmp_path, capsys):
    """Nor beside a device: --out /dev/null would make a folder in /dev."""
    os.mkfifo(tmp_path / "pipe")
    assert status_of(["inspect", demo, "--out", tmp_path / "pipe", "--folder"]) == 2
    assert "--folder needs a file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("size", ["0", "-1"])
def test_the_size_of_a_page_is_checked_before_its_images_are_read(demo, tmp_path, capsys, size):
    """It is wrong usage; drawing takes minutes."""
    assert status_of(["inspect", demo, "--out", tmp_path / "data.html", f"--max-mb={size}"]) == 2
    assert f"--max-mb: '{size}' is out of bounds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", ["prepare D loop", "prepare loop out", "report loop --out page.html", "demo loop/x"]
)
def test_links_in_a_circle_are_named(demo, tmp_path, monkeypatch, capsys, arguments):
    """They are an error in one line, as an input and as an output."""
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("pool")
    Path("pool").symlink_to("loop")
    assert status_of(arguments.replace("D", str(demo)).split()) == 1
    said = capsys.readouterr().err
    assert "loop" in said or "symbolic links" in said
    assert "mistake of hubmap-kit" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only names in Unicode")
def test_a_name_that_is_not_utf_8_is_refused(tmp_path, capsys):
    """HDF5 and pages cannot hold it; it is refused before anything is done."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff")
    assert status_of(["demo", name]) == 2
    assert "is not UTF-8, and libraries cannot open it; rename it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
