"""The published recipe's settings, for parts that tests build without a config."""

from ita.modeling.postprocess import InferenceOptions

INFERENCE = InferenceOptions(
    alpha=0.4,
    beta=0.8,
    ensemble_on_valid_mask=False,
    semantic=True,
    panoptic=False,
    instance=False,
    postprocess_before_inference=False,
    score_threshold=0.0,
    overlap_threshold=0.8,
    max_instances=100,
    scores=True,
)
MATCHER = {
    "class_weight": 2.0,
    "mask_weight": 5.0,
    "dice_weight": 5.0,
    "dominant_weight": 0.0,
    "num_points": 12544,
}
CRITERION = {
    "void_weight": 0.1,
    "num_points": 12544,
    "oversample_ratio": 3.0,
    "importance_ratio": 0.75,
    "deep_supervision": True,
}
GROUPS = {
    "weight_decay_norm": 0.0,
    "weight_decay_embed": 0.0,
    "projection_lr_multiplier": 0.1,
}
