"""Submit: a version of the inference kernel to the competition, followed until it is scored.

Each submission is a row of ``records/submissions.csv`` before it is sent, so that none is made twice and
none is lost: an interrupted one is found again on Kaggle by the tag in its description.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from typing import Any

from ..files import read_rows, write_rows
from . import bundle
from .client import Client
from .failures import KEPT, AnswerLost, KaggleError, Unreachable
from .push import INFER, WEIGHTS
from .records import FOLDER, SUBMISSIONS, Records, now

COLUMNS = (
    "time owner commit runs local_score kernel_version sources tag ref status public_score private_score error"
).split()
SENDING, PENDING, NOT_SENT = "SENDING", "PENDING", "NOT SENT"  # besides Kaggle's COMPLETE and ERROR

_PAUSE, _PATIENCE = 60.0, 24 * 3600.0  # s; a scoring run may take 9 h, and queue before
_LOOKS = 3  # for a submission whose answer was lost
# What to do about Kaggle's reasons; no log comes back from a scoring run.
REMEDIES = {
    "timeout": "predict faster: TTA 'none', a smaller OVERLAP or fewer RUNS in kernels/infer/infer.py",
    "exception": "rehearse again; if that passes, look at the largest and oddest images first",
    "compute": "use less memory: fewer RUNS or a smaller BATCH_SIZE in kernels/infer/infer.py",
    "not found": "the kernel ended before it wrote submission.csv: rehearse again",
    "scoring error": "the submission's ids or masks were not taken: rehearse again, it validates them",
}


class Submissions:
    """The log of submissions, and the way of one through Kaggle."""

    def __init__(self, client: Client, records: Records, *, poll: float | None = None) -> None:
        """Read the log.

        Args:
            client: The connection.
            records: What was pushed.
            poll: Seconds between two questions to Kaggle; 60 by default.
        """
        self._client = client
        self._records = records
        self._pause = _PAUSE if poll is None else poll
        self._path = records.folder / SUBMISSIONS
        self._rows = read_rows(self._path)

    def choose(self, version: int | None, weights: int | None) -> int:
        """The version to submit: `version`, or the newest, or the newest that used that version of the weights.

        Raises:
            ValueError: There is none that has run.
        """
        pushed = self._records.pushed(INFER)
        ran = {n for n in pushed if (self._records.output(INFER, n) / "submission.csv").is_file()}
        if not ran:
            raise ValueError(f"no version of {INFER} has run yet; push one with: nox -s push")
        if weights is not None:
            ran = {n for n in ran if f"{WEIGHTS}:{weights}" in pushed[n]["sources"].split()}
            if not ran:
                raise ValueError(f"no version of {INFER} ran with version {weights} of {WEIGHTS}; push infer again")
        if version is not None and version not in ran:
            raise ValueError(f"version {version} of {INFER} has not run; there are {', '.join(map(str, sorted(ran)))}")
        return max(ran) if version is None else version

    def submit(self, version: int, *, again: bool = False) -> dict[str, str]:
        """Submit a version, or go on with a submission of it that was interrupted.

        Args:
            version: Of the inference kernel.
            again: Submit it even if it was submitted before.

        Returns:
            Its row of the log, scored or failed; in a dry run, as it would be sent.

        Raises:
            KaggleError: Kaggle refuses it.
            ValueError: It was submitted already, or none is left today.
        """
        row = None if self._client.dry_run else self._unfinished(version)
        if row is None:
            if not again and (earlier := self._earlier(version)):
                raise ValueError(
                    f"version {version} was submitted on {earlier['time']}: {earlier['status']}, public "
                    f"{earlier['public_score'] or '-'}, private {earlier['private_score'] or '-'}; "
                    "submit it once more with --again"
                )
            left = self._client.submissions_left()
            if self._client.connected:
                print(f"{left} submissions are left today (UTC)", flush=True)
                if not left:
                    raise ValueError("no submission is left today; come back after midnight UTC")
            row = self._send(version)
            if self._client.dry_run:
                return row
        return self._follow(row)

    def _unfinished(self, version: int) -> dict[str, str] | None:
        """The row of a submission of this version that may be under way on Kaggle."""
        for row in reversed(self._of(version)):
            if row["status"] in (SENDING, PENDING):
                if row["status"] == PENDING or self._adopt(row):
                    print(f"going on with the submission of version {version} from {row['time']}")
                    return row
                self._set(row, status=NOT_SENT)
        return None

    def _earlier(self, version: int) -> dict[str, str] | None:
        done = [row for row in self._of(version) if row["status"] != NOT_SENT]
        return done[-1] if done else None

    def _of(self, version: int) -> list[dict[str, str]]:
        """Rows of this user's submissions of a version."""
        mine = [row for row in self._rows if row["owner"] == self._client.owner]
        return [row for row in mine if row["kernel_version"] == str(version)]

    def _send(self, version: int) -> dict[str, str]:
        pushed = self._records.pushed(INFER)[version]
        sources = dict(source.split(":") for source in pushed["sources"].split())
        runs = self._records.pushed(WEIGHTS).get(int(sources.get(WEIGHTS, 0)), {})
        row = dict.fromkeys(COLUMNS, "") | {
            "time": now(),
            "owner": self._client.owner,
            "commit": pushed["commit"],
            "runs": runs.get("runs", ""),
            "local_score": runs.get("local_score", ""),
            "kernel_version": str(version),
            "sources": pushed["sources"],
            "tag": secrets.token_hex(4),
            "status": SENDING,
        }
        description = f"hubmap-kit {row['commit'][:10]}, {INFER} v{version}, {row['sources']} [{row['tag']}]"
        if self._client.dry_run:
            self._client.submit(INFER, version, description)
            return row
        self._rows.append(row)
        self._set(row)
        try:
            ref = self._client.submit(INFER, version, description)
        except AnswerLost:
            for _ in range(_LOOKS):
                time.sleep(self._pause)
                if self._adopt(row):
                    return row
            raise
        except KaggleError:
            self._set(row, status=NOT_SENT)
            raise
        self._set(row, status=PENDING, ref=str(ref or ""))
        print(f"version {version} is submitted: {description}", flush=True)
        return row

    def _adopt(self, row: dict[str, str]) -> bool:
        """Find on Kaggle a submission whose answer never came; whether it is there."""
        found = self._on_kaggle(row)
        if found:
            self._set(row, status=PENDING, ref=str(found.ref))
        return found is not None

    def _on_kaggle(self, row: dict[str, str]) -> Any:
        for submission in self._client.submissions():
            same = (
                str(submission.ref) == row["ref"] if row["ref"] else f"[{row['tag']}]" in (submission.description or "")
            )
            if same:
                return submission
        return None

    def _follow(self, row: dict[str, str]) -> dict[str, str]:
        """Ask until it is scored or has failed; a lost connection does not end it."""
        begin = told = time.monotonic()
        while True:
            try:
                found = self._on_kaggle(row)
                status = found.status.name if found else "not listed yet"
            except Unreachable as error:
                found, status = None, f"not known, since {error}"
            elapsed = time.monotonic() - begin
            if status in ("COMPLETE", "ERROR"):
                self._set(
                    row,
                    status=status,
                    ref=str(found.ref),
                    public_score=found.public_score or "",
                    private_score=found.private_score or "",
                    error=" ".join((found.error_description or "").split()),
                )
                return row
            if elapsed > _PATIENCE:
                raise KaggleError(f"the submission is still {status} after {elapsed / 3600:.0f} h; {KEPT}")
            if told == begin or time.monotonic() - told > 1800:
                print(f"the submission is {status}, {elapsed / 60:.0f} min", flush=True)
                told = time.monotonic()
            time.sleep(self._pause)

    def _set(self, row: dict[str, str], **values: str) -> None:
        """Change a row and write the log."""
        row |= values
        write_rows(self._path, COLUMNS, self._rows)


def verdict(row: dict[str, str]) -> str:
    """What came of a submission, in a line or two."""
    if row["status"] == "COMPLETE":
        local = f", local validation {row['local_score']}" if row["local_score"] else ""
        return f"public score {row['public_score'] or '-'}, private score {row['private_score'] or '-'}{local}"
    reason = row["error"] or "no reason given"
    remedies = [remedy for word, remedy in REMEDIES.items() if word in reason.lower()]
    return f"the submission failed on Kaggle: {reason}; {(remedies or ['rehearse again'])[0]}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``python -m hubmap_kit.kaggle.submit``, run in a clone; 0 scored, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m hubmap_kit.kaggle.submit", description="Submit a version of the inference kernel."
    )
    parser.add_argument(
        "--version", metavar="N", type=int, help="of the inference kernel (default: the newest that ran)"
    )
    parser.add_argument("--weights", metavar="N", type=int, help="the newest that ran with this version of the weights")
    parser.add_argument("--again", action="store_true", help="submit a version that was submitted before")
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    parser.add_argument("--poll", metavar="S", type=float, help="seconds between questions to Kaggle (default: 60)")
    arguments = parser.parse_args(argv)
    try:
        client = Client.connect(dry_run=arguments.dry_run)
        records = Records(bundle.CLONE / FOLDER, client.owner)
        with records.locked():
            submissions = Submissions(client, records, poll=arguments.poll)
            version = submissions.choose(arguments.version, arguments.weights)
            row = submissions.submit(version, again=arguments.again)
        if arguments.dry_run:
            print("dry run: nothing was sent")
            return 0
        if row["status"] != "COMPLETE":
            print(f"error: {verdict(row)}", file=sys.stderr)
            return 1
        print(verdict(row))
        return 0
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; Kaggle goes on with the submission, and {KEPT}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
