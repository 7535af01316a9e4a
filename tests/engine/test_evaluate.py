import json
import logging
import math
import re

import pytest
import torch
from torch import nn

from ita.classes import ClassList, read_class_list
from ita.data.registration import register_all
from ita.engine import evaluate as evaluating
from ita.engine.checkpointer import Checkpointer
from ita.engine.evaluate import evaluate
from ita.engine.loading import describe_source, load_model_and_source
from ita.engine.precision import tf32
from ita.meta_arch import build_model
from ita.toy.dataset import CLASS_LISTS
from tests.data import mini_sets


@pytest.mark.parametrize("amp", [False, True])
def test_products_are_in_float32_unless_asked_for(amp, tiny_config):
    """Training's own switch does not matter."""
    cfg = tiny_config(
        SOLVER__AMP__ENABLED=True,
        SOLVER__AMP__DTYPE="bfloat16",
        TEST__AMP=amp,
        TEST__NUM_PICTURES=3,
        MODEL__MASK_FORMER__TEST__INSTANCE_ON=True,
    )
    model, types = build_model(cfg).train(), set()
    for module in model.decoder.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, __, out: types.add(out.dtype))
    results = evaluate(cfg, model)
    assert types == {torch.bfloat16 if amp else torch.float32}
    tasks = ("sem_seg", "panoptic_seg", "segm", "dominant")
    assert results["toy_val"].keys() == {"info", "confusions", "pictures", *tasks}
    assert len(results["toy_val"]["pictures"]["first"]) == 3
    assert model.training


@pytest.mark.parametrize("allow", [False, True])
def test_tf32_is_for_images_only(allow, tiny_config, monkeypatch):
    """Class names are encoded without, also in evaluations of a training run that uses it."""
    cfg = tiny_config(TEST__NUM_PICTURES=0, TEST__TF32=allow)
    model, during = build_model(cfg), {}
    cuda = torch.device("cuda")
    monkeypatch.setattr(evaluating, "tf32", lambda enabled, _: tf32(enabled, cuda))

    def noting(name):
        method = getattr(model.backbone, name)

        def call(*args):
            matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
            during.setdefault(name, set()).add((matmul.allow_tf32, cudnn.allow_tf32))
            return method(*args)

        return call

    for name in ("encode_text", "forward"):
        monkeypatch.setattr(model.backbone, name, noting(name))
    with tf32(not allow, cuda):
        evaluate(cfg, model)
    assert during == {"encode_text": {(False, False)}, "forward": {(allow, allow)}}


@pytest.mark.parametrize("amp", [False, True])
def test_precision_is_in_log_and_results(amp, tiny_config, tmp_path, caplog):
    cfg = tiny_config(TEST__NUM_PICTURES=0, TEST__AMP=amp, SOLVER__AMP__DTYPE="bfloat16")
    with caplog.at_level(logging.INFO):
        evaluate(cfg, build_model(cfg))
    expected = "bfloat16" if amp else "float32"
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["run"]["precision"] == expected
    (line,) = [m for m in caplog.messages if m.startswith("Evaluating")]
    assert f" in {expected} " in line


def test_the_list_of_a_config_is_the_default_source(tiny_config, tmp_path):
    cfg = tiny_config(TEST__NUM_PICTURES=0)
    model = build_model(cfg)
    evaluate(cfg, model)
    run = json.loads((tmp_path / "run" / "results.json").read_text())["run"]
    assert run["train_class_list"] == model.train_class_list.name
    assert run["train_class_list_from"].startswith("DATASETS.TRAIN")


def test_other_classes_of_the_same_name_are_called_that():
    entries = {"train_class_list": "coco133", "train_class_list_from": "DATASETS.TRAIN_VOCABULARY"}
    text = "seen classes: those of coco133, from DATASETS.TRAIN_VOCABULARY"
    assert describe_source(entries) == text
    assert describe_source({**entries, "checkpoint_class_list": "mine"}) == (
        f"{text}; the checkpoint was trained with class list mine"
    )
    assert describe_source({**entries, "checkpoint_class_list": "coco133"}) == (
        f"{text}; the checkpoint was trained with other classes of the same name"
    )


def test_results_name_the_classes_seen_in_training(tiny_config, tmp_path, caplog):
    """Of a model whose class list is not that of its checkpoint."""
    cfg = tiny_config(TEST__NUM_PICTURES=0)
    trained = ClassList.from_strings("earlier list", ["red circle", "grass"])
    model = build_model(cfg)
    model.train_class_list = trained
    Checkpointer(model, str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    for overrides, expected in (
        ({}, {"train_class_list": "earlier list", "train_class_list_from": "the checkpoint"}),
        (
            {"DATASETS__TRAIN_VOCABULARY": CLASS_LISTS / "toy_seen.txt"},
            {
                "train_class_list": "toy_seen",
                "train_class_list_from": "DATASETS.TRAIN_VOCABULARY",
                "checkpoint_class_list": "earlier list",
            },
        ),
    ):
        cfg = tiny_config(TEST__NUM_PICTURES=0, MODEL__WEIGHTS=path, **overrides)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            loaded, source = load_model_and_source(cfg, path)
            results = evaluate(cfg, loaded, run=source)
        assert expected.items() <= source.items()
        info = results["toy_val"]["info"]
        toy = read_class_list(CLASS_LISTS / "toy.txt")
        assert info["classes_seen"] == sum(toy.seen(loaded.train_class_list))
        assert info["train_class_list"] == expected["train_class_list"]
        stored = json.loads((tmp_path / "run" / "results.json").read_text())
        described = {"weights": path, "precision": "float32", **source}
        assert stored["run"].keys() == {*described, "versions", "command"}
        assert described.items() <= stored["run"].items()
        assert ("checkpoint_class_list" in source) == ("checkpoint_class_list" in expected)
        differ = [r for r in caplog.records if "trained with class list earlier" in r.getMessage()]
        # A warning when the checkpoint is loaded, and a note on the results.
        levels = [record.levelname for record in differ]
        assert levels == (["WARNING", "INFO"] if overrides else [])
        (table,) = [m for m in caplog.messages if m.startswith("Results (")]
        assert f"(seen classes: those of {expected['train_class_list']}, from" in table
        assert table.count("mIoU") == 1


def test_class_ids_of_the_list_file_are_in_log_and_results(tiny_config, caplog):
    """The ids of toy.txt, from 1."""
    cfg = tiny_config(TEST__NUM_PICTURES=0)
    with caplog.at_level(logging.INFO):
        results = evaluate(cfg, build_model(cfg))["toy_val"]["sem_seg"]
    toy = read_class_list(CLASS_LISTS / "toy.txt")
    keys = [f"IoU-{i}:{n}" for i, n in zip(toy.label_ids, toy.names, strict=True)]
    assert [key for key in results if key.startswith("IoU-")] == keys
    (table,) = [m for m in caplog.messages if m.startswith("IoU of each class")]
    present = [key for key in keys if not math.isnan(results[key])]
    for key in present:
        label_id, name = key.removeprefix("IoU-").split(":")
        assert re.search(rf"\b{label_id}  {name} ", table)


def test_only_missing_ground_truth_of_panoptic_sets_is_warned_of(
    tiny_config, tmp_path, monkeypatch, caplog
):
    """Once; a set with semantic labels only has nothing else to evaluate."""
    cfg = tiny_config(
        DATASETS__TEST=("openvocab_pascal21_sem_seg_val", "openvocab_ade20k_panoptic_val"),
        MODEL__MASK_FORMER__TEST__INSTANCE_ON=True,
        TEST__NUM_PICTURES=0,
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    mini_sets.voc21(tmp_path, count=1)
    mini_sets.ade150(tmp_path, count=1)
    register_all(cfg.DATASETS.CUSTOM)
    results = evaluate(cfg, build_model(cfg))
    for name in cfg.DATASETS.TEST:
        assert results[name].keys() == {"info", "sem_seg", "confusions", "dominant"}
    (line,) = [m for m in caplog.messages if "skipped" in m]
    assert line.startswith("panoptic quality and instance AP on openvocab_ade20k_panoptic_val")
    assert line.count("ita datasets prepare ade20k --split val") == 1


def test_without_dominant_categories_there_is_no_hit_rate(tiny_config):
    cfg = tiny_config(MODEL__ITA__NUM_DOMINANT=0, MODEL__MASK_FORMER__TEST__INSTANCE_ON=False)
    results = evaluate(cfg, build_model(cfg))
    assert "dominant" not in results["toy_val"]


def test_a_report_beside_the_results(tiny_config, tmp_path):
    cfg = tiny_config(TEST__NUM_PICTURES=2)
    evaluate(cfg, build_model(cfg))
    page = (tmp_path / "run" / "report.html").read_text()
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    miou = stored["results"]["toy_val"]["sem_seg"]["mIoU"]
    assert re.search(rf"<td>mIoU</td>\s*<td[^>]*>{miou:.2f}</td>", page)
    assert page.count("<img") == 6  # the first, the best and the worst two
    assert "TRAIN_NUM_POINTS: 64" in page
    assert stored["run"]["versions"]["torch"] in page


def test_no_report_unless_asked_for(tiny_config, tmp_path):
    cfg = tiny_config(TEST__NUM_PICTURES=0, TEST__REPORT=False)
    evaluate(cfg, build_model(cfg))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"results.json"}


def test_a_report_that_fails_is_one_warning(tiny_config, tmp_path, caplog):
    """And the results are there."""
    cfg = tiny_config(TEST__NUM_PICTURES=0)
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    results = evaluate(cfg, build_model(cfg))
    assert results["toy_val"]["sem_seg"]
    messages = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    (line,) = [message for message in messages if message.startswith("no report was written (")]
    assert "\n" not in line
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"results.json", "report.html"}
