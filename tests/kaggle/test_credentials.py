"""Credentials: where they come from, what a command says without them, and that it never prints them."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import shutil

import pytest
from kaggle_standin import Refusal

from hubmap_kit.kaggle import credentials

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")


@pytest.mark.parametrize(
    ("credentials", "said"),
    [
        ("none", "no Kaggle credentials; make a token on https://www.kaggle.com/settings"),
        ("wrong-key", "Kaggle refuses the credentials in KAGGLE_USERNAME and KAGGLE_KEY; make a new token"),
        ("wrong-token", "Kaggle refuses the credentials in KAGGLE_API_TOKEN; make a new token"),
    ],
)
@pytest.mark.parametrize("module", ["push", "submit", "data"])
def test_credentials(place, module, credentials, said):
    """Without credentials, or with wrong ones, the last line says where to get them."""
    if module == "submit":
        place.run("push")
    before = place.versions()
    text = place.run(module, credentials=credentials, status=1)
    assert text.splitlines()[-1].startswith(f"error: {said}"), text
    assert text.count("error") == 1
    assert "export KAGGLE_API_TOKEN" not in text  # the client's own advice, a page of it
    assert place.versions() == before
    assert place.kaggle.submissions == []


@pytest.mark.parametrize("name", ["VERBOSE", "VERBOSE_OUTPUT"])
def test_verbose_environment(place, monkeypatch, name):
    """Credentials are not printed even if the environment makes the client print all that it sends."""
    environment = place.kaggle.environment(place.home) | {name: "true"}
    monkeypatch.setattr(place.kaggle, "environment", lambda home, credentials: environment)
    place.kaggle.rules_accepted = False
    place.run("push", "kit")  # looks at what is printed
    place.run("data", status=1)


def test_token(place):
    """A token works as a key does; its owner is the owner of what is pushed."""
    text = place.run("push", "kit", credentials="token")
    assert f"owner {place.kaggle.user}" in text
    assert place.versions() == {"hubmap-kit": 1}


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("name", ["kaggle.json", "access_token"])
def test_credentials_in_a_file(place, name, right):
    """A token or a key in the folder .kaggle works as well; if Kaggle refuses it, the error names the file."""
    file = place.home / ".kaggle" / name
    file.parent.mkdir(parents=True)
    key = place.kaggle.key if right else "wrong"
    token = place.kaggle.token if right else "wrong"
    file.write_text(json.dumps({"username": place.kaggle.user, "key": key}) if name == "kaggle.json" else token)
    text = place.run("push", "kit", credentials="none", status=0 if right else 1)
    file.unlink()
    if not right:
        assert "Kaggle refuses the credentials in " in text
        assert f"{name}; make a new token" in text
    assert place.versions() == ({"hubmap-kit": 1} if right else {})


def test_token_that_expired(place):
    """If Kaggle no longer knows a token, the error names the token instead of saying that there is none."""
    place.kaggle.fault("IntrospectToken", 403, times=9)
    text = place.run("push", "kit", credentials="token", status=1)
    assert text.startswith("error: Kaggle refuses the credentials in KAGGLE_API_TOKEN; make a new token")


def test_dry_run_without_credentials(place):
    """Without credentials a dry run sends nothing to Kaggle, and says so."""
    shutil.rmtree(place.clone / "rehearsal")
    text = place.run("push", "infer", "--dry-run", "--force", credentials="none")
    assert "there are no credentials, so nothing is read from Kaggle" in text
    assert '"slug": "OWNER/hubmap-infer"' in text
    assert place.calls() == []


@pytest.mark.parametrize("name", ["KAGGLE_KEY", "KAGGLE_API_TOKEN"])
def test_redaction(monkeypatch, name):
    """Messages carry neither keys nor signed URLs."""
    monkeypatch.setenv(name, "0123456789abcdef")
    text = credentials.redact("403 for url: https://storage.example.org/a.zip?Signature=abc&x=1 with 0123456789abcdef")
    assert text == "403 for url: https://storage.example.org/a.zip?… with ***"


TAILS = ["\n", "\r\n", " \t", "\u200b", "\ufeff", "\u201d", "ä", '"']


@pytest.mark.slow
@pytest.mark.parametrize("tail", TAILS, ids=ascii)
@pytest.mark.parametrize("module", ["push", "data"])
def test_what_stands_around_a_token(place, monkeypatch, module, tail):
    """White space around a token is dropped; any other character is named, with its place, and the token is not."""
    environment = place.kaggle.environment(place.home, credentials="none")
    environment["KAGGLE_API_TOKEN"] = place.kaggle.token + tail
    monkeypatch.setattr(place.kaggle, "environment", lambda home, credentials: environment)
    if not tail.strip() and module == "push":
        place.run("push", "kit")
        assert place.versions() == {"hubmap-kit": 1}
    elif tail.strip():
        text = place.run(module, status=1)
        assert f"the credential in KAGGLE_API_TOKEN has the character U+{ord(tail):04X}" in text
        assert place.calls() == []


@pytest.fixture
def saved(place):
    """Writes a file of credentials; it is removed before the home is searched for what we may have left there."""
    paths = []

    def save(name: str, data: bytes, mode: int = 0o600) -> str:
        path = place.home / ".kaggle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
        paths.append(path)
        return str(path)

    yield save
    for path in paths:
        path.unlink()


def key_file(place) -> str:
    return json.dumps({"username": place.kaggle.user, "key": place.kaggle.key})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("name", ["kaggle.json", "access_token"])
def test_files_as_windows_leaves_them_work(place, saved, name, encoding):
    """A byte order mark, UTF-16 and line ends around the content do not matter."""
    content = key_file(place) if name == "kaggle.json" else place.kaggle.token
    saved(name, f"{content}\r\n".encode(encoding))
    place.run("push", "kit", credentials="none")
    assert place.versions() == {"hubmap-kit": 1}


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)], ids=["push", "dry run"])
@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("kaggle.json", lambda text: "", "kaggle.json is empty"),
        ("kaggle.json", lambda text: text[:-4], "kaggle.json is no JSON"),
        ("kaggle.json", lambda text: text.replace('"', "\u201d"), "kaggle.json is no JSON"),
        ("kaggle.json", lambda text: "[]", "kaggle.json holds no username and key"),
        ("kaggle.json", lambda text: '{"username": "me"}', "kaggle.json holds no username and key"),
        ("kaggle.json", lambda text: '{"username": "me", "key": 5}', "kaggle.json holds no username and key"),
        ("kaggle.json", lambda text: "0123456789abcdef", "belongs in ~/.kaggle/access_token"),
        ("access_token", lambda text: "", "access_token is empty"),
        ("access_token", lambda text: "two words", "access_token has the character U+0020 at place 4"),
    ],
)
def test_damaged_files_are_named(place, saved, name, change, why, arguments):
    """A file that cannot be understood is named with the reason; it is not said that there are no credentials."""
    saved(name, change(key_file(place)).encode())
    text = place.run("push", "kit", *arguments, credentials="none", status=1)
    assert why in text
    assert "no Kaggle credentials" not in text
    assert place.calls() == []


@pytest.mark.skipif(os.name != "posix", reason="files have no mode here")
def test_a_file_that_others_can_read_is_pointed_out(place, saved):
    """It works all the same."""
    path = saved("kaggle.json", key_file(place).encode(), 0o644)
    assert f"warning: other users can read {path}; run: chmod 600" in place.run("push", "kit", credentials="none")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["status 400", "error of SaveKernel"])
@pytest.mark.parametrize("form", ["as it is", "Base64"])
@pytest.mark.parametrize("name", ["KAGGLE_KEY", "KAGGLE_API_TOKEN", "kaggle.json", "access_token"])
def test_an_answer_that_repeats_a_credential(place, saved, name, form, how):
    """A gateway that repeats what was sent cannot make us print it, wherever the credential came from."""
    kaggle = place.kaggle
    secret = kaggle.token if "oken" in name or "TOKEN" in name else kaggle.key
    signed = secret if secret == kaggle.token else f"{kaggle.user}:{secret}"
    sent = secret if form == "as it is" else base64.b64encode(signed.encode()).decode()
    kind = {"KAGGLE_KEY": "key", "KAGGLE_API_TOKEN": "token"}.get(name, "none")
    if name == "kaggle.json":
        saved(name, key_file(place).encode())
    elif name == "access_token":
        saved(name, kaggle.token.encode())

    def repeat(call):
        raise Refusal(400, f"cannot parse {sent}")

    if how == "status 400":
        kaggle.fault("GetDataset", repeat)
    else:
        kaggle.kernel_error = f"cannot parse {sent}"
    text = place.run("push", "kit", "train", credentials=kind, status=1)
    assert "cannot parse ***" in text
    assert sent not in text


def test_a_user_without_a_key_is_named(place, monkeypatch):
    """Half of a pair is a mistake, not a lack of credentials."""
    environment = place.kaggle.environment(place.home, credentials="none") | {"KAGGLE_USERNAME": "me"}
    monkeypatch.setattr(place.kaggle, "environment", lambda home, credentials: environment)
    text = place.run("push", "kit", status=1)
    assert "KAGGLE_USERNAME is set, but KAGGLE_KEY is not" in text
