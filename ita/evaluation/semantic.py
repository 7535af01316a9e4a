"""Semantic segmentation: confusion matrix, mIoU and related metrics."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ita.classes import ClassList
from ita.errors import UserError
from ita.evaluation.seen import harmonic_mean, split_by_seen
from ita.evaluation.truth import GroundTruth, label_name

IOU_PREFIX = "IoU-"
# Number of confused pairs of classes in the results.
MAX_CONFUSIONS = 50

# Takes the record of an image, the model's output and the image's mIoU (``image_miou``).
ImageCallback = Callable[[Mapping[str, Any], Mapping[str, Any], float], None]


class SemanticEvaluator(DatasetEvaluator):
    """mIoU, fwIoU, mACC, pACC and the IoU of each class, defined as in Detectron2's evaluator.

    Also the mIoU of seen and of unseen classes and their harmonic mean. Detectron2's evaluator
    itself reads only 8-bit labels without an offset, fails on numpy 2 with its default loader, and
    also computes boundary IoU and an RLE dump of every class of every image.

    Args:
        truth: ground truth of the data set.
        class_list: class list in use, C classes.
        seen: [C], whether each class is seen in training.
        on_image: called with each image of this process and its mIoU; None skips its computation.
    """

    def __init__(
        self,
        truth: GroundTruth,
        class_list: ClassList,
        seen: tuple[bool, ...],
        on_image: ImageCallback | None = None,
    ) -> None:
        self._truth = truth
        self._class_list = class_list
        self._seen = seen
        self._on_image = on_image
        self.reset()

    def reset(self) -> None:
        """Reset the confusion matrix."""
        # Pixels of each pair of a ground-truth class (rows) and a predicted class (columns), as a
        # flat matrix on the device of the predictions. The first row counts the ignored pixels.
        classes = len(self._class_list)
        self._confusion = torch.zeros((classes + 1) * classes, dtype=torch.int64)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add images to the confusion matrix.

        Args:
            inputs: test records with the annotation fields of their data set.
            outputs: model outputs; ``label_map`` is the class of each pixel, integers [h, w] at the
                label's size.

        Raises:
            UserError: prediction and label differ in size, or an id is outside the class list.
        """
        for record, output in zip(inputs, outputs, strict=True):
            prediction = output["label_map"]
            label = torch.from_numpy(self._truth.classes(record)).to(prediction.device)
            self._add(label_name(record), label, prediction)
            if self._on_image:
                self._on_image(record, output, image_miou(label, prediction, len(self._class_list)))

    def _add(self, name: str, label: torch.Tensor, prediction: torch.Tensor) -> None:
        if label.shape != prediction.shape:
            raise UserError(
                f"{name}: the label is {_size(label)} but the prediction is {_size(prediction)}; "
                "check that the label belongs to the image, and the record's height and width"
            )
        if (count := int(prediction.max()) + 1) > len(self._class_list):
            raise UserError(
                f"{name}: the model predicts {count} classes, but class list "
                f"{self._class_list.name} has {len(self._class_list)}"
            )
        device = prediction.device
        # Ignored pixels are -1. 32 bits hold the pairs of up to 46,000 classes.
        pairs = (label + 1) * len(self._class_list) + prediction.int()
        self._confusion = self._confusion.to(device)
        _count(self._confusion, pairs)

    def evaluate(self) -> dict[str, dict[str, Any]] | None:
        """Sum the confusion matrices of all ranks.

        Returns:
            {"sem_seg": metrics in percent, see ``semantic_metrics``; "confusions": {"pairs": see
            ``most_confused``}}; None on ranks other than 0.
        """
        classes = len(self._class_list)
        confusion = self._confusion.unflatten(0, (classes + 1, classes))[1:]
        matrices = comm.gather(confusion.cpu().numpy())
        if not comm.is_main_process():
            return None
        total = sum(matrices)
        return {
            "sem_seg": semantic_metrics(total, self._class_list, self._seen),
            "confusions": {"pairs": most_confused(total, self._class_list)},
        }


def image_miou(label: torch.Tensor, prediction: torch.Tensor, classes: int) -> float:
    """Compute the mean IoU of one image in percent, over the classes in its label or prediction.

    The mIoU of a data set is over the classes of its labels: an invented class costs it little,
    but should show here.

    Args:
        label: int [h, w] class of each pixel, -1 where ignored.
        prediction: integers [h, w], on the same device; void is no class.
        classes: C.

    Returns:
        NaN if all pixels are ignored.
    """
    # Class 0 is that of ignored pixels and, among the correct ones, of wrong pixels.
    true = label + 1
    predicted = torch.where(label < 0, 0, prediction.int() + 1)
    correct = torch.where(true == predicted, true, 0)
    counts = torch.zeros(3, classes + 1, dtype=torch.int64, device=label.device)
    for row, ids in zip(counts, (true, predicted, correct), strict=True):
        _count(row, ids)
    areas, predicted_areas, intersections = counts[:, 1:].cpu().double()
    unions = areas + predicted_areas - intersections
    return 100 * float((intersections / unions)[unions > 0].mean())


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


def most_confused(
    confusion: np.ndarray, class_list: ClassList, count: int = MAX_CONFUSIONS
) -> list[dict[str, Any]]:
    """List the pairs of classes with the largest shares of wrongly predicted pixels.

    Args:
        confusion: [C ground truth, C predicted], pixels.
        class_list: C classes.
        count: maximum number of pairs.

    Returns:
        {ground_truth, predicted: label id and name, share: percentage of the pixels of the
        ground-truth class, pixels}, by falling share.
    """
    rows, columns = np.nonzero(confusion)
    wrong = rows != columns
    rows, columns = rows[wrong], columns[wrong]
    pixels = confusion[rows, columns]
    shares = 100 * pixels / confusion.sum(axis=1)[rows]
    # Of equal shares, as of small classes that are never found, the one with more pixels is first.
    order = np.lexsort((-pixels, -shares))[:count]
    labels = class_labels(class_list)
    return [
        {
            "ground_truth": labels[rows[i]],
            "predicted": labels[columns[i]],
            "share": float(shares[i]),
            "pixels": int(pixels[i]),
        }
        for i in order
    ]


def class_keys(class_list: ClassList) -> list[str]:
    """Result key of each class's IoU."""
    return [IOU_PREFIX + label for label in class_labels(class_list)]


def class_labels(class_list: ClassList) -> list[str]:
    """Label id and first name of each class, because first names may repeat."""
    pairs = zip(class_list.label_ids, class_list.names, strict=True)
    return [f"{label_id}:{name}" for label_id, name in pairs]


def _count(counts: torch.Tensor, ids: torch.Tensor) -> None:
    """Add the number of each id to ``counts``, int64 [N]."""
    # Faster than torch.bincount, which also allocates another [N].
    one = torch.ones(1, dtype=torch.int64, device=ids.device)
    counts.index_add_(0, ids.flatten(), one.expand(ids.numel()))


def _mean(values: np.ndarray) -> float:
    return 100 * float(values.mean()) if values.size else float("nan")


def _size(array: torch.Tensor) -> str:
    return " × ".join(map(str, array.shape)) + " (height × width)"
