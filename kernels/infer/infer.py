"""Predict on Kaggle, offline: test images to /kaggle/working/submission.csv.

The settings are all there is to change; the library in the attached dataset hubmap-kit does the work, with the run
folders in the attached dataset hubmap-weights. The environment variable HUBMAP_SETTINGS, a JSON object of setting to
value, changes some for one run, as a rehearsal does.
"""

import hashlib
import json
import os
import sys
from glob import glob
from pathlib import Path

RUNS = None  # names of the run folders, or folders of folds, to use; None: all that are attached, as an ensemble
PATCH_SIZE = None  # side of a tile, in the units of the training's PATCH_SIZE; None: the run's
OVERLAP = None  # overlap of neighbouring tiles, a fraction; None: the run's
TTA = "flips"  # test-time augmentation: none, flips or d4
SCALES = "0.8,1,1.25"  # factors of size at which each network sees an image; "1" takes a third of the network's time
STAIN = "none"  # match each image's colours to the training images: none, reinhard or macenko
ADAPT = "none"  # adapt networks to the images of each organ and source: none, batchnorm or self-training
THRESHOLD = None  # probability from which a pixel is foreground, or by organ "0.5,lung=0.3"; None: the run's
MIN_REGION = None  # area in um2 below which a region is dropped, or by organ; None: the run's
BATCH_SIZE = None  # tiles per batch; None: 16 on a GPU, 2 on a CPU
SKIP_BACKGROUND = False  # True: do not run the network on tiles without tissue
TIME_LIMIT = 8.5  # hours from the kernel's start; if time runs short, ADAPT, TTA, SCALES, OVERLAP and runs are cut
ON_ERROR = "empty"  # for an image that cannot be predicted: empty (an empty mask), or stop (status 1 after the rest)

SETTINGS = {name: value for name, value in dict(globals()).items() if name.isupper()}


def find_kit(attached: Path) -> Path:
    """Find the dataset hubmap-kit, and put the library's wheel on sys.path, a zip file that Python imports from."""
    places = "datasets/*/hubmap-kit", "hubmap-kit", "**"  # in newer sessions, in others, and anywhere else
    files = (glob(f"{place}/hubmap-kit.json", root_dir=attached, recursive=True) for place in places)
    manifest = attached / min(next(filter(None, files), [""]))
    if not manifest.is_file():
        holds = ", ".join(sorted(path.name for path in attached.glob("*"))) or "nothing"
        sys.exit(
            f"the dataset hubmap-kit is missing: no hubmap-kit.json in {attached}/datasets/*/hubmap-kit, in "
            f"{attached}/hubmap-kit or in any folder below {attached}, which holds {holds}; "
            "attach the dataset (dataset_sources in kernel-metadata.json)"
        )
    try:
        library = json.loads(manifest.read_text(encoding="utf-8"))["wheels"][0]
        wheel = manifest.with_name(library["file"])
    except (AttributeError, LookupError, TypeError, ValueError):
        sys.exit(f"{manifest} is damaged: it names no wheel of the library; upload the dataset again")
    if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != library.get("sha256"):
        sys.exit(f"{wheel} is missing or is not the file that {manifest.name} describes; upload the dataset again")
    sys.path.insert(0, str(wheel))
    return manifest.parent


if __name__ == "__main__":
    dataset = find_kit(Path(os.environ.get("HUBMAP_KAGGLE_ROOT", "/kaggle"), "input"))
    from hubmap_kit.kernels import infer

    infer(SETTINGS, dataset)
