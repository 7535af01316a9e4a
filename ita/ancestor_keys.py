"""Keys of Mask2Former and FC-CLIP configs that have another meaning, or none, in this code.

Their YAML files load as they are: architectures and data sets get the names that they have here,
keys whose value is determined elsewhere are ignored and named in one line, and values that
contradict this code are rejected. Only the final value of a key counts, so a file may replace what
its ``_BASE_`` sets, and an override what the file sets.
"""

import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from ita.errors import UserError, shown

ARCHITECTURE = "MODEL.META_ARCHITECTURE"
ITA = "ITA"
# Architecture -> defaults of the same model here; keys that the config itself sets replace them.
ARCHITECTURES: dict[str, dict[str, object]] = {
    ITA: {},
    "FCCLIP": {
        "MODEL.ITA.NUM_DOMINANT": 0,
        "MODEL.ITA.SELF_ATTENTION": True,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 250,
    },
    "MaskFormer": {
        "MODEL.ITA.NUM_DOMINANT": 0,
        "MODEL.ITA.SELF_ATTENTION": True,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
    },
}

# Detectron2's schedules, of which the cosine is the closest to a polynomial.
SCHEDULES = ("WarmupCosineLR", "WarmupMultiStepLR", "WarmupStepWithFixedGammaLR")

# Keys that can only have the value that this code implements, and why; a tuple contains several
# such values, the suggested one first.
FIXED: dict[str, tuple[object, str]] = {
    "INPUT.COLOR_AUG_SSD": (False, "the recipe has no color augmentation"),
    "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": (1.0, "crops are not resampled"),
    "MODEL.BACKBONE.NAME": ("CLIP", "the backbone is the frozen CLIP of MODEL.FC_CLIP"),
    "MODEL.MASK_FORMER.DROPOUT": (0.0, "there is no dropout"),
    "MODEL.MASK_FORMER.ENC_LAYERS": (0, "SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS sets the depth"),
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": (False, "features are projected where widths differ"),
    "MODEL.MASK_FORMER.PRE_NORM": (False, "layers are post-norm"),
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": (32, "the stride of CLIP's last stage"),
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": (
        "MultiScaleMaskedTransformerDecoder",
        "there is one decoder",
    ),
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": ("multi_scale_pixel_decoder", "three levels"),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": (4, "masks are predicted at stride 4"),
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": (
        ["res3", "res4", "res5"],
        "the three transformer levels",
    ),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": (["res2", "res3", "res4", "res5"], "all four stages"),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": (1.0, "MASK_FORMER sets the loss weights"),
    "MODEL.SEM_SEG_HEAD.NORM": ("GN", "the pixel decoder uses GroupNorm"),
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": (
        "MSDeformAttnPixelDecoder",
        "there is one pixel decoder",
    ),
    "SOLVER.LR_SCHEDULER_NAME": (
        SCHEDULES,
        "the schedules of Detectron2, of which the cosine is the closest to a polynomial",
    ),
    "SOLVER.OPTIMIZER": ("ADAMW", "the recipe's optimizer"),
    "TEST.AUG.ENABLED": (False, "there is no test-time augmentation"),
}

_CLIP = "the backbone is the frozen CLIP of MODEL.FC_CLIP"
_FROM_CLIP = "read from the CLIP model"
_DEEPLAB = "DeepLab's, in every config that a run of theirs writes"
_JITTER = "INPUT.IMAGE_SIZE, MIN_SCALE and MAX_SCALE set the training size"
# Keys, or groups of keys, with any value, and the reason why the value has no effect.
IGNORED: dict[str, str] = {
    "MODEL.BACKBONE.FREEZE_AT": _CLIP,
    "MODEL.RESNETS.*": _CLIP,
    "MODEL.SWIN.*": _CLIP,
    "MODEL.PIXEL_MEAN": _FROM_CLIP,
    "MODEL.PIXEL_STD": _FROM_CLIP,
    "MODEL.FC_CLIP.EMBED_DIM": _FROM_CLIP,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "read from the class list",
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": "read from the data set",
    "MODEL.SEM_SEG_HEAD.NAME": "there is one head",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": "MASK_FORMER.NHEADS sets it",
    "INPUT.DATASET_MAPPER_NAME": "one mapper serves every data set",
    "INPUT.CROP.*": _JITTER,
    "INPUT.MAX_SIZE_TRAIN": _JITTER,
    "INPUT.MIN_SIZE_TRAIN": _JITTER,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": _JITTER,
    "INPUT.SIZE_DIVISIBILITY": _JITTER,
    **dict.fromkeys(
        (
            "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
            "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
            "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
            "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
            "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
            "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES",
            "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
            "SOLVER.POLY_LR_CONSTANT_ENDING",
            "SOLVER.POLY_LR_POWER",
        ),
        _DEEPLAB,
    ),
    "SOLVER.BACKBONE_MULTIPLIER": "the backbone is frozen",
    "SOLVER.WEIGHT_DECAY_BIAS": "biases decay like weights",
    "TEST.AUG.*": "there is no test-time augmentation",
}
# Start of values that name an ImageNet backbone and its weights; ignored, since every file inherits
# them from its base, and a checkpoint of such a backbone must not be loaded into the model.
_IMAGENET = {
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/",
}

# Mask2Former's data sets and those of the catalogue with the same images and annotations.
_COUNTERPARTS = (
    ("coco_2017_{}_panoptic", "openvocab_coco_2017_{}_panoptic_with_sem_seg"),
    ("coco_2017_{}_panoptic_with_sem_seg", "openvocab_coco_2017_{}_panoptic_with_sem_seg"),
    ("ade20k_panoptic_{}", "openvocab_ade20k_panoptic_{}"),
    ("ade20k_full_sem_seg_{}", "openvocab_ade20k_full_sem_seg_{}"),
    ("cityscapes_fine_panoptic_{}", "openvocab_cityscapes_fine_panoptic_{}"),
    ("mapillary_vistas_panoptic_{}", "openvocab_mapillary_vistas_panoptic_{}"),
)
_DATASETS = {
    theirs.format(split): ours.format(split)
    for theirs, ours in _COUNTERPARTS
    for split in ("train", "val")
}

COMMAND_LINE = "the command line"


class Setting(NamedTuple):
    """Value of a key, and its source: a file or the command line."""

    value: Any
    source: str


def translate(
    settings: Mapping[str, Setting], defaults: Mapping[str, Any]
) -> tuple[dict[str, Setting], list[str]]:
    """Replace what stems from Mask2Former or FC-CLIP by keys and values of this code.

    Args:
        settings: final settings by dotted key.
        defaults: default of every key that this code or Detectron2 has.

    Returns:
        The remaining settings, with the defaults that the architecture selects; and one line per
        source that names everything replaced or ignored.

    Raises:
        UserError: values contradict this code; the message names all of them.
    """
    _check_fixed(settings)
    kept = {
        key: setting
        for key, setting in settings.items()
        if len(_allowed(key)) != 1 and not _ignored(key, setting)
    }
    notes = [*_select_architecture(kept), *_rename_datasets(kept)]
    notes += _describe_ignored(settings, defaults)
    lines = [
        f"{source}: {'; '.join(text for s, text in notes if s == source)}"
        for source in dict.fromkeys(source for source, _ in notes)
    ]
    return kept, lines


def _allowed(key: str) -> tuple[object, ...]:
    """Return the only values of a key, the suggested one first; () if it can have any."""
    only = FIXED[key][0] if key in FIXED else ()
    return only if isinstance(only, tuple) else (only,)


def _check_fixed(settings: Mapping[str, Setting]) -> None:
    problems, remedy = [], []
    for key, (value, source) in settings.items():
        allowed = _allowed(key)
        if not allowed or _ignored(key, settings[key]) or _as_list(value) in allowed:
            continue
        only, reason = " or ".join(map(repr, allowed)), FIXED[key][1]
        problems.append(f"{key} in {source} can only be {only} here, not {shown(value)}: {reason}")
        if source != COMMAND_LINE:
            remedy.append(f"{key} {shlex.quote(str(allowed[0]))}")
    if problems:
        override = f"; to use the file anyway, override it: {' '.join(remedy)}" if remedy else ""
        raise UserError("; ".join(problems) + override)


def _select_architecture(kept: dict[str, Setting]) -> list[tuple[str, str]]:
    """Replace the architecture by its settings, in place; return (source, note) pairs."""
    name, source = ITA, ""
    if ARCHITECTURE in kept:
        setting = kept.pop(ARCHITECTURE)
        name, source = str(setting.value), setting.source
    if name not in ARCHITECTURES:
        raise UserError(
            f"{ARCHITECTURE} in {source} is {shown(name)}; it must be one of "
            f"{', '.join(map(repr, ARCHITECTURES))}"
        )
    selected = {k: value for k, value in ARCHITECTURES[name].items() if k not in kept}
    kept |= {key: Setting(value, source) for key, value in selected.items()}
    chosen = ", ".join(f"{key} {value}" for key, value in selected.items())
    return [(source, f"{ARCHITECTURE} {name} selects {chosen}")] if chosen else []


def _rename_datasets(kept: dict[str, Setting]) -> list[tuple[str, str]]:
    """Replace Mask2Former's names of data sets, in place; return (source, note) pairs."""
    notes = []
    for key in (k for k in ("DATASETS.TRAIN", "DATASETS.TEST") if k in kept):
        setting = kept[key]
        names = setting.value if isinstance(setting.value, tuple | list) else [setting.value]
        renamed = {str(name): _DATASETS[str(name)] for name in names if str(name) in _DATASETS}
        if renamed:
            value = tuple(renamed.get(str(name), name) for name in names)
            kept[key] = Setting(value, setting.source)
        notes += [
            (setting.source, f"{key} {name} is {ours} here") for name, ours in renamed.items()
        ]
    return notes


def _describe_ignored(
    settings: Mapping[str, Setting], defaults: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Describe ignored keys as (source, note) pairs, one for each source."""
    names: dict[str, dict[str, list[str]]] = {}  # source -> reason -> keys or groups
    for key, setting in settings.items():
        ignored = _ignored(key, setting)
        if ignored and not _is_default(key, setting.value, defaults):
            name, reason = ignored
            listed = names.setdefault(setting.source, {}).setdefault(reason, [])
            listed += [] if name in listed else [name]
    return [
        (source, "without effect: " + "; ".join(f"{', '.join(k)} ({r})" for r, k in found.items()))
        for source, found in names.items()
    ]


def _ignored(key: str, setting: Setting) -> tuple[str, str] | None:
    """Return the name under which an ignored key is listed and the reason; None for others."""
    if key in _IMAGENET and str(setting.value).startswith(_IMAGENET[key]):
        return f"{key} {setting.value}", _CLIP
    if key in FIXED:
        return None
    for name in (key, *(f"{key[:i]}.*" for i, letter in enumerate(key) if letter == ".")):
        if name in IGNORED:
            return name, IGNORED[name]
    return None


def _is_default(key: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    """Whether a key has its default, as every key has in the config that a run writes."""
    return key in defaults and _as_list(value) == _as_list(defaults[key])


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
