"""The requirements: none with a known hole, and each that a message names is one of them; how nox installs them."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from wheels import write_wheel

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


@pytest.fixture(scope="module")
def noxfile() -> dict[str, Any]:
    pytest.importorskip("nox")
    with contextlib.chdir(CLONE):
        return runpy.run_path("noxfile.py")


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["target", "prefix", "root", "user"])
def test_sessions_install_into_their_environment(
    setting: str, noxfile: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's settings for pip do not make a session install elsewhere, and its package index is still used."""
    text = (CLONE / "noxfile.py").read_text(encoding="utf-8")
    assert text.count("session.install(") == 1, "every session calls install"
    write_wheel(tmp_path)
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    value = "true" if setting == "user" else tmp_path / "elsewhere"
    # The wheel is found only by the settings that are kept.
    (tmp_path / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {tmp_path}\n[install]\n{setting} = {value}\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    class Session:
        def run_install(self, python: str, *arguments: str, **options: bool) -> str:
            return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout

        def install(self, *arguments: str, env: dict[str, str]) -> None:
            command = [sys.executable, "-m", "pip", "--python", str(place), "install", *arguments]
            subprocess.run(command, env=os.environ | env, check=True)

    noxfile["install"](Session(), "thing-for-test")
    assert list(place.rglob("thing_for_test.py"))
    assert not (tmp_path / "elsewhere").exists()
