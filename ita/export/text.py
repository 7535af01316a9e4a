"""The text tower as a function of token ids, and its tokenizer as a file."""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from ita.extras import optional_module
from ita.modeling.clip import FrozenCLIP, encode_trimmed_tokens
from ita.modeling.clip_tokens import WarningTokenizer
from ita.modeling.text_prefixes import can_share_prefixes
from ita.runtime.clip_tokenizer import ClipTokenizer, as_array

# CLIP's words: contractions, letters, single digits, and everything else that is no space.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
END_OF_WORD = "</w>"
# A text that tokenizers of different words, cleaning or context length tokenize differently.
PROBE = "It&#39;s  a Café, naïve_2024 ’quoted’ " + 100 * "very " + "long"


class TextGraph(nn.Module):
    """From token ids to unit text features.

    Args:
        clip: a CLIP for which :func:`ita.modeling.text_prefixes.can_share_prefixes` holds.
    """

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.clip = clip

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids int64 [n, length], zeros behind the end of a text: [n, D]."""
        return F.normalize(encode_trimmed_tokens(self.clip, tokens).float(), dim=-1)


def exportable_tokenizer(backbone: FrozenCLIP, texts: Sequence[str]) -> str | None:
    """Describe a CLIP's tokenizer for :class:`ita.runtime.clip_tokenizer.ClipTokenizer`.

    Args:
        backbone: the frozen CLIP.
        texts: texts that must have the same tokens, besides a difficult one.

    Returns:
        The JSON; None if text tower or tokenizer are of another kind than OpenAI's CLIP's.

    Raises:
        UserError: a library is missing.
    """
    if not can_share_prefixes(backbone.clip):
        return None
    description = _byte_pairs(SimpleTokenizer())
    tokenizer: Any = backbone.tokenizer
    if isinstance(tokenizer, WarningTokenizer):  # which need not warn of the probe
        tokenizer = tokenizer.tokenizer
    expected = tokenizer([PROBE, *texts])
    tokens = as_array(ClipTokenizer(description, expected.shape[1])([PROBE, *texts]))
    missing = expected.shape[1] - tokens.shape[1]
    same = torch.equal(F.pad(torch.from_numpy(tokens), (0, missing)), expected)
    return description if same else None


def _byte_pairs(tokenizer: SimpleTokenizer) -> str:
    """Describe CLIP's byte pairs in the JSON format of the library ``tokenizers``."""
    library: Any = optional_module("tokenizers", "exporting the text tower")
    start, end = "<start_of_text>", "<end_of_text>"
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    pairs = library.Tokenizer(
        library.models.BPE(vocab=tokenizer.encoder, merges=merges, end_of_word_suffix=END_OF_WORD)
    )
    pairs.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(library.Regex(WORDS), behavior="removed", invert=True),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    pairs.post_processor = library.processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(token, tokenizer.encoder[token]) for token in (start, end)],
    )
    return pairs.to_str()
