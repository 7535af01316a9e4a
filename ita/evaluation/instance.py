"""Instance segmentation: COCO's mask average precision, computed by pycocotools."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ita.errors import UserError

# In the order of pycocotools' summary: over all IoU thresholds, at 0.5 and 0.75, and for small,
# medium and large objects.
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MAX_DETECTIONS = (1, 10, 100)


class InstanceEvaluator(DatasetEvaluator):
    """Mask AP against a COCO instances json, at most 100 detections per image and class.

    The definition is that of Detectron2's COCOEvaluator with the official pycocotools.
    COCOEvaluator itself requires thing classes numbered 0 … n − 1 (ADE20K interleaves things and
    stuff) and boxes in addition to masks, and returns NaN instead of 0 if nothing was detected.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._path = Path(metadata.json_file)
        self._ground_truth = _read_ground_truth(self._path)
        self._category_ids = {
            contiguous: category
            for category, contiguous in metadata.thing_dataset_id_to_contiguous_id.items()
        }
        self._detections: list[dict] = []

    def reset(self) -> None:
        """Discard all detections."""
        self._detections = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect each image's ``instances``, without detections of stuff.

        Fields: pred_masks [n, h, w] bool or 0/1, scores [n], pred_classes [n] contiguous ids.

        Raises:
            UserError: an image is missing from the instances json or has another size there.
        """
        for record, output in zip(inputs, outputs, strict=True):
            self._check_image(record["image_id"], output["instances"])
            self._detections += self._coco_results(output["instances"], record["image_id"])

    def _check_image(self, image_id: int, instances: Instances) -> None:
        image = self._ground_truth.imgs.get(image_id)
        if image is None:
            raise UserError(f"image {image_id} is not in {self._path}")
        size, predicted = (image["height"], image["width"]), tuple(instances.pred_masks.shape[1:])
        if len(instances) and predicted != size:
            raise UserError(
                f"image {image_id} is {size[0]} × {size[1]} (height × width) in {self._path}, but "
                f"its predicted masks are {predicted[0]} × {predicted[1]}"
            )

    def _coco_results(self, instances: Instances, image_id: int) -> Iterator[dict]:
        """Yield detections in COCO's result format, masks as RLE, without boxes.

        With boxes, pycocotools would use box areas instead of mask areas as object sizes.
        """
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        for class_id, score, mask in zip(classes, scores, instances.pred_masks, strict=True):
            if class_id in self._category_ids:
                yield {
                    "image_id": image_id,
                    "category_id": self._category_ids[class_id],
                    "score": score,
                    "segmentation": _encode_mask(mask),
                }

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Gather the detections of all ranks and compare them with the ground truth.

        Returns:
            {"segm": AP, AP50, AP75, APs, APm, APl in percent}, NaN if the ground truth has no
            object (of that size); None on ranks other than 0.
        """
        gathered = comm.gather(self._detections)
        if not comm.is_main_process():
            return None
        with redirect_stdout(io.StringIO()):
            evaluation = COCOeval(
                self._ground_truth, self._load([*chain.from_iterable(gathered)]), "segm"
            )
            evaluation.params.maxDets = list(MAX_DETECTIONS)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # pycocotools returns −1 if there is no ground truth.
        values = (100 * s if s >= 0 else float("nan") for s in map(float, evaluation.stats))
        return {"segm": dict(zip(SUMMARY, values, strict=False))}

    def _load(self, detections: list[dict]) -> COCO:
        if detections:
            return self._ground_truth.loadRes(detections)
        # loadRes rejects an empty list.
        empty = COCO()
        empty.dataset = {**self._ground_truth.dataset, "annotations": []}
        empty.createIndex()
        return empty


def _encode_mask(mask: torch.Tensor) -> dict:
    return mask_util.encode(np.asfortranarray(mask.cpu().numpy(), dtype=np.uint8))


def _read_ground_truth(path: Path) -> COCO:
    """Read a COCO instances json.

    Raises:
        UserError: the file is missing, unreadable or without annotations, as for test splits.
    """
    try:
        with redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
            # pycocotools stores the id of the object that a detection matches, and 0 if it matches
            # none: an object with id 0 would never count as detected.
            for number, annotation in enumerate(coco.dataset["annotations"], start=1):
                annotation["id"] = number
                annotation.setdefault("iscrowd", 0)
            coco.createIndex()
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"cannot read instances json {path}: {error}") from error
    return coco
