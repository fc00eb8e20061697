"""Credentials in a notebook: where they are looked for, in which order, and that no value is shown."""

from __future__ import annotations

import json
import os
import stat
import sys
import types

import pytest

from hubmap_kit.kaggle import credentials
from hubmap_kit.kaggle.credentials import credentials_source, sign_in

SECRET = "0f1e2d3c4b5a6978"
KEY_FILE = json.dumps({"username": "me", "key": SECRET}).encode()


class Colab(types.ModuleType):
    """A stand-in for ``google.colab``: secrets by name (None: this notebook may not read it), and an upload."""

    def __init__(self, secrets: dict[str, str | None], uploaded: dict[str, bytes]) -> None:
        super().__init__("google.colab")
        self.uploads = 0

        class SecretNotFoundError(Exception):
            pass

        class NotebookAccessError(Exception):
            pass

        def get(name: str) -> str:
            if name not in secrets:
                raise SecretNotFoundError
            if (value := secrets[name]) is None:
                raise NotebookAccessError
            return value

        def upload() -> dict[str, bytes]:
            self.uploads += 1
            for name, content in uploaded.items():
                with open(name, "wb") as file:  # as Colab does
                    file.write(content)
            return uploaded

        errors = {"SecretNotFoundError": SecretNotFoundError, "NotebookAccessError": NotebookAccessError}
        self.userdata = types.SimpleNamespace(get=get, **errors)
        self.files = types.SimpleNamespace(upload=upload)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home of a user without credentials, which is the working folder too."""
    for name in list(os.environ):
        if name.startswith("KAGGLE_"):
            monkeypatch.delenv(name)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):  # so that they are unset again afterwards
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(credentials, "_loaded", {})  # an earlier test may have read a file of its own
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def colab(monkeypatch, secrets=None, uploaded=None) -> Colab:
    module = Colab(secrets or {}, uploaded or {})
    monkeypatch.setitem(sys.modules, "google.colab", module)
    return module


def test_the_order_of_the_client(home, monkeypatch):
    """Each place is found, and one that the client searches earlier comes first."""
    assert credentials_source() is None
    folder = home / ".kaggle"
    folder.mkdir()
    for name, shown in (
        ("credentials.json", "~/.kaggle/credentials.json"),
        ("kaggle.json", "kaggle.json"),
    ):
        (folder / name).touch()
        assert credentials_source() == shown
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    assert credentials_source() == "kaggle.json"
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    assert credentials_source() == "KAGGLE_USERNAME and KAGGLE_KEY"
    (folder / "access_token").touch()
    assert credentials_source() == "~/.kaggle/access_token"
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    assert credentials_source() == "KAGGLE_API_TOKEN"


@pytest.mark.skipif(sys.platform != "linux", reason="the client looks there on Linux only")
def test_other_folders_of_the_client(home, monkeypatch):
    """kaggle.json is also found in ~/.config/kaggle, if there is no ~/.kaggle, and in KAGGLE_CONFIG_DIR."""
    (home / ".config" / "kaggle").mkdir(parents=True)
    (home / ".config" / "kaggle" / "kaggle.json").touch()
    assert credentials_source() == "kaggle.json"
    (home / ".kaggle").mkdir()
    assert credentials_source() is None
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / ".config" / "kaggle"))
    assert credentials_source() == "kaggle.json"


def test_elsewhere_there_is_nothing_to_ask(home):
    """Outside of Colab only the client's places are searched."""
    assert sign_in() is None


def test_what_the_client_finds_comes_first(home, monkeypatch):
    """If the client finds credentials, Colab's secrets are not read, and nothing is uploaded."""
    module = colab(monkeypatch, {"KAGGLE_API_TOKEN": "other"})
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    assert sign_in() == "KAGGLE_API_TOKEN"
    assert os.environ["KAGGLE_API_TOKEN"] == SECRET
    assert not module.uploads


@pytest.mark.parametrize(
    ("secrets", "shown"),
    [
        ({"KAGGLE_API_TOKEN": SECRET, "KAGGLE_USERNAME": "me", "KAGGLE_KEY": "k"}, "KAGGLE_API_TOKEN"),
        ({"KAGGLE_USERNAME": "me", "KAGGLE_KEY": SECRET}, "KAGGLE_USERNAME and KAGGLE_KEY"),
    ],
)
def test_secrets_of_colab(home, monkeypatch, capsys, secrets, shown):
    """A token among Colab's secrets comes before a user's name and key; neither is printed."""
    module = colab(monkeypatch, secrets)
    assert sign_in() == f"Colab's secrets: {shown}"
    assert credentials_source() == shown
    assert not module.uploads
    assert SECRET not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("content", "name"), [(KEY_FILE, "kaggle.json"), (f"{SECRET}\n".encode(), "access_token")], ids=["key", "token"]
)
def test_an_upload_comes_last(home, monkeypatch, capsys, content, name):
    """Without secrets a file is uploaded, kept where the client looks, readable by its owner only, and not printed."""
    module = colab(monkeypatch, {"KAGGLE_API_TOKEN": None}, {"kaggle (1).json": content})
    assert sign_in() == f"~/.kaggle/{name}"
    assert module.uploads == 1
    kept = home / ".kaggle" / name
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() == content.decode().strip()
    assert not (home / "kaggle (1).json").exists()
    said = "".join(capsys.readouterr())
    assert SECRET not in said
    assert "this notebook may not read it" in said
    assert sign_in() == credentials_source()


@pytest.mark.parametrize("content", [b'{"username": "me"}', b"", b"two words", b"[1]"])
def test_an_upload_without_credentials(home, monkeypatch, content):
    """A file that holds neither a key nor a token is refused, without a copy left behind."""
    colab(monkeypatch, uploaded={"x": content})
    with pytest.raises(ValueError, match="holds no credentials"):
        sign_in()
    assert not list(home.rglob("x"))
    assert credentials_source() is None


def test_nothing_is_uploaded(home, monkeypatch):
    """If the upload is cancelled, there are no credentials."""
    colab(monkeypatch)
    assert sign_in() is None
