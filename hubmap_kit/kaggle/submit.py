"""Submit a version of the inference kernel to the competition, and wait until it is scored.

Each submission is a row of ``records/submissions.csv`` before it is sent, so that none is made twice and
none is lost: an interrupted one is found again on Kaggle by the tag in its description.
"""

from __future__ import annotations

import secrets
import sys
from typing import Any

from ..competition import SUBMISSION
from ..files import read_rows, write_rows
from .api_competition import Competition
from .connection import Connection
from .credentials import redact
from .names import INFER, WEIGHTS
from .records import SUBMISSIONS, Records, now
from .waiting import once, until

COLUMNS = (
    "time owner commit runs local_score kernel_version sources tag ref status public_score private_score error"
).split()
SENDING, PENDING, NOT_SENT = "SENDING", "PENDING", "NOT SENT"  # besides Kaggle's COMPLETE and ERROR

PAUSE_S, PATIENCE_S = 60.0, 24 * 3600.0  # a scoring run may take 9 h, and wait in a queue before
# What to do, by a word in Kaggle's reason for a failure; no log comes back from a scoring run.
REMEDIES = {
    "timeout": "predict faster: SCALES '1', TTA 'none', a smaller OVERLAP or fewer RUNS in kernels/infer/infer.py",
    "exception": "rehearse again; if that passes, look at the largest and oddest images first",
    "compute": "use less memory: fewer RUNS or a smaller BATCH_SIZE in kernels/infer/infer.py",
    "not found": "the kernel ended before it wrote submission.csv: rehearse again",
    "scoring error": "the submission's ids or masks were not taken: rehearse again, it validates them",
}


class Submissions:
    """The log of submissions; it makes a submission and waits for its score."""

    def __init__(self, connection: Connection, records: Records, *, poll_s: float | None = None) -> None:
        """Read the log.

        Args:
            connection: The connection.
            records: The records of what was pushed.
            poll_s: Seconds between two questions to Kaggle; 60 by default.
        """
        self._connection = connection
        self._competition = Competition(connection)
        self._records = records
        self._pause_s = PAUSE_S if poll_s is None else poll_s
        self._path = records.folder / SUBMISSIONS
        self._rows = read_rows(self._path, COLUMNS)

    def choose(self, version: int | None, weights: int | None) -> int:
        """Choose the version of the inference kernel to submit, among those that have run.

        Args:
            version: Its number; None for the newest.
            weights: Version of the weights that it ran with; None for any.

        Raises:
            ValueError: No such version has run.
        """
        pushed = self._records.pushed(INFER)
        ran = {n for n in pushed if (self._records.output(INFER, n) / SUBMISSION).is_file()}
        if not ran:
            raise ValueError(f"no version of {INFER} has run yet; push one with: nox -s push")
        if weights is not None:
            ran = {n for n in ran if f"{WEIGHTS}:{weights}" in pushed[n]["sources"].split()}
            if not ran:
                raise ValueError(f"no version of {INFER} ran with version {weights} of {WEIGHTS}; push infer again")
        if version is not None and version not in ran:
            raise ValueError(f"version {version} of {INFER} has not run; there are {', '.join(map(str, sorted(ran)))}")
        if version is None and weights is None and max(pushed) > max(ran):
            print(
                f"warning: version {max(pushed)} of {INFER} was pushed and has not run: version {max(ran)} is "
                f"submitted; to wait for version {max(pushed)}, run nox -s push first",
                file=sys.stderr,
            )
        return max(ran) if version is None else version

    def submit(self, version: int, *, again: bool = False) -> dict[str, str]:
        """Submit a version, or go on with a submission of it that was interrupted.

        Args:
            version: Version of the inference kernel.
            again: Submit it even if it was submitted before.

        Returns:
            Its row of the log, after it was scored or failed; in a dry run, the row that would be sent.

        Raises:
            KaggleError: Kaggle refuses it.
            ValueError: It was submitted already, or none is left today.
        """
        row = None if self._connection.dry_run else self._unfinished(version)
        if row is None:
            if not again and (earlier := self._earlier(version)):
                raise ValueError(
                    f"version {version} was submitted on {earlier['time']}: {earlier['status']}, public "
                    f"{earlier['public_score'] or '-'}, private {earlier['private_score'] or '-'}; "
                    "submit it once more with --again"
                )
            left = self._competition.submissions_left()
            if self._connection.connected:
                print(f"{left} submissions are left today (UTC)", flush=True)
                if not left:
                    raise ValueError("no submission is left today; come back after midnight UTC")
            row = self._send(version)
            if self._connection.dry_run:
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
        """The row of the last submission of this version that was sent."""
        done = [row for row in self._of(version) if row["status"] != NOT_SENT]
        return done[-1] if done else None

    def _of(self, version: int) -> list[dict[str, str]]:
        """Rows of this user's submissions of a version."""
        mine = [row for row in self._rows if row["owner"] == self._connection.owner]
        return [row for row in mine if row["kernel_version"] == str(version)]

    def _send(self, version: int) -> dict[str, str]:
        """Log a submission and send it; returns its row."""
        pushed = self._records.pushed(INFER)[version]
        sources = dict(source.split(":") for source in pushed["sources"].split())
        runs = self._records.pushed(WEIGHTS).get(int(sources.get(WEIGHTS, 0)), {})
        row = dict.fromkeys(COLUMNS, "") | {
            "time": now(),
            "owner": self._connection.owner,
            "commit": pushed["commit"],
            "runs": runs.get("runs", ""),
            "local_score": runs.get("local_score", ""),
            "kernel_version": str(version),
            "sources": pushed["sources"],
            "tag": secrets.token_hex(4),
            "status": SENDING,
        }
        description = f"hubmap-kit {row['commit'][:10]}, {INFER} v{version}, {row['sources']} [{row['tag']}]"
        if self._connection.dry_run:
            self._competition.submit(INFER, version, description)
            return row
        self._rows.append(row)
        self._set(row)
        ref = once(
            lambda: self._competition.submit(INFER, version, description),
            lambda: self._adopt(row),
            lambda: self._set(row, status=NOT_SENT),
            pause_s=self._pause_s,
            attempts=1,  # the next command looks once more before it sends again
        )
        if ref is not None:
            self._set(row, status=PENDING, ref=str(ref or ""))
            print(f"version {version} is submitted: {description}", flush=True)
        return row

    def _adopt(self, row: dict[str, str]) -> bool:
        """Look on Kaggle for a submission whose answer was lost, and log its number; returns whether it is there."""
        found = self._on_kaggle(row)
        if found:
            self._set(row, status=PENDING, ref=str(found.ref))
        return found is not None

    def _on_kaggle(self, row: dict[str, str]) -> Any:
        """Kaggle's entry for a submission, found by its number or its tag; None if there is none."""
        for submission in self._competition.submissions():
            tagged = f"[{row['tag']}]" in (submission.description or "")
            if str(submission.ref) == row["ref"] if row["ref"] else tagged:
                return submission
        return None

    def _follow(self, row: dict[str, str]) -> dict[str, str]:
        """Wait until a submission is scored or has failed, and log the result."""
        found: Any = None

        def look() -> str:
            nonlocal found
            found = self._on_kaggle(row)
            return str(found.status.name) if found else "not listed yet"

        status = until(
            "the submission",
            look,
            {"COMPLETE", "ERROR"},
            pause_s=self._pause_s,
            patience_s=PATIENCE_S,
            repeat_s=1800.0,
        )
        self._set(
            row,
            status=status,
            ref=str(found.ref),
            public_score=found.public_score or "",
            private_score=found.private_score or "",
            error=" ".join(redact(found.error_description or "").split()),
        )
        return row

    def _set(self, row: dict[str, str], **values: str) -> None:
        """Change a row and write the log."""
        row |= values
        write_rows(self._path, COLUMNS, self._rows)


def outcome(row: dict[str, str]) -> str:
    """The scores of a submission, or why it failed and what to do about it, in one line."""
    if row["status"] == "COMPLETE":
        local = f", local validation {row['local_score']}" if row["local_score"] else ""
        return f"public score {row['public_score'] or '-'}, private score {row['private_score'] or '-'}{local}"
    reason = row["error"] or "no reason given"
    remedies = [remedy for word, remedy in REMEDIES.items() if word in reason.lower()]
    return f"the submission failed on Kaggle: {reason}; {(remedies or ['rehearse again'])[0]}"


if __name__ == "__main__":  # it was a command of its own once, and should not end in silence
    raise SystemExit("error: this module is no command; run: hubmap-kit submit")
