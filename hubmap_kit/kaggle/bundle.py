"""The bundle: the dataset ``hubmap-kit``, which brings the library and the wheels Kaggle's image lacks.

It holds the wheel of this clone, the wheels in `WHEELS`, ``dataset-metadata.json`` and the manifest
``hubmap-kit.json`` (name, version, git commit, SHA-256 of every wheel), by which a kernel finds and
checks it. The same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..files import read_json, sha256_of, write_json

MANIFEST = "hubmap-kit.json"
METADATA = "dataset-metadata.json"
CLONE = Path(__file__).resolve().parents[2]

# Time of every file in the wheel where there is no commit to take it from: 1980-01-01, the earliest in a zip.
_EPOCH = "315532800"


@dataclass(frozen=True)
class Wheel:
    """A wheel that is bundled as it was published.

    Attributes:
        project: The project's name.
        version: Its version.
        module: What is imported; a kernel installs the wheel where that is missing.
        file: The wheel's file name.
        sha256: Its hash.
    """

    project: str
    version: str
    module: str
    file: str
    sha256: str


# What Kaggle's image lacks. Pure Python or abi3, so that Python 3.12 and later images are served alike.
WHEELS = (
    Wheel(
        "segmentation-models",
        "1.0.1",
        "segmentation_models",
        "segmentation_models-1.0.1-py3-none-any.whl",
        "2c52ca7b2485b5071ffbf11b771c69179e896b3ba47b0f8704aeab00f9f91ce3",
    ),
    Wheel(
        "efficientnet",
        "1.0.0",
        "efficientnet",
        "efficientnet-1.0.0-py3-none-any.whl",
        "c6fd035d856c9f1c409f3ac19e7655e54a13851046c821e9d4417fd12bcbaae4",
    ),
    Wheel(
        "image-classifiers",
        "1.0.0",
        "classification_models",
        "image_classifiers-1.0.0-py3-none-any.whl",
        "6030bdfd1bc334a4e9d018e8962fbe9c8deba3257dc21c237032ff1590da2b98",
    ),
    Wheel(
        "keras-applications",
        "1.0.8",
        "keras_applications",
        "Keras_Applications-1.0.8-py3-none-any.whl",
        "df4323692b8c1174af821bf906f1e442e63fa7589bf0f1230a0b6bdc5a810c95",
    ),
    Wheel(
        "imagecodecs",
        "2026.3.6",
        "imagecodecs",
        "imagecodecs-2026.3.6-cp311-abi3-manylinux_2_28_x86_64.whl",
        "e30a14aa2e1c6c90e00375292726486c1d90bf003b1414d608ea4d1f62fd8a79",
    ),
)
# Builds the library's wheel: pinned, since a wheel names its builder and should not change with it.
SETUPTOOLS = Wheel(
    "setuptools",
    "80.9.0",
    "setuptools",
    "setuptools-80.9.0-py3-none-any.whl",
    "062d34222ad13e0cc312a4c02d73f059e86a4acbfbdea8f8f76b28c99f306922",
)
KAGGLE_PYTHON = "3.12"
KAGGLE_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def build_bundle(source: Path, out: Path, *, cache: Path | None = None, extras: bool = True) -> Path:
    """Build the bundle, ready to upload.

    Args:
        source: The clone.
        out: Folder to make; an earlier bundle there is replaced.
        cache: Where downloaded wheels are kept; ``dist/wheels`` of the clone by default.
        extras: False to bundle the library's own wheel only.

    Returns:
        `out`.

    Raises:
        ValueError: `source` is no clone, `out` holds something else, or a wheel cannot be built or had.
    """
    metadata = source / "datasets" / "hubmap-kit" / METADATA
    if not metadata.is_file() or not (source / "pyproject.toml").is_file():
        raise ValueError(f"{source} is not a clone of hubmap-kit: it has no {metadata.relative_to(source)}; run in one")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and holds no bundle; name another folder")
    commit, dirty, epoch = commit_of(source)
    cache = cache or source / "dist" / "wheels"
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".hubmap-kit-") as folder:
        part = Path(folder, "bundle")
        part.mkdir()
        own = _build_wheel(source, part, epoch, cache)
        entries = [{"file": own.name, "module": "hubmap_kit", "sha256": sha256_of(own)}]
        for wheel in WHEELS if extras else ():
            cached = _fetch(wheel, cache)
            shutil.copyfile(cached, part / wheel.file)
            entries.append({"file": wheel.file, "module": wheel.module, "sha256": wheel.sha256})
        shutil.copyfile(metadata, part / METADATA)
        version = own.name.split("-")[1]
        manifest = {"name": "hubmap-kit", "version": version, "commit": commit, "dirty": dirty, "wheels": entries}
        write_json(part / MANIFEST, manifest)
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    return out


def is_whole(folder: Path) -> bool:
    """Whether a folder is a bundle that holds every wheel its manifest describes."""
    if not (folder / MANIFEST).is_file():
        return False
    wheels = {folder / wheel["file"]: wheel["sha256"] for wheel in read_json(folder / MANIFEST)["wheels"]}
    return all(path.is_file() and sha256_of(path) == sha256 for path, sha256 in wheels.items())


def commit_of(source: Path) -> tuple[str | None, bool, str]:
    """The commit, whether there are changes since, and its time in seconds; without git, or a commit, None."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != source.resolve():
            return None, False, _EPOCH
        commit, epoch = git("log", "-1", "--format=%H %ct").split()
        return commit, bool(git("status", "--porcelain")), epoch
    except (OSError, subprocess.CalledProcessError):
        return None, False, _EPOCH


def _build_wheel(source: Path, out: Path, epoch: str, cache: Path) -> Path:
    """Build the library's wheel from a copy, so that the clone stays clean and no old build leaks in."""
    failure, remedy = "the wheel of hubmap_kit cannot be built", "mend what pip names"
    setuptools = _fetch(SETUPTOOLS, cache)
    with tempfile.TemporaryDirectory(prefix="hubmap-kit-build-") as folder:
        builder, copy = Path(folder, "builder"), Path(folder, "hubmap-kit")
        flags = ["--no-index", "--no-deps", "--no-compile", "--target", str(builder)]
        _pip(["install", *flags, str(setuptools)], failure, remedy)
        shutil.copytree(
            source / "hubmap_kit",
            copy / "hubmap_kit",
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
            copy_function=shutil.copyfile,
        )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            if (source / name).is_file():
                shutil.copyfile(source / name, copy / name)
        for path in copy.rglob("*"):  # a wheel records modes, which follow the user's umask
            path.chmod(0o755 if path.is_dir() else 0o644)
        flags = ["--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
        environment = {"SOURCE_DATE_EPOCH": epoch, "PYTHONPATH": str(builder)}
        _pip(["wheel", *flags, str(copy)], failure, remedy, **environment)
    (wheel,) = out.glob("hubmap_kit-*.whl")
    return wheel


def _fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel in the cache, downloaded if it is not there; its hash is checked either way."""
    path = cache / wheel.file
    if path.is_file() and sha256_of(path) == wheel.sha256:
        return path
    path.unlink(missing_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    flags = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(cache)]
    flags += ["--python-version", KAGGLE_PYTHON, "--implementation", "cp", "--abi", "abi3", "--abi", "none"]
    flags += [flag for platform in KAGGLE_PLATFORMS for flag in ("--platform", platform)]
    with tempfile.TemporaryDirectory(prefix="hubmap-kit-") as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
        _pip(
            ["download", *flags, "--requirement", str(requirements)],
            f"{wheel.project} {wheel.version} cannot be downloaded",
            f"check the connection and the package index, or put {wheel.file} into {cache}",
        )
    if not path.is_file():
        raise ValueError(f"pip downloaded {wheel.project} {wheel.version} but no {wheel.file}; correct WHEELS")
    return path


def _pip(arguments: list[str], failure: str, remedy: str, **environment: str) -> None:
    """Run pip quietly; a failure is told with what pip said."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    umask = 0o022 if os.name == "posix" else -1
    pip = subprocess.run(command, env=os.environ | environment, umask=umask, capture_output=True, text=True)
    if pip.returncode:
        said = re.sub(r"\n\s*\n+", "\n", (pip.stderr or pip.stdout).strip())
        raise ValueError(f"{failure}; {remedy}. pip said:\n{said}")


def main() -> int:
    """The command ``python -m hubmap_kit.kaggle.bundle [OUT]``, run in a clone; 0 done, 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m hubmap_kit.kaggle.bundle", description="Build the Kaggle bundle.")
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", default=CLONE / "dist" / "hubmap-kit")
    try:
        out = build_bundle(CLONE, parser.parse_args().out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 2**20:.1f} MiB\n{(out / MANIFEST).read_text(encoding='utf-8')}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
