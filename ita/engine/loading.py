"""Loading a trained model: a config's network with a checkpoint's weights and class list."""

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from ita.build import training_class_list
from ita.classes import ClassList
from ita.engine.checkpoint import (
    SELECTION,
    load_weights,
    local_path,
    read_checkpoint,
    trained_class_list,
)
from ita.meta_arch import ITA, build_model

logger = logging.getLogger(__name__)

# Entry of the results: class list of the checkpoint, if the seen classes are those of another.
CHECKPOINT_LIST = "checkpoint_class_list"


def load_model(cfg: CfgNode, path: str) -> ITA:
    """Load a model like :func:`load_model_and_source`, without the source of its class list."""
    return load_model_and_source(cfg, path)[0]


def load_model_and_source(cfg: CfgNode, path: str) -> tuple[ITA, dict[str, Any]]:
    """Build the model of a config and load a checkpoint, for inference.

    Args:
        cfg: a complete config.
        path: a checkpoint of this project, of FC-CLIP or of the first ITA release.

    Returns:
        The model in evaluation mode on ``MODEL.DEVICE``, and the sources of the training class list
        and of the weights, as entries for ``ita.engine.evaluate.evaluate``'s ``run``.

    Raises:
        UserError: a checkpoint or CLIP file is missing, is damaged or does not fit.
    """
    checkpoint = read_checkpoint(local_path(path))
    trained = trained_class_list(checkpoint, path)
    class_list = seen_class_list(cfg, trained)
    source = {**source_of_list(cfg, class_list, trained), **source_of_weights(checkpoint)}
    log = logger.warning if CHECKPOINT_LIST in source else logger.info
    log("Loading %s (%s)", path, describe_source(source))
    model = build_model(cfg, class_list).eval()
    load_weights(model, checkpoint["model"], path)
    return model, source


def source_of_list(
    cfg: CfgNode, class_list: ClassList, trained: ClassList | None
) -> dict[str, str]:
    """Name the training class list in use and where it comes from, as entries of a run's results.

    Args:
        class_list: the list from :func:`seen_class_list`.
        trained: the class list in the checkpoint, if any.

    Returns:
        ``train_class_list``, ``train_class_list_from`` and, if the checkpoint was trained with
        other classes, the name of its list as ``checkpoint_class_list``.
    """
    key = "DATASETS.TRAIN_VOCABULARY" if cfg.DATASETS.TRAIN_VOCABULARY else "DATASETS.TRAIN"
    source = "the checkpoint" if class_list is trained else key
    entries = {"train_class_list": class_list.name, "train_class_list_from": source}
    if trained is not None and trained.classes != class_list.classes:
        entries[CHECKPOINT_LIST] = trained.name
    return entries


def source_of_weights(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the weights of a checkpoint of this project, as entries of a run's results.

    Returns:
        ``iteration``, the number of finished iterations, and ``selected_by``, the ``metric`` and
        ``value`` by which the checkpoint was selected, or None; {} for other checkpoints.
    """
    if not isinstance(checkpoint.get("iteration"), int):
        return {}
    selection = checkpoint.get(SELECTION)
    return {"iteration": checkpoint["iteration"] + 1, SELECTION: selection}


def describe_source(entries: Mapping[str, Any]) -> str:
    """Describe, in one line, the training class list and the weights of a run's results.

    Args:
        entries: output of :func:`source_of_list`, and of :func:`source_of_weights` if known.
    """
    name = entries["train_class_list"]
    text = f"seen classes: those of {name}, from {entries['train_class_list_from']}"
    if CHECKPOINT_LIST in entries:
        trained = entries[CHECKPOINT_LIST]
        other = "other classes of the same name" if trained == name else f"class list {trained}"
        text += f"; the checkpoint was trained with {other}"
    if "iteration" in entries:
        text += f"; weights of iteration {entries['iteration']:,}"
    if selection := entries.get(SELECTION):
        text += f", selected by {selection['metric']} = {selection['value']:.2f}"
    return text


def seen_class_list(cfg: CfgNode, trained: ClassList | None) -> ClassList:
    """Return the training class list, which determines the seen classes.

    It is ``DATASETS.TRAIN_VOCABULARY`` if set, else the checkpoint's, else the training set's.

    Args:
        cfg: a complete config.
        trained: the class list in the checkpoint, if any.

    Raises:
        UserError: the data set is unknown, or the class list does not fit it.
    """
    if trained is None or cfg.DATASETS.TRAIN_VOCABULARY:
        return training_class_list(cfg)
    return trained
