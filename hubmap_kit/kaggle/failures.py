"""What can go wrong between the kit and Kaggle: error messages of one line with a remedy, and repeated calls."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ..competition import SLUG
from .credentials import credentials_source, redact

T = TypeVar("T")

SETTINGS_PAGE = "https://www.kaggle.com/settings"
RULES_PAGE = f"https://www.kaggle.com/competitions/{SLUG}/rules"
NO_CREDENTIALS = (
    f"no Kaggle credentials; make a token on {SETTINGS_PAGE} (section API) and set KAGGLE_API_TOKEN to it, "
    "or save kaggle.json into ~/.kaggle"
)
RERUN = "run the same command again: it continues where it stopped"
_TRUST = "if a proxy of your organisation reads the traffic, set REQUESTS_CA_BUNDLE to the file with its certificate"
ATTEMPTS = 7  # most attempts of a call
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # between two attempts; each pause is twice the one before


class KaggleError(ValueError):
    """Kaggle refused something or failed to do it; the text is one line with a remedy, without credentials."""

    def __init__(self, text: str):
        super().__init__(redact(text))


class Unreachable(KaggleError):
    """Kaggle cannot be reached, or failed at every attempt."""


class AnswerLost(KaggleError):
    """No answer came to a call that changes something: it may or may not have been done."""


class Missing(KaggleError):
    """Kaggle says that there is no such thing, or that this user may not see it."""


class Damaged(KaggleError):
    """A file did not arrive as Kaggle has it."""


class NotKaggle(Exception):
    """The answer is not Kaggle's; the text says what it is, such as ``an HTML page``."""


@contextmanager
def understood() -> Iterator[None]:
    """Raise `NotKaggle` if the client cannot understand an answer."""
    import requests

    try:
        yield
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, KaggleError):
            raise
        if isinstance(error, requests.RequestException) and not isinstance(error, requests.JSONDecodeError):
            raise
        raise NotKaggle("an answer of another form") from error


def page_of(response: Any) -> str | None:
    """Describe a response that is a web page, which Kaggle's API never sends; None for any other."""
    if "text/html" not in response.headers.get("Content-Type", ""):
        return None
    title = re.search(r"<title[^>]*>([^<]{1,200})", response.text, re.IGNORECASE)
    return f"an HTML page ({one_line(title[1])})" if title else "an HTML page"


def retry(action: Callable[[], T], doing: str, *, repeat: bool, denied: str | None = None) -> T:
    """Call a function, and again if Kaggle asks to wait or, with `repeat`, if Kaggle fails or cannot be reached.

    Args:
        action: The function.
        doing: What it does, for messages.
        repeat: Whether calling it twice does no harm.
        denied: Remedy if Kaggle denies access.

    Returns:
        What the function returns.

    Raises:
        Unreachable: Every attempt failed, or the answers are not Kaggle's.
        AnswerLost: The call failed without `repeat`, and may have been done.
        KaggleError: Kaggle refuses.
    """
    import requests
    import urllib3

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except KeyError as error:  # a status that is newer than the client
            raise KaggleError(f"{doing}: Kaggle's client does not know the answer {error}; look on Kaggle") from None
        except (Damaged, NotKaggle, requests.RequestException, urllib3.exceptions.HTTPError) as error:
            response = getattr(error, "response", None)
            status = response.status_code if response is not None else None
            said = one_line(str(error))
            page = said if isinstance(error, NotKaggle) else None
            if status is not None and status < 500:
                page = page_of(response)
            if page:
                why = f"does not answer; {page} comes instead, perhaps from a proxy or a login page"
            elif isinstance(error, Damaged):
                if attempt == ATTEMPTS:
                    raise
                why = f"sent a damaged file ({said})"
            elif "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise Unreachable(f"{doing}: Kaggle's certificate is not trusted ({said}); {_TRUST}") from None
            elif status == 401:
                raise KaggleError(refused(credentials_source() or "kaggle.json")) from None
            elif status in (403, 404):
                remedy = denied or "check that it exists and that the credentials are its owner's"
                raise Missing(
                    f"{doing}: Kaggle finds no such thing or denies access ({status}: {said}); {remedy}"
                ) from None
            elif status is not None and 400 <= status < 500 and status != 429:
                raise KaggleError(f"{doing}: Kaggle refuses ({status}: {said}); correct that and try again") from None
            elif isinstance(error, requests.exceptions.ProxyError):
                why = f"cannot be reached through the proxy {_proxy()}"
            else:
                why = f"answers {status}" if status else f"cannot be reached or breaks off ({type(error).__name__})"
            if status != 429 and not repeat:
                raise AnswerLost(f"{doing}: Kaggle {why}, so it is not known whether it was done; {RERUN}") from None
            if attempt == ATTEMPTS:
                remedy = "check the connection and https://www.kaggle.com/status"
                if status == 429:
                    remedy = "wait some minutes"
                elif page:
                    remedy = "open https://www.kaggle.com in a browser on this network and sign in where it asks"
                elif isinstance(error, requests.exceptions.ProxyError):
                    remedy = "correct or unset the variable https_proxy"
                raise Unreachable(f"{doing}: Kaggle {why}, {attempt} times in a row; {remedy}, then {RERUN}") from None
            asked = _retry_after(response)
            pause = min(FIRST_PAUSE_S * 2 ** (attempt - 1) if asked is None else asked, LONGEST_PAUSE_S)
            print(f"{doing}: Kaggle {why}; again in {pause:.0f} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _proxy() -> str:
    """The proxy that the environment names, without a password."""
    names = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    named = next(filter(None, map(os.environ.get, names)), "that this computer's settings name")
    return redact(named)


def _retry_after(response: Any) -> float | None:
    """Seconds for which Kaggle asks to wait; None if it does not."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (AttributeError, KeyError, ValueError):
        return None


def refused(source: str) -> str:
    """The message for credentials that Kaggle refuses."""
    remedy = f"make a new token on {SETTINGS_PAGE} (section API) and put it there"
    return f"Kaggle refuses the credentials in {source}; {remedy}"


def one_line(text: str) -> str:
    """A message from outside as one line, without credentials and full stop, so that it fits into a sentence."""
    return " ".join(redact(text).split()).rstrip(".;") or "no reason given"
