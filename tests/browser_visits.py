"""A browser for the tests of pages; a page that makes a request or reports an error fails its test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drawn_pages
import pytest

from hubmap_kit.reports.page import Card

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

Opener = Callable[..., "Page"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = f"none of {', '.join(BROWSERS)} is installed; Debian has chromium"
        if os.environ.get("HUBMAP_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> list[Card]:
    return drawn_pages.cards_of(tmp_path_factory.mktemp("cards"))


@pytest.fixture(scope="session")
def drawn_page(cards: list[Card], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of drawn cards; shared, so tests only read it."""
    return drawn_pages.write(tmp_path_factory.mktemp("page") / "page.html", cards)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Opener]:
    """Opens a page in a context of its own, ``visit(path, hash='', **options of the context)``."""
    faults: list[str] = []
    contexts = []

    def open_page(path: Path, link: str = "", script: str = "", **options: Any) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        context.set_default_timeout(8000)
        page = context.new_page()
        if script:
            page.add_init_script(script)
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("file:", "data:", "blob:"))
                else faults.append(f"request: {request.url}")
            ),
        )
        # A picture that the viewer no longer wants may be given up.
        page.on(
            "requestfailed",
            lambda request: (
                None if request.url.startswith("blob:") else faults.append(f"request that failed: {request.url[:80]}")
            ),
        )
        page.goto(path.as_uri() + link)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture
def page(visit: Opener, drawn_page: Path) -> Page:
    """The page of drawn cards, opened."""
    return visit(drawn_page)


def faults(page: Page, within: str = "html") -> list[str]:
    """What axe finds within an element that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=within).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:200]} {node['failureSummary']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
