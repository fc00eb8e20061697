"""Where Kaggle's client finds credentials, which forms of them it can use, and how a notebook on Colab signs in.

No value is ever printed: `redact` takes all of them out of texts that come from outside.
"""

from __future__ import annotations

import base64
import codecs
import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

TOKEN, USER, KEY = "KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"  # environment variables, and Colab's secrets
LEAST_SECRET = 6  # shorter values are not taken out of texts: they would be found in ordinary words
# Where `load` found the values that it put into environment variables, by variable.
_loaded: dict[str, str] = {}


def load() -> None:
    """Bring the credentials into a form that Kaggle's client can use, before it signs in.

    White space around a value is dropped. A file with a byte order mark or in UTF-16, which the client cannot read, is
    read here, and its content handed on in environment variables of this process.

    Raises:
        ValueError: A value or a file is not a credential; the text names it and the reason, but not the value.
    """
    for name in (TOKEN, USER, KEY):
        if (value := os.environ.get(name)) is not None:
            os.environ[name] = value.strip()
            _check(os.environ[name], name)
    if os.environ.get(TOKEN):
        return
    for path in _token_files():
        if path.is_file():
            _check_readers(path)
            token = _text_of(path).strip()
            if not token:
                raise ValueError(f"{path} is empty; save a token into it, or delete it")
            _check(token, str(path))
            os.environ[TOKEN], _loaded[TOKEN] = token, _shown(path)
            return
    if bool(os.environ.get(USER)) != bool(os.environ.get(KEY)):
        given, lacking = (USER, KEY) if os.environ.get(USER) else (KEY, USER)
        raise ValueError(f"{given} is set, but {lacking} is not; set both, or neither")
    path = _settings_folder() / "kaggle.json"
    if os.environ.get(KEY) or not path.is_file():
        return
    _check_readers(path)
    values = _user_and_key(path)
    for name, value in zip((USER, KEY), values, strict=True):
        os.environ[name], _loaded[name] = value, _shown(path)


def _user_and_key(path: Path) -> tuple[str, str]:
    text = _text_of(path)
    remedy = "download kaggle.json again, from https://www.kaggle.com/settings (section API, legacy credentials)"
    try:
        value = json.loads(text)
    except ValueError as error:
        why = "is empty" if not text.strip() else f"is no JSON (line {getattr(error, 'lineno', 1)})"
        token = "; a token alone belongs in ~/.kaggle/access_token" if len(text.split()) == 1 else ""
        raise ValueError(f"{path} {why}; {remedy}{token}") from None
    values = [value.get(name) if isinstance(value, dict) else None for name in ("username", "key")]
    if not all(isinstance(each, str) and each.strip() for each in values):
        raise ValueError(f"{path} holds no username and key; {remedy}")
    user, key = (str(each).strip() for each in values)
    _check(user, str(path))
    _check(key, str(path))
    return user, key


def _token_files() -> list[Path]:
    return [Path.home() / ".kaggle" / name for name in ("access_token", "access_token.txt")]


def _text_of(path: Path) -> str:
    """The text of a file in UTF-8 or, as its byte order mark says, UTF-16."""
    try:
        data = path.read_bytes()
        utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if utf_16 else "utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; make it readable for you") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; save it as UTF-8") from error


def _check(value: str, where: str) -> None:
    """Refuse a value with a character that no credential has, which would not arrive at Kaggle."""
    for place, character in enumerate(value):
        if not ("!" <= character <= "~") or character in "\"'\\":
            name = f"U+{ord(character):04X}"
            raise ValueError(f"the credential in {where} has the character {name} at place {place + 1}; copy it anew")


def _check_readers(path: Path) -> None:
    """Say so if other users of this computer can read a file with credentials."""
    if os.name == "posix" and path.stat().st_mode & 0o077:
        print(f"warning: other users can read {path}; run: chmod 600 {path}", file=sys.stderr)


def _shown(path: Path) -> str:
    return f"~/{path.relative_to(Path.home()).as_posix()}" if path.is_relative_to(Path.home()) else str(path)


def redact(text: str) -> str:
    """A text without credentials, in any form in which they are sent, and without the query and the user of a URL.

    The query may hold a signature, and the user of a proxy's URL its password.
    """
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"://[^/\s@'\"]+@", "://***@", text)
    return re.sub(r"((?:https?://|/)[^\s?'\")]+)\?[^\s'\")]+", r"\1?…", text)


def _secrets() -> set[str]:
    """Every credential for Kaggle on this computer: as it is, without white space around it, and as Base64."""
    texts = [os.environ.get(name, "") for name in (TOKEN, KEY)]
    users = {os.environ.get(USER, "")}
    for path in (*_token_files(), _settings_folder() / "kaggle.json", Path.home() / ".kaggle" / "credentials.json"):
        try:
            text = _text_of(path)
        except ValueError:
            continue
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(value, dict):
            users.add(str(value.get("username", "")))
            texts += [str(v) for k, v in value.items() if "token" in k or "key" in k]
        else:
            texts.append(text)
    found = {form for text in texts for form in (text, text.strip(), re.sub(r"[^!-~]", "", text))}
    found |= {base64.b64encode(f"{user}:{key}".encode()).decode() for user in users for key in set(found)}
    found |= {base64.b64encode(key.encode()).decode() for key in set(found)}
    return {each for each in found if len(each) >= LEAST_SECRET}


def token_source() -> str | None:
    """The place that a token comes from, searched in the client's order; None if there is no token."""
    if os.environ.get(TOKEN):
        return _loaded.get(TOKEN, TOKEN)
    return next((_shown(path) for path in _token_files() if path.is_file()), None)


def credentials_source() -> str | None:
    """The place that the client takes credentials from, searched in its order; None if there are none.

    The order is that of Kaggle's client 2.2: a token, a user's name and key, an OAuth login.
    """
    if source := token_source():
        return source
    if os.environ.get(USER) and os.environ.get(KEY):
        return _loaded.get(KEY, f"{USER} and {KEY}")
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
