"""The catalogue of bad input: what is wrong, the command that meets it, and what it answers.

To add a case, add a line to `CASES`. Its command runs in a folder with these names, which `make` makes:

- the folder itself: a clone with one commit, whose rehearsal has passed; its ``hubmap_kit`` is empty;
- ``D``: a competition folder of six training images and three test images;
- ``P``: its patch store; ``R``: a run folder whose weights are an empty file;
- ``S.csv``: a submission; ``T.csv``: the truth; ``I`` and ``M``: an image to import, and its mask;
- ``home``: the home of who runs it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from hubmap_kit.cli import main

Fault = Callable[[], object]
PROGRESS = r"[\w ]+: \d+/\d+"


def content(pattern: str, data: bytes | str) -> Fault:
    """Replace the content of the first file of a pattern, or write a new one."""

    def do() -> None:
        path = first(pattern) if "*" in pattern else Path(pattern)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        path.chmod(0o600)  # kaggle.json, which others must not read

    return do


def rewrite(file: str, old: str, new: str) -> Fault:
    """Replace the first match of a pattern in a text file."""

    def do() -> None:
        before = Path(file).read_text()
        after = re.sub(old, new, before, count=1)
        assert after != before, f"{old} is not in {file}"
        Path(file).write_text(after)

    return do


def encode(file: str, encoding: str, separator: str = ",") -> Fault:
    """Save a table as a spreadsheet does."""
    return lambda: Path(file).write_bytes(Path(file).read_text().replace(",", separator).encode(encoding))


def cut(pattern: str, share: float = 0.5) -> Fault:
    """Cut the first file of a pattern."""
    return lambda: os.truncate(first(pattern), int(first(pattern).stat().st_size * share))


def remove(pattern: str) -> Fault:
    """Remove the first file of a pattern."""
    return lambda: first(pattern).unlink()


def first(pattern: str) -> Path:
    return min(Path().glob(pattern))


def resize(pattern: str) -> Fault:
    """Replace an image by one of another size."""
    return lambda: tifffile.imwrite(first(pattern), np.zeros((9, 9, 3), np.uint8), photometric="rgb")


def height(file: str, value: str) -> Fault:
    """Give the first image of a table this height."""
    return rewrite(file, r"(\n\d+,\w+,\w+),\d+", rf"\g<1>,{value}")


def pixel_size(file: str, value: str) -> Fault:
    """Give the first image of a table this pixel size."""
    return rewrite(file, r"(\n\d+,\w+,\w+,\d+,\d+),[\d.]+", rf"\g<1>,{value}")


def mask(text: str) -> Fault:
    """Give the first image of the submission this RLE."""

    def do() -> None:
        table = pd.read_csv("S.csv", dtype=str)
        table.loc[0, "rle"] = text
        table.to_csv("S.csv", index=False)

    return do


def png(height_px: int, width_px: int) -> bytes:
    """A white picture."""
    stream = io.BytesIO()
    Image.fromarray(np.full((height_px, width_px), 255, np.uint8)).save(stream, "png")
    return stream.getvalue()


def several(*faults: Fault) -> Fault:
    return lambda: [fault() for fault in faults]


def nothing() -> None:
    """Nothing is wrong with the files: the flags are."""


@dataclass(frozen=True)
class Case:
    """Bad input.

    Attributes:
        kind: What is wrong, in general.
        what: What is wrong.
        fault: Makes it.
        command: The command line.
        status: The command's exit status.
        said: Part of its first error, or of its first message if there is no error.
    """

    kind: str
    what: str
    fault: Fault
    command: str
    status: int
    said: str


VALIDATE, SCORE = "validate S.csv --data D", "score S.csv --truth T.csv"
INSPECT, REVIEW, REPORT = (
    "inspect D --out page.html",
    "review S.csv --data D --out page.html",
    "report R --out page.html",
)
PREPARE, TRAIN, PREDICT = (
    "prepare D new --input-size 64",
    "train P new --recipe fast --steps-per-epoch 1",
    "predict D R --out out.csv",
)
EXPORT, IMPORT = "export S.csv --data D --out E", "import I new --masks M --organ liver --pixel-size 0.5"
DATA = "data new"
PSEUDO, ABLATION, REHEARSE = (
    "pseudo D P new R",
    "ablation D new --folds 2 --test-size 0 --input-size 64",
    "rehearse new",
)
PUSH, SUBMIT, PLAN, BUNDLE = "push --dry-run", "submit --dry-run", "plan kernel", "bundle new"
OF_TRAIN, OF_INFER = (f"kernels/{name}/kernel-metadata.json" for name in ("train", "infer"))
VERDICT = "rehearsal/verdict.json"

# fmt: off
# kind, what is wrong, how, command, exit status, part of the first line on stderr
CASES = [Case(*line) for line in [
    ("no fault", "nothing is wrong", nothing, VALIDATE, 0, ""),
    ("tables", "test.csv is missing", remove("D/test.csv"), VALIDATE, 1, "there is no such file"),
    ("tables", "test.csv is missing", remove("D/test.csv"), PREDICT, 1, "there is no such file"),
    ("tables", "train.csv is missing", remove("D/train.csv"), PREPARE, 1, "there is no such file"),
    ("tables", "train.csv is missing, and its images are there", remove("D/train.csv"), INSPECT, 1, "train_images holds 6 images"),
    ("tables", "test.csv is empty", content("D/test.csv", b""), VALIDATE, 1, "the file is empty"),
    ("tables", "test.csv is a header alone", rewrite("D/test.csv", r"\n[\s\S]*", "\n"), INSPECT, 1, ""),
    ("tables", "train.csv is a picture", content("D/train.csv", bytes(range(256))), PREPARE, 1, "is not UTF-8 text"),
    ("tables", "train.csv is cut in a row", cut("D/train.csv", 0.995), PREPARE, 1, "has 8 fields, the header 10"),
    ("tables", "an id twice", rewrite("D/train.csv", r"\n(.*)\n", r"\n\1\n\1\n"), PREPARE, 1, "is already in row 2"),
    ("tables", "an id that is no number", rewrite("D/test.csv", r"\n\d+", "\nabc"), VALIDATE, 1, "is not a whole number"),
    ("tables", "a column is missing", rewrite("D/test.csv", "organ", "tissue"), VALIDATE, 1, "column 'organ' is missing"),
    ("tables", "saved by a spreadsheet: BOM, semicolons", encode("D/test.csv", "utf-8-sig", ";"), VALIDATE, 1, "has semicolons between its columns"),
    ("tables", "saved as UTF-16", encode("D/test.csv", "utf-16"), VALIDATE, 1, "is not UTF-8 text"),
    ("tables", "a height of 0", height("D/test.csv", "0"), VALIDATE, 1, "img_height is '0'"),
    ("tables", "a height of a billion", height("D/test.csv", "1000000000"), VALIDATE, 1, "img_height is '1000000000'"),
    ("tables", "a height with decimals", height("D/test.csv", "128.5"), VALIDATE, 1, "img_height is '128.5'"),
    ("tables", "a pixel size of 0", pixel_size("D/train.csv", "0"), PREPARE, 1, "pixel_size is '0'"),
    ("tables", "a pixel size in mm", pixel_size("D/train.csv", "0.0004"), PREPARE, 1, "pixel_size is '0.0004'"),
    ("tables", "a pixel size in nm", pixel_size("D/test.csv", "400"), INSPECT, 1, "pixel_size is '400'"),
    ("tables", "a pixel size that is text", pixel_size("D/test.csv", "fine"), INSPECT, 1, "pixel_size is 'fine'"),
    ("tables", "a truth without sizes", rewrite("T.csv", "img_height", "height"), SCORE, 1, "column 'img_height' is missing"),
    ("tables", "groups that lack ids", content("G.csv", "id,group\n1,1\n"), PREPARE + " --groups G.csv", 1, "has no row for id"),
    ("tables", "test.csv is missing", remove("D/test.csv"), PSEUDO, 1, "there is no such file"),
    ("tables", "test.csv is empty", content("D/test.csv", b""), PSEUDO, 1, "the file is empty"),
    ("tables", "train.csv is missing", remove("D/train.csv"), ABLATION, 1, "there is no such file"),
    ("tables", "a pixel size of 0", pixel_size("D/train.csv", "0"), ABLATION, 1, "pixel_size is '0'"),
    ("tables", "test.csv is missing", remove("D/test.csv"), REHEARSE + " --data D", 1, "there is no such file"),
    ("tables", "train.csv is missing", remove("D/train.csv"), REHEARSE + " --data D", 1, "there is no such file"),
    ("images", "a file is missing", remove("D/train_images/*"), PREPARE, 1, "does not exist"),
    ("images", "a file is missing", remove("D/test_images/*"), INSPECT, 1, "does not exist"),
    ("images", "a file is empty", content("D/train_images/*", b""), PREPARE, 1, "cannot be read as TIFF"),
    ("images", "a file is cut", cut("D/train_images/*"), PREPARE, 1, "ends at byte"),
    ("images", "a file is cut", cut("D/train_images/*"), INSPECT, 1, "ends at byte"),
    ("images", "a file is cut", cut("D/test_images/*"), REVIEW, 0, ""),
    ("images", "a file is cut", cut("D/test_images/*"), EXPORT, 1, "ends at byte"),
    ("images", "a file is a web page", content("D/train_images/*", "<!doctype html>"), PREPARE, 1, "cannot be read as TIFF"),
    ("images", "a file has another size than its row", resize("D/train_images/*"), PREPARE, 1, "is 9 x 9 px"),
    ("images", "a file is missing", remove("D/train_images/*"), ABLATION, 1, "does not exist"),
    ("images", "a file is cut", cut("D/train_images/*"), ABLATION, 1, "ends at byte"),
    ("masks", "an odd number of numbers", rewrite("D/train.csv", r",(\d+ \d+) \d+ ", r",\1 "), ABLATION, 1, "an odd count of numbers"),
    ("masks", "an odd number of numbers", rewrite("D/train.csv", r",(\d+ \d+) \d+ ", r",\1 "), PREPARE, 1, "an odd count of numbers"),
    ("masks", "an odd number of numbers", mask("1 2 3"), VALIDATE, 1, "an odd count of numbers"),
    ("masks", "an odd number of numbers", mask("1 2 3"), SCORE, 1, "an odd count of numbers"),
    ("masks", "an odd number of numbers", mask("1 2 3"), EXPORT, 1, "an odd count of numbers"),
    ("masks", "an odd number of numbers", mask("1 2 3"), REVIEW, 1, "an odd count of numbers"),
    ("masks", "outside of the image", mask("9999999 5"), VALIDATE, 1, "leaves the mask"),
    ("masks", "starts with 0", mask("0 5"), VALIDATE, 1, "starts at 0"),
    ("masks", "a length of 0", mask("5 0"), VALIDATE, 1, "has length 0"),
    ("masks", "runs that overlap", mask("1 5 3 5"), VALIDATE, 1, "overlaps run 1"),
    ("masks", "runs that are not sorted", mask("50 5 3 5"), VALIDATE, 1, "starts before run 1"),
    ("masks", "a sign", mask("1 +5"), VALIDATE, 1, "has a sign"),
    ("masks", "decimals", mask("1.0 5.0"), VALIDATE, 1, "is not a whole number"),
    ("masks", "larger than any integer", mask("1 99999999999999999999999"), VALIDATE, 1, "leaves the mask"),
    ("masks", "the text nan", mask("nan"), VALIDATE, 1, "is not a whole number"),
    ("masks", "empty: a warning", mask(""), VALIDATE, 0, "has an empty mask"),
    ("masks", "Arabic digits", mask("١ ٢"), VALIDATE, 1, "is not a whole number"),
    ("masks", "cut by a spreadsheet at 32,767 characters", mask(("1 1 " * 9000)[:32767]), VALIDATE, 1, ""),
    ("masks", "the submission lacks an image", rewrite("S.csv", r"\n[^\n]*\n", "\n"), VALIDATE, 1, "is missing"),
    ("masks", "the submission has a further column", rewrite("S.csv", "id,rle", "id,rle,organ"), VALIDATE, 1, "has 2 fields, the header 3"),
    ("masks", "an id of another competition", rewrite("S.csv", r"\n\d+", "\n7"), VALIDATE, 1, "is not in the test set"),
    ("run folders", "config.json is missing", remove("R/config.json"), REPORT, 1, "R is not a run folder"),
    ("run folders", "config.json is missing", remove("R/config.json"), PREDICT, 1, "R is not a run folder"),
    ("run folders", "config.json is cut", cut("R/config.json"), REPORT, 1, "is not valid JSON"),
    ("run folders", "config.json is a list", content("R/config.json", "[]"), PREDICT, 1, "it is no JSON object"),
    ("run folders", "config.json is of a newer kit", rewrite("R/config.json", r'"format": \d+', '"format": 99'), PREDICT, 1, "format 99"),
    ("run folders", "a setting of another type", rewrite("R/config.json", r'"epochs": \d+', '"epochs": "many"'), REPORT, 1, "epochs is 'many'"),
    ("run folders", "the weights are missing", remove("R/model.weights.h5"), PREDICT, 1, "R is not a run folder"),
    ("run folders", "the weights are empty", nothing, PREDICT, 1, "cannot be loaded"),
    ("run folders", "the weights are empty", nothing, PSEUDO, 1, "cannot be loaded"),
    ("run folders", "config.json is cut", cut("R/config.json"), PSEUDO, 1, "is not valid JSON"),
    ("run folders", "config.json is cut", cut("R/config.json"), REHEARSE + " --run R", 1, "is not valid JSON"),
    ("run folders", "a folder that is no run", nothing, "pseudo D P new D", 1, "D is not a run folder"),
    ("run folders", "a folder that is no run", nothing, "report D --out page.html", 1, "D is not a run folder"),
    ("run folders", "a folder that is no run", nothing, REHEARSE + " --run D", 1, "D is not a run folder"),
    ("run folders", "a folder that is no run", nothing, "push weights --run D --dry-run", 1, "D is not a run folder"),
    ("run folders", "the weights are missing", remove("R/model.weights.h5"), "push weights --run R --dry-run", 1, "R is not a run folder"),
    ("run folders", "ablation.json is cut", several(content("A/ablation.json", "{"), content("A/scores/base-seed0.csv", "")), "ablation D A --folds 2", 1, "is not valid JSON"),
    ("run folders", "ablation.json is of other settings", several(content("A/ablation.json", "{}"), content("A/scores/base-seed0.csv", "")), "ablation D A --folds 2", 1, "was begun with other"),
    ("patch stores", "store.json is missing", remove("P/store.json"), PSEUDO, 1, "P is not a finished patch"),
    ("patch stores", "a folder that is no store", nothing, "pseudo D D new R", 1, "D is not a finished patch"),
    ("patch stores", "store.json is missing", remove("P/store.json"), TRAIN, 1, "P is not a finished patch"),
    ("patch stores", "store.json is cut", cut("P/store.json"), TRAIN, 1, "is not valid JSON"),
    ("patch stores", "store.json is of a newer kit", rewrite("P/store.json", r'"format": \d+', '"format": 99'), TRAIN, 1, "format 99"),
    ("patch stores", "images.csv is missing", remove("P/images.csv"), TRAIN, 1, "is missing"),
    ("patch stores", "images.csv is cut", cut("P/images.csv"), TRAIN, 1, "images.csv, row"),
    ("patch stores", "patches.csv is no table", content("P/patches.csv", b"\0\1\2"), TRAIN, 1, "has no column"),
    ("patch stores", "a folder that is no store", nothing, "train D new --recipe fast", 1, "D is not a finished patch"),
    ("flags", "an unknown command", nothing, "trian P new", 2, "trian"),
    ("flags", "an unknown flag", nothing, "validate S.csv --data D --quick", 2, "--quick"),
    ("flags", "a flag is missing", nothing, "validate S.csv", 2, "--data"),
    ("flags", "a number below its least", nothing, "demo new --size 0", 2, "--size"),
    ("flags", "a number above its most", nothing, "demo new --train 1000000000", 2, "--train"),
    ("flags", "text instead of a number", nothing, "prepare D new --patch-size large", 2, "--patch-size"),
    ("flags", "not a number", nothing, "train P new --learning-rate nan", 2, "--learning-rate"),
    ("flags", "an unknown choice", nothing, "train P new --recipe best", 2, "--recipe"),
    ("flags", "a share above 1", nothing, "train P new --overlap 2", 2, "--overlap"),
    ("flags", "a fold that the store has not", nothing, "train P new --fold 7 --recipe fast", 1, "P has no fold 7"),
    ("flags", "a share above 1", nothing, PSEUDO + " --overlap 2", 2, "--overlap"),
    ("flags", "a folder is missing", nothing, "pseudo D P new", 2, "RUN"),
    ("flags", "an ablation without folds", nothing, "ablation D new", 2, "give --folds 2 or more"),
    ("flags", "a fold that there is not", nothing, ABLATION + " --fold 7", 2, "give --folds 8 or more"),
    ("flags", "more folds than images", nothing, "ablation D new --folds 99", 1, "99 folds of 5 images are too many"),
    ("flags", "a row that there is not", nothing, ABLATION + " --rows best", 2, "there is no row 'best'"),
    ("flags", "a number below its least", nothing, ABLATION + " --seeds 0", 2, "--seeds"),
    ("flags", "settings that are no JSON", nothing, REHEARSE + " --settings {", 2, "--settings"),
    ("flags", "a kernel that there is not", nothing, REHEARSE + ' --settings {"score":{}}', 1, "there is no score"),
    ("flags", "a setting that there is not", nothing, REHEARSE + ' --settings {"train":{"EPOCH":2}}', 2, "--settings names EPOCH"),
    ("flags", "a setting that there is not", nothing, "rehearse --smoke --settings " + '{"train":{"EPOCH":2}}', 2, "--settings names EPOCH"),
    ("flags", "a setting of another type", nothing, REHEARSE + ' --settings {"train":{"EPOCHS":"many"}}', 2, "EPOCHS is 'many'"),
    ("flags", "a setting out of bounds", nothing, REHEARSE + ' --settings {"infer":{"OVERLAP":2}}', 2, "overlap is 2"),
    ("flags", "a number below its least", nothing, REHEARSE + " --memory-limit 0", 2, "--memory-limit"),
    ("flags", "not a number", nothing, REHEARSE + " --time-limit nan", 2, "--time-limit"),
    ("flags", "a part that there is not", nothing, "push everything", 2, "there is no part everything"),
    ("flags", "a setting that there is not", nothing, PUSH + " --set EPOCH=2", 2, "did you mean EPOCHS?"),
    ("flags", "a setting of another type", nothing, PUSH + " --set EPOCHS=many", 2, "EPOCHS is 'many'"),
    ("flags", "runs for a part that is not pushed", nothing, "push train --run R --dry-run", 2, "--run"),
    ("flags", "a number below its least", nothing, "push --poll 0", 2, "--poll"),
    ("flags", "text instead of a number", nothing, "submit --version one", 2, "--version"),
    ("flags", "an unknown choice", nothing, "plan best", 2, "there is no 'best'"),
    ("flags", "an unknown encoder", nothing, "plan cpu --encoders best", 2, "there is no encoder best"),
    ("flags", "all folds, of none", nothing, "train P new --recipe fast --all-folds", 1, "P has no folds"),
    ("flags", "a flag of a recipe for the kernels", nothing, PLAN + " --epochs 2", 2, "--set NAME=VALUE"),
    ("flags", "a setting out of bounds", nothing, PLAN + " --set EPOCHS=-2", 2, "epochs is -2"),
    ("flags", "a file that there is not", nothing, "plan cpu --pace nowhere.json", 2, "there is no such file"),
    ("flags", "a file that is cut", content("pace.json", "{"), "plan cpu --pace pace.json", 1, "is not valid JSON"),
    ("flags", "an unknown shell", nothing, "completion powershell", 2, "there is no 'powershell'"),
    ("flags", "an argument too many", nothing, "doctor now", 2, "one argument too many"),
    ("targets", "arguments swapped", nothing, "predict R D --out out.csv", 1, "there is no such file"),
    ("targets", "a folder that does not exist", nothing, "inspect nowhere --out page.html", 1, "there is no such folder"),
    ("targets", "an output that is an input", nothing, SCORE + " --per-image T.csv", 2, "--per-image"),
    ("targets", "an output in the data", nothing, "predict D R --out D/test.csv", 2, "--out"),
    ("targets", "a store into a run", nothing, "prepare D R", 1, "holds other files"),
    ("targets", "a store into the data", nothing, "prepare D D", 2, "also an input"),
    ("targets", "a run into the data", nothing, "train P D --recipe fast", 1, "holds other files"),
    ("targets", "a file where a folder is meant", nothing, "prepare D S.csv", 2, "name a folder"),
    ("targets", "a folder where a file is meant", nothing, "inspect D --out P", 2, "folder"),
    ("targets", "a folder that is not empty", nothing, "demo P", 1, "not an empty folder"),
    ("targets", "a folder below a file", nothing, "demo S.csv/new", 1, "is a file, and a folder"),
    ("targets", "a folder that does not exist", nothing, "report R --out page.html --data nowhere", 2, "there is no such folder"),
    ("targets", "a folder that does not exist", nothing, "ablation nowhere new --folds 2", 1, "there is no folder"),
    ("targets", "an output that is an input", nothing, "pseudo D P P R", 2, "also an input"),
    ("targets", "an output that is an input", nothing, "rehearse D --data D", 2, "also an input"),
    ("targets", "a store among other files", nothing, "pseudo D P I R", 1, "holds other files"),
    ("targets", "an ablation into a run", nothing, "ablation D R --folds 2", 1, "holds other files"),
    ("targets", "a rehearsal into the data", nothing, "rehearse D", 1, "holds no rehearsal"),
    ("targets", "a bundle into the data", nothing, "bundle D", 1, "holds no bundle"),
    ("targets", "a file where a folder is meant", nothing, "data S.csv", 2, "name a folder"),
    ("targets", "a page that ends in .csv", nothing, "review S.csv --data D --out page.csv", 2, ".html"),
    ("targets", "a bundle where a file is", nothing, "bundle S.csv", 2, "name a folder"),
    ("import", "no images in the folder", remove("I/*"), IMPORT, 1, "I: holds no file"),
    ("import", "a mask of another size", content("M/a.png", png(7, 5)), IMPORT, 1, "is 7 x 5 px"),
    ("import", "an image without a mask", content("I/b.png", png(9, 9)), IMPORT, 1, "has no mask M/b.png"),
    ("import", "an image that is no image", content("I/a.png", b"PNG"), IMPORT, 1, "cannot be read"),
    ("import", "a pixel size of 0", nothing, "import I new --masks M --organ liver --pixel-size 0", 2, "--pixel-size"),
    ("import", "GeoJSON that is cut", content("J/a.geojson", '{"type":'), "import I new --geojson J --organ liver --pixel-size 1", 1, "is not JSON"),
    *(
        ("clones", "a folder that is no clone", remove("pyproject.toml"), command, 1, "is not in a clone")
        for command in (REHEARSE, BUNDLE, PUSH, SUBMIT, PLAN)
    ),
    *(
        ("clones", "a kernel's metadata is cut", cut(OF_TRAIN), command, 1, "is not valid JSON")
        for command in (REHEARSE, PUSH, PLAN)
    ),
    *(
        ("clones", "a kernel is cut", cut("kernels/train/train.py", 0.9), command, 1, "is not Python")
        for command in (REHEARSE, PUSH, PLAN)
    ),
    ("clones", "a kernel that lacks settings", rewrite("kernels/train/train.py", r"\nEPOCHS = ", "\nMOST = "), PLAN, 1, "only one has EPOCHS"),
    ("clones", "a kernel's metadata is missing", remove(OF_INFER), REHEARSE, 1, "cannot be read"),
    ("clones", "a kernel's metadata is a list", content(OF_INFER, "[]"), PUSH, 1, "it is no JSON object"),
    ("clones", "an inference kernel with internet", rewrite(OF_INFER, r'("enable_internet": )false', r"\1true"), PUSH, 1, "enable_internet is true"),
    ("clones", "a kernel's code is missing", remove("kernels/infer/infer.py"), PUSH, 1, "code_file is 'infer.py'"),
    ("clones", "a dataset's metadata is cut", cut("datasets/hubmap-kit/dataset-metadata.json"), PUSH, 1, "is not valid JSON"),
    ("clones", "a dataset's metadata is missing", remove("datasets/hubmap-kit/dataset-metadata.json"), BUNDLE, 1, "it has no datasets"),
    ("clones", "the versions in Kaggle's image are missing", remove("kernels/kaggle-image.txt"), BUNDLE, 1, "cannot be read"),
    ("clones", "verdict.json is cut", cut(VERDICT), PUSH, 1, "is not valid JSON"),
    ("clones", "verdict.json is of a newer kit", rewrite(VERDICT, r'"format": \d+', '"format": 99'), PUSH, 1, "format 99"),
    ("clones", "no rehearsal: a dry run says so", remove(VERDICT), PUSH, 0, ""),
    ("clones", "a bundle with a further file", content("rehearsal/kit/other.whl", "x"), PUSH, 1, "does not name it"),
    ("clones", "a bundle whose manifest is cut", cut("rehearsal/kit/hubmap-kit.json"), PUSH, 1, "is not valid JSON"),
    *(
        ("clones", "pushes.csv is no table", content("records/pushes.csv", b"\0\1"), command, 1, "has no column")
        for command in (PUSH, SUBMIT)
    ),
    ("clones", "nothing was pushed", nothing, SUBMIT, 1, "has run yet"),
    *(
        ("Kaggle", "no credentials", nothing, command, 1, "no Kaggle credentials")
        for command in (DATA, "push", "submit")
    ),
    ("Kaggle", "kaggle.json is cut", content("home/.kaggle/kaggle.json", '{"username": "a", "key'), PUSH, 1, "is no JSON"),
    ("Kaggle", "kaggle.json is empty", content("home/.kaggle/kaggle.json", ""), SUBMIT, 1, "is empty"),
    ("Kaggle", "kaggle.json is cut", content("home/.kaggle/kaggle.json", '{"username": "a", "key'), DATA, 1, ""),
    ("Kaggle", "kaggle.json is empty", content("home/.kaggle/kaggle.json", ""), DATA, 1, ""),
    ("Kaggle", "kaggle.json holds a list", content("home/.kaggle/kaggle.json", "[1]"), DATA, 1, ""),
]]
# What is wrong around a command, the shell that makes it ({} is the command), command, status, part of its first error.
INJECTED = [
    ("a limit of 8 KiB on a file's size", "ulimit -f 8; {}", "demo new --train 6 --test 3 --size 128", 1, "file too large"),
    ("a limit of 8 KiB on a file's size", "ulimit -f 8; {}", PREPARE, 1, "file too large"),
    ("a limit of 8 KiB on a file's size", "ulimit -f 8; {}", INSPECT, 1, "file too large"),
    ("40 file descriptors", "ulimit -n 40; {}", PREPARE, 0, ""),
    ("stdout is closed", "{} >&-", VALIDATE, 0, ""),
    ("stderr is closed", "{} 2>&-", VALIDATE, 0, ""),
    ("nobody reads stdout", "{} | true", VALIDATE, 0, ""),
    ("stdout is a full device", "{} >/dev/full", VALIDATE, 1, "no space left"),
    ("a terminal of ASCII", "LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii {}", VALIDATE, 0, ""),
    ("no HOME", "env -u HOME {}", VALIDATE, 0, ""),
    ("a TMPDIR that does not exist", "TMPDIR=/nonexistent {}", PREPARE, 0, ""),
    ("SIGTERM", "timeout --preserve-status -s TERM 1.5 {}", "demo new --train 300 --test 3 --size 512", 130, "stopped"),
    ("SIGINT", "timeout --preserve-status -s INT 1.5 {}", "demo new --train 300 --test 3 --size 512", 130, "stopped"),
]
# fmt: on


def injected(shell: str, command: str, made: Path, folder: Path) -> tuple[int, str]:
    """Run a command with a fault around it: its exit status, and its first error or other message."""
    shutil.copytree(made, folder)
    script = shell.format(f"{sys.executable} -P -m hubmap_kit {command}")
    environment = os.environ | {"HOME": str(folder / "home")}
    run = ["bash", "-o", "pipefail", "-c", script]
    done = subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, first_error(done.stderr)


def first_error(text: str) -> str:
    """The first error on stderr, or the first message that is no progress."""
    lines = [line for line in text.splitlines() if line.strip() and not re.match(PROGRESS, line)]
    return next(iter([line for line in lines if line.startswith("error:")] or lines), "")


def make(folder: Path) -> None:
    """Make the files that commands run on; see the head of this module."""
    from builders import write_run
    from kaggle_workplace import write_clone

    write_clone(folder)  # first, as it commits what is there
    with working_in(folder), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        assert main(["demo", "D", "--train", "6", "--test", "3", "--size", "128"]) == 0
        assert main(["prepare", "D", "P", "--input-size", "64", "--test-size", "1", "--val-size", "1"]) == 0
        write_run(Path("R"))
        Path("D/test_truth.csv").rename("T.csv")
        pd.read_csv("T.csv")[["id", "rle"]].to_csv("S.csv", index=False)
        for name in ("I", "M", "home", "home/.kaggle"):
            Path(name).mkdir(mode=0o700)
        for name in ("I", "M"):
            Path(name, "a.png").write_bytes(png(31, 23))


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in a folder, with a home there and without credentials in the environment."""
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    os.environ["HOME"] = str(folder / "home")
    for name in [name for name in environment if name.startswith("KAGGLE_")]:
        del os.environ[name]
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def outcome(case: Case, made: Path, folder: Path) -> tuple[int, str]:
    """Run a case on a copy of what `make` made: its exit status, and its first error or other message."""
    shutil.copytree(made, folder)
    err = io.StringIO()
    with working_in(folder):
        case.fault()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = main(case.command.split())
            except SystemExit as stop:
                status = int(stop.code or 0)
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return status, first_error(err.getvalue())
