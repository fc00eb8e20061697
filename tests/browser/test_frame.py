"""Tests of a page inside a notebook, whose frame has no address of its own."""

from __future__ import annotations

from playwright.sync_api import expect

from hubmap_kit.notebook import Frame


def test_the_viewer_works_in_a_notebook(drawn_page, visit, tmp_path):
    """An image opens by a click, the next one follows, Escape closes it, and the notebook stays where it is."""
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><title>notebook</title>{Frame(drawn_page)._repr_html_()}", encoding="utf-8")
    page = visit(notebook)
    frame = page.frame_locator("iframe")
    frame.locator(".open").first.click()
    title = frame.locator("#shown")
    title.wait_for()
    first = title.text_content() or ""
    frame.get_by_role("button", name="Next").click()
    expect(title).not_to_have_text(first)
    page.keyboard.press("Escape")
    expect(frame.locator("dialog.viewer")).to_be_hidden()
    assert page.url == notebook.as_uri()
