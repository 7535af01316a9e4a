"""Where CLIP's weights come from: tags, files, folders, or a seed (design section 1)."""

import json
import logging
from copy import deepcopy
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import safetensors.torch
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from ita import files
from ita.errors import UserError
from ita.modeling import clip_files
from ita.modeling.clip_files import find_weights
from ita.modeling.clip_tokens import ROWS, TABLE, save_clip, token_ids
from ita.modeling.clip_weights import RANDOM, build_clip
from ita.modeling.storage import write_tensors
from tests.conftest import RESNET, TINY_CLIP

MODEL, TAG = "convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"
# As in the README of the paper's code.
FOLDER = "laionCLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"


@pytest.fixture(scope="module")
def trained():
    """A state dict that is not the random one."""
    clip = build_clip(str(TINY_CLIP), RANDOM).clip
    generator = torch.Generator().manual_seed(5)
    return {k: torch.randn(v.shape, generator=generator) for k, v in clip.state_dict().items()}


@pytest.fixture(autouse=True)
def no_caches(tmp_path, monkeypatch):
    """Without the weights that a developer may have downloaded."""
    monkeypatch.setattr(clip_files, "OPENAI_CACHE", tmp_path / "no cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "no cache"))


@pytest.fixture
def no_network(monkeypatch):
    def fail(*_, **__):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying")
        raise OSError("no\nnetwork")

    monkeypatch.setattr(clip_files, "get_hf_file_metadata", fail)


def same(clip, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in clip.state_dict().items())


def test_random_weights_are_the_same_every_time():
    torch.manual_seed(1)
    first = build_clip(str(TINY_CLIP), RANDOM)
    after_first = torch.rand(1)
    second = build_clip(str(TINY_CLIP), RANDOM)
    assert same(second, first.state_dict())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after_first)


WRITERS = {
    "weights.pt": lambda state, path: torch.save(state, path),
    "weights.bin": lambda state, path: torch.save({"state_dict": state}, path),
    "weights.pth": lambda state, path: torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path
    ),
    "weights.safetensors": safetensors.torch.save_file,
    "half.pt": lambda state, path: torch.save({k: v.half() for k, v in state.items()}, path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("in_folder", [False, True])
def test_a_file_or_a_folder_with_one(name, in_folder, trained, tmp_path):
    WRITERS[name](trained, tmp_path / name)
    (tmp_path / "README.md").write_text("about")
    clip = build_clip(str(TINY_CLIP), str(tmp_path if in_folder else tmp_path / name))
    expected = {k: v.half().float() for k, v in trained.items()} if "half" in name else trained
    assert same(clip.clip, expected)


@pytest.mark.parametrize("file", ["", "open_clip_model.safetensors"])
def test_relative_paths_are_found_from_anywhere(file, trained, tmp_path, monkeypatch):
    """In the package, unless the working directory has them."""
    weights = str(Path("ita", "some", "folder", file))
    here, package = tmp_path / "here", tmp_path / "site-packages" / "ita"
    for root in (here / "ita", package):
        (root / "some" / "folder").mkdir(parents=True)
    published = package / "some" / "folder" / "open_clip_model.safetensors"
    safetensors.torch.save_file(trained, published)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "PACKAGE", package)
    assert same(build_clip(str(TINY_CLIP), weights).clip, trained)
    monkeypatch.chdir(here)
    own = here / "ita" / "some" / "folder" / "open_clip_model.safetensors"
    own.touch()
    assert find_weights(MODEL, weights).resolve() == own


def test_no_network_is_one_line_that_says_what_to_put_where(
    no_network, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip_files, "SEARCH_ROOTS", (tmp_path,))
    with pytest.raises(UserError) as caught:
        build_clip(MODEL, TAG)
    message = str(caught.value)
    assert "\n" not in message
    assert (
        f"put open_clip_pytorch_model.bin of {FOLDER.replace('laion', 'laion/', 1)} into" in message
    )
    assert f"folder {FOLDER}," in message
    assert not caplog.records
    logging.getLogger("huggingface_hub.utils._http").warning("heard again")
    assert [record.message for record in caplog.records] == ["heard again"]


def test_downloaded_weights_are_loaded(trained, tmp_path, monkeypatch, hub):
    torch.save(trained, tmp_path / "weights.bin")
    hub.files["open_clip_pytorch_model.bin"] = (tmp_path / "weights.bin").read_bytes()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clip_files, "SEARCH_ROOTS", (tmp_path,))
    config = json.loads(TINY_CLIP.read_text())["model_cfg"]
    monkeypatch.setattr(open_clip, "get_model_config", {MODEL: config}.get)
    assert same(build_clip(MODEL, TAG).clip, trained)
    repository = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
    assert all(path.startswith(f"/{repository}/") for path in hub.paths)


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("convnext_larg", RANDOM, "'convnext_larg'.*convnext_large_d_320"),
        ("RN50", "openia", "'openia'.*RN50.*openai, yfcc15m"),
        ("RN50", "no/such/file.pt", "no/such/file.pt"),
        ("no/such/config.json", RANDOM, "config not found: no/such/config.json"),
        (str(TINY_CLIP), "laion2b", "tags: none"),
    ],
)
def test_unknown_models_and_weights(model, weights, said):
    with pytest.raises(UserError, match=said):
        build_clip(model, weights)


BAD_CONFIGS = {
    "text": "{",
    "list": "[]",
    "empty": "{}",
    "key": json.dumps({**RESNET, "image_size": 3}),
    "null": json.dumps({"model_cfg": None}),
    "text in it": json.dumps({"model_cfg": "RN50"}),
    "preprocessing": json.dumps({"model_cfg": RESNET, "preprocess_cfg": [1]}),
    "timm": json.dumps({**RESNET, "vision_cfg": {"timm_model_name": "convnext_huge"}}),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_unusable_model_configs(kind, tmp_path):
    (tmp_path / "clip.json").write_text(BAD_CONFIGS[kind])
    with pytest.raises(UserError, match=r"clip\.json") as caught:
        build_clip(str(tmp_path / "clip.json"), RANDOM)
    assert "\n" not in str(caught.value)


def test_a_model_config_as_published_with_weights(tmp_path):
    (tmp_path / "clip.json").write_text(json.dumps({"model_cfg": RESNET, "preprocess_cfg": {}}))
    assert build_clip(str(tmp_path / "clip.json"), RANDOM).embed_dim == RESNET["embed_dim"]


class Code:
    def __reduce__(self):
        return print, ("this was run",)


def truncate(path, state):
    WRITERS["weights" + path.suffix](state, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)


DAMAGED = {
    "empty": lambda path, state: path.write_bytes(b""),
    "text": lambda path, state: path.write_text("hello world"),
    "bytes": lambda path, state: path.write_bytes(bytes(range(256))),
    "zip": lambda path, state: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "cut": lambda path, state: (
        torch.save(state, path),
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    ),
    "list": lambda path, state: torch.save([1, 2], path),
    "truncated": lambda path, state: truncate(path, state),
    "other model": lambda path, state: torch.save({"conv1": torch.ones(2)}, path),
    "other shape": lambda path, state: torch.save({**state, "logit_scale": torch.ones(3)}, path),
    "lacking": lambda path, state: torch.save(
        {k: v for k, v in state.items() if k != "ln_final.bias"}, path
    ),
    "code": lambda path, state: torch.save({**state, "logit_scale": Code()}, path),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_unusable_weights(damage, suffix, trained, tmp_path, capsys):
    path = tmp_path / f"weights{suffix}"
    DAMAGED[damage](path, trained)
    with pytest.raises(UserError, match="weights") as caught:
        build_clip(str(TINY_CLIP), str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "this was run" not in capsys.readouterr().out


KNOWN = ["a photo of a red circle.", "striped triangle", ""]


@pytest.fixture(scope="module")
def known_rows():
    return token_ids(open_clip.SimpleTokenizer(context_length=32)(KNOWN))


@pytest.fixture
def few_words(known_rows, tmp_path):
    """A weights file with the tokens of KNOWN alone, beside the CLIP that was saved."""
    clip = build_clip(str(TINY_CLIP), RANDOM)
    with torch.no_grad():
        for tensor in clip.clip.parameters():
            tensor.add_(0.01)
    path = tmp_path / "weights.safetensors"
    save_clip(clip.clip, path, known_rows)
    return clip, path


def test_a_clip_of_few_words_says_the_same(few_words, caplog):
    clip, path = few_words
    loaded = build_clip(str(TINY_CLIP), str(path))
    assert torch.equal(loaded.encode_text(KNOWN), clip.encode_text(KNOWN))
    assert not [record for record in caplog.records if "trained without" in record.message]
    assert loaded.state_dict().keys() == clip.state_dict().keys()
    assert path.stat().st_size < 5e6
    assert list(path.parent.iterdir()) == [path]


def test_rows_of_other_words_are_zero(few_words, known_rows):
    clip, path = few_words
    loaded = build_clip(str(TINY_CLIP), str(path))
    table = loaded.clip.token_embedding.weight
    assert torch.equal(table[known_rows], clip.clip.token_embedding.weight[known_rows])
    assert table.any(dim=-1).nonzero()[:, 0].equal(known_rows)


def test_padding_and_half_precision_are_saved_as_nothing_and_as_float32(few_words, known_rows):
    clip, path = few_words
    assert 0 not in known_rows
    save_clip(clip.clip.half(), path, known_rows)
    tensors = safetensors.torch.load_file(path)
    assert tensors.pop(ROWS).equal(known_rows)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_unknown_words_are_warned_of_once(few_words, caplog):
    _, path = few_words
    clip = build_clip(str(TINY_CLIP), str(path))
    clip.encode_text(["a photo of a red zebra.", "Giraffe of a circle", "a red, striped circle."])
    clip.encode_text(["a photo of a zebra"])
    (warning,) = [r.getMessage() for r in caplog.records if "trained without" in r.getMessage()]
    assert warning == (
        f"CLIP {path} was trained without the words: giraffe, zebra; their features are unreliable"
    )
    caplog.clear()
    clip.encode_text(["zebra", "a square"])
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "words: square;" in warning


def test_many_unknown_words_make_a_short_line(few_words, caplog):
    _, path = few_words
    clip = build_clip(str(TINY_CLIP), str(path))
    caplog.clear()
    clip.encode_text([f"{c}{d}" for c in "bdfgh" for d in "xyzwv"])
    (warning,) = [r.getMessage() for r in caplog.records]
    assert " and 5 more; " in warning


BAD_ROWS = {
    "rows without a table": lambda tensors: tensors.pop(TABLE),
    "another number": lambda tensors: tensors.update({TABLE: tensors[TABLE][1:].clone()}),
    "another width": lambda tensors: tensors.update({TABLE: tensors[TABLE][:, 1:].clone()}),
    "floats": lambda tensors: tensors.update({ROWS: tensors[ROWS].float()}),
    "a matrix": lambda tensors: tensors.update({ROWS: tensors[ROWS][:, None].clone()}),
    "negative": lambda tensors: tensors[ROWS].sub_(1000),
    "too great": lambda tensors: tensors[ROWS].add_(1),
    "descending": lambda tensors: tensors.update({ROWS: tensors[ROWS].flip(0)}),
    "twice": lambda tensors: tensors[ROWS][:2].fill_(0),
    "lacking": lambda tensors: tensors.pop("ln_final.bias"),
}


@pytest.mark.parametrize("damage", BAD_ROWS)
def test_unusable_rows(damage, few_words):
    _, path = few_words
    tensors = safetensors.torch.load_file(path)
    BAD_ROWS[damage](tensors)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(UserError, match="does not contain the weights of CLIP") as caught:
        build_clip(str(TINY_CLIP), str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(few_words, known_rows, tmp_path):
    clip, path = few_words
    before = path.read_bytes()
    with pytest.raises(UserError, match="cannot write"):
        save_clip(clip.clip, path / "no folder" / path.name, known_rows)
    assert path.read_bytes() == before


def gelus(clip):
    return {type(m) for m in clip.modules() if isinstance(m, QuickGELU | nn.GELU)}


@pytest.fixture
def plain_resnet(tmp_path):
    """A model config that, like open_clip's plain RN50, does not ask for QuickGELU."""
    path = tmp_path / "plain.json"
    path.write_text(json.dumps({**RESNET, "quick_gelu": False}))
    return path


@pytest.mark.filterwarnings("ignore:.*jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_openais_files_force_quickgelu(plain_resnet, resnet_clip, tmp_path):
    """They are TorchScript archives in float16 with three buffers of their own."""
    original = open_clip.CLIP(**RESNET)
    original.load_state_dict(resnet_clip.clip.state_dict())
    mask = original.attn_mask
    for name in ("context_length", "vocab_size", "attn_mask"):
        delattr(original, name)
    original.attn_mask = mask  # there a constant
    for name in ("input_resolution", "context_length", "vocab_size"):
        original.register_buffer(name, torch.tensor(64))
    example = torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.int64)
    torch.jit.trace(original.eval(), example).half().save(str(tmp_path / "RN.pt"))
    clip = build_clip(str(plain_resnet), str(tmp_path / "RN.pt"))
    assert gelus(clip) == {QuickGELU}
    state = clip.clip.state_dict()
    for name, tensor in resnet_clip.clip.state_dict().items():
        assert torch.equal(state[name], tensor.half().to(tensor.dtype))
    torch.testing.assert_close(
        clip.encode_text(["a cat"]), resnet_clip.encode_text(["a cat"]), rtol=0.01, atol=0.001
    )


def test_other_files_do_not(plain_resnet, resnet_config, resnet_clip, tmp_path):
    torch.save(resnet_clip.clip.state_dict(), tmp_path / "weights.pt")
    assert gelus(build_clip(str(plain_resnet), str(tmp_path / "weights.pt"))) == {nn.GELU}
    assert gelus(build_clip(str(resnet_config), str(tmp_path / "weights.pt"))) == {QuickGELU}


def test_a_null_in_the_config_beside_a_file_is_an_absent_key(resnet_config, resnet_clip, tmp_path):
    torch.save(resnet_clip.clip.state_dict(), tmp_path / "weights.pt")
    beside = tmp_path / "open_clip_config.json"
    beside.write_text(json.dumps({"model_cfg": None, "preprocess_cfg": None}))
    build_clip(str(resnet_config), str(tmp_path / "weights.pt"))
    beside.write_text(json.dumps({"model_cfg": [1]}))
    with pytest.raises(UserError, match=r"model_cfg in CLIP model config .* is not a JSON object"):
        build_clip(str(resnet_config), str(tmp_path / "weights.pt"))


def test_openais_tag_forces_quickgelu(resnet_clip, tmp_path, monkeypatch, hub):
    """Also where the file is no TorchScript archive, as the ones on the hub."""
    torch.save(resnet_clip.clip.state_dict(), tmp_path / "weights.bin")
    monkeypatch.setattr(clip_files, "SEARCH_ROOTS", (tmp_path,))
    hub.files["open_clip_pytorch_model.bin"] = (tmp_path / "weights.bin").read_bytes()
    config = {**RESNET, "quick_gelu": False}
    monkeypatch.setattr(open_clip, "get_model_config", {"RN50": config}.get)
    assert gelus(build_clip("RN50", "openai")) == {QuickGELU}


def saved_and_loaded(model, folder):
    torch.save(model, folder / "model.pth")
    return torch.load(folder / "model.pth", weights_only=False)


@pytest.mark.parametrize("name", WRITERS)
def test_a_clip_from_a_file_is_an_ordinary_model(name, trained, tmp_path):
    """It is written to, copied, saved and moved like one in memory, and its file never changes."""
    path = tmp_path / name
    WRITERS[name](trained, path)
    before = path.read_bytes()
    clip = build_clip(str(TINY_CLIP), str(path))
    state = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    for other in (deepcopy(clip), saved_and_loaded(clip, tmp_path), clip.to(torch.float64)):
        assert all(torch.equal(t.float(), state[n]) for n, t in other.state_dict().items())
        assert other.encode_text(["a cat"]).isfinite().all()
    clip = build_clip(str(TINY_CLIP), str(path))
    with torch.no_grad():
        for tensor in clip.parameters():
            tensor.add_(1)
    write_tensors(tmp_path / "copy.safetensors", clip.state_dict())
    copied = safetensors.torch.load_file(tmp_path / "copy.safetensors")
    assert all(torch.equal(copied[n], tensor) for n, tensor in clip.state_dict().items())
    assert path.read_bytes() == before


def test_a_file_may_be_replaced_while_its_clip_is_in_use(trained, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, trained)
    clip = build_clip(str(TINY_CLIP), str(path))
    write_tensors(path, {name: torch.zeros_like(tensor) for name, tensor in trained.items()})
    assert same(clip.clip, trained)


def test_nothing_is_computed_from_weights_that_are_read(trained, tmp_path):
    """The buffers that files lack are those of open_clip's own initialization."""
    torch.save(trained, tmp_path / "weights.pt")
    loaded = build_clip(str(TINY_CLIP), str(tmp_path / "weights.pt"))
    expected = build_clip(str(TINY_CLIP), RANDOM)
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    buffers = dict(loaded.named_buffers())
    for name, buffer in expected.named_buffers():
        assert torch.equal(buffers[name], buffer)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_tensors_that_share_memory_in_a_file_do_not_in_the_model(trained, tmp_path):
    one = "transformer.resblocks.0.ln_1."
    torch.save({**trained, one + "bias": trained[one + "weight"]}, tmp_path / "weights.pt")
    clip = build_clip(str(TINY_CLIP), str(tmp_path / "weights.pt")).clip
    block = clip.transformer.resblocks[0].ln_1
    assert torch.equal(block.weight, block.bias)
    assert block.weight.data_ptr() != block.bias.data_ptr()


def test_layouts_in_a_file_do_not_matter(trained, tmp_path):
    def other_layout(tensor):
        if tensor.ndim == 4:
            return tensor.to(memory_format=torch.channels_last)
        return tensor.T.contiguous().T if tensor.ndim == 2 else tensor

    state = {name: other_layout(tensor) for name, tensor in trained.items()}
    torch.save(state, tmp_path / "weights.pt")
    clip = build_clip(str(TINY_CLIP), str(tmp_path / "weights.pt")).clip
    assert same(clip, trained)
    assert all(parameter.is_contiguous() for parameter in clip.parameters())


def test_a_tower_with_buffers_that_no_file_contains(tmp_path):
    """Such as the blur kernels of timm's anti-aliased ResNets."""
    model = json.loads(TINY_CLIP.read_text())["model_cfg"]
    vision = {"timm_model_name": "resnetblur18", "timm_pool": "avg", "timm_proj": "linear"}
    (tmp_path / "clip.json").write_text(
        json.dumps({**model, "vision_cfg": {"image_size": 64, **vision}})
    )
    random = build_clip(str(tmp_path / "clip.json"), RANDOM)
    kernels = {name for name, _ in random.clip.visual.named_buffers()}
    assert kernels - random.clip.visual.state_dict().keys()
    torch.save(random.clip.state_dict(), tmp_path / "weights.pt")
    loaded = build_clip(str(tmp_path / "clip.json"), str(tmp_path / "weights.pt"))
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected, found = random(image), loaded(image)
    assert all(torch.equal(expected[level], found[level]) for level in expected)
