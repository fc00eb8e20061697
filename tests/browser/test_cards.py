"""Tests of a page in a browser: cards, filters, order, charts, marks, and without scripts."""

from __future__ import annotations

import csv
import io
import re

import drawn_pages
import pytest
from browser_visits import faults
from drawn_pages import until
from playwright.sync_api import Page

SIZES = (320, 768, 1440)
# Everything that Tab has to reach: what can have focus and is seen. Of a chart's dots one has tab index 0.
TABBABLE = """root => [...root.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")]
  .filter(e => e.tabIndex >= 0 && !e.disabled && e.checkVisibility({visibilityProperty: true}))"""


def cells(page: Page, number: int) -> list[str]:
    """The text of a column of the table, of the rows that are listed."""
    return page.locator(f".sortable tbody tr:visible :nth-child({number})").all_text_contents()


def keys(page: Page, selector: str = ".card:visible") -> list[str]:
    return page.locator(selector).evaluate_all("found => found.map(e => e.dataset.key)")


def walk(page: Page, root: str) -> tuple[int, int]:
    """How many controls there are within an element, and how many of them Tab reaches."""
    wanted = page.evaluate(
        f"root => {{ window.wanted = ({TABBABLE})(document.querySelector(root)); return wanted.length }}", root
    )
    page.evaluate("window.reached = new Set(); document.activeElement.blur()")
    for _ in range(wanted + 12):
        page.keyboard.press("Tab")
        page.evaluate("window.reached.add(document.activeElement)")
    return wanted, page.evaluate("wanted.filter(e => reached.has(e)).length")


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark"},
        {"viewport": {"width": 320, "height": 640}},
        {"forced_colors": "active"},
    ],
    ids=["light", "dark", "narrow", "forced"],
)
def test_axe_finds_no_serious_fault(visit, drawn_page, options):
    """Neither the page, nor the viewer, nor the list of keys has a fault that axe calls serious or critical."""
    page = visit(drawn_page, **options)
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert not faults(page)
    page.locator(".open").first.click()
    page.locator(".threshold").wait_for()
    assert not faults(page, ".viewer")
    page.keyboard.press("?")
    assert not faults(page, "dialog.keys")


@pytest.mark.parametrize("width", SIZES)
def test_no_sideways_scrolling(visit, drawn_page, width):
    """Neither the page nor the viewer is wider than the screen."""
    page = visit(drawn_page, viewport={"width": width, "height": 700})
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator(".open").first.click()
    assert page.evaluate("document.querySelector('.viewer').scrollWidth") <= width


def test_tab_reaches_every_control(page):
    """Tab goes through all controls of the page, and through all of the viewer."""
    wanted, reached = walk(page, "body")
    assert wanted == reached > 40
    page.locator(".open").first.press("Enter")
    page.locator(".threshold").wait_for()
    wanted, reached = walk(page, ".viewer")
    assert wanted == reached > 15


def test_a_header_sorts_cards_and_table(page, cards):
    """A click on Dice brings the lowest first, another the highest; what has no Dice comes last both times."""
    order = sorted((card for card in cards if card.dice is not None), key=lambda card: card.dice)
    header = page.locator("th[data-sort=dice]")
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert keys(page, ".sortable tbody tr") == [card.key for card in [*order, cards[-1]]]
    assert keys(page) == [card.key for card in order][:12]
    assert page.locator(".controls [name=sort]").input_value().endswith("ascending")
    header.get_by_role("button").press("Space")
    assert header.get_attribute("aria-sort") == "descending"
    assert page.locator("[aria-sort]").count() == 1
    assert keys(page, ".sortable tbody tr") == [card.key for card in [*order[::-1], cards[-1]]]


def test_the_order_of_the_page_comes_back(page, cards):
    """The list of orders sorts too, and Clear brings the page's own order back."""
    page.locator("[name=sort]").select_option(label="Image: highest")
    assert keys(page)[0] == cards[-1].key
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelector('.card').dataset.key === '100'")
    assert keys(page) == [card.key for card in cards[:12]]
    assert page.locator("[aria-sort]").count() == 0


def test_filters_choose_cards_rows_and_dots(page, cards):
    """A filter hides cards and rows, says how many are left, and fades the other dots."""
    status = page.get_by_role("status").first
    assert status.text_content() == "14 images; the first 12 are shown"
    page.locator(".controls [name=split]").select_option("train")
    assert status.text_content() == "7 of 14 images"
    assert (
        keys(page) == keys(page, ".sortable tbody tr:visible") == [card.key for card in cards if card.split == "train"]
    )
    assert page.locator(".strip a.aside").count() == 6
    page.locator(".controls [name=source]").select_option("Hubmap")
    assert status.text_content() == "0 of 14 images"
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelector('.count').textContent.startsWith('14')")
    for name, choice, number in (
        ("flag", "*", 4),
        ("flag", "blank", 1),
        ("organ", drawn_pages.EVIL, 1),
        ("mark", "-", 14),
    ):
        page.locator(f".controls [name={name}]").select_option(choice)
        assert len(keys(page, ".sortable tbody tr:visible")) == number
        page.locator(f".controls [name={name}]").select_option("")


def test_a_range_of_dice_and_a_search(page, cards):
    """The lowest and highest Dice bound what is listed; the search takes a part of an id or name; / goes to it."""
    values = sorted(card.dice for card in cards if card.dice is not None)
    page.get_by_label("Lowest Dice").fill(str(values[3]))
    page.get_by_label("Highest Dice").fill(str(values[-3]))
    assert len(keys(page, ".sortable tbody tr:visible")) == len(values) - 5
    page.get_by_role("button", name="Clear").click()
    page.keyboard.press("/")
    page.keyboard.type("14")
    assert 1 < len(keys(page)) < 5
    assert keys(page) == [card.key for card in cards if "14" in card.key]
    page.get_by_label("Find").fill(" färb")
    assert keys(page) == [cards[8].key]
    assert drawn_pages.EVIL in page.locator(".card:visible .facts").text_content()


def test_more_cards_come_on_demand(page):
    """Show more brings the next cards, and the focus goes to the first of them."""
    assert len(keys(page)) == 12
    page.get_by_role("button", name="Show more").press("Enter")
    assert len(keys(page)) == 14
    assert page.evaluate("document.activeElement.closest('.card').dataset.key") == keys(page)[12]
    assert page.locator(".more").is_hidden()


def test_a_chart_has_one_tab_stop(page):
    """Arrow keys go from dot to dot, and Enter opens the image of a dot."""
    dots = page.locator(".strip a")
    assert page.locator(".strip a[tabindex='0']").count() == 1
    dots.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.dot") == dots.nth(2).get_attribute("data-dot")
    page.keyboard.press("End")
    key = dots.last.get_attribute("data-dot")
    assert page.evaluate("document.activeElement.dataset.dot") == key
    page.keyboard.press("Enter")
    assert page.locator(".viewer").is_visible()
    assert page.url.endswith(f"#image={key}")
    page.keyboard.press("Escape")
    until(page, "document.activeElement.dataset.dot")
    assert page.evaluate("document.activeElement.dataset.dot") == key


def test_marks_are_kept_and_exported(visit, drawn_page, cards):
    """A mark and a note outlive a reload, are seen on the card, filter the list, and are exported as CSV."""
    page = visit(drawn_page, "#image=107")
    page.keyboard.press("b")
    assert page.locator("[data-mark=bad]").get_attribute("aria-pressed") == "true"
    note = '=HYPERLINK("http://x"), "quoted",\nand Ü'
    page.get_by_label("Note").fill(note)
    page.keyboard.press("Escape")
    page.locator("[data-key='114'] .open").click()
    page.locator("[data-mark='look again']").press("Space")
    page.keyboard.press("n")
    page.keyboard.press("g")
    page.keyboard.press("g")  # taken back
    page.keyboard.press("Escape")
    until(page, "!location.hash")
    line = page.locator(".card[data-key='107'] .mark")
    for _ in range(20):  # on a busy machine the browser needs a moment to hand over what it keeps
        page.reload()
        if line.is_visible():
            break
    assert line.text_content() == f"Marked bad: {note}"
    page.locator(".controls [name=mark]").select_option("*")
    assert keys(page) == ["107", "114"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export 2 marks").click()
    assert download.value.suggested_filename == "marks.csv"
    text = download.value.path().read_bytes().decode("utf-8")
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["id", "mark", "note"],
        ["107", "bad", f"'{note}"],
        ["114", "look again", ""],
    ]
    assert page.locator(".not-kept").is_hidden()


def test_a_browser_that_keeps_nothing(visit, drawn_page):
    """Where the browser refuses storage, the page says so, and marks can be exported all the same."""
    page = visit(
        drawn_page, script="Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied') } })"
    )
    assert page.locator(".not-kept").is_visible()
    page.locator(".open").first.click()
    page.keyboard.press("g")
    page.keyboard.press("Escape")
    assert page.locator(".card .mark:visible").text_content() == "Marked good"
    assert page.get_by_role("button", name="Export 1 marks").is_enabled()


def test_text_is_never_markup(page, cards):
    """Ids, organs, notes, flags, cells, chart texts and settings that look like markup are shown as they are."""
    for card in cards[:8]:
        page.evaluate("key => { location.hash = `image=${key}` }", card.key)
        until(page, "key => document.querySelector('#shown').textContent.startsWith(key)", card.key)
    page.keyboard.press("Escape")
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("img[src=x], a[href^=javascript]").count() == 0
    assert page.locator("script:not([type])").count() == 1
    assert page.title() == page.locator("h1").text_content() == drawn_pages.TITLE
    for place in (".verdict", ".numbers .muted", ".strip figcaption", ".strip title", ".facts", ".flag", ".note", "td"):
        assert any(drawn_pages.EVIL in text for text in page.locator(place).all_text_contents()), place
    assert page.locator("pre").text_content() == drawn_pages.EVIL


def test_without_scripts(visit, drawn_page, cards):
    """Without scripts all cards, thumbnails and rows are there, links lead to cards, and no dead control is seen."""
    page = visit(drawn_page, java_script_enabled=False)
    assert page.locator(".card:visible").count() == page.locator(".sortable tbody tr:visible").count() == len(cards)
    assert page.locator(".controls").is_hidden()
    assert page.locator(".more").is_hidden()
    assert page.locator("dialog:visible").count() == 0
    assert page.get_by_text("Scripts are off").is_visible()
    page.locator(".sortable a").last.click()
    assert page.locator("li.card:target").get_attribute("data-key") == cards[-1].key


def test_print(page):
    """Printed, the page has no controls."""
    page.emulate_media(media="print")
    assert page.locator("button:visible:not(th button), select:visible, input:visible").count() == 0
    assert page.locator(".card img").first.is_visible()


def test_thumbnails_are_read_when_they_are_near(page, cards):
    """A thumbnail is not decoded before it is near the screen, and its place has the right shape."""
    first = page.locator(".card img").first
    assert first.get_attribute("loading") == "lazy"
    first.scroll_into_view_if_needed()
    until(page, "document.querySelector('.card img').naturalWidth > 0")
    assert first.evaluate("e => [e.naturalWidth, e.naturalHeight]") == [256, 197]
    assert page.locator(".picture img").count() == 1  # the link to a picture has got its thumbnail


@pytest.mark.parametrize("number", [0, 1])
def test_few_images(visit, cards, tmp_path, number):
    """A page of no image and one of a single image work."""
    page = visit(drawn_pages.write(tmp_path / "few.html", cards[:number]))
    assert page.locator(".card").count() == number
    assert page.locator("section.images").is_visible() == bool(number)
    if number:
        page.locator(".open").click()
        page.keyboard.press("n")
        assert re.search("1 of 1", page.locator(".place").text_content() or "")


def test_a_folder_beside_the_page(visit, cards, tmp_path):
    """With its pictures in a folder the page shows the same, also from a folder whose name has to be quoted."""
    (tmp_path / "a b#c").mkdir()
    path = drawn_pages.write(tmp_path / "a b#c" / "page ü.html", cards[:3], folder=True)
    page = visit(path)
    page.locator(".open").first.click()
    until(page, "document.querySelector('.card img').naturalWidth > 0")
    for name in ("view", "crop", "thumb"):
        href = page.locator(f".viewer image.{name}").get_attribute("href") or ""
        assert page.evaluate(
            "async src => { const i = new Image(); i.src = src; await i.decode(); return i.naturalWidth }", href
        )
    page.locator(".threshold").wait_for()
