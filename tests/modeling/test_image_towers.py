"""Image towers of timm's families: features, pooling and refusals (design section 1)."""

import copy
import json

import pytest
import torch
from open_clip.timm_model import TimmModel
from torch import nn

from ita.errors import UserError
from ita.modeling.clip_weights import RANDOM, build_clip
from ita.modeling.image_towers import DENSE, STAGES, STRIDES, image_tower

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
# timm's models, with the projection that open_clip gives the family.
FAMILIES = {
    "test_convnext": {"timm_pool": "", "timm_proj": "linear"},
    "test_convnext2": {"timm_pool": "", "timm_proj": "mlp"},
    "convnextv2_atto": {"timm_pool": "", "timm_proj": "linear"},
    "fastvit_mci0": {"timm_pool": "avg", "timm_proj": None},
    "test_resnet": {"timm_pool": "avg", "timm_proj": "linear"},
    "test_efficientnet": {"timm_pool": "avg", "timm_proj": "linear"},
    "test_nfnet": {"timm_pool": "", "timm_proj": "mlp"},
    "regnetx_002": {"timm_pool": "avg", "timm_proj": "linear"},
}


def model_config(folder, name, **vision):
    config = {
        "embed_dim": 24,
        "custom_text": name.startswith("fastvit"),  # as MobileCLIP
        "vision_cfg": {"timm_model_name": name, "image_size": 96, **vision},
        "text_cfg": TEXT,
    }
    (folder / "clip.json").write_text(json.dumps(config))
    return str(folder / "clip.json")


@pytest.fixture(scope="module", params=FAMILIES)
def clip(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    clip = build_clip(model_config(folder, request.param, **FAMILIES[request.param]), RANDOM)
    torch.manual_seed(0)
    for module in clip.modules():
        if isinstance(module, nn.BatchNorm2d):  # otherwise without any effect
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        for name, parameter in module.named_parameters(recurse=False):
            if "gamma" in name or "scale" in name:  # of branches, small at first
                nn.init.constant_(parameter, 0.5)
    return clip


def images(size=(96, 96)):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def assert_close(ours, expected):
    """Relative to the largest value, which is what sums of many values are rounded to."""
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [(96, 96), (64, 160)])
def test_the_whole_image_is_embedded_as_clip_does(clip, size):
    dense = clip(images(size))[DENSE]
    expected = clip.clip.encode_image(images(size))
    assert expected.std(dim=0).mean() > 1e-3 * expected.abs().mean()  # of two unlike images
    everywhere = torch.ones(2, *dense.shape[-2:])
    assert_close(clip.embed_area(dense, everywhere), expected)
    masks = torch.stack([everywhere, everywhere], dim=1)
    assert_close(clip.embed_masks(dense, masks)[:, 1], expected)


@pytest.mark.parametrize("name", ["test_convnext", "test_convnext2", "convnextv2_atto"])
@torch.no_grad()
def test_features_are_those_of_timm(name):
    visual = TimmModel(name, 24, pool="", proj="linear", pretrained=False).eval()
    for parameter_name, parameter in visual.named_parameters():
        if "gamma" in parameter_name:  # of branches, small at first
            nn.init.constant_(parameter, 0.5)
    theirs = copy.deepcopy(visual)
    tower = image_tower(visual)
    assert visual.state_dict().keys() == theirs.state_dict().keys()
    x = images((192, 192))
    dense, stages = theirs.trunk.forward_intermediates(x)
    features = tower.features(x)
    for ours, expected in zip(features.values(), [*stages[-4:], dense], strict=True):
        assert_close(ours, expected)


def test_features_of_four_strides(clip):
    features = clip(images((64, 160)))
    for name in STAGES:
        size = (64 // STRIDES[name], 160 // STRIDES[name])
        assert features[name].shape == (2, clip.channels[name], *size)
        assert features[name].std() > 0
    assert features[DENSE].shape[-2:] == (2, 5)
    assert clip.embed_dim == 24
    assert len({shape.channels for shape in clip.output_shape().values()}) == 4


def test_features_are_those_that_timm_describes(clip):
    """The last of each stride, compared with the outputs of the modules that timm names."""
    trunk, found = clip.clip.visual.trunk, {}

    def keep(stride):
        return lambda module, inputs, output: found.update({stride: output})

    hooks = [
        trunk.get_submodule(info["module"]).register_forward_hook(keep(info["reduction"]))
        for info in trunk.feature_info
    ]
    features = clip(images())
    for hook in hooks:
        hook.remove()
    for name, stride in STRIDES.items():
        torch.testing.assert_close(features[name], found[stride])


def test_texts_are_encoded_as_clip_does(clip):
    texts = ["a cat", "a photo of a very small traffic light", ""]
    expected = clip.clip.encode_text(clip.tokenizer(texts))
    assert_close(clip.encode_text(texts), expected)
    assert expected.shape == (3, clip.embed_dim)


REFUSED = {
    ("test_vit", "avg", "linear"): "VisionTransformer of this one has features at strides 16",
    ("fastvit_mci3", "avg", None): "FastVit of this one has features at strides 4, 8, 16, 32, 64",
    ("test_mambaout", "", "linear"): "MambaOut of this one has [1, 2, 3, 64] for dense",
    ("swin_tiny_patch4_window7_224", "", "linear"): "fails for 64 x 96 pixels (AssertionError: ",
    ("test_convnext", "max", "linear"): "ConvNeXt of this one does not pool by averaging",
    ("test_resnet", "avgmax", "linear"): "ResNet of this one does not pool by averaging",
    ("resnet10t", "abs_attn", ""): "ResNet of this one does not pool by averaging",
    ("resnet10t", "rot_attn", ""): "ResNet of this one does not pool by averaging",
}


@pytest.mark.parametrize("tower", REFUSED)
def test_unsuitable_towers_are_refused(tower):
    name, pool, proj = tower
    # Those that are refused for their sizes are not initialized, some being large.
    with torch.device("cpu" if "attn" in pool or "max" in pool else "meta"):
        visual = TimmModel(name, 24, pool=pool, proj=proj).eval()
    with pytest.raises(UserError, match=r"four stages at strides 4, 8, 16, 32") as caught:
        image_tower(visual)
    assert REFUSED[tower] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-SO400M-14-SigLIP", "MobileCLIP2-S4"])
def test_towers_are_refused_before_weights_are_looked_for(name):
    with pytest.raises(UserError, match="convolutional image tower"):
        build_clip(name, "no such weights")


def test_stages_stored_in_low_precision(clip):
    """Whatever follows the features has float32 weights, as it gets float32 values."""
    stored = copy.deepcopy(clip)
    stored.store_stages(torch.bfloat16)
    expected, ours = clip(images()), stored(images())
    for name, feature in expected.items():
        assert ours[name].dtype == torch.float32
        assert (ours[name] - feature).norm() < 0.05 * feature.norm(), name
    mask = torch.ones(2, 3, 3, 3)
    assert torch.equal(
        stored.embed_masks(expected[DENSE], mask), clip.embed_masks(expected[DENSE], mask)
    )
