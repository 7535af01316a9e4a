"""Semantic segmentation: confusion matrix, mIoU and related metrics."""

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ita.classes import ClassList
from ita.data.reading import load_semantic_label
from ita.errors import UserError
from ita.evaluation.seen import harmonic_mean, split_by_seen
from ita.modeling.postprocess import label_map


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC, pACC and the IoU of each class, defined as in Detectron2's evaluator.

    Also the mIoU of seen and of unseen classes and their harmonic mean. Detectron2's evaluator
    itself reads only 8-bit labels without an offset, fails on numpy 2 with its default loader, and
    also computes boundary IoU and an RLE dump of every class of every image.

    Args:
        metadata: metadata of the data set.
        class_list: class list in use, C classes.
        seen: [C], whether each class is seen in training.
    """

    def __init__(self, metadata: Metadata, class_list: ClassList, seen: tuple[bool, ...]) -> None:
        self._metadata = metadata
        self._class_list = class_list
        self._seen = seen
        self.reset()

    def reset(self) -> None:
        """Reset the confusion matrix."""
        # Rows: ground-truth class, columns: predicted class. Ignored pixels are excluded.
        self._confusion = np.zeros((len(self._class_list),) * 2, dtype=np.int64)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add images to the confusion matrix.

        Args:
            inputs: test records with the annotation fields of their data set.
            outputs: model outputs; ``sem_seg`` is [C, h, w] scores at the label's size.

        Raises:
            UserError: prediction and label differ in size, or an id is outside the class list.
        """
        for record, output in zip(inputs, outputs, strict=True):
            prediction = self._predicted_classes(output["sem_seg"])
            label = load_checked_label(record, self._metadata, self._class_list)
            self._add(label_name(record), label, prediction)

    def _predicted_classes(self, scores: torch.Tensor) -> np.ndarray:
        """Convert scores [C, h, w] on any device to class ids [h, w] on the CPU."""
        if len(scores) != len(self._class_list):
            raise UserError(
                f"the model scores {len(scores)} classes, but class list {self._class_list.name} "
                f"has {len(self._class_list)}"
            )
        return label_map(scores).cpu().numpy()

    def _add(self, name: str, label: np.ndarray, prediction: np.ndarray) -> None:
        if label.shape != prediction.shape:
            raise UserError(
                f"{name}: the label is {_size(label)} but the prediction is {_size(prediction)}; "
                "check that the label belongs to the image, and the record's height and width"
            )
        classes = len(self._class_list)
        valid = label != self._metadata.ignore_label
        pairs = label[valid] * classes + prediction[valid]
        counts = np.bincount(pairs, minlength=classes * classes)
        self._confusion += counts.reshape(classes, classes)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Sum the confusion matrices of all ranks.

        Returns:
            {"sem_seg": metrics in percent, see ``semantic_metrics``}; None on ranks other than 0.
        """
        matrices = comm.gather(self._confusion)
        if not comm.is_main_process():
            return None
        return {"sem_seg": semantic_metrics(sum(matrices), self._class_list, self._seen)}


def semantic_metrics(
    confusion: np.ndarray, class_list: ClassList, seen: tuple[bool, ...]
) -> dict[str, float]:
    """Compute metrics in percent from a confusion matrix [C ground truth, C predicted] of pixels.

    Only valid pixels are counted. Means are over the classes that occur in the ground truth. Keys:
    mIoU, mIoU_seen, mIoU_unseen, mIoU_harmonic (harmonic mean of the two), fwIoU (each class
    weighted by its share of pixels), mACC, pACC, classes_present (number of classes that occur),
    and the IoU of each class (``class_keys``). A metric is NaN if none of its classes occurs.
    """
    confusion = confusion.astype(np.float64)
    correct = confusion.diagonal()
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = true > 0
    iou = np.full(len(class_list), np.nan)
    iou[present] = correct[present] / (true + predicted - correct)[present]
    accuracy = correct[present] / true[present]
    share = true[present] / true.sum() if present.any() else true[present]
    means = {f"mIoU{k}": _mean(iou[present & classes]) for k, classes in split_by_seen(seen)}
    metrics = {
        **means,
        "mIoU_harmonic": harmonic_mean(means["mIoU_seen"], means["mIoU_unseen"]),
        "fwIoU": 100 * float(iou[present] @ share) if present.any() else float("nan"),
        "mACC": _mean(accuracy),
        "pACC": 100 * float(correct.sum() / true.sum()) if present.any() else float("nan"),
        "classes_present": int(present.sum()),
    }
    for key, value in zip(class_keys(class_list), iou, strict=True):
        metrics[key] = 100 * float(value)
    return metrics


def class_keys(class_list: ClassList) -> list[str]:
    """Result key of each class's IoU, with its label id because first names may repeat."""
    pairs = zip(class_list.label_ids, class_list.names, strict=True)
    return [f"IoU-{label_id}:{name}" for label_id, name in pairs]


def load_checked_label(record: dict, metadata: Metadata, class_list: ClassList) -> np.ndarray:
    """Load the ground-truth class of each pixel, int64 [h, w], or the metadata's ignore_label.

    Raises:
        UserError: see ``load_semantic_label``; also if an id is outside the class list.
    """
    label = load_semantic_label(record, metadata)
    outside = (label != metadata.ignore_label) & ((label < 0) | (label >= len(class_list)))
    if outside.any():
        raise UserError(
            f"{label_name(record)}: class index {label[outside][0]} is outside class list "
            f"{class_list.name} of {len(class_list)} classes"
        )
    return label


def label_name(record: dict) -> str:
    """Path of the label, to name in error messages about a record."""
    return record.get("sem_seg_file_name") or record.get("pan_seg_file_name", record["file_name"])


def _mean(values: np.ndarray) -> float:
    return 100 * float(values.mean()) if values.size else float("nan")


def _size(array: np.ndarray) -> str:
    return " × ".join(map(str, array.shape)) + " (height × width)"
