"""Evaluators of a data set."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from ita.classes import ClassList
from ita.data.remedies import describe_missing
from ita.errors import UserError
from ita.evaluation.hit_rate import DominantEvaluator
from ita.evaluation.instance import InstanceEvaluator
from ita.evaluation.panoptic import PanopticEvaluator
from ita.evaluation.semantic import ImageCallback, SemanticEvaluator, class_labels
from ita.evaluation.truth import GroundTruth

logger = logging.getLogger(__name__)

# Metadata key of the ground truth -> key of the task in results, and name of its metric.
GROUND_TRUTH = {"panoptic_json": "panoptic_seg", "json_file": "segm"}
METRIC_NAMES = {"panoptic_json": "panoptic quality", "json_file": "instance AP"}


def build_evaluator(
    dataset_name: str,
    class_list: ClassList,
    train_class_list: ClassList,
    *,
    semantic: bool,
    panoptic: bool,
    instance: bool,
    dominant: bool,
    on_image: ImageCallback | None = None,
) -> DatasetEvaluators:
    """Build the evaluator of a registered data set for the requested tasks with ground truth.

    Its ``evaluate()`` returns, on rank 0, {"info": see ``InfoEvaluator``, "sem_seg": …,
    "confusions": …, "panoptic_seg": …, "segm": …, "dominant": …} with the evaluated tasks, and {}
    on other ranks.
    One warning names the requested tasks that are skipped because their ground truth is missing.

    Args:
        dataset_name: registered name.
        class_list: class list in use, one class per class of the data set.
        train_class_list: training class list, which determines the seen classes.
        semantic: evaluate mIoU; always possible.
        panoptic: evaluate PQ; requires ``panoptic_json`` in the metadata.
        instance: evaluate AP; requires ``json_file`` in the metadata.
        dominant: evaluate the hit rate of the dominant categories and the segments of their
            queries; requires a model with dominant categories.
        on_image: called with each image of this process and its mIoU, if ``semantic``.

    Raises:
        UserError: class list and data set differ in the number of classes.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if len(class_list) != len(metadata.stuff_classes):
        raise UserError(
            f"class list {class_list.name} has {len(class_list)} classes, but data set "
            f"{dataset_name} has {len(metadata.stuff_classes)}"
        )
    seen = tuple(class_list.seen(train_class_list))
    requested = {"panoptic_json": panoptic, "json_file": instance}
    tasks = evaluated_tasks(metadata, semantic=semantic, panoptic=panoptic, instance=instance)
    skipped = [key for key, asked in requested.items() if asked and GROUND_TRUTH[key] not in tasks]
    if skipped:
        _warn_skipped(metadata, skipped)
    truth = GroundTruth(metadata, class_list)
    evaluators: list[DatasetEvaluator] = [InfoEvaluator(class_list, train_class_list, seen)]
    if semantic:
        evaluators.append(SemanticEvaluator(truth, class_list, seen, on_image))
    if "panoptic_seg" in tasks:
        evaluators.append(PanopticEvaluator(metadata, truth, seen))
    if "segm" in tasks:
        evaluators.append(InstanceEvaluator(metadata))
    if dominant:
        evaluators.append(DominantEvaluator(truth, class_list, seen))
    return DatasetEvaluators(evaluators)


def evaluated_tasks(
    metadata: Metadata, *, semantic: bool, panoptic: bool, instance: bool
) -> set[str]:
    """Return the requested tasks that a data set has ground truth for, by their key in results."""
    requested = {"sem_seg": semantic, "panoptic_seg": panoptic, "segm": instance}
    without = {task for key, task in GROUND_TRUTH.items() if not _has_file(metadata, key)}
    return {task for task, asked in requested.items() if asked} - without


class InfoEvaluator(DatasetEvaluator):
    """Class lists and number of images that the metrics are computed over.

    Args:
        class_list: class list in use, C classes.
        train_class_list: training class list, which determines the seen classes.
        seen: [C], whether each class is seen in training.
    """

    def __init__(
        self, class_list: ClassList, train_class_list: ClassList, seen: tuple[bool, ...]
    ) -> None:
        self._lists: dict[str, Any] = {
            "class_list": class_list.name,
            "classes": len(class_list),
            "classes_seen": sum(seen),
            "seen": [
                label for label, flag in zip(class_labels(class_list), seen, strict=True) if flag
            ],
            "train_class_list": train_class_list.name,
        }
        self._images = 0

    def reset(self) -> None:
        """Reset the count."""
        self._images = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the images."""
        self._images += len(inputs)

    def evaluate(self) -> dict[str, dict] | None:
        """Return the facts on rank 0, None elsewhere.

        Returns:
            {"info": {class_list, classes, classes_seen, seen, train_class_list, images}}: names of
            both lists, numbers, and label ids and names of the seen classes.
        """
        counts = comm.gather(self._images)
        if not comm.is_main_process():
            return None
        return {"info": {**self._lists, "images": sum(counts)}}


def _has_file(metadata: Metadata, key: str) -> bool:
    path = metadata.get(key)
    return bool(path) and Path(path).is_file()


def _warn_skipped(metadata: Metadata, keys: Sequence[str]) -> None:
    """Warn, in one line, of tasks whose ground truth is missing."""
    known = metadata.get("missing_annotations", {})
    reasons = describe_missing([known[key] for key in keys if key in known])
    for key in keys:
        if key not in known:
            path = metadata.get(key)
            reasons.append(f"{path} does not exist" if path else "it has no such annotations")
    names = " and ".join(METRIC_NAMES[key] for key in keys)
    logger.warning("%s on %s: skipped, %s", names, metadata.name, "; ".join(dict.fromkeys(reasons)))
