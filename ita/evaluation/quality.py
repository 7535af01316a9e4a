"""Panoptic quality of one image, counted as by panopticapi, the reference implementation."""

from collections.abc import Sequence

import numpy as np
from panopticapi.evaluation import PQStat

from ita.evaluation.overlaps import Overlaps, Segments


def count_quality(overlaps: Overlaps, true_segments: Segments, classes: Sequence[int]) -> PQStat:
    """Match the segments of one image and count the matched, missed and false ones of each class.

    A pair of the same class with an IoU above 0.5 matches, where void pixels are ignored and the
    area of the ground-truth segment is that of the json (Kirillov et al., CVPR 2019, section 4).
    Crowds match nothing. An unmatched predicted segment is not counted if more than half of it is
    void or in a crowd of its class; panopticapi looks at the last such crowd only.

    panopticapi itself reads two PNG per image and compares pairs one by one.

    Args:
        overlaps: of ``true_segments``, with M different ids, and of P predicted segments.
        true_segments: {id, category_id, iscrowd, area}.
        classes: [P], the category ids of the predicted segments.

    Raises:
        KeyError: a field of ``true_segments`` is missing.
    """
    counts = PQStat()
    true_classes = np.array([s["category_id"] for s in true_segments], np.int64)
    true_areas = np.array([s["area"] for s in true_segments], np.int64)
    crowd = np.array([s["iscrowd"] == 1 for s in true_segments], bool)
    predicted_classes = np.asarray(classes, np.int64)
    true, predicted = overlaps.true, overlaps.predicted

    joint_area = overlaps.predicted_area[predicted] + true_areas[true]
    iou = overlaps.area / (joint_area - overlaps.area - overlaps.void_area[predicted])
    same_class = true_classes[true] == predicted_classes[predicted]
    match = (iou > 0.5) & same_class & ~crowd[true]
    for class_id, value in zip(true_classes[true[match]].tolist(), iou[match], strict=True):
        counts[class_id].tp += 1
        counts[class_id].iou += value

    missed = ~crowd
    missed[true[match]] = False
    for class_id in true_classes[missed].tolist():
        counts[class_id].fn += 1

    last_crowd = {class_id: i for i, class_id in enumerate(true_classes.tolist()) if crowd[i]}
    crowd_of = np.array([last_crowd.get(c, -1) for c in predicted_classes.tolist()], np.int64)
    ignored_area = overlaps.void_area + overlaps.predicted_sums(true == crowd_of[predicted])
    false = ignored_area / overlaps.predicted_area <= 0.5
    false[predicted[match]] = False
    for class_id in predicted_classes[false].tolist():
        counts[class_id].fp += 1
    return counts
