"""The competition on Kaggle: its data, and the user's submissions to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..competition import SLUG, SUBMISSION
from .connection import Connection
from .failures import RULES_PAGE, retry

_SERVICE = "competitions.CompetitionApiService"
_PAGE = 100  # submissions in an answer


class Competition:
    """The competition, as seen by a user who takes part in it."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection."""
        self._connection = connection

    def download(self, path: Path) -> None:
        """Download the archive of the competition's data, resuming an interrupted download."""
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        request = ApiDownloadDataFilesRequest()
        request.competition_name = SLUG

        def fetch() -> None:
            with self._connection.api.build_kaggle_client() as kaggle:
                response = kaggle.competitions.competition_api_client.download_data_files(request)
                self._connection.receive(response, path, quiet=not sys.stderr.isatty())

        retry(fetch, f"download {SLUG}", repeat=True, denied=f"accept the competition's rules at {RULES_PAGE}")

    def submissions_left(self) -> int:
        """How many submissions may still be made today (UTC)."""
        from kagglesdk.competitions.types.competition_api_service import (
            ApiGetSubmissionLimitsRequest,
            ApiSubmissionLimits,
        )

        request = ApiGetSubmissionLimitsRequest()
        request.competition_name = SLUG
        answer = self._connection.call(f"{_SERVICE}/GetSubmissionLimits", request, ApiSubmissionLimits)
        return answer.num_allowed_now or 0

    def submit(self, slug: str, version: int, description: str) -> int:
        """Submit a kernel's version, which Kaggle runs again and scores.

        Returns:
            Number of the submission; 0 in a dry run, or if Kaggle returned none.

        Raises:
            AnswerLost: It is not known whether it was submitted.
            KaggleError: Kaggle refuses it.
        """
        from kagglesdk.competitions.types.competition_api_service import (
            ApiCreateCodeSubmissionRequest,
            ApiCreateCodeSubmissionResponse,
        )

        request = ApiCreateCodeSubmissionRequest()
        request.competition_name, request.file_name = SLUG, SUBMISSION
        request.kernel_owner, request.kernel_slug = self._connection.owner, slug
        request.kernel_version, request.submission_description = version, description
        method = f"{_SERVICE}/CreateCodeSubmission"
        answer = self._connection.call(method, request, ApiCreateCodeSubmissionResponse, writes=True)
        return answer.ref or 0

    def submissions(self) -> Iterator[Any]:
        """The user's submissions, newest first, each with ref, description, status, scores and error."""
        from kagglesdk.competitions.types.competition_api_service import (
            ApiListSubmissionsRequest,
            ApiListSubmissionsResponse,
        )

        page = 1
        while True:
            request = ApiListSubmissionsRequest()
            request.competition_name, request.page, request.page_size = SLUG, page, _PAGE
            answer = self._connection.call(f"{_SERVICE}/ListSubmissions", request, ApiListSubmissionsResponse)
            found = answer.submissions or []
            yield from found
            if len(found) < _PAGE:
                return
            page += 1
