"""Tests of the viewer in a browser: layers, threshold, size and place, next image, links."""

from __future__ import annotations

import re
from dataclasses import replace

import cv2
import drawn_pages
import numpy as np
import pytest
from drawn_pages import until
from playwright.sync_api import Page

from hubmap_kit import rle
from hubmap_kit.reports.page import Layer
from hubmap_kit.reports.pictures import draw

# The mask of an outline: evenodd, at a size.
FILL = """([path, width, height, full]) => {
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.scale(width / full[1], height / full[0]);
  context.fill(new Path2D(path), "evenodd");
  const { data } = context.getImageData(0, 0, width, height);
  return Array.from({ length: width * height }, (_, n) => +(data[4 * n + 3] > 127)).join("");
}"""


def box(page: Page) -> list[float]:
    """Corner and size of what is seen, in image px."""
    return [float(part) for part in (page.locator(".picture-of").get_attribute("viewBox") or "").split()]


def path_of(page: Page, layer: str = "prediction") -> str:
    return page.locator(f".outlines .outline[data-layer={layer}]").get_attribute("d") or ""


def filled(page: Page, path: str, width: int, height: int, full: tuple[int, int]) -> np.ndarray:
    """The mask of an outline of an image of shape `full`, at a size."""
    drawn = page.evaluate(FILL, [path, width, height, full])
    return np.frombuffer(drawn.encode(), np.uint8).reshape(height, width) - ord("0")


def title(page: Page) -> str:
    return page.locator("#shown").text_content() or ""


@pytest.fixture
def first(page: Page) -> Page:
    """The page of drawn cards with its first image open, which is larger than the part in native pixels."""
    page.locator(".open").first.press("Enter")
    page.locator(".threshold").wait_for()
    return page


def test_opens_and_closes(first):
    """The viewer opens by Enter on a card with the focus on the picture, names the image, and Escape goes back."""
    assert re.fullmatch(r"100 · kidney · HPA · train · Dice 0\.\d{3}", title(first))
    assert first.evaluate("document.activeElement.matches('.picture-of')")
    assert first.url.endswith("#image=100")
    for name in ("thumb", "view", "crop"):
        assert (first.locator(f".viewer image.{name}").get_attribute("href") or "").startswith(("data:", "blob:"))
    first.keyboard.press("Escape")
    until(first, "!location.hash")
    assert first.locator(".viewer").is_hidden()
    assert first.evaluate("document.activeElement.closest('.card').dataset.key") == "100"


def test_outlines_are_those_of_the_masks(first, cards):
    """Truth and prediction are drawn where the masks are, to 1 px of their borders."""
    subject = cards[0].drawn.subject
    height, width = shape = subject.image.shape
    for layer, text in subject.masks.items():
        drawn = filled(first, path_of(first, layer), width, height, shape)
        mask = rle.decode(text, shape)
        assert (drawn != mask).mean() < 0.01 < mask.mean()


def test_layers_are_switched_by_key_and_button(first):
    """1 and 2 switch outlines, m, x and a what is missed, extra and agreed; so do Space and Enter on their buttons."""
    truth = first.locator(".outlines .outline[data-layer=truth]")
    assert truth.is_visible()
    first.keyboard.press("1")
    assert truth.is_hidden()
    assert first.locator("button[data-layer=truth]").get_attribute("aria-pressed") == "false"
    first.locator("button[data-layer=truth]").press("Space")
    assert truth.is_visible()
    for key, name in zip("mxa", ("missed", "extra", "agreed"), strict=True):
        area, button = first.locator(f".area[data-area={name}]"), first.locator(f"button[data-area={name}]")
        assert not area.is_visible()
        first.keyboard.press(key)
        assert area.is_visible()
        assert button.get_attribute("aria-pressed") == "true"
        button.press("Enter")
        assert not area.is_visible()
    # Choices outlive the step to the next image.
    first.keyboard.press("m")
    first.keyboard.press("n")
    assert first.locator(".area[data-area=missed]").is_visible()


def test_areas_are_the_differences(first, cards):
    """Only what is missed is hatched as missed, and so on: a screenshot changes there and nowhere else."""
    subject = cards[0].drawn.subject
    shape = subject.image.shape
    truth, prediction = (rle.decode(subject.masks[layer], shape) > 0 for layer in ("truth", "prediction"))
    first.keyboard.press("1")
    first.keyboard.press("2")
    picture = first.locator(".picture-of")
    scale = box(first)[2] / picture.evaluate("e => e.clientWidth")
    left, top = (-offset / scale for offset in box(first)[:2])

    def seen() -> np.ndarray:
        shot = cv2.imdecode(np.frombuffer(picture.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        assert shot is not None
        move = np.array([[1 / scale, 0, left], [0, 1 / scale, top]])
        return cv2.warpAffine(shot, move, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    before = seen()
    while (seen() != before).any():  # pictures are still being decoded
        before = seen()
    kernel = np.ones((7, 7), np.uint8)
    for key, wanted in (("m", truth & ~prediction), ("x", prediction & ~truth), ("a", truth & prediction)):
        first.keyboard.press(key)
        changed = (abs(seen().astype(int) - before) > 12).any(axis=-1)
        first.keyboard.press(key)
        inside = cv2.erode(wanted.astype(np.uint8), kernel) > 0
        outside = cv2.dilate(wanted.astype(np.uint8), kernel) == 0
        # Buttons and the scale bar lie over the picture, but do not change.
        assert changed[outside].mean() < 0.002
        assert changed[inside].mean() > 0.1


def test_the_threshold_moves_outline_and_dice(first, cards):
    """The slider draws the contour of the map at its threshold, says the Dice, and comes back to the chosen one."""
    drawn = cards[0].drawn
    chosen = path_of(first)
    assert first.locator(".threshold output").text_content() == f"{drawn_pages.THRESHOLD:.3f}"
    small = cv2.imread(str(drawn.map("prediction")), cv2.IMREAD_GRAYSCALE)
    assert small is not None
    height, width = small.shape
    full = drawn.shape
    truth = cv2.resize(
        rle.decode(drawn.subject.masks["truth"], full) * 255, (width, height), interpolation=cv2.INTER_AREA
    )
    first.keyboard.press("t")
    seen = set()
    for steps in (12, 12, -60):
        for _ in range(abs(steps)):
            first.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        level = float(first.locator(".threshold output").text_content() or "")
        mask = small > 255 * level
        assert (filled(first, path_of(first), width, height, full) != mask).mean() < 0.02
        assert 0.02 < mask.mean() < 0.98
        about = float(re.findall(r"Dice about (\d\.\d+)", first.locator(".about").text_content() or "")[0])
        dice = 2 * (mask & (truth > 127)).sum() / (mask.sum() + (truth > 127).sum())
        assert about == pytest.approx(dice, abs=0.01)
        seen.add(path_of(first))
    assert len(seen) == 3
    assert chosen not in seen
    # The areas follow.
    assert first.locator("#in-compared path").get_attribute("d") == path_of(first)
    first.get_by_role("button", name="Back to 0.45").press("Enter")
    assert path_of(first) == chosen
    assert first.locator("#threshold").input_value() == str(drawn_pages.THRESHOLD)
    assert float(re.findall(r"\d\.\d+", first.locator(".about").text_content() or "")[0]) == pytest.approx(
        cards[0].dice, abs=0.02
    )


def test_size_and_place(first):
    """Plus, minus and 0 change the size; arrows and drags move what is enlarged; e shows native pixels."""
    whole = box(first)
    assert whole[2] >= 911
    assert whole[3] >= 701
    first.keyboard.press("+")
    first.keyboard.press("+")
    assert box(first)[2] == pytest.approx(whole[2] / 2.25)
    before = box(first)
    first.keyboard.press("ArrowRight")
    first.keyboard.press("ArrowDown")
    assert box(first)[0] > before[0]
    assert box(first)[1] > before[1]
    assert "#image=100" in first.url
    place = first.locator(".picture-of").bounding_box()
    assert place
    before, x, y = box(first), place["x"] + 300, place["y"] + 300
    first.mouse.move(x, y)
    first.mouse.down()
    first.mouse.move(x + 100, y + 50)
    first.mouse.up()
    scale = before[2] / place["width"]
    assert box(first)[:2] == pytest.approx([before[0] - 100 * scale, before[1] - 50 * scale], abs=0.1)
    first.keyboard.press("-")
    first.keyboard.press("0")
    assert box(first) == pytest.approx(whole)
    assert "coarse" not in (first.locator(".picture-of").get_attribute("class") or "") or whole[2] < place["width"]


def test_the_largest_error_in_native_pixels(visit, drawn_page, cards):
    """The key e shows one image px as one px of the screen, centred on the part that was drawn in native pixels."""
    page = visit(drawn_page, "#image=100", viewport={"width": 800, "height": 600})
    page.locator(".threshold").wait_for()
    place = page.locator(".picture-of").bounding_box()
    assert place
    page.get_by_role("button", name="Largest error").press("Enter")
    x, y, width, height = box(page)
    assert (width, height) == pytest.approx((place["width"], place["height"]))
    top, left, tall, wide = cards[0].drawn.crop
    assert (x + width / 2, y + height / 2) == pytest.approx((left + wide / 2, top + tall / 2), abs=1)
    for _ in range(20):
        page.keyboard.press("+")
    assert box(page)[2] == pytest.approx(place["width"] / 16)
    assert page.locator(".picture-of image.crop").evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"


def test_the_wheel_keeps_the_point_under_it(first):
    """The point of the image under the pointer stays there while the wheel enlarges it."""
    place = first.locator(".picture-of").bounding_box()
    assert place

    def under() -> tuple[float, float]:
        x, y, width, height = box(first)
        return x + 0.5 * width, y + 0.6 * height

    before = under()
    first.mouse.move(place["x"] + 0.5 * place["width"], place["y"] + 0.6 * place["height"])
    first.mouse.wheel(0, -500)
    until(first, "document.querySelector('.picture-of').viewBox.baseVal.width < 700")
    assert under() == pytest.approx(before, abs=1)


def test_two_fingers(visit, drawn_page):
    """Two fingers that move apart enlarge the image."""
    page = visit(drawn_page, "#image=100", has_touch=True)
    page.locator(".threshold").wait_for()
    before = box(page)
    session = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 50), ("touchMove", 75), ("touchMove", 100), ("touchEnd", None)):
        points = [] if apart is None else [{"x": 400 - apart, "y": 400, "id": 0}, {"x": 400 + apart, "y": 400, "id": 1}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    until(page, "before => document.querySelector('.picture-of').viewBox.baseVal.width < before", before[2] * 0.8)
    assert box(page)[2] == pytest.approx(before[2] / 2, rel=0.05)


def test_the_scale_bar_is_right(first):
    """The bar's length on the screen is what it says, at two sizes."""
    for _ in range(2):
        bar = first.locator(".scale-bar span").bounding_box()
        place = first.locator(".picture-of").bounding_box()
        assert bar
        assert place
        length_um = float((first.locator(".scale-bar b").text_content() or "").removesuffix(" µm"))
        assert bar["width"] * box(first)[2] / place["width"] * 0.5 == pytest.approx(length_um, rel=0.02)
        for _ in range(4):
            first.keyboard.press("+")


def test_next_and_previous_keep_to_the_list(page):
    """n, p and the arrows go through the listed images in their order, and round its ends."""
    page.locator(".controls [name=split]").select_option("validation")
    page.locator("th[data-sort=id] button").click()
    page.locator("th[data-sort=id] button").click()
    order = page.locator(".sortable tbody tr:visible").evaluate_all("rows => rows.map(e => e.dataset.key)")
    assert order == sorted(order, reverse=True)
    page.locator(".card:visible .open").first.click()
    seen = [title(page).split()[0]]
    for key in ("n", "ArrowRight", "p", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
        seen.append(title(page).split()[0])
    assert seen == [order[0], order[1], order[2], order[1], order[0], order[-1]]
    assert page.locator(".viewer .place").text_content() == f"{len(order)} of {len(order)}"
    assert page.url.endswith(f"#image={order[-1]}")


def test_links(visit, drawn_page):
    """A link opens its image, a change of the link another one, Back closes it; an unknown one opens nothing."""
    page = visit(drawn_page, "#image=114")
    assert title(page).startswith("114")
    page.evaluate("location.hash = 'image=121'")
    until(page, "document.querySelector('#shown').textContent.startsWith('121')")
    page.locator(".viewer [name=close]").click()
    until(page, "!location.hash")
    page.locator(".sortable a").first.click()
    assert page.locator(".viewer").is_visible()
    page.go_back()
    page.locator(".viewer").wait_for(state="hidden")
    for unknown in ("constructor", "%", "999"):
        page.evaluate("link => { location.hash = link }", f"image={unknown}")
        page.wait_for_timeout(50)
        assert page.locator(".viewer").is_hidden()


def test_a_link_is_copied(visit, drawn_page):
    """Copy link puts the address of this image on the clipboard."""
    page = visit(drawn_page, "#image=114", permissions=["clipboard-read", "clipboard-write"])
    page.locator(".viewer [name=link]").press("Enter")
    page.get_by_role("button", name="Link copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == f"{drawn_page.as_uri()}#image=114"


def test_an_image_that_cannot_be_read(page, cards):
    """The viewer says why there is no picture, and goes on to the next image."""
    page.evaluate("key => { location.hash = `image=${key}` }", cards[-1].key)
    page.locator(".viewer .empty").wait_for()
    assert f"{cards[-1].key.removesuffix('x')}" in title(page)
    assert "13.tiff" in (page.locator(".viewer .empty").text_content() or "")
    assert page.locator(".threshold, .zoom, .scale-bar").locator("visible=true").count() == 0
    for key in ("e", "+", "1", "m", "t", "0", "n"):
        page.keyboard.press(key)
    assert title(page).startswith("100")


def test_facts_and_related_images(page):
    """The viewer shows the row of the table, and links to related images."""
    page.evaluate("location.hash = 'image=128'")
    page.locator(".viewer .related a").wait_for()
    facts = page.locator(".about-image dl").text_content() or ""
    assert "Size147 × 181 px" in facts
    assert "Pixel size0.5 µm" in facts
    assert "Area, %2.00" in facts
    page.locator(".viewer .related a").press("Enter")
    assert title(page).startswith("100")


def test_which_layers_are_compared(visit, cards, tmp_path):
    """With three layers the reference and the compared one can be chosen, and the areas follow."""
    subject = cards[0].drawn.subject
    masks = dict(subject.masks) | {"other": "1 2000"}
    (drawn,) = draw([replace(subject, masks=masks)], tmp_path / "pictures")
    layers = [*drawn_pages.LAYERS, Layer("other", "another run")]
    page = visit(
        drawn_pages.write(tmp_path / "three.html", [replace(cards[0], drawn=drawn)], layers=layers), "#image=100"
    )
    page.locator(".threshold").wait_for()
    page.keyboard.press("m")
    page.get_by_label("Compare").select_option("other")
    assert page.locator("#in-compared path").get_attribute("d") == path_of(page, "other")
    assert page.locator(".threshold").is_hidden()
    page.get_by_label("Compare").select_option("prediction")
    assert page.locator(".threshold").is_visible()


def test_keys_are_listed(page):
    """? lists the keys, on the page and in the viewer, and Escape closes the list alone."""
    page.keyboard.press("?")
    assert page.locator("dialog.keys").is_visible()
    page.keyboard.press("Escape")
    page.locator(".open").first.click()
    page.keyboard.press("?")
    assert page.locator("dialog.keys").is_visible()
    page.keyboard.press("n")  # not meant for the viewer
    page.keyboard.press("Escape")
    assert page.locator("dialog.keys").is_hidden()
    assert title(page).startswith("100")


@pytest.mark.parametrize("names", [(), ("truth",)], ids=["none", "one"])
def test_fewer_layers_than_can_be_compared(visit, cards, tmp_path, names):
    """An image with one mask, or none, is shown without areas and threshold."""
    subject = replace(cards[0].drawn.subject, masks=dict.fromkeys(names, "1 2000"), maps={})
    (drawn,) = draw([subject], tmp_path / "pictures")
    page = visit(drawn_pages.write(tmp_path / "page.html", [replace(cards[0], drawn=drawn)]), "#image=100")
    page.locator("image.crop[href]").wait_for(state="attached")
    for key in "12mxate+0":
        page.keyboard.press(key)
    assert page.locator(".layers").is_visible() == bool(names)
    assert page.locator(".areas").is_hidden()
    assert page.locator(".threshold").is_hidden()
    assert page.locator(".area:visible").count() == 0
