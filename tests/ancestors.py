"""Configs with the keys and values of those of Mask2Former and FC-CLIP."""

from pathlib import Path
from typing import Any

import yaml

BASE: dict[str, Any] = {
    "MODEL": {
        "BACKBONE": {"FREEZE_AT": 0, "NAME": "build_resnet_backbone"},
        "WEIGHTS": "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [58.395, 57.12, 57.375],
        "RESNETS": {
            "DEPTH": 50,
            "STEM_TYPE": "basic",
            "STEM_OUT_CHANNELS": 64,
            "STRIDE_IN_1X1": False,
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "RES5_MULTI_GRID": [1, 1, 1],
        },
    },
    "DATASETS": {
        "TRAIN": "('coco_2017_train_panoptic',)",
        "TEST": "('coco_2017_val_panoptic_with_sem_seg',)",
    },
    "SOLVER": {
        "IMS_PER_BATCH": 16,
        "BASE_LR": 0.0001,
        "STEPS": "(327778, 355092)",
        "MAX_ITER": 368750,
        "WARMUP_FACTOR": 1.0,
        "WARMUP_ITERS": 10,
        "WEIGHT_DECAY": 0.05,
        "OPTIMIZER": "ADAMW",
        "BACKBONE_MULTIPLIER": 0.1,
        "CLIP_GRADIENTS": {
            "ENABLED": True,
            "CLIP_TYPE": "full_model",
            "CLIP_VALUE": 0.01,
            "NORM_TYPE": 2.0,
        },
        "AMP": {"ENABLED": True},
    },
    "INPUT": {
        "IMAGE_SIZE": 1024,
        "MIN_SCALE": 0.1,
        "MAX_SCALE": 2.0,
        "FORMAT": "RGB",
        "DATASET_MAPPER_NAME": "coco_panoptic_lsj",
    },
    "TEST": {"EVAL_PERIOD": 5000},
    "DATALOADER": {"FILTER_EMPTY_ANNOTATIONS": True, "NUM_WORKERS": 4},
    "VERSION": 2,
}
MASK2FORMER: dict[str, Any] = {
    "_BASE_": "base.yaml",
    "MODEL": {
        "META_ARCHITECTURE": "MaskFormer",
        "SEM_SEG_HEAD": {
            "NAME": "MaskFormerHead",
            "IN_FEATURES": ["res2", "res3", "res4", "res5"],
            "IGNORE_VALUE": 255,
            "NUM_CLASSES": 133,
            "LOSS_WEIGHT": 1.0,
            "CONVS_DIM": 256,
            "MASK_DIM": 256,
            "NORM": "GN",
            "PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
            "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
            "COMMON_STRIDE": 4,
            "TRANSFORMER_ENC_LAYERS": 6,
        },
        "MASK_FORMER": {
            "TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
            "TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
            "DEEP_SUPERVISION": True,
            "NO_OBJECT_WEIGHT": 0.1,
            "CLASS_WEIGHT": 2.0,
            "MASK_WEIGHT": 5.0,
            "DICE_WEIGHT": 5.0,
            "HIDDEN_DIM": 256,
            "NUM_OBJECT_QUERIES": 100,
            "NHEADS": 8,
            "DROPOUT": 0.0,
            "DIM_FEEDFORWARD": 2048,
            "ENC_LAYERS": 0,
            "PRE_NORM": False,
            "ENFORCE_INPUT_PROJ": False,
            "SIZE_DIVISIBILITY": 32,
            "DEC_LAYERS": 10,
            "TRAIN_NUM_POINTS": 12544,
            "OVERSAMPLE_RATIO": 3.0,
            "IMPORTANCE_SAMPLE_RATIO": 0.75,
            "TEST": {
                "SEMANTIC_ON": True,
                "INSTANCE_ON": True,
                "PANOPTIC_ON": True,
                "OVERLAP_THRESHOLD": 0.8,
                "OBJECT_MASK_THRESHOLD": 0.8,
            },
        },
    },
}
FCCLIP: dict[str, Any] = {
    "_BASE_": "../mask2former.yaml",
    "MODEL": {
        "META_ARCHITECTURE": "FCCLIP",
        "SEM_SEG_HEAD": {"NAME": "FCCLIPHead"},
        "BACKBONE": {"NAME": "CLIP"},
        "WEIGHTS": "",
        "PIXEL_MEAN": [122.7709383, 116.7460125, 104.09373615],
        "PIXEL_STD": [68.5005327, 66.6321579, 70.32316305],
        "FC_CLIP": {
            "CLIP_MODEL_NAME": "convnext_large_d_320",
            "CLIP_PRETRAINED_WEIGHTS": "laion2b_s29b_b131k_ft_soup",
            "EMBED_DIM": 768,
            "GEOMETRIC_ENSEMBLE_ALPHA": 0.4,
            "GEOMETRIC_ENSEMBLE_BETA": 0.8,
            "ENSEMBLE_ON_VALID_MASK": False,
        },
        "MASK_FORMER": {
            "NUM_OBJECT_QUERIES": 250,
            "TEST": {
                "SEMANTIC_ON": True,
                "INSTANCE_ON": True,
                "PANOPTIC_ON": True,
                "OBJECT_MASK_THRESHOLD": 0.0,
            },
        },
    },
    "DATASETS": {
        "TRAIN": "('openvocab_coco_2017_train_panoptic_with_sem_seg',)",
        "TEST": "('openvocab_ade20k_panoptic_val',)",
    },
}
# What the files for ADE20K set otherwise than those for COCO.
ADE20K: dict[str, Any] = {
    "_BASE_": "mask2former.yaml",
    "DATASETS": {"TRAIN": "('ade20k_panoptic_train',)", "TEST": "('ade20k_panoptic_val',)"},
    "SOLVER": {
        "MAX_ITER": 160000,
        "LR_SCHEDULER_NAME": "WarmupPolyLR",
        "POLY_LR_POWER": 0.9,
        "POLY_LR_CONSTANT_ENDING": 0.0,
        "WARMUP_ITERS": 0,
    },
    "INPUT": {
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MAX_SIZE_TRAIN": 2560,
        "CROP": {
            "ENABLED": True,
            "TYPE": "absolute",
            "SIZE": [640, 640],
            "SINGLE_CATEGORY_MAX_AREA": 1.0,
        },
        "COLOR_AUG_SSD": True,
        "SIZE_DIVISIBILITY": 640,
    },
}


def write_configs(folder: Path) -> tuple[Path, Path]:
    """Write the files, which inherit from each other; return Mask2Former's and FC-CLIP's."""
    names = ("base.yaml", "mask2former.yaml", "fcclip/fcclip.yaml")
    for name, content in zip(names, (BASE, MASK2FORMER, FCCLIP), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    return folder / names[1], folder / names[2]


def write_ade20k_config(folder: Path) -> Path:
    """Write Mask2Former's file for ADE20K beside its files for COCO."""
    path = folder / "ade20k.yaml"
    path.write_text(yaml.safe_dump(ADE20K))
    return path
