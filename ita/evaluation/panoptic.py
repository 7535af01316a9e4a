"""Panoptic quality as defined by panopticapi, and mask and class quality."""

from pathlib import Path

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from panopticapi.evaluation import PQStat

from ita.errors import UserError
from ita.evaluation.masks import MaskCounts, match_masks
from ita.evaluation.overlaps import Overlaps, Segments
from ita.evaluation.quality import count_quality
from ita.evaluation.truth import GroundTruth
from ita.structured_files import parse_json


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ over all classes, things and stuff, with separate mask and class quality.

    The definition is that of Detectron2's COCOPanopticEvaluator. COCOPanopticEvaluator itself
    collects all predictions on one rank and forks a process per core there, names predictions by
    the image's base name (not unique in nested folders), modifies the model's output in place, and
    divides by zero on a data set without stuff or without things.

    Args:
        metadata: metadata of the data set.
        truth: ground truth of the data set.
        seen: [C], whether each class is seen in training.
    """

    def __init__(self, metadata: Metadata, truth: GroundTruth, seen: tuple[bool, ...]) -> None:
        self._truth = truth
        self._root = Path(metadata.panoptic_root)
        self._json = Path(metadata.panoptic_json)
        self._categories, self._annotations = _read_annotations(self._json)
        self._category_ids = panoptic_category_ids(metadata)
        self._class_ids = {category: i for i, category in self._category_ids.items()}
        self._seen = seen
        self._things = [class_id in metadata.thing_ids for class_id in range(len(seen))]
        self.reset()

    def reset(self) -> None:
        """Reset all counts."""
        self._counts = PQStat()
        self._masks = MaskCounts.none(len(self._seen))
        self._image_ids: list[int] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Match each image's ``panoptic_seg``: an int map [h, w], 0 void, and its segment infos.

        Each info is {id, category_id (a contiguous class id), ...}.

        Raises:
            UserError: the ground truth is missing, unreadable or of another size.
        """
        for record, output in zip(inputs, outputs, strict=True):
            annotation = self._annotations.get(record["image_id"])
            if annotation is None:
                raise UserError(f"image {record['image_id']} has no annotation in {self._json}")
            segment_map, segments = output["panoptic_seg"]
            path = self._root / annotation["file_name"]
            true_ids = self._truth.segment_ids(str(path), record)
            self._add(annotation, true_ids, segment_map.cpu().numpy(), segments)
            self._image_ids.append(record["image_id"])

    def _add(
        self, annotation: dict, true_ids: np.ndarray, ids: np.ndarray, segments: Segments
    ) -> None:
        """Count matched, missed and false segments of one image per class, and regardless of it."""
        path = self._root / annotation["file_name"]
        _check_size(path, true_ids, ids)
        # The last one of an id counts, as in panopticapi.
        infos = list({info["id"]: info for info in annotation["segments_info"]}.values())
        overlaps = Overlaps.of_maps(true_ids, infos, ids, segments)
        _check_ids(path, overlaps, segments)
        # Predicting a class that is missing from the json is wrong, but not an error. No mean
        # includes the class, because it does not occur.
        categories = [self._category_ids[segment["category_id"]] for segment in segments]
        try:
            self._counts += count_quality(overlaps, infos, categories)
        except KeyError as error:
            raise UserError(f"cannot compare with panoptic label {path}: no {error}") from error
        infos = [{**info, "category_id": self._class_ids[info["category_id"]]} for info in infos]
        self._masks += match_masks(overlaps, infos, segments, len(self._seen))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sum the counts of all ranks.

        Returns:
            {"panoptic_seg": PQ, SQ, RQ, PQ_th, …, RQ_st and ``MaskCounts.metrics`` in percent}, NaN
            if there is no segment to count; None on ranks other than 0.

        Raises:
            UserError: the panoptic json has images without a prediction.
        """
        gathered = comm.gather((self._counts, self._masks, self._image_ids))
        if not comm.is_main_process():
            return None
        total, masks, predicted = PQStat(), MaskCounts.none(len(self._seen)), set()
        for counts, matches, image_ids in gathered:
            total += counts
            masks += matches
            predicted.update(image_ids)
        missing = [i for i in self._annotations if i not in predicted]
        if missing:
            raise UserError(
                f"{len(missing)} images of {self._json} have no prediction (first: image "
                f"{missing[0]}); are they among the data set's images?"
            )
        quality = panoptic_metrics(total, self._categories)
        return {"panoptic_seg": {**quality, **masks.metrics(self._seen, self._things)}}


def panoptic_category_ids(metadata: Metadata) -> dict[int, int]:
    """Map contiguous class ids to category ids of the panoptic json, for things and stuff."""
    category_ids: dict[int, int] = {}
    # The instances json may number a class differently: its ids come first, so that those of the
    # panoptic json replace them.
    for key in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"):
        category_ids.update({v: k for k, v in metadata.get(key, {}).items()})
    return category_ids


def panoptic_metrics(counts: PQStat, categories: dict[int, dict]) -> dict[str, float]:
    """PQ, SQ and RQ in percent, averaged over the categories that occur."""
    metrics = {}
    for suffix, is_thing in (("", None), ("_th", True), ("_st", False)):
        try:
            average, _ = counts.pq_average(categories, isthing=is_thing)
        except ZeroDivisionError:  # no category of this kind occurs
            average = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
        for key in ("pq", "sq", "rq"):
            metrics[key.upper() + suffix] = 100 * float(average[key])
    return metrics


def _read_annotations(path: Path) -> tuple[dict[int, dict], dict[int, dict]]:
    """Read a COCO panoptic json: categories by id and annotations by image id."""
    try:
        content = parse_json(path.read_text())
        return (
            {category["id"]: category for category in content["categories"]},
            {annotation["image_id"]: annotation for annotation in content["annotations"]},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read panoptic json {path}: {error}") from error


def _check_size(path: Path, label: np.ndarray, prediction: np.ndarray) -> None:
    if label.shape != prediction.shape:
        (height, width), (predicted_height, predicted_width) = label.shape, prediction.shape
        raise UserError(
            f"{path} is {width} × {height} (width × height), but the prediction is "
            f"{predicted_width} × {predicted_height}"
        )


def _check_ids(path: Path, overlaps: Overlaps, segments: Segments) -> None:
    """Check that every predicted id has a segment, and every segment pixels."""
    problem = f"the prediction for {path} is inconsistent: segment"
    if overlaps.unknown:
        raise UserError(f"{problem} {overlaps.unknown[0]} is on the map, but not in the list")
    if not overlaps.predicted_area.all():
        segment = segments[int(overlaps.predicted_area.argmin())]
        raise UserError(f"{problem} {segment['id']} is in the list, but not on the map")
