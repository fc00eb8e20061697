# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1 · Data preparation
#
# BADGES
#
# Images, masks, the split, patches, and what augmentation does to them. The [second notebook](2_train.ipynb) trains
# on the patches, the [third](3_results.ipynb) shows the results and writes `submission.csv`. All work is done by the
# library [hubmap-kit](REPOSITORY); a notebook only calls it and shows the results.
#
# **To try it without an account**, set `DEMO = True` below: a small competition with synthetic tissue replaces the real
# one.

# %% [markdown]
# ## Settings
#
# The environment variable `HUBMAP_NOTEBOOK`, a JSON object such as `{"DEMO": true, "PATCH_SIZE": 512}`, changes some of
# them without an edit.

# %%
PACKAGE = "hubmap-kit[kaggle] @ git+REPOSITORY"  # for pip, if the library is not installed; also the path of a wheel

DEMO = False  # True: draw a small competition; it needs no credentials
DEMO_IMAGES = 20  # its training images; it has half as many test images
DEMO_SIZE = 2048  # side of its training images, in px
DATA = None  # folder with the competition's data; None: the one attached on Kaggle, or a download

TEST_SIZE = None  # test images, and as many validation images; None: 65, or the same share of a smaller set
PATCH_SIZE = 1024  # side of a patch, in pixels of 0.4 µm, which training images have
INPUT_SIZE = 256  # side of the same patch as the network sees it, in px
SEED = 0  # of the split
PAGE_MB = 7  # largest size of a page shown in this notebook

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

from hubmap_kit import rle
from hubmap_kit.config import PrepareConfig, TrainConfig
from hubmap_kit.preparation.prepare import prepare, summary
from hubmap_kit.recipes import recipe
from hubmap_kit.reports import figures
from hubmap_kit.reports.inspect import write_inspection
from hubmap_kit.tables import read_images, table_of

# %% [markdown]
# ## The data
#
# On Kaggle, attach the competition. Elsewhere it is downloaded, with the credentials of Kaggle's own client:
# `KAGGLE_API_TOKEN`, `~/.kaggle/access_token` or `kaggle.json`. On Colab, the secrets (the key on the left) are tried
# next; if there are none, you are asked to upload a file. No value is shown.

# %%
data = notebook.competition(demo=DEMO, images=DEMO_IMAGES, size=DEMO_SIZE, data=DATA)
train, test = read_images(data, "train"), read_images(data, "test")
print(f"{data}: {len(train)} training images, {len(test)} test images")

# %% [markdown]
# Each image has an organ, a source and a pixel size. Compare the sources: training images are from HPA, the hidden test
# images that decide the final score from HuBMAP, with other pixel sizes and other stains.

# %%
table_of(train + test).drop(columns="rle").head(10)

# %%
table_of(train + test).groupby(["data_source", "organ"]).agg(
    images=("id", "count"), largest_height=("img_height", "max"), pixel_size_um=("pixel_size", "median")
)

# %% [markdown]
# ## Masks
#
# A mask is written as run lengths (RLE): pairs of a start and a length, column by column, counted from 1. Here it is
# decoded to an array of 0 and 1, and encoded back to the same text.

# %%
image = train[0]
mask = rle.decode(image.rle, image.shape)
print(f"image {image.id}: {image.rle[:60]} …")
print(f"mask {mask.shape} {mask.dtype}, {mask.mean():.1%} of the pixels are foreground")
print(f"encoded again it is the same text: {rle.encode(mask) == image.rle}")

# %% [markdown]
# One training image of each organ with its true outlines. Look at what the annotators included: the white lumen of
# glands and alveoli belongs to the mask.

# %%
figures.show_images(list({image.organ: image for image in train}.values()))

# %% [markdown]
# Test images; their masks are not known here. Compare the stains and the scale bars with those above: most low scores
# come from this difference, not from the network.

# %%
figures.show_images(test[:10])

# %% [markdown]
# A page with all images: what is unusual about each, which look alike, and how train and test differ. Read its first
# lines, then look at the images that have flags.

# %%
page = work / "data.html"
write_inspection(data, page, max_mb=PAGE_MB)
notebook.Frame(page)

# %% [markdown]
# ## Split and patches
#
# The split keeps the share of each organ. Each image is resampled to the network's pixel size and stored once with its
# mask. The table of patches says where each patch is and how much of it is mask. If you run this again, it does only
# what is missing.

# %%
geometry = PrepareConfig(patch_size=PATCH_SIZE, input_size=INPUT_SIZE, test_size=TEST_SIZE, seed=SEED)
store = prepare(data, work / "patches", geometry)
print(summary(store))

# %% [markdown]
# The grid of patches on the image with most mask. Patches with a solid frame hold at least 5 % mask. The second
# notebook trains on these only.

# %%
chosen = int(store.patches.groupby("id")["mask_share"].mean().idxmax())
figures.show_patches(store, chosen)

# %% [markdown]
# ## Rotation and flip
#
# The same patch as it is stored and as training sees it. Image and mask move together.

# %%
figures.show_augmented(store, chosen, TrainConfig(augment="flip,quarter").augment_shares())

# %% [markdown]
# The augmentations of the recipe `default`: some patches are also turned by any angle, scaled, bent, given another
# stain, or degraded. In our ablation the change of stain helped most against the shift between the sources.

# %%
figures.show_augmented(store, chosen, recipe("default").augment_shares())

# %% [markdown]
# ## What is stored
#
# `images.csv` has a row for each image with its split, `patches.csv` one for each patch, and `images/` the pixels:
# red, green, blue and mask. Next: [2 · Training](2_train.ipynb).

# %%
print("stored:", *sorted(path.name for path in store.folder.iterdir()))
print(f"image {chosen}: {store.read(chosen).shape} {store.read(chosen).dtype}")
store.patches.head()
