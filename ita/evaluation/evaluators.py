"""Evaluators of a data set."""

import logging
from pathlib import Path

from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from ita.classes import ClassList
from ita.errors import UserError
from ita.evaluation.hit_rate import DominantEvaluator
from ita.evaluation.instance import InstanceEvaluator
from ita.evaluation.panoptic import PanopticEvaluator
from ita.evaluation.semantic import SemanticEvaluator

logger = logging.getLogger(__name__)


def build_evaluator(
    dataset_name: str,
    class_list: ClassList,
    train_class_list: ClassList,
    *,
    semantic: bool,
    panoptic: bool,
    instance: bool,
    dominant: bool,
) -> DatasetEvaluators:
    """Build the evaluator of a registered data set for the requested tasks with ground truth.

    Its ``evaluate()`` returns, on rank 0, {"info": {class_list, classes, images}, "sem_seg": …,
    "panoptic_seg": …, "segm": …, "dominant": …} with the evaluated tasks, and {} on other ranks.

    Args:
        dataset_name: registered name.
        class_list: class list in use, one class per class of the data set.
        train_class_list: training class list, which determines the seen classes.
        semantic: evaluate mIoU; always possible.
        panoptic: evaluate PQ; requires ``panoptic_json`` in the metadata.
        instance: evaluate AP; requires ``json_file`` in the metadata.
        dominant: evaluate the hit rate of the dominant categories and the segments of their
            queries; requires a model with dominant categories.

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
    evaluators: list[DatasetEvaluator] = [InfoEvaluator(class_list)]
    if semantic:
        evaluators.append(SemanticEvaluator(metadata, class_list, seen))
    if panoptic and _has_ground_truth(metadata, "panoptic_json", "panoptic quality"):
        evaluators.append(PanopticEvaluator(metadata, seen))
    if instance and _has_ground_truth(metadata, "json_file", "instance AP"):
        evaluators.append(InstanceEvaluator(metadata))
    if dominant:
        evaluators.append(DominantEvaluator(metadata, class_list, seen))
    return DatasetEvaluators(evaluators)


class InfoEvaluator(DatasetEvaluator):
    """Class list and number of images that the metrics are computed over."""

    def __init__(self, class_list: ClassList) -> None:
        self._class_list = class_list
        self._images = 0

    def reset(self) -> None:
        """Reset the count."""
        self._images = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the images."""
        self._images += len(inputs)

    def evaluate(self) -> dict[str, dict] | None:
        """Return {"info": {class_list, classes, images}} on rank 0, None elsewhere."""
        counts = comm.gather(self._images)
        if not comm.is_main_process():
            return None
        return {
            "info": {
                "class_list": self._class_list.name,
                "classes": len(self._class_list),
                "images": sum(counts),
            }
        }


def _has_ground_truth(metadata: Metadata, key: str, task: str) -> bool:
    path = metadata.get(key)
    if path and Path(path).is_file():
        return True
    missing = getattr(metadata, "missing_annotations", {}).get(
        key, "the data set has no such annotations"
    )
    reason = f"{path} does not exist" if path else missing
    logger.warning("%s on %s is skipped: %s", task, metadata.name, reason)
    return False
