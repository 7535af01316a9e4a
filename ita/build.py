"""From a config to the parts of the model: the one place that reads their sizes."""

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

from ita.data import class_list_for
from ita.modeling.clip import FrozenCLIP
from ita.modeling.clip_weights import build_clip
from ita.modeling.criterion import SetCriterion
from ita.modeling.decoder import Decoder
from ita.modeling.dominant import DominantCategories, load_name_table
from ita.modeling.inference import InferenceOptions
from ita.modeling.matcher import HungarianMatcher
from ita.modeling.pixel_decoder import PixelDecoder


def parts_from_config(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of :class:`ita.meta_arch.ITA` that a config stands for.

    Raises:
        UserError: CLIP weights, class list or name table that are missing or do not fit.
    """
    train_set = cfg.DATASETS.TRAIN[0]
    train_class_list = class_list_for(train_set, cfg.DATASETS.TRAIN_VOCABULARY)
    backbone = build_backbone(cfg)
    table = cfg.MODEL.ITA.NAME_TABLE
    return {
        "backbone": backbone,
        "pixel_decoder": _pixel_decoder(cfg, backbone),
        "decoder": _decoder(cfg, backbone),
        "dominant": _dominant(cfg, backbone),
        "criterion": _criterion(cfg),
        "train_class_list": train_class_list,
        "train_thing_ids": MetadataCatalog.get(train_set).thing_ids,
        "inference": _inference_options(cfg),
        "image_embedding": cfg.MODEL.ITA.IMAGE_EMBEDDING,
        "candidate_text": cfg.MODEL.ITA.CANDIDATE_TEXT,
        "name_table": load_name_table(Path(table), backbone.embed_dim) if table else None,
    }


@BACKBONE_REGISTRY.register()
def CLIP(cfg: CfgNode, input_shape: ShapeSpec) -> FrozenCLIP:
    """The registered backbone; its name is the one that the field's configs use."""
    return build_clip(cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME, cfg.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS)


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


def _inference_options(cfg: CfgNode) -> InferenceOptions:
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
