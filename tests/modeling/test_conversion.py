"""Checkpoints in the names of FC-CLIP and of the first ITA release (design section 8)."""

import pytest
import torch

from ita.errors import UserError
from ita.modeling.conversion import (
    EMPTY_WEIGHT,
    FCCLIP,
    FIRST_RELEASE,
    ITA,
    convert,
    convert_state_dict,
    kind_of,
)

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
    ours = make_ita(self_attention=True, text_residual=True).state_dict()
    assert tensors(convert(ours, ITA)).keys() == ours.keys()
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


def full(model):
    """Random weights of a model in our names."""
    return {name: torch.randn(tensor.shape) for name, tensor in model.state_dict().items()}


def tensors(conversion):
    return {entry.new_name: entry.tensor for entry in conversion.mapped}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("target", [FCCLIP, FIRST_RELEASE])
def test_there_and_back(target, make_ita):
    is_fcclip = target == FCCLIP
    model = make_ita(num_dominant=0 if is_fcclip else 3, self_attention=is_fcclip)
    ours = full(model)
    there = convert(ours, target)
    assert there.kind == ITA
    assert not there.dropped
    assert list(there.missing) == [EMPTY_WEIGHT]
    names = ancestors_names(model)
    assert {entry.new_name: entry.name for entry in there.mapped} == names
    assert all(entry.tensor.is_contiguous() for entry in there.mapped)
    theirs = tensors(there)
    assert kind_of(theirs) == target
    back = convert(theirs, ITA)
    assert back.kind == target
    assert not back.dropped
    assert not back.missing
    assert equal(tensors(back), ours)
    assert equal(tensors(back), convert_state_dict(theirs))
    if not is_fcclip:
        theirs = theirs["backbone.add_tgt_em.weight"]
        assert torch.equal(theirs, ours["dominant.projection.weight"].T)


def test_names_of_the_own_kind_stay(make_ita):
    ours = full(make_ita(num_dominant=0, self_attention=True))
    assert equal(tensors(convert(ours, ITA)), ours)
    theirs = tensors(convert(ours, FCCLIP)) | {EMPTY_WEIGHT: torch.ones(6)}
    again = convert(theirs, FCCLIP)
    assert equal(tensors(again), theirs)
    assert not again.dropped
    assert not again.kept
    assert not again.missing


def test_class_weights_of_the_loss_are_kept_not_dropped(make_ita):
    theirs = tensors(convert(full(make_ita()), FIRST_RELEASE)) | {EMPTY_WEIGHT: torch.ones(6)}
    back = convert(theirs, ITA)
    assert list(back.kept) == [EMPTY_WEIGHT]
    assert not back.dropped
    assert EMPTY_WEIGHT not in tensors(back)


def test_fcclip_gets_an_ita_without_its_dominant_categories(make_ita):
    model = make_ita(num_dominant=3, self_attention=True, text_residual=True)
    ours = full(model)
    there = convert(ours, FCCLIP)
    assert sorted(there.dropped) == ["decoder.head.text_weight", "dominant.projection.weight"]
    positions = tensors(there)[f"{HEAD}predictor.query_embed.weight"]
    assert torch.equal(positions, ours["decoder.query_position.weight"][3:])
    assert positions.untyped_storage().nbytes() == 4 * positions.numel()
    again = tensors(convert(tensors(there), ITA))
    fcclip = make_ita(num_dominant=0, self_attention=True).state_dict()
    assert {n: t.shape for n, t in again.items()} == {n: t.shape for n, t in fcclip.items()}


@pytest.mark.parametrize(
    ("options", "target", "said"),
    [
        ({"num_dominant": 3}, FCCLIP, "FC-CLIP's decoder needs self-attention"),
        ({"num_dominant": 0}, FCCLIP, "FC-CLIP's decoder needs self-attention"),
        ({"self_attention": True}, FIRST_RELEASE, "has no self-attention"),
        ({"num_dominant": 0}, FIRST_RELEASE, "needs the projection of dominant categories"),
        ({"text_residual": True}, FIRST_RELEASE, "TEXT_RESIDUAL True"),
    ],
)
def test_models_without_a_place(options, target, said, make_ita):
    model = make_ita(**options)
    with pytest.raises(UserError, match=said):
        convert(full(model), target)


@pytest.mark.parametrize("target", [ITA, FCCLIP])
def test_what_is_missing_is_named_in_the_names_of_the_target(target, make_ita):
    model = make_ita(num_dominant=0, self_attention=True)
    absent = {
        "decoder.layers.1.self_attention.norm.bias",
        "decoder.head.region_proj.0.weight",
        "pixel_decoder.layers.0.attention.offsets.bias",
        "decoder.input_proj.2.bias",
        "void_embedding.weight",
    }
    ours = full(model)
    assert absent < ours.keys()
    part = {n: t for n, t in ours.items() if n not in absent and not n.startswith("backbone.")}
    found = convert(part, target).missing
    if target == ITA:
        assert found.keys() == absent
        return
    names = {our_name: name for name, our_name in ancestors_names(model).items()}
    expected = {names[name] for name in absent}
    assert found.keys() == expected | {"backbone.clip_model.*", EMPTY_WEIGHT}


def test_unknown_tensors_are_dropped(make_ita):
    ours = full(make_ita())
    theirs = tensors(convert(ours, FIRST_RELEASE)) | {"pixel_mean": torch.ones(3)}
    assert list(convert(theirs, ITA).dropped) == ["pixel_mean"]
    assert list(convert(ours | {"ema.decay": torch.ones(1)}, ITA).dropped) == ["ema.decay"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("decoder.query_position.weight", (4, 32)),
        ("decoder.query_feature.weight", (7,)),
        ("dominant.projection.weight", (40, 40)),
    ],
)
def test_shapes_that_contradict_each_other(name, shape, make_ita):
    ours = full(make_ita())
    assert ours[name].shape != shape
    ours[name] = torch.ones(shape)
    with pytest.raises(UserError, match=f"do not fit each other.*{'x'.join(map(str, shape))}"):
        convert(ours, ITA)


def test_state_dicts_of_nobody(make_ita):
    with pytest.raises(UserError, match=r"the first is conv1\.weight"):
        convert({"conv1.weight": torch.ones(1), "void_embedding.weight": torch.ones(1)}, ITA)
    mixed = {"decoder.head.logit_scale": torch.ones(())}
    mixed[f"{HEAD}predictor.logit_scale"] = torch.ones(())
    with pytest.raises(UserError, match="are mixed"):
        convert(mixed, ITA)
