"""Train on Kaggle: competition data to a run folder in /kaggle/working/run.

The settings below are all there is to change; the work is done by the library in the attached
dataset hubmap-kit. The environment variable HUBMAP_SETTINGS, a JSON object of setting to value,
changes some for one run, as a rehearsal does.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATCH_SIZE = 1024  # side of a training patch, in pixels of PIXEL_SIZE
INPUT_SIZE = 256  # side of that patch as the network sees it, in pixels
PIXEL_SIZE = "0.4"  # working pixel size in um; an organ's own is added as in "0.4,prostate=1.6"
CONTEXT = None  # side in um of what the network sees at once, as PIXEL_SIZE is written; None: PATCH_SIZE of PIXEL_SIZE
WHOLE = False  # whether each image is one patch, as large as the largest image, in place of PATCH_SIZE
TEST_SIZE = None  # images of the test split, and of validation; None: 65, or 65/351 of a smaller set
FOLDS = 0  # K folds over the images outside the test split; 0: none
FOLD = None  # with FOLDS: the fold to validate on, or "all" to train every one
RECIPE = "default"  # seed, default, cpu or fast; see hubmap_kit/recipes.py
MODEL = None  # efficientnet-unet or unet; this and what follows, where None: the recipe's
ENCODER = None  # efficientnetb0 ... b7, efficientnetv2b0 ... b3
ENCODER_WEIGHTS = None  # imagenet (needs the internet), none, or the path of a file
EPOCHS = None  # most epochs
STEPS_PER_EPOCH = None  # steps an epoch
SEED = 0  # of the split, the weights and the augmentation
TIME_LIMIT = 11.0  # hours from the kernel's start; Kaggle ends a GPU session after 12, a TPU session after 9

# Bootstrap, the same lines in both kernels: installs the bundle, offline, beside what the image has.
SETTINGS = {name for name in dir() if name.isupper()}
KAGGLE = Path(os.environ.get("HUBMAP_KAGGLE_ROOT", "/kaggle"))
MARKER = "hubmap-kit.json"


def bootstrap() -> None:
    """Install the bundle's wheels into a folder of their own and make them importable."""
    changes = json.loads(os.environ.get("HUBMAP_SETTINGS", "{}"))
    if unknown := sorted(changes.keys() - SETTINGS):
        sys.exit(f"HUBMAP_SETTINGS names {', '.join(unknown)}; the settings are {', '.join(sorted(SETTINGS))}")
    globals().update(changes)
    if changes:
        print(f"settings changed by HUBMAP_SETTINGS: {json.dumps(changes)}")

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # leaves TensorFlow's start-up notes out of the log
    attached = KAGGLE / "input"
    places = [*sorted(attached.glob("datasets/*/hubmap-kit")), attached / "hubmap-kit"]
    found = [place for place in places if (place / MARKER).is_file()]
    found = found or [Path(place) for place, _, files in os.walk(attached, followlinks=True) if MARKER in files]
    if not found:
        holds = sorted(path.name for path in attached.iterdir()) if attached.is_dir() else []
        sys.exit(
            f"the dataset hubmap-kit is missing: no {MARKER} in {attached}/datasets/*/hubmap-kit, in "
            f"{attached}/hubmap-kit or in any folder below {attached}, which holds {', '.join(holds) or 'nothing'}; "
            "attach the dataset (dataset_sources in kernel-metadata.json)"
        )
    manifest = json.loads((found[0] / MARKER).read_text(encoding="utf-8"))
    state = " with uncommitted changes" if manifest["dirty"] else ""
    print(f"{manifest['name']} {manifest['version']}, commit {manifest['commit']}{state}, from {found[0]}")

    wheels = []
    for wheel in manifest["wheels"]:
        path = found[0] / wheel["file"]
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != wheel["sha256"]:
            sys.exit(f"{path} is missing or is not the file that {MARKER} describes; upload the dataset again")
        if wheel["module"] == "hubmap_kit" or importlib.util.find_spec(wheel["module"]) is None:
            wheels.append(str(path))
    folder = tempfile.mkdtemp(prefix="hubmap-kit-")
    flags = ["--no-index", "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check", "--target", folder]
    pip = subprocess.run([sys.executable, "-m", "pip", "install", *flags, *wheels], capture_output=True, text=True)
    if pip.returncode:
        sys.exit(f"the wheels in {found[0]} cannot be installed on Python {sys.version.split()[0]}:\n{pip.stderr}")
    sys.path.insert(0, folder)
    print(f"installed {', '.join(Path(path).name for path in wheels)}", flush=True)


# End of the bootstrap.


def main(begin: float) -> None:
    """Prepare, train, and leave the run folder as the kernel's output.

    Where the kernel's own earlier output is attached and unfinished, the training goes on from there.
    """
    from hubmap_kit.config import PrepareConfig
    from hubmap_kit.kaggle.session import find_competition, find_unfinished
    from hubmap_kit.preparation.prepare import prepare
    from hubmap_kit.recipes import recipe
    from hubmap_kit.training.folds import train_folds
    from hubmap_kit.training.train import train

    geometry = PrepareConfig(
        patch_size=PATCH_SIZE,
        input_size=INPUT_SIZE,
        pixel_size_um=PIXEL_SIZE,
        context_um=CONTEXT,
        whole=WHOLE,
        test_size=TEST_SIZE,
        folds=FOLDS,
        seed=SEED,
    )
    chosen = {
        "model": MODEL,
        "encoder": ENCODER,
        "encoder_weights": ENCODER_WEIGHTS,
        "epochs": EPOCHS,
        "steps_per_epoch": STEPS_PER_EPOCH,
        "fold": None if FOLD == "all" else FOLD,
    }
    config = recipe(RECIPE, seed=SEED, **{name: value for name, value in chosen.items() if value is not None})
    run = KAGGLE / "working" / "run"
    if previous := find_unfinished(KAGGLE / "input"):
        print(f"going on with the unfinished training in {previous}", flush=True)
        for path in filter(Path.is_file, previous.rglob("*")):  # not copytree: it would make `run` read-only too
            copy = run / path.relative_to(previous)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    with tempfile.TemporaryDirectory() as patches:  # not in /kaggle/working: that would become output
        prepare(find_competition(KAGGLE / "input"), Path(patches), geometry)
        left = None if TIME_LIMIT is None else 3600 * TIME_LIMIT - (time.monotonic() - begin)
        begin_training = train_folds if FOLD == "all" else train
        finished = begin_training(
            Path(patches), run, config, recipe=RECIPE, resume=previous is not None, time_limit=left
        )
    if not finished:
        print(
            "the training is not finished: run this kernel again, the same but with its own output attached "
            "(its id in kernel_sources of kernel-metadata.json), and it goes on"
        )


if __name__ == "__main__":
    started = time.monotonic()
    bootstrap()
    main(started)
