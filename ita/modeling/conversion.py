"""Conversion of FC-CLIP and first-release ITA checkpoints (design section 8)."""

import re
from collections.abc import Mapping

from torch import Tensor

_ENCODER = r"sem_seg_head\.pixel_decoder\.transformer\.encoder\.layers\.(\d+)\."
_PIXEL = r"sem_seg_head\.pixel_decoder\."
_PREDICTOR = r"sem_seg_head\.predictor\."
# Patterns of original names and names in this model; the first full match is applied.
_RENAMES: tuple[tuple[str, str], ...] = (
    (r"backbone\.clip_model\.(.+)", r"backbone.clip.\1"),
    (r"backbone\.add_tgt_em\.weight", r"dominant.projection.weight"),
    (_PIXEL + r"input_proj\.0\.(.+)", r"pixel_decoder.input_proj.res5.\1"),
    (_PIXEL + r"input_proj\.1\.(.+)", r"pixel_decoder.input_proj.res4.\1"),
    (_PIXEL + r"input_proj\.2\.(.+)", r"pixel_decoder.input_proj.res3.\1"),
    (_PIXEL + r"transformer\.level_embed", r"pixel_decoder.level_embed"),
    (
        _ENCODER + r"self_attn\.sampling_offsets\.(.+)",
        r"pixel_decoder.layers.\1.attention.offsets.\2",
    ),
    (
        _ENCODER + r"self_attn\.attention_weights\.(.+)",
        r"pixel_decoder.layers.\1.attention.weights.\2",
    ),
    (
        _ENCODER + r"self_attn\.(value|output)_proj\.(.+)",
        r"pixel_decoder.layers.\1.attention.\2.\3",
    ),
    (_ENCODER + r"norm1\.(.+)", r"pixel_decoder.layers.\1.norm.\2"),
    (_ENCODER + r"norm2\.(.+)", r"pixel_decoder.layers.\1.feed_forward.norm.\2"),
    (_ENCODER + r"(linear[12]\..+)", r"pixel_decoder.layers.\1.feed_forward.\2"),
    (_PIXEL + r"adapter_1\.weight", r"pixel_decoder.lateral.0.weight"),
    (_PIXEL + r"adapter_1\.norm\.(.+)", r"pixel_decoder.lateral.1.\1"),
    (_PIXEL + r"layer_1\.weight", r"pixel_decoder.fusion.0.weight"),
    (_PIXEL + r"layer_1\.norm\.(.+)", r"pixel_decoder.fusion.1.\1"),
    (_PIXEL + r"(mask_features\..+)", r"pixel_decoder.\1"),
    (_PREDICTOR + r"query_feat\.weight", r"decoder.query_feature.weight"),
    (_PREDICTOR + r"query_embed\.weight", r"decoder.query_position.weight"),
    (_PREDICTOR + r"(level_embed\.weight|input_proj\..+)", r"decoder.\1"),
    (
        _PREDICTOR + r"transformer_(cross|self)_attention_layers\.(\d+)\.\w+_attn\.in_proj_(\w+)",
        r"decoder.layers.\2.\1_attention.in_proj.\3",
    ),
    (
        _PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(out_proj\..+)",
        r"decoder.layers.\1.cross_attention.\2",
    ),
    (
        _PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.self_attn\.(out_proj\..+)",
        r"decoder.layers.\1.self_attention.\2",
    ),
    (
        _PREDICTOR + r"transformer_(cross|self)_attention_layers\.(\d+)\.(norm\..+)",
        r"decoder.layers.\2.\1_attention.\3",
    ),
    (_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.(.+)", r"decoder.layers.\1.feed_forward.\2"),
    (_PREDICTOR + r"decoder_norm\.(.+)", r"decoder.head.norm.\1"),
    (_PREDICTOR + r"_mask_pooling_proj\.(.+)", r"decoder.head.region_proj.\1"),
    (_PREDICTOR + r"((?:mask|class)_embed\..+|logit_scale)", r"decoder.head.\1"),
)
# Not a parameter: the class weights of the original cross-entropy.
_DROPPED = "criterion.empty_weight"
# The first ITA release multiplies by this matrix from the right.
_TRANSPOSED = "backbone.add_tgt_em.weight"


def convert_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of an FC-CLIP or first-release ITA state dict to this model's names.

    A state dict of this model is returned unchanged. Unknown names are kept, so that loading
    reports them.
    """
    converted = {}
    for name, tensor in state.items():
        if name == _DROPPED:
            continue
        converted[_rename(name)] = tensor.T if name == _TRANSPOSED else tensor
    return converted


def _rename(name: str) -> str:
    for pattern, replacement in _RENAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name
