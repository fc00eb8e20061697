"""The requirements in pyproject.toml: none with a known hole, and each that a message names is one of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

CLONE = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = [
    *PROJECT["project"]["dependencies"],
    *(line for lines in EXTRAS.values() for line in lines),
    *PROJECT["build-system"]["requires"],
]

# The first version without a hole that was published, and what it was. An audit (pip-audit) asks a service for this;
# this list stands in for it, since lint and tests work offline. Add to it what an audit finds.
SAFE = {
    "distributed": ("2021.10.0", "CVE-2021-42343: a local cluster listened on every address"),
    "jinja2": ("3.1.6", "CVE-2025-27516: a template could leave the sandbox"),
    "keras": ("3.12", "CVE-2025-12058: loading a model could read files and addresses"),
    "opencv-python-headless": ("4.8.1", "CVE-2023-4863: a WebP image could write outside its buffer"),
    "pillow": ("10.3", "CVE-2024-28219: a colour profile could write outside its buffer"),
    "scikit-learn": ("1.5", "CVE-2024-5206: a fitted text model kept all its words"),
    "setuptools": ("78.1.1", "CVE-2025-47273: a package's name could write outside the download folder"),
    "tensorflow": ("2.12", "CVE-2023-25668 and others: a tensor could be read and written outside its buffer"),
    "tqdm": ("4.66.3", "CVE-2024-34062: arguments of its command were evaluated"),
}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.mark.parametrize("name", SAFE)
def test_no_version_with_a_known_hole_is_allowed(name):
    """The lowest version that a requirement allows has none of the known holes."""
    found = [re.fullmatch(rf"{name}(?:>=|==)([\d.]+).*", line) for line in REQUIREMENTS]
    bounds = [bound[1] for bound in found if bound]
    assert bounds, f"{name} is no requirement any more"
    for bound in bounds:
        assert numbers(bound) >= numbers(SAFE[name][0]), f"{name} {bound}: {SAFE[name][1]}"


def named_packages() -> list[tuple[str, str]]:
    """What the code's messages tell to install with pip: the file, and a package or an extra of ours."""
    found = []
    for path in sorted((CLONE / "hubmap_kit").rglob("*.py")):
        for words in re.findall(r"pip install ((?:[\w.\[\]'-]+ ?)+)", path.read_text(encoding="utf-8")):
            found += [(path.name, word.strip("'.")) for word in words.split()]
    return found


def test_packages_that_messages_name_exist():
    """A message that tells to install something names a requirement of the kit, or one of its extras."""
    known = {re.split(r"[^\w-]", line, maxsplit=1)[0].lower() for line in REQUIREMENTS}
    named = named_packages()
    assert {"imagecodecs", "dask", "distributed", "shtab", "[kaggle]"} <= {name for _, name in named}
    for file, name in named:
        assert name in known or name.strip("[]") in EXTRAS, f"{file} tells to install {name}"
