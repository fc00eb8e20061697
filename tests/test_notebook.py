"""Where a notebook runs, its settings, its data and its runs."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from hubmap_kit import notebook
from hubmap_kit.competition import SLUG
from hubmap_kit.kaggle import data
from hubmap_kit.kaggle.connection import Connection
from hubmap_kit.kaggle.manifest import BundledWheel, Manifest
from hubmap_kit.tables import read_images


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    """A notebook in an empty folder of this computer, of a user without credentials."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(notebook.CHANGES, raising=False)


def on_kaggle(monkeypatch, tmp_path):
    """Pretend a session on Kaggle; returns its input and its working folder."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    folders = tmp_path / "kaggle" / "input", tmp_path / "kaggle" / "working"
    for name, folder in zip(("INPUT", "WORKING"), folders, strict=True):
        folder.mkdir(parents=True)
        monkeypatch.setattr(notebook, name, folder)
    return folders


def test_settings_are_changed_by_the_environment(monkeypatch):
    """A setting keeps the notebook's value unless the variable names it; other variables of a notebook are left out."""
    monkeypatch.setenv(notebook.CHANGES, '{"DEMO": true}')
    assert notebook.settings({"DEMO": False, "SEED": 3, "path": "x"}) == {"DEMO": True, "SEED": 3}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"EPOCH": 3}', "names EPOCH; the notebook's settings are EPOCHS"),
        ("{EPOCHS: 3}", "is not valid JSON"),
        ("[3]", "must be a JSON object"),
    ],
)
def test_wrong_settings(monkeypatch, text, rule):
    """A setting that does not exist, or text that is no JSON object, is an error."""
    monkeypatch.setenv(notebook.CHANGES, text)
    with pytest.raises(ValueError, match=rule):
        notebook.settings({"EPOCHS": 2})


def test_demo_needs_no_credentials_and_is_kept(tmp_path):
    """The demo is drawn once for each size, beside the notebook."""
    drawn = notebook.competition(demo=True, images=5, size=128)
    assert drawn.is_relative_to(tmp_path / "work")
    assert len(read_images(drawn, "train")) == 5
    made = (drawn / "train.csv").stat().st_mtime_ns
    assert notebook.competition(demo=True, images=5, size=128) == drawn
    assert (drawn / "train.csv").stat().st_mtime_ns == made
    assert notebook.competition(demo=True, images=6, size=128) != drawn


def test_without_credentials_the_remedy_is_named():
    """Without credentials the error says where to get some, and that the demo needs none."""
    with pytest.raises(ValueError, match=r"no Kaggle credentials; .*set DEMO = True"):
        notebook.competition(demo=False)


def test_data_is_downloaded_with_credentials(monkeypatch, tmp_path, capsys):
    """With credentials the competition is downloaded beside the notebook; a folder that is named is taken as it is."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", "0f1e2d3c")
    connected, fetched = object(), []
    monkeypatch.setattr(Connection, "connect", lambda: connected)
    monkeypatch.setattr(data, "fetch", lambda connection, folder: fetched.append((connection, folder)))
    assert notebook.competition(demo=False) == tmp_path / "work" / "data"
    assert fetched == [(connected, tmp_path / "work" / "data")]
    said = capsys.readouterr().out
    assert "credentials: KAGGLE_API_TOKEN" in said
    assert "0f1e2d3c" not in said
    assert notebook.competition(demo=False, data="mine") == Path("mine")
    assert len(fetched) == 1


def test_on_kaggle_the_attached_competition_is_used(monkeypatch, tmp_path, demo):
    """On Kaggle nothing is downloaded: the mounted competition is found, and runs of attached datasets."""
    attached, working = on_kaggle(monkeypatch, tmp_path)
    assert notebook.host() == "Kaggle"
    assert notebook.work_folder() == working
    with pytest.raises(ValueError, match="attach the competition"):
        notebook.competition(demo=False)
    (attached / "competitions").mkdir()
    (attached / "competitions" / SLUG).symlink_to(demo)
    assert notebook.competition(demo=False) == attached / "competitions" / SLUG


@pytest.mark.slow
def test_runs(monkeypatch, tmp_path, trained):
    """The run of the training notebook comes first; on Kaggle an attached one is used; else there is none."""
    assert notebook.runs() == []
    attached, working = on_kaggle(monkeypatch, tmp_path)
    (attached / "cpu").symlink_to(trained)
    assert notebook.runs() == [attached / "cpu"]
    (working / "run").symlink_to(trained)
    assert notebook.runs() == [working / "run"]


def test_missing_wheels_are_installed_on_kaggle(monkeypatch, tmp_path, capsys):
    """With the dataset hubmap-kit attached, a wheel is installed whose module this Python lacks, and no other."""
    attached, working = on_kaggle(monkeypatch, tmp_path)
    wheels = [BundledWheel("hubmap_kit-0-py3-none-any.whl", "hubmap_kit", ""), BundledWheel("j.whl", "json", "")]
    wheels.append(BundledWheel("a.whl", "no_such_module", ""))
    (attached / "hubmap-kit").mkdir()
    Manifest("0", "c", False, tuple(wheels)).write(attached / "hubmap-kit")
    commands: list[list[str]] = []

    def run(command, **_):
        commands.append(command)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    variables = {"DEMO": False}
    assert notebook.begin(variables) == working
    (command,) = commands
    assert [part for part in command if part.endswith(".whl")] == [str(attached / "hubmap-kit" / "a.whl")]
    assert "installed: a.whl" in capsys.readouterr().out


def test_google_drive_is_mounted_on_colab_only(monkeypatch, tmp_path):
    """The run folder lies on Google Drive on Colab if that is wanted, and beside the notebook elsewhere."""
    assert notebook.run_folder(drive=True) == tmp_path / "work" / "run"
    mounted: list[str] = []
    drive = types.SimpleNamespace(mount=mounted.append)
    colab = types.ModuleType("google.colab")
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    assert notebook.host() == "Colab"
    assert notebook.run_folder() == tmp_path / "work" / "run"
    assert not mounted
    assert notebook.run_folder(drive=True) == notebook.DRIVE / "MyDrive" / "hubmap-kit" / "run"
    assert mounted == [str(notebook.DRIVE)]


def test_a_page_is_shown_in_a_frame(monkeypatch, tmp_path):
    """A page is shown as it is, quotes and all; one that would make the notebook large is only named."""
    page = tmp_path / "page.html"
    page.write_text("""<p class="a">it's & so</p>""")
    shown = notebook.Frame(page)._repr_html_()
    assert 'srcdoc="&lt;p class=&quot;a&quot;&gt;it&#x27;s &amp; so&lt;/p&gt;"' in shown
    monkeypatch.setattr(notebook, "LARGEST_PAGE", 10)
    assert "<iframe" not in notebook.Frame(page)._repr_html_()
    assert "page.html is too large" in notebook.Frame(page)._repr_html_()
