"""A stand-in for Kaggle's API, for tests that run commands with the official client unmodified.

With KAGGLE_API_ENVIRONMENT=LOCALHOST the client calls http://localhost/api/v1/<service>/<Method>; `http_proxy` brings
these calls here, and `https_proxy` points to a dead port, so that nothing leaves the machine.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

COMPETITION = "hubmap-organ-segmentation"
BASE = "http://localhost"
LAST_MODIFIED = "Wed, 22 Jun 2022 00:00:00 GMT"
DROPPED = ("VERBOSE", "VERBOSE_OUTPUT", "XDG_CONFIG_HOME", "NETRC")  # the first two print every header, key included
NO_DOWNLOAD = "You must accept this competition's rules before you'll be able to download files."
NO_SUBMISSION = "You cannot submit until you accept the competition rules"
IN_USE = 'The requested title "{}" is already in use by a dataset. Please choose another title.'

Body = dict[str, Any]


@dataclass
class Call:
    """One request: an API call, or with method "PUT" or "GET" an upload or download, whose service is empty.

    The body of an upload or download says `url`, `name` (of the file), `range` and `length` (of the data
    sent, in bytes).
    """

    method: str
    service: str
    body: Body
    time: float  # time.monotonic(), in seconds


@dataclass
class Answer:
    """An answer; if `cut` is a number, only that many bytes of the data are sent."""

    status: int = 200
    data: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


class Refusal(Exception):
    """An error answer {"code": status, "message": message}."""

    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        data = json.dumps({"code": status, "message": message or HTTPStatus(status).phrase}).encode()
        self.answer = Answer(status, data, {"Content-Type": "application/json", **(headers or {})})


@dataclass
class Upload:
    """A blob that is being uploaded: the bytes that have arrived."""

    name: str
    length: int
    data: bytearray = field(default_factory=bytearray)
    was_cut: bool = False

    @property
    def complete(self) -> bool:
        return len(self.data) == self.length


@dataclass
class Dataset:
    """A dataset; `metadata` is the last CreateDataset or CreateDatasetVersion body."""

    versions: list[dict[str, bytes]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metadata: Body = field(default_factory=dict)
    old_left: int = 0  # polls of GetDataset that still answer the old version
    wait_left: int = 0  # polls of GetDatasetStatus until READY


@dataclass
class KernelResult:
    """How a run ends."""

    status: str = "COMPLETE"
    output: dict[str, bytes] = field(default_factory=dict)
    log: str = ""
    failure: str = ""


@dataclass
class KernelVersion(KernelResult):
    """A version of a kernel, with the SaveKernel body that made it; its run ends when `run` is empty."""

    body: Body = field(default_factory=dict)
    run: list[str] = field(default_factory=list)


@dataclass
class Fault:
    """Something that goes wrong with some calls of a method; see `StandIn.fault`."""

    method: str
    kind: int | str | Callable[[Call], object]
    first: int
    last: int
    retry_after: float | None
    after: bool
    seen: int = 0


Route = Callable[["StandIn", Body], Body | Answer]
ROUTES: dict[str, Route] = {}


def answers(service: str) -> Callable[[Route], Route]:
    """Let a method answer the call of its own name in camel case."""

    def register(function: Route) -> Route:
        ROUTES[f"{service}/{function.__name__.title().replace('_', '')}"] = function
        return function

    return register


def paged(items: list[Body], body: Body, key: str) -> Body:
    """One page of a list; the token of a page is the number of items before it."""
    size = body.get("pageSize") or 20
    start = int(body.get("pageToken") or 0) or (body.get("page", 1) - 1) * size
    following = str(start + size) if start + size < len(items) else ""
    return {key: [present(item) for item in items[start : start + size]], "nextPageToken": following}


def present(body: Body) -> Body:
    """A body without fields that have their default value, as Kaggle answers."""
    return {key: value for key, value in body.items() if value}


def redirect(path: str) -> Answer:
    return Answer(302, headers={"Location": f"{BASE}/{quote(path)}?Signature=x"})


class StandIn:
    """The server, and what is in it; a context manager. Every attribute may be read and set while it runs.

    Raises:
        AssertionError: On leaving, if the stand-in itself (or a callable given to it) raised.
    """

    def __init__(self) -> None:
        self.user, self.key, self.token = "pathologist", "key-0f1e2d3c4b5a69788796a5b4c3d2e1f0", "KGAT_5c0ffee5c0ffee5c"
        self.calls: list[Call] = []
        self.unknown: list[str] = []  # calls of methods that do not exist here, and requests to other hosts
        self.errors: list[str] = []
        self.missing_status = 403  # status for a dataset or kernel that does not exist

        self.uploads: dict[str, Upload] = {}  # by token
        self.lost_uploads: set[str] = set()  # names of files whose PUT answers 400
        # This many bytes of a PUT are kept, and the answer is 503; once per upload.
        self.cut_uploads_after: int | None = None

        self.datasets: dict[str, Dataset] = {}  # by owner/slug, as all below
        self.slug_in_use: set[str] = set()
        self.ready_after = 0  # polls of GetDatasetStatus after a new version, until it is READY
        self.old_ready = 0  # polls of GetDataset after a new version that answer the old one, which is READY
        self.dataset_status = "READY"  # once it no longer waits

        self.kernels: dict[str, list[KernelVersion]] = {}
        self.run_polls: list[str] = []  # statuses of the next runs before their last
        # Called by SaveKernel with owner/slug and the body, before the version is in `kernels`.
        self.on_kernel_run: Callable[[str, Body], KernelResult] | None = None
        self.kernel_error: str | None = None
        self.empty_push = False
        # Sources to report as invalid, besides those that do not exist; True for all.
        self.invalid_dataset_sources: bool | set[str] = False
        self.invalid_competition_sources: bool | set[str] = False
        self.invalid_kernel_sources: bool | set[str] = False

        self.rules_accepted = True
        self.competition_files: dict[str, bytes] = {}
        self.cut_downloads_after: int | None = None  # this many bytes of a GET are sent; once per URL
        self.submissions: list[Body] = []  # the CreateCodeSubmission bodies, with `ref`, `date`, `polls` and `result`
        self.submissions_left = 5
        self.submission_polls = 0  # number of polls that find a submission pending
        # Results of the next submissions; copied into their `result`.
        self.submission_result: Body = {"status": "COMPLETE", "publicScore": "0.71", "privateScore": "0.68"}

        self._faults: list[Fault] = []
        self._cut_urls: set[str] = set()
        self._lock = threading.RLock()

    def __enter__(self) -> StandIn:
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.stand_in = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        if kind is None and self.errors:
            raise AssertionError("the stand-in failed:\n" + "\n".join(self.errors))

    def environment(self, home: Path, *, credentials: str = "key") -> dict[str, str]:
        """The complete environment of a subprocess that knows no other Kaggle than this one.

        Args:
            home: where its HOME, configuration and temporary files lie; created.
            credentials: "key", "token", "wrong-key", "wrong-token" or "none".
        """
        given = {
            "key": {"KAGGLE_USERNAME": self.user, "KAGGLE_KEY": self.key},
            "token": {"KAGGLE_API_TOKEN": self.token},
            "wrong-key": {"KAGGLE_USERNAME": self.user, "KAGGLE_KEY": "wrong"},
            "wrong-token": {"KAGGLE_API_TOKEN": "wrong"},
            "none": {},
        }[credentials]
        folders = {"HOME": home, "KAGGLE_CONFIG_DIR": home / ".kaggle", "TMPDIR": home / "tmp"}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KAGGLE_") and not name.lower().endswith("_proxy") and name not in DROPPED
        }
        proxies = {
            "http_proxy": f"http://127.0.0.1:{self._server.server_address[1]}",
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "",
        }
        paths = {name: str(folder) for name, folder in folders.items()}
        return {**kept, **proxies, **paths, "KAGGLE_API_ENVIRONMENT": "LOCALHOST", **given}

    def fault(
        self,
        method: str,
        kind: int | str | Callable[[Call], object],
        *,
        nth: int = 1,
        times: int = 1,
        retry_after: float | None = None,
        after: bool = False,
    ) -> None:
        """Let `times` calls of a method go wrong, from the `nth` of those still to come.

        Args:
            method: of the API, or "PUT" or "GET".
            kind: an HTTP status, the answer without processing; "drop", which closes the connection without processing;
                "lose", which processes, then closes without an answer; or a function to call before processing.
            nth: counted from 1.
            times: consecutive calls.
            retry_after: seconds in the Retry-After header of a status.
            after: call `kind` after processing and before the answer.
        """
        self._faults.append(Fault(method, kind, nth, nth + times - 1, retry_after, after))

    def serve(self, verb: str, url: str, headers: Message, data: bytes) -> Answer | None:
        """The answer to a request, or None to close the connection instead."""
        parts = urlsplit(url)
        service, _, method = parts.path.removeprefix("/api/v1/").rpartition("/")
        if verb == "POST":
            call = Call(method, service, json.loads(data or b"{}"), time.monotonic())
        else:
            upload = self.uploads.get(method)
            name = upload.name if upload else unquote(method)
            span = headers.get("Content-Range" if verb == "PUT" else "Range", "")
            call = Call(verb, "", {"url": url, "name": name, "range": span, "length": len(data)}, time.monotonic())
        with self._lock:
            self.calls.append(call)
            fault = self._next_fault(call.method)
        kind = fault.kind if fault else None
        try:
            if isinstance(kind, int):
                wait = fault.retry_after if fault else None
                raise Refusal(kind, headers={} if wait is None else {"Retry-After": f"{wait:g}"})
            if kind == "drop":
                return None
            if fault and callable(kind) and not fault.after:
                kind(call)
            with self._lock:
                answer = self._process(call, url, parts.path, headers, data)
        except Refusal as refusal:
            answer = refusal.answer
        if fault and callable(kind) and fault.after:
            kind(call)
        return None if kind == "lose" else answer

    def _next_fault(self, method: str) -> Fault | None:
        chosen = None
        for fault in self._faults:
            if fault.method == method:
                fault.seen += 1
                if fault.first <= fault.seen <= fault.last:
                    chosen = chosen or fault
        return chosen

    def _process(self, call: Call, url: str, path: str, headers: Message, data: bytes) -> Answer:
        if urlsplit(url).hostname not in (None, "localhost"):
            self.unknown.append(url)
            raise Refusal(404)
        if call.method == "PUT":
            return self._put(path, headers.get("Content-Range", ""), data)
        if call.method == "GET":
            return self._get(url, unquote(path), headers)
        route = f"{call.service}/{call.method}"
        if route not in ROUTES:
            self.unknown.append(route)
            raise Refusal(404)
        basic = "Basic " + base64.b64encode(f"{self.user}:{self.key}".encode()).decode()
        if headers.get("Authorization") not in (basic, f"Bearer {self.token}"):
            raise Refusal(401, "Unauthenticated")
        answer = ROUTES[route](self, call.body)
        if isinstance(answer, Answer):
            return answer
        return Answer(data=json.dumps(present(answer)).encode(), headers={"Content-Type": "application/json"})

    # Uploads and downloads

    def _put(self, path: str, content_range: str, data: bytes) -> Answer:
        """Take a blob, or the rest of one; without data ("bytes */N") say how much is here."""
        upload = self.uploads.get(path.rpartition("/")[2])
        if upload is None:
            raise Refusal(404)
        if upload.name in self.lost_uploads:
            raise Refusal(400)
        if not content_range.startswith("bytes */"):
            start = int(re.findall(r"\d+", content_range)[0]) if content_range else 0
            if start > len(upload.data):
                raise Refusal(400, f"{start} bytes expected here, {len(upload.data)} are")
            upload.data[start:] = data
            if self.cut_uploads_after is not None and not upload.was_cut and len(upload.data) > self.cut_uploads_after:
                upload.was_cut = True
                del upload.data[self.cut_uploads_after :]
                raise Refusal(503)
        if upload.complete:
            return Answer(data=b"{}", headers={"Content-Type": "application/json"})
        return Answer(308, headers={"Range": f"bytes=0-{len(upload.data) - 1}"} if upload.data else {})

    def _get(self, url: str, path: str, headers: Message) -> Answer:
        """Send a file, or a range of it if one is requested and the file is unchanged (If-Range)."""
        whole = self._file(path.lstrip("/"))
        etag = f'"{hashlib.sha256(whole).hexdigest()[:16]}"'
        answer = Answer(data=whole, headers={"ETag": etag, "Last-Modified": LAST_MODIFIED, "Accept-Ranges": "bytes"})
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        if span and headers.get("If-Range", etag) in (etag, LAST_MODIFIED):
            start, stop = int(span[1]), min(int(span[2] or len(whole)) + 1, len(whole))
            if start >= len(whole):
                raise Refusal(416, headers={"Content-Range": f"bytes */{len(whole)}"})
            answer.status, answer.data = 206, whole[start:stop]
            answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(whole)}"
        if self.cut_downloads_after is not None and url not in self._cut_urls:
            self._cut_urls.add(url)
            answer.cut = self.cut_downloads_after
        return answer

    def _file(self, path: str) -> bytes:
        kind, _, rest = path.partition("/")
        if path == "data/archive.zip":
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as archive:
                for name, data in self.competition_files.items():
                    archive.writestr(zipfile.ZipInfo(name), data)
            return stream.getvalue()
        if kind == "files" and rest in self.competition_files:
            return self.competition_files[rest]
        found = re.fullmatch(r"output/([^/]+/[^/]+)/v(\d+)/(.+)", path)
        if not found or found[3] not in self.kernels[found[1]][int(found[2]) - 1].output:
            raise Refusal(404)
        return self.kernels[found[1]][int(found[2]) - 1].output[found[3]]

    @answers("blobs.BlobApiService")
    def start_blob_upload(self, body: Body) -> Body:
        token = f"blob-{len(self.uploads) + 1}"
        self.uploads[token] = Upload(body["name"], body.get("contentLength", 0))
        return {"token": token, "createUrl": f"{BASE}/upload/{token}"}

    @answers("security.OAuthService")
    def introspect_token(self, body: Body) -> Body:
        return {"active": True, "username": self.user} if body.get("token") == self.token else {}

    # Datasets

    def _dataset(self, body: Body) -> Dataset:
        ref = f"{body.get('ownerSlug')}/{body.get('datasetSlug')}"
        if ref not in self.datasets:
            raise Refusal(self.missing_status, "Permission 'datasets.get' was denied")
        return self.datasets[ref]

    def _add_version(self, dataset: Dataset, body: Body, notes: str) -> None:
        uploads = [self.uploads.get(new.get("token", "")) for new in body.get("files", [])]
        if not all(upload and upload.complete for upload in uploads):
            raise Refusal(400, "A file was not uploaded")
        dataset.old_left = self.old_ready if dataset.versions else 0
        dataset.wait_left = self.ready_after
        dataset.versions.append({upload.name: bytes(upload.data) for upload in uploads if upload})
        dataset.notes.append(notes)
        dataset.metadata = body

    @answers("datasets.DatasetApiService")
    def create_dataset(self, body: Body) -> Body:
        ref = f"{body.get('ownerSlug', self.user)}/{body['slug']}"
        if not ref.startswith(f"{self.user}/"):
            raise Refusal(403, "Permission 'datasets.create' was denied")
        if ref in self.datasets or ref in self.slug_in_use or body["slug"] in self.slug_in_use:
            return {"status": "error", "error": IN_USE.format(body["title"])}
        dataset = Dataset()
        self._add_version(dataset, body, "")
        self.datasets[ref] = dataset
        return {"status": "ok"}

    @answers("datasets.DatasetApiService")
    def create_dataset_version(self, body: Body) -> Body:
        new = body.get("body", {})
        self._add_version(self._dataset(body), new, new.get("versionNotes", ""))
        return {"status": "ok", "url": f"https://www.kaggle.com/datasets/{body['ownerSlug']}/{body['datasetSlug']}"}

    @answers("datasets.DatasetApiService")
    def get_dataset(self, body: Body) -> Body:
        dataset = self._dataset(body)
        number = len(dataset.versions) - (dataset.old_left > 0)
        dataset.old_left = max(dataset.old_left - 1, 0)
        return {"ref": f"{body['ownerSlug']}/{body['datasetSlug']}", "currentVersionNumber": number}

    @answers("datasets.DatasetApiService")
    def get_dataset_status(self, body: Body) -> Body:
        dataset = self._dataset(body)
        if dataset.old_left or not dataset.wait_left:
            return {"status": "READY" if dataset.old_left else self.dataset_status}
        dataset.wait_left -= 1
        return {"status": "BLOBS_RECEIVED"} if dataset.wait_left else {}  # {} stands for NOT_YET_PERSISTED

    @answers("datasets.DatasetApiService")
    def list_dataset_files(self, body: Body) -> Body:
        dataset = self._dataset(body)
        number = body.get("datasetVersionNumber") or len(dataset.versions) - (dataset.old_left > 0)
        if not 1 <= number <= len(dataset.versions):
            raise Refusal(404)
        files = [{"name": name, "totalBytes": len(data)} for name, data in dataset.versions[number - 1].items()]
        return paged(files, body, "datasetFiles")

    # Kernels

    def _kernel(self, body: Body) -> tuple[str, int, KernelVersion]:
        """The kernel version that a body names: its kernel, number (from 1) and content."""
        ref, label = f"{body.get('userName')}/{body.get('kernelSlug')}", body.get("versionLabel", "")
        if ref not in self.kernels:
            raise Refusal(self.missing_status, "Permission 'kernels.get' was denied")
        versions = self.kernels[ref]
        number = len(versions) if not label else int(label[1:]) if re.fullmatch(r"v\d+", label) else 0
        if not 1 <= number <= len(versions):
            raise Refusal(404)
        return ref, number, versions[number - 1]

    @answers("kernels.KernelsApiService")
    def save_kernel(self, body: Body) -> Body:
        owner, slug = body["slug"].split("/")
        if owner != self.user:
            return {"error": "Notebook not found"}
        if self.kernel_error or self.empty_push:
            return {"error": self.kernel_error or ""}
        if body["slug"] not in self.kernels:  # the title of a new kernel decides on its slug
            slug = re.sub(r"[^a-z0-9]+", "-", body.get("newTitle", slug).lower()).strip("-")
        ref = f"{owner}/{slug}"
        result = self.on_kernel_run(ref, body) if self.on_kernel_run else KernelResult()
        versions = self.kernels.setdefault(ref, [])
        versions.append(KernelVersion(**vars(result), body=body, run=list(self.run_polls)))
        answer = {"ref": f"/code/{ref}", "url": f"https://www.kaggle.com/code/{ref}", "versionNumber": len(versions)}
        for kind, existing in (("Dataset", self.datasets), ("Competition", {COMPETITION}), ("Kernel", self.kernels)):
            knob = getattr(self, f"invalid_{kind.lower()}_sources")
            named = body.get(f"{kind.lower()}DataSources", [])
            reported = named if knob is True else [source for source in named if source in (knob or ())]
            missing = [source for source in named if source not in existing]
            answer[f"invalid{kind}Sources"] = [source for source in named if source in (*reported, *missing)]
        return answer

    @answers("kernels.KernelsApiService")
    def get_kernel(self, body: Body) -> Body:
        ref, _, version = self._kernel(body)
        copied = "language kernelType isPrivate enableGpu enableInternet machineShape".split()
        copied += "datasetDataSources competitionDataSources kernelDataSources".split()
        metadata = {key: version.body[key] for key in copied if key in version.body}
        slug, current = ref.split("/")[1], len(self.kernels[ref])
        metadata |= {"ref": ref, "slug": slug, "author": self.user, "currentVersionNumber": current}
        return {"metadata": metadata, "blob": {"source": version.body.get("text", ""), "slug": slug}}

    @answers("kernels.KernelsApiService")
    def get_kernel_session_status(self, body: Body) -> Body:
        version = self._kernel(body)[2]
        status, failure = (version.run.pop(0), "") if version.run else (version.status, version.failure)
        return {"status": "" if status == "QUEUED" else status, "failureMessage": failure}

    @answers("kernels.KernelsApiService")
    def list_kernel_session_output(self, body: Body) -> Body:
        """Files by page, the log with the first page; nothing before the run has ended."""
        ref, number, version = self._kernel(body)
        if version.run:
            return {}
        root = f"{BASE}/output/{ref}/v{number}"
        files = [{"fileName": name, "url": f"{root}/{quote(name)}?Signature=x"} for name in version.output]
        return {**paged(files, body, "files"), "log": "" if body.get("pageToken") else version.log}

    # The competition

    def _entered(self, body: Body, refusal: str) -> None:
        if body.get("competitionName") != COMPETITION:
            raise Refusal(404)
        if not self.rules_accepted:
            raise Refusal(403, refusal)

    def _submission(self, submission: Body) -> Body:
        """The submission as Kaggle answers it; counts as a poll."""
        submission["polls"] += 1
        shown = {"ref": submission["ref"], "date": submission["date"], "fileName": submission.get("fileName")}
        shown["description"] = submission.get("submissionDescription")
        return present(shown | (submission["result"] if submission["polls"] > self.submission_polls else {}))

    @answers("competitions.CompetitionApiService")
    def get_competition(self, body: Body) -> Body:
        """Open to everyone, whether the rules are accepted or not."""
        if body.get("competitionName") != COMPETITION:
            raise Refusal(404)
        url = f"https://www.kaggle.com/competitions/{COMPETITION}"
        return {"ref": url, "url": url, "userHasEntered": self.rules_accepted, "isKernelsSubmissionsOnly": True}

    @answers("competitions.CompetitionApiService")
    def get_submission_limits(self, body: Body) -> Body:
        self._entered(body, NO_SUBMISSION)
        used = len(self.submissions)
        return {"numToday": used, "numTotal": used, "numAllowedNow": self.submissions_left}

    @answers("competitions.CompetitionApiService")
    def create_code_submission(self, body: Body) -> Body:
        self._entered(body, NO_SUBMISSION)
        versions = self.kernels.get(f"{body.get('kernelOwner')}/{body.get('kernelSlug')}", [])
        if not 1 <= body.get("kernelVersion", len(versions)) <= len(versions):
            raise Refusal(400, "The notebook version to submit does not exist")
        if self.submissions_left <= 0:
            raise Refusal(400, "Your team has used all of its submissions for today")
        self.submissions_left -= 1
        ref = 40_000_001 + len(self.submissions)
        date = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
        self.submissions.append({**body, "ref": ref, "date": date, "polls": 0, "result": dict(self.submission_result)})
        return {"message": "Successfully submitted", "ref": ref}

    @answers("competitions.CompetitionApiService")
    def list_submissions(self, body: Body) -> Body:
        self._entered(body, NO_SUBMISSION)
        return paged([self._submission(submission) for submission in reversed(self.submissions)], body, "submissions")

    @answers("competitions.CompetitionApiService")
    def get_submission(self, body: Body) -> Body:
        for submission in self.submissions:
            if submission["ref"] == body.get("ref"):
                return self._submission(submission)
        raise Refusal(404)

    @answers("competitions.CompetitionApiService")
    def list_data_files(self, body: Body) -> Body:
        self._entered(body, NO_DOWNLOAD)
        files = [{"name": name, "totalBytes": len(data)} for name, data in self.competition_files.items()]
        return paged(files, body, "files")

    @answers("competitions.CompetitionApiService")
    def download_data_files(self, body: Body) -> Answer:
        self._entered(body, NO_DOWNLOAD)
        return redirect("data/archive.zip")

    @answers("competitions.CompetitionApiService")
    def download_data_file(self, body: Body) -> Answer:
        self._entered(body, NO_DOWNLOAD)
        if body.get("fileName") not in self.competition_files:
            raise Refusal(404)
        return redirect(f"files/{body['fileName']}")


class Server(ThreadingHTTPServer):
    """A server that prints nothing and keeps its failures in the stand-in's `errors`."""

    stand_in: StandIn

    def handle_error(self, request: object, client_address: object) -> None:
        text = traceback.format_exc()
        if "ConnectionResetError" not in text and "BrokenPipeError" not in text:  # the client was killed
            self.stand_in.errors.append(text)


class Handler(BaseHTTPRequestHandler):
    """One request per connection (HTTP/1.0), which is closed after it, with or without an answer."""

    server: Server

    def do_POST(self) -> None:
        answer = self.server.stand_in.serve(self.command, self.path, self.headers, self._data())
        if answer is None:
            return
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.data)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.data[: answer.cut])

    do_GET = do_PUT = do_POST

    def _data(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            if len(data) < length and self.command == "POST":
                raise ConnectionResetError  # the client was killed; bytes of a PUT that arrived count
            return data
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, format: str, *args: object) -> None:
        pass
