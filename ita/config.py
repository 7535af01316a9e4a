"""Every config key of ITA, its default and its meaning; reading and validating a config.

Keys that the field knows keep their names (``MODEL.MASK_FORMER.*``, ``MODEL.SEM_SEG_HEAD.*``,
``MODEL.FC_CLIP.*``), so that overrides written for Mask2Former and FC-CLIP can be pasted; keys of
this project's own stand under ``MODEL.ITA``.
"""

import difflib
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from ita.errors import UserError

logger = logging.getLogger(__name__)

# Keys of the ancestors that this code reads from the CLIP model or fixes by design. A pasted
# override may state them, but only with the value the code stands for (None: any value; it is
# ignored, because the truth is read elsewhere).
ANCESTOR_KEYS: dict[str, tuple[object, str]] = {
    "INPUT.DATASET_MAPPER_NAME": (None, "one mapper serves every data set"),
    "INPUT.COLOR_AUG_SSD": (False, "the recipe has no color augmentation"),
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": (1.0, "crops are not drawn again"),
    "INPUT.SIZE_DIVISIBILITY": (-1, "the mapper pads to INPUT.IMAGE_SIZE"),
    "MODEL.FC_CLIP.EMBED_DIM": (None, "read from the CLIP model"),
    "MODEL.MASK_FORMER.DROPOUT": (0.0, "there is no dropout"),
    "MODEL.MASK_FORMER.ENC_LAYERS": (0, "the encoder is SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS deep"),
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": (False, "features are projected where widths differ"),
    "MODEL.MASK_FORMER.PRE_NORM": (False, "layers are post-norm"),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": (32, "the stride of CLIP's last stage"),
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": (None, "there is one decoder"),
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": ("multi_scale_pixel_decoder", "three levels"),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (4, "masks are predicted at stride 4"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": (
        ["res3", "res4", "res5"],
        "the three transformer levels",
    ),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": (
        None,
        "the encoder has MASK_FORMER.NHEADS heads",
    ),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": (None, "read from the data set's metadata"),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": (["res2", "res3", "res4", "res5"], "all four stages"),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": (1.0, "weights are those of MASK_FORMER"),
    "MODEL.SEM_SEG_HEAD.NAME": (None, "there is one head"),
    "MODEL.SEM_SEG_HEAD.NORM": ("GN", "the pixel decoder uses GroupNorm"),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": (None, "read from the class list"),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": (None, "there is one pixel decoder"),
    "SOLVER.BACKBONE_MULTIPLIER": (None, "the backbone is frozen"),
    "SOLVER.OPTIMIZER": ("ADAMW", "the recipe's optimizer"),
    "SOLVER.WEIGHT_DECAY_BIAS": (None, "biases decay like weights"),
    "TEST.AUG.ENABLED": (False, "there is no test-time augmentation"),
}

# Keys whose value is one of a few words.
CHOICES: dict[str, tuple[str, ...]] = {
    "MODEL.ITA.IMAGE_EMBEDDING": ("shared", "clip_preprocess"),
    "MODEL.ITA.CANDIDATE_TEXT": ("prompted", "bare"),
    "SOLVER.AMP.DTYPE": ("auto", "float16", "bfloat16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("full_model",),
    "INPUT.FORMAT": ("RGB",),
}


def add_ita_config(cfg: CfgNode) -> None:
    """Add ITA's keys and defaults to a Detectron2 config, in place."""
    _add_clip_keys(cfg)
    _add_dominant_keys(cfg)
    _add_head_keys(cfg)
    _add_inference_keys(cfg)
    _add_data_keys(cfg)
    _add_solver_keys(cfg)


def _add_clip_keys(cfg: CfgNode) -> None:
    cfg.MODEL.META_ARCHITECTURE = "ITA"
    cfg.MODEL.BACKBONE.NAME = "CLIP"
    cfg.MODEL.FC_CLIP = CfgNode()
    # An open_clip model name, or the path of an open_clip model config in JSON.
    cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME = "convnext_large_d_320"
    # An open_clip tag, a weights file, a folder that holds one, or "random" (fixed seed; tests).
    cfg.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS = "laion2b_s29b_b131k_ft_soup"
    # Weight of the out-of-vocabulary classifier for seen (alpha) and unseen (beta) classes.
    cfg.MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA = 0.4
    cfg.MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA = 0.8
    # Leave the out-of-vocabulary classifier out for masks without a positive cell at stride 32.
    cfg.MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK = False


def _add_dominant_keys(cfg: CfgNode) -> None:
    cfg.MODEL.ITA = CfgNode()
    # K, the number of dominant categories that enter the decoder as text queries; 0: none.
    cfg.MODEL.ITA.NUM_DOMINANT = 20
    # F_cv: "shared" (mean of the dense feature) or "clip_preprocess" (a second CLIP pass).
    cfg.MODEL.ITA.IMAGE_EMBEDDING = "shared"
    # Text of the candidates: "prompted" (the classifier's vectors) or "bare" (the name alone).
    cfg.MODEL.ITA.CANDIDATE_TEXT = "prompted"
    # A {name: feature} file (.pt or .safetensors) whose features become the queries; "": none.
    cfg.MODEL.ITA.NAME_TABLE = ""
    # Learning rate of the map from text features to queries, relative to SOLVER.BASE_LR.
    cfg.MODEL.ITA.PROJECTION_LR_MULTIPLIER = 0.1
    # What a text query costs less than others when it is matched with targets of its own class, so
    # that it learns to find its class; 0 (the paper's way): nothing.
    cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT = 0.0
    # Self-attention between queries after cross-attention (Mask2Former, FC-CLIP: on).
    cfg.MODEL.ITA.SELF_ATTENTION = False


def _add_head_keys(cfg: CfgNode) -> None:
    # It can only be this (ANCESTOR_KEYS). With Detectron2's default, which is another, a run's
    # config.yaml, which holds every key, could not be read again.
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 256
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    # Layers of multi-scale deformable self-attention in the pixel decoder.
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 6
    # Sampling points per head and level.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4

    cfg.MODEL.MASK_FORMER = CfgNode()
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 256
    cfg.MODEL.MASK_FORMER.NHEADS = 8
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 2048
    # Predictions of the decoder: the initial queries' and one after each of DEC_LAYERS - 1 layers.
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 10
    # L, the number of learned queries.
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 180
    # Losses on all predictions, not on the last one only.
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION = True
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    cfg.MODEL.MASK_FORMER.CLASS_WEIGHT = 2.0
    cfg.MODEL.MASK_FORMER.MASK_WEIGHT = 5.0
    cfg.MODEL.MASK_FORMER.DICE_WEIGHT = 5.0
    # Points per mask for matching and for the mask losses.
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 112 * 112
    # Candidates per point and the fraction of points taken from the most uncertain of them.
    cfg.MODEL.MASK_FORMER.OVERSAMPLE_RATIO = 3.0
    cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75


def _add_inference_keys(cfg: CfgNode) -> None:
    cfg.MODEL.MASK_FORMER.TEST = CfgNode()
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.0
    cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = 0.8
    # Crop and resize mask logits to the output size before class scores are summed.
    cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_data_keys(cfg: CfgNode) -> None:
    cfg.INPUT.FORMAT = "RGB"
    # Large-scale jitter: the image is resized by a factor in [MIN_SCALE, MAX_SCALE] of IMAGE_SIZE,
    # then cropped or padded to IMAGE_SIZE x IMAGE_SIZE.
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    # Short side and greatest long side of test images; -1: as is usual for each data set (1024 and
    # 2560 for Cityscapes and Mapillary Vistas, 800 and 1333 for the others).
    cfg.INPUT.MIN_SIZE_TEST = -1
    cfg.INPUT.MAX_SIZE_TEST = -1
    # Pad training images to IMAGE_SIZE x IMAGE_SIZE. Positions are relative to the padded frame, so
    # without jitter a model learns one padding, and does poorly at inference, where there is none.
    cfg.INPUT.PAD_TO_IMAGE_SIZE = True
    # YAML files that describe data sets of one's own (dataset.md, "Your own data").
    cfg.DATASETS.CUSTOM = ()
    # Class lists that replace the data sets' own: one file for all of DATASETS.TEST, or one each
    # ("" keeps a set's own); the training list likewise.
    cfg.DATASETS.TRAIN_VOCABULARY = ""
    cfg.DATASETS.TEST_VOCABULARY = ()


def _add_solver_keys(cfg: CfgNode) -> None:
    # Decay of nn.Embedding weights (queries and positions).
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    # IMS_PER_BATCH is split into this many forward and backward passes per optimizer step.
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 1
    # Mixed precision's type: "float16", "bfloat16", or "auto" (float16 on GPUs, bfloat16 on CPUs).
    cfg.SOLVER.AMP.DTYPE = "auto"
    # Evaluate in mixed precision, of the type that SOLVER.AMP.DTYPE says.
    cfg.TEST.AMP = False
    # Pictures that each evaluation writes: the first images with prediction, truth and a legend, in
    # which classes that are not in the training vocabulary are called unseen.
    cfg.TEST.NUM_PICTURES = 4


def load_config(config_file: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a YAML config with command-line overrides on top, checked and complete.

    Args:
        config_file: YAML file; its ``_BASE_`` names the file it builds on.
        overrides: ``KEY VALUE KEY VALUE ...`` as on the command line.

    Raises:
        UserError: a missing or unreadable file, an unknown key, a value of the wrong type or one
            that the model cannot have.
    """
    path = Path(config_file)
    if not path.is_file():
        raise UserError(f"config file not found: {path}")
    if len(overrides) % 2:
        raise UserError(f"overrides are pairs of KEY VALUE, but {overrides[-1]} has no value")
    cfg = get_cfg()
    add_ita_config(cfg)
    _merge(cfg, flatten(_read_yaml(path)), str(path))
    _merge(cfg, zip(overrides[::2], overrides[1::2], strict=True), "the command line")
    validate_config(cfg)
    return cfg


def _read_yaml(path: Path) -> Mapping[str, Any]:
    """A YAML config on top of its bases."""
    try:
        content = CfgNode.load_yaml_with_base(str(path), allow_unsafe=False)
    except RecursionError as error:
        raise UserError(f"cannot read config {path}: its _BASE_ leads back to itself") from error
    except (TypeError, AttributeError):  # fvcore takes the file or its base for a mapping
        content = None
    except (yaml.YAMLError, OSError, AssertionError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read config {path}: {_one_line(error)}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"cannot read config {path}: it or its _BASE_ holds no 'KEY: value' lines")
    return content


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys as dotted ones, each with its value."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _merge(cfg: CfgNode, items: Iterable[tuple[str, Any]], source: str) -> None:
    """Merge (dotted key, value) pairs, with an error that names the key and the nearest one."""
    known = dict(flatten(cfg))
    for key, value in items:
        value = CfgNode._decode_cfg_value(value)
        if key in ANCESTOR_KEYS:
            _check_ancestor_key(key, value, source)
            continue
        if key not in known:
            raise UserError(f"unknown config key {key} in {source}{_did_you_mean(key, known)}")
        if isinstance(known[key], float) and isinstance(value, int):
            value = float(value)
        if isinstance(known[key], tuple) and isinstance(value, str):
            value = (value,)
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            raise UserError(f"bad value in {source}: {_one_line(error)}") from error


def _check_ancestor_key(key: str, value: Any, source: str) -> None:
    only, reason = ANCESTOR_KEYS[key]
    if only is None or value == only:
        logger.info("%s in %s has no effect: %s", key, source, reason)
        return
    raise UserError(f"{key} in {source} can only be {only!r} here, not {value!r}: {reason}")


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    """The nearest known key, by its whole path or else by its last part."""
    known = list(known)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not nearest:
        last = key.rpartition(".")[2].lower()
        by_last_part = {name.rpartition(".")[2].lower(): name for name in known}
        nearest = [by_last_part[m] for m in difflib.get_close_matches(last, by_last_part, n=1)]
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def validate_config(cfg: CfgNode) -> None:
    """Check values that would otherwise fail late or silently do something else.

    Raises:
        UserError: naming the key, its value and what it may be.
    """
    for key, allowed in CHOICES.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value not in allowed:
            raise UserError(f"{key} is {value!r}; it can be {', '.join(map(repr, allowed))}")
    masks, steps = cfg.MODEL.MASK_FORMER, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    if steps < 1 or cfg.SOLVER.IMS_PER_BATCH % steps:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}) must be a multiple of "
            f"SOLVER.GRADIENT_ACCUMULATION_STEPS ({steps})"
        )
    _check_widths(masks.NHEADS, masks.HIDDEN_DIM, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM)
    if not 0 <= masks.IMPORTANCE_SAMPLE_RATIO <= min(1, masks.OVERSAMPLE_RATIO):
        raise UserError(
            f"MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO is {masks.IMPORTANCE_SAMPLE_RATIO}; it is "
            f"from 0 to 1 and at most OVERSAMPLE_RATIO ({masks.OVERSAMPLE_RATIO})"
        )
    if masks.DEC_LAYERS < 1:
        raise UserError(f"MODEL.MASK_FORMER.DEC_LAYERS is {masks.DEC_LAYERS}; it is at least 1")
    if cfg.MODEL.ITA.NUM_DOMINANT < 0:
        raise UserError(f"MODEL.ITA.NUM_DOMINANT is {cfg.MODEL.ITA.NUM_DOMINANT}; 0 turns it off")
    if cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT < 0:
        raise UserError(
            f"MODEL.ITA.DOMINANT_MATCH_WEIGHT is {cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT}; it is at "
            "least 0"
        )
    for key in ("GEOMETRIC_ENSEMBLE_ALPHA", "GEOMETRIC_ENSEMBLE_BETA"):
        if not 0 <= cfg.MODEL.FC_CLIP[key] <= 1:
            raise UserError(f"MODEL.FC_CLIP.{key} is {cfg.MODEL.FC_CLIP[key]}; it is from 0 to 1")
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; its vocabulary says which classes are seen")
    if len(cfg.DATASETS.TEST_VOCABULARY) not in (0, 1, len(cfg.DATASETS.TEST)):
        raise UserError(
            f"DATASETS.TEST_VOCABULARY has {len(cfg.DATASETS.TEST_VOCABULARY)} entries; give one "
            f"for all or one for each of the {len(cfg.DATASETS.TEST)} sets in DATASETS.TEST"
        )


def _check_widths(heads: int, hidden_dim: int, convs_dim: int) -> None:
    if heads < 1 or hidden_dim % heads or convs_dim % heads:
        raise UserError(
            f"MODEL.MASK_FORMER.NHEADS ({heads}) must divide MODEL.MASK_FORMER.HIDDEN_DIM "
            f"({hidden_dim}) and MODEL.SEM_SEG_HEAD.CONVS_DIM ({convs_dim})"
        )
    # Sines and cosines of x and y in the decoder; GroupNorm's 32 groups in the pixel decoder.
    if hidden_dim % 4 or convs_dim % 32:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM ({hidden_dim}) must be a multiple of 4 and "
            f"MODEL.SEM_SEG_HEAD.CONVS_DIM ({convs_dim}) one of 32"
        )
