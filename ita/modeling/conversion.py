"""Conversion between the checkpoints of this model, FC-CLIP and the first ITA release.

One table of names serves both directions (design section 8).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from ita.errors import UserError

ITA, FCCLIP, FIRST_RELEASE = "ita", "fcclip", "ita-first-release"
KINDS = (ITA, FCCLIP, FIRST_RELEASE)
# Class weights of the ancestors' cross-entropy: a buffer, which the config determines here.
EMPTY_WEIGHT = "criterion.empty_weight"

# Placeholders and their values. Layers and the names in the CLIP model are not limited.
_VALUES = {"param": ("weight", "bias"), "of2": ("0", "1"), "of3": ("0", "1", "2")}
_PATTERNS = {"layer": r"\d+", "rest": ".+"} | {k: "|".join(v) for k, v in _VALUES.items()}
# Prefix in FC-CLIP and in the first ITA release, prefix here, and names below these prefixes.
_PARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "",
        "",
        (
            ("backbone.clip_model.{rest}", "backbone.clip.{rest}"),
            ("backbone.add_tgt_em.weight", "dominant.projection.weight"),
            ("void_embedding.weight", "void_embedding.weight"),
        ),
    ),
    (
        "sem_seg_head.pixel_decoder.",
        "pixel_decoder.",
        (
            ("input_proj.0.{of2}.{param}", "input_proj.res5.{of2}.{param}"),
            ("input_proj.1.{of2}.{param}", "input_proj.res4.{of2}.{param}"),
            ("input_proj.2.{of2}.{param}", "input_proj.res3.{of2}.{param}"),
            ("transformer.level_embed", "level_embed"),
            ("adapter_1.weight", "lateral.0.weight"),
            ("adapter_1.norm.{param}", "lateral.1.{param}"),
            ("layer_1.weight", "fusion.0.weight"),
            ("layer_1.norm.{param}", "fusion.1.{param}"),
            ("mask_features.{param}", "mask_features.{param}"),
        ),
    ),
    (
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.{layer}.",
        "pixel_decoder.layers.{layer}.",
        (
            ("self_attn.sampling_offsets.{param}", "attention.offsets.{param}"),
            ("self_attn.attention_weights.{param}", "attention.weights.{param}"),
            ("self_attn.value_proj.{param}", "attention.value.{param}"),
            ("self_attn.output_proj.{param}", "attention.output.{param}"),
            ("norm1.{param}", "norm.{param}"),
            ("linear1.{param}", "feed_forward.linear1.{param}"),
            ("linear2.{param}", "feed_forward.linear2.{param}"),
            ("norm2.{param}", "feed_forward.norm.{param}"),
        ),
    ),
    (
        "sem_seg_head.predictor.",
        "decoder.",
        (
            ("query_feat.weight", "query_feature.weight"),
            ("query_embed.weight", "query_position.weight"),
            ("level_embed.weight", "level_embed.weight"),
            ("input_proj.{of3}.{param}", "input_proj.{of3}.{param}"),
            ("decoder_norm.{param}", "head.norm.{param}"),
            ("_mask_pooling_proj.{of2}.{param}", "head.region_proj.{of2}.{param}"),
            ("mask_embed.layers.{of3}.{param}", "head.mask_embed.layers.{of3}.{param}"),
            ("class_embed.layers.{of3}.{param}", "head.class_embed.layers.{of3}.{param}"),
            ("logit_scale", "head.logit_scale"),
        ),
    ),
    (
        "sem_seg_head.predictor.transformer_cross_attention_layers.{layer}.",
        "decoder.layers.{layer}.cross_attention.",
        (
            ("multihead_attn.in_proj_{param}", "in_proj.{param}"),
            ("multihead_attn.out_proj.{param}", "out_proj.{param}"),
            ("norm.{param}", "norm.{param}"),
        ),
    ),
    (
        "sem_seg_head.predictor.transformer_self_attention_layers.{layer}.",
        "decoder.layers.{layer}.self_attention.",
        (
            ("self_attn.in_proj_{param}", "in_proj.{param}"),
            ("self_attn.out_proj.{param}", "out_proj.{param}"),
            ("norm.{param}", "norm.{param}"),
        ),
    ),
    (
        "sem_seg_head.predictor.transformer_ffn_layers.{layer}.",
        "decoder.layers.{layer}.feed_forward.",
        (
            ("linear1.{param}", "linear1.{param}"),
            ("linear2.{param}", "linear2.{param}"),
            ("norm.{param}", "norm.{param}"),
        ),
    ),
)
_NAMES = [
    (their_prefix + theirs, our_prefix + ours)
    for their_prefix, our_prefix, pairs in _PARTS
    for theirs, ours in pairs
]
_CLIP = "backbone.clip."
_PROJECTION = "dominant.projection.weight"
_FEATURE, _POSITION = "decoder.query_feature.weight", "decoder.query_position.weight"
# Of text queries, which the ancestors' heads do not have.
_TEXT_WEIGHT = "decoder.head.text_weight"
_LAST_CLASS_LAYER = "decoder.head.class_embed.layers.2.weight"
_LAYERS = ("pixel_decoder.layers.", "decoder.layers.")


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"{(\w+)}", template)  # text, placeholder, text, ...
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = (f"(?P<{name}>{_PATTERNS[name]})" for name in parts[1::2])
    return re.compile("".join(parts))


_TO_OURS = [(_pattern(theirs), ours) for theirs, ours in _NAMES]
_TO_THEIRS = [(_pattern(ours), theirs) for theirs, ours in _NAMES]


class Mapped(NamedTuple):
    """A tensor of the input and its place in the output."""

    name: str
    new_name: str
    tensor: Tensor
    note: str = ""


class Conversion(NamedTuple):
    """Result of a conversion.

    Attributes:
        kind: kind of the input.
        mapped: every tensor of the output, in the order of the input.
        dropped: name in the input -> reason.
        kept: name in the input -> reason why it is no weight of the output, but stored beside them.
        missing: name in the output -> consequence.
    """

    kind: str
    mapped: list[Mapped]
    dropped: dict[str, str]
    kept: dict[str, str]
    missing: dict[str, str]


class Architecture(NamedTuple):
    """What the names and shapes of a state dict tell about its model."""

    num_queries: int
    num_dominant: int
    self_attention: bool
    text_residual: bool


def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an FC-CLIP or first-release ITA state dict to this model's names.

    A state dict of this model is returned unchanged. Unknown names are kept, so that loading
    reports them.
    """
    converted = {}
    for name, tensor in state.items():
        if name == EMPTY_WEIGHT:
            continue
        new_name = _renamed(name, _TO_OURS) or name
        converted[new_name] = tensor.T if _is_transposed(name, new_name) else tensor
    return converted


def architecture_of(state: Mapping[str, Tensor]) -> Architecture | None:
    """Read the architecture from a state dict in this model's names; None if it has no queries."""
    if _FEATURE not in state or _POSITION not in state:
        return None
    num_queries = len(state[_FEATURE])
    return Architecture(
        num_queries=num_queries,
        num_dominant=len(state[_POSITION]) - num_queries,
        self_attention=any(".self_attention." in name for name in state),
        text_residual=_TEXT_WEIGHT in state,
    )


def kind_of(names: Iterable[str]) -> str:
    """Recognize whose names a state dict has.

    Raises:
        UserError: nobody's, or names of this model mixed with others.
    """
    names = list(names)
    ours = [n for n in names if _renamed(n, _TO_THEIRS) not in (None, n)]
    theirs = [n for n in names if _renamed(n, _TO_OURS) not in (None, n)]
    if ours and theirs:
        raise UserError(f"names of ITA ({ours[0]}) and of FC-CLIP ({theirs[0]}) are mixed")
    if not ours and not theirs:
        raise UserError(
            "no tensor has a name of ITA, FC-CLIP or the first ITA release; the first is "
            f"{names[0]}"
        )
    if ours:
        return ITA
    return FIRST_RELEASE if "backbone.add_tgt_em.weight" in names else FCCLIP


def convert(state: Mapping[str, Tensor], target: str) -> Conversion:
    """Convert a state dict of any kind to the names of another kind.

    Args:
        state: tensors by name, of the kind that :func:`kind_of` recognizes.
        target: one of ``KINDS``.

    Raises:
        UserError: the kind is unknown, shapes contradict each other, or the target's architecture
            has no place for the model.
    """
    kind = kind_of(state)
    ours: dict[str, Mapped] = {}
    dropped, kept = {}, {}
    for name, tensor in state.items():
        new_name = name if kind == ITA else _renamed(name, _TO_OURS)
        if name == EMPTY_WEIGHT:
            continue
        if name == _TEXT_WEIGHT:
            ours[name] = Mapped(name, name, tensor)
        elif new_name is None or _renamed(new_name, _TO_THEIRS) is None:
            dropped[name] = "a tensor that the model does not have"
        else:
            transposed = _is_transposed(name, new_name)
            ours[new_name] = Mapped(name, new_name, tensor.T if transposed else tensor)
    _check_shapes(ours)
    if target == FCCLIP:
        _leave_out_dominant(ours, dropped)
    _check_architecture(ours, target)
    mapped = [_to_target(entry, target) for entry in ours.values()]
    missing = _missing(ours, target)
    if target == ITA and EMPTY_WEIGHT in state:
        kept[EMPTY_WEIGHT] = "class weights of the loss, no parameter; stored beside the weights"
    elif EMPTY_WEIGHT in state:
        mapped.append(Mapped(EMPTY_WEIGHT, EMPTY_WEIGHT, state[EMPTY_WEIGHT]))
    elif target != ITA:
        missing[EMPTY_WEIGHT] = "class weights of the loss, no parameter; that code creates it"
    return Conversion(kind, mapped, dropped, kept, missing)


def _renamed(name: str, table: list[tuple[re.Pattern[str], str]]) -> str | None:
    """Return the new name of a tensor; None if the table does not have it."""
    for pattern, template in table:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    return None


def _is_transposed(name: str, new_name: str) -> bool:
    """Whether a matrix multiplies from the left here and from the right in the first release."""
    return name != new_name and _PROJECTION in (name, new_name)


def _check_shapes(ours: Mapping[str, Mapped]) -> None:
    """Check the shapes that the numbers of queries and the widths of the model determine."""
    shapes = {name: tuple(entry.tensor.shape) for name, entry in ours.items()}
    feature, position = shapes.get(_FEATURE), shapes.get(_POSITION)
    projection, last = shapes.get(_PROJECTION), shapes.get(_LAST_CLASS_LAYER)
    involved = [_FEATURE, _POSITION]
    fits = True
    if feature and position:
        fits = len(feature) == len(position) == 2 and feature[1] == position[1]
        fits = fits and (position[0] > feature[0] if projection else position == feature)
    if fits and projection and feature and last:
        involved = [_FEATURE, _PROJECTION, _LAST_CLASS_LAYER]
        fits = projection == (feature[1], last[0])
    if not fits:
        shown = [f"{ours[n].name} {shape_text(ours[n].tensor)}" for n in involved if n in ours]
        raise UserError(f"these shapes do not fit each other: {', '.join(shown)}")


def _leave_out_dominant(ours: dict[str, Mapped], dropped: dict[str, str]) -> None:
    """Remove the dominant categories' projection and their rows of the position table."""
    architecture = architecture_of({name: entry.tensor for name, entry in ours.items()})
    if _PROJECTION not in ours or architecture is None:
        return
    if _TEXT_WEIGHT in ours:
        dropped[ours.pop(_TEXT_WEIGHT).name] = "FC-CLIP has no text queries"
    dropped[ours.pop(_PROJECTION).name] = (
        "FC-CLIP has no dominant categories; the result is the model with MODEL.ITA.NUM_DOMINANT 0"
    )
    positions, rows = ours[_POSITION], len(ours[_POSITION].tensor)
    ours[_POSITION] = positions._replace(
        tensor=positions.tensor[architecture.num_dominant :].clone(),  # a view would save all rows
        note=f"without the {architecture.num_dominant} rows of dominant categories, of {rows}",
    )


def _check_architecture(ours: Mapping[str, Mapped], target: str) -> None:
    self_attention = any(".self_attention." in name for name in ours)
    if target == FCCLIP and not self_attention:
        raise UserError(
            "FC-CLIP's decoder needs self-attention between queries, and this model has none "
            "(MODEL.ITA.SELF_ATTENTION False)"
        )
    if target == FIRST_RELEASE and self_attention:
        raise UserError(
            "the first ITA release has no self-attention between queries, and this model does "
            "(MODEL.ITA.SELF_ATTENTION True)"
        )
    if target == FIRST_RELEASE and _TEXT_WEIGHT in ours:
        raise UserError(
            "the first ITA release has no text features in the class embeddings of its queries, "
            "and this model does (MODEL.ITA.TEXT_RESIDUAL True)"
        )
    if target == FIRST_RELEASE and _PROJECTION not in ours:
        raise UserError(
            "the first ITA release needs the projection of dominant categories, and this model "
            "has none (MODEL.ITA.NUM_DOMINANT 0)"
        )


def _to_target(entry: Mapped, target: str) -> Mapped:
    name, our_name, tensor, note = entry
    if target == ITA:
        new_name = our_name
    else:
        new_name = str(_renamed(our_name, _TO_THEIRS))
        tensor = tensor.T if _is_transposed(our_name, new_name) else tensor
    if _is_transposed(name, new_name):
        note = "transposed"
    return Mapped(name, new_name, tensor.contiguous(), note)


def _missing(ours: Mapping[str, Mapped], target: str) -> dict[str, str]:
    missing = {}
    for name in _expected(ours):
        if name not in ours:
            new_name = name if target == ITA else str(_renamed(name, _TO_THEIRS))
            missing[new_name] = "keeps its initial value when the checkpoint is loaded"
    if target != ITA and not any(name.startswith(_CLIP) for name in ours):
        missing["backbone.clip_model.*"] = (
            "the frozen CLIP, which that code loads from open_clip before it warns about these keys"
        )
    return missing


def _expected(ours: Mapping[str, Mapped]) -> Iterator[str]:
    """Yield the names that a model has, with as many layers and optional parts as are present."""
    layers = {
        prefix: [n.removeprefix(prefix).partition(".")[0] for n in ours if n.startswith(prefix)]
        for prefix in _LAYERS
    }
    present = {"", *map(_optional_part, ours)}
    for _, template in _NAMES:
        placeholders = re.findall(r"{(\w+)}", template)
        if "rest" in placeholders or _optional_part(template) not in present:
            continue
        prefix = template.partition("{layer}")[0]
        numbers = range(1 + max(map(int, layers[prefix]), default=-1)) if prefix in layers else ()
        choices = [_VALUES.get(name, numbers) for name in placeholders]
        for values in itertools.product(*choices):
            yield template.format(**dict(zip(placeholders, values, strict=True)))


def _optional_part(name: str) -> str:
    """Return the part, present in some models only, that a tensor belongs to; "" for others."""
    parts = ("dominant.", "decoder.input_proj.", ".self_attention.")
    return next((p for p in parts if name.startswith(p) or (p[0] == "." and p in name)), "")


def shape_text(tensor: Tensor) -> str:
    """Describe a shape: "256x768", or "scalar"."""
    return "x".join(map(str, tensor.shape)) or "scalar"
