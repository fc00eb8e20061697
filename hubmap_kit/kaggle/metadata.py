"""The metadata of our datasets and kernels, ``*-metadata.json``, checked before anything is sent to Kaggle."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..files import check_types, has_type, read_object
from .clone import DATASET_METADATA, KERNEL_METADATA
from .names import INFER, KIT, NOTEBOOK, TRAIN, WEIGHTS

OWNER = "OWNER"  # stands for the user in the metadata
# Folder in the clone of the metadata of each dataset and kernel, by its name on Kaggle.
DATASETS = {name: f"datasets/{name}" for name in (KIT, WEIGHTS)}
KERNELS = {TRAIN: "kernels/train", INFER: "kernels/infer", NOTEBOOK: "notebooks"}
_WITH_INTERNET = (TRAIN,)  # it may download weights; the others predict, and the competition runs them without internet


@dataclass(frozen=True)
class _Kernel:
    """The keys of a kernel's metadata and their types, as Kaggle's documentation has them."""

    id: str
    title: str
    code_file: str
    language: Literal["python"]
    kernel_type: Literal["script", "notebook"]
    is_private: bool
    enable_gpu: bool
    enable_tpu: bool
    enable_internet: bool
    machine_shape: str
    docker_image_pinning_type: Literal["original", "latest"]
    dataset_sources: list[str]
    competition_sources: list[str]
    kernel_sources: list[str]
    model_sources: list[str]


def kernel_metadata(folder: Path, slug: str, owner: str = OWNER) -> dict[str, Any]:
    """Read and check the metadata of a kernel.

    Args:
        folder: Its folder in the clone.
        slug: Its name on Kaggle.
        owner: The user, who takes the place of OWNER.

    Returns:
        Its metadata, with the owner in place.

    Raises:
        ValueError: A key is missing or of another type, it is another user's or another kernel's, it is public, it has
            internet although it predicts, or its code does not lie in its folder or is not Python.
    """
    path = folder / KERNEL_METADATA
    metadata = _read(path, slug, owner)
    try:
        check_types(_Kernel, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; correct it") from error
    if missing := sorted(_Kernel.__annotations__.keys() - metadata.keys()):
        raise ValueError(f"{path} has no {', '.join(missing)}; write every key, because Kaggle has defaults of its own")
    if not metadata["is_private"]:
        raise ValueError(f"{path}: is_private is false, so everybody could read the kernel; write true")
    if metadata["enable_internet"] and slug not in _WITH_INTERNET:
        raise ValueError(
            f"{path}: enable_internet is true, and the competition takes no submission of a kernel with internet; "
            "write false"
        )
    name = metadata["code_file"]
    code = folder / name
    if name != Path(name).name or code.is_symlink() or not code.is_file():
        raise ValueError(f"{path}: code_file is {name!r}; it must be a file in {folder}, and no link")
    if metadata["kernel_type"] == "script":
        try:
            ast.parse(code.read_bytes(), name)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{code} is not Python ({error}); correct it, or restore it from git") from error
    if any(each.is_symlink() for each in (path, folder, folder.parent)):
        raise ValueError(f"{path} is reached through a link; put the file itself there")
    return metadata


def dataset_metadata(folder: Path, slug: str, owner: str = OWNER) -> dict[str, Any]:
    """Read and check the metadata of a dataset; the arguments are those of `kernel_metadata`.

    Raises:
        ValueError: A key is missing or of another type, it is another user's or another dataset's, or it is public.
    """
    path = folder / DATASET_METADATA
    metadata = _read(path, slug, owner)
    for key in ("isPrivate", "is_private"):
        if not metadata.get(key, True):
            raise ValueError(f"{path}: {key} is false, so everybody could read the dataset; leave it out or write true")
    if not has_type([metadata.get(key) for key in ("title", "subtitle", "description")], list[str]):
        raise ValueError(f"{path} needs a title, a subtitle and a description, each a text; correct it")
    licenses = metadata.get("licenses")
    if not has_type(licenses, list[dict[str, Any]]) or not licenses or not isinstance(licenses[0].get("name"), str):
        raise ValueError(f'{path}: licenses must be of the form [{{"name": "CC0-1.0"}}]; correct it')
    return metadata


def check_files(folder: Path, manifest: str, named: Collection[str]) -> list[Path]:
    """Check that a dataset's folder holds what its manifest names, and nothing else.

    Args:
        folder: The folder.
        manifest: Name of the manifest.
        named: The files that it names.

    Returns:
        The files to upload, sorted by name: those of the manifest, and itself.

    Raises:
        ValueError: A file is missing, is a link, or is not named.
    """
    wanted = {manifest, *named}
    for path in sorted(folder.iterdir()):
        if path.name not in wanted | {DATASET_METADATA}:
            raise ValueError(f"{path} would be uploaded, but {folder / manifest} does not name it; delete it")
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path} is a link or no file, and only files are uploaded; build the dataset again")
    if missing := sorted(name for name in wanted if not (folder / name).is_file()):
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {manifest} names; build the dataset again")
    return [folder / name for name in sorted(wanted)]


def _read(path: Path, slug: str, owner: str) -> dict[str, Any]:
    """Read metadata, with the owner in place; raise ValueError if it is another one's or damaged."""
    metadata = read_object(path, dict, "correct it, or restore it from git")
    if not isinstance(metadata.get("id"), str):
        raise ValueError(f"{path} names no id; it must be a JSON object with the id {OWNER}/{slug}")
    if metadata["id"] not in (f"{OWNER}/{slug}", f"{owner}/{slug}"):
        raise ValueError(f"{path}: id is {metadata['id']!r}; it must be {OWNER}/{slug}, as the kit names it")
    title = metadata.get("title")
    if not isinstance(title, str) or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") != slug:
        raise ValueError(
            f"{path}: title is {title!r}, from which Kaggle would make another name than {slug}; write {slug}, or the "
            "same words with capitals and spaces"
        )

    def with_owner(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace(f"{OWNER}/", f"{owner}/")
        return [with_owner(each) for each in value] if isinstance(value, list) else value

    return {key: with_owner(value) for key, value in metadata.items()}
