"""Records (Detectron2's data set dicts) from COCO panoptic json or from a folder of label PNGs."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ita.errors import UserError

logger = logging.getLogger(__name__)

Record = dict[str, Any]
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def load_panoptic_records(
    panoptic_json: Path,
    image_root: Path,
    panoptic_root: Path,
    class_of_category: Mapping[int, int],
    thing_ids: Sequence[int],
    semantic_root: Path | None = None,
) -> list[Record]:
    """Read COCO panoptic json.

    Args:
        class_of_category: the json's category id -> contiguous class id.
        thing_ids: contiguous ids of the things.
        semantic_root: label PNGs of the same names as the panoptic ones, if there are any.

    Returns:
        One record per annotated image: ``file_name``, ``image_id``, ``height``, ``width``,
        ``pan_seg_file_name``, ``segments_info`` (``id``, contiguous ``category_id``, ``iscrowd``,
        ``isthing``) and, with ``semantic_root``, ``sem_seg_file_name``.

    Raises:
        UserError: json that is not COCO panoptic, no images, or a category that is no class.
    """
    content = _read_json(panoptic_json)
    try:
        images = {image["id"]: image for image in content["images"]}
        records = [
            _panoptic_record(images[annotation["image_id"]], annotation, class_of_category)
            for annotation in content["annotations"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{panoptic_json} is not COCO panoptic json: {error!r}") from error
    except UserError as error:
        raise UserError(f"{panoptic_json}: {error}") from error
    if not records:
        raise UserError(f"{panoptic_json} annotates no images")
    things = frozenset(thing_ids)
    for record in records:
        png = record["pan_seg_file_name"]
        record["file_name"] = os.path.join(image_root, record["file_name"])
        record["pan_seg_file_name"] = os.path.join(panoptic_root, png)
        if semantic_root is not None:
            record["sem_seg_file_name"] = os.path.join(semantic_root, png)
        for segment in record["segments_info"]:
            segment["isthing"] = segment["category_id"] in things
    return records


def _read_json(path: Path) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid json: {error}") from error


def _panoptic_record(
    image: Mapping[str, Any], annotation: Mapping[str, Any], class_of_category: Mapping[int, int]
) -> Record:
    """A record with the file names as the json has them, without folders."""
    segments = []
    for segment in annotation["segments_info"]:
        category = segment["category_id"]
        if category not in class_of_category:
            raise UserError(
                f"image {annotation['image_id']} has category {category}, outside the class list"
            )
        segments.append(
            {
                "id": segment["id"],
                "category_id": class_of_category[category],
                "iscrowd": segment.get("iscrowd", 0),
            }
        )
    return {
        "file_name": image["file_name"],
        "image_id": annotation["image_id"],
        "height": image["height"],
        "width": image["width"],
        "pan_seg_file_name": annotation["file_name"],
        "segments_info": segments,
    }


def load_semantic_records(image_root: Path, label_root: Path) -> list[Record]:
    """Pair the label PNGs of a folder with the images of the same stem.

    Returns:
        One record per label PNG in the order of their names: ``file_name``, ``image_id`` (the
        stem) and ``sem_seg_file_name``.

    Raises:
        UserError: no label PNGs, or one without an image.
    """
    images = {
        stem: name
        for stem, suffix, name in _list_files(image_root)
        if suffix.lower() in IMAGE_SUFFIXES
    }
    labels = {stem: name for stem, suffix, name in _list_files(label_root) if suffix == ".png"}
    if not labels:
        raise UserError(f"no label maps (*.png) in {label_root}")
    missing = labels.keys() - images.keys()
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(labels)} label maps in {label_root} have no image in "
            f"{image_root}, the first is {labels[min(missing)]}"
        )
    if len(images) > len(labels):
        logger.info("%d images of %s have no label map", len(images) - len(labels), image_root)
    return [
        {
            "file_name": os.path.join(image_root, images[stem]),
            "image_id": stem,
            "sem_seg_file_name": os.path.join(label_root, labels[stem]),
        }
        for stem in sorted(labels)
    ]


def _list_files(folder: Path) -> list[tuple[str, str, str]]:
    """(stem, suffix, name) of everything in a folder."""
    try:
        return [(*os.path.splitext(name), name) for name in os.listdir(folder)]
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error


def check_a_handful(records: Sequence[Record], hint: str) -> None:
    """Look for the files of the first, middle and last record; all would take minutes on COCO.

    Raises:
        UserError: the first missing path, followed by ``hint``.
    """
    for record in (records[0], records[len(records) // 2], records[-1]):
        for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
            if key in record and not os.path.isfile(record[key]):
                raise UserError(f"file not found: {record[key]}{hint}")
