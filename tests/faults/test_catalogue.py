"""The catalogue of bad input: what each command answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from catalogue import CASES, INJECTED, Case, injected, make, outcome

PARAMETERS = [
    pytest.param(
        case,
        id=f"{case.command.split()[0]}: {case.what}",
        marks=pytest.mark.slow if case.what == "the weights are empty" else (),  # imports TensorFlow
    )
    for case in CASES
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    make(folder)
    return folder


@pytest.mark.parametrize("case", PARAMETERS)
def test_bad_input_is_one_error_with_its_cause(case: Case, made: Path, tmp_path: Path) -> None:
    """Each kind of bad input ends with its status and with an error that names the cause, never with a traceback."""
    status, said = outcome(case, made, tmp_path / "case")
    assert (status, case.said in said) == (case.status, True), said
    assert said.startswith("error:") == (case.status != 0), said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs bash and ulimit")
@pytest.mark.parametrize(("what", "shell", "command", "status", "said"), INJECTED)
def test_a_fault_around_a_command_is_one_error_or_none(
    what: str, shell: str, command: str, status: int, said: str, made: Path, tmp_path: Path
) -> None:
    """With a full disk, closed streams, few descriptors or a signal, a command works or says what is wrong."""
    got, first = injected(shell, command, made, tmp_path / "case")
    assert (got, said in first) == (status, True), first
