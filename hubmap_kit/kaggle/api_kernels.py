"""A user's kernels on Kaggle: their versions, runs and output."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .connection import Connection
from .credentials import redact
from .failures import RERUN, RULES_PAGE, AnswerLost, KaggleError, one_line, retry

_SERVICE = "kernels.KernelsApiService"


@dataclass(frozen=True)
class Output:
    """What a kernel version left behind.

    Attributes:
        files: URL that each file is downloaded from, by its path in ``/kaggle/working``.
        log: Its log, as text.
    """

    files: dict[str, str]
    log: str


class Kernels:
    """The user's kernels, each known by its slug."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection."""
        self._connection = connection

    def newest(self, slug: str) -> tuple[int, str]:
        """Number and source of the kernel's newest version; 0 and "" if there is no such kernel."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest, ApiGetKernelResponse

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = self._connection.owner, slug
        found = self._connection.find(f"{_SERVICE}/GetKernel", request, ApiGetKernelResponse)
        if not found or not found.metadata:
            return 0, ""
        return found.metadata.current_version_number or 0, (found.blob.source if found.blob else "") or ""

    def save(self, metadata: dict[str, Any], text: str) -> int:
        """Push a kernel, which makes a version and runs it.

        Args:
            metadata: Its ``kernel-metadata.json``, with the owner in place.
            text: Its source.

        Returns:
            The version's number; 0 in a dry run.

        Raises:
            AnswerLost: It is not known whether it was pushed.
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
        answer = self._connection.call(f"{_SERVICE}/SaveKernel", request, ApiSaveKernelResponse, writes=True)
        if self._connection.dry_run:
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
            raise AnswerLost(f"Kaggle's answer names no version of {metadata['id']}; {RERUN}")
        return int(answer.version_number)

    def status(self, slug: str, version: int) -> tuple[str, str]:
        """Status of a version, such as ``QUEUED``, ``RUNNING``, ``COMPLETE`` or ``ERROR``, and why it failed."""
        from kagglesdk.kernels.types.kernels_api_service import (
            ApiGetKernelSessionStatusRequest,
            ApiGetKernelSessionStatusResponse,
        )

        request = ApiGetKernelSessionStatusRequest()
        request.user_name, request.kernel_slug = self._connection.owner, slug
        request.version_label = f"v{version}"
        method = f"{_SERVICE}/GetKernelSessionStatus"
        answer = self._connection.call(method, request, ApiGetKernelSessionStatusResponse)
        return answer.status.name, redact(answer.failure_message or "")

    def output(self, slug: str, version: int) -> Output:
        """Files and log of a version that has ended."""
        from kagglesdk.kernels.types.kernels_api_service import (
            ApiListKernelSessionOutputRequest,
            ApiListKernelSessionOutputResponse,
        )

        files: dict[str, str] = {}
        log, page = "", ""
        while True:
            request = ApiListKernelSessionOutputRequest()
            request.user_name, request.kernel_slug = self._connection.owner, slug
            request.version_label = f"v{version}"
            request.page_size, request.page_token = 100, page
            method = f"{_SERVICE}/ListKernelSessionOutput"
            answer = self._connection.call(method, request, ApiListKernelSessionOutputResponse)
            files |= {file.file_name: file.url for file in answer.files or []}
            log = log or _plain_log(answer.log or "")
            page = answer.next_page_token or ""
            if not page:
                return Output(files, log)

    def download(self, url: str, path: Path) -> None:
        """Download a file whole, resuming an interrupted download if the server allows it."""
        import requests

        def fetch() -> None:
            with requests.get(url, stream=True, timeout=300) as response:
                response.raise_for_status()
                self._connection.receive(response, path, quiet=True)

        retry(fetch, f"download {path.name}", repeat=True)


def _plain_log(log: str) -> str:
    """A kernel's log as text; Kaggle returns it as a JSON list of pieces, each with its stream and time."""
    try:
        return "".join(piece["data"] for piece in json.loads(log))
    except (ValueError, TypeError, KeyError):
        return log
