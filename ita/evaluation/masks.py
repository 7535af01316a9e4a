"""Masks or classes: how good segments are whatever their class, and how often it is right."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ita.evaluation.seen import percentage, shares_by_seen

VOID = 0
# Segment ids are colors, 24 bits.
ID_BITS = 24


@dataclass
class MaskCounts:
    """Predicted and true segments matched by their masks alone, added up over images.

    Attributes:
        iou: sum over matched pairs.
        missed: true segments without a match.
        false: predicted segments without a match.
        matched: int64 [C], matched pairs by the class of the true segment.
        right: int64 [C], those of them whose predicted segment is of the same class.
    """

    iou: float
    missed: int
    false: int
    matched: np.ndarray
    right: np.ndarray

    @classmethod
    def none(cls, num_classes: int) -> "MaskCounts":
        """The counts of no image."""
        return cls(0.0, 0, 0, *np.zeros((2, num_classes), dtype=np.int64))

    def __add__(self, other: "MaskCounts") -> "MaskCounts":
        return MaskCounts(
            self.iou + other.iou,
            self.missed + other.missed,
            self.false + other.false,
            self.matched + other.matched,
            self.right + other.right,
        )

    def metrics(self, seen: Sequence[bool], thing: Sequence[bool]) -> dict[str, float]:
        """Metrics in percent, NaN where there is nothing to count.

        Args:
            seen: [C], whether training saw the class.
            thing: [C], whether it is a thing.

        Returns:
            mask_PQ, panoptic quality as if there were one class; class_accuracy, of the matched
            segments those with the right class, and class_accuracy_th, of those of things (stuff
            is easier, and every image is full of it); also over seen and over unseen true classes.
        """
        things = np.asarray(thing, dtype=np.int64)
        segments = self.matched.sum() + (self.missed + self.false) / 2
        return {
            "mask_PQ": percentage(self.iou, segments),
            **shares_by_seen("class_accuracy", self.right, self.matched, seen),
            **shares_by_seen("class_accuracy_th", self.right * things, self.matched * things, seen),
        }


def match_masks(
    true_ids: np.ndarray,
    true_segments: Sequence[Mapping[str, Any]],
    predicted_ids: np.ndarray,
    predicted_segments: Sequence[Mapping[str, Any]],
    num_classes: int,
) -> MaskCounts:
    """Compare the segments of one image by panoptic quality's rules, without a look at classes.

    A pair with an IoU above 0.5 matches (there is at most one for a segment), pixels without a
    true segment set aside. Crowds match nothing. A predicted segment that matches nothing is
    excused if more than half of it lies on void and crowds, here of whatever class.

    Args:
        true_ids: int64 [h, w], segment ids, 0 void.
        true_segments: {id, category_id, iscrowd}, with contiguous class ids.
        predicted_ids: int64 [h, w], likewise.
        predicted_segments: {id, category_id}.
        num_classes: C.
    """
    overlaps = _overlaps(true_ids, predicted_ids)
    true_area: Counter[int] = Counter()
    predicted_area: Counter[int] = Counter()
    for (true_id, predicted_id), area in overlaps.items():
        true_area[true_id] += area
        predicted_area[predicted_id] += area
    objects = {s["id"]: s["category_id"] for s in true_segments if not s["iscrowd"]}
    excuses = [VOID, *(s["id"] for s in true_segments if s["iscrowd"])]
    predicted = {s["id"]: s["category_id"] for s in predicted_segments}

    counts, used = MaskCounts.none(num_classes), set()
    for (true_id, predicted_id), area in overlaps.items():
        if true_id not in objects or predicted_id not in predicted:
            continue
        valid_area = predicted_area[predicted_id] - overlaps[VOID, predicted_id]
        iou = area / (true_area[true_id] + valid_area - area)
        if iou > 0.5:
            counts.iou += iou
            counts.matched[objects[true_id]] += 1
            counts.right[objects[true_id]] += objects[true_id] == predicted[predicted_id]
            used.add(predicted_id)
    counts.missed = len(objects) - len(used)
    for predicted_id in predicted.keys() - used:
        excused = sum(overlaps[excuse, predicted_id] for excuse in excuses)
        counts.false += excused <= predicted_area[predicted_id] / 2
    return counts


def _overlaps(true_ids: np.ndarray, predicted_ids: np.ndarray) -> Counter[tuple[int, int]]:
    """Pixels of each pair of a true and a predicted id that meet."""
    pairs = (true_ids.astype(np.int64) << ID_BITS) + predicted_ids
    values, areas = np.unique(pairs, return_counts=True)
    keys = zip((values >> ID_BITS).tolist(), (values % (1 << ID_BITS)).tolist(), strict=True)
    return Counter(dict(zip(keys, areas.tolist(), strict=True)))
