"""The result of segmenting an image: what was found, drawn and exported on request."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ita.errors import UserError
from ita.files import write_atomically
from ita.predictor.annotations import coco_annotation, encode_rle, supervision_detections
from ita.predictor.segments import Segment
from ita.reports.label_maps import describe_label_map, encode_label_png
from ita.reports.pictures import draw_segmentation, encode_picture, write_picture
from ita.results import LabelMap


class DominantCategory(NamedTuple):
    """A name that CLIP finds likely in an image, with its probability (design section 3).

    Attributes:
        name: a synonym of a class, or "other", which stands for all that no class names.
        probability: in 0-1; the softmax over all synonyms and "other" of their cosine similarities
            with the image times CLIP's scale.
    """

    name: str
    probability: float


@dataclass(frozen=True, eq=False)
class Segmentation(LabelMap):
    """Segmentation of an image into the classes of a class list.

    It draws itself: :meth:`save`, :meth:`show`, and the output of a notebook cell.

    Attributes:
        label_map: int64 [H, W] at the image's size, indices into ``names``.
        class_list: the C classes.
        image: uint8 RGB [H, W, 3], the image.
        dominant: the dominant categories, most likely first; () for a model without them.
        scores: float32 [C, H, W], the class scores that the label map is the arg max of (design
            section 7), not normalized; None unless requested.
        segments: panoptic segments, which do not overlap, or instances, which may; the highest
            score first. None unless requested.
    """

    image: np.ndarray
    dominant: tuple[DominantCategory, ...] = ()
    scores: np.ndarray | None = None
    segments: tuple[Segment, ...] | None = None

    def above(self, min_score: float) -> "Segmentation":
        """Return the result without segments below a score; the label map stays.

        Raises:
            UserError: no segments were requested.
        """
        segments = self._requested_segments("above")
        return replace(self, segments=tuple(s for s in segments if s.score >= min_score))

    def to_image(self) -> Image.Image:
        """Draw the image beside its classes in color, over a legend, with borders of segments."""
        return Image.fromarray(self._picture())

    def show(self) -> None:
        """Open the drawing in the image viewer of the system."""
        self.to_image().show()

    def save(self, path: str | Path) -> None:
        """Write the drawing as PNG, JPEG or WebP, as the suffix of the path says.

        Raises:
            UserError: the suffix is another one, or the file cannot be written.
        """
        write_picture(self._picture(), path)

    def to_label_png(self, path: str | Path) -> None:
        """Write the label map as PNG, which image viewers display in the colors of the classes.

        Raises:
            UserError: the file cannot be written.
        """
        write_atomically(path, encode_label_png(self.label_map, len(self.class_list)))

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Return the segments as annotations in COCO's format, the highest score first.

        Args:
            image_id: id of the image in the data set.

        Returns:
            For each segment ``id``, from 1, ``image_id``, ``category_id``, the index of the class,
            ``category_name``, ``segmentation``, the mask as compressed RLE with its counts as
            text, ``bbox`` (x, y, width, height), ``area``, both in pixels, ``iscrowd``, which is
            0, and ``score``.

        Raises:
            UserError: no segments were requested.
        """
        segments = enumerate(self._requested_segments("to_coco"), start=1)
        return [coco_annotation(segment, number, image_id) for number, segment in segments]

    def to_supervision(self) -> Any:
        """Return the segments as ``supervision.Detections``, class names as ``class_name``.

        Raises:
            UserError: no segments were requested, or supervision is not installed.
        """
        return supervision_detections(self._requested_segments("to_supervision"))

    def to_json(self) -> dict[str, Any]:
        """Describe the result in values that ``json.dumps`` takes.

        Returns:
            ``height`` and ``width`` in pixels; ``classes``, the classes present, largest first,
            with ``index``, ``name``, ``pixels`` and ``fraction`` of the image; ``dominant`` with
            ``name`` and ``probability``; and ``segments``, None unless requested, with
            ``class_index``, ``name``, ``score``, ``box`` (x0, y0, x1, y1), ``area``, ``is_thing``
            and ``mask``, compressed RLE with its counts as text.
        """
        return {
            **describe_label_map(self.label_map, self.names),
            "dominant": [category._asdict() for category in self.dominant],
            "segments": None
            if self.segments is None
            else [
                {**vars(s), "box": list(s.box), "mask": encode_rle(s.mask)} for s in self.segments
            ],
        }

    def _repr_png_(self) -> bytes:
        """Drawing for notebooks."""
        return encode_picture(self._picture(), ".png")

    def _picture(self) -> np.ndarray:
        classes, segment_ids = self.drawn_maps()
        return draw_segmentation(self.image, classes, self.names, segment_ids)

    def drawn_maps(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what drawings show: the segments if requested, else the label map.

        Returns:
            Class of each pixel, int64 [H, W], -1 outside all segments; and the number of its
            segment, from 1, int32 [H, W], 0 for none, or None without segments. Of segments that
            overlap, the one of the best score is shown.
        """
        if self.segments is None:
            return self.label_map, None
        classes = np.full(self.label_map.shape, -1, np.int64)
        ids = np.zeros(self.label_map.shape, np.int32)
        for number, segment in reversed([*enumerate(self.segments, start=1)]):
            classes[segment.mask], ids[segment.mask] = segment.class_index, number
        return classes, ids

    def _requested_segments(self, method: str) -> tuple[Segment, ...]:
        if self.segments is None:
            raise UserError(
                f"{method} needs segments: segment the image with panoptic=True or instances=True"
            )
        return self.segments
