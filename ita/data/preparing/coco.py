"""COCO 2017: semantic label maps from the panoptic PNGs.

reads   coco/annotations/panoptic_{train,val}2017.json, coco/panoptic_{train,val}2017/*.png
writes  coco/panoptic_semseg_{train,val}2017/*.png     0-132, 255 unlabelled

Optional: without them, labels are derived from the panoptic files each time they are read.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ita.data.preparing.jobs import Plan, Step
from ita.data.preparing.labels import LabelJob, label_table
from ita.data.preparing.raw import read_json, read_segment_classes, require, require_files
from ita.data.rows import describe, find_row
from ita.errors import UserError

VOID = 255


def plan(root: Path, split: str) -> Plan:
    """Plan the preparation of COCO's ``train`` or ``val``.

    Raises:
        UserError: missing or invalid raw files.
    """
    coco = root / "coco"
    description = describe(find_row(f"openvocab_coco_2017_{split}_panoptic_with_sem_seg"))
    jobs = semantic_jobs(
        coco / "annotations" / f"panoptic_{split}2017.json",
        coco / f"panoptic_{split}2017",
        coco / f"panoptic_semseg_{split}2017",
        description.stuff_dataset_id_to_contiguous_id,
        VOID,
    )
    return Plan((Step(f"COCO {split}", jobs),))


def semantic_jobs(
    panoptic_json: Path,
    panoptic_root: Path,
    semantic_root: Path,
    class_of_category: Mapping[int, int],
    void: int,
) -> list[LabelJob]:
    """Jobs for 8-bit label maps from COCO panoptic json and its PNGs, including crowd segments.

    Args:
        class_of_category: category id -> contiguous class id.
        void: label of pixels without a segment.

    Raises:
        UserError: missing json or PNGs, or json that is not COCO panoptic.
    """
    require(panoptic_json, panoptic_root)
    try:
        annotations = list(_annotations(read_json(panoptic_json), class_of_category))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{panoptic_json} is not COCO panoptic json: {error!r}") from error
    except UserError as error:
        raise UserError(f"{panoptic_json}: {error}") from error
    require_files(panoptic_root, (name for name, _ in annotations))
    table = _identity_table(len(class_of_category), void)
    return [
        LabelJob(
            source=panoptic_root / name,
            read=functools.partial(read_segment_classes, segments=segments, void=void),
            outputs={semantic_root / name: table},
        )
        for name, segments in annotations
    ]


def _annotations(
    content: Any, class_of_category: Mapping[int, int]
) -> Iterator[tuple[str, tuple[tuple[int, int], ...]]]:
    """Yield the name of each PNG, and (segment id, class) of its segments."""
    for annotation in content["annotations"]:
        segments = annotation["segments_info"]
        for segment in segments:
            if segment["category_id"] not in class_of_category:
                raise UserError(
                    f"{annotation['file_name']} has category {segment['category_id']}, which is "
                    "not one of the data set's categories: is this the right file?"
                )
        yield (
            annotation["file_name"],
            tuple((s["id"], class_of_category[s["category_id"]]) for s in segments),
        )


def _identity_table(count: int, void: int) -> np.ndarray:
    return label_table({i: i for i in range(count)}, ignored=[void], ignore_label=void)
