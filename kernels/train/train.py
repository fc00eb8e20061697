"""Train on Kaggle: competition data to a run folder in /kaggle/working/run.

The settings are all there is to change; the library in the attached dataset hubmap-kit does the work. The environment
variable HUBMAP_SETTINGS, a JSON object of setting to value, changes some for one run, as a rehearsal does.
"""

import hashlib
import json
import os
import sys
from glob import glob
from pathlib import Path

PATCH_SIZE = 3072  # side of a training patch, in pixels of 0.4 um; 3072 are 1.2 mm, a whole image of the competition
INPUT_SIZE = 768  # side of that patch as the network sees it, in pixels
CONTEXT = None  # side of a training patch in um: a number, "410,kidney=512" by organ, or "whole"; None: by PATCH_SIZE
TEST_SIZE = 0  # images of the test split, which are never trained on; None: 65, or 65/351 of a smaller set
VAL_SIZE = None  # images of the validation split; None: as many as TEST_SIZE
FOLDS = 5  # K folds over the images outside the test split; 0: none
FOLD = "all"  # with FOLDS: the fold to validate on, "all" to train every one, or None for the splits
RECIPE = "default"  # seed, default, cpu or fast; see hubmap_kit/recipes.py
MODEL = None  # efficientnet-unet or unet; None, here and below: the recipe's
ENCODER = None  # efficientnetb0, efficientnetv2b0, resnet18, ...; hubmap-kit train --help lists them
ENCODER_WEIGHTS = None  # imagenet (needs the internet), none, or the path of a file
EPOCHS = None  # the most epochs
STEPS_PER_EPOCH = None  # steps of one epoch
BATCH_SIZE = None  # patches in a step, on all GPUs together
LEARNING_RATE = None  # Adam's learning rate until a frozen encoder is unfrozen
LOSS = None  # a weighted sum of losses, such as "bce+0.5*lovasz"; hubmap-kit train --help lists them
AUGMENT = None  # augmentations with the share of patches each is done to, such as "flip,stain=0.75"
SEED = 0  # seed of the split, the weights and the augmentation
TIME_LIMIT = 11.0  # hours from the kernel's start; Kaggle ends a GPU session after 12, a TPU session after 9

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
    from hubmap_kit.kernels import train

    train(SETTINGS, dataset)
