"""The toy config, made smaller still: what the engine's tests train."""

import itertools
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "toy" / "ita_tiny_random.yaml"
OVERRIDES = {
    "MODEL.FC_CLIP.CLIP_MODEL_NAME": "ita/toy/clip/open_clip_config.json",
    "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS": "random",
    "MODEL.ITA.NUM_DOMINANT": 4,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.DEC_LAYERS": 3,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 6,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
    "INPUT.IMAGE_SIZE": 64,
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.NUM_PICTURES": 1,
    "SEED": 3,
}


def overrides(**more: object) -> list[str]:
    """Command-line overrides; double underscores stand for dots."""
    keys = {**OVERRIDES, **{key.replace("__", "."): value for key, value in more.items()}}
    return [str(word) for word in itertools.chain.from_iterable(keys.items())]
