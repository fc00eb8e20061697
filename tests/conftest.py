"""Fixtures: a tiny demo competition, and its patch store."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Fixtures for tests in tests/kaggle and in tests/browser.
pytest_plugins = ["browser_visits", "kaggle_workplace"]

# No test here is about speed, and the first example often pays for an import.
settings.register_profile("kit", deadline=None)
settings.load_profile("kit")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.pop("NOX_CURRENT_SESSION", None)  # inside a session, next commands are named as sessions


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo competition of 10 + 5 small images; shared, so tests only read it."""
    from hubmap_kit.demo.write import write_demo

    folder = tmp_path_factory.mktemp("demo") / "competition"
    write_demo(folder, train=10, test=5, size=256, seed=3)
    return folder


@pytest.fixture(scope="session")
def store(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's patch store: 64 px patches at half scale; kidney and large intestine are not in training."""
    from hubmap_kit.config import PrepareConfig
    from hubmap_kit.preparation.prepare import prepare

    folder = tmp_path_factory.mktemp("store")
    prepare(demo, folder, PrepareConfig(patch_size=128, input_size=64, test_size=2, val_size=2))
    return folder


@pytest.fixture(scope="session")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished training with the settings `builders.TINY`; shared, so tests only read it."""
    from builders import TINY

    from hubmap_kit.training.train import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train(store, folder, TINY, recipe="fast", time_limit_s=3600)
    return folder


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    """A run folder of format 2: a plain U-Net with a working pixel size, thresholds and a least region by organ."""
    from builders import FORMAT_2

    with zipfile.ZipFile(FORMAT_2 / "run.zip") as archive:
        archive.extractall(tmp_path / "old")
    return tmp_path / "old"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def corner_mask(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random mask that is never square-symmetric and sets all four corners."""
    mask = (rng.random(shape) < 0.3).astype(np.uint8)
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = 1
    return mask
