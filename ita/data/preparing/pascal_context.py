"""PASCAL Context, PC-59 and PC-459: label maps from the .mat files.

reads   VOCdevkit/VOC2010/{JPEGImages/*.jpg,trainval/*.mat,trainval_merged.json}
writes  pascal_ctx_d2/images/{training,validation}/*.jpg      links
        pascal_ctx_d2/annotations_ctx59/{training,validation}/*.png    0-58, 255 unlabelled
        pascal_ctx_d2/annotations_ctx459/{training,validation}/*.tif   0-458, 65535, 16 bits
"""

from pathlib import Path

import numpy as np
import scipy.io

from ita.data.preparing.jobs import Plan, Step
from ita.data.preparing.labels import LabelJob, label_table
from ita.data.preparing.raw import AGAIN, read_json, require, require_files
from ita.errors import UserError, reason_of

FOLDERS = {"train": "training", "val": "validation"}
NUM_CLASSES, VOID, VOID_16_BIT = 459, 255, 65535
# LabelMap ids (1-459) of PC-59's classes, in its order.
PC59_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip


def plan(root: Path, split: str) -> Plan:
    """Plan the preparation of PASCAL Context's ``train`` or ``val``.

    Raises:
        UserError: missing or invalid raw files.
    """
    voc, prepared = root / "VOCdevkit" / "VOC2010", root / "pascal_ctx_d2"
    images, maps, listed = voc / "JPEGImages", voc / "trainval", voc / "trainval_merged.json"
    require(images, maps, listed)
    stems = split_stems(listed, split)
    require_files(images, (f"{stem}.jpg" for stem in stems))
    require_files(maps, (f"{stem}.mat" for stem in stems))
    folder = FOLDERS[split]
    pc59, pc459 = pc59_table(), pc459_table()
    jobs = [
        LabelJob(
            source=maps / f"{stem}.mat",
            read=read_label_map,
            outputs={
                prepared / "annotations_ctx59" / folder / f"{stem}.png": pc59,
                prepared / "annotations_ctx459" / folder / f"{stem}.tif": pc459,
            },
            image=images / f"{stem}.jpg",
            image_link=prepared / "images" / folder / f"{stem}.jpg",
        )
        for stem in stems
    ]
    return Plan((Step(f"PASCAL Context {split}", jobs),))


def split_stems(listed: Path, split: str) -> list[str]:
    """Read the sorted stems of a split's images (by ``phase``) from ``trainval_merged.json``.

    Raises:
        UserError: an unreadable file, or one without such images.
    """
    content = read_json(listed)
    try:
        names = [image["file_name"] for image in content["images"] if image["phase"] == split]
        stems = sorted(Path(name).stem for name in names)
    except (KeyError, TypeError) as error:
        raise UserError(f"{listed} has no images with file_name and phase: {AGAIN}") from error
    if not stems:
        raise UserError(f"{listed} has no images of phase {split}: {AGAIN}")
    return stems


def pc59_table() -> np.ndarray:
    """Table from raw values to PC-59's; the other 400 classes and 0 are ignored."""
    return label_table(
        {raw: i for i, raw in enumerate(PC59_IDS)},
        ignored=range(NUM_CLASSES + 1),
        ignore_label=VOID,
    )


def pc459_table() -> np.ndarray:
    """Table from raw values to PC-459's: 0 is unlabelled, 1-459 are the classes."""
    return label_table(
        {i + 1: i for i in range(NUM_CLASSES)}, ignored=[0], ignore_label=VOID_16_BIT
    )


def read_label_map(path: Path) -> np.ndarray:
    """Read ``LabelMap`` from a .mat file as integers [H, W].

    Raises:
        UserError: an unreadable file, or one without such a map.
    """
    try:
        label_map = scipy.io.loadmat(path, variable_names=["LabelMap"])["LabelMap"]
    except NotImplementedError as error:
        raise UserError(
            f"{path} is a MATLAB 7.3 file, but those of the data set have version 5: download it "
            "again, or save it with -v6 or -v7"
        ) from error
    except KeyError as error:
        raise UserError(f"{path} has no LabelMap: is this the right file? {AGAIN}") from error
    except Exception as error:  # reading a damaged file can raise anything
        reason = reason_of(error)
        raise UserError(f"cannot read {path}: {reason}; {AGAIN}") from error
    if label_map.ndim != 2 or not np.issubdtype(label_map.dtype, np.integer):
        raise UserError(f"{path}: LabelMap is not a 2D array of integers: {AGAIN}")
    return label_map
