"""Damaged files: edited by hand, cut, saved by other programs, or of another kind; in every folder that is read.

Each file of a run folder, a patch store, a competition folder and a submission is damaged in many ways, and every
command that reads it is run. A command ends with status 0, 1 or 2, with a message about what is wrong and without a
traceback.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import write_run

from hubmap_kit.cli import main
from hubmap_kit.files import write_json
from hubmap_kit.preparation.store import SPLITS, PatchStore
from hubmap_kit.reports.runs import open_all
from hubmap_kit.run import write_map
from hubmap_kit.terminal import show_error

Damage = tuple[str, bytes | None]  # what was done, and the file then; None if it is gone

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 1e308, 10**400, float("nan"), float("inf"), "", "text", "nan"),
    *([], {}, [1], {"a": 1}, "../../x", "\x1b[31m\x00"),
)
CELLS = ("", "x", "nan", "inf", "-1", "1.5", "1e308", "9" * 400, "TRUE", "\x1b[31m", '"', "\uff11", "0x1", "1_000")


def damages(data: bytes, suffix: str, rng: np.random.Generator) -> Iterator[Damage]:
    """Ways to damage a file."""
    yield "gone", None
    yield "empty", b""
    yield "cut", data[: int(rng.integers(1, max(2, len(data))))]
    yield "zeros", bytes(len(data))
    yield "begins with NUL", b"\0" + data
    yield "noise", rng.bytes(64)
    flipped = bytearray(data)
    for place in rng.integers(0, max(1, len(data)), 3) if data else ():
        flipped[place] ^= 1 << int(rng.integers(8))
    yield "bits", bytes(flipped)
    if suffix in (".json", ".csv"):
        text = data.decode()
        yield "byte order mark", b"\xef\xbb\xbf" + data
        yield "UTF-16", text.encode("utf-16")
        yield "Windows line ends", text.replace("\n", "\r\n").encode()
        yield "not UTF-8", data[: len(data) // 2] + b"\xe9" + data[len(data) // 2 :]
    if suffix == ".json":
        yield from _json_damages(json.loads(data), rng)
    if suffix == ".csv":
        yield from _csv_damages(data.decode(), rng)
    if suffix == ".npy":
        pixels = np.load(io.BytesIO(data))
        for what, wrong in {
            "transposed": pixels.swapaxes(0, 1),
            "floats": pixels.astype(np.float64),
            "without mask": pixels[..., :3],
            "smaller": pixels[:-1],
            "a number": np.array(3),
        }.items():
            stored = io.BytesIO()
            np.save(stored, wrong)
            yield what, stored.getvalue()


def _json_damages(value: Any, rng: np.random.Generator) -> Iterator[Damage]:
    for wrong in ([], None, 3, "text", [value]):
        yield f"is {str(wrong)[:20]}", json.dumps(wrong).encode()
    yield "nested deeply", b"[" * 100_000
    if isinstance(value, dict):
        yield "newer", json.dumps(value | {"format": 99, "wings": 2}).encode()
    places = list(_places(value))
    for place in places:
        for wrong in rng.choice(np.array([*VALUES, ...], object), 3, replace=False):
            changed = json.loads(json.dumps(value))
            owner = changed
            for key in place[:-1]:
                owner = owner[key]
            if wrong is ...:
                del owner[place[-1]]
            else:
                owner[place[-1]] = wrong
            yield f"{'.'.join(map(str, place))} {str(wrong)[:20]!r}", json.dumps(changed).encode()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value; of a list only the first and the last."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _places(part, (*place, key))
    elif isinstance(value, list):
        for number in sorted({0, len(value) - 1} if value else ()):
            yield from _places(value[number], (*place, number))


def _csv_damages(text: str, rng: np.random.Generator) -> Iterator[Damage]:
    rows = [line.split(",") for line in text.splitlines()]

    def table(lines: list[list[str]], separator: str = ",") -> bytes:
        return "".join(separator.join(line) + "\n" for line in lines).encode()

    yield "semicolons", table(rows, ";")
    yield "semicolons and decimal commas", table([[cell.replace(".", ",") for cell in row] for row in rows], ";")
    yield "tabs", table(rows, "\t")
    yield "header only", table(rows[:1])
    yield "without header", table(rows[1:])
    yield "last row cut", table([*rows[:-1], rows[-1][:1]])
    yield "first row twice", table([*rows, rows[1]])
    yield "rows removed", table([rows[0], *rows[2:]])
    yield "a cell more", table([*rows[:-1], [*rows[-1], "5"]])
    yield "blank lines", text.replace("\n", "\n\n").encode()
    yield "an open quote", (text + '"').encode()
    for column, name in enumerate(rows[0]):
        yield f"without {name}", table([row[:column] + row[column + 1 :] for row in rows])
        yield f"{name} twice", table([[*row, row[column]] for row in rows])
        for cell in rng.choice(CELLS, 4, replace=False):
            changed = [list(row) for row in rows]
            line = int(rng.integers(1, len(rows)))
            changed[line][column] = str(cell)
            yield f"{name} in row {line + 1} is {str(cell)[:12]!r}", table(changed)


class Place:
    """A folder with one of everything, whose files are damaged and restored."""

    def __init__(self, folder: Path, demo: Path, store: Path) -> None:
        self.folder, self.out = folder, folder.with_name("written")
        self.data, self.store, self.run = folder / "data", folder / "store", folder / "run"
        shutil.copytree(demo, self.data)
        shutil.copytree(store, self.store)
        info = json.loads((self.store / "store.json").read_text())
        write_json(self.store / "store.json", info | {"data": str(self.data)})
        self._write_run()
        (folder / "submission.csv").write_bytes((self.data / "sample_submission.csv").read_bytes())
        (folder / "submission.csv.problems.csv").write_text(
            "severity,file,row,rule,remedy,image_id\nerror,test.csv,2,the image is damaged,replace it,\n"
        )
        (folder / "submission.csv.timings.csv").write_text(
            "id,seconds,networks,scales,tta,overlap\n" + f"{self._test_id()},1.5,1,1,none,0.25\n"
        )

    def _test_id(self) -> str:
        return (self.data / "test.csv").read_text().splitlines()[1].split(",")[0]

    def _write_run(self) -> None:
        opened = PatchStore.open(self.store)
        splits = {split: opened.ids(split) for split in SPLITS}
        write_run(
            self.run,
            prepare=opened.config,
            splits=splits,
            data=str(self.data),
            recipe="fast",
            epochs=2,
            results={"validation": {"dice": 0.5}},
            looks={"reinhard": {"lung": (0.1,) * 6}},
        )
        organ = {i: stored.image.organ for i, stored in opened.images.items()}
        scores = [f"{split},{i},{organ[i]},0.5,0.7" for split in SPLITS for i in splits[split]]
        (self.run / "scores.csv").write_text("\n".join(["split,id,organ,dice,loss", *scores]) + "\n")
        sweep = [f"{i},{organ[i]},{t},0.0,0.4" for i in splits["validation"] for t in (0.3, 0.5)]
        (self.run / "sweep.csv").write_text("\n".join(["id,organ,threshold,min_region_um2,dice", *sweep]) + "\n")
        (self.run / "history.csv").write_text(
            "epoch,frozen,train_loss,seconds,validation_loss,validation_dice\n1.0,1.0,1.5,6,,\n2.0,0.0,1.0,6,1.2,0.6\n"
        )
        (self.run / "results.csv").write_text("split,images,loss,dice,lung\nvalidation,2,1.0,0.5,0.5\n")
        for image_id in splits["validation"]:
            write_map(self.run / "validation" / f"{image_id}.png", np.full((64, 64), 0.3, np.float32))


@pytest.fixture(scope="module")
def place(demo: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("damage") / "read", demo, store)


def command(*words: object) -> Callable[[], int]:
    return lambda: main([str(word) for word in words])


def read_store(place: Place) -> int:
    """Open the store and read all of it, as a training does."""
    opened = PatchStore.open(place.store)
    for image_id in opened.images:
        assert opened.read(image_id).any()
    return 0


def open_run(place: Place) -> int:
    """Open a run and its tables, as a page about it does."""
    (shown,) = open_all([place.run], ensemble=False)
    assert shown.rule.of("lung")
    return 0


def readers(place: Place, path: Path, *, pages: bool) -> list[Callable[[], int]]:
    """What reads a file; with or without the commands that draw pages or write images, which take longer."""
    out, submission, data = place.out / "page.html", place.folder / "submission.csv", place.data
    check = [
        command("validate", submission, "--data", data),
        command("score", submission, "--truth", data / "test_truth.csv"),
    ]
    review = command("review", submission, "--data", data, "--out", out)
    match path.relative_to(place.folder).parts[0]:
        case "run":
            return [lambda: open_run(place), *([command("report", place.run, "--out", out)] if pages else [])]
        case "store":
            return [lambda: read_store(place)]
        case "data":
            prepare = ("prepare", data, place.out / "again", "--patch-size", "128", "--input-size", "64")
            return [*check, *([command(*prepare), command("inspect", data, "--out", out), review] if pages else [])]
        case _:
            export = command("export", submission, "--data", data, "--out", place.out / "masks")
            return [*check, *([review, export] if pages else [])]


def damaged(place: Place, rng: np.random.Generator, share: float) -> Iterator[tuple[Path, str, bytes | None]]:
    """A share of all damages: of each table and JSON file, and of one file of each kind of image or mask."""
    kinds: dict[tuple[Path, str], Path] = {}
    for path in sorted(path for path in place.folder.rglob("*") if path.is_file()):
        many = path.parent.name in ("images", "train_images", "test_images", "train_annotations", "validation")
        kinds.setdefault((path.parent if many else path, path.suffix), path)
    for path in kinds.values():
        for what, data in damages(path.read_bytes(), path.suffix, rng):
            if rng.random() < share:
                yield path, what, data


def check(place: Place, seed: int, share: float, capsys: pytest.CaptureFixture[str], *, pages: bool) -> None:
    """Damage files and run what reads them; every reader ends with a status, and with a message if it is not 0."""
    rng, runs = np.random.default_rng(seed), 0
    for path, what, data in damaged(place, rng, share):
        sound = path.read_bytes()
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        try:
            for number, reader in enumerate(readers(place, path, pages=pages)):
                runs += 1
                shutil.rmtree(place.out / "masks", ignore_errors=True)
                status = status_of(reader)
                said = capsys.readouterr().err
                where = f"{path.relative_to(place.folder)}, {what}, reader {number}: {status}, {said}"
                assert status in (0, 1, 2), where
                assert "mistake of hubmap-kit" not in said, where
                assert "Traceback" not in said, where
                assert status == 0 or "error: " in said, where
                assert "\x1b[31m" not in said, where
        finally:
            path.write_bytes(sound)
    assert runs > 100


def status_of(reader: Callable[[], int]) -> object:
    """The exit status of a reader; an error of a function of the library is printed as the command line does."""
    try:
        return reader()
    except SystemExit as ended:
        return ended.code
    except (ValueError, OSError) as error:
        show_error(str(error))
        return 1


def test_damaged_files_are_named(place, capsys):
    """An eighth of the damages, and what reads tables and settings."""
    check(place, 0, 0.12, capsys, pages=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_all_kinds_of_damage_are_named(place, seed, capsys):
    """A twentieth of the damages, and every command that reads the file, in about a minute."""
    check(place, seed, 0.05, capsys, pages=True)
