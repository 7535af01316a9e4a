"""Dominant category unearthing: how many of an image's classes it finds, and what comes of them."""

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ita.classes import ClassList
from ita.evaluation.seen import percentage, shares_by_seen
from ita.evaluation.semantic import load_checked_label


class DominantEvaluator(DatasetEvaluator):
    """Of the classes that an image's semantic label shows, the share among its dominant categories.

    With panoptic segmentation also what comes of the text queries, since a decoder may leave all
    objects to the learned ones.

    Args:
        metadata: of the data set.
        class_list: the vocabulary in use, C classes.
        seen: of each class, whether training saw it.
    """

    def __init__(self, metadata: Metadata, class_list: ClassList, seen: tuple[bool, ...]) -> None:
        self._metadata = metadata
        self._class_list = class_list
        self._seen = seen
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # Of each class, the images that show it and those that besides have it dominant.
        self._shown, self._found = np.zeros((2, len(self._class_list)), dtype=np.int64)
        self._num_dominant = 0
        # Predicted segments: all, those that text queries gave, and of these the ones of the class
        # that the query was made of.
        self._segments = np.zeros(3, dtype=np.int64)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add images.

        Args:
            inputs: test records with the annotation fields of their data set.
            outputs: of the model; ``dominant_classes`` is int64 [K'], -1 for "other", of the text
                queries, which come before the learned ones.

        Raises:
            UserError: a label that cannot be read or has an id outside the class list.
        """
        for record, output in zip(inputs, outputs, strict=True):
            label = load_checked_label(record, self._metadata, self._class_list)
            label = label[label != self._metadata.ignore_label]
            shown = np.bincount(label, minlength=len(self._class_list)) > 0
            dominant = output["dominant_classes"].cpu().numpy()
            self._num_dominant = len(dominant)
            self._shown += shown
            self._found += shown & np.isin(np.arange(len(shown)), dominant)
            _, segments = output.get("panoptic_seg", (None, ()))
            of_text = [s for s in segments if s["query"] < len(dominant)]
            own = [s for s in of_text if s["category_id"] == dominant[s["query"]]]
            self._segments += [len(segments), len(of_text), len(own)]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather all ranks' images.

        Returns:
            {"dominant": {hit_rate, hit_rate_seen, hit_rate_unseen, num_dominant,
            text_query_segments, text_query_own_class}}: percentages of the classes shown, each
            counted in every image that shows it; K', the dominant categories of an image; the
            percentage of segments predicted that text queries gave, and of these those of the
            query's own class. NaN where there is nothing to count. None on other ranks than 0.
        """
        gathered = comm.gather((self._shown, self._found, self._num_dominant, self._segments))
        if not comm.is_main_process():
            return None
        shown, found, numbers, segments = zip(*gathered, strict=True)
        rates = shares_by_seen("hit_rate", sum(found), sum(shown), self._seen)
        everything, of_text, own = sum(segments)
        return {
            "dominant": {
                **rates,
                "num_dominant": max(numbers),
                "text_query_segments": percentage(of_text, everything),
                "text_query_own_class": percentage(own, of_text),
            }
        }
