"""Segments of an image: panoptic segments and instances as values on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ita.classes import ClassList


@dataclass(frozen=True, eq=False)
class Segment:
    """A region of an image with its class.

    Attributes:
        mask: bool [H, W] at the image's size, at least one pixel.
        class_index: index of the class in the class list.
        name: first synonym of the class.
        score: in 0-1; of a panoptic segment the probability of its class, of an instance that times
            the mean probability of its mask (design section 7).
        box: (x0, y0, x1, y1) in pixels; the mask has pixels in columns x0 to x1 - 1 and rows y0 to
            y1 - 1.
        area: pixels of the mask.
        is_thing: whether the class is a thing, so that each of its objects is a segment, or stuff.
    """

    mask: np.ndarray
    class_index: int
    name: str
    score: float
    box: tuple[int, int, int, int]
    area: int
    is_thing: bool


def segments_of(result: Mapping[str, Any], class_list: ClassList) -> tuple[Segment, ...] | None:
    """Convert a segmenter's ``panoptic_seg`` or ``instances`` of things.

    Args:
        result: the segmenter's result of an image.
        class_list: its classes, with the thing classes.

    Returns:
        The segments, the highest score first; None if the result has neither.
    """
    if "panoptic_seg" in result:
        ids, infos = result["panoptic_seg"]
        segment_map = ids.cpu().numpy()
        found = [(segment_map == i["id"], i["category_id"], i["score"]) for i in infos]
    elif "instances" in result:
        instances = result["instances"]
        masks = instances.pred_masks.cpu().numpy()
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        things = zip(masks, classes, scores, strict=True)
        found = [t for t in things if t[1] in class_list.things and t[0].any()]
    else:
        return None
    found.sort(key=lambda entry: -entry[2])
    return tuple(_segment(*entry, class_list) for entry in found)


def _segment(mask: np.ndarray, class_index: int, score: float, class_list: ClassList) -> Segment:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return Segment(
        mask=mask,
        class_index=class_index,
        name=class_list.names[class_index],
        score=score,
        box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
        area=int(np.count_nonzero(mask)),
        is_thing=class_index in class_list.things,
    )
