"""Hit rate of dominant category unearthing, and the segments of its text queries."""

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ita.classes import ClassList
from ita.data.reading import runs
from ita.evaluation.seen import percentage, shares_by_seen
from ita.evaluation.truth import GroundTruth


class DominantEvaluator(DatasetEvaluator):
    """Share of the classes in an image's semantic label that are among its dominant categories.

    With panoptic segmentation, also the share of segments from text queries, because a decoder may
    leave all objects to the learned queries.

    Args:
        truth: ground truth of the data set.
        class_list: class list in use, C classes.
        seen: [C], whether each class is seen in training.
    """

    def __init__(self, truth: GroundTruth, class_list: ClassList, seen: tuple[bool, ...]) -> None:
        self._truth = truth
        self._class_list = class_list
        self._seen = seen
        self.reset()

    def reset(self) -> None:
        """Reset all counts."""
        # Per class: images that contain it, and images where it is also dominant.
        self._shown, self._found = np.zeros((2, len(self._class_list)), dtype=np.int64)
        self._num_dominant = 0
        # Predicted segments: all, those of text queries, and those of text queries whose class is
        # the query's own.
        self._segments = np.zeros(3, dtype=np.int64)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add images to the counts.

        Args:
            inputs: test records with the annotation fields of their data set.
            outputs: model outputs; ``dominant_classes`` is int64 [K'], the classes of the text
                queries, -1 for "other". Text queries precede the learned ones.

        Raises:
            UserError: a label cannot be read or has an id outside the class list.
        """
        for record, output in zip(inputs, outputs, strict=True):
            present, _ = runs(self._truth.classes(record).ravel())
            # The first counts the ignored pixels, which are -1.
            shown = np.bincount(present + 1, minlength=len(self._class_list) + 1)[1:] > 0
            dominant = output["dominant_classes"].cpu().numpy()
            self._num_dominant = len(dominant)
            self._shown += shown
            self._found += shown & np.isin(np.arange(len(shown)), dominant)
            _, segments = output.get("panoptic_seg", (None, ()))
            text_segments = [s for s in segments if s["query"] < len(dominant)]
            own_class = [s for s in text_segments if s["category_id"] == dominant[s["query"]]]
            self._segments += [len(segments), len(text_segments), len(own_class)]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sum the counts of all ranks.

        Returns:
            {"dominant": {hit_rate, hit_rate_seen, hit_rate_unseen, num_dominant,
            text_query_segments, text_query_own_class}}: percentage of ground-truth classes that are
            dominant, each class counted once per image that contains it; K', the number of dominant
            categories per image; percentage of predicted segments from text queries, and
            percentage of these with the query's own class. NaN if there is nothing to count; None
            on ranks other than 0.
        """
        gathered = comm.gather((self._shown, self._found, self._num_dominant, self._segments))
        if not comm.is_main_process():
            return None
        shown, found, numbers, segments = zip(*gathered, strict=True)
        rates = shares_by_seen("hit_rate", sum(found), sum(shown), self._seen)
        total, text_segments, own_class = sum(segments)
        return {
            "dominant": {
                **rates,
                "num_dominant": max(numbers),
                "text_query_segments": percentage(text_segments, total),
                "text_query_own_class": percentage(own_class, text_segments),
            }
        }
