# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     gpuType: T4
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 · Training
#
# BADGES
#
# A U-Net with a pretrained EfficientNet, or a plain one, trained on the patches of the [first
# notebook](1_data.ipynb). It makes the patches itself if they are missing. The [third notebook](3_results.ipynb)
# shows the results.
#
# **To try it without an account**, set `DEMO = True`. Use a GPU for anything else.

# %% [markdown]
# ## Settings
#
# These are the settings of the recipe `seed`, the design that most notebooks of this competition start from. The
# environment variable `HUBMAP_NOTEBOOK`, a JSON object such as `{"DEMO": true, "MODEL": "unet"}`, changes some of them
# without an edit.

# %%
PACKAGE = "hubmap-kit[kaggle] @ git+REPOSITORY"  # for pip, if the library is not installed; also the path of a wheel

DEMO = False  # True: draw a small competition; it needs no credentials
DEMO_IMAGES = 20  # its training images; it has half as many test images
DEMO_SIZE = 2048  # side of its training images, in px
DATA = None  # folder with the competition's data; None: the one attached on Kaggle, or a download
RUN = "run"  # name of the run folder; another one for each training
DRIVE = False  # True: on Colab, the run folder is on Google Drive, where it outlives the session

TEST_SIZE = None  # test images, and as many validation images; None: 65, or the same share of a smaller set
PATCH_SIZE = 1024  # side of a patch, in pixels of 0.4 µm, which training images have
INPUT_SIZE = 256  # side of the same patch as the network sees it, in px
SEED = 0  # of the split and of the training

MODEL = "efficientnet-unet"  # or "unet": the plain U-Net
ENCODER = "efficientnetb3"  # of the efficientnet-unet; b0 is the smallest, b7 the largest
ENCODER_WEIGHTS = "imagenet"  # a download; or "none", or the path of a file
FILTERS = 64  # of the plain U-Net's first stage; the next four have twice as many each
LOSS = "bce"  # also "bce+dice"
BATCH_SIZE = 16  # patches in a step
LEARNING_RATE = 1e-3  # Adam's, until the encoder is unfrozen, which sets 5e-4
FREEZE_EPOCHS = 10  # epochs in which the encoder stays as it was pretrained
EPOCHS = 60  # most epochs in all
STEPS_PER_EPOCH = None  # None: one pass over the patches
PATIENCE = 12  # epochs without a better validation Dice before it stops

# For the demo without a GPU, remove the "#" below: two minutes on two cores.
# MODEL, FILTERS, INPUT_SIZE, BATCH_SIZE, EPOCHS, STEPS_PER_EPOCH = "unet", 16, 96, 8, 10, 60

# %% [markdown]
# ## The library
#
# It is installed from the dataset `hubmap-kit` if that is attached on Kaggle, else from `PACKAGE`.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("hubmap_kit") is None:
    wheels = sorted(map(str, Path("/kaggle/input").rglob("hubmap_kit-*.whl")))
    what = ["--no-index", "--no-deps", *wheels[:1]] if wheels else [PACKAGE]
    if not wheels and "/OWNER/" in PACKAGE:
        sys.exit("set PACKAGE to the path of a wheel of hubmap-kit, or to the address of its repository")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *what], check=True)

from hubmap_kit import notebook

work = notebook.begin(globals())

from hubmap_kit.config import PrepareConfig
from hubmap_kit.preparation.prepare import prepare, summary
from hubmap_kit.recipes import recipe
from hubmap_kit.reports import figures
from hubmap_kit.run import Run

# %% [markdown]
# ## Data and patches
#
# Patches that the first notebook made are used again. The table shows how many images of each organ are in each split.

# %%
data = notebook.competition(demo=DEMO, images=DEMO_IMAGES, size=DEMO_SIZE, data=DATA)
geometry = PrepareConfig(patch_size=PATCH_SIZE, input_size=INPUT_SIZE, test_size=TEST_SIZE, seed=SEED)
store = prepare(data, work / "patches", geometry)
print(summary(store))

# %% [markdown]
# ## The network and its schedule
#
# The settings above replace those of the recipe. A pretrained encoder is frozen first, so that the new decoder does
# not spoil it; then everything is trained at a lower learning rate.

# %%
config = recipe(
    "seed",
    model=MODEL,
    encoder=ENCODER,
    encoder_weights=ENCODER_WEIGHTS,
    filters=FILTERS,
    loss=LOSS,
    batch_size=BATCH_SIZE,
    learning_rate=LEARNING_RATE,
    freeze_epochs=FREEZE_EPOCHS,
    epochs=EPOCHS,
    steps_per_epoch=STEPS_PER_EPOCH,
    patience=PATIENCE,
    seed=SEED,
)

# %%
from hubmap_kit.training.step import phases  # this imports TensorFlow, which takes some seconds

for phase in phases(config):
    encoder = "frozen" if phase.frozen else "trained"
    print(f"epochs {phase.first + 1} to {phase.stop}: Adam at {phase.learning_rate:g}, encoder {encoder}")

# %% [markdown]
# ## Training
#
# Each line is an epoch. The Dice is that of whole validation images at full resolution, as the competition scores
# them, not of patches. The weights of the best epoch are kept. If the session ends early, run this cell again: the
# training goes on after its last epoch. To train with other settings, name another folder in `RUN`.

# %%
from hubmap_kit.training.train import train

run = notebook.run_folder(RUN, drive=DRIVE)
finished = train(store.folder, run, config, recipe="seed", resume=True)

# %% [markdown]
# ## Curves
#
# A growing gap between the two losses means overfitting. The curves jump where the encoder is unfrozen.

# %%
figures.show_curves(run)

# %% [markdown]
# ## The run folder
#
# It holds the weights, the settings, the thresholds, the history and the scores: all that prediction needs. Next: [3
# · Results](3_results.ipynb).

# %%
print("stored:", *sorted(path.name for path in run.iterdir()))
print("thresholds:", Run.open(run).config.rule.thresholds)
