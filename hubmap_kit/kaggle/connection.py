"""A connection to Kaggle's API through the official client, on which every failure raises `KaggleError`.

The official client prints what went wrong and goes on, retries some calls and not others, and leaves out files whose
upload failed. Here each call answers or raises `KaggleError`, with one line that has a remedy and no secrets. A call
that only reads is repeated. A call that changes something is not repeated when it is unknown whether it arrived; it
raises `AnswerLost`, and the caller has to look.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..files import has_type
from .credentials import credentials_source, load
from .failures import (
    NO_CREDENTIALS,
    RERUN,
    RULES_PAGE,
    Damaged,
    KaggleError,
    Missing,
    NotKaggle,
    page_of,
    refused,
    retry,
    understood,
)

T = TypeVar("T")


class Connection:
    """A user's connection to Kaggle.

    Attributes:
        api: The official client, authenticated; None without credentials, which only a dry run allows.
        owner: The user's name on Kaggle.
        dry_run: Whether calls that change something are shown instead of sent. Without credentials, calls that read
            are shown as well.
    """

    def __init__(self, api: Any, owner: str, *, dry_run: bool = False) -> None:
        """Use `connect`; the arguments are the attributes."""
        self.api = api
        self.owner = owner
        self.dry_run = dry_run

    @classmethod
    def connect(cls, *, dry_run: bool = False) -> Connection:
        """Connect with the user's credentials: a token, ``kaggle.json`` or an OAuth login.

        Args:
            dry_run: See the class; without credentials nothing is sent at all, and the owner is OWNER.

        Raises:
            KaggleError: There are no credentials, they cannot be understood, or Kaggle refuses them.
        """
        for name in ("VERBOSE", "VERBOSE_OUTPUT"):  # make the client print every request, credentials and all
            os.environ.pop(name, None)
        try:
            load()
        except ValueError as error:
            raise KaggleError(str(error)) from None
        try:
            with silenced():
                from kaggle.api.kaggle_api_extended import KaggleApi  # authenticates on import, too

                api = KaggleApi()

                def sign_in() -> None:
                    with understood():
                        api.authenticate()

                retry(sign_in, "sign in", repeat=True)
        except SystemExit:
            if source := credentials_source():
                raise KaggleError(refused(source)) from None
            if dry_run:
                return cls(None, "OWNER", dry_run=True)
            raise KaggleError(NO_CREDENTIALS) from None
        except ImportError as error:
            raise KaggleError(f"Kaggle's client is missing ({error}); in the clone: pip install '.[kaggle]'") from error
        return cls(api, api.config_values[api.CONFIG_NAME_USER], dry_run=dry_run)

    @property
    def connected(self) -> bool:
        """Whether there are credentials; False only in a dry run."""
        return self.api is not None

    def call(self, method: str, request: Any, answer: type[T], *, writes: bool = False) -> T:
        """Send a request.

        Args:
            method: Service and method, such as ``datasets.DatasetApiService/GetDataset``.
            request: The request, an object of ``kagglesdk``.
            answer: The type of the answer.
            writes: Whether the call changes something.

        Returns:
            The answer; in a dry run an empty one if nothing was sent.

        Raises:
            Missing: Kaggle finds no such thing or denies access.
            AnswerLost: The call changes something, and it is not known whether it arrived.
            KaggleError: Kaggle refuses, or cannot be reached.
        """
        if self.dry_run:
            self.show(method, request.to_dict())
            if writes or not self.connected:
                return answer()
        service, _, name = method.partition("/")

        def send() -> T:
            with self.api.build_kaggle_client() as kaggle, silenced(), understood():
                answered: T = kaggle.http_client().call(service, name, request, _Answer(answer))
                return answered

        denied = f"accept the competition's rules at {RULES_PAGE}" if service.startswith("competitions") else None
        return retry(send, name, repeat=not writes, denied=denied)

    def find(self, method: str, request: Any, answer: type[T]) -> T | None:
        """Send a request for something that may not exist; None if it does not, which Kaggle may call denied access."""
        try:
            return self.call(method, request, answer)
        except Missing:
            return None

    def show(self, method: str, body: dict[str, Any]) -> None:
        """Print a request as a dry run shows it, in lines that fit a terminal: a kernel's source only by its length."""
        shown = body | ({"text": f"<{len(body['text'])} characters>"} if "text" in body else {})
        text = f"POST {method} {json.dumps(shown)}".replace(
            '": ', '":\N{NO-BREAK SPACE}'
        )  # a key and its value stay together
        wrapped = textwrap.fill(
            text, 80, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        print(wrapped.replace("\N{NO-BREAK SPACE}", " "))

    def receive(self, response: Any, path: Path, *, quiet: bool) -> None:
        """Write a response's body to a file with the client's own download, which resumes and checks the size.

        The MD5 is checked too, if the response names one.

        Raises:
            Damaged: The file did not arrive whole, or has another MD5; nothing of it is kept.
            NotKaggle: A page came in place of the file.
        """
        if path.suffix != ".html" and (page := page_of(response)):
            raise NotKaggle(page)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `replacing`: the unfinished file must stay for the next attempt, under a name that it will find.
        part = path.with_name(f".{path.name}.part")
        try:
            with silenced(show_errors=not quiet):
                self.api.download_file(response, str(part), None, quiet=quiet, resume=True)
            _check_md5(response, part)
        except ValueError as error:
            part.unlink(missing_ok=True)
            raise Damaged(f"{path.name} did not arrive whole ({error}); {RERUN}") from error
        part.replace(path)


def _check_md5(response: Any, path: Path) -> None:
    """Raise ValueError if a file's MD5 is not the one that Google's storage names."""
    if named := re.search(r"md5=([\w+/=]+)", response.headers.get("x-goog-hash", "")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
        md5 = base64.b64encode(digest).decode()
        if md5 != named[1]:
            raise ValueError(f"its MD5 is {md5}, not {named[1]}")


class _Answer:
    """Checks an answer before the client reads it; the client takes any JSON object for an empty answer."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def prepare_from(self, response: Any) -> Any:
        """Read the answer; raise `NotKaggle` if it is none of this type."""
        if not response.content.strip():
            raise NotKaggle("an empty answer")
        if page := page_of(response):
            raise NotKaggle(page)
        value = response.json()
        fields = {field.json_name: field for field in self._kind._fields}
        if not isinstance(value, dict) or (value and not value.keys() & fields.keys()):
            raise NotKaggle("JSON of another form")
        for name, field in fields.items():
            many = isinstance(field.default_value, (list, dict))
            kind = type(field.default_value) if many else field.field_type
            if kind in (int, str, bool, list, dict) and not has_type(value.get(name), kind | None):
                raise NotKaggle(f"JSON with {name} {value[name]!r}")
        return self._kind.from_dict(value)


@contextlib.contextmanager
def silenced(*, show_errors: bool = True) -> Iterator[None]:
    """Keep what the client prints, hints and incomplete error messages, out of the output."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not show_errors:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield
