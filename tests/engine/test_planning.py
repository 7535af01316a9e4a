"""Recognition of checkpoints."""

from pathlib import Path

import open_clip
import pytest
import timm
import torch

from ita.config import load_config
from ita.engine.planning import Request, choose_model, features_of
from ita.errors import UserError
from ita.files import find_file
from ita.reports.published import Features, read_table
from tests.engine.tiny import CONFIG

TABLE = read_table()
REQUEST = Request("model.pth", Path("out"))


def fcclip_weights(embedding, last_stage, prefix=""):
    names = {
        "sem_seg_head.predictor.class_embed.layers.2.weight": (embedding, 256),
        "sem_seg_head.pixel_decoder.input_proj.0.0.weight": (256, last_stage, 1, 1),
    }
    return {prefix + name: torch.empty(shape, device="meta") for name, shape in names.items()}


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


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("model", TABLE.models.values(), ids=lambda model: model.name)
def test_checkpoints_are_recognized(model, prefix):
    features = model.features
    weights = fcclip_weights(features.embedding, features.last_stage, prefix)
    if features.dominant:
        weights[f"{prefix}backbone.add_tgt_em.weight"] = torch.empty(768, 256, device="meta")
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
