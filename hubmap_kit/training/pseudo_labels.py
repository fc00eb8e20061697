"""Pseudo-labels: what an ensemble makes of images without masks, as a patch store of soft masks to train on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..competition import DataError, Problem, image_path, scan_images
from ..config import PredictConfig
from ..files import sha256_of
from ..images.scaling import load_image, resize
from ..images.stain import measure, transfer
from ..prediction.ensemble import Member
from ..prediction.networks import load_members, probability_map
from ..preparation.store import PatchStore, begin_store, finish_store, write_image, write_images
from ..run import Run, expand

IMAGES_AT_ONCE = 2  # one is read while another is predicted


def pseudo_label(
    data: Path, patches: Path, out: Path, runs: list[Path], config: PredictConfig
) -> tuple[PatchStore, list[Problem]]:
    """Predict a competition folder's images into a store of soft masks.

    Each image is stored at the pixel size and in the patches of another store, to be trained on together
    with it (Lee 2013, "Pseudo-Label", ICML workshop; soft as in Xie et al. 2020, arXiv 1911.04252); its
    mask is the mean of the networks' probability maps. An image in which no pixel reaches 0.5 is left
    out, since every image holds at least one functional tissue unit. One that cannot be read does not
    stop the others. Images that the same runs have predicted with the same settings are left as they are.

    Args:
        data: Competition folder.
        patches: The patch store whose geometry is taken.
        out: Folder of the store to write.
        runs: Run folders, and folders of folds.
        config: Settings, of which those count that a probability map depends on.

    Returns:
        The store, opened; and the problems: errors of the table and the images, and a warning for each
        image that is left out.

    Raises:
        DataError: A table that as a whole cannot be read, or no image with a mask.
        ValueError: A store or run that cannot be opened; `out` holds another kind of store; or the images
            are those with true masks in `patches`.
    """
    like = PatchStore.open(patches)
    if config.split == "train" and data.resolve() == like.data:
        raise ValueError(
            f"the training images of {data} are in {patches} with their true masks; networks that had learned from "
            "these would be trained on their answers for its validation images: predict other images"
        )
    ensemble = [Run.open(run) for run in expand(runs)]
    images, problems, rows = scan_images(data, config.split)
    images = images.assign(split="train", fold=-1, rle="", network_um=images["organ"].map(like.config.network_um()))
    begin_store(out, soft=True)
    members = load_members(ensemble, config)
    facts = {"runs": [{"name": run.folder.name, "sha256": _digest(run, config)} for run in ensemble]}
    write = partial(_predict_image, data, config.split, out, like.config.input_size, facts, members)
    file = f"{config.split}.csv"
    made, unread = write_images("pseudo", write, images, rows, file=file, jobs_at_once=IMAGES_AT_ONCE)
    problems += unread
    for image_id in [i for i, about in made.items() if not any(share for *_, share in about["patches"])]:
        del made[image_id]
        rule = f"id {image_id}: no pixel reaches a probability of 0.5"
        problems.append(Problem("warning", file, rows[image_id], rule, "it is left out"))
    problems.sort(key=lambda problem: problem.row or 0)
    if not made:
        remedy = "train the runs further, or name other images"
        raise DataError([*problems, Problem("error", file, None, "no image has a mask to train on", remedy)])
    return finish_store(out, data, like.config, images.loc[images.index.isin(list(made))], made, soft=True), problems


def _predict_image(
    data: Path,
    split: str,
    out: Path,
    input_size: int,
    facts: dict[str, Any],
    members: list[Member],
    job: tuple[int, dict[str, Any]],
) -> dict[str, Any]:
    """Write one image of the store and its soft mask.

    Args:
        data: Competition folder.
        split: ``test`` or ``train``: where the image lies.
        out: Folder of the store.
        input_size: Least side of what is stored, in px.
        facts: What the mask depends on besides the image.
        members: The networks.
        job: The image's id, and its row of the table.

    Returns:
        See `store.write_image`.
    """
    image_id, row = job
    source = image_path(data, split, image_id)

    def read() -> tuple[np.ndarray, np.ndarray]:
        shape = (int(row["img_height"]), int(row["img_width"]))
        organ = row["organ"]
        scales = {row["network_um"], *(member.network_um[organ] for member in members)}
        shown = {um: load_image(source, row["pixel_size"], um, expect_shape=shape)[0] for um in scales}
        image = shown[row["network_um"]]
        small = (image.shape[0], image.shape[1])
        total = np.zeros(small, np.float32)
        for member in members:
            seen = shown[member.network_um[organ]]
            if look := member.looks.get(organ):
                seen = transfer(seen, measure(seen, look.method), look)
            total += resize(probability_map(seen, member), small)
        return image, np.rint(total * np.float32(255 / len(members))).astype(np.uint8)

    return write_image(out, job, source, input_size, facts, read, soft=True)


def _digest(run: Run, config: PredictConfig) -> str:
    """By which it is known that a mask was made by the same run with the same settings."""
    facts = [asdict(config), run.about, sha256_of(run.weights)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
