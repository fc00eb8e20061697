"""Push: the notebook of the results becomes a private kernel of its owner."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
from kaggle_workplace import CLONE, ONCE, a_run, write_files

from hubmap_kit.kaggle.source import is_same_source, notebook_text

pytestmark = pytest.mark.skipif(importlib.util.find_spec("kaggle") is None, reason="Kaggle's client is not installed")
NOTEBOOK = CLONE / "notebooks" / "3_results.ipynb"


def with_weights(place, tmp_path: Path) -> None:
    """Push the datasets that the notebook needs."""
    write_files(tmp_path / "cpu", a_run())
    place.run("push", "kit", "weights", "--run", str(tmp_path / "cpu"))
    assert place.versions() == {"hubmap-kit": 1, "hubmap-weights": 1}


def test_the_notebook_alone_is_pushed(place, tmp_path):
    """It becomes a private notebook without internet, with both datasets and the competition; once, if unchanged."""
    with_weights(place, tmp_path)
    text = place.run("push", "--notebook")
    user = place.kaggle.user
    assert f"hubmap-results: version 1, https://www.kaggle.com/code/{user}/hubmap-results" in text
    (version,) = place.kaggle.kernels[f"{user}/hubmap-results"]
    sent = version.body
    assert (sent["kernelType"], sent["language"], sent["isPrivate"]) == ("notebook", "python", True)
    assert not sent.get("enableInternet")
    assert sent["datasetDataSources"] == [f"{user}/hubmap-kit", f"{user}/hubmap-weights"]
    assert sent["competitionDataSources"] == ["hubmap-organ-segmentation"]
    content = json.loads(sent["text"])
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert all(isinstance(cell["source"], str) for cell in content["cells"])  # Kaggle takes no lists of lines
    assert "hubmap-results: unchanged, version 1" in place.run("push", "--notebook")
    assert place.versions() == {"hubmap-kit": 1, "hubmap-weights": 1, "hubmap-results": 1}
    submission = place.clone / "records" / "output" / user / "hubmap-results" / "v1" / "submission.csv"
    assert submission.is_file()


def test_the_notebook_is_no_part_of_a_whole_push(place):
    """A push of all parts leaves it out; with the flag and parts, both are pushed."""
    place.run("push")
    assert place.versions() == ONCE
    place.run("push", "infer", "--notebook")
    assert place.versions() == ONCE | {"hubmap-results": 1}


def test_dry_run_of_the_notebook(place):
    """A dry run shows the call and changes nothing."""
    text = place.run("push", "--notebook", "--dry-run")
    assert f'"slug": "{place.kaggle.user}/hubmap-results"' in text
    assert '"kernelType": "notebook"' in text
    assert "SaveKernel" in text
    assert place.versions() == {}


def test_without_weights_it_is_not_pushed(place):
    """The notebook needs weights on Kaggle; the error says what to push first."""
    place.run("push", "kit")
    assert "hubmap-weights, which is not on Kaggle; push weights first" in place.run("push", "--notebook", status=1)


def test_an_interrupted_push_of_the_notebook_goes_on(place, tmp_path):
    """A notebook that Kaggle took, and gave metadata of its own, before the push was killed is not pushed again."""
    with_weights(place, tmp_path)
    place.kaggle.fault("SaveKernel", place.kill, after=True)
    place.run("push", "--notebook", status=None)
    (version,) = place.kaggle.kernels[f"{place.kaggle.user}/hubmap-results"]
    content = json.loads(version.body["text"])
    content["metadata"]["kaggle"] = {"isGpuEnabled": True}
    version.body["text"] = json.dumps(content)
    assert "version 1 was pushed before the interruption" in place.run("push", "--notebook")
    assert place.versions()["hubmap-results"] == 1


def test_what_kaggle_takes(tmp_path):
    """Outputs are left out; a file that is no notebook, or names another kernel, is refused."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = next(cell for cell in content["cells"] if cell["cell_type"] == "code")
    code |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "old"}], "execution_count": 3}
    flat = json.loads(notebook_text(NOTEBOOK, json.dumps(content)))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in flat["cells"])
    assert ["".join(cell["source"]) for cell in content["cells"]] == [cell["source"] for cell in flat["cells"]]
    for text in ("print(1)", "{}", json.dumps({"cells": [], "metadata": {}})):
        with pytest.raises(ValueError, match=r"x\.ipynb is no notebook with a kernelspec .*nox -s notebooks"):
            notebook_text(Path("x.ipynb"), text)
    content["metadata"]["kernelspec"]["name"] = "ir"
    with pytest.raises(ValueError, match="is for the kernel ir"):
        notebook_text(Path("x.ipynb"), json.dumps(content))


def test_same_source():
    """Scripts are compared as they are, notebooks by their cells."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert is_same_source(text, notebook_text(NOTEBOOK, text))
    assert not is_same_source(text, text.replace("# 3 ·", "# 4 ·"))
    assert is_same_source("a = 1\n", "a = 1\n")
    assert not is_same_source("a = 1\n", "a = 2\n")
    assert not is_same_source("", text)


def test_the_slug_is_that_of_the_title():
    """Kaggle makes the slug of a new kernel from its title."""
    metadata = json.loads((CLONE / "notebooks" / "kernel-metadata.json").read_text(encoding="utf-8"))
    slug = re.sub(r"[^a-z0-9]+", "-", metadata["title"].lower())
    assert metadata["id"] == f"OWNER/{slug}"
    assert (CLONE / "notebooks" / metadata["code_file"]).is_file()
