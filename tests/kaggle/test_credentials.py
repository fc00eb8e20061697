"""Credentials: where they come from, what a command says without them, and that it never prints them."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from hubmap_kit.kaggle import failures

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
    text = failures.redact("403 for url: https://storage.example.org/a.zip?Signature=abc&x=1 with 0123456789abcdef")
    assert text == "403 for url: https://storage.example.org/a.zip?… with ***"
