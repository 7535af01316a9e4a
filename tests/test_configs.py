"""Every evaluation config on the benchmarks in miniature, and all of them in one run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from ita.build import inference_options
from ita.classes import ClassList
from ita.config import load_config
from ita.data.catalogue import CATALOGUE
from ita.engine.checkpointer import Checkpointer
from ita.engine.evaluate import evaluate
from ita.meta_arch import build_model
from ita.modeling.vocabulary import TextEncoder
from ita.reports.tables import DESCRIPTIONS
from ita.segmenter import Segmenter
from tests.data import mini_sets
from tests.engine.tiny import REPOSITORY, overrides

CONFIGS = REPOSITORY / "configs" / "coco" / "semantic-segmentation" / "ita"
FAMILIES = ("coco", "ade20k", "a847", "pc59", "pc459", "pas20", "pas21", "cityscapes", "mapillary")
SEMANTIC_ONLY = {"a847", "pc59", "pc459", "pas20", "pas21"}
NAMES = {row.family: row.name for row in CATALOGUE if row.split == "val" and row.num_images}


def config_file(family: str) -> Path:
    return CONFIGS / f"ita_convnext_large_eval_{family}.yaml"


def tiny(**more) -> list[str]:
    """Overrides that make a model of these configs small."""
    return overrides(
        MODEL__DEVICE="cpu",
        MODEL__FC_CLIP__CLIP_PRETRAINED_WEIGHTS="random",
        MODEL__MASK_FORMER__NHEADS=4,
        MODEL__ITA__NUM_DOMINANT=4,
        INPUT__MAX_SIZE_TEST=256,
        **more,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """All benchmarks in miniature; A-150 without panoptic and instance files."""
    folder = tmp_path_factory.mktemp("datasets")
    for write in mini_sets.WRITERS.values():
        write(folder)
    return folder


@pytest.fixture(scope="module")
def model(root, tmp_path_factory):
    """A small model and the file of its weights."""
    torch.manual_seed(0)
    cfg = load_config(config_file("ade20k"), tiny())
    model = build_model(cfg).eval()
    folder = tmp_path_factory.mktemp("weights")
    Checkpointer(model, str(folder)).save("tiny")
    return model, folder / "tiny.pth"


def evaluate_by_command(root, output, weights, names):
    config = ["--config-file", str(config_file("ade20k")), "--eval-only"]
    words = tiny(OUTPUT_DIR=output, MODEL__WEIGHTS=weights, DATASETS__TEST=tuple(names))
    done = subprocess.run(
        [sys.executable, "train_net.py", *config, *words],
        cwd=REPOSITORY,
        env={**os.environ, "DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    return json.loads((output / "results.json").read_text())["results"], done.stdout


@pytest.fixture(scope="module")
def joint(root, model, tmp_path_factory):
    """Results and output of one run over all benchmarks."""
    output = tmp_path_factory.mktemp("joint")
    return evaluate_by_command(root, output, model[1], NAMES.values())


def test_one_run_over_all_benchmarks(joint):
    results, output = joint
    assert list(results) == list(NAMES.values())
    for row in (row for row in CATALOGUE if row.name in results):
        result = results[row.name]
        assert result["info"]["class_list"] == row.class_list
        assert result["info"]["images"] == 2
        assert result["sem_seg"]["classes_present"] > 0
        has_panoptic = row.family in ("coco", "cityscapes", "mapillary")
        assert ("panoptic_seg" in result) == has_panoptic
        assert f"\n{row.name}: 2 images, " in output.split("]: Results (")[1]
    ade = f"panoptic quality and instance AP on {NAMES['ade20k']}: skipped, "
    assert ade in output
    assert "ita datasets prepare ade20k --split val" in output.split(ade)[1].split("\n")[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_own_config_gives_the_same_numbers(root, model, joint, family, tmp_path, monkeypatch):
    """A set's numbers do not depend on what else is evaluated in the run."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    cfg = load_config(config_file(family), tiny(OUTPUT_DIR=tmp_path))
    (name,) = cfg.DATASETS.TEST
    assert name == NAMES[family]
    tasks = cfg.MODEL.MASK_FORMER.TEST
    switches = [tasks.SEMANTIC_ON, tasks.PANOPTIC_ON, tasks.INSTANCE_ON]
    others = [family not in SEMANTIC_ONLY, family not in {*SEMANTIC_ONLY, "mapillary"}]
    assert switches == [True, *others]
    own = build_model(cfg).eval()
    own.load_state_dict(model[0].state_dict())
    ours, theirs = evaluate(cfg, own)[name], joint[0][name]
    assert ours.keys() == theirs.keys()
    for task in ours.keys() - DESCRIPTIONS:
        numbers = {k: v for k, v in theirs[task].items() if v is not None}
        assert {k: ours[task][k] for k in numbers} == pytest.approx(numbers, abs=1e-6)


def test_sets_with_semantic_labels_only_get_semantic_results_only(
    root, model, tmp_path, monkeypatch
):
    """In any run, since the order of resizing depends on the tasks."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    families = ("cityscapes", "pas20", "ade20k")
    test_sets = tuple(NAMES[family] for family in families)
    words = tiny(OUTPUT_DIR=tmp_path, DATASETS__TEST=test_sets)
    segment, seen = Segmenter.__call__, []

    def note(segmenter, records):
        outputs = segment(segmenter, records)
        seen.append(set(outputs[0]))
        return outputs

    monkeypatch.setattr(Segmenter, "__call__", note)
    evaluate(load_config(config_file("ade20k"), words), model[0])
    semantic = {"label_map", "dominant_classes"}
    everything = {*semantic, "panoptic_seg", "instances"}
    # Two images each. That A-150's panoptic files are missing here changes nothing.
    assert seen == [everything] * 2 + [semantic] * 2 + [everything] * 2


def test_sizes_of_the_configs():
    """Only the data sets say how large test images are."""
    for family in FAMILIES:
        cfg = load_config(config_file(family))
        assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (-1, -1)


CLIP_PAGE = next(REPOSITORY.glob("laionCLIP-*/vision-language-model.md"))
CLIP_ROW = re.compile(
    r"\| `(?P<config>[^`]+)` \| `(?P<model>[^`]+)` \| `(?P<tag>[^`]+)` \| (?P<width>\d+) \| "
    r"(?P<channels>[\d, ]+) \| (?P<frozen>[\d.,]+) \| (?P<trainable>[\d.]+) \|"
)
CLIP_ROWS = [row.groupdict() for row in CLIP_ROW.finditer(CLIP_PAGE.read_text(encoding="utf-8"))]


def test_every_clip_has_a_row_in_the_documentation():
    configs = {path.relative_to(CONFIGS.parent) for path in CONFIGS.parent.glob("*/*_ade20k.yaml")}
    assert {row["config"] for row in CLIP_ROWS} == {str(path) for path in configs}


@pytest.mark.parametrize("row", CLIP_ROWS, ids=[row["config"] for row in CLIP_ROWS])
def test_configs_of_all_clips_build_what_the_documentation_says(row):
    """Without data, as the largest has 1.2 billion parameters."""
    path = CONFIGS.parent / row["config"]
    given = load_config(path).MODEL.FC_CLIP
    assert (row["model"], row["tag"]) == (given.CLIP_MODEL_NAME, given.CLIP_PRETRAINED_WEIGHTS)
    assert open_clip.get_pretrained_cfg(row["model"], row["tag"])
    assert row["model"].startswith("RN") == given.ENSEMBLE_ON_VALID_MASK
    words = ["MODEL.DEVICE", "meta", "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS", "random"]
    with torch.device("meta"):
        model = build_model(load_config(path, words))
    assert (model.dominant is None) == row["config"].startswith("fcclip")
    assert model.backbone.embed_dim == int(row["width"])
    assert list(model.backbone.channels.values()) == [int(n) for n in row["channels"].split(",")]
    frozen = sum(p.numel() for p in model.backbone.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{frozen / 1e6:,.1f}" == row["frozen"]
    assert f"{trainable / 1e6:.1f}" == row["trainable"]


def test_a_resnet_config_segments():
    words = ["MODEL.DEVICE", "cpu", "MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS", "random"]
    cfg = load_config(CONFIGS / "ita_r50_eval_ade20k.yaml", words)
    model = build_model(cfg).eval()
    classes = ClassList.from_strings("test", ["cat", "sky"], [0])
    vocabulary = model.make_vocabulary(classes, TextEncoder(model.backbone))
    segmenter = Segmenter(model, vocabulary, inference_options(cfg))
    (result,) = segmenter([{"image": torch.zeros(3, 64, 96, dtype=torch.uint8)}])
    assert result["label_map"].shape == (64, 96)
    assert set(result["label_map"].unique().tolist()) <= {0, 1}


@pytest.fixture
def samples(tmp_path) -> Path:
    """A root of links to the real samples, where prepared files can be written beside them."""
    if not os.environ.get("ITA_SAMPLES"):
        pytest.skip("ITA_SAMPLES names no folder with real samples")
    originals = Path(os.environ["ITA_SAMPLES"]).resolve()
    for path in originals.rglob("*"):
        if path.is_file():
            link = tmp_path / "samples" / path.relative_to(originals)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return tmp_path / "samples"


@pytest.mark.slow
def test_real_samples(samples, model, tmp_path):
    """Prepared, checked, and evaluated in one run."""
    environment = {**os.environ, "DETECTRON2_DATASETS": str(samples), "OMP_NUM_THREADS": "1"}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # The samples of ADE20K full are of its training split.
    full = samples / "ADE20K_2021_17_01"
    run("datasets/prepare_ade20k_full.py", "--split", "train", "--workers", "1")
    for folder in ("images_detectron2", "annotations_detectron2"):
        shutil.copytree(full / folder / "training", full / folder / "validation")
    run("datasets/prepare_coco_semantic.py", "--split", "val", "--workers", "1")
    run("datasets/prepare_ade20k.py", "--split", "val", "--workers", "1")
    run("datasets/prepare_pascal_voc.py", "--split", "val", "--workers", "1")
    families = ["coco", "ade20k", "a847", "pas20", "pas21"]
    table = run("tools/check_datasets.py", *families, "--split", "val", "--subset", "--deep")
    assert table.count(" ready") == len(families)
    names = [NAMES[family] for family in families]
    results, output = evaluate_by_command(samples, tmp_path / "run", model[1], names)
    assert [results[name]["info"]["images"] for name in names] == [2] * len(names)
    print(output[output.index("Results (") :])
