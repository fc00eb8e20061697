"""Make the notebooks from the scripts beside this file, and run them on the demo.

    python notebooks/make.py            write 1_data.ipynb, 2_train.ipynb and 3_results.ipynb
    python notebooks/make.py --run OUT  also run them on a small demo in OUT, and keep the outputs

The scripts are the source; edit those. Each is a notebook in jupytext's percent format, in which BADGES stands for the
badges and REPOSITORY for the address of the repository in ``pyproject.toml``. A cell's id is derived from its place and
content, so that the same script gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat

FOLDER = Path(__file__).resolve().parent
SCRIPTS = tuple(sorted(FOLDER.glob("[0-9]_*.py")))
BRANCH = "main"

# Settings with which each notebook is run on the demo: all three take a minute and a half on two cores.
DEMO: Mapping[str, Any] = {"DEMO": True, "DEMO_IMAGES": 15, "DEMO_SIZE": 1024}
PATCHES: Mapping[str, Any] = {"PATCH_SIZE": 512, "INPUT_SIZE": 64}
SMALL: Mapping[str, Mapping[str, Any]] = {
    "1_data": {**DEMO, **PATCHES},
    "2_train": {
        **DEMO,
        **PATCHES,
        "MODEL": "unet",
        "FILTERS": 8,
        "BATCH_SIZE": 8,
        "LEARNING_RATE": 2e-3,
        "EPOCHS": 6,
        "STEPS_PER_EPOCH": 60,
    },
    "3_results": {**DEMO, "TTA": "none", "PICTURES": 3},
}


def repository() -> str:
    """Address of the repository, from ``pyproject.toml``; while nobody has set it, OWNER stands for its owner."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address: str = project["urls"]["Repository"]
    return address


def badges(name: str, address: str) -> str:
    """Markdown of the badges that open a notebook on Colab and on Kaggle.

    Args:
        name: The notebook, such as ``1_data``.
        address: Address of the repository on GitHub.
    """
    file = f"{address}/blob/{BRANCH}/notebooks/{name}.ipynb"
    colab = file.replace("https://github.com", "https://colab.research.google.com/github")
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
        f"(https://kaggle.com/kernels/welcome?src={file})"
    )


def convert(script: Path) -> str:
    """The notebook of a script, as the text of its ``.ipynb`` file, without outputs."""
    address = repository()
    text = script.read_text(encoding="utf-8")
    text = text.replace("BADGES", badges(script.stem, address)).replace("REPOSITORY", address)
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        fact = json.dumps([number, cell.cell_type, cell.source])
        cell.id = hashlib.sha256(fact.encode()).hexdigest()[:12]
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    made: str = nbformat.writes(notebook, indent=1)
    return made + "\n"


def run(script: Path, out: Path, settings: Mapping[str, Any]) -> None:
    """Run the notebook of a script in a folder, and keep it there with its outputs, also if it fails.

    Args:
        script: The script.
        out: The folder.
        settings: Changed settings, see `hubmap_kit.notebook.settings`.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell fails.
    """
    from nbclient import NotebookClient

    notebook = nbformat.reads(convert(script), as_version=4)
    resources = {"metadata": {"path": str(out)}}
    client = NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources)
    try:
        client.execute(env={**os.environ, "HUBMAP_NOTEBOOK": json.dumps(settings)})
    finally:
        nbformat.write(notebook, out / f"{script.stem}.ipynb")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the notebooks, and run them if asked."""
    parser = argparse.ArgumentParser(description="Make the notebooks from their scripts.")
    parser.add_argument("--run", metavar="OUT", type=Path, help="run them on a small demo in this folder")
    out = parser.parse_args(arguments).run
    for script in SCRIPTS:
        script.with_suffix(".ipynb").write_text(convert(script), encoding="utf-8")
    print(f"wrote {len(SCRIPTS)} notebooks to {FOLDER}", flush=True)
    for script in SCRIPTS if out else ():
        out.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        run(script, out.resolve(), SMALL[script.stem])
        print(f"{out / script.stem}.ipynb: run in {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
