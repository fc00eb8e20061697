"""The bundle: the dataset ``hubmap-kit``, which brings the library and the wheels that Kaggle's image lacks.

It holds the library's wheel, built from the clone, the wheels in `WHEELS`, ``dataset-metadata.json`` and a manifest
(`hubmap_kit.kaggle.manifest`), with which a kernel finds and checks it. The same library gives the same wheel in every
commit, so that a commit that does not change it makes no new version on Kaggle, and nothing is trained again.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..files import is_free, replacing_folder, sha256_of
from .clone import DATASET_METADATA, commit_of, image_versions
from .manifest import LIBRARY, MANIFEST, BundledWheel, Manifest
from .names import KIT


@dataclass(frozen=True)
class Wheel:
    """A wheel that is bundled as it was published.

    Attributes:
        project: The project's name.
        version: Its version.
        module: The module it brings; a kernel installs the wheel if that module is missing.
        file: The wheel's file name.
        sha256: Its hash.
    """

    project: str
    version: str
    module: str
    file: str
    sha256: str


CACHE = Path("dist", "wheels")  # in the clone: downloaded wheels
_TIME = "315532800"  # of the files in the wheel: 1980-01-01, the earliest that a zip file can hold

# The wheels that Kaggle's image lacks. All are pure Python or abi3, so that they install on Python 3.12 and later.
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
# Builds the library's wheel. Pinned, because a wheel names its builder and the same commit must give the same bytes.
SETUPTOOLS = Wheel(
    "setuptools",
    "80.9.0",
    "setuptools",
    "setuptools-80.9.0-py3-none-any.whl",
    "062d34222ad13e0cc312a4c02d73f059e86a4acbfbdea8f8f76b28c99f306922",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")  # what Kaggle's image can run


def build_bundle(clone: Path, out: Path, *, cache: Path | None = None, extras: bool = True) -> Path:
    """Build the bundle, ready to upload.

    Args:
        clone: The clone.
        out: Folder to make; an earlier bundle there is replaced.
        cache: Where downloaded wheels are kept; `CACHE` of the clone by default.
        extras: False to bundle the library's own wheel only.

    Returns:
        `out`.

    Raises:
        ValueError: `clone` is no clone, `out` holds something else, or a wheel cannot be built or downloaded.
    """
    metadata = clone / "datasets" / KIT / DATASET_METADATA
    if not metadata.is_file() or not (clone / "pyproject.toml").is_file():
        raise ValueError(f"{clone} is not a clone of hubmap-kit: it has no {metadata.relative_to(clone)}; run in one")
    if not (is_free(out) or (out / MANIFEST).is_file()):
        raise ValueError(f"{out} exists and holds no bundle; name another folder")
    commit, dirty = commit_of(clone)
    cache = cache or clone / CACHE
    python = image_versions(clone)["python"]
    with replacing_folder(out) as part:
        own = _build_wheel(clone, part, _fetch(SETUPTOOLS, cache, python))
        wheels = [BundledWheel(own.name, LIBRARY, sha256_of(own))]
        for wheel in WHEELS if extras else ():
            shutil.copyfile(_fetch(wheel, cache, python), part / wheel.file)
            wheels.append(BundledWheel(wheel.file, wheel.module, wheel.sha256))
        shutil.copyfile(metadata, part / DATASET_METADATA)
        Manifest(own.name.split("-")[1], commit, dirty, tuple(wheels)).write(part)
    return out


def is_whole(folder: Path) -> bool:
    """Whether a folder is a bundle that holds every wheel its manifest describes."""
    return (folder / MANIFEST).is_file() and not Manifest.read(folder).damaged(folder)


def _build_wheel(clone: Path, out: Path, setuptools: Path) -> Path:
    """Build the library's wheel from a copy, so that the clone stays clean and no old build leaks in.

    Args:
        clone: The clone.
        out: Folder to write the wheel to.
        setuptools: The wheel of setuptools.
    """
    failure, remedy = "the wheel of hubmap_kit cannot be built", "correct what pip names"
    with tempfile.TemporaryDirectory(prefix="hubmap-kit-build-") as folder:
        builder, copy = Path(folder, "builder"), Path(folder, "hubmap-kit")
        flags = ["--no-index", "--no-deps", "--no-compile", "--target", str(builder)]
        _pip(["install", *flags, str(setuptools)], failure, remedy)
        shutil.copytree(
            clone / "hubmap_kit",
            copy / "hubmap_kit",
            ignore=shutil.ignore_patterns("__pycache__", ".*"),
            copy_function=shutil.copyfile,
        )
        for name in ("pyproject.toml", "LICENSE"):
            if (clone / name).is_file():
                shutil.copyfile(clone / name, copy / name)
        (copy / "README.md").touch()  # empty, since the wheel would hold its text and change with it
        for path in copy.rglob("*"):  # a wheel records modes, which follow the user's umask
            path.chmod(0o755 if path.is_dir() else 0o644)
        flags = ["--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
        environment = {"SOURCE_DATE_EPOCH": _TIME, "PYTHONPATH": str(builder)}
        _pip(["wheel", *flags, str(copy)], failure, remedy, **environment)
    (wheel,) = out.glob("hubmap_kit-*.whl")
    return wheel


def _fetch(wheel: Wheel, cache: Path, python: str) -> Path:
    """A wheel in the cache; if it is not there, it is downloaded for that version of Python. Its hash is checked."""
    path = cache / wheel.file
    if path.is_file() and sha256_of(path) == wheel.sha256:
        return path
    path.unlink(missing_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    flags = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(cache)]
    flags += ["--python-version", python, "--implementation", "cp", "--abi", "abi3", "--abi", "none"]
    flags += [flag for platform in PLATFORMS for flag in ("--platform", platform)]
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
    """Run pip quietly, without the user's settings for it; if it fails, the error has what pip printed.

    Only a download uses some of these settings: the package index, a proxy, a certificate.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if "--no-index" in arguments:
        command.append("--isolated")
        environment["PIP_CONFIG_FILE"] = os.devnull
    else:
        environment["PIP_REQUIRE_VIRTUALENV"] = "0"
    umask = 0o022 if os.name == "posix" else -1
    pip = subprocess.run(command, env=os.environ | environment, umask=umask, capture_output=True, text=True)
    if pip.returncode:
        printed = re.sub(r"\n\s*\n+", "\n", (pip.stderr or pip.stdout).strip())
        raise ValueError(f"{failure}; {remedy}. pip printed:\n{printed}")


if __name__ == "__main__":  # it was a command of its own once, and should not end in silence
    raise SystemExit("error: this module is no command; run: hubmap-kit bundle")
