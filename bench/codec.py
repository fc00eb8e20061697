"""Encoding, decoding and scoring masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from hubmap_kit import rle, submission

from .harness import Call, Case, Row, Setting, peer
from .inputs import masks

QUICK = 4  # masks


def notebook_encode(mask: np.ndarray) -> str:
    """The usual way in notebooks: transpose, flatten, and look where the pixels change."""
    pixels = np.concatenate([[0], mask.T.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def notebook_decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The usual way in notebooks: set one slice per run."""
    numbers = np.asarray(text.split(), dtype=int)
    flat = np.zeros(shape[0] * shape[1], np.uint8)
    for start, length in zip(numbers[::2] - 1, numbers[1::2], strict=True):
        flat[start : start + length] = 1
    return flat.reshape(shape[1], shape[0]).T


def _load(setting: Setting) -> tuple[str, list[str], list[tuple[int, int]]]:
    kind, table = masks(QUICK if setting.quick else None)
    return kind, table["rle"].tolist(), list(zip(table["img_height"], table["img_width"], strict=True))


def encode(setting: Setting) -> Case:
    """Row-major masks, as a prediction makes them, to RLE; pycocotools gets them column-major, as it requires."""
    kind, texts, shapes = _load(setting)
    pixels = [np.ascontiguousarray(rle.decode(text, shape)) for text, shape in zip(texts, shapes, strict=True)]
    coco = peer("pycocotools.mask")

    def check() -> None:
        for text, mask in zip(texts[:QUICK], pixels[:QUICK], strict=True):
            assert rle.encode(mask) == notebook_encode(mask) == text
            if coco:
                assert np.array_equal(coco.decode(coco.encode(np.asfortranarray(mask))), mask)

    calls: dict[str, Call] = {"kit": lambda: [rle.encode(mask) for mask in pixels]}
    if coco:
        calls["pycocotools"] = lambda: [coco.encode(np.asfortranarray(mask)) for mask in pixels]
    calls["notebook idiom"] = lambda: [notebook_encode(mask) for mask in pixels]
    rows = [
        Row(f"encode {kind}", "kit", "pycocotools", aim=5),
        Row(f"encode {kind}", "kit", "notebook idiom", aim=12),
    ]
    return Case(calls, rows, len(texts), "mask", check)


def decode(setting: Setting) -> Case:
    """RLE to column-major masks. pycocotools starts from its own compressed runs, not from text."""
    kind, texts, shapes = _load(setting)
    coco = peer("pycocotools.mask")
    packed = (
        [coco.encode(np.asfortranarray(rle.decode(*pair))) for pair in zip(texts, shapes, strict=True)] if coco else []
    )

    def check() -> None:
        for i, pair in enumerate(zip(texts[:QUICK], shapes[:QUICK], strict=True)):
            mask = rle.decode(*pair)
            assert np.array_equal(mask, notebook_decode(*pair))
            assert not coco or np.array_equal(mask, coco.decode(packed[i]))

    def each(function: Callable[[str, tuple[int, int]], object]) -> Call:
        def call() -> None:
            for text, shape in zip(texts, shapes, strict=True):
                function(text, shape)

        return call

    calls: dict[str, Call] = {"kit": each(rle.decode)}
    if coco:

        def call() -> None:
            for runs in packed:
                coco.decode(runs)

        calls["pycocotools"] = call
    calls["notebook idiom"] = each(notebook_decode)
    rows = [
        Row(f"decode {kind}", "kit", "pycocotools", aim=6),
        Row(f"decode {kind}", "kit", "notebook idiom"),
    ]
    return Case(calls, rows, len(texts), "mask", check)


def shifted(text: str, shape: tuple[int, int], by: int) -> str:
    """An RLE whose runs start `by` pixels later, in column-major order; pixels beyond the mask's end are dropped."""
    runs = np.minimum(rle.parse(text, shape) + by, shape[0] * shape[1])
    runs = runs[runs[:, 0] < runs[:, 1]]
    return " ".join(map(str, np.column_stack((runs[:, 0] + 1, runs[:, 1] - runs[:, 0])).ravel().tolist()))


def score(setting: Setting) -> Case:
    """A submission against the truth, from two CSV files to one mean Dice; pycocotools starts from its own runs."""
    kind, table = masks(QUICK if setting.quick else None)
    shapes = list(zip(table["img_height"], table["img_width"], strict=True))
    moved = [shifted(text, shape, 7) for text, shape in zip(table["rle"], shapes, strict=True)]
    truth, guess = setting.folder / "truth.csv", setting.folder / "submission.csv"
    table.to_csv(truth, index=False)
    table[["id"]].assign(rle=moved).to_csv(guess, index=False)
    coco = peer("pycocotools.mask")
    pairs = []
    if coco:
        for a, b, shape in zip(moved, table["rle"], shapes, strict=True):
            pairs.append([coco.encode(np.asfortranarray(rle.decode(text, shape))) for text in (a, b)])

    def kit() -> float:
        return float(submission.score(guess, truth)["dice"].mean())

    def dice(a: np.ndarray, b: np.ndarray) -> float:
        return float(2 * (a & b).sum() / (a.sum() + b.sum()))

    def decode_and_sum() -> float:
        a, b = (pd.read_csv(path, index_col="id", keep_default_na=False) for path in (guess, truth))
        both = a.join(b, lsuffix="_guess")
        rows = zip(both["rle_guess"], both["rle"], both["img_height"], both["img_width"], strict=True)
        return float(np.mean([dice(rle.decode(x, (h, w)), rle.decode(y, (h, w))) for x, y, h, w in rows]))

    calls: dict[str, Call] = {"kit": kit, "decode with the kit and sum": decode_and_sum}
    if coco:
        calls["pycocotools, decode and sum"] = lambda: float(
            np.mean([dice(coco.decode(a), coco.decode(b)) for a, b in pairs])
        )

        def on_runs() -> float:
            shared = [int(coco.area(coco.merge([a, b], intersect=True))) for a, b in pairs]
            return float(
                np.mean([2 * s / int(coco.area(a) + coco.area(b)) for s, (a, b) in zip(shared, pairs, strict=True)])
            )

        calls["pycocotools, on its runs"] = on_runs

    def check() -> None:
        values = [call() for call in calls.values()]
        assert np.allclose(values, values[0], rtol=1e-12), values

    work = f"score {kind} against themselves shifted"
    rows = [
        Row(work, "kit", "decode with the kit and sum", aim=10),
        Row(work, "kit", "pycocotools, decode and sum", aim=20),
        Row(work, "kit", "pycocotools, on its runs"),
        Row(f"{work}, in all", "kit", "", "total", aim=1, unit="s"),
    ]
    return Case(calls, rows, len(table), "row", check)
