"""Files written by open_clip, in the layouts of its versions, and files of other CLIPs."""

import json
import logging

import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from ita.errors import UserError
from ita.modeling.clip_weights import RANDOM, build_clip
from tests.conftest import RESNET

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONVNEXT = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "mlp"}
# As MobileCLIP: timm's classifier is the projection.
MOBILE = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": None}
MODELS = {
    "convnext": {"embed_dim": 24, "vision_cfg": {"image_size": 64, **CONVNEXT}, "text_cfg": TEXT},
    "resnet": {**RESNET, "text_cfg": TEXT},
    "mobile": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {"image_size": 64, **MOBILE},
        "text_cfg": {**TEXT, "no_causal_mask": True},
    },
}
PREPROCESSING = {"mean": [0.485, 0.456, 0.406], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear"}
FILES = {
    "open_clip_model.safetensors": safetensors.torch.save_file,
    "open_clip_pytorch_model.bin": torch.save,
    "epoch_3.pt": lambda state, path: torch.save(training_checkpoint(state), path),
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
}


def training_checkpoint(state):
    """As written by open_clip's distributed training."""
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    return {"epoch": 3, "name": "run", "state_dict": state, "optimizer": optimizer}


def create(folder, name, **options):
    """A CLIP of random weights by open_clip itself, and its config in a folder."""
    folder.mkdir(exist_ok=True)
    config = {"model_cfg": MODELS[name], "preprocess_cfg": PREPROCESSING}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    return open_clip.create_model(f"local-dir:{folder}", **options).eval()


def assert_same_clip(ours, theirs, context=16):
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            ours.clip.encode_image(image), theirs.encode_image(image), **CLOSE
        )
        texts = ["a cat", "two dogs"]
        tokens = open_clip.SimpleTokenizer(context_length=context)(texts)
        torch.testing.assert_close(ours.encode_text(texts), theirs.encode_text(tokens), **CLOSE)
    torch.testing.assert_close(ours.logit_scale, theirs.logit_scale.reshape(()))
    assert ours.preprocess_config.mean == theirs.visual.preprocess_cfg["mean"]
    assert ours.preprocess_config.std == theirs.visual.preprocess_cfg["std"]
    assert ours.preprocess_config.interpolation == theirs.visual.preprocess_cfg["interpolation"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", MODELS)
def test_a_folder_written_by_open_clip(name, file, tmp_path):
    """With the preprocessing and the activation of the config beside the weights."""
    theirs = create(tmp_path / "published", name)
    FILES[file](theirs.state_dict(), tmp_path / "published" / file)
    bare = {key: value for key, value in MODELS[name].items() if key != "quick_gelu"}
    (tmp_path / "clip.json").write_text(json.dumps(bare))
    weights = tmp_path / "published" / ("" if file.startswith("open_clip") else file)
    assert_same_clip(build_clip(str(tmp_path / "clip.json"), str(weights)), theirs)


@pytest.mark.parametrize("name", ["convnext", "mobile"])
def test_names_of_the_text_tower_with_and_without_prefix(name, tmp_path):
    """As open_clip's option --force-custom-text adds it, and as older versions lacked it."""
    theirs = create(tmp_path, name)
    image, text = {}, {}
    for key, tensor in theirs.state_dict().items():
        at_top = key.startswith("visual.") or key == "logit_scale"
        (image if at_top else text)[key.removeprefix("text.")] = tensor
    assert "positional_embedding" in text
    for prefix in ("", "text."):
        state = image | {prefix + key: tensor for key, tensor in text.items()}
        torch.save(state, tmp_path / "weights.pt")
        config = tmp_path / "open_clip_config.json"
        assert_same_clip(build_clip(str(config), str(tmp_path / "weights.pt")), theirs)


def test_sigmoid_loss(tmp_path):
    """Its bias is dropped; its scale is a vector."""
    theirs = create(tmp_path, "convnext", init_logit_bias=-10, nonscalar_logit_scale=True)
    assert (
        theirs.state_dict()["logit_bias"].shape == theirs.state_dict()["logit_scale"].shape == (1,)
    )
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    config = tmp_path / "open_clip_config.json"
    assert_same_clip(build_clip(str(config), str(tmp_path / "weights.pt")), theirs)


def write_stand_in(model, path):
    """Names and shapes of one of open_clip's models, all tensors sharing a single number."""
    with torch.device("meta"):
        state = open_clip.create_model(model, device="meta").state_dict()
    torch.save({name: torch.zeros(()).expand(t.shape) for name, t in state.items()}, path)


@pytest.mark.parametrize(
    ("model", "wrong", "said"),
    [
        (
            "convnext_base_w_320",
            "convnext_large_d",
            "but of convnext_large_d or convnext_large_d_320: "
            "visual.trunk.stem.0.weight is [192, 3, 4, 4] instead of [128, 3, 4, 4] and ",
        ),
        ("convnext_xxlarge", "RN50", "but of RN50: "),
        ("RN50x64", "RN50", "but of RN50: visual.conv1.weight is [32, 3, 3, 3] instead of [64, "),
        ("RN50", "ViT-B-32", "but of ViT-B-32: "),
        ("MobileCLIP-S1", "MobileCLIP-S2", "but of MobileCLIP2-S2 or MobileCLIP-S2: "),
    ],
)
def test_weights_of_another_clip(model, wrong, said, tmp_path):
    """The large model is not initialized for this."""
    write_stand_in(wrong, tmp_path / "weights.bin")
    with pytest.raises(UserError) as caught:
        build_clip(model, str(tmp_path / "weights.bin"))
    message = str(caught.value)
    start = f"{tmp_path / 'weights.bin'} does not contain the weights of CLIP {model} "
    assert message.startswith(start)
    assert said in message
    assert "\n" not in message


def test_missing_and_unknown_tensors_are_named(tmp_path):
    state = create(tmp_path, "convnext").state_dict()
    state["visual.head.mlp.fc2.bias"] = torch.zeros(24)
    del state["ln_final.bias"], state["ln_final.weight"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UserError) as caught:
        build_clip(str(tmp_path / "open_clip_config.json"), str(tmp_path / "weights.pt"))
    said = "it lacks ln_final.weight and 1 more; it has the unknown visual.head.mlp.fc2.bias"
    assert str(caught.value).endswith(said)


def test_longer_texts_are_not_interpolated(tmp_path):
    """As open_clip does silently."""
    state = create(tmp_path, "convnext").state_dict()
    state["positional_embedding"] = torch.zeros(77, 16)
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(
        UserError, match=r"positional_embedding is \[77, 16\] instead of \[16, 16\]"
    ):
        build_clip(str(tmp_path / "open_clip_config.json"), str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("model", ["MobileCLIP-S1", "convnext_base_w_320"])
def test_preprocessing_of_a_file_without_config(model):
    """That of the model's tags, which agree."""
    with torch.device("meta"):
        config = build_clip(model, RANDOM).preprocess_config
    for tag in open_clip.list_pretrained_tags_by_model(model):
        expected = open_clip.get_pretrained_cfg(model, tag)
        assert (config.mean, config.std) == (expected["mean"], expected["std"])
        assert config.interpolation == expected["interpolation"]


@pytest.mark.parametrize("mean", [[0.5, 0.5], "imagenet", 0.5, ["a", "b", "c"]])
def test_unusable_preprocessing(mean, tmp_path):
    state = create(tmp_path, "convnext").state_dict()
    torch.save(state, tmp_path / "weights.pt")
    config = {"model_cfg": MODELS["convnext"], "preprocess_cfg": {"mean": mean}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"mean .* not three numbers"):
        build_clip(str(tmp_path / "open_clip_config.json"), str(tmp_path / "weights.pt"))


def test_a_file_for_a_plain_resnet_name_is_warned_of(tmp_path, monkeypatch, caplog):
    """OpenAI's weights in another format may need QuickGELU, which nothing in the file tells."""
    plain = {key: value for key, value in MODELS["resnet"].items() if key != "quick_gelu"}
    configs = {"RN50": plain, "RN50-quickgelu": {**plain, "quick_gelu": True}}
    monkeypatch.setattr(open_clip, "get_model_config", configs.get)
    theirs = create(tmp_path / "published", "resnet")
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    torch.save(theirs.state_dict(), tmp_path / "published" / "weights.pt")

    def activations(*arguments):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            clip = build_clip(*map(str, arguments))
        kinds = {type(m) for m in clip.modules() if isinstance(m, QuickGELU | nn.GELU)}
        return kinds, "RN50-quickgelu" in caplog.text

    assert activations("RN50", tmp_path / "weights.pt") == ({nn.GELU}, True)
    assert activations("RN50-quickgelu", tmp_path / "weights.pt") == ({QuickGELU}, False)
    assert activations("RN50", tmp_path / "published") == ({QuickGELU}, False)
