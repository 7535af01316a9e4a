"""Config keys of ITA with defaults and meanings; loading and validation of configs.

Keys known from earlier work keep their names (``MODEL.MASK_FORMER.*``, ``MODEL.SEM_SEG_HEAD.*``,
``MODEL.FC_CLIP.*``), so that configs and overrides written for Mask2Former and FC-CLIP can be used
(:mod:`ita.ancestor_keys`); ITA-specific keys are under ``MODEL.ITA``.
"""

import difflib
import functools
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import yaml
from detectron2.config import CfgNode, get_cfg

from ita.ancestor_keys import COMMAND_LINE, Setting, translate
from ita.errors import UserError

logger = logging.getLogger(__name__)

# Keys with a fixed set of allowed values.
CHOICES: dict[str, tuple[str, ...]] = {
    "MODEL.ITA.IMAGE_EMBEDDING": ("shared", "clip_preprocess"),
    "MODEL.ITA.CANDIDATE_TEXT": ("prompted", "bare"),
    "SOLVER.AMP.DTYPE": ("auto", "float16", "bfloat16"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("full_model",),
    "SOLVER.TRACKER": ("", "wandb", "trackio"),
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
    """CLIP and the ensemble of its classifier with the trained one."""
    # "ITA"; "FCCLIP" and "MaskFormer" select the defaults of these models (docs/migration.md).
    cfg.MODEL.META_ARCHITECTURE = "ITA"
    # The only allowed value: the backbone is the frozen CLIP.
    cfg.MODEL.BACKBONE.NAME = "CLIP"
    cfg.MODEL.FC_CLIP = CfgNode()
    # An open_clip model name, or the path of an open_clip model config in JSON.
    cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME = "convnext_large_d_320"
    # An open_clip tag, a weights file, a folder with one, or "random" (fixed seed; for tests).
    cfg.MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS = "laion2b_s29b_b131k_ft_soup"
    # Weight, from 0 to 1, of CLIP's own classification of a mask for seen classes; the trained
    # classifier has the rest.
    cfg.MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA = 0.4
    # The same for unseen classes.
    cfg.MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA = 0.8
    # Leave out CLIP's classification for masks too small for a cell of its feature (stride 32);
    # the configs of ResNets have it on.
    cfg.MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK = False


def _add_dominant_keys(cfg: CfgNode) -> None:
    """Dominant categories."""
    cfg.MODEL.ITA = CfgNode()
    # K, the number of dominant categories that enter the decoder as text queries; 0 disables them.
    cfg.MODEL.ITA.NUM_DOMINANT = 20
    # Image embedding that names are compared with: "shared" (mean of the dense feature) or
    # "clip_preprocess" (a second pass of CLIP, as in the first ITA release).
    cfg.MODEL.ITA.IMAGE_EMBEDDING = "shared"
    # Text that is compared with the image: "prompted" (the classifier's vectors) or "bare" (the
    # name alone, as in the first ITA release).
    cfg.MODEL.ITA.CANDIDATE_TEXT = "prompted"
    # A {name: feature} file (.pt, .safetensors) whose features become the queries; "" disables it.
    cfg.MODEL.ITA.NAME_TABLE = ""
    # Learning rate of the projection from text features to queries, relative to SOLVER.BASE_LR.
    cfg.MODEL.ITA.PROJECTION_LR_MULTIPLIER = 0.1
    # Reduction of a text query's matching cost for targets of its own class, so that it learns to
    # find its class; 0 (as in the paper) disables it.
    cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT = 0.0
    # Self-attention between queries after cross-attention (Mask2Former, FC-CLIP: on).
    cfg.MODEL.ITA.SELF_ATTENTION = False


def _add_head_keys(cfg: CfgNode) -> None:
    """Encoder, decoder and losses."""
    # The only allowed value: all four stages of the image encoder.
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    # Width of the multi-scale feature encoder, a multiple of 32.
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 256
    # Channels of the mask features, whose products with the queries are the mask logits.
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256
    # Layers of multi-scale deformable self-attention in the multi-scale feature encoder.
    cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS = 6
    # Sampling points of deformable attention, for each head and level.
    cfg.MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4

    cfg.MODEL.MASK_FORMER = CfgNode()
    # Width of the queries in the decoder, a multiple of 4.
    cfg.MODEL.MASK_FORMER.HIDDEN_DIM = 256
    # Attention heads of encoder and decoder; must divide HIDDEN_DIM and SEM_SEG_HEAD.CONVS_DIM.
    cfg.MODEL.MASK_FORMER.NHEADS = 8
    # Hidden width of the feed-forward networks of the decoder.
    cfg.MODEL.MASK_FORMER.DIM_FEEDFORWARD = 2048
    # Number of predictions: one from the initial queries, one after each of DEC_LAYERS - 1 layers.
    cfg.MODEL.MASK_FORMER.DEC_LAYERS = 10
    # L, the number of learned queries, in addition to the text queries of MODEL.ITA.NUM_DOMINANT.
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = 180
    # Apply the losses to all predictions, not only the last one.
    cfg.MODEL.MASK_FORMER.DEEP_SUPERVISION = True
    # Weight of void ("no object") among the classes in the class loss.
    cfg.MODEL.MASK_FORMER.NO_OBJECT_WEIGHT = 0.1
    # Weight of the class loss, also in matching.
    cfg.MODEL.MASK_FORMER.CLASS_WEIGHT = 2.0
    # Weight of the binary cross-entropy of masks, also in matching.
    cfg.MODEL.MASK_FORMER.MASK_WEIGHT = 5.0
    # Weight of the dice loss of masks, also in matching.
    cfg.MODEL.MASK_FORMER.DICE_WEIGHT = 5.0
    # Points per mask for matching and for the mask losses.
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = 112 * 112
    # Candidates per point of the mask losses, of which the most uncertain ones are chosen.
    cfg.MODEL.MASK_FORMER.OVERSAMPLE_RATIO = 3.0
    # Fraction of the points that are chosen in this way; the others are uniformly random.
    cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO = 0.75


def _add_inference_keys(cfg: CfgNode) -> None:
    """Results of evaluation and inference."""
    cfg.MODEL.MASK_FORMER.TEST = CfgNode()
    # Evaluate semantic segmentation (mIoU).
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = True
    # Evaluate panoptic segmentation (PQ), where the data set has panoptic labels.
    cfg.MODEL.MASK_FORMER.TEST.PANOPTIC_ON = False
    # Evaluate instance segmentation (AP), where the data set has instances.
    cfg.MODEL.MASK_FORMER.TEST.INSTANCE_ON = False
    # Minimum class probability of a panoptic segment.
    cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD = 0.0
    # Minimum fraction of a mask that no better one covers; segments below it are dropped.
    cfg.MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD = 0.8
    # Crop and resize mask logits to the output size before class scores are summed, also without
    # panoptic and instance results, which always do so.
    cfg.MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False


def _add_data_keys(cfg: CfgNode) -> None:
    """Images and data sets."""
    # The only allowed value: CLIP takes RGB images.
    cfg.INPUT.FORMAT = "RGB"
    # Height and width of training images, which are cropped or padded to this size.
    cfg.INPUT.IMAGE_SIZE = 1024
    # Large-scale jitter: before that, an image is resized to fit a square of IMAGE_SIZE times a
    # random factor, of which this is the minimum.
    cfg.INPUT.MIN_SCALE = 0.1
    # Maximum of this factor.
    cfg.INPUT.MAX_SCALE = 2.0
    # Short side of test images; -1 selects the usual value of each data set (1024 for Cityscapes
    # and Mapillary Vistas, 800 for the others).
    cfg.INPUT.MIN_SIZE_TEST = -1
    # Maximum long side of test images; -1 likewise (2560 and 1333).
    cfg.INPUT.MAX_SIZE_TEST = -1
    # Pad training images to IMAGE_SIZE x IMAGE_SIZE. Positions are relative to the padded frame, so
    # without jitter a model learns a single padding and performs poorly at inference without it.
    cfg.INPUT.PAD_TO_IMAGE_SIZE = True
    # YAML files that describe custom data sets (dataset.md#your-own-data).
    cfg.DATASETS.CUSTOM = ()
    # Class list file that replaces the one of DATASETS.TRAIN, for training and for the seen classes
    # of evaluations; "" keeps the data set's own (evaluations: the checkpoint's).
    cfg.DATASETS.TRAIN_VOCABULARY = ""
    # Class list files that replace those of DATASETS.TEST: one for all or one for each data set. ""
    # keeps a data set's own.
    cfg.DATASETS.TEST_VOCABULARY = ()


def _add_solver_keys(cfg: CfgNode) -> None:
    """Training and evaluation."""
    # Weight decay of nn.Embedding weights (queries and positions).
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # The only allowed value: CLIP_VALUE limits the gradient norm of the whole model.
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    # IMS_PER_BATCH is split into this many forward and backward passes per optimizer step.
    cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS = 1
    # Mixed-precision dtype: "float16", "bfloat16", or "auto" (float16 on GPUs, bfloat16 on CPUs).
    cfg.SOLVER.AMP.DTYPE = "auto"
    # TF32 in the float32 matrix products and convolutions of training, on GPUs.
    cfg.SOLVER.TF32 = True
    # Use operators that give equal bits in every run, on GPUs too, where they are slower.
    cfg.SOLVER.DETERMINISTIC = False
    # Number of newest periodic checkpoints that are kept; 0 keeps all.
    cfg.SOLVER.CHECKPOINT_KEEP_LAST = 0
    # Keep those after a multiple of so many iterations too; 0 for none.
    cfg.SOLVER.CHECKPOINT_KEEP_EVERY = 0
    # Tracker that gets the scalars of a training besides TensorBoard: "" for none, "wandb" or
    # "trackio", which need the package's extra of that name (docs/training.md).
    cfg.SOLVER.TRACKER = ""
    # Evaluate in mixed precision, with the dtype of SOLVER.AMP.DTYPE.
    cfg.TEST.AMP = False
    # TF32 in evaluations, on GPUs.
    cfg.TEST.TF32 = False
    # Metric by which model_best.pth is selected among the evaluations of a run, for example
    # "openvocab_ade20k_panoptic_val/panoptic_seg/PQ"; "" writes no such file.
    cfg.TEST.BEST_METRIC = ""
    # Visualizations written by each evaluation, of so many of the first images and, by the mIoU of
    # the image, of the best and of the worst: prediction, ground truth and a legend, which marks
    # classes outside the training class list as unseen.
    cfg.TEST.NUM_PICTURES = 4
    # Write OUTPUT_DIR/report.html after each evaluation.
    cfg.TEST.REPORT = True


def load_config(
    config_file: str | Path,
    overrides: Sequence[str] = (),
    warn: Callable[[str], None] = logger.warning,
) -> CfgNode:
    """Load a YAML config, apply command-line overrides and validate the result.

    Args:
        config_file: YAML file; its ``_BASE_`` names the config it inherits from.
        overrides: ``KEY VALUE KEY VALUE ...`` as on the command line.
        warn: called with each line about keys of Mask2Former and FC-CLIP that are replaced or have
            no effect.

    Raises:
        UserError: the file is missing or unreadable, a key is unknown, or a value is invalid or of
            the wrong type.
    """
    path = Path(config_file)
    if not path.is_file():
        raise UserError(f"config file not found: {path}")
    if len(overrides) % 2:
        raise UserError(f"overrides must be KEY VALUE pairs, but {overrides[-1]} has no value")
    cfg = get_cfg()
    add_ita_config(cfg)
    content = _read_yaml(path)
    settings = _settings(flatten(content), _name_with_base(path))
    settings |= _settings(zip(overrides[::2], overrides[1::2], strict=True), COMMAND_LINE)
    settings, lines = translate(settings, dict(flatten(cfg)))
    for line in lines:
        warn(line)
    _merge(cfg, settings)
    validate_config(cfg)
    return cfg


class _ConfigFile(CfgNode):
    """Reader of config files."""

    @classmethod
    def _open_cfg(cls, filename: str) -> TextIO:
        """Open a file, with Mask2Former's Python expressions as plain text.

        They set training sizes, which have no effect here, and must not be evaluated.
        """
        with super()._open_cfg(filename) as file:
            return io.StringIO(file.read().replace("!!python/object/apply:eval", ""))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a YAML config, merged over its bases."""
    try:
        content = _ConfigFile.load_yaml_with_base(str(path), allow_unsafe=False)
    except RecursionError as error:
        raise UserError(f"cannot read config {path}: its _BASE_ chain is circular") from error
    except (TypeError, AttributeError):  # fvcore assumes that the file and its base are mappings
        content = None
    except (yaml.YAMLError, OSError, AssertionError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read config {path}: {_one_line(error)}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"cannot read config {path}: it or its _BASE_ has no 'KEY: value' lines")
    return content


def _name_with_base(path: Path) -> str:
    """Name a readable config file as the source of its keys, some of which its base may set."""
    has_base = any(line.startswith("_BASE_:") for line in path.read_text().splitlines())
    return f"{path} (or its _BASE_)" if has_base else str(path)


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the (dotted key, value) pairs of a nested mapping."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _settings(items: Iterable[tuple[str, Any]], source: str) -> dict[str, Setting]:
    """Decode the values of (dotted key, value) pairs, which may be Python literals in a string."""
    return {key: Setting(CfgNode._decode_cfg_value(value), source) for key, value in items}


def _merge(cfg: CfgNode, settings: Mapping[str, Setting]) -> None:
    """Merge settings by dotted key; the error for an unknown key suggests the closest one."""
    known = dict(flatten(cfg))
    for key, (value, source) in settings.items():
        if key not in known:
            raise UserError(f"unknown config key {key} in {source}{_did_you_mean(key, known)}")
        if isinstance(known[key], float) and type(value) is int:  # not bool, which is an int too
            value = float(value)
        if isinstance(known[key], tuple) and isinstance(value, str):
            value = (value,)
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError) as error:
            raise UserError(f"bad value in {source}: {_one_line(error)}") from error


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    """Suggest the closest known key, by its full path or else by its last component."""
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
    """Validate values that would otherwise fail late or be silently misused.

    Raises:
        UserError: a value is invalid; the message names the key, its value and the allowed values.
    """
    for key, allowed in CHOICES.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value not in allowed:
            raise UserError(
                f"{key} is {value!r}; it must be one of {', '.join(map(repr, allowed))}"
            )
    masks, steps = cfg.MODEL.MASK_FORMER, cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    if steps < 1 or cfg.SOLVER.IMS_PER_BATCH % steps:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}) must be a multiple of "
            f"SOLVER.GRADIENT_ACCUMULATION_STEPS ({steps})"
        )
    _check_widths(masks.NHEADS, masks.HIDDEN_DIM, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM)
    if not 0 <= masks.IMPORTANCE_SAMPLE_RATIO <= min(1, masks.OVERSAMPLE_RATIO):
        raise UserError(
            f"MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO is {masks.IMPORTANCE_SAMPLE_RATIO}; it "
            f"must be from 0 to 1 and at most OVERSAMPLE_RATIO ({masks.OVERSAMPLE_RATIO})"
        )
    if masks.DEC_LAYERS < 1:
        raise UserError(
            f"MODEL.MASK_FORMER.DEC_LAYERS is {masks.DEC_LAYERS}; it must be at least 1"
        )
    if cfg.MODEL.ITA.NUM_DOMINANT < 0:
        raise UserError(
            f"MODEL.ITA.NUM_DOMINANT is {cfg.MODEL.ITA.NUM_DOMINANT}; it must be at least 0 "
            "(0 disables it)"
        )
    if cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT < 0:
        raise UserError(
            f"MODEL.ITA.DOMINANT_MATCH_WEIGHT is {cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT}; it must "
            "be at least 0"
        )
    for key in ("GEOMETRIC_ENSEMBLE_ALPHA", "GEOMETRIC_ENSEMBLE_BETA"):
        if not 0 <= cfg.MODEL.FC_CLIP[key] <= 1:
            raise UserError(
                f"MODEL.FC_CLIP.{key} is {cfg.MODEL.FC_CLIP[key]}; it must be from 0 to 1"
            )
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; its class list determines the seen classes")
    if len(cfg.DATASETS.TEST_VOCABULARY) not in (0, 1, len(cfg.DATASETS.TEST)):
        raise UserError(
            f"DATASETS.TEST_VOCABULARY has {len(cfg.DATASETS.TEST_VOCABULARY)} entries; give one "
            f"for all or one for each of the {len(cfg.DATASETS.TEST)} data sets in DATASETS.TEST"
        )


def _check_widths(heads: int, hidden_dim: int, convs_dim: int) -> None:
    if heads < 1 or hidden_dim % heads or convs_dim % heads:
        raise UserError(
            f"MODEL.MASK_FORMER.NHEADS ({heads}) must divide MODEL.MASK_FORMER.HIDDEN_DIM "
            f"({hidden_dim}) and MODEL.SEM_SEG_HEAD.CONVS_DIM ({convs_dim})"
        )
    # The decoder's positions are sines and cosines of x and y; the pixel decoder's GroupNorm has 32
    # groups.
    if hidden_dim % 4 or convs_dim % 32:
        raise UserError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM ({hidden_dim}) must be a multiple of 4 and "
            f"MODEL.SEM_SEG_HEAD.CONVS_DIM ({convs_dim}) a multiple of 32"
        )
