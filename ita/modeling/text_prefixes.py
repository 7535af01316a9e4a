"""Encoding of texts by a causal text transformer, each distinct prefix once.

A position of a causal transformer sees itself and the positions before it, so texts that begin with
the same tokens have the same states there. Class names in CLIP's prompts share most of their
beginnings: "There is a cat in the scene" begins as "There is a car in the scene".

:func:`plan_texts` makes every distinct prefix of a pack of texts a row of one matrix, with integers
alone; :func:`encode_prefixes` runs the transformer on these rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn

# Distinct prefixes per pack: enough to keep matrix products busy, and a bound of memory, at 40 kB
# per prefix for a width of 768 in float32.
MAX_ROWS = 2048
# Bounds the tokens of a pack's texts, which gather their keys from the rows; usual prompts have 2.4
# tokens per row.
MAX_KEYS_PER_ROW = 8


@dataclass(frozen=True)
class Group:
    """Texts ``start`` to ``stop`` of a pack, which have equal length.

    Attributes:
        start, stop: range of the texts.
        length: tokens per text.
        new: the group's prefixes that are first met in it are among each text's last ``new``.
    """

    start: int
    stop: int
    length: int
    new: int


@dataclass(frozen=True)
class Pack:
    """N texts, ordered by length, and their T distinct prefixes, the rows.

    Attributes:
        tokens: int64 [T], last token of each row's prefix.
        positions: int64 [T], its position.
        prefixes: int64 [N, L], the row of each prefix of each text, from the first token to the
            whole text; beyond the text's length any row.
        ends: int64 [N], the row of each whole text.
        groups: the texts by length.
        order: int64 [T], places of the rows among the groups' last ``new`` prefixes of each text,
            flattened and concatenated.
    """

    tokens: Tensor
    positions: Tensor
    prefixes: Tensor
    ends: Tensor
    groups: tuple[Group, ...]
    order: Tensor

    def to(self, device: torch.device) -> "Pack":
        """Move the indices to a device."""
        names = ("tokens", "positions", "prefixes", "ends", "order")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


@dataclass(frozen=True)
class Plan:
    """Packs of distinct texts.

    Attributes:
        packs: the packs.
        source: int64 [N], place of each planned text among the texts of all packs.
    """

    packs: tuple[Pack, ...]
    source: Tensor


def plan_texts(tokens: Tensor, lengths: Tensor, max_rows: int) -> Plan:
    """Plan the encoding of texts; equal texts and, within a pack, equal prefixes occur once.

    Args:
        tokens: int64 [N, C], token ids, not negative.
        lengths: int64 [N], the tokens of each text that count, from 1 to C.
        max_rows: bound of a pack's rows, which the longest text may exceed.
    """
    if not len(tokens):
        return Plan((), lengths)
    width = int(lengths.max())
    # In ascending order a text shares its longest known prefix with the text before it.
    outside = torch.arange(width) >= lengths[:, None]
    texts, inverse = tokens[:, :width].masked_fill(outside, -1).unique(dim=0, return_inverse=True)
    lengths = (texts >= 0).sum(dim=1)
    equal = (texts[1:] == texts[:-1]).long()
    shared = F.pad(equal.cumprod(dim=1).sum(dim=1), (1, 0))
    # Numbers of the packs, ascending: rows bound the states, tokens the keys gathered from them.
    rows, keys = (lengths - shared).cumsum(dim=0) - 1, lengths.cumsum(dim=0) - 1
    numbers = rows // max_rows + keys // (MAX_KEYS_PER_ROW * max_rows)
    sizes = numbers.unique_consecutive(return_counts=True)[1].tolist()
    packs, places, before = [], [], 0
    for part in zip(texts.split(sizes), lengths.split(sizes), shared.split(sizes), strict=True):
        pack, place = _pack(*part)
        packs.append(pack)
        places.append(place + before)
        before += len(place)
    return Plan(tuple(packs), torch.cat(places)[inverse])


def _pack(texts: Tensor, lengths: Tensor, shared: Tensor) -> tuple[Pack, Tensor]:
    """Pack texts in ascending order, each of which shares tokens with the one before.

    Returns:
        The pack and the place of each text in it.
    """
    by_length = lengths.argsort(stable=True)
    position = torch.arange(texts.shape[1]).expand_as(texts)
    # The first text shares nothing, as the text before it is in another pack.
    shared = shared.index_fill(0, torch.tensor([0]), 0)
    is_new = (position >= shared[:, None]) & (position < lengths[:, None])
    rows = is_new.flatten().cumsum(dim=0).view_as(texts) - 1
    # Rows ascend, so a shared prefix is the largest new row above it.
    prefixes = rows.where(is_new, 0).cummax(dim=0).values[by_length]
    groups = _groups(lengths[by_length].tolist(), (lengths - shared)[by_length].tolist())
    # Of a group's queries, some texts share the first ones with the text before.
    queries = torch.cat([last_prefixes(prefixes, group).flatten() for group in groups])
    own = torch.cat([last_prefixes(is_new[by_length], group).flatten() for group in groups])
    pack = Pack(
        tokens=texts[is_new],
        positions=position[is_new],
        prefixes=prefixes,
        ends=prefixes.gather(1, lengths[by_length, None] - 1)[:, 0],
        groups=groups,
        order=own.nonzero()[:, 0][queries[own].argsort()],
    )
    return pack, by_length.argsort()


def _groups(lengths: list[int], new: list[int]) -> tuple[Group, ...]:
    starts = [i for i, length in enumerate(lengths) if i == 0 or length != lengths[i - 1]]
    stops = [*starts[1:], len(lengths)]
    return tuple(
        Group(start, stop, lengths[start], max(new[start:stop]))
        for start, stop in zip(starts, stops, strict=True)
    )


def last_prefixes(prefixes: Tensor, group: Group) -> Tensor:
    """Of a value per prefix and text [N, L], those of a group's last ``new`` prefixes [n, new]."""
    return prefixes[group.start : group.stop, group.length - group.new : group.length]


def can_share_prefixes(clip: Any) -> bool:
    """Whether a CLIP pools text at its largest token id after a known, causal transformer."""
    if not (_is_exactly(clip, open_clip.CLIP) and clip.text_pool_type == "argmax"):
        return False
    mask, transformer = clip.attn_mask, clip.transformer
    causal = mask is not None and torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))
    return (
        causal
        and _is_exactly(transformer, Transformer)
        and all(
            _is_exactly(block, ResidualAttentionBlock)
            and _is_exactly(block.attn, nn.MultiheadAttention)
            and block.attn.in_proj_weight is not None
            and block.attn.in_proj_bias is not None
            and block.attn.bias_k is None
            and not block.attn.add_zero_attn
            for block in transformer.resblocks
        )
    )


def _is_exactly(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what its class says: no subclass, and no hooks."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module) is kind and not hooks and "forward" not in vars(module)


def encode_prefixes(
    clip: open_clip.CLIP, tokens: Tensor, advance: Callable[[int], None] = lambda count: None
) -> Tensor:
    """Encode texts as ``clip.encode_text`` does, each distinct prefix once; no gradients.

    Args:
        clip: a CLIP for which :func:`can_share_prefixes` holds.
        tokens: int64 [N, context] token ids on the CPU, N > 0.
        advance: called with the number of texts that have just been encoded.

    Returns:
        [N, D] on CLIP's device.
    """
    # Features are pooled at the end-of-text token, which has the largest id.
    plan = plan_texts(tokens, tokens.argmax(dim=-1) + 1, MAX_ROWS)
    # Equal texts are encoded once but count as often as they occur.
    occurrences = plan.source.bincount().split([len(pack.ends) for pack in plan.packs])
    features = []
    for pack, counts in zip(plan.packs, occurrences, strict=True):
        features.append(_encode_pack(clip, pack))
        advance(int(counts.sum()))
    return torch.cat(features)[plan.source.to(features[0].device)]


def _encode_pack(clip: open_clip.CLIP, pack: Pack) -> Tensor:
    """Encode the N texts of a pack: [N, D]."""
    pack, dtype = pack.to(clip.positional_embedding.device), clip.transformer.get_cast_dtype()
    x = clip.token_embedding(pack.tokens).to(dtype)
    x = x + clip.positional_embedding.to(dtype)[pack.positions]
    mask = clip.attn_mask.to(dtype)
    *blocks, last = clip.transformer.resblocks
    for block in blocks:
        x = _block(block, x, pack, mask)
    x = clip.ln_final(_block(last, x, pack, mask, at_ends=True))
    return project_text(clip, x)


def _block(
    block: ResidualAttentionBlock, x: Tensor, pack: Pack, mask: Tensor, *, at_ends: bool = False
) -> Tensor:
    """Compute a residual block on the rows [T, W]: [T, W], or [N, W] for the ends alone."""
    y = block.ln_1(x)
    x = x[pack.ends] if at_ends else x
    x = x + block.ls_1(_attention(block.attn, y, pack, mask, at_ends=at_ends))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _attention(
    attention: nn.MultiheadAttention, x: Tensor, pack: Pack, mask: Tensor, *, at_ends: bool
) -> Tensor:
    """Compute attention from rows [T, W], or from the ends, to the rows of their own texts."""
    heads = (attention.num_heads, attention.head_dim)
    qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).unflatten(-1, (3, *heads))
    outputs = []
    for group in pack.groups:
        keys = pack.prefixes[group.start : group.stop, : group.length]
        first = group.length - (1 if at_ends else group.new)
        q = qkv[keys[:, first:], 0].transpose(1, 2)
        k, v = qkv[keys, 1:].permute(2, 0, 3, 1, 4)
        own_mask = mask[first : group.length, : group.length]
        output = F.scaled_dot_product_attention(q, k, v, attn_mask=own_mask)
        outputs.append(output.transpose(1, 2).flatten(0, 1).flatten(1))
    output = torch.cat(outputs)
    output = output if at_ends else output[pack.order]
    return F.linear(output, attention.out_proj.weight, attention.out_proj.bias)


def project_text(clip: open_clip.CLIP, x: Tensor) -> Tensor:
    """Project pooled states [N, W] of a text transformer into CLIP space."""
    projection = clip.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Linear) else x @ projection
