"""The images of a data set with the best and the worst agreement, found in bounded memory."""

import bisect
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm


@dataclass(frozen=True)
class ScoredImage:
    """An image with what is needed to draw it.

    Attributes:
        score: agreement with the ground truth; higher is better.
        record: its record without pixels.
        arrays: label map and segment ids of the prediction, a compressed npz file.
    """

    score: float
    record: Mapping[str, Any]
    arrays: bytes

    @property
    def prediction(self) -> dict[str, Any]:
        """The model's output, as far as :func:`ita.reports.pictures.draw_picture` reads it."""
        with np.load(io.BytesIO(self.arrays), allow_pickle=False) as arrays:
            prediction: dict[str, Any] = {"label_map": torch.from_numpy(arrays["label_map"])}
            if "segments" in arrays:
                prediction["panoptic_seg"] = (torch.from_numpy(arrays["segments"]), [])
        return prediction


class Extremes:
    """Keeps the images of this process with the highest and the lowest scores.

    Of equal scores, the image that comes first in the data set ranks higher, so that the choice
    does not depend on the number of processes.

    Args:
        count: number of images with the highest, and of those with the lowest scores.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        # Best first, equal ones in the order of the data set; at most twice ``count``.
        self._kept: list[ScoredImage] = []

    def add(self, record: Mapping[str, Any], output: Mapping[str, Any], score: float) -> None:
        """Add an image; one without a score (NaN) is ignored.

        Args:
            record: record of the image.
            output: the model's output with ``label_map`` and, optionally, ``panoptic_seg``.
            score: agreement with the ground truth.
        """
        if math.isnan(score):
            return
        place = bisect.bisect(self._kept, -score, key=_order)
        if len(self._kept) == 2 * self._count and place == self._count:
            return
        fields = {key: value for key, value in record.items() if key != "image"}
        self._kept.insert(place, ScoredImage(score, fields, _compress(output)))
        del self._kept[self._count : len(self._kept) - self._count]

    def gather(self) -> tuple[list[ScoredImage], list[ScoredImage]]:
        """Gather the images of all ranks.

        Returns:
            On rank 0 the best images, best first, and the worst, worst first; no image is in both.
            Two empty lists elsewhere.
        """
        # Stable, and the ranks have consecutive blocks of the data set.
        ranked = sorted(chain.from_iterable(comm.gather(self._kept)), key=_order)
        count = min(self._count, math.ceil(len(ranked) / 2))
        return ranked[:count], ranked[count:][::-1][: self._count]


def _order(image: ScoredImage) -> float:
    return -image.score


def _compress(output: Mapping[str, Any]) -> bytes:
    arrays = {"label_map": output["label_map"].cpu().numpy()}
    if "panoptic_seg" in output:
        arrays["segments"] = output["panoptic_seg"][0].cpu().numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
