"""Draws the pictures of README and of the pages in ``docs/``: ``nox -s pictures -- [WORK]``.

It makes the default demo, trains the recipe ``fast`` on it, predicts, and writes the three pages. What is already in
the folder WORK (default: dist/pictures) is not made again. Chromium takes the pictures of the pages.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib import rc_context
from playwright.sync_api import sync_playwright

from hubmap_kit import cli
from hubmap_kit.reports.figures import show_predictions
from hubmap_kit.submission import score
from hubmap_kit.tables import read_images

HERE = Path(__file__).parent
LOOKS = {"light": ("#ffffff", "#1c1f23"), "dark": ("#0d1117", "#e9e7e3")}  # ground and ink of GitHub's two looks
WIDTH_PX = 1200  # of the pictures of the pages
HEIGHTS_PX = {"data": 1100, "report": 1570, "review": 1570}
LEAST_PX = 600  # shorter side of the image in README's picture
MARGIN_PX = 8  # above and below README's picture
QUALITY = 80  # of WebP


def main(work: Path) -> None:
    """Make what the pictures show, and draw them."""
    data, patches, run, masks = (work / name for name in ("demo", "patches", "run", "submission.csv"))
    truth = data / "test_truth.csv"
    steps = {
        data: f"demo {data}",
        patches: f"prepare {data} {patches} --input-size 96 --test-size 0 --val-size 5",
        run: f"train {patches} {run} --recipe fast",
        masks: f"predict {data} {run} --out {masks}",
        work / "data.html": f"inspect {data} --out {work / 'data.html'}",
        work / "report.html": f"report {run} --out {work / 'report.html'}",
        work / "review.html": f"review {masks} --data {data} --truth {truth} --out {work / 'review.html'}",
    }
    for made, command in steps.items():
        if not made.exists() and (status := cli.main(command.split())):
            sys.exit(f"hubmap-kit {command} ended with status {status}")
    prediction(data, masks, truth)
    for name in HEIGHTS_PX:
        page(work / f"{name}.html", name)


def prediction(data: Path, masks: Path, truth: Path) -> None:
    """README's first picture: of the demo's HuBMAP images that are large enough, the one with the median Dice."""
    images = [image for image in read_images(data, "test") if image.source == "Hubmap" and min(image.shape) >= LEAST_PX]
    dice = score(masks, truth).set_index("id")["dice"]
    chosen = sorted(images, key=lambda image: dice[image.id])[len(images) // 2]
    texts = [pd.read_csv(table, keep_default_na=False).set_index("id")["rle"].to_dict() for table in (masks, truth)]
    for look, (ground, ink) in LOOKS.items():
        with rc_context({"figure.facecolor": ground, "text.color": ink}):
            picture = show_predictions([chosen], *texts)
        pixels = decode(picture.png)
        inked = np.nonzero((pixels != pixels[0, 0]).any(axis=(1, 2)))[0]
        save(f"prediction-{look}", pixels[max(0, inked[0] - MARGIN_PX) : inked[-1] + MARGIN_PX])


def page(path: Path, name: str) -> None:
    """The top of a page, light and dark."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for look in LOOKS:
            tab = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHTS_PX[name]}, color_scheme=look)
            tab.goto(path.resolve().as_uri())
            tab.wait_for_load_state("load")
            save(f"{name}-{look}", decode(tab.screenshot()))
            tab.close()
        browser.close()


def decode(png: bytes) -> np.ndarray:
    """The pixels of a PNG file, ``(H, W, 3)`` uint8 in OpenCV's order BGR."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


def save(name: str, pixels: np.ndarray) -> None:
    """Write a picture beside this file as WebP."""
    cv2.imwrite(str(HERE / f"{name}.webp"), pixels, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dist/pictures")
    folder.mkdir(parents=True, exist_ok=True)
    main(folder)
