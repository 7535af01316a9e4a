"""Segments in the formats of other tools: COCO and supervision."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ita.errors import UserError
from ita.predictor.segments import Segment


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask, bool [H, W], as COCO's compressed RLE.

    Returns:
        ``size`` [H, W], and ``counts`` as text, which JSON can hold.
    """
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def coco_annotation(segment: Segment, number: int, image_id: int) -> dict[str, Any]:
    """Describe a segment as an annotation in COCO's format.

    Args:
        segment: the segment.
        number: id of the annotation.
        image_id: id of the image.
    """
    x0, y0, x1, y1 = segment.box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": segment.class_index,
        "category_name": segment.name,
        "segmentation": encode_rle(segment.mask),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": segment.area,
        "iscrowd": 0,
        "score": segment.score,
    }


def supervision_detections(segments: Sequence[Segment]) -> Any:
    """Convert segments to ``supervision.Detections``.

    Raises:
        UserError: supervision is not installed.
    """
    try:
        import supervision
    except ModuleNotFoundError as error:
        raise UserError(
            f"to_supervision needs {error.name}, which is not installed: pip install supervision"
        ) from error
    if not segments:
        return supervision.Detections.empty()
    return supervision.Detections(
        xyxy=np.array([s.box for s in segments], np.float32),
        mask=np.stack([s.mask for s in segments]),
        confidence=np.array([s.score for s in segments], np.float32),
        class_id=np.array([s.class_index for s in segments]),
        data={"class_name": np.array([s.name for s in segments])},
    )
