"""Selection of the checkpoint with the best value of a metric (``TEST.BEST_METRIC``)."""

import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from ita.engine.checkpoint import SELECTION, read_checkpoint
from ita.engine.checkpointer import Checkpointer
from ita.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

BEST_NAME = "model_best"
# Metrics to select by, as task/metric of an evaluation's results; more is better.
SELECTABLE = (
    "sem_seg/mIoU",
    "sem_seg/mIoU_seen",
    "sem_seg/mIoU_unseen",
    "sem_seg/mIoU_harmonic",
    "panoptic_seg/PQ",
    "panoptic_seg/PQ_th",
    "panoptic_seg/PQ_st",
    "segm/AP",
)


class BestCheckpoint:
    """Keeps the weights of the evaluation with the highest value of a metric.

    They are in ``model_best.pth`` of the run's folder, with metric, value and iteration. An
    evaluation that is interrupted is not repeated when the run resumes.

    Args:
        checkpointer: writes the weights.
        metric: ``data set/task/metric``, such as ``openvocab_ade20k_panoptic_val/sem_seg/mIoU``.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str) -> None:
        self._checkpointer, self._metric = checkpointer, metric
        self._value = -math.inf

    def resume(self) -> None:
        """Continue from the best value of an interrupted run, if it had the same metric.

        Raises:
            UserError: ``model_best.pth`` is damaged.
        """
        path = Path(self._checkpointer.save_dir, f"{BEST_NAME}.pth")
        if path.is_file():
            selection = read_checkpoint(path).get(SELECTION) or {}
            if selection.get("metric") == self._metric:
                self._value = selection["value"]

    def update(self, scalars: Mapping[str, float], iteration: int) -> None:
        """Save the weights if an evaluation has a new best value.

        Args:
            scalars: ``data set/task/metric`` -> value.
            iteration: number of finished iterations.
        """
        value = scalars.get(self._metric, math.nan)
        if math.isnan(value):
            logger.warning("TEST.BEST_METRIC %s is not among the results", self._metric)
        elif value > self._value:
            logger.info("%s is %.2f, the best so far", self._metric, value)
            content = {
                SELECTION: {"metric": self._metric, "value": value},
                "iteration": iteration - 1,  # like all checkpoints, the last finished one
            }
            self._checkpointer.save_weights(BEST_NAME, **content)
            self._value = value
        else:
            logger.info("%s is %.2f; the best is %.2f", self._metric, value, self._value)


def check_best_metric(metric: str, tasks: Mapping[str, Collection[str]]) -> None:
    """Check ``TEST.BEST_METRIC`` before training.

    Args:
        metric: ``data set/task/metric``; "" selects no checkpoint.
        tasks: evaluated tasks of each test set; without any, there is nothing to select by.

    Raises:
        UserError: the metric is malformed or unknown, or will not be among the results.
    """
    if not metric or not tasks:
        return
    dataset, _, name = metric.partition("/")
    if name not in SELECTABLE:
        hint = did_you_mean(name, SELECTABLE) or f"choose one of {', '.join(SELECTABLE)}"
        raise UserError(f"TEST.BEST_METRIC {metric} is not DATA_SET/TASK/METRIC; {hint}")
    if dataset not in tasks:
        raise UserError(
            f"TEST.BEST_METRIC {metric}: {dataset} is not in DATASETS.TEST "
            f"({', '.join(tasks)}); set another metric, or '' for none"
        )
    if name.partition("/")[0] not in tasks[dataset]:
        raise UserError(
            f"TEST.BEST_METRIC {metric}: {dataset} is evaluated for {', '.join(tasks[dataset])} "
            "only; prepare its other annotations, set another metric, or '' for none"
        )
