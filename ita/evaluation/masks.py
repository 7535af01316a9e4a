"""Quality of segments regardless of class, and classification accuracy of matched segments."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ita.evaluation.seen import percentage, shares_by_seen

VOID = 0
# Segment ids are 24-bit colors.
ID_BITS = 24


@dataclass
class MaskCounts:
    """Counts of predicted and ground-truth segments matched by mask only, summed over images.

    Attributes:
        iou: sum of IoUs of the matched pairs.
        missed: number of ground-truth segments without a match.
        false: number of predicted segments without a match.
        matched: int64 [C], number of matched pairs per ground-truth class.
        right: int64 [C], number of matched pairs with the correct predicted class.
    """

    iou: float
    missed: int
    false: int
    matched: np.ndarray
    right: np.ndarray

    @classmethod
    def none(cls, num_classes: int) -> "MaskCounts":
        """Return zero counts."""
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
        """Compute the metrics in percent, NaN if there is nothing to count.

        Args:
            seen: [C], whether each class is seen in training.
            thing: [C], whether each class is a thing.

        Returns:
            mask_PQ, the panoptic quality as if there were one class; class_accuracy, the share of
            matched segments with the correct class; class_accuracy_th, the same for things only
            (stuff is easier, and every image is full of it). Both accuracies also over seen and
            over unseen ground-truth classes.
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
    """Match the segments of one image by the rules of panoptic quality, but regardless of class.

    A pair with an IoU above 0.5 matches (at most one per segment), where pixels without a
    ground-truth segment are ignored. Crowds match nothing. An unmatched predicted segment is not
    counted if more than half of it is void or crowd, here of any class.

    Args:
        true_ids: int64 [h, w], ground-truth segment ids, 0 void.
        true_segments: {id, category_id, iscrowd}, with contiguous class ids.
        predicted_ids: int64 [h, w], predicted segment ids, 0 void.
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
    ignored_ids = [VOID, *(s["id"] for s in true_segments if s["iscrowd"])]
    predicted = {s["id"]: s["category_id"] for s in predicted_segments}

    counts, matched_ids = MaskCounts.none(num_classes), set()
    for (true_id, predicted_id), area in overlaps.items():
        if true_id not in objects or predicted_id not in predicted:
            continue
        valid_area = predicted_area[predicted_id] - overlaps[VOID, predicted_id]
        iou = area / (true_area[true_id] + valid_area - area)
        if iou > 0.5:
            counts.iou += iou
            counts.matched[objects[true_id]] += 1
            counts.right[objects[true_id]] += objects[true_id] == predicted[predicted_id]
            matched_ids.add(predicted_id)
    counts.missed = len(objects) - len(matched_ids)
    for predicted_id in predicted.keys() - matched_ids:
        ignored_area = sum(overlaps[ignored_id, predicted_id] for ignored_id in ignored_ids)
        counts.false += ignored_area <= predicted_area[predicted_id] / 2
    return counts


def _overlaps(true_ids: np.ndarray, predicted_ids: np.ndarray) -> Counter[tuple[int, int]]:
    """Number of common pixels of each pair of a ground-truth id and a predicted id."""
    pairs = (true_ids.astype(np.int64) << ID_BITS) + predicted_ids
    values, areas = np.unique(pairs, return_counts=True)
    keys = zip((values >> ID_BITS).tolist(), (values % (1 << ID_BITS)).tolist(), strict=True)
    return Counter(dict(zip(keys, areas.tolist(), strict=True)))
