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
# # 3 · Results
#
# BADGES
#
# Loss and Dice of the run that the [second notebook](2_train.ipynb) trained, its predictions and errors as pictures,
# and `submission.csv`. On Kaggle the runs of an attached dataset `hubmap-weights` are used too.
#
# **To try it without an account**, set `DEMO = True`: if there is no run yet, a small network is trained first.

# %% [markdown]
# ## Settings
#
# The environment variable `HUBMAP_NOTEBOOK`, a JSON object such as `{"DEMO": true, "TTA": "none"}`, changes some of
# them without an edit.

# %%
PACKAGE = "hubmap-kit[kaggle] @ git+REPOSITORY"  # for pip, if the library is not installed; also the path of a wheel

DEMO = False  # True: draw a small competition; it needs no credentials
DEMO_IMAGES = 20  # its training images; it has half as many test images
DEMO_SIZE = 2048  # side of its training images, in px
DEMO_EPOCHS = 4  # of the small network that is trained on it if there is no run
DATA = None  # folder with the competition's data; None: the one attached on Kaggle, or a download
RUN = "run"  # name of the run folder; another one for each training
DRIVE = False  # True: on Colab, the run folder is on Google Drive, where it outlives the session

TTA = "flips"  # test-time augmentation: none, flips or d4
PICTURES = 5  # images whose errors are shown
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

import pandas as pd

from hubmap_kit import submission
from hubmap_kit.config import PredictConfig, PrepareConfig
from hubmap_kit.metrics import score_text
from hubmap_kit.reports import figures
from hubmap_kit.reports.report import write_report
from hubmap_kit.reports.review import write_review
from hubmap_kit.tables import read_images

# %% [markdown]
# ## Data and runs
#
# Several runs are an ensemble: their probabilities are averaged.

# %%
data = notebook.competition(demo=DEMO, images=DEMO_IMAGES, size=DEMO_SIZE, data=DATA)
runs = notebook.runs(RUN, drive=DRIVE)
if not runs and DEMO:
    from hubmap_kit.preparation.prepare import prepare
    from hubmap_kit.recipes import recipe
    from hubmap_kit.training.train import train

    prepare(data, work / "demo-patches", PrepareConfig(input_size=96))
    train(work / "demo-patches", work / RUN, recipe("fast", epochs=DEMO_EPOCHS), recipe="fast")
    runs = notebook.runs(RUN)
if not runs:
    raise SystemExit("there is no finished run: run 2_train first, or attach the dataset hubmap-weights on Kaggle")
print("runs:", *runs)

# %% [markdown]
# ## Loss and Dice
#
# Each number is a mean over whole images at full resolution. Compare the splits: a training Dice far above the others
# means overfitting. All three splits are HPA images, so no number here says how well HuBMAP images are segmented.

# %%
pd.read_csv(runs[0] / "results.csv").round(4)

# %% [markdown]
# The lowest Dice among the images that were not trained on.

# %%
scores = pd.read_csv(runs[0] / "scores.csv").query("split != 'train'").sort_values("dice")
scores.head(10)

# %% [markdown]
# ## Predictions
#
# The worst of these images: the truth, the prediction, and the error. Missed tissue is hatched in orange, extra tissue
# in blue. Are whole units missed, or are only their borders off?

# %%
from hubmap_kit.prediction.predict import predict, predict_images
from hubmap_kit.run import Run

config = PredictConfig(tta=TTA, on_error="empty")
by_id = {image.id: image for image in read_images(data, "train")}
shown = [by_id[image_id] for image_id in scores["id"].head(PICTURES)]
predicted = {result.id: result.rle or "" for result in predict_images(shown, [Run.open(run) for run in runs], config)}

# %%
figures.show_predictions(shown, predicted, {image.id: image.rle for image in shown})

# %% [markdown]
# ## Submission
#
# This predicts all test images, writes `submission.csv`, and checks it by the rules of Kaggle's scorer and further
# ones. Below is every problem, with its row and what to do.

# %%
answer = work / "submission.csv"
problems = predict(data, runs, answer, config) + submission.validate(answer, data)
print(*problems, sep="\n")
print(f"{answer}: {sum(problem.severity == 'error' for problem in problems)} errors")
pd.read_csv(answer).head()

# %%
masks = pd.read_csv(answer, dtype=str, keep_default_na=False).set_index("id")["rle"]
figures.show_images(read_images(data, "test")[:10], {int(image_id): text for image_id, text in masks.items()})

# %% [markdown]
# ## Score
#
# The demo has the true masks of its test images. Compare the sources: the competition's final score is on HuBMAP images
# only. Only Kaggle has their true masks.

# %%
truth = data / "test_truth.csv"
if truth.exists():
    print(score_text(submission.score(answer, truth)))
else:
    print("no truth here: only Kaggle can score it")

# %% [markdown]
# ## Pages
#
# The review shows every test image with its mask, and what is suspicious about it: look at the flags before you submit.
# Click an image to open it and zoom.

# %%
page = work / "review.html"
write_review(answer, data, page, truth=truth if truth.exists() else None, runs=runs, max_mb=PAGE_MB)
notebook.Frame(page)

# %% [markdown]
# The report of the training: curves, scores by organ, and the images that were segmented worst.

# %%
page = work / "report.html"
write_report(runs, page)
notebook.Frame(page)

# %% [markdown]
# ## What to try next
#
# What helped on tissue in a stain that was not trained on, [as measured](REPOSITORY/blob/main/docs/ablation.md):
#
# - **Stain augmentation**: 0.05 Dice, and 0.15 where the stain is new. The recipe `default` has it, `seed` does not.
#   Keep the pretrained encoder: without it the Dice was 0.37 lower.
# - **Test-time augmentation**: flips bring 0.012, `TTA = "d4"` 0.015 for twice the time.
# - **An ensemble**: two seeds bring 0.009; folds are the usual way to get more.
# - Three scales, and training on the network's own confident masks: 0.005 each.
#
# Half or twice the context and a wider decoder made it worse. Strong augmentation, as in the recipe `default`, needs a
# long training. To submit: [a first submission](REPOSITORY/blob/main/docs/first-submission.md).
