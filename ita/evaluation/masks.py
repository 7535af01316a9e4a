"""Quality of segments regardless of class, and classification accuracy of matched segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ita.evaluation.overlaps import Overlaps, Segments
from ita.evaluation.seen import percentage, shares_by_seen


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
    overlaps: Overlaps, true_segments: Segments, predicted_segments: Segments, num_classes: int
) -> MaskCounts:
    """Match the segments of one image by the rules of panoptic quality, but regardless of class.

    A pair with an IoU above 0.5 matches (at most one per segment), where pixels without a
    ground-truth segment are ignored. Crowds match nothing. An unmatched predicted segment is not
    counted if more than half of it is void or crowd, here of any class.

    Args:
        overlaps: of the two lists of segments.
        true_segments: {id, category_id, iscrowd}, with contiguous class ids.
        predicted_segments: {id, category_id}, likewise.
        num_classes: C.
    """
    crowd = np.array([bool(s["iscrowd"]) for s in true_segments], bool)
    true_classes, predicted_classes = (
        np.array([s["category_id"] for s in segments], np.int64)
        for segments in (true_segments, predicted_segments)
    )
    true, predicted = overlaps.true, overlaps.predicted
    joint_area = overlaps.true_area[true] + overlaps.predicted_area[predicted]
    iou = overlaps.area / (joint_area - overlaps.area - overlaps.void_area[predicted])
    match = (iou > 0.5) & ~crowd[true]
    matched_classes = true_classes[true[match]]
    right = matched_classes == predicted_classes[predicted[match]]
    ignored_area = overlaps.void_area + overlaps.predicted_sums(crowd[true])
    false = ignored_area <= overlaps.predicted_area / 2
    false[predicted[match]] = False
    return MaskCounts(
        iou=float(iou[match].sum()),
        missed=int((~crowd).sum() - match.sum()),
        false=int(false.sum()),
        matched=np.bincount(matched_classes, minlength=num_classes),
        right=np.bincount(matched_classes[right], minlength=num_classes),
    )
