"""Push datasets and kernels to Kaggle in order, each only if it changed, and wait until the kernels have run.

`PARTS` is the order. What was done is kept in `hubmap_kit.kaggle.records`, so that an interrupted push goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..competition import SUBMISSION
from ..files import read_json, size_text
from ..lazy import Lazy
from .api_datasets import Datasets
from .api_kernels import Kernels
from .clone import commit_of
from .connection import Connection
from .credentials import redact
from .failures import KaggleError
from .manifest import MANIFEST, Manifest
from .metadata import DATASETS, KERNELS, check_files, dataset_metadata, kernel_metadata
from .names import INFER, KIT, NOTEBOOK, TRAIN, WEIGHTS
from .records import FOLDER, PACE, Records
from .source import is_same_source, notebook_text, with_settings
from .waiting import once, until

if TYPE_CHECKING:
    from .. import run
    from . import weights
else:  # the command line lists the parts without NumPy, which these import
    run, weights = Lazy("hubmap_kit.run"), Lazy("hubmap_kit.kaggle.weights")

MOST_SESSIONS = 10  # of one training; each goes on from the one before

DATASET_PAUSE_S, DATASET_PATIENCE_S = 5.0, 3600.0
KERNEL_PAUSE_S, KERNEL_PATIENCE_S = 30.0, 24 * 3600.0  # Kaggle's sessions end after 12 h, and wait in a queue before
_LOG_TAIL = 20  # lines of a failed kernel's log that are shown


class Push:
    """One push by one user from one clone."""

    def __init__(
        self,
        connection: Connection,
        clone: Path,
        kit: Path | None,
        *,
        runs: Sequence[Path] = (),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        hours: Mapping[str, str] | None = None,
        poll_s: float | None = None,
    ) -> None:
        """Prepare a push.

        Args:
            connection: The connection.
            clone: The clone that is pushed.
            kit: The bundle; None in a dry run of a clone that has none yet.
            runs: Run folders for the weights; if there are none, the one that the training kernel left.
            settings: Settings to change, by kernel.
            hours: A line about the hours that a kernel takes on Kaggle, by kernel.
            poll_s: Seconds between two questions to Kaggle; by default 5 about a dataset and 30 about a kernel.
        """
        self._connection = connection
        self._datasets, self._kernels = Datasets(connection), Kernels(connection)
        self._clone = clone
        self._bundle = kit
        self._runs = runs
        self._settings = settings or {}
        self._hours = hours or {}
        self._dataset_pause_s = DATASET_PAUSE_S if poll_s is None else poll_s
        self._kernel_pause_s = KERNEL_PAUSE_S if poll_s is None else poll_s
        commit, dirty = commit_of(clone)
        self._commit = (commit or "unknown") + ("-dirty" if dirty else "")
        self._records = Records(clone / FOLDER, connection.owner)
        self._planned: set[str] = set()  # datasets and kernels of which a dry run would make a version

    def check(self, slugs: Sequence[str]) -> None:
        """Check everything that will be sent, before anything is sent.

        Args:
            slugs: Names on Kaggle of the datasets and kernels.

        Raises:
            ValueError: Metadata, the bundle or a given run is not as it should be.
        """
        for slug in slugs:
            if slug in KERNELS:
                self._kernel_files(slug)
            else:
                dataset_metadata(self._clone / DATASETS[slug], slug)
        if KIT in slugs and self._bundle:
            self._kit_files(self._bundle)
        if WEIGHTS in slugs and self._runs:
            self._build_weights(self._runs)

    def run(self, names: Sequence[str]) -> None:
        """Push the parts of these names, in the order of `PARTS`.

        Raises:
            KaggleError: Kaggle refuses, or a kernel failed.
            ValueError: Something that should be pushed is not there.
        """
        for part in PARTS:
            if part.name in names:
                part.push(self)

    def kit(self) -> None:
        """Make or version the dataset hubmap-kit from the bundle."""
        if self._bundle is None:
            print(f"{KIT}: the bundle that the rehearsal will build")
        else:
            wheels = str(Manifest.read(self._bundle).wheels)  # not the commit, which would train everything again
            self._push_dataset(KIT, self._bundle, wheels, self._kit_files(self._bundle), {})

    def _kit_files(self, bundle: Path) -> list[Path]:
        return check_files(bundle, MANIFEST, [wheel.file for wheel in Manifest.read(bundle).wheels])

    def train(self) -> None:
        """Run the training kernel, in as many sessions as it needs, and fetch its run folder."""
        metadata, text = self._kernel_files(TRAIN)
        sources = self._sources(metadata)
        known = self._records.get(TRAIN)
        # An interrupted push may have reached a later session of this training.
        before = known["sources"].get(TRAIN) if known.get("base") == _key(text, metadata, sources) else None
        for _ in range(MOST_SESSIONS):
            self._push_kernel(TRAIN, metadata, text, sources, before=before)
            if self._connection.dry_run:
                return
            version = self._records.get(TRAIN)["version"]
            if run.is_finished(self._records.output(TRAIN, version) / "run"):
                return
            print(f"{TRAIN}: version {version} left an unfinished training; the next version goes on from it")
            before = version
        raise KaggleError(f"{TRAIN} is not finished after {MOST_SESSIONS} sessions; give it fewer EPOCHS")

    def weights(self) -> None:
        """Make or version the dataset hubmap-weights from run folders."""
        runs = self._runs
        if not runs:
            trained = self._records.get(TRAIN)
            if trained.get("status") != "COMPLETE" or TRAIN in self._planned:
                if self._connection.dry_run:
                    print(f"{WEIGHTS}: the run folder that {TRAIN} will leave")
                    self._planned.add(WEIGHTS)
                    return
                raise ValueError(f"there is no run folder for {WEIGHTS}; push train first, or name one with --run")
            runs = [self._records.output(TRAIN, trained["version"]) / "run"]
        folder, entries = self._build_weights(runs)
        scores = [entry["validation_dice"] for entry in entries if entry["validation_dice"] is not None]
        about = {"runs": " ".join(entry["name"] for entry in entries)}
        if scores:
            about["local_score"] = f"{sum(scores) / len(scores):.4f}"
        files = check_files(folder, weights.MANIFEST, [entry["file"] for entry in entries])
        content = (folder / weights.MANIFEST).read_text(encoding="utf-8")
        self._push_dataset(WEIGHTS, folder, content, files, about)

    def _build_weights(self, runs: Sequence[Path]) -> tuple[Path, list[dict[str, Any]]]:
        """Build the dataset of run folders; returns its folder and what its manifest says of each run."""
        folder = weights.build_weights(runs, self._clone / "dist" / WEIGHTS, self._clone)
        return folder, read_json(folder / weights.MANIFEST)["runs"]

    def infer(self) -> None:
        """Run the inference kernel; the version that it makes can be submitted."""
        metadata, text = self._kernel_files(INFER)
        self._push_kernel(INFER, metadata, text, self._sources(metadata))
        if not self._connection.dry_run:
            version = self._records.get(INFER)["version"]
            print(f"{INFER}: version {version} can be submitted: nox -s submit")

    def notebook(self) -> None:
        """Run the notebook of the results, which shows the newest weights and writes a submission of its own."""
        metadata, text = self._kernel_files(NOTEBOOK)
        self._push_kernel(NOTEBOOK, metadata, text, self._sources(metadata))

    def _push_dataset(self, name: str, folder: Path, content: str, files: list[Path], about: dict[str, str]) -> None:
        """Make or version a dataset if it changed, and wait until kernels can use it.

        Args:
            name: The dataset's name on Kaggle.
            folder: Its folder, with its metadata.
            content: A text that changes with the files; with it, or the metadata, a new version is made.
            files: All files to upload.
            about: Columns of ``pushes.csv`` for a new version.
        """
        metadata = dataset_metadata(folder, name)
        key = _key(content, metadata)
        known, current = self._records.get(name), self._datasets.version(name)
        begun = known.get("begun", {})
        if begun.get("key") == key and current > begun["after"]:
            print(f"{name}: version {current} was made before the interruption")
            self._record_dataset(name, key, current, about)
        elif known.get("key") == key and known["version"] == current > 0:
            print(f"{name}: unchanged, version {current}")
        else:
            size = size_text(sum(path.stat().st_size for path in files))
            print(f"{name}: version {current + 1}, a private dataset of {self._connection.owner}")
            print(f"  {len(files)} files, {size}, from {folder}", flush=True)
            uploaded = self._datasets.upload(files)
            if not self._connection.dry_run:
                self._records.put(name, known | {"begun": {"key": key, "after": current}})
            notes = f"hubmap-kit commit {self._commit}"
            once(
                lambda: self._datasets.save(metadata, uploaded, notes, create=not current),
                lambda: self._datasets.version(name) > current,
                lambda: self._records.put(name, known),
                pause_s=self._dataset_pause_s,
            )
            if self._connection.dry_run:
                print(f"  then GetDataset and GetDatasetStatus until version {current + 1} is READY")
                self._planned.add(name)
                return
            self._record_dataset(name, key, current + 1, about)
        self._await_dataset(name)

    def _record_dataset(self, name: str, key: str, version: int, about: dict[str, str]) -> None:
        """Record a version, its row first: after a kill between the two, the next push records it again."""
        url = f"https://www.kaggle.com/datasets/{self._connection.owner}/{name}"
        self._records.log_push(about | {"commit": self._commit, "name": name, "version": str(version), "url": url})
        self._records.put(name, {"key": key, "version": version})

    def _await_dataset(self, name: str) -> None:
        """Wait until the version that was made is the current one and can be attached."""
        version = self._records.get(name)["version"]

        def look() -> str:
            # The version is read first; a status read before it could be the previous version's.
            current = self._datasets.version(name)
            return self._datasets.status(name) if current >= version else "not there yet"

        status = until(
            f"{name}: version {version}",
            look,
            {"READY", "FAILED", "DELETED"},
            pause_s=self._dataset_pause_s,
            patience_s=DATASET_PATIENCE_S,
        )
        if status != "READY":
            self._records.put(name, {})
            raise KaggleError(f"Kaggle could not process version {version} of {name} ({status}); push again")

    def _kernel_files(self, slug: str) -> tuple[dict[str, Any], str]:
        """A kernel's metadata with the owner in place, and its source."""
        folder = self._clone / KERNELS[slug]
        metadata = kernel_metadata(folder, slug, self._connection.owner)
        code = folder / metadata["code_file"]
        text = code.read_text(encoding="utf-8")
        if metadata["kernel_type"] == "notebook":
            return metadata, notebook_text(code, text)
        return metadata, with_settings(text, self._settings.get(slug, {}))

    def _sources(self, metadata: dict[str, Any]) -> dict[str, int]:
        """The versions on Kaggle of a kernel's datasets, by name."""
        sources = {}
        for reference in metadata["dataset_sources"]:
            name = reference.partition("/")[2]
            sources[name] = self._datasets.version(name) + (name in self._planned)
            if not sources[name] and not self._connection.dry_run:
                part = next((part.name for part in PARTS if part.slug == name), "it")
                raise ValueError(f"{metadata['id']} needs {reference}, which is not on Kaggle; push {part} first")
        return sources

    def _push_kernel(
        self, name: str, metadata: dict[str, Any], text: str, sources: dict[str, int], *, before: int | None = None
    ) -> None:
        """Push a kernel if it or one of its datasets changed, wait for its run, and fetch what it left.

        Args:
            name: The kernel's slug.
            metadata: Its metadata, with the owner in place.
            text: Its source.
            sources: Versions of its datasets.
            before: The version of the same kernel from whose output it goes on, if any.
        """
        base = _key(text, metadata, sources)
        if before:
            metadata = metadata | {"kernel_sources": [metadata["id"]]}
            sources = sources | {name: before}
        key = _key(text, metadata, sources)
        known = self._records.get(name)
        if known.get("key") == key and known["status"] == "COMPLETE":
            print(f"{name}: unchanged, version {known['version']}")
            return
        if known.get("key") != key or known["status"] != "RUNNING":
            version = self._save_kernel(name, key, metadata, text)
            if self._connection.dry_run:
                print("  then GetKernelSessionStatus until it has run, and ListKernelSessionOutput")
                self._planned.add(name)
                return
            known = {"key": key, "base": base, "version": version, "status": "RUNNING", "sources": sources}
            url = f"https://www.kaggle.com/code/{self._connection.owner}/{name}"
            about = {"commit": self._commit, "name": name, "version": str(version), "url": url}
            about["settings"] = " ".join(f"{key}={value!r}" for key, value in self._settings.get(name, {}).items())
            about["sources"] = " ".join(f"{source}:{number}" for source, number in sources.items())
            self._records.log_push(about)  # before the state; see `_record_dataset`
            self._records.put(name, known)
            print(f"{name}: version {version}, {url}", flush=True)
        self._await_kernel(name, known)

    def _save_kernel(self, name: str, key: str, metadata: dict[str, Any], text: str) -> int:
        """Push a kernel unless an interrupted push did; returns the version's number."""
        known = self._records.get(name)
        begun = known.get("begun", {})
        before, newest = self._kernels.newest(name)
        if begun.get("key") == key and before > begun["after"] and is_same_source(newest, text):
            print(f"{name}: version {before} was pushed before the interruption")
            return before
        print(f"{name}: version {before + 1}, a private kernel of {self._connection.owner}: {metadata['code_file']}")
        print(f"  {_runs_on(metadata)}")
        if name in self._hours:
            print(f"  {self._hours[name]}", flush=True)
        if not self._connection.dry_run:
            self._records.put(name, known | {"begun": {"key": key, "after": before}})

        def is_made() -> bool:
            version, source = self._kernels.newest(name)
            return version > before and is_same_source(source, text)

        version = once(
            lambda: self._kernels.save(metadata, text),
            is_made,
            lambda: self._records.put(name, known),
            pause_s=self._dataset_pause_s,
        )
        return self._kernels.newest(name)[0] if version is None else version

    def _await_kernel(self, name: str, known: dict[str, Any]) -> None:
        """Wait until a version has run, then fetch its log and its files."""
        version = known["version"]
        failure = ""

        def look() -> str:
            nonlocal failure
            status, failure = self._kernels.status(name, version)
            return status

        status = until(
            f"{name}: version {version}",
            look,
            {"COMPLETE", "ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"},
            pause_s=self._kernel_pause_s,
            patience_s=KERNEL_PATIENCE_S,
        )
        output, folder = self._kernels.output(name, version), self._records.output(name, version)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{name}.log"
        log.write_text(output.log, encoding="utf-8")
        if status != "COMPLETE":
            self._records.put(name, known | {"status": status})
            print(redact("\n".join(output.log.splitlines()[-_LOG_TAIL:])))
            reason = " ".join(failure.split()) or f"status {status}"
            raise KaggleError(f"{name} version {version} failed on Kaggle: {reason}; its log is {log}")
        self._fetch(f"{name} version {version}", output.files, folder)
        wanted = (f"run/{run.CONFIG}", f"run/{run.FOLDS}") if name == TRAIN else (SUBMISSION,)
        if not any((folder / file).is_file() for file in wanted):
            raise KaggleError(
                f"{name} version {version} ended well but left no {' or '.join(wanted)}; look at {folder}"
            )
        if self._records.keep_pace(name, version):
            print(f"{name}: the pace that it measured is in {self._records.folder / PACE}")
        self._records.put(name, known | {"status": "COMPLETE"})
        for page in sorted(folder.rglob("*.html")):
            print(f"{name}: look at {page}")

    def _fetch(self, what: str, files: dict[str, str], folder: Path) -> None:
        """Download the files of a version that are missing here; raise first if one would lie outside the folder."""
        for file in files:
            if not (folder / file).resolve().is_relative_to(folder.resolve()):
                raise KaggleError(f"{what} has a file {file!r} that would lie outside {folder}; nothing is kept")
        for number, (file, url) in enumerate(sorted(files.items()), start=1):
            path = (folder / file).resolve()
            if path.name == run.CHECKPOINT or path.is_file():  # a next session gets the checkpoint from Kaggle itself
                continue
            print(f"  {number}/{len(files)} {file}", flush=True)
            self._kernels.download(url, path)


@dataclass(frozen=True)
class Part:
    """One part of a push.

    Attributes:
        name: Its name on the command line.
        slug: Name of the dataset or kernel on Kaggle.
        push: Pushes it.
    """

    name: str
    slug: str
    push: Callable[[Push], None]


# The order of a push. The command line and the checks take the names from here.
PARTS = (
    Part("kit", KIT, Push.kit),
    Part("train", TRAIN, Push.train),
    Part("weights", WEIGHTS, Push.weights),
    Part("infer", INFER, Push.infer),
)


def _runs_on(metadata: Mapping[str, Any]) -> str:
    """On what a kernel runs, with what sources, and whether with internet, in lines for people."""
    sources = {f"{kind}": metadata[f"{kind}_sources"] for kind in ("competition", "dataset", "kernel", "model")}
    mounts = [f"{kind} {name}" for kind, names in sources.items() for name in names]
    internet = "internet" if metadata["enable_internet"] else "no internet"
    return "\n    ".join([f"{metadata['machine_shape']}, {internet}; it sees:", *mounts])


def _key(text: str, *facts: Any) -> str:
    """Fingerprint of a dataset, or of a kernel with its sources; equal fingerprints mean that nothing changed."""
    import hashlib  # here, because the command line imports this module to list the parts

    return hashlib.sha256(json.dumps([text, *facts], sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":  # it was a command of its own once, and should not end in silence
    raise SystemExit("error: this module is no command; run: hubmap-kit push")
