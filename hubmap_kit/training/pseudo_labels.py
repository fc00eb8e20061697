"""Pseudo-labels: an ensemble predicts images without masks into a patch store of soft masks, to train on them too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..competition import table_path
from ..config import PredictConfig
from ..files import sha256_of
from ..images.scaling import load_image, resize
from ..prediction.ensemble import Member
from ..prediction.networks import load_members, probability_map
from ..prediction.predict import remarks_on
from ..preparation.store import (
    PatchStore,
    StoredImage,
    StoreInfo,
    Written,
    begin_store,
    finish_store,
    write_image,
    write_images,
)
from ..run import Run, expand
from ..tables import DataError, Image, Problem, remarks, scan_images

IMAGES_AT_ONCE = 2  # one image is read while another is predicted


def pseudo_label(
    data: Path, patches: Path, out: Path, runs: list[Path], config: PredictConfig, *, overwrite: bool = False
) -> tuple[PatchStore, list[Problem]]:
    """Predict a competition folder's images into a store of soft masks.

    Each image is stored at the pixel size and in the patches of another store, so that both can be trained on together
    (Lee 2013, "Pseudo-Label", ICML workshop; soft masks as in Xie et al. 2020, arXiv 1911.04252). Its mask is the mean
    of the networks' probability maps. An image in which no pixel reaches 0.5 is left out, since every image of the
    competition holds at least one functional tissue unit. An image that cannot be read does not stop the others. Images
    that the same runs have predicted with the same settings are not predicted again.

    Args:
        data: Competition folder.
        patches: The patch store whose pixel sizes and patch size are copied.
        out: Folder of the store to write.
        runs: Run folders, and folders of folds.
        config: Settings; those that only change masks or the order of work are not used.
        overwrite: Whether to replace a store of soft masks of other data.

    Returns:
        The store, opened; and the problems: errors of the table and the images, and a warning for each
        image that is left out.

    Raises:
        DataError: The table cannot be read at all, or no image has a mask.
        ValueError: A store or run that cannot be opened; `out` holds another kind of store; or the images
            are those with true masks in `patches`.
    """
    like = PatchStore.open(patches)
    if config.split == "train" and data.resolve() == like.info.data:
        raise ValueError(
            f"the training images of {data} are in {patches} with their true masks; training on their predicted "
            "masks would also train on the validation images: predict other images"
        )
    ensemble = [Run.open(run) for run in expand(runs)]
    scan = scan_images(data.absolute(), config.split)
    network_um = like.config.network_um()
    info = StoreInfo(data, like.config, soft=True, data_split=config.split)
    folder = begin_store(out, info, overwrite=overwrite)
    members = load_members(ensemble, config)
    facts = {"runs": [{"name": run.folder.name, "sha256": _fingerprint(run, config)} for run in ensemble]}
    write = partial(_predict_image, out, folder, like.config.input_size, network_um, facts, members)
    written, unread = write_images("pseudo", write, scan.images, images_at_once=IMAGES_AT_ONCE)
    table = table_path(data, config.split).name
    problems = [*scan.problems, *remarks(scan.images), *remarks_on(ensemble, scan.images, table), *unread]
    stored = []
    for image in scan.images:
        if image.id not in written:
            continue
        if any(share for *_, share in written[image.id].patches):
            shape = written[image.id].shape
            stored.append(StoredImage(replace(image, rle=""), shape, network_um[image.organ], "train", -1))
        else:
            rule = f"id {image.id}: no pixel reaches a probability of 0.5"
            problems.append(image.problem(rule, "it is left out", "warning"))
    problems.sort(key=lambda problem: problem.row or 0)
    if not stored:
        remedy = "train the runs further, or name other images"
        raise DataError([*problems, Problem("error", table, None, "no image has a mask to train on", remedy)])
    return finish_store(out, info, stored, written), problems


def _predict_image(
    out: Path,
    folder: str,
    input_size: int,
    network_um: Mapping[str, float],
    facts: Mapping[str, Any],
    members: list[Member],
    image: Image,
) -> Written:
    """Write one image of the store and its soft mask.

    Args:
        out: Folder of the store.
        folder: Folder inside it to write to.
        input_size: Least side of the stored array, in px.
        network_um: The network's pixel size by organ, in um.
        facts: What the mask depends on besides the image.
        members: The networks.
        image: The image.
    """
    um = network_um[image.organ]

    def read() -> tuple[np.ndarray, np.ndarray]:
        scales = {um, *(member.network_um[image.organ] for member in members)}
        shown = {
            scale: load_image(image.path, image.pixel_size_um, scale, expect_shape=image.shape)[0] for scale in scales
        }
        rgb = shown[um]
        small = (rgb.shape[0], rgb.shape[1])
        total = np.zeros(small, np.float32)
        for member in members:
            seen = shown[member.network_um[image.organ]]
            total += resize(probability_map(seen, member, image.organ), small)
        return rgb, np.rint(total * np.float32(255 / len(members))).astype(np.uint8)

    return write_image(out, folder, image, um, input_size, facts, read, soft=True)


def _fingerprint(run: Run, config: PredictConfig) -> str:
    """Fingerprint of a run and the settings; equal fingerprints mean equal masks."""
    facts = [asdict(config), run.config.to_json(), sha256_of(run.weights)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
