"""Panoptic PNGs and their json files, in COCO's formats."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from ita.data.preparing.jobs import JsonFile
from ita.data.rows import Description


@dataclass(frozen=True)
class Described:
    """Entries of one image in the json files."""

    image: dict[str, Any]
    panoptic: dict[str, Any]
    instances: list[dict[str, Any]]


def describe_segments(ids: np.ndarray) -> list[dict[str, Any]]:
    """Measure the segments of a segment map.

    Args:
        ids: uint16 [H, W] segment ids; 0 is void.

    Returns:
        ``id``, ``area`` and ``bbox`` (x, y, width, height) of each segment, as in COCO's panoptic
        json, sorted by id.
    """
    areas = np.bincount(ids.ravel())
    present = np.flatnonzero(areas[1:]) + 1
    position = np.zeros(len(areas), np.int32)
    position[present] = np.arange(1, len(present) + 1)
    boxes = ndimage.find_objects(position[ids])
    return [
        {
            "id": int(segment_id),
            "area": int(areas[segment_id]),
            "bbox": [
                columns.start,
                rows.start,
                columns.stop - columns.start,
                rows.stop - rows.start,
            ],
        }
        for segment_id, (rows, columns) in zip(present, boxes, strict=True)
    ]


def encode_ids(ids: np.ndarray) -> bytes:
    """Encode segment ids, uint16 [H, W], as a PNG with id = R + 256 G."""
    color = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(color).save(stream, "PNG")
    return stream.getvalue()


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask, bool [H, W], as COCO's compressed run-length encoding."""
    encoded = coco_mask.encode(np.asfortranarray(mask).view(np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode("ascii")}


def describe_instance(image_id: str, segment: dict[str, Any], ids: np.ndarray) -> dict[str, Any]:
    """Annotation in an instances json for a segment of the map ``ids`` [H, W]."""
    kept = {key: segment[key] for key in ("category_id", "area", "bbox", "iscrowd")}
    return {"image_id": image_id, **kept, "segmentation": encode_mask(ids == segment["id"])}


def categories(
    description: Description, ids: Sequence[int], *, only_things: bool = False
) -> list[dict]:
    """Build the ``categories`` of a json file.

    Args:
        description: description of the data set.
        ids: category id of every class.
    """
    return [
        {
            "id": category_id,
            "name": description.stuff_classes[i],
            "isthing": int(i in description.thing_ids),
            "color": list(description.stuff_colors[i]),
        }
        for i, category_id in enumerate(ids)
        if i in description.thing_ids or not only_things
    ]


def json_file(
    path: Path,
    image_files: Iterable[str],
    described: list[dict],
    annotations_of: Callable[[Any], list[dict[str, Any]]],
    *,
    number: bool = False,
) -> JsonFile:
    """Describe a json file with ``images``, ``annotations`` and ``categories``.

    Args:
        image_files: ``file_name`` of every image.
        described: the categories.
        annotations_of: result of a job, which has the json's ``image`` -> annotations.
        number: number the annotations from 1.
    """

    def build(results: Sequence[Any]) -> dict[str, Any]:
        annotations = [a for result in results for a in annotations_of(result)]
        if number:
            annotations = [{"id": i} | a for i, a in enumerate(annotations, start=1)]
        return {
            "images": [result.image for result in results],
            "annotations": annotations,
            "categories": described,
        }

    return JsonFile(path, frozenset(image_files), build)


def panoptic_and_instances(
    panoptic_json: Path,
    instances_json: Path,
    image_files: Sequence[str],
    description: Description,
    ids: Sequence[int],
) -> tuple[JsonFile, JsonFile]:
    """Describe the two json files built from :class:`Described` results.

    Args:
        image_files: ``file_name`` of every image.
        description: description of the data set.
        ids: category id of every class.
    """
    return (
        json_file(
            panoptic_json,
            image_files,
            categories(description, ids),
            lambda result: [result.panoptic],
        ),
        json_file(
            instances_json,
            image_files,
            categories(description, ids, only_things=True),
            lambda result: result.instances,
            number=True,
        ),
    )
