"""Predict on Kaggle, offline: test images to /kaggle/working/submission.csv.

The settings below are all there is to change; the work is done by the library in the attached
dataset hubmap-kit, with the run folders in the attached dataset hubmap-weights. The environment
variable HUBMAP_SETTINGS, a JSON object of setting to value, changes some for one run, as a
rehearsal does.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = None  # names of the run folders, or folders of folds, to use; None: all that are attached, as an ensemble
PATCH_SIZE = None  # side of a tile, in pixels of which the run's patch size makes one patch; None: that
OVERLAP = None  # overlap of neighbouring tiles, a fraction; None: the run's
TTA = "flips"  # test-time augmentation: none, flips or d4
SCALES = "1"  # factors of size at which each network sees an image, such as "0.8,1,1.25"
STAIN = "none"  # bring images' colours to those of the training: none, reinhard or macenko
ADAPT = "none"  # adapt networks to the images of each organ and source: none, batchnorm or self-training
THRESHOLD = None  # probability from which a pixel is foreground; None: the run's, by organ
MIN_REGION = None  # area in um2 below which a region is dropped; None: the run's, by organ
BATCH_SIZE = None  # tiles a batch; None: 16 on a GPU, 2 on a CPU
SKIP_BACKGROUND = False  # whether tiles without tissue are background without a network seeing them
TIME_LIMIT = 8.5  # hours from the kernel's start; near it, ADAPT, TTA, SCALES, OVERLAP and runs are given up in turn
ON_ERROR = "empty"  # an image that cannot be predicted: empty mask, or stop with status 1 after the rest

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
    """Predict, then check what was written."""
    from hubmap_kit.config import PredictConfig
    from hubmap_kit.kaggle.session import find_competition, find_runs
    from hubmap_kit.prediction.predict import predict
    from hubmap_kit.submission import validate

    config = PredictConfig(
        tile_size=PATCH_SIZE,
        overlap=OVERLAP,
        tta=TTA,
        scales=SCALES,
        stain=STAIN,
        adapt=ADAPT,
        threshold=THRESHOLD,
        min_region_um2=MIN_REGION,
        batch_size=BATCH_SIZE,
        skip_background=SKIP_BACKGROUND,
        time_limit=None if TIME_LIMIT is None else max(0.0, 60 * TIME_LIMIT - (time.monotonic() - begin) / 60),
        on_error=ON_ERROR,
    )
    data = find_competition(KAGGLE / "input")
    runs = find_runs(KAGGLE / "input", RUNS)
    print("runs:", *runs, flush=True)
    submission = KAGGLE / "working" / "submission.csv"
    problems = predict(data, runs, submission, config) + validate(submission, data)
    for problem in problems:
        print(problem)
    if any(problem.severity == "error" for problem in problems):
        sys.exit(1)
    print(f"{submission} is valid")


if __name__ == "__main__":
    started = time.monotonic()
    bootstrap()
    main(started)
