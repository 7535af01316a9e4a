"""Recognition of checkpoints."""

import textwrap
from pathlib import Path

import open_clip
import pytest
import timm
import torch

from ita.config import load_config
from ita.engine.planning import (
    Request,
    choose_model,
    config_of_set,
    features_of,
    make_plan,
    recognize,
)
from ita.errors import UserError
from ita.files import find_file
from ita.reports.published import Features, read_table
from tests.data import mini_sets
from tests.engine.tiny import CONFIG, REPOSITORY

TABLE = read_table()
REQUEST = Request("model.pth", Path("out"))


def fcclip_weights(embedding, last_stage):
    names = {
        "sem_seg_head.predictor.class_embed.layers.2.weight": (embedding, 256),
        "sem_seg_head.pixel_decoder.input_proj.0.0.weight": (256, last_stage, 1, 1),
    }
    return {name: torch.empty(shape, device="meta") for name, shape in names.items()}


@pytest.mark.parametrize("model", TABLE.models.values(), ids=lambda model: model.name)
def test_features_are_those_of_the_config(model):
    cfg = load_config(find_file(model.config))
    clip = open_clip.get_model_config(cfg.MODEL.FC_CLIP.CLIP_MODEL_NAME)
    vision = clip["vision_cfg"]
    if "timm_model_name" in vision:
        with torch.device("meta"):
            last_stage = timm.create_model(vision["timm_model_name"]).num_features
    else:
        last_stage = 32 * vision["width"]
    dominant = cfg.MODEL.ITA.NUM_DOMINANT > 0
    assert model.features == Features(clip["embed_dim"], last_stage, dominant)
    # FC-CLIP's settings of its ResNets.
    is_resnet = "timm_model_name" not in vision
    assert is_resnet == cfg.MODEL.FC_CLIP.ENSEMBLE_ON_VALID_MASK


@pytest.mark.parametrize("model", TABLE.models.values(), ids=lambda model: model.name)
def test_checkpoints_are_recognized(model):
    features = model.features
    weights = fcclip_weights(features.embedding, features.last_stage)
    if features.dominant:
        weights["backbone.add_tgt_em.weight"] = torch.empty(768, 256, device="meta")
    assert features_of(weights) == features
    assert choose_model(TABLE, weights, REQUEST) is model


def test_weights_of_other_programs_are_not_recognized():
    weights = {"layer.weight": torch.empty(2, 3)}
    assert features_of(weights) is None
    with pytest.raises(UserError, match=r"not recognized .* --model NAME \(fcclip_convnext_large,"):
        choose_model(TABLE, weights, REQUEST)


def test_unknown_features_need_a_config():
    weights = fcclip_weights(640, 1024)
    with pytest.raises(UserError, match="embedding of width 640, last stage of 1024 channels"):
        choose_model(TABLE, weights, REQUEST)
    request = Request("model.pth", Path("out"), config_file=str(CONFIG))
    model = choose_model(TABLE, weights, request)
    assert (model.config, model.results) == (str(CONFIG), {})


def test_a_config_file_replaces_that_of_the_table():
    request = Request("model.pth", Path("out"), model="fcclip_r50", config_file=str(CONFIG))
    model = choose_model(TABLE, {}, request)
    assert model.config == str(CONFIG)
    assert model.results == TABLE.models["fcclip_r50"].results


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plan for FC-CLIP's weights and all sets in a folder, with the config of one data set."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    weights = {name: torch.empty_like(w, device="cpu") for name, w in fcclip_weights(8, 9).items()}
    torch.save({"model": weights}, tmp_path / "model.pth")
    base = REPOSITORY / "configs/coco/semantic-segmentation/fcclip"
    lines = f"""
        _BASE_: {base / "fcclip_convnext_large_eval_ade20k.yaml"}
        INPUT: {{MIN_SIZE_TEST: 1024, MAX_SIZE_TEST: 2560}}
        MODEL: {{MASK_FORMER: {{TEST: {{PANOPTIC_ON: False, INSTANCE_ON: False}}}}}}
    """
    (tmp_path / "one_set.yaml").write_text(textwrap.dedent(lines))

    def make(**options):
        options = {"config_file": str(tmp_path / "one_set.yaml"), **options}
        request = Request(str(tmp_path / "model.pth"), tmp_path / "out", **options)
        return make_plan(request, recognize(request))

    return make


def test_sizes_and_tasks_of_a_config_of_one_set_do_not_reach_others(plan, tmp_path):
    mini_sets.ade150(tmp_path / "data")
    mini_sets.mapillary(tmp_path / "data")

    def settings(**options):
        found = {}
        made = plan(subset=True, **options)
        for item in made.sets:
            cfg = config_of_set(made.cfg, item.settings)
            test = cfg.MODEL.MASK_FORMER.TEST
            sizes = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
            tasks = (test.SEMANTIC_ON, test.PANOPTIC_ON, test.INSTANCE_ON)
            found[item.row.family] = (*sizes, *tasks)
        return found

    assert settings() == {
        "ade20k": (-1, -1, True, True, True),
        "mapillary": (-1, -1, True, True, False),
    }
    words = ["INPUT.MAX_SIZE_TEST", "900", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False"]
    assert settings(overrides=words)["ade20k"] == (-1, 900, True, False, True)


def test_only_sets_with_something_to_compare_are_required(plan, tmp_path):
    """FC-CLIP has results on every set; the model of the config alone has none."""
    mini_sets.voc_raw(tmp_path / "data")

    def required(**options):
        return {n.title for n in plan(**options).not_evaluated if n.required}

    assert required(model="fcclip_r50") == {"PAS-20", "PAS-21"}
    assert required() == set()
    assert required(families=["pas20", "pc59"]) == {"PAS-20", "PC-59"}
    # Sets that cannot be loaded are damaged, not absent.
    (tmp_path / "data/VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    assert required(model="fcclip_r50") == {"PAS-20", "PAS-21"}
