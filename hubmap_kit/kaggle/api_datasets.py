"""A user's datasets on Kaggle."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import size_text
from .connection import Connection, silenced
from .failures import RERUN, KaggleError, one_line, retry


class Datasets:
    """The user's datasets, each known by its slug."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection."""
        self._connection = connection

    def version(self, slug: str) -> int:
        """Number of the dataset's current version; 0 if there is no such dataset."""
        from kagglesdk.datasets.types.dataset_api_service import ApiDataset, ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self._connection.owner, slug
        found = self._connection.find("datasets.DatasetApiService/GetDataset", request, ApiDataset)
        return (found.current_version_number or 0) if found else 0

    def status(self, slug: str) -> str:
        """Status of the dataset's newest version, such as ``READY`` or ``FAILED``."""
        from kagglesdk.datasets.types.dataset_api_service import (
            ApiGetDatasetStatusRequest,
            ApiGetDatasetStatusResponse,
        )

        request = ApiGetDatasetStatusRequest()
        request.owner_slug, request.dataset_slug = self._connection.owner, slug
        method = "datasets.DatasetApiService/GetDatasetStatus"
        answer = self._connection.find(method, request, ApiGetDatasetStatusResponse)
        return str(answer.status.name) if answer else "NOT_YET_PERSISTED"

    def upload(self, files: Sequence[Path]) -> list[Any]:
        """Upload files, resuming an interrupted upload of the same files.

        Returns:
            One entry for each file, as `save` takes them.

        Raises:
            KaggleError: A file did not arrive.
        """
        if self._connection.dry_run:
            print("  POST blobs.BlobApiService/StartBlobUpload, then PUT, for each file:")
            for path in files:
                print(f"  PUT  {path.name} ({size_text(path.stat().st_size)})")
            return []
        from kaggle.api.kaggle_api_extended import ResumableUploadContext

        tokens = []
        with ResumableUploadContext() as context:
            for number, path in enumerate(files, start=1):
                print(f"  {number}/{len(files)} {path.name} ({size_text(path.stat().st_size)})", flush=True)
                token = self._upload_one(path, context)
                if token is None:  # the interrupted upload may have expired: once more, from the start
                    context._file_uploads[-1].cleanup()
                    token = self._upload_one(path, context)
                if token is None:
                    context._file_uploads[-1].cleanup()
                    raise KaggleError(f"{path.name} did not arrive at Kaggle, so no version was made of it; {RERUN}")
                tokens.append(token)
        return tokens

    def _upload_one(self, path: Path, context: Any) -> Any:
        """Upload a file; returns its entry for `save`, or None if it did not arrive."""
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest

        def upload() -> Any:
            collected = ApiCreateDatasetRequest()
            collected.files = []
            others = [other.name for other in path.parent.iterdir() if other != path]
            # The client raises ValueError if a file does not arrive; up to 2.2.4 it left the file out.
            with silenced(show_errors=sys.stderr.isatty()), contextlib.suppress(ValueError):
                # The client's only public way to upload takes a folder, so all its other files are ignored.
                self._connection.api.upload_files(
                    collected,
                    None,
                    str(path.parent),
                    ApiBlobType.DATASET,
                    context,
                    not sys.stderr.isatty(),
                    "skip",
                    others,
                )
            return collected.files[0] if collected.files else None

        return retry(upload, f"upload {path.name}", repeat=True)

    def save(self, metadata: dict[str, Any], files: list[Any], notes: str, *, create: bool) -> None:
        """Make a dataset, or a new version of it, from uploaded files.

        Args:
            metadata: Its ``dataset-metadata.json``.
            files: From `upload`; the version will hold these files and no others.
            notes: Notes of a new version.
            create: Whether the dataset is new.

        Raises:
            AnswerLost: It is not known whether the version was made.
            KaggleError: Kaggle refuses.
        """
        from kagglesdk.datasets.types.dataset_api_service import (
            ApiCreateDatasetRequest,
            ApiCreateDatasetResponse,
            ApiCreateDatasetVersionRequest,
            ApiCreateDatasetVersionRequestBody,
        )

        owner, slug = self._connection.owner, metadata["id"].partition("/")[2]
        request: Any
        if create:
            request = body = ApiCreateDatasetRequest()
            request.owner_slug, request.slug, request.title = owner, slug, metadata["title"]
            request.license_name, request.is_private = metadata["licenses"][0]["name"], True
        else:
            request, body = ApiCreateDatasetVersionRequest(), ApiCreateDatasetVersionRequestBody()
            request.owner_slug, request.dataset_slug, body.version_notes = owner, slug, notes
        body.subtitle, body.description, body.files = metadata["subtitle"], metadata["description"], files
        if not create:
            request.body = body
        method = f"datasets.DatasetApiService/{'CreateDataset' if create else 'CreateDatasetVersion'}"
        answer = self._connection.call(method, request, ApiCreateDatasetResponse, writes=True)
        if answer.error or (answer.status or "ok").lower() == "error":
            remedy = "if that is a dataset of yours, rename or delete it on Kaggle" if create else RERUN
            raise KaggleError(f"Kaggle made no version of {slug}: {one_line(answer.error or 'no reason')}; {remedy}")
