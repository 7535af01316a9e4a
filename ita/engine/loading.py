"""Loading a trained model: a config's network with a checkpoint's weights and class list."""

import logging

from detectron2.config import CfgNode

from ita.build import training_class_list
from ita.engine.checkpoint import load_weights, local_path, read_checkpoint, trained_class_list
from ita.meta_arch import ITA, build_model

logger = logging.getLogger(__name__)


def load_model(cfg: CfgNode, path: str) -> ITA:
    """Build the model of a config and load a checkpoint, for inference.

    The training class list, which determines the seen classes, is
    ``DATASETS.TRAIN_VOCABULARY`` if set, else the checkpoint's, else the training set's.

    Args:
        cfg: a complete config.
        path: a checkpoint of this project, of FC-CLIP or of the first ITA release.

    Returns:
        The model in evaluation mode on ``MODEL.DEVICE``.

    Raises:
        UserError: a checkpoint or CLIP file is missing, is damaged or does not fit.
    """
    logger.info("Loading %s", path)
    checkpoint = read_checkpoint(local_path(path))
    trained = trained_class_list(checkpoint, path)
    if trained is None or cfg.DATASETS.TRAIN_VOCABULARY:
        class_list = training_class_list(cfg)
    else:
        class_list = trained
    if trained is not None and trained.classes != class_list.classes:
        logger.warning(
            "%s was trained with class list %s, but the seen classes are those of "
            "DATASETS.TRAIN_VOCABULARY, %s",
            path,
            trained.name,
            class_list.name,
        )
    source = "the checkpoint" if class_list is trained else "the config"
    logger.info("Seen classes are those of class list %s, from %s", class_list.name, source)
    model = build_model(cfg, class_list).eval()
    load_weights(model, checkpoint["model"], path)
    return model
