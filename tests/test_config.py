"""Config files, overrides and what is said of wrong ones."""

import logging
from pathlib import Path

import pytest

from ita.config import ANCESTOR_KEYS, load_config
from ita.errors import UserError

TRAIN = "DATASETS:\n  TRAIN: ('toy_train',)\n"
ITA_CONFIG = "configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml"


@pytest.fixture
def write(tmp_path):
    """Writes a YAML config and gives its path."""

    def write(content, name="config.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def problem(path, overrides=()):
    """The one line that is said of a config."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_recipes_defaults(write):
    """Design sections 3 to 7."""
    cfg = load_config(write(TRAIN))
    masks, clip = cfg.MODEL.MASK_FORMER, cfg.MODEL.FC_CLIP
    assert (clip.CLIP_MODEL_NAME, clip.CLIP_PRETRAINED_WEIGHTS) == (
        "convnext_large_d_320",
        "laion2b_s29b_b131k_ft_soup",
    )
    assert (clip.GEOMETRIC_ENSEMBLE_ALPHA, clip.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)
    assert (cfg.MODEL.ITA.NUM_DOMINANT, masks.NUM_OBJECT_QUERIES) == (20, 180)
    assert (cfg.MODEL.ITA.IMAGE_EMBEDDING, cfg.MODEL.ITA.CANDIDATE_TEXT) == ("shared", "prompted")
    assert not cfg.MODEL.ITA.SELF_ATTENTION
    assert (masks.DEC_LAYERS, masks.DIM_FEEDFORWARD, masks.NHEADS) == (10, 2048, 8)
    assert cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS == 6
    assert (masks.CLASS_WEIGHT, masks.MASK_WEIGHT, masks.DICE_WEIGHT) == (2, 5, 5)
    assert masks.NO_OBJECT_WEIGHT == 0.1
    assert (masks.TRAIN_NUM_POINTS, masks.OVERSAMPLE_RATIO) == (12544, 3)
    assert (masks.TEST.OBJECT_MASK_THRESHOLD, masks.TEST.OVERLAP_THRESHOLD) == (0, 0.8)
    assert (cfg.INPUT.IMAGE_SIZE, cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE) == (1024, 0.1, 2)
    assert cfg.SOLVER.WEIGHT_DECAY_EMBED == 0


def test_every_config_that_ships_is_one():
    files = sorted(Path("configs").rglob("*.yaml"))
    assert Path(ITA_CONFIG) in files
    for path in files:
        load_config(path)  # or an error that names what is wrong in it


def test_overrides_are_on_top_of_the_file_and_the_file_on_top_of_its_base(write):
    write(TRAIN + "SEED: 1\nSOLVER:\n  BASE_LR: 0.1\n  MAX_ITER: 10\n", "base.yaml")
    path = write("_BASE_: base.yaml\nSOLVER:\n  BASE_LR: 0.2\n  MAX_ITER: 20\n")
    cfg = load_config(path, ["SOLVER.MAX_ITER", "30"])
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (1, 0.2, 30)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("DATASETS.TEST", "toy_val", ("toy_val",)),
        ("DATASETS.TEST", "('toy_val', 'toy_train')", ("toy_val", "toy_train")),
        ("SOLVER.BASE_LR", "1e-3", 0.001),
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.STEPS", "(3, 4)", (3, 4)),
        ("SOLVER.STEPS", "[3, 4]", (3, 4)),
        ("SOLVER.AMP.ENABLED", "True", True),
        ("MODEL.WEIGHTS", "some/file.pth", "some/file.pth"),
    ],
)
def test_values_on_the_command_line(key, text, value, write):
    cfg = load_config(write(TRAIN), [key, text])
    for part in key.split("."):
        cfg = getattr(cfg, part)
    assert cfg == value
    assert type(cfg) is type(value)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("MODEL.ITA.NUM_DOMINANTS", "MODEL.ITA.NUM_DOMINANT"),
        ("SOLVER.BASE_RL", "SOLVER.BASE_LR"),
        ("model.ita.num_dominant", "MODEL.ITA.NUM_DOMINANT"),
        ("GEOMETRIC_ENSEMBLE_ALPHA", "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA"),
        ("MODEL.BACKBON.NAME", "MODEL.BACKBONE.NAME"),
        ("MODEL.NUM_OBJECT_QUERYS", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"),
    ],
)
def test_the_nearest_key_of_an_unknown_one(key, nearest, write):
    said = problem(write(TRAIN), [key, "1"])
    assert said == f"unknown config key {key} in the command line; did you mean {nearest}?"


def test_an_unknown_key_like_no_other(write):
    path = write(TRAIN + "XYZZY: 1\n")
    assert problem(path) == f"unknown config key XYZZY in {path}"


@pytest.mark.parametrize(
    "content",
    [b"", b"# nothing\n", b"- 1\n- 2\n", b"hello", b"\x80\x81", b"a: [", b"a:\n\t- b", b"1: 2\n"],
)
def test_files_that_are_no_config(content, write):
    path = write(content)
    assert str(path) in problem(path)


def test_bases_that_are_no_config(write, tmp_path):
    assert "nowhere.yaml" in problem(write("_BASE_: nowhere.yaml\n"))
    assert "its _BASE_ chain is circular" in problem(write("_BASE_: config.yaml\n"))
    write("", "empty.yaml")
    assert "config.yaml" in problem(write("_BASE_: empty.yaml\n"))


def test_yaml_cannot_make_objects(write, capsys):
    problem(write(TRAIN + "SEED: !!python/object/apply:builtins.print ['this was run']\n"))
    assert not capsys.readouterr().out


def test_missing_files_and_odd_overrides(write, tmp_path):
    assert problem(tmp_path / "no.yaml") == f"config file not found: {tmp_path / 'no.yaml'}"
    assert "SOLVER.BASE_LR has no value" in problem(write(TRAIN), ["SEED", "1", "SOLVER.BASE_LR"])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SOLVER.MAX_ITER", "many", "SOLVER.MAX_ITER"),
        ("SOLVER.MAX_ITER", "1.5", "SOLVER.MAX_ITER"),
        ("SOLVER.STEPS", "5", "SOLVER.STEPS"),
        ("MODEL.ITA.IMAGE_EMBEDDING", "clip", "'shared', 'clip_preprocess'"),
        ("MODEL.ITA.CANDIDATE_TEXT", "names", "'prompted', 'bare'"),
        ("SOLVER.AMP.DTYPE", "fp16", "'auto', 'float16', 'bfloat16'"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "'full_model'"),
        ("INPUT.FORMAT", "BGR", "'RGB'"),
        ("SOLVER.GRADIENT_ACCUMULATION_STEPS", "3", "IMS_PER_BATCH (16)"),
        ("SOLVER.GRADIENT_ACCUMULATION_STEPS", "0", "IMS_PER_BATCH (16)"),
        ("MODEL.MASK_FORMER.NHEADS", "7", "NHEADS (7)"),
        ("MODEL.MASK_FORMER.NHEADS", "0", "NHEADS (0)"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "48", "CONVS_DIM (48)"),
        ("MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", "1.5", "IMPORTANCE_SAMPLE_RATIO is 1.5"),
        ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO", "0.5", "OVERSAMPLE_RATIO (0.5)"),
        ("MODEL.MASK_FORMER.DEC_LAYERS", "0", "DEC_LAYERS is 0"),
        ("MODEL.ITA.NUM_DOMINANT", "-1", "NUM_DOMINANT is -1"),
        ("MODEL.ITA.DOMINANT_MATCH_WEIGHT", "-1.0", "DOMINANT_MATCH_WEIGHT is -1.0"),
        ("MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA", "1.1", "ALPHA is 1.1; it must be from 0 to 1"),
        ("MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA", "-0.1", "BETA is -0.1; it must be from 0 to 1"),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty"),
        ("DATASETS.TEST_VOCABULARY", "('a', 'b', 'c')", "TEST_VOCABULARY has 3 entries"),
    ],
)
def test_values_that_cannot_be(key, value, said, write):
    assert said in problem(write(TRAIN), [key, value])


# What FC-CLIP's configs state, as far as it is no key of ours or Detectron2's.
PASTED = """
INPUT:
  DATASET_MAPPER_NAME: "coco_panoptic_lsj"
  COLOR_AUG_SSD: False
  CROP:
    SINGLE_CATEGORY_MAX_AREA: 1.0
MODEL:
  FC_CLIP:
    EMBED_DIM: 768
  SEM_SEG_HEAD:
    NAME: "FCCLIPHead"
    NUM_CLASSES: 133
    IN_FEATURES: ["res2", "res3", "res4", "res5"]
    IGNORE_VALUE: 255
    NORM: "GN"
    LOSS_WEIGHT: 1.0
    COMMON_STRIDE: 4
    PIXEL_DECODER_NAME: "MSDeformAttnPixelDecoder"
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: ["res3", "res4", "res5"]
    DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: 8
  MASK_FORMER:
    TRANSFORMER_DECODER_NAME: "MultiScaleMaskedTransformerDecoder"
    TRANSFORMER_IN_FEATURE: "multi_scale_pixel_decoder"
    DROPOUT: 0.0
    ENC_LAYERS: 0
    PRE_NORM: False
    ENFORCE_INPUT_PROJ: False
    SIZE_DIVISIBILITY: 32
    NUM_OBJECT_QUERIES: 250
SOLVER:
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 0.1
TEST:
  AUG:
    ENABLED: False
"""


def test_ancestors_configs_can_be_pasted(write, caplog):
    caplog.set_level(logging.INFO)
    cfg = load_config(write(TRAIN + PASTED))
    assert cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 250
    assert "MODEL.FC_CLIP.EMBED_DIM" in caplog.text
    assert "read from the CLIP model" in caplog.text
    load_config(write(TRAIN), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "150"])


FIXED = [(key, only) for key, (only, _) in ANCESTOR_KEYS.items() if only is not None]


@pytest.mark.parametrize(("key", "only"), FIXED)
def test_what_the_code_fixes_cannot_be_set_otherwise(key, only, write):
    load_config(write(TRAIN), [key, repr(only)])
    other = {bool: not only, int: 2, float: 0.5, str: "other", list: ["res5"]}[type(only)]
    said = problem(write(TRAIN), [key, repr(other)])
    assert f"{key} in the command line can only be {only!r} here" in said


def test_a_runs_own_config_can_be_read_again(write):
    """As a run writes it: every key there is."""
    cfg = load_config(ITA_CONFIG)
    again = load_config(write(cfg.dump()))
    parts = ("ITA", "FC_CLIP", "MASK_FORMER", "SEM_SEG_HEAD")
    assert all(again.MODEL[part] == cfg.MODEL[part] for part in parts)
    assert all(again[part] == cfg[part] for part in ("DATASETS", "INPUT", "SOLVER", "TEST"))
