"""The regions of a segmentation as the page shows them: a map to point at, and a legend."""

from dataclasses import dataclass

import numpy as np

from ita.classes import palette
from ita.predictor import Segmentation
from ita.reports.pictures import distinct_names

Color = tuple[int, int, int]


@dataclass(frozen=True)
class LegendRow:
    """A class of the picture.

    Attributes:
        name: its first synonym, followed by its index if several classes have this name.
        color: RGB in 0-255.
        fraction: its fraction of the image.
        segments: number of its segments; None where there are none, in semantic segmentation.
    """

    name: str
    color: Color
    fraction: float
    segments: int | None


@dataclass(frozen=True, eq=False)
class Regions:
    """Classes or segments of an image.

    Attributes:
        ids: int32 [H, W], the number of the region at each pixel, from 1; 0 for none.
        scores: float32 [H, W] in 0-1, the score of that region there; None if unknown.
        names: name of each region.
        colors: RGB color of each region.
        legend: the classes present, largest first.
    """

    ids: np.ndarray
    scores: np.ndarray | None
    names: tuple[str, ...]
    colors: tuple[Color, ...]
    legend: tuple[LegendRow, ...]


def regions_of(segmentation: Segmentation) -> Regions:
    """List the regions: the segments if they were requested, else the classes.

    The score of a segment is its own. In semantic segmentation it is the class score at the pixel
    divided by the sum of those of all classes, if the scores were requested.
    """
    names = distinct_names(segmentation.names, range(len(segmentation.names)))
    colors = palette(len(names))
    segments, (_, ids) = segmentation.segments, segmentation.drawn_maps()
    if segments is None or ids is None:
        classes = np.flatnonzero(np.bincount(segmentation.label_map.ravel()))
        numbers = np.zeros(len(names), np.int32)
        numbers[classes] = np.arange(1, len(classes) + 1)
        ids, scores = numbers[segmentation.label_map], _shares(segmentation)
    else:
        classes = np.array([s.class_index for s in segments], np.int64)
        scores = np.array([0.0, *(s.score for s in segments)], np.float32)[ids]
    return Regions(
        ids,
        scores,
        tuple(names[c] for c in classes),
        tuple(colors[c] for c in classes),
        _legend(ids, classes, names, colors, segments is not None),
    )


def _shares(segmentation: Segmentation) -> np.ndarray | None:
    if segmentation.scores is None:
        return None
    total = segmentation.scores.sum(axis=0)
    best = np.take_along_axis(segmentation.scores, segmentation.label_map[None], axis=0)[0]
    return best / np.maximum(total, np.finfo(np.float32).tiny)


def _legend(
    ids: np.ndarray, classes: np.ndarray, names: list[str], colors: list[Color], counted: bool
) -> tuple[LegendRow, ...]:
    pixels = np.bincount(ids.ravel(), minlength=len(classes) + 1)[1:]
    rows = [
        LegendRow(
            names[c],
            colors[c],
            float(pixels[classes == c].sum() / ids.size),
            int(np.count_nonzero(classes == c)) if counted else None,
        )
        for c in np.unique(classes).tolist()
    ]
    return tuple(sorted(rows, key=lambda row: -row.fraction))
