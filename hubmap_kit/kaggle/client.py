"""Kaggle's API through the official client, with every failure told.

The client prints what went wrong and goes on, retries some calls and not others, and leaves files out
whose upload failed. Here each call answers or raises `KaggleError`, in one line with a remedy and
without secrets. Reading is retried; a call that changes something is not, where nobody knows whether it
arrived: `AnswerLost` leaves it to the caller to look.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..competition import SLUG
from ..files import size_text
from .failures import (
    KEPT,
    NO_CREDENTIALS,
    RULES_PAGE,
    AnswerLost,
    KaggleError,
    Missing,
    one_line,
    refused,
    retry,
    token_source,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """What a kernel version left behind.

    Attributes:
        files: File's path in ``/kaggle/working`` to the URL it can be had from.
        log: Its log, as text.
    """

    files: dict[str, str]
    log: str


class Client:
    """A user's connection to Kaggle.

    Attributes:
        owner: The user's name on Kaggle.
        dry_run: Whether calls that change something are shown instead of sent.
    """

    def __init__(self, api: Any, owner: str, *, dry_run: bool = False) -> None:
        """Use `connect`.

        Args:
            api: The official client, authenticated; None, in a dry run only, to show reading calls too.
            owner: The user's name.
            dry_run: See the class.
        """
        self._api = api
        self.owner = owner
        self.dry_run = dry_run

    @classmethod
    def connect(cls, *, dry_run: bool = False) -> Client:
        """Connect with the user's credentials: a token, ``kaggle.json`` or an OAuth login.

        Args:
            dry_run: See the class; without credentials nothing is sent at all, and the owner is OWNER.

        Raises:
            KaggleError: There are no credentials, or Kaggle refuses them.
        """
        for name in ("VERBOSE", "VERBOSE_OUTPUT"):  # make the client print every request, credentials and all
            os.environ.pop(name, None)
        try:
            with _silenced():
                from kaggle.api.kaggle_api_extended import KaggleApi  # authenticates on import, too

                api = KaggleApi()
                retry(api.authenticate, "sign in", repeat=True)
        except SystemExit:
            if dry_run:
                return cls(None, "OWNER", dry_run=True)
            if source := token_source():
                raise KaggleError(refused(source)) from None
            raise KaggleError(NO_CREDENTIALS) from None
        except ImportError as error:
            raise KaggleError(f"Kaggle's client is missing ({error}); install hubmap-kit[kaggle]") from error
        return cls(api, api.config_values[api.CONFIG_NAME_USER], dry_run=dry_run)

    @property
    def connected(self) -> bool:
        """Whether there are credentials; False in some dry runs only."""
        return self._api is not None

    # Datasets

    def dataset_version(self, slug: str) -> int:
        """Number of the dataset's current version; 0 where there is no such dataset."""
        from kagglesdk.datasets.types.dataset_api_service import ApiDataset, ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = self.owner, slug
        found = self._call("datasets.DatasetApiService/GetDataset", request, ApiDataset, absent=True)
        return (found.current_version_number or 0) if found else 0

    def dataset_status(self, slug: str) -> str:
        """Status of the dataset's newest version, such as ``READY`` or ``FAILED``."""
        from kagglesdk.datasets.types.dataset_api_service import (
            ApiGetDatasetStatusRequest,
            ApiGetDatasetStatusResponse,
        )

        request = ApiGetDatasetStatusRequest()
        request.owner_slug, request.dataset_slug = self.owner, slug
        answer = self._call(
            "datasets.DatasetApiService/GetDatasetStatus", request, ApiGetDatasetStatusResponse, absent=True
        )
        return answer.status.name if answer else "NOT_YET_PERSISTED"

    def upload(self, files: list[Path]) -> list[Any]:
        """Upload files; those of an earlier attempt that was interrupted are not sent again.

        Returns:
            What `save_dataset` takes, one for each file.

        Raises:
            KaggleError: A file did not arrive.
        """
        if self.dry_run:
            for path in files:
                body = {"type": "DATASET", "name": path.name, "contentLength": path.stat().st_size}
                self._show("blobs.BlobApiService/StartBlobUpload", body)
                print(f"  PUT  {path} ({size_text(path.stat().st_size)})")
            return []
        from kaggle.api.kaggle_api_extended import ResumableUploadContext

        tokens = []
        with ResumableUploadContext() as context:
            for number, path in enumerate(files, start=1):
                print(f"  {number}/{len(files)} {path.name} ({size_text(path.stat().st_size)})", flush=True)
                token = self._upload_one(path, context)
                if token is None:  # what was remembered of an earlier attempt may have expired: once more, from nothing
                    context._file_uploads[-1].cleanup()
                    token = self._upload_one(path, context)
                if token is None:
                    context._file_uploads[-1].cleanup()
                    raise KaggleError(f"{path.name} did not arrive at Kaggle, so no version was made of it; {KEPT}")
                tokens.append(token)
        return tokens

    def _upload_one(self, path: Path, context: Any) -> Any:
        from kagglesdk.blobs.types.blob_api_service import ApiBlobType
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest

        def upload() -> Any:
            collected = ApiCreateDatasetRequest()
            collected.files = []
            others = [other.name for other in path.parent.iterdir() if other != path]
            with _silenced(show_errors=sys.stderr.isatty()):
                # The client's only public way to upload takes a folder: all but this file are to be ignored.
                self._api.upload_files(
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

    def save_dataset(self, metadata: dict[str, Any], files: list[Any], notes: str, *, create: bool) -> None:
        """Make a dataset, or a new version of it, from uploaded files.

        Args:
            metadata: Its ``dataset-metadata.json``.
            files: From `upload`; all there will be in this version.
            notes: Told of a new version.
            create: Whether the dataset is new.

        Raises:
            AnswerLost: Nobody knows whether it was made.
            KaggleError: Kaggle refuses.
        """
        from kagglesdk.datasets.types.dataset_api_service import (
            ApiCreateDatasetRequest,
            ApiCreateDatasetResponse,
            ApiCreateDatasetVersionRequest,
            ApiCreateDatasetVersionRequestBody,
        )

        slug = metadata["id"].partition("/")[2]
        request: Any
        if create:
            request = body = ApiCreateDatasetRequest()
            request.owner_slug, request.slug, request.title = self.owner, slug, metadata["title"]
            request.license_name, request.is_private = metadata["licenses"][0]["name"], True
        else:
            request, body = ApiCreateDatasetVersionRequest(), ApiCreateDatasetVersionRequestBody()
            request.owner_slug, request.dataset_slug, body.version_notes = self.owner, slug, notes
        body.subtitle, body.description, body.files = metadata["subtitle"], metadata["description"], files
        if not create:
            request.body = body
        method = "CreateDataset" if create else "CreateDatasetVersion"
        answer = self._call(f"datasets.DatasetApiService/{method}", request, ApiCreateDatasetResponse, writes=True)
        if answer.error or (answer.status or "ok").lower() == "error":
            remedy = "if that is a dataset of yours, rename or delete it on Kaggle" if create else KEPT
            raise KaggleError(f"Kaggle made no version of {slug}: {one_line(answer.error or 'no reason')}; {remedy}")

    # Kernels

    def kernel(self, slug: str) -> tuple[int, str]:
        """Number and source of the kernel's newest version; 0 and nothing where there is no such kernel."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest, ApiGetKernelResponse

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = self.owner, slug
        found = self._call("kernels.KernelsApiService/GetKernel", request, ApiGetKernelResponse, absent=True)
        if not found or not found.metadata:
            return 0, ""
        return found.metadata.current_version_number or 0, (found.blob.source if found.blob else "") or ""

    def save_kernel(self, metadata: dict[str, Any], text: str) -> int:
        """Push a kernel, which makes a version and runs it.

        Args:
            metadata: Its ``kernel-metadata.json``, with the owner in place.
            text: Its source.

        Returns:
            The version's number; 0 in a dry run.

        Raises:
            AnswerLost: Nobody knows whether it was pushed.
            KaggleError: Kaggle refuses it, or would run it without one of its sources.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest, ApiSaveKernelResponse

        request = ApiSaveKernelRequest()
        request.slug, request.new_title, request.text = metadata["id"], metadata["title"], text
        for name in ("language", "kernel_type", "is_private", "enable_gpu", "enable_tpu", "enable_internet"):
            setattr(request, name, metadata[name])
        request.machine_shape = metadata["machine_shape"]
        request.docker_image_pinning_type = metadata["docker_image_pinning_type"]
        for kind in ("dataset", "competition", "kernel", "model"):
            setattr(request, f"{kind}_data_sources", metadata[f"{kind}_sources"])
        answer = self._call("kernels.KernelsApiService/SaveKernel", request, ApiSaveKernelResponse, writes=True)
        if self.dry_run:
            return 0
        if answer.error:
            raise KaggleError(
                f"Kaggle refuses the kernel {metadata['id']}: {one_line(answer.error)}; correct that and push again"
            )
        for kind, invalid in (
            ("dataset", answer.invalid_dataset_sources),
            ("competition", answer.invalid_competition_sources),
            ("kernel", answer.invalid_kernel_sources),
            ("model", answer.invalid_model_sources),
        ):
            if invalid:
                remedy = (
                    f"accept its rules at {RULES_PAGE}"
                    if kind == "competition"
                    else "push it first, or correct its name"
                )
                raise KaggleError(
                    f"Kaggle took {metadata['id']} but not its {kind} {', '.join(invalid)}, "
                    f"so that this version cannot work; {remedy}, then push again"
                )
        if not answer.version_number:
            raise AnswerLost(f"Kaggle's answer names no version of {metadata['id']}; {KEPT}")
        return answer.version_number

    def kernel_status(self, slug: str, version: int) -> tuple[str, str]:
        """Status of a version, such as ``QUEUED``, ``RUNNING``, ``COMPLETE`` or ``ERROR``, and why it failed."""
        from kagglesdk.kernels.types.kernels_api_service import (
            ApiGetKernelSessionStatusRequest,
            ApiGetKernelSessionStatusResponse,
        )

        request = ApiGetKernelSessionStatusRequest()
        request.user_name, request.kernel_slug, request.version_label = self.owner, slug, f"v{version}"
        answer = self._call(
            "kernels.KernelsApiService/GetKernelSessionStatus", request, ApiGetKernelSessionStatusResponse
        )
        return answer.status.name, answer.failure_message or ""

    def kernel_output(self, slug: str, version: int) -> Output:
        """Files and log of a version that has ended."""
        from kagglesdk.kernels.types.kernels_api_service import (
            ApiListKernelSessionOutputRequest,
            ApiListKernelSessionOutputResponse,
        )

        files: dict[str, str] = {}
        log, page = "", ""
        while True:
            request = ApiListKernelSessionOutputRequest()
            request.user_name, request.kernel_slug, request.version_label = self.owner, slug, f"v{version}"
            request.page_size, request.page_token = 100, page
            answer = self._call(
                "kernels.KernelsApiService/ListKernelSessionOutput", request, ApiListKernelSessionOutputResponse
            )
            files |= {file.file_name: file.url for file in answer.files or []}
            log = log or _plain_log(answer.log or "")
            page = answer.next_page_token or ""
            if not page:
                return Output(files, log)

    def download(self, url: str, path: Path, *, quiet: bool = True) -> None:
        """Download a file whole, going on with an interrupted download where the server allows it."""
        import requests

        def fetch() -> None:
            with requests.get(url, stream=True, timeout=300) as response:
                response.raise_for_status()
                self._receive(response, path, quiet=quiet)

        retry(fetch, f"download {path.name}", repeat=True)

    # The competition

    def download_competition(self, path: Path) -> None:
        """Download the competition's archive to `path`, going on with an interrupted download."""
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFilesRequest

        request = ApiDownloadDataFilesRequest()
        request.competition_name = SLUG

        def fetch() -> None:
            with self._api.build_kaggle_client() as kaggle:
                response = kaggle.competitions.competition_api_client.download_data_files(request)
                self._receive(response, path, quiet=not sys.stderr.isatty())

        retry(fetch, f"download {SLUG}", repeat=True, denied=f"accept the competition's rules at {RULES_PAGE}")

    def submissions_left(self) -> int:
        """How many submissions may still be made today (UTC)."""
        from kagglesdk.competitions.types.competition_api_service import (
            ApiGetSubmissionLimitsRequest,
            ApiSubmissionLimits,
        )

        request = ApiGetSubmissionLimitsRequest()
        request.competition_name = SLUG
        answer = self._call("competitions.CompetitionApiService/GetSubmissionLimits", request, ApiSubmissionLimits)
        return answer.num_allowed_now or 0

    def submit(self, slug: str, version: int, description: str) -> int:
        """Submit a kernel's version to be run again and scored.

        Returns:
            Number by which the submission is known; 0 in a dry run or where Kaggle tells none.

        Raises:
            AnswerLost: Nobody knows whether it was submitted.
            KaggleError: Kaggle refuses it.
        """
        from kagglesdk.competitions.types.competition_api_service import (
            ApiCreateCodeSubmissionRequest,
            ApiCreateCodeSubmissionResponse,
        )

        request = ApiCreateCodeSubmissionRequest()
        request.competition_name, request.file_name = SLUG, "submission.csv"
        request.kernel_owner, request.kernel_slug, request.kernel_version = self.owner, slug, version
        request.submission_description = description
        answer = self._call(
            "competitions.CompetitionApiService/CreateCodeSubmission",
            request,
            ApiCreateCodeSubmissionResponse,
            writes=True,
        )
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
            request.competition_name, request.page, request.page_size = SLUG, page, 100
            answer = self._call(
                "competitions.CompetitionApiService/ListSubmissions", request, ApiListSubmissionsResponse
            )
            yield from answer.submissions or []
            if len(answer.submissions or []) < 100:
                return
            page += 1

    def _call(
        self, method: str, request: Any, answer: type[T], *, writes: bool = False, absent: bool = False
    ) -> T | Any:
        """One call; `absent` gives None for what does not exist, which Kaggle also calls forbidden."""
        if self.dry_run:
            self._show(method, request.to_dict())
            if writes or not self.connected:
                return answer()
        service, _, name = method.partition("/")

        def send() -> T:
            with self._api.build_kaggle_client() as kaggle, _silenced():
                return kaggle.http_client().call(service, name, request, answer)

        denied = f"accept the competition's rules at {RULES_PAGE}" if service.startswith("competitions") else None
        try:
            return retry(send, name, repeat=not writes, denied=denied)
        except Missing:
            if absent:
                return None
            raise

    def _show(self, method: str, body: dict[str, Any]) -> None:
        print(f"  POST {method} {json.dumps(_abridged(body))}")

    def _receive(self, response: Any, path: Path, *, quiet: bool) -> None:
        """Write a response's body with the client's own download, which resumes and checks the size."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not `replacing`: a part must stay for the next attempt, under a name that it will find.
        part = path.with_name(f".{path.name}.part")
        try:
            with _silenced(show_errors=not quiet):
                self._api.download_file(response, str(part), None, quiet=quiet, resume=True)
        except ValueError as error:
            part.unlink(missing_ok=True)
            raise KaggleError(f"{path.name} did not arrive whole ({error}); {KEPT}") from error
        part.replace(path)


def _plain_log(log: str) -> str:
    """A kernel's log as text; Kaggle keeps it as a JSON list of pieces with stream and time."""
    try:
        return "".join(piece["data"] for piece in json.loads(log))
    except (ValueError, TypeError, KeyError):
        return log


def _abridged(body: dict[str, Any]) -> dict[str, Any]:
    """A request's body as a dry run shows it: a kernel's source by its size only."""
    return body | ({"text": f"<{len(body['text'])} characters>"} if "text" in body else {})


@contextlib.contextmanager
def _silenced(*, show_errors: bool = True) -> Iterator[None]:
    """Keep what the client prints, hints and half-told failures, out of the output."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not show_errors:
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield
