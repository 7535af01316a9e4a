"""PASCAL VOC 2012, PAS-21 and PAS-20.

reads   VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}
writes  pascal_voc_d2/images/{training,validation}/*.jpg      links
        pascal_voc_d2/annotations_pascal21/{training,validation}/*.png    0-20, 255 void
        pascal_voc_d2/annotations_pascal20/{training,validation}/*.png    0-19, 255 void and
                                                                          background
"""

from pathlib import Path

import numpy as np

from ita.data.preparing.jobs import Plan, Step
from ita.data.preparing.labels import LabelJob, label_table
from ita.data.preparing.raw import read_labels, require, require_files
from ita.errors import UserError

FOLDERS = {"train": "training", "val": "validation"}
NUM_CLASSES, VOID = 20, 255


def plan(root: Path, split: str) -> Plan:
    """Plan the preparation of VOC's ``train`` or ``val``.

    Raises:
        UserError: missing raw files.
    """
    voc, prepared = root / "VOCdevkit" / "VOC2012", root / "pascal_voc_d2"
    listed = voc / "ImageSets" / "Segmentation" / f"{split}.txt"
    images, labels = voc / "JPEGImages", voc / "SegmentationClass"
    require(listed, images, labels)
    stems = listed.read_text(encoding="utf-8").split()
    if not stems:
        raise UserError(f"{listed} lists no images: unpack the data set again")
    require_files(images, (f"{stem}.jpg" for stem in stems))
    require_files(labels, (f"{stem}.png" for stem in stems))
    folder, tables = FOLDERS[split], {"pascal21": pas21_table(), "pascal20": pas20_table()}
    jobs = [
        LabelJob(
            source=labels / f"{stem}.png",
            read=read_labels,
            outputs={
                prepared / f"annotations_{name}" / folder / f"{stem}.png": table
                for name, table in tables.items()
            },
            image=images / f"{stem}.jpg",
            image_link=prepared / "images" / folder / f"{stem}.jpg",
        )
        for stem in stems
    ]
    return Plan((Step(f"PASCAL VOC {split}", jobs),))


def pas21_table() -> np.ndarray:
    """Table that keeps raw values: 0 is background, 1-20 are the classes, 255 is border void."""
    return label_table({i: i for i in range(NUM_CLASSES + 1)}, ignored=[VOID], ignore_label=VOID)


def pas20_table() -> np.ndarray:
    """Table from the classes 1-20 to 0-19; background and void are both ignored.

    Subtracting 1 from the bytes would turn void into 254, which a confusion matrix counts.
    """
    return label_table({i + 1: i for i in range(NUM_CLASSES)}, ignored=[0, VOID], ignore_label=VOID)
