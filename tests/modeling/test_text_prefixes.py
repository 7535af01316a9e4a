"""Encoding of texts, each distinct prefix once: the plan, and the features of CLIP."""

import copy
import random
from dataclasses import asdict
from itertools import pairwise

import open_clip
import pytest
import torch
from open_clip.model import convert_weights_to_lp, set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg
from torch import nn

from ita.modeling import text_prefixes
from ita.modeling.clip import FrozenCLIP, encode_tokens
from ita.modeling.ops.plain import plain_operators
from ita.modeling.text_prefixes import (
    MAX_KEYS_PER_ROW,
    can_share_prefixes,
    encode_prefixes,
    last_prefixes,
    plan_texts,
)
from tests.fake_cuda import fake_cuda, values_of

pytestmark = pytest.mark.usefixtures("one_thread")


def as_table(texts, padding=0):
    """Tokens [N, C] with rubbish behind each text, and lengths."""
    context = max(map(len, texts), default=1) + 2
    rows = [[*text, *[padding] * (context - len(text))] for text in texts]
    tokens = torch.tensor(rows, dtype=torch.int64).reshape(len(texts), context)
    return tokens, torch.tensor([len(text) for text in texts], dtype=torch.int64)


def prefixes_of(texts):
    return {tuple(text[:n]) for text in texts for n in range(1, len(text) + 1)}


def check(pack, limit):
    """A pack describes its texts, each distinct prefix is one row; return the texts."""
    lengths = [g.length for g in pack.groups for _ in range(g.start, g.stop)]
    assert [g.start for g in pack.groups] == [0, *(g.stop for g in pack.groups[:-1])]
    assert all(a.length < b.length for a, b in pairwise(pack.groups))
    assert len(lengths) == len(pack.prefixes) == len(pack.ends)
    texts = []
    for rows, length, end in zip(pack.prefixes, lengths, pack.ends, strict=True):
        rows = rows[:length]
        assert pack.positions[rows].tolist() == list(range(length))
        assert rows[-1] == end
        texts.append(tuple(pack.tokens[rows].tolist()))
    assert pack.prefixes.min() >= 0
    num_rows = len(pack.tokens)
    assert num_rows == len(pack.positions) == len(prefixes_of(texts))
    queries = torch.cat([last_prefixes(pack.prefixes, group).flatten() for group in pack.groups])
    assert torch.equal(queries[pack.order], torch.arange(num_rows))
    longest = max(lengths)
    assert num_rows <= limit + 2 * longest
    assert sum(lengths) <= MAX_KEYS_PER_ROW * limit + longest
    return texts


def check_plan(texts, limit=64, padding=0):
    plan = plan_texts(*as_table(texts, padding), limit)
    found = [text for pack in plan.packs for text in check(pack, limit)]
    assert len(found) == len(set(found))
    assert [found[i] for i in plan.source.tolist()] == [tuple(text) for text in texts]
    rows, longest = sum(len(pack.tokens) for pack in plan.packs), max(map(len, texts), default=0)
    assert rows <= len(prefixes_of(texts)) + len(plan.packs) * longest
    return plan


def test_a_plan_of_no_text():
    plan = check_plan([])
    assert plan.packs == ()
    assert plan.source.shape == (0,)


@pytest.mark.parametrize(
    ("texts", "num_rows"),
    [
        ([[5]], 1),
        ([[3, 7, 9]], 3),
        ([[3, 7, 9]] * 4, 3),
        ([[3, 7, 9], [3, 7], [3]], 3),
        ([[3], [3, 7], [3, 7, 9]], 3),
        ([[3, 0, 9], [3], [3, 0], [3, 0, 0]], 4),
        ([[3, 7, 9], [3, 8, 9], [4, 7, 9]], 8),
        ([[i] for i in range(5)], 5),
    ],
)
@pytest.mark.parametrize("padding", [0, 7, 99])
def test_equal_prefixes_are_one_row(texts, num_rows, padding):
    (pack,) = check_plan(texts, padding=padding).packs
    assert len(pack.tokens) == num_rows


@pytest.mark.parametrize("seed", range(30))
def test_plans_of_random_texts(seed):
    """Few tokens, so that texts repeat, and share prefixes of every length."""
    draw = random.Random(seed)
    size, alphabet, longest = draw.choice([1, 7, 60, 400]), draw.choice([1, 2, 5]), 12
    texts = [
        [draw.randrange(alphabet) for _ in range(draw.randint(1, longest))] for _ in range(size)
    ]
    check_plan(texts, limit=draw.choice([1, 16, 100, 5000]), padding=draw.randrange(3))


def test_a_plan_of_ten_thousand_texts():
    draw = random.Random(0)
    beginnings = [[draw.randrange(50) for _ in range(5)] for _ in range(14)]
    names = [[draw.randrange(3000) for _ in range(draw.randint(1, 4))] for _ in range(720)]
    texts = [[*b, *name, 4000] for name in names for b in beginnings]
    plan = check_plan(texts, limit=2048)
    rows = sum(len(pack.tokens) for pack in plan.packs)
    assert rows < 0.5 * sum(map(len, texts))
    assert rows < 1.02 * len(prefixes_of(texts))


def test_long_shared_beginnings_do_not_fill_memory():
    """Few rows, but each text gathers the keys of all its prefixes."""
    beginning = list(range(70))
    plan = check_plan([[*beginning, i] for i in range(400)], limit=100)
    assert len(plan.packs) > 30


TEXTS = [
    "",
    "cat",
    "a photo of a cat.",
    "a photo of a cat",
    "a photo of a very small traffic light.",
    "a photo of a very small traffic light.",
    "word " * 100,
    "word " * 80,
    "zebra crossing",
]


def make_clip(quick_gelu=False, seed=0, vision=None, **text):
    torch.manual_seed(seed)
    vision = vision or {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    sizes = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 3}
    clip = open_clip.CLIP(20, vision, {**sizes, **text}, quick_gelu).requires_grad_(False).eval()
    # Initial weights hide errors: biases are zero and norms are one.
    for parameter in clip.transformer.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return clip


def tokenize(texts, context=77):
    return open_clip.SimpleTokenizer(context_length=context)(texts)


def worst(ours, expected):
    return float((ours.double() - expected.double()).abs().max() / expected.abs().max())


TOWERS = {
    "plain": {},
    "quick gelu": {"quick_gelu": True},
    "layer scale": {"ls_init_value": 0.3},
    "one layer": {"layers": 1},
    "one head": {"heads": 1},
    "projection with bias": {"proj_bias": True},
    "no projection": {"proj_type": "none"},
    "short context": {"context_length": 9},
    "norm": {"norm_kwargs": {"eps": 0.1}},
}


@pytest.mark.parametrize("tower", TOWERS.values(), ids=TOWERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_features_are_those_of_clip(tower, dtype, bound, monkeypatch):
    clip = make_clip(**tower).to(dtype)
    assert can_share_prefixes(clip)
    tokens = tokenize(TEXTS, clip.context_length)
    expected = clip.encode_text(tokens)
    for max_rows in (1, 30, 5000):
        monkeypatch.setattr(text_prefixes, "MAX_ROWS", max_rows)
        ours = encode_prefixes(clip, tokens)
        assert ours.dtype == dtype
        assert worst(ours, expected) < bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mixed", [False, True])
def test_features_of_half_precision_weights(dtype, mixed):
    """Also where embeddings and norms stay in float32, as open_clip converts CLIPs for GPUs."""
    single = make_clip()
    clip = copy.deepcopy(single)
    convert_weights_to_lp(clip, dtype) if mixed else clip.to(dtype)
    tokens = tokenize(TEXTS)
    exact, theirs = single.encode_text(tokens), clip.encode_text(tokens)
    bound = 2 * worst(theirs, exact)
    for encode in (encode_prefixes, encode_tokens):
        ours = encode(clip, tokens)
        assert ours.dtype == theirs.dtype
        assert worst(ours, exact) < bound


class Doubled(nn.MultiheadAttention):
    """Attention that computes something else, with the same weights."""

    def forward(self, *args, **kwargs):
        output, weights = super().forward(*args, **kwargs)
        return 2 * output, weights


def with_change(change):
    clip = make_clip()
    change(clip, clip.transformer.resblocks[1])
    return clip.eval()


def double_attention(clip, block):
    attention = Doubled(24, 3, batch_first=True)
    attention.load_state_dict(block.attn.state_dict())
    block.attn = attention


def add_key_bias(clip, block):
    block.attn = nn.MultiheadAttention(24, 3, add_bias_kv=True, batch_first=True)


def shorten_attention(clip, block):
    """Each position sees at most three positions."""
    clip.attn_mask = clip.attn_mask.masked_fill(torch.ones(77, 77).tril(-3).bool(), -torch.inf)


def see_the_next_position(clip, block):
    clip.attn_mask = torch.full((77, 77), -torch.inf).triu(2)


def parametrize_attention(clip, block):
    nn.utils.parametrize.register_parametrization(block.attn, "in_proj_weight", nn.Softsign())


def replace_forward(clip, block):
    forward = block.forward
    block.forward = lambda *args, **kwargs: 2 * forward(*args, **kwargs)


def hook_block(clip, block):
    block.register_forward_hook(lambda module, args, output: 2 * output)


def hook_attention(clip, block):
    block.attn.register_forward_hook(lambda module, args, output: (2 * output[0], None))


CHANGES = (
    double_attention,
    add_key_bias,
    shorten_attention,
    see_the_next_position,
    parametrize_attention,
    replace_forward,
    hook_block,
    hook_attention,
)
OTHERS = {
    "normalized queries": {"qk_norm": True},
    "scaled heads": {"scale_heads": True},
    "more norms": {"scale_attn": True, "scale_fc": True, "scale_attn_inner": True},
    "custom blocks": {"block_type": "custom"},
    "both directions": {"no_causal_mask": True},
    "pooling of the last": {"pool_type": "last"},
    "pooling of the first": {"pool_type": "first"},
    "pooling by id": {"pool_type": "eos", "eos_id": 49407},
}


def frozen(clip):
    set_model_preprocess_cfg(clip, asdict(PreprocessCfg()))
    return FrozenCLIP(clip, tokenize)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_transformer_is_computed_as_it_is(change):
    clip = frozen(with_change(change))
    expected = clip.clip.encode_text(tokenize(TEXTS))
    assert worst(expected, make_clip().encode_text(tokenize(TEXTS))) > 1e-3
    assert worst(clip.encode_text(TEXTS), expected) < 1e-5


@pytest.mark.parametrize("tower", OTHERS.values(), ids=OTHERS)
def test_other_text_towers_are_computed_as_they_are(tower):
    clip = frozen(make_clip(**tower))
    assert worst(clip.encode_text(TEXTS), clip.clip.encode_text(tokenize(TEXTS))) < 1e-5


@pytest.mark.parametrize("tower", [{}, {"block_type": "custom"}, {"no_causal_mask": True}])
def test_texts_of_a_frozen_clip(tower):
    """None, one, several, and far more than fit in a pack."""
    clip = frozen(make_clip(**tower))
    assert clip.encode_text([]).shape == (0, 20)
    many = [f"a photo of a {a} {b}." for a in range(30) for b in ("cat", "dog") * 20]
    for texts in (["a cat"], TEXTS, many):
        features = clip.encode_text(texts)
        assert features.dtype == torch.float32
        assert worst(features, clip.clip.encode_text(tokenize(texts))) < 1e-5


def test_plain_operators_encode_whole_texts(monkeypatch):
    clip, seen = frozen(make_clip()), []
    encode = clip.clip.encode_text
    monkeypatch.setattr(clip.clip, "encode_text", lambda t: seen.append(t.shape) or encode(t))
    clip.encode_text(["a cat", "a dog"])
    assert seen == []
    with plain_operators():
        features = clip.encode_text(["a cat", "a dog"])
    assert seen == [(2, 77)]
    assert torch.equal(features, encode(tokenize(["a cat", "a dog"])))


def test_the_cpu_waits_for_a_gpu_once(monkeypatch):
    """However many texts, packs and layers."""
    monkeypatch.setattr(text_prefixes, "MAX_ROWS", 30)
    clip = frozen(make_clip())
    expected = clip.encode_text(TEXTS)
    with fake_cuda() as gpu:
        gpu.move(clip)
        before = gpu.waits
        features = clip.encode_text(TEXTS)
        assert features.device.type == "cuda"
        assert gpu.waits == before + 1
    assert worst(values_of(features), expected) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_texts_on_a_gpu(dtype):
    clip = frozen(make_clip(width=64, heads=2))
    expected = clip.encode_text(TEXTS)
    features = clip.to("cuda", dtype).encode_text(TEXTS)
    assert features.device.type == "cuda"
    assert worst(features.cpu(), expected) < (1e-5 if dtype == torch.float32 else 0.02)
