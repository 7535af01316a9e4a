"""Common pixels of the ground-truth and the predicted segments of an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ita.data.reading import runs

VOID = 0
Segments = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Overlaps:
    """Areas, in pixels, of M ground-truth and P predicted segments and of their overlaps.

    Attributes:
        true, predicted: int64 [N], positions in the lists of segments of each pair of a
            ground-truth and a predicted segment that overlap, ordered by their ids.
        area: int64 [N], of the overlap of each pair.
        true_area: int64 [M].
        predicted_area: int64 [P].
        void_area: int64 [P], of the part of each predicted segment that is void in the ground
            truth.
        unknown: predicted ids without a segment, except void.
    """

    true: np.ndarray
    predicted: np.ndarray
    area: np.ndarray
    true_area: np.ndarray
    predicted_area: np.ndarray
    void_area: np.ndarray
    unknown: list[int]

    @classmethod
    def of_maps(
        cls,
        true_ids: np.ndarray,
        true_segments: Segments,
        predicted_ids: np.ndarray,
        predicted_segments: Segments,
    ) -> "Overlaps":
        """Measure the segments of two maps.

        Args:
            true_ids: integers [h, w], ground-truth segment ids, 0 void; others than those of
                segments are allowed.
            true_segments: M infos with the ``id`` of a segment.
            predicted_ids: integers [h, w], predicted segment ids, 0 void.
            predicted_segments: P infos, likewise.
        """
        pair_true, pair_predicted, area = _count_pairs(true_ids, predicted_ids)
        true = _positions(true_segments, pair_true)
        predicted = _positions(predicted_segments, pair_predicted)
        void = pair_true == VOID
        both = (true >= 0) & (predicted >= 0)
        unknown = pair_predicted[(predicted < 0) & (pair_predicted != VOID)]
        return cls(
            true=true[both],
            predicted=predicted[both],
            area=area[both],
            true_area=_sums(true, area, len(true_segments)),
            predicted_area=_sums(predicted, area, len(predicted_segments)),
            void_area=_sums(predicted[void], area[void], len(predicted_segments)),
            unknown=np.unique(unknown).tolist(),
        )

    def predicted_sums(self, chosen: np.ndarray) -> np.ndarray:
        """Area of each predicted segment in the chosen pairs (bool [N]): int64 [P]."""
        return _sums(self.predicted[chosen], self.area[chosen], len(self.predicted_area))


def _count_pairs(
    true_ids: np.ndarray, predicted_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Different pairs of ids at the same pixel, in order, and the number of pixels of each."""
    keys = (true_ids.astype(np.int64) << 32) + predicted_ids
    # Segments are regions: there are far fewer runs of pixels than pixels to sort.
    keys, lengths = runs(keys.ravel())
    keys, places = np.unique(keys, return_inverse=True)
    return keys >> 32, keys & 0xFFFFFFFF, _sums(places, lengths, len(keys))


def _positions(segments: Segments, ids: np.ndarray) -> np.ndarray:
    """Position of the segment with each id, int64 [N]; -1 if there is none."""
    position = {segment["id"]: i for i, segment in enumerate(segments)}
    return np.array([position.get(i, -1) for i in ids.tolist()], np.int64)


def _sums(groups: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sum of the values of each of the groups 0 ... count-1, int64; others are left out."""
    inside = groups >= 0
    # Sums of integers below 2^53 are exact in float64.
    return np.bincount(groups[inside], values[inside], count).astype(np.int64)
