"""Commands that are killed at random moments and run again."""

from __future__ import annotations

import sys
from pathlib import Path

import catalogue
import pytest
from kills import COMMANDS, TENSORFLOW, add_library, add_run, kill_and_compare, kill_rehearsals

SEED = 18

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    catalogue.make(folder)
    return folder


@pytest.fixture(scope="module")
def with_run(made: Path) -> Path:
    add_run(made)
    return made


@pytest.fixture(scope="module")
def with_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    catalogue.make(folder)
    add_library(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in (*TENSORFLOW, "bundle")])
def test_a_killed_command_leaves_nothing_in_the_way(name: str, made: Path, tmp_path: Path) -> None:
    """Whenever it is killed, the same command gives the files of an undisturbed one afterwards, and no others."""
    assert kill_and_compare(name, made, tmp_path, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("name", TENSORFLOW)
def test_a_killed_command_with_a_network_goes_on(name: str, with_run: Path, tmp_path: Path) -> None:
    """The same for training, prediction and the page about a run."""
    assert kill_and_compare(name, with_run, tmp_path, SEED)


@pytest.mark.slow
def test_a_killed_bundle_leaves_nothing_in_the_way(with_library: Path, tmp_path: Path) -> None:
    """The same for the bundle, byte for byte."""
    assert kill_and_compare("bundle", with_library, tmp_path, SEED)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a kernel ends with its rehearsal by namespaces")
def test_a_killed_rehearsal_leaves_nothing_in_the_way(with_library: Path, tmp_path: Path) -> None:
    """Whenever it is killed, its kernel ends too, no verdict is left, and the next rehearsal begins."""
    assert kill_rehearsals(with_library, tmp_path, SEED)
