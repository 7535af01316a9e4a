"""Instance segmentation: COCO's mask average precision, computed by faster-coco-eval."""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import pycocotools.mask as mask_util
import torch
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from faster_coco_eval import COCO, COCOeval_faster

from ita.data.orientation import ORIENTATION, turned_back
from ita.data.reading import orientation_of_record
from ita.errors import UserError, shown
from ita.structured_files import parse_json

# In the order of COCO's summary: over all IoU thresholds, at 0.5 and 0.75, and for small,
# medium and large objects.
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MAX_DETECTIONS = (1, 10, 100)


class InstanceEvaluator(DatasetEvaluator):
    """Mask AP against a COCO instances json, at most 100 detections per image and class.

    The definition is that of Detectron2's COCOEvaluator with the official pycocotools, and so are
    the numbers; faster-coco-eval computes them in a quarter of the time. COCOEvaluator itself
    requires thing classes numbered 0 … n − 1 (ADE20K interleaves things and stuff) and boxes in
    addition to masks, and returns NaN instead of 0 if nothing was detected.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._path = Path(metadata.json_file)
        self._ground_truth, self._numbers = _read_ground_truth(self._path)
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
            instances = self._as_annotated(record, output["instances"])
            number = self._image_number(record["image_id"], instances)
            self._detections += self._coco_results(instances, number)

    def _as_annotated(self, record: Mapping[str, Any], instances: Instances) -> Instances:
        """Turn masks as the image is turned in the instances json."""
        image = self._ground_truth.imgs.get(self._numbers.get(record["image_id"]))
        if image is None or ORIENTATION not in record:
            return instances
        orientation = orientation_of_record(record, self._metadata)
        turn = orientation.turn_of_labels((image["height"], image["width"]))
        if turn is None:
            return instances
        masks = turned_back(instances.pred_masks.permute(1, 2, 0).cpu().numpy(), turn)
        fields = {**instances.get_fields(), "pred_masks": torch.from_numpy(masks).permute(2, 0, 1)}
        return Instances(masks.shape[:2], **fields)

    def _image_number(self, image_id: int | str, instances: Instances) -> int:
        if image_id not in self._numbers:
            raise UserError(f"image {image_id} is not in {self._path}")
        image = self._ground_truth.imgs[self._numbers[image_id]]
        size, predicted = (image["height"], image["width"]), tuple(instances.pred_masks.shape[1:])
        if len(instances) and predicted != size:
            raise UserError(
                f"image {image_id} is {size[0]} × {size[1]} (height × width) in {self._path}, but "
                f"its predicted masks are {predicted[0]} × {predicted[1]}"
            )
        return self._numbers[image_id]

    def _coco_results(self, instances: Instances, image: int) -> Iterator[dict]:
        """Yield detections in COCO's result format, masks as RLE, without boxes.

        With boxes, the areas of boxes instead of masks would be the sizes of objects.
        """
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        masks = instances.pred_masks.to(torch.uint8).cpu().numpy()
        for class_id, score, mask in zip(classes, scores, masks, strict=True):
            if class_id in self._category_ids:
                yield {
                    "image_id": image,
                    "category_id": self._category_ids[class_id],
                    "score": score,
                    # RLE runs down the columns. OpenCV transposes faster than numpy and PyTorch.
                    "segmentation": mask_util.encode(cv2.transpose(mask).T),
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
        # loadRes adds fields to its input, boxes among them.
        detections = self._ground_truth.loadRes([{**d} for d in chain.from_iterable(gathered)])
        evaluation = COCOeval_faster(self._ground_truth, detections, "segm")
        evaluation.params.maxDets = list(MAX_DETECTIONS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        # −1 if there is no ground truth.
        values = (100 * s if s >= 0 else float("nan") for s in map(float, evaluation.stats))
        return {"segm": dict(zip(SUMMARY, values, strict=False))}


def _read_ground_truth(path: Path) -> tuple[COCO, dict[int | str, int]]:
    """Read a COCO instances json, and number its images and objects.

    Returns:
        The ground truth, and the number of each image id: ids of images may be strings, which
        faster-coco-eval does not support, and an object with id 0 would never count as detected,
        because evaluation stores the id of the object that a detection matches, 0 if none.

    Raises:
        UserError: the file is missing, unreadable or without annotations, as for test splits.
    """
    try:
        content = parse_json(path.read_bytes())
        # In order: which of two detections with equal scores comes first depends on it.
        ids = sorted({image["id"] for image in content["images"]})
        numbers = {image_id: number for number, image_id in enumerate(ids, start=1)}
        for image in content["images"]:
            image["id"] = numbers[image["id"]]
        annotations = [a for a in content["annotations"] if a["image_id"] in numbers]
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
            annotation["image_id"] = numbers[annotation["image_id"]]
            crowd = annotation.setdefault("iscrowd", 0)
            annotation["iscrowd"] = int(crowd) if isinstance(crowd, bool) else crowd
            _check_annotation(annotation)
        if not _are_numbers([category["id"] for category in content["categories"]]):
            raise TypeError("the id of a category must be a number")
        return COCO({**content, "annotations": annotations}), numbers
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise UserError(f"cannot read instances json {path}: {error}") from error


def _check_annotation(annotation: Mapping[str, Any]) -> None:
    """Check the types of an annotation, which faster-coco-eval reads as they are.

    Raises:
        KeyError, TypeError: an entry is missing or of another type.
    """
    mask = annotation["segmentation"]
    if isinstance(mask, dict):
        counts = mask["counts"]
        is_mask = isinstance(counts, str) or _are_lengths(counts)
        is_mask = is_mask and _are_lengths(mask["size"]) and len(mask["size"]) == 2
    else:
        is_mask = isinstance(mask, list) and all(_are_numbers(polygon) for polygon in mask)
    if not is_mask:
        raise TypeError(f"segmentation {shown(mask)} is neither polygons nor RLE")
    if not _are_numbers([annotation["category_id"], annotation["area"], annotation["iscrowd"]]):
        raise TypeError("category_id, area and iscrowd must be numbers")


def _are_lengths(values: Any) -> bool:
    return _are_numbers(values) and all(type(v) is int and 0 <= v < 2**31 for v in values)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)
