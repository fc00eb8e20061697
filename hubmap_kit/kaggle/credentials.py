"""Where Kaggle's client finds credentials, and how a notebook on Colab gives it some. No value is ever printed."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

TOKEN, USER, KEY = "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"  # environment variables, and Colab's secrets


def token_source() -> str | None:
    """The place that a token comes from, searched in the client's order; None if there is no token."""
    if os.environ.get(TOKEN):
        return TOKEN
    for name in ("access_token", "access_token.txt"):
        if Path.home().joinpath(".kaggle", name).is_file():
            return f"~/.kaggle/{name}"
    return None


def credentials_source() -> str | None:
    """The place that the client takes credentials from, searched in its order; None if there are none.

    The order is that of Kaggle's client 2.2: a token, a user's name and key, an OAuth login.
    """
    if source := token_source():
        return source
    if os.environ.get(USER) and os.environ.get(KEY):
        return f"{USER} and {KEY}"
    if _settings_folder().joinpath("kaggle.json").is_file():
        return "kaggle.json"
    if Path.home().joinpath(".kaggle", "credentials.json").is_file():
        return "~/.kaggle/credentials.json"
    return None


def sign_in() -> str | None:
    """Give Kaggle's client credentials in a notebook, if it would find none.

    On Colab the secret KAGGLE_API_TOKEN is tried next, then the secrets KAGGLE_USERNAME and KAGGLE_KEY, and last an
    upload of ``kaggle.json`` or of a file that holds a token. What is uploaded goes to ``~/.kaggle``, readable by its
    owner only.

    Returns:
        Where the credentials are, to be shown; None if there are none.

    Raises:
        ValueError: What was uploaded holds no credentials.
    """
    if source := credentials_source():
        return source
    try:
        colab = importlib.import_module("google.colab")
    except ImportError:
        return None
    for names in ((TOKEN,), (USER, KEY)):
        if all(values := [_secret(colab.userdata, name) for name in names]):
            os.environ.update(dict(zip(names, map(str, values), strict=True)))
            return f"Colab's secrets: {' and '.join(names)}"
    print("no credentials found: upload kaggle.json, or a text file that holds a token", flush=True)
    for name, content in colab.files.upload().items():
        Path(name).unlink(missing_ok=True)  # Colab leaves a copy in the working folder
        return _keep(content)
    return None


def _settings_folder() -> Path:
    """The folder in which the client looks for ``kaggle.json``."""
    if named := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(named)
    folder = Path.home() / ".kaggle"
    if sys.platform.startswith("linux") and not folder.exists():
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "kaggle")
    return folder


def _secret(userdata: Any, name: str) -> str | None:
    """A secret of Colab; None if there is none, or if this notebook may not read it, which is said."""
    try:
        value: str = userdata.get(name)
    except userdata.SecretNotFoundError:
        return None
    except userdata.NotebookAccessError:
        print(f"Colab has a secret {name}, but this notebook may not read it; allow it behind the key on the left")
        return None
    return value


def _keep(content: bytes) -> str:
    """Write what was uploaded to ``~/.kaggle``; returns the file's name as it is shown."""
    text = content.decode("utf-8", "replace").strip()
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if isinstance(values, dict) and values.keys() >= {"username", "key"}:
        name = "kaggle.json"
    elif text and values is None and len(text.split()) == 1:
        name = "access_token"
    else:
        raise ValueError("the uploaded file holds no credentials; make a token on https://www.kaggle.com/settings")
    path = Path.home() / ".kaggle" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, encoding="utf-8")
    return f"~/.kaggle/{name}"
