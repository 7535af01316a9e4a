"""Config files, overrides and what is said of wrong ones."""

import itertools
import logging
import math
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.solver import build_lr_scheduler

from ita.ancestor_keys import FIXED
from ita.config import load_config
from ita.config.keys import KEYS, get_value
from ita.errors import UserError
from ita.structured_files import read_yaml
from tests.ancestors import BASE, MASK2FORMER, write_ade20k_config, write_configs

SOLVER = "SOLVER:\n  MAX_ITER: 1\n"
# "Billion laughs": each line has ten times the values of the one before.
BOMB = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in itertools.pairwise("abcdefghi")
)
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
        ("INPUT.MIN_SIZE_TEST", "0", 0),
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
    path = write(TRAIN + "XYZZY: 1\n", "base.yaml")
    assert problem(path) == f"unknown config key XYZZY in {path}"
    path = write("_BASE_: base.yaml\n")
    assert problem(path) == f"unknown config key XYZZY in {path} (or its _BASE_)"


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
    assert "empty.yaml: it has no 'KEY: value' lines" in problem(write("_BASE_: empty.yaml\n"))
    assert "its _BASE_ is no file name" in problem(write("_BASE_: {a: 1}\n"))
    write("SOLVER: 1\n", "flat.yaml")
    assert "sets SOLVER to a single value" in problem(write("_BASE_: flat.yaml\n" + SOLVER))
    address = "https://example.org/base.yaml"
    assert f"its _BASE_ {address} is no local file" in problem(write(f"_BASE_: {address}\n"))


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
        ("SOLVER.MAX_ITER", "True", "SOLVER.MAX_ITER"),
        ("SOLVER.BASE_LR", "True", "SOLVER.BASE_LR"),
        ("SOLVER.AMP.ENABLED", "1", "SOLVER.AMP.ENABLED"),
        ("SOLVER.STEPS", "5", "SOLVER.STEPS"),
        ("TEST.REPORT", "yes", "TEST.REPORT"),
        ("MODEL.ITA.IMAGE_EMBEDDING", "clip", "'shared', 'clip_preprocess', 'places'"),
        ("MODEL.ITA.CANDIDATE_TEXT", "names", "'prompted', 'bare'"),
        ("SOLVER.AMP.DTYPE", "fp16", "'auto', 'float16', 'bfloat16'"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "'full_model'"),
        ("INPUT.FORMAT", "BGR", "'RGB'"),
        ("SOLVER.GRADIENT_ACCUMULATION_STEPS", "3", "IMS_PER_BATCH (16)"),
        ("SOLVER.GRADIENT_ACCUMULATION_STEPS", "0", "STEPS is 0; it must be an integer from 1 to "),
        ("MODEL.MASK_FORMER.NHEADS", "7", "NHEADS (7)"),
        ("MODEL.MASK_FORMER.NHEADS", "0", "NHEADS is 0"),
        ("MODEL.SEM_SEG_HEAD.CONVS_DIM", "48", "CONVS_DIM is 48; it must be a multiple of 32 "),
        ("MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO", "1.5", "IMPORTANCE_SAMPLE_RATIO is 1.5"),
        ("MODEL.MASK_FORMER.OVERSAMPLE_RATIO", "0.5", "OVERSAMPLE_RATIO (0.5)"),
        ("MODEL.MASK_FORMER.DEC_LAYERS", "0", "DEC_LAYERS is 0"),
        ("MODEL.ITA.NUM_DOMINANT", "-1", "NUM_DOMINANT is -1"),
        ("MODEL.ITA.DOMINANT_MATCH_WEIGHT", "-1.0", "DOMINANT_MATCH_WEIGHT is -1.0"),
        (
            "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA",
            "1.1",
            "ALPHA is 1.1; it must be a number from 0 to 1",
        ),
        (
            "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA",
            "-0.1",
            "BETA is -0.1; it must be a number from 0 to 1",
        ),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is (); it must be a tuple of at least one text"),
        ("DATASETS.TRAIN", "(1,)", "DATASETS.TRAIN is (1,); it must be a tuple"),
        ("DATALOADER.NUM_WORKERS", "-1", "is -1; it must be an integer from 0 to 1024"),
        ("MODEL.DEVICE", "gpu", "is 'gpu'; it must be cuda, cuda:N (N from 0), mps, cpu or meta"),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "0", "is 0; it must be an integer from 1 to "),
        ("OUTPUT_DIR", "", "OUTPUT_DIR is ''; it must be text that is not empty"),
        ("OUTPUT_DIR", "a\0b", r"OUTPUT_DIR is 'a\x00b'; it must be text"),
        ("OUTPUT_DIR", "2026", "OUTPUT_DIR is 2026; it must be text"),
        ("SEED", "4294967296", "SEED is 4294967296; it must be an integer from "),
        ("SOLVER.BASE_LR", "-1", "SOLVER.BASE_LR is -1.0; it must be a number above 0"),
        ("SOLVER.BASE_LR", "1e999", "SOLVER.BASE_LR is inf; it must be a number above 0"),
        ("SOLVER.BASE_LR", "None", "SOLVER.BASE_LR is None; it must be a number above 0"),
        ("SOLVER.STEPS", "(2, 'x')", "is (2, 'x'); it must be a tuple of increasing integers"),
        ("SOLVER.STEPS", "(3, 2)", "SOLVER.STEPS is (3, 2); it must be a tuple of increasing"),
        ("SOLVER.MAX_ITER", "30000", "STEPS is (30000,); it must not contain SOLVER.MAX_ITER (30"),
        ("INPUT.MIN_SIZE_TEST", "-2", "is -2; it must be -1 or an integer from 0 to 32767"),
        ("INPUT.MIN_SCALE", "2.5", "MIN_SCALE is 2.5; it must be at most INPUT.MAX_SCALE (2.0)"),
        ("DATASETS.TEST_VOCABULARY", "('a', 'b', 'c')", "TEST_VOCABULARY has 3 entries"),
    ],
)
def test_values_that_cannot_be(key, value, said, write):
    assert said in problem(write(TRAIN), [key, value])


HOSTILE = ["None", "-1", "0", str(10**30), "1e999", "float('nan')", "", "x", "[]", "{}", "()"]
HOSTILE += ["[None]", "('',)", "True", "1.5", "b'x'", "0x" + "f" * 5000, "[" * 150, "-" * 10**5]


def test_every_default_is_in_its_range(write):
    cfg = load_config(write(TRAIN))
    assert [k.name for k in KEYS.values() if get_value(cfg, k.name) not in k.range] == []


@pytest.mark.parametrize("key", KEYS)
def test_a_hostile_value_is_in_the_range_or_said_in_one_line(key, write, caplog):
    path = write(TRAIN)
    for value in HOSTILE:
        try:
            cfg = load_config(path, [key, value])
        except UserError as error:
            said = str(error)
            assert "\n" not in said
            assert len(said) < 400
            assert key in said
        else:
            assert get_value(cfg, key) in KEYS[key].range
            cfg.dump()


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "x", [None], {"a": 1}])
def test_hostile_values_in_a_file(value, write, caplog):
    refused = []
    for key in KEYS:
        path = write(yaml.safe_dump({"DATASETS": {"TRAIN": ("toy_train",)}} | {key: value}))
        try:
            load_config(path)
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > len(KEYS) / 2
    assert not any("\n" in said for said in refused)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("SEED: 1\nSEED: 2\n", "'SEED' is there twice"),
        ("SOLVER:\n  MAX_ITER: 1\n  MAX_ITER: 2\n", "'MAX_ITER' is there twice"),
        ("SEED: " + "[" * 2000, "more than 50 levels"),
        ("SEED: " + "{a: " * 2000, "more than 50 levels"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + BOMB, "more than 100,000 values"),
        ("a: &a [*a]\n", "*a contains itself"),
        ("# " + "x" * 2**20, "more than 1,048,576 bytes"),
        (b"\x80\x81", "codec can't decode"),
        ("caf\xe9: 1\n".encode("latin-1"), "codec can't decode"),
        (bytes(range(256)), "cannot read config"),
        ("SEED: " + "9" * 5000, "a value is invalid"),
        ("SEED: 2026-99-99\n", "a value is invalid"),
        ("SEED: !!bool maybe\n", "a value is invalid"),
        ("SEED: 0x" + "f" * 5000, "SEED in "),
        ("? [a, b]\n: 1\n", "cannot read config"),
        ("? {a: b}\n: 1\n", "cannot read config"),
    ],
)
def test_files_that_harm(content, said, write):
    assert said in problem(write(content))


def test_anchors_are_no_harm(write):
    cfg = load_config(write(TRAIN + "INPUT: {MIN_SIZE_TEST: &n 64, MAX_SIZE_TEST: *n}\n"))
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (64, 64)
    on = "SOLVER: {AMP: &on {ENABLED: True}, CLIP_GRADIENTS: *on}\n"
    write(TRAIN + on, "base.yaml")
    cfg = load_config(write("_BASE_: base.yaml\nSOLVER: {AMP: {ENABLED: False}}\n"))
    assert (cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.CLIP_GRADIENTS.ENABLED) == (False, True)


def test_the_largest_gradient_is_a_norm(write):
    """As Detectron2 writes it."""
    cfg = load_config(write(TRAIN + "SOLVER: {CLIP_GRADIENTS: {NORM_TYPE: .inf}}\n"))
    assert math.isinf(cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE)


def test_a_merged_key_may_be_set_anew(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text(
        "base: &b {x: 1, y: 2}\ngroup: {deep: {mid: &m {<<: *b, x: 3}}}\ntop: {<<: *m, z: 4}\n"
    )
    assert read_yaml(path)["top"] == {"x": 3, "y": 2, "z": 4}
    path.write_text("a: {x: 1, x: 2}\n")
    with pytest.raises(UserError, match="'x' is there twice"):
        read_yaml(path)


@pytest.fixture
def ancestors(tmp_path):
    """Mask2Former's config and FC-CLIP's, which inherits from it."""
    return write_configs(tmp_path / "ancestors")


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_fcclips_file_is_fcclips_model(ancestors, caplog):
    cfg = load_config(ancestors[1])
    ours = load_config(
        "configs/coco/semantic-segmentation/fcclip/fcclip_convnext_large_eval_ade20k.yaml"
    )
    parts = ("ITA", "FC_CLIP", "MASK_FORMER", "SEM_SEG_HEAD", "META_ARCHITECTURE")
    assert {part: cfg.MODEL[part] for part in parts} == {part: ours.MODEL[part] for part in parts}
    assert cfg.DATASETS == ours.DATASETS
    assert cfg.SOLVER.MAX_ITER == ours.SOLVER.MAX_ITER
    (line,) = warnings(caplog)
    assert line.startswith(
        f"{ancestors[1]} (or its _BASE_): MODEL.META_ARCHITECTURE FCCLIP selects "
    )
    assert "MODEL.ITA.NUM_DOMINANT 0, MODEL.ITA.SELF_ATTENTION True; without effect: " in line
    for key in (
        "MODEL.RESNETS.* (the backbone is the frozen CLIP",
        "MODEL.FC_CLIP.EMBED_DIM (read from the CLIP model)",
        "MODEL.PIXEL_MEAN",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES (read from the class list)",
        "SOLVER.BACKBONE_MULTIPLIER",
        "INPUT.DATASET_MAPPER_NAME",
    ):
        assert line.count(key) == 1
    # What its base says of the backbone is replaced, and values that this code has are no news.
    for absent in ("build_resnet_backbone", "ImageNet", "DROPOUT", "IN_FEATURES", "OPTIMIZER"):
        assert absent not in line


def test_mask2formers_file_is_its_model_on_clip(ancestors, caplog):
    cfg = load_config(ancestors[0])
    assert (cfg.MODEL.ITA.NUM_DOMINANT, cfg.MODEL.ITA.SELF_ATTENTION) == (0, True)
    assert cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES == 100
    assert cfg.MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD == 0.8
    assert cfg.MODEL.WEIGHTS == ""
    assert cfg.MODEL.BACKBONE.NAME == "CLIP"
    assert cfg.DATASETS.TRAIN == ("openvocab_coco_2017_train_panoptic_with_sem_seg",)
    assert cfg.DATASETS.TEST == ("openvocab_coco_2017_val_panoptic_with_sem_seg",)
    (line,) = warnings(caplog)
    assert "MODEL.BACKBONE.NAME build_resnet_backbone" in line
    assert "MODEL.WEIGHTS detectron2://ImageNetPretrained/torchvision/R-50.pkl" in line
    train = "DATASETS.TRAIN coco_2017_train_panoptic is "
    assert f"{train}openvocab_coco_2017_train_panoptic_with_sem_seg here" in line


def test_own_keys_replace_what_an_architecture_selects(ancestors, write, caplog):
    overrides = ["MODEL.ITA.NUM_DOMINANT", "20", "MODEL.WEIGHTS", "mine.pth"]
    cfg = load_config(ancestors[0], overrides)
    assert (cfg.MODEL.ITA.NUM_DOMINANT, cfg.MODEL.ITA.SELF_ATTENTION) == (20, True)
    assert cfg.MODEL.WEIGHTS == "mine.pth"
    cfg = load_config(ancestors[1], ["MODEL.META_ARCHITECTURE", "ITA"])
    assert (cfg.MODEL.ITA.NUM_DOMINANT, cfg.MODEL.ITA.SELF_ATTENTION) == (20, False)
    cfg = load_config(write(TRAIN), ["MODEL.META_ARCHITECTURE", "FCCLIP"])
    assert (cfg.MODEL.ITA.NUM_DOMINANT, cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES) == (0, 250)
    said = problem(write(TRAIN), ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"])
    assert said.endswith("it must be one of 'ITA', 'FCCLIP', 'MaskFormer'")


def test_a_swin_backbone_is_rejected_unless_replaced(ancestors, caplog):
    swin = {"SWIN": {"EMBED_DIM": 96, "APE": False}, "BACKBONE": {"NAME": "D2SwinTransformer"}}
    path = ancestors[0].with_name("swin.yaml")
    content = {"_BASE_": "mask2former.yaml", "MODEL": swin, "INPUT": {"COLOR_AUG_SSD": True}}
    path.write_text(yaml.safe_dump(content))
    said = problem(path)
    assert (
        f"MODEL.BACKBONE.NAME in {path} (or its _BASE_) can only be 'CLIP' here, not 'D2SwinTr"
        in said
    )
    assert f"INPUT.COLOR_AUG_SSD in {path} (or its _BASE_) can only be False here, not True" in said
    remedy = said.partition("to use the file anyway, override it: ")[2]
    caplog.clear()
    load_config(path, remedy.split())
    assert "MODEL.SWIN.*" in "".join(warnings(caplog))


def test_the_schedule_of_mask2formers_ade20k_files_is_rejected_with_the_rest(ancestors, caplog):
    path = write_ade20k_config(ancestors[0].parent)
    said = problem(path)
    assert f"INPUT.COLOR_AUG_SSD in {path} (or its _BASE_) can only be False here, not True" in said
    assert " can only be 'WarmupCosineLR' or 'WarmupMultiStepLR' or " in said
    assert "here, not 'WarmupPolyLR': " in said
    remedy = said.partition("to use the file anyway, override it: ")[2]
    cfg = load_config(path, remedy.split())
    assert cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupCosineLR"
    parameter = torch.nn.Parameter(torch.ones(1))
    schedules = FIXED["SOLVER.LR_SCHEDULER_NAME"][0]
    for name in schedules:  # those that can be built, and are not replaced by the default
        cfg = load_config(path, [*remedy.split(), "SOLVER.LR_SCHEDULER_NAME", name])
        assert name == cfg.SOLVER.LR_SCHEDULER_NAME
        build_lr_scheduler(cfg, torch.optim.SGD([parameter], lr=cfg.SOLVER.BASE_LR))


def test_the_lines_about_a_file_go_where_they_are_asked_to(ancestors, caplog):
    lines = []
    load_config(ancestors[1], ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "150"], lines.append)
    assert [line.partition(": ")[0] for line in lines] == [
        f"{ancestors[1]} (or its _BASE_)",
        "the command line",
    ]
    assert not warnings(caplog)


def test_mask2formers_python_expressions_are_not_evaluated(write, caplog, capsys):
    text = yaml.safe_dump(MASK2FORMER | {"DATASETS": BASE["DATASETS"], "_BASE_": "base.yaml"})
    write(yaml.safe_dump(BASE), "base.yaml")
    sizes = '!!python/object/apply:eval ["[print(x) for x in range(5, 21)]"]'
    load_config(write(text + f"INPUT:\n  MIN_SIZE_TRAIN: {sizes}\n"))
    assert "INPUT.MIN_SIZE_TRAIN (INPUT.IMAGE_SIZE, MIN_SCALE and" in "".join(warnings(caplog))
    assert not capsys.readouterr().out
    assert "MAX_SIZE_TEST" in problem(write(text + f"INPUT:\n  MAX_SIZE_TEST: {sizes}\n"))


def test_the_config_that_a_run_of_fcclip_writes(ancestors, caplog):
    """All keys of Detectron2 and of its DeepLab too."""
    everything = get_cfg()
    add_deeplab_config(everything)
    folder = ancestors[0].parent
    (folder / "defaults.yaml").write_text(everything.dump())
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE | {"_BASE_": "defaults.yaml"}))
    cfg = load_config(ancestors[1])
    assert (cfg.MODEL.ITA.NUM_DOMINANT, cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES) == (0, 250)
    (line,) = warnings(caplog)
    assert "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS" in line


def test_pasted_overrides_without_effect_are_named(write, caplog):
    load_config(write(TRAIN), ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "150"])
    (line,) = warnings(caplog)
    key = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
    assert line == f"the command line: without effect: {key} (read from the class list)"


@pytest.mark.parametrize("key", FIXED)
def test_what_the_code_fixes_cannot_be_set_otherwise(key, write, caplog):
    only, reason = FIXED[key]
    allowed = only if isinstance(only, tuple) else (only,)
    for value in allowed:
        load_config(write(TRAIN), [key, repr(value)])
    assert not warnings(caplog)
    only, shown = allowed[0], " or ".join(map(repr, allowed))
    other = {bool: not only, int: 2, float: 0.5, str: "other", list: ["res5"]}[type(only)]
    said = problem(write(TRAIN), [key, repr(other)])
    assert said == f"{key} in the command line can only be {shown} here, not {other!r}: {reason}"


@pytest.mark.parametrize("own", [True, False], ids=["ITA", "FC-CLIP"])
def test_a_runs_own_config_can_be_read_again(own, ancestors, write, caplog):
    """As a run writes it: every key there is, and nothing to say about it."""
    cfg = load_config(ITA_CONFIG if own else ancestors[1])
    caplog.clear()
    again = load_config(write(cfg.dump()))
    assert not warnings(caplog)
    parts = ("ITA", "FC_CLIP", "MASK_FORMER", "SEM_SEG_HEAD")
    assert all(again.MODEL[part] == cfg.MODEL[part] for part in parts)
    assert all(again[part] == cfg[part] for part in ("DATASETS", "INPUT", "SOLVER", "TEST"))
