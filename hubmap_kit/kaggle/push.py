"""Push: datasets and kernels to Kaggle, in order, each only if it changed, until the kernels have run.

``kit`` uploads the bundle that was rehearsed, ``train`` runs the training kernel and fetches its run
folder, ``weights`` uploads run folders, ``infer`` runs the inference kernel, from whose version a
submission is made. What was done is in `hubmap_kit.kaggle.records`, so that an interrupted push goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..files import read_json, sha256_of, size_text
from ..run import CHECKPOINT, CONFIG, FOLDS, is_finished
from . import bundle, weights
from .client import Client
from .failures import KEPT, AnswerLost, KaggleError, Unreachable
from .records import FOLDER, Records

T = TypeVar("T")

KIT, WEIGHTS, TRAIN, INFER = "hubmap-kit", weights.NAME, "hubmap-train", "hubmap-infer"
PARTS = ("kit", "train", "weights", "infer")
MOST_SESSIONS = 10  # of one training, each going on from the one before

_DATASET_PAUSE, _DATASET_PATIENCE = 5.0, 3600.0  # s
_KERNEL_PAUSE, _KERNEL_PATIENCE = 30.0, 24 * 3600.0  # s; Kaggle's sessions end after 12 h, and queue before
_SHOWN_AGAIN = 600.0  # s without news until what is waited for is told again
_TRIES, _LOOKS = 3, 4  # of making something, and of looking for it after a lost answer
_LOG_TAIL = 20  # lines of a failed kernel's log that are shown


class Push:
    """One push by one user from one clone."""

    def __init__(self, client: Client, clone: Path, kit: Path | None, *, poll: float | None = None) -> None:
        """Prepare a push.

        Args:
            client: The connection.
            clone: The clone that is pushed.
            kit: The bundle; None, in a dry run only, where there is none yet.
            poll: Seconds between two questions to Kaggle; None for what suits each.
        """
        self._client = client
        self._clone = clone
        self._kit = kit
        self._poll = poll
        commit, dirty, _ = bundle.commit_of(clone)
        self._commit = (commit or "unknown") + ("-dirty" if dirty else "")
        self._records = Records(clone / FOLDER, client.owner)

    def run(self, parts: Sequence[str], runs: Sequence[Path] = ()) -> None:
        """Push these parts.

        Args:
            parts: Of `PARTS`.
            runs: Run folders for the weights; without, that of the last training kernel.

        Raises:
            KaggleError: Kaggle refuses or a kernel failed.
            ValueError: Something that should be pushed is not there.
        """
        if "kit" in parts and self._kit is None:
            print(f"{KIT}: the bundle that the rehearsal will build")
        elif "kit" in parts and self._kit:
            self._dataset(self._kit, bundle.MANIFEST, {})
        if "train" in parts:
            self._train()
        if "weights" in parts:
            self._weights(runs)
        if "infer" in parts:
            self._infer()

    def _weights(self, runs: Sequence[Path]) -> None:
        if not runs:
            trained = self._records.get(TRAIN)
            if trained.get("status") != "COMPLETE":
                if self._client.dry_run:
                    print(f"{WEIGHTS}: the run folder that {TRAIN} will leave")
                    return
                raise ValueError(f"there is no run folder for {WEIGHTS}; push train first, or name one with --run")
            runs = [self._records.output(TRAIN, trained["version"]) / "run"]
        folder = weights.build_weights(runs, self._clone / "dist" / WEIGHTS, self._clone)
        entries = read_json(folder / weights.MANIFEST)["runs"]
        scores = [entry["validation_dice"] for entry in entries if entry["validation_dice"] is not None]
        about = {"runs": " ".join(entry["name"] for entry in entries)}
        if scores:
            about["local_score"] = f"{sum(scores) / len(scores):.4f}"
        self._dataset(folder, weights.MANIFEST, about)

    def _train(self) -> None:
        """Run the training kernel, in as many sessions as it needs, and fetch its run folder."""
        metadata, text, sources = self._kernel_files("train")
        known = self._records.get(TRAIN)
        # An interrupted push may have been in a later session of this very training.
        before = known["sources"].get(TRAIN) if known.get("base") == _key(text, metadata, sources) else None
        for _ in range(MOST_SESSIONS):
            self._kernel(TRAIN, metadata, text, sources, before=before)
            if self._client.dry_run:
                return
            version = self._records.get(TRAIN)["version"]
            run = self._records.output(TRAIN, version) / "run"
            if is_finished(run):
                return
            print(f"{TRAIN}: version {version} left an unfinished training; the next version goes on from it")
            before = version
        raise KaggleError(f"{TRAIN} is not finished after {MOST_SESSIONS} sessions; give it fewer EPOCHS")

    def _infer(self) -> None:
        metadata, text, sources = self._kernel_files("infer")
        self._kernel(INFER, metadata, text, sources)
        if self._client.dry_run:
            return
        version = self._records.get(INFER)["version"]
        print(f"{INFER}: version {version} can be submitted: nox -s submit")

    def _dataset(self, folder: Path, manifest: str, about: dict[str, str]) -> None:
        """Make or version a dataset if it changed, and wait until kernels get it; `about` is for the log."""
        metadata = read_json(folder / bundle.METADATA)
        name = metadata["id"].partition("/")[2]
        key = _key((folder / manifest).read_text(encoding="utf-8"), metadata)
        known, current = self._records.get(name), self._client.dataset_version(name)
        begun = known.get("begun", {})
        if begun.get("key") == key and current > begun["after"]:
            print(f"{name}: version {current} was made before the interruption")
            self._dataset_made(name, key, current, about)
        elif known.get("key") == key and known["version"] == current > 0:
            print(f"{name}: unchanged, version {current}")
        else:
            files = sorted(path for path in folder.iterdir() if path.name != bundle.METADATA)
            size = size_text(sum(path.stat().st_size for path in files))
            print(f"{name}: version {current + 1}, {len(files)} files, {size}", flush=True)
            uploaded = self._client.upload(files)
            if not self._client.dry_run:
                self._records.put(name, known | {"begun": {"key": key, "after": current}})
            notes = f"hubmap-kit commit {self._commit}"
            self._once(
                lambda: self._client.save_dataset(metadata, uploaded, notes, create=not current),
                lambda: self._client.dataset_version(name) > current,
                lambda: self._records.put(name, known),
            )
            if self._client.dry_run:
                print(f"  then GetDataset and GetDatasetStatus until version {current + 1} is READY")
                return
            self._dataset_made(name, key, current + 1, about)
        self._await_dataset(name)

    def _dataset_made(self, name: str, key: str, version: int, about: dict[str, str]) -> None:
        self._records.put(name, {"key": key, "version": version})
        url = f"https://www.kaggle.com/datasets/{self._client.owner}/{name}"
        self._records.log_push(about | {"commit": self._commit, "name": name, "version": str(version), "url": url})

    def _await_dataset(self, name: str) -> None:
        """Wait until the version that was made is the current one and can be attached."""
        version = self._records.get(name)["version"]

        def look() -> str:
            # In this order: a status asked before the version could be that of the version before.
            current = self._client.dataset_version(name)
            return self._client.dataset_status(name) if current >= version else "not there yet"

        status = self._await(
            f"{name}: version {version}", look, {"READY", "FAILED", "DELETED"}, _DATASET_PAUSE, _DATASET_PATIENCE
        )
        if status != "READY":
            self._records.put(name, {})
            raise KaggleError(f"Kaggle could not process version {version} of {name} ({status}); push again")

    def _kernel_files(self, part: str) -> tuple[dict[str, Any], str, dict[str, int]]:
        """A kernel's metadata with the owner in place, its source, and the versions of its datasets on Kaggle."""
        owner, folder = self._client.owner, self._clone / "kernels" / part
        metadata = json.loads(
            (folder / "kernel-metadata.json").read_text(encoding="utf-8").replace("OWNER/", f"{owner}/")
        )
        sources = {}
        for reference in metadata["dataset_sources"]:
            name = reference.partition("/")[2]
            sources[name] = self._client.dataset_version(name)
            if not sources[name] and not self._client.dry_run:
                part = name.removeprefix("hubmap-")
                raise ValueError(f"{metadata['id']} needs {reference}, which is not on Kaggle; push {part} first")
        return metadata, (folder / metadata["code_file"]).read_text(encoding="utf-8"), sources

    def _kernel(
        self, name: str, metadata: dict[str, Any], text: str, sources: dict[str, int], *, before: int | None = None
    ) -> None:
        """Push a kernel if it or a source of it changed; wait for its run and fetch what it left.

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
            version = self._push_kernel(name, key, metadata, text)
            if self._client.dry_run:
                print("  then GetKernelSessionStatus until it has run, and ListKernelSessionOutput")
                return
            known = {"key": key, "base": base, "version": version, "status": "RUNNING", "sources": sources}
            self._records.put(name, known)
            url = f"https://www.kaggle.com/code/{self._client.owner}/{name}"
            about = {"commit": self._commit, "name": name, "version": str(version), "url": url}
            about["sources"] = " ".join(f"{source}:{number}" for source, number in sources.items())
            self._records.log_push(about)
            print(f"{name}: version {version}, {url}", flush=True)
        self._await_kernel(name, known)

    def _push_kernel(self, name: str, key: str, metadata: dict[str, Any], text: str) -> int:
        """Push a kernel unless an interrupted push did; returns the version's number."""
        known = self._records.get(name)
        begun = known.get("begun", {})
        before, newest = self._client.kernel(name)
        if begun.get("key") == key and before > begun["after"] and newest == text:
            print(f"{name}: version {before} was pushed before the interruption")
            return before
        if self._client.dry_run:
            print(f"{name}: version {before + 1}, {metadata['code_file']}")
        else:
            self._records.put(name, known | {"begun": {"key": key, "after": before}})

        def made() -> bool:
            newest, source = self._client.kernel(name)
            return newest > before and source == text

        version = self._once(
            lambda: self._client.save_kernel(metadata, text),
            made,
            lambda: self._records.put(name, known),
        )
        return version if version is not None else self._client.kernel(name)[0]

    def _await_kernel(self, name: str, known: dict[str, Any]) -> None:
        version = known["version"]
        ended = {"COMPLETE", "ERROR", "CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"}
        failure = ""

        def look() -> str:
            nonlocal failure
            status, failure = self._client.kernel_status(name, version)
            return status

        status = self._await(f"{name}: version {version}", look, ended, _KERNEL_PAUSE, _KERNEL_PATIENCE)
        output, folder = self._client.kernel_output(name, version), self._records.output(name, version)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / f"{name}.log"
        log.write_text(output.log, encoding="utf-8")
        if status != "COMPLETE":
            self._records.put(name, known | {"status": status})
            print("\n".join(output.log.splitlines()[-_LOG_TAIL:]))
            reason = " ".join(failure.split()) or f"status {status}"
            raise KaggleError(f"{name} version {version} failed on Kaggle: {reason}; its log is {log}")
        for file in output.files:
            if not (folder / file).resolve().is_relative_to(folder.resolve()):
                raise KaggleError(
                    f"{name} version {version} has a file {file!r} that would lie outside {folder}; nothing is kept"
                )
        for number, (file, url) in enumerate(sorted(output.files.items()), start=1):
            path = (folder / file).resolve()
            if path.name == CHECKPOINT or path.is_file():  # a next session gets the checkpoint from Kaggle itself
                continue
            print(f"  {number}/{len(output.files)} {file}", flush=True)
            self._client.download(url, path)
        self._check_output(name, version, folder)
        self._records.put(name, known | {"status": "COMPLETE"})

    def _check_output(self, name: str, version: int, folder: Path) -> None:
        """That the kernel left what it is run for."""
        wanted = (f"run/{CONFIG}", f"run/{FOLDS}") if name == TRAIN else ("submission.csv",)
        if not any((folder / file).is_file() for file in wanted):
            raise KaggleError(
                f"{name} version {version} ended well but left no {' or '.join(wanted)}; look at {folder}"
            )

    def _once(self, make: Callable[[], T], made: Callable[[], bool], forget: Callable[[], None]) -> T | None:
        """Make something once: where the answer is lost, look whether it was made before making it again.

        Args:
            make: Makes it.
            made: Whether it is there.
            forget: Takes back the note that it was begun; called where it certainly was not made.

        Returns:
            What `make` returned; None where it was made but the answer was lost.
        """
        for left in reversed(range(_TRIES)):
            try:
                return make()
            except AnswerLost:
                for _ in range(_LOOKS):
                    time.sleep(_DATASET_PAUSE if self._poll is None else self._poll)
                    if made():
                        return None
                if not left:
                    raise
            except KaggleError:
                forget()
                raise
        raise AssertionError("the last try returns or raises")

    def _await(self, what: str, look: Callable[[], str], ended: set[str], pause: float, patience: float) -> str:
        """Ask until one of the statuses that end the waiting comes; a lost connection does not end it."""
        begin = told = time.monotonic()
        last = ""
        while True:
            try:
                status = look()
            except Unreachable as error:
                status = f"not known, since {error}"
            elapsed = time.monotonic() - begin
            if status != last or time.monotonic() - told > _SHOWN_AGAIN:
                print(f"{what} is {status}, {elapsed / 60:.0f} min", flush=True)
                last, told = status, time.monotonic()
            if status in ended:
                return status
            if elapsed > patience:
                raise KaggleError(f"{what} is still {status} after {elapsed / 3600:.0f} h; {KEPT}")
            time.sleep(pause if self._poll is None else self._poll)


def obstacles(clone: Path) -> tuple[list[str], Path | None]:
    """Why this clone should not be pushed, each with a remedy; without any, also the bundle that was rehearsed."""
    commit, dirty, _ = bundle.commit_of(clone)
    found = []
    if commit is None:
        found.append("this is no git clone with a commit, so nobody could tell what was pushed; commit it")
    elif dirty:
        found.append("the clone has changes that are not committed (git status); commit them and rehearse")
    path = clone / "rehearsal" / "verdict.json"
    if not path.is_file():
        return [*found, "no rehearsal has passed; run: nox -s rehearse"], None
    verdict = read_json(path)
    kit = path.parent / verdict["bundle"]
    if not verdict["passed"]:
        found.append(f"the rehearsal failed ({path}); correct what it names and rehearse")
    if verdict["dirty"] or verdict["commit"] != commit:
        of = f"commit {verdict['commit']}" + (" with changes" if verdict["dirty"] else "")
        return [*found, f"the rehearsal was of {of}, this is {commit}; run: nox -s rehearse"], None
    if not bundle.is_whole(kit) or sha256_of(kit / bundle.MANIFEST) != verdict["manifest_sha256"]:
        found.append(f"{kit} is not the bundle that was rehearsed; run: nox -s rehearse")
    return found, None if found else kit


def _key(text: str, *facts: Any) -> str:
    """By which a dataset or a kernel with its sources is known to be unchanged."""
    return hashlib.sha256(json.dumps([text, *facts], sort_keys=True).encode()).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``python -m hubmap_kit.kaggle.push [PART ...]``, run in a clone; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(
        prog="python -m hubmap_kit.kaggle.push", description="Push datasets and kernels to Kaggle, and run the kernels."
    )
    parser.add_argument("parts", metavar="PART", nargs="*", default=["all"], help=f"all (default), {', '.join(PARTS)}")
    parser.add_argument(
        "--run",
        metavar="RUN",
        type=Path,
        action="append",
        default=[],
        help="run folder for the weights; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="show every call and file, and change nothing on Kaggle")
    parser.add_argument("--force", action="store_true", help="push in spite of changes or a missing rehearsal")
    parser.add_argument(
        "--poll", metavar="S", type=float, help="seconds between questions to Kaggle (default: 5 or 30)"
    )
    arguments = parser.parse_args(argv)
    if unknown := sorted(set(arguments.parts) - {*PARTS, "all"}):
        parser.error(f"there is no part {', '.join(unknown)}; the parts are all, {', '.join(PARTS)}")
    parts = PARTS if "all" in arguments.parts else arguments.parts
    if arguments.run and "weights" not in parts:
        parser.error("--run names run folders for the part weights, which is not pushed")
    if arguments.run and "train" in parts:
        parts = [part for part in parts if part != "train"]
    clone = bundle.CLONE
    try:
        client = Client.connect(dry_run=arguments.dry_run)
        with Records(clone / FOLDER, client.owner).locked():
            return _push(client, clone, parts, arguments)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; what runs on Kaggle goes on, and {KEPT}", file=sys.stderr)
        return 130


def _push(client: Client, clone: Path, parts: Sequence[str], arguments: argparse.Namespace) -> int:
    against, kit = obstacles(clone)
    for reason in against:
        if arguments.force or arguments.dry_run:
            print(f"{'overridden by --force' if arguments.force else 'a push would be refused'}: {reason}")
        else:
            print(f"error: {reason} (or push with --force)", file=sys.stderr)
    if against and not arguments.force and not arguments.dry_run:
        return 1
    if kit is None and not arguments.dry_run:
        kit = bundle.build_bundle(clone, clone / "dist" / KIT)
    known = "" if client.connected else ", since there are no credentials: nothing is asked of Kaggle either"
    print(f"owner {client.owner}{known}")
    Push(client, clone, kit, poll=arguments.poll).run(parts, arguments.run)
    if arguments.dry_run:
        print("dry run: nothing was sent")
    return 0


if __name__ == "__main__":
    sys.exit(main())
