"""Selection of the checkpoint with the best value of a metric (``TEST.BEST_METRIC``)."""

import json
import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ita.engine.checkpoint import SELECTION, Checkpointer
from ita.errors import UserError, did_you_mean
from ita.files import write_atomically

logger = logging.getLogger(__name__)

BEST_NAME = "model_best"
RECORD = "best.json"
# Metrics to select by, as task/metric of an evaluation's results; more is better.
METRICS = (
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

    The weights are in ``model_best.pth`` of the run's folder. ``best.json`` beside it holds metric,
    value and iteration, so that a resumed run does not replace them by worse ones.

    Args:
        checkpointer: writes the weights.
        metric: ``data set/task/metric``, such as ``openvocab_ade20k_panoptic_val/sem_seg/mIoU``.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str) -> None:
        self._checkpointer, self._metric = checkpointer, metric
        self._record = Path(checkpointer.save_dir, RECORD)
        self._value = -math.inf

    def resume(self) -> None:
        """Continue from the best value of an interrupted run, if it had the same metric."""
        try:
            content = json.loads(self._record.read_bytes())
            if content["metric"] == self._metric:
                self._value = float(content["value"])
        except (OSError, ValueError, KeyError, TypeError):
            return

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
            self._save(value, iteration)
        else:
            logger.info("%s is %.2f; the best is %.2f", self._metric, value, self._value)

    def _save(self, value: float, iteration: int) -> None:
        selection = {"metric": self._metric, "value": value}
        self._value = value
        logger.info("%s is %.2f, the best so far", self._metric, value)
        self._checkpointer.save_weights(
            BEST_NAME, **{SELECTION: selection, "iteration": iteration - 1}
        )
        content: dict[str, Any] = {**selection, "iteration": iteration, "file": f"{BEST_NAME}.pth"}
        write_atomically(self._record, (json.dumps(content, indent=2) + "\n").encode())


def check_best_metric(metric: str, test_sets: Collection[str]) -> None:
    """Check ``TEST.BEST_METRIC`` before training.

    Args:
        metric: ``data set/task/metric``; "" selects no checkpoint.
        test_sets: ``DATASETS.TEST``; without any, there is nothing to select by.

    Raises:
        UserError: the metric is malformed or unknown, or its data set is not evaluated.
    """
    if not metric or not test_sets:
        return
    dataset, _, name = metric.partition("/")
    if name not in METRICS:
        hint = did_you_mean(name, METRICS) or f"choose one of {', '.join(METRICS)}"
        raise UserError(f"TEST.BEST_METRIC {metric} is not DATA_SET/TASK/METRIC; {hint}")
    if dataset not in test_sets:
        raise UserError(
            f"TEST.BEST_METRIC {metric}: {dataset} is not in DATASETS.TEST "
            f"({', '.join(test_sets)}); set another metric, or '' for none"
        )
