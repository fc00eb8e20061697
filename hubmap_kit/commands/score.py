"""hubmap-kit score."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..terminal import Ending, Parser
from ..words import count

EXAMPLE = "hubmap-kit score submission.csv --truth demo/test_truth.csv"
WRITES = {"per_image": "file"}


def add_flags(parser: Parser) -> None:
    """Add the arguments and flags."""
    parser.add_argument("submission", metavar="SUBMISSION", type=Path, help="submission.csv")
    parser.add_argument(
        "--truth", metavar="CSV", type=Path, required=True, help="CSV with id,rle,img_height,img_width[,organ]"
    )
    parser.add_argument("--per-image", metavar="CSV", type=Path, help="also write id,organ,dice")


def run(arguments: Namespace) -> Ending:
    """Score the submission."""
    from ..competition import ORGAN, SOURCE, table_path
    from ..files import replacing
    from ..metrics import mean_dice, score_text
    from ..submission import score, unfinished

    truth, table = arguments.truth, arguments.per_image
    scores, data = score(arguments.submission, truth), truth.parent
    if table:
        with replacing(table) as part:
            scores.reindex(columns=["id", "organ", "dice"]).to_csv(part, index=False)
    wrote = f"; {table}: the Dice of each image" if table else ""
    groups = {
        column: {str(name): round(float(dice), 6) for name, dice in scores.groupby(column)["dice"].mean().items()}
        for column in (ORGAN, SOURCE)
        if column in scores
    }
    return Ending(
        f"{arguments.submission}: {count(len(scores), 'image')} scored{wrote}",
        score_text(scores),
        next=("review", arguments.submission, "--data", data, "--truth", truth, "--out", "review.html")
        if table_path(data, "test").is_file()
        else (),
        values={
            "submission": str(arguments.submission),
            "images": len(scores),
            "mean_dice": mean_dice(scores),
            **groups,
        },
        problems=unfinished(arguments.submission),
    )
