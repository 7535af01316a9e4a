"""Checkpoints in the names of FC-CLIP and of the first ITA release (design section 8)."""

import pytest
import torch

from ita.modeling.conversion import convert_state_dict

HEAD = "sem_seg_head."
WEIGHT_BIAS = ("weight", "bias")
ENCODER = {
    "self_attn.sampling_offsets": "attention.offsets",
    "self_attn.attention_weights": "attention.weights",
    "self_attn.value_proj": "attention.value",
    "self_attn.output_proj": "attention.output",
    "norm1": "norm",
    "linear1": "feed_forward.linear1",
    "linear2": "feed_forward.linear2",
    "norm2": "feed_forward.norm",
}
PREDICTOR = {
    "query_feat.weight": "query_feature.weight",
    "query_embed.weight": "query_position.weight",
    "level_embed.weight": "level_embed.weight",
    "logit_scale": "head.logit_scale",
}


def ancestors_names(model):
    """The ancestors' name of each of our model's weights, written out from their module trees."""
    names = {
        "void_embedding.weight": "void_embedding.weight",
        f"{HEAD}pixel_decoder.transformer.level_embed": "pixel_decoder.level_embed",
    }
    for name in model.backbone.clip.state_dict():
        names[f"backbone.clip_model.{name}"] = f"backbone.clip.{name}"
    if model.dominant is not None:
        names["backbone.add_tgt_em.weight"] = "dominant.projection.weight"
    pairs = pixel_decoder_modules(model.pixel_decoder) | predictor_modules(model.decoder)
    for theirs, ours in pairs.items():
        for kind in WEIGHT_BIAS:
            names[f"{HEAD}{theirs}.{kind}"] = f"{ours}.{kind}"
    for theirs, ours in PREDICTOR.items():
        names[f"{HEAD}predictor.{theirs}"] = f"decoder.{ours}"
    for i, layer in enumerate(model.decoder.layers):
        kinds = {"cross": "multihead_attn"}
        kinds |= {"self": "self_attn"} if layer.self_attention is not None else {}
        for kind, attention in kinds.items():
            theirs = f"{HEAD}predictor.transformer_{kind}_attention_layers.{i}"
            ours = f"decoder.layers.{i}.{kind}_attention"
            for end in WEIGHT_BIAS:
                names[f"{theirs}.{attention}.in_proj_{end}"] = f"{ours}.in_proj.{end}"
                names[f"{theirs}.{attention}.out_proj.{end}"] = f"{ours}.out_proj.{end}"
                names[f"{theirs}.norm.{end}"] = f"{ours}.norm.{end}"
    # Convolutions before a norm have no bias.
    for part in ("adapter_1", "layer_1"):
        del names[f"{HEAD}pixel_decoder.{part}.bias"]
    return names


def pixel_decoder_modules(decoder):
    modules = {"pixel_decoder.mask_features": "pixel_decoder.mask_features"}
    for theirs, ours in (("adapter_1", "lateral"), ("layer_1", "fusion")):
        modules[f"pixel_decoder.{theirs}"] = f"pixel_decoder.{ours}.0"
        modules[f"pixel_decoder.{theirs}.norm"] = f"pixel_decoder.{ours}.1"
    for i, level in enumerate(("res5", "res4", "res3")):  # coarse to fine
        for j in range(2):
            theirs = f"pixel_decoder.input_proj.{i}.{j}"
            modules[theirs] = f"pixel_decoder.input_proj.{level}.{j}"
    for i in range(len(decoder.layers)):
        for theirs, ours in ENCODER.items():
            theirs = f"pixel_decoder.transformer.encoder.layers.{i}.{theirs}"
            modules[theirs] = f"pixel_decoder.layers.{i}.{ours}"
    return modules


def predictor_modules(decoder):
    modules = {
        "predictor.decoder_norm": "decoder.head.norm",
        "predictor._mask_pooling_proj.0": "decoder.head.region_proj.0",
        "predictor._mask_pooling_proj.1": "decoder.head.region_proj.1",
    }
    for part in ("mask_embed", "class_embed"):
        for i in range(3):
            modules[f"predictor.{part}.layers.{i}"] = f"decoder.head.{part}.layers.{i}"
    for i in range(3):
        modules[f"predictor.input_proj.{i}"] = f"decoder.input_proj.{i}"
    for i in range(len(decoder.layers)):
        for part in ("linear1", "linear2", "norm"):
            theirs = f"predictor.transformer_ffn_layers.{i}.{part}"
            modules[theirs] = f"decoder.layers.{i}.feed_forward.{part}"
    return modules


@pytest.mark.parametrize("ancestor", ["FC-CLIP", "ITA", "FC-CLIP with a ResNet"])
def test_every_weight_of_an_ancestor_has_its_place(ancestor, make_ita, resnet_clip):
    if ancestor == "ITA":
        model = make_ita()
    else:
        backbone = {"backbone": resnet_clip} if "ResNet" in ancestor else {}
        model = make_ita(**backbone, num_dominant=0, self_attention=True)
    ours = model.state_dict()
    names = ancestors_names(model)
    assert sorted(names.values()) == sorted(ours)
    theirs = {name: torch.randn(ours[our_name].shape) for name, our_name in names.items()}
    expected = {our_name: theirs[name] for name, our_name in names.items()}
    projection = "backbone.add_tgt_em.weight"
    if projection in theirs:  # they multiply from the right
        theirs[projection] = theirs[projection].T.contiguous()
    theirs["criterion.empty_weight"] = torch.ones(6)
    converted = convert_state_dict(theirs)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_our_own_names_stay(make_ita):
    ours = make_ita(self_attention=True).state_dict()
    converted = convert_state_dict(ours)
    assert list(converted) == list(ours)
    assert all(converted[name] is tensor for name, tensor in ours.items())


@pytest.mark.parametrize(
    "name",
    [
        "sem_seg_head.predictor.unheard_of.weight",
        "sem_seg_head.pixel_decoder.input_proj.3.0.weight",
        "xsem_seg_head.predictor.query_feat.weight",
        "sem_seg_head.predictor.query_feat.weight.more",
        "pixel_mean",
    ],
)
def test_an_unknown_name_is_kept_for_loading_to_report(name):
    assert list(convert_state_dict({name: torch.ones(1)})) == [name]
