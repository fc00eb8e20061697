"""The source of a kernel as it is sent: a script with some settings changed, or a notebook without its outputs."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def settings_in(text: str) -> dict[str, Any]:
    r"""The settings at the top of a kernel's script: each name in capitals that a literal is assigned to.

    >>> settings_in("EPOCHS = 3  # the most\nroot = 1\nALL = dict()")
    {'EPOCHS': 3}
    """
    found = {}
    for name, node in _assigned(text).items():
        try:
            found[name] = ast.literal_eval(node)
        except ValueError:  # it is computed
            continue
    return found


def with_settings(text: str, changes: Mapping[str, Any]) -> str:
    """A kernel's script with other values of some settings.

    Raises:
        KeyError: The script has no such setting.

    >>> with_settings("EPOCHS = 3  # the most", {"EPOCHS": None})
    'EPOCHS = None  # the most'
    """
    lines = text.split("\n")
    nodes = _assigned(text)
    for node, value in sorted(((nodes[name], changes[name]) for name in changes), key=lambda pair: -pair[0].lineno):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before = lines[first].encode()[: node.col_offset].decode()
        after = lines[last].encode()[node.end_col_offset :].decode()
        lines[first : last + 1] = [f"{before}{value!r}{after}"]
    return "\n".join(lines)


def _assigned(text: str) -> dict[str, ast.expr]:
    """What is assigned to each name in capitals, at the top level of a script."""
    return {
        target.id: node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.isupper()
    }


def notebook_text(path: Path, text: str) -> str:
    """A notebook as Kaggle takes it: the source of each cell as one text, and no outputs.

    Args:
        path: Its file, for the errors.
        text: The file's content.

    Raises:
        ValueError: It is no notebook, or names no kernel to run it with.
    """
    remedy = "make it with: nox -s notebooks"
    try:
        content: dict[str, Any] = json.loads(text)
        cells = [cell | {"source": "".join(cell["source"])} for cell in content["cells"]]
        named = content["metadata"]["kernelspec"]["name"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no notebook with a kernelspec ({error}); make it with: nox -s notebooks"
        ) from error
    if named != "python3":
        raise ValueError(f"{path} is for the kernel {named}, and Kaggle runs python3; {remedy}")
    cells = [cell | {"outputs": [], "execution_count": None} if "outputs" in cell else cell for cell in cells]
    return json.dumps(content | {"cells": cells})


def is_same_source(one: str, other: str) -> bool:
    """Whether two sources of a kernel do the same; of notebooks only the cells count, as Kaggle adds metadata."""

    def cells(text: str) -> Any:
        try:
            return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
        except (KeyError, TypeError, ValueError):
            return text  # a script

    return bool(cells(one) == cells(other))
