"""Build the parts of the model from a config; the only module that reads their sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ita.classes import ClassList
from ita.data.registration import class_list_for
from ita.data.rows import describe, find_row, replacement
from ita.errors import UserError
from ita.files import find_file
from ita.modeling.clip import FrozenCLIP
from ita.modeling.clip_weights import build_clip
from ita.modeling.criterion import SetCriterion
from ita.modeling.decoder import Decoder
from ita.modeling.dominant import DominantCategories, load_name_table
from ita.modeling.matcher import HungarianMatcher
from ita.modeling.pixel_decoder import LEVELS, PixelDecoder
from ita.modeling.postprocess import InferenceOptions


def parts_from_config(cfg: CfgNode, train_class_list: ClassList | None = None) -> dict[str, Any]:
    """Build the arguments of :class:`ita.meta_arch.ITA` from a config.

    Args:
        cfg: a complete config (:func:`ita.config.load_config`).
        train_class_list: the training class list; None uses the config's.

    Raises:
        UserError: CLIP weights, class list or name table are missing or do not fit.
    """
    if train_class_list is None:
        train_class_list = training_class_list(cfg)
    clip, table = cfg.MODEL.FC_CLIP, cfg.MODEL.ITA.NAME_TABLE
    with naming_keys("MODEL.FC_CLIP.CLIP_MODEL_NAME", "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS"):
        backbone = build_clip(clip.CLIP_MODEL_NAME, clip.CLIP_PRETRAINED_WEIGHTS)
    name_table = {}
    if table:
        with naming_keys("MODEL.ITA.NAME_TABLE"):
            name_table = load_name_table(find_file(table), backbone.embed_dim)
    return {
        "backbone": backbone,
        "pixel_decoder": _pixel_decoder(cfg, backbone),
        "decoder": _decoder(cfg, backbone),
        "dominant": _dominant(cfg, backbone),
        "criterion": _criterion(cfg),
        "train_class_list": train_class_list,
        "image_embedding": cfg.MODEL.ITA.IMAGE_EMBEDDING,
        "candidate_text": cfg.MODEL.ITA.CANDIDATE_TEXT,
        "name_table": name_table,
    }


def training_class_list(cfg: CfgNode) -> ClassList:
    """Return the training class list of a config, including its thing classes.

    Raises:
        UserError: the data set is unknown, or the class list does not fit it.
    """
    name, file = cfg.DATASETS.TRAIN[0], cfg.DATASETS.TRAIN_VOCABULARY
    if name in DatasetCatalog:  # possibly registered by the user's program
        return class_list_for(name, file)
    own = describe(find_row(name, cfg.DATASETS.CUSTOM)).class_list
    return replacement(own, file, name)


@contextmanager
def naming_keys(*keys: str) -> Iterator[None]:
    """Append config keys to the message of a ``UserError`` raised inside the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} ({', '.join(keys)})") from error


def _pixel_decoder(cfg: CfgNode, backbone: FrozenCLIP) -> PixelDecoder:
    head = cfg.MODEL.SEM_SEG_HEAD
    return PixelDecoder(
        backbone.channels,
        hidden_dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        num_layers=head.TRANSFORMER_ENC_LAYERS,
        num_heads=cfg.MODEL.MASK_FORMER.NHEADS,
        num_points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
    )


def _decoder(cfg: CfgNode, backbone: FrozenCLIP) -> Decoder:
    masks = cfg.MODEL.MASK_FORMER
    return Decoder(
        in_dim=cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
        mask_dim=cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        text_dim=backbone.embed_dim,
        hidden_dim=masks.HIDDEN_DIM,
        num_queries=masks.NUM_OBJECT_QUERIES,
        num_dominant=cfg.MODEL.ITA.NUM_DOMINANT,
        num_layers=masks.DEC_LAYERS - 1,
        num_heads=masks.NHEADS,
        ffn_dim=masks.DIM_FEEDFORWARD,
        self_attention=cfg.MODEL.ITA.SELF_ATTENTION,
        num_levels=len(LEVELS),
        text_residual=cfg.MODEL.ITA.TEXT_RESIDUAL and cfg.MODEL.ITA.NUM_DOMINANT > 0,
    )


def _dominant(cfg: CfgNode, backbone: FrozenCLIP) -> DominantCategories | None:
    if not cfg.MODEL.ITA.NUM_DOMINANT:
        return None
    return DominantCategories(
        backbone.embed_dim, cfg.MODEL.MASK_FORMER.HIDDEN_DIM, cfg.MODEL.ITA.NUM_DOMINANT
    )


def _criterion(cfg: CfgNode) -> SetCriterion:
    masks = cfg.MODEL.MASK_FORMER
    matcher = HungarianMatcher(
        class_weight=masks.CLASS_WEIGHT,
        mask_weight=masks.MASK_WEIGHT,
        dice_weight=masks.DICE_WEIGHT,
        dominant_weight=cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT,
        num_points=masks.TRAIN_NUM_POINTS,
    )
    weights = {
        "loss_ce": masks.CLASS_WEIGHT,
        "loss_mask": masks.MASK_WEIGHT,
        "loss_dice": masks.DICE_WEIGHT,
    }
    return SetCriterion(
        matcher,
        weights,
        void_weight=masks.NO_OBJECT_WEIGHT,
        num_points=masks.TRAIN_NUM_POINTS,
        oversample_ratio=masks.OVERSAMPLE_RATIO,
        importance_ratio=masks.IMPORTANCE_SAMPLE_RATIO,
        deep_supervision=masks.DEEP_SUPERVISION,
    )


def inference_options(cfg: CfgNode) -> InferenceOptions:
    """Return the inference options of a config."""
    clip, test = cfg.MODEL.FC_CLIP, cfg.MODEL.MASK_FORMER.TEST
    return InferenceOptions(
        alpha=clip.GEOMETRIC_ENSEMBLE_ALPHA,
        beta=clip.GEOMETRIC_ENSEMBLE_BETA,
        ensemble_on_valid_mask=clip.ENSEMBLE_ON_VALID_MASK,
        semantic=test.SEMANTIC_ON,
        panoptic=test.PANOPTIC_ON,
        instance=test.INSTANCE_ON,
        postprocess_before_inference=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        score_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
