"""hubmap-kit predict."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..config import PredictConfig, UsageError, from_flags
from ..config import add_flags as add_settings
from ..files import is_special
from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = """\
hubmap-kit predict data run --out submission.csv
hubmap-kit predict data run1 run2 --out submission.csv --tta d4
"""
STOPPED = "the images that were predicted are kept; go on with: {command}"
WRITES = {"out": "file"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("data", metavar="DATA", type=Path, help="competition folder")
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, or folders of folds")
    parser.add_argument("--out", metavar="CSV", type=Path, required=True, help="submission to write")
    add_settings(parser, PredictConfig)
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask cluster that predicts the images, such as tcp://127.0.0.1:8786; it must share the file system of "
        "DATA and RUN; whoever reaches it can run code here (docs/many-devices.md)",
    )


def run(arguments: Namespace) -> Ending:
    """Predict."""
    from ..prediction.predict import predict
    from ..submission import count_masks

    config, out = from_flags(PredictConfig, arguments), arguments.out
    if is_special(out):
        raise UsageError(f"--out is {out}; a submission is written several times, with files beside it: name a file")
    problems = predict(arguments.data, arguments.runs, out, config, scheduler=arguments.scheduler)
    masks, empty = count_masks(out)
    truth = arguments.data / "test_truth.csv"
    page: tuple[object, ...] = ("review", out, "--data", arguments.data, "--out", out.with_suffix(".html"))
    return Ending(
        f"{out}: {count(masks, 'mask')}, {empty or 'none'} of them empty",
        look=(*page, *(("--truth", truth) if truth.is_file() else ())) if config.split == "test" else (),
        next=("validate", out, "--data", arguments.data) if config.split == "test" else (),
        values={"submission": str(out), "masks": masks, "empty": empty},
        problems=problems,
    )
