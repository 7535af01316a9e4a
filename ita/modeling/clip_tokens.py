"""CLIP weights with a reduced token table, for models trained with few words.

Such a file contains ``token_embedding.weight`` [n, W] and ``token_embedding.rows`` [n] int64, the
ascending ids of these tokens; every other row of the table is zero.
"""

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ita.modeling.storage import write_tensors

logger = logging.getLogger(__name__)

TABLE, ROWS = "token_embedding.weight", "token_embedding.rows"
# Maximum number of words listed in one warning.
MAX_LISTED_WORDS = 20

Tokenizer = Callable[[list[str]], Tensor]


def save_clip(clip: nn.Module, path: str | Path, rows: Tensor) -> None:
    """Write a CLIP's weights with some rows of its token table, atomically.

    Args:
        clip: an open_clip model with a token table.
        path: the safetensors file to write. Tensors are stored in float32.
        rows: [n] int64 ascending token ids, see :func:`token_ids`.

    Raises:
        UserError: the file cannot be written.
    """
    table = clip.state_dict()[TABLE]
    state = clip.state_dict() | {TABLE: table[rows.to(table.device)]}
    write_tensors(path, {name: tensor.float() for name, tensor in state.items()} | {ROWS: rows})


def token_ids(tokens: Tensor) -> Tensor:
    """Return the ascending token ids in tokenized texts [N, context], without padding."""
    # The end-of-text token has the largest id.
    ends = tokens.argmax(dim=-1, keepdim=True)
    return tokens[torch.arange(tokens.shape[1]) <= ends].unique()


def complete_token_table(state: dict[str, Tensor], shape: torch.Size) -> Tensor:
    """Replace the used rows in a state dict by the full token table of a shape, in place.

    Returns:
        The ids of the used rows.

    Raises:
        ValueError: the table is missing, or rows, table and shape do not match.
    """
    rows, table = state.pop(ROWS), state.get(TABLE)
    if table is None:
        raise ValueError(f"{ROWS} without {TABLE}")
    if rows.dtype != torch.int64 or table.shape != (*rows.shape, *shape[1:]):
        raise ValueError(
            f"{ROWS} is {rows.dtype} {list(rows.shape)} and {TABLE} {list(table.shape)}; they "
            f"should be int64 [n] and [n, {shape[1]}]"
        )
    in_range = bool(((rows >= 0) & (rows < shape[0])).all())
    if not in_range or bool((rows.diff() <= 0).any()):
        raise ValueError(f"{ROWS} should be ascending ids in 0-{shape[0] - 1}")
    # In place: zeros that are only read take no memory.
    state[TABLE] = table.new_zeros(shape).index_copy_(0, rows, table)
    return rows


class WarningTokenizer:
    """A tokenizer that warns, once per word, of words that a CLIP was not trained with.

    Args:
        tokenizer: texts -> [N, context] int64 token ids.
        rows: [n] int64, ids of the tokens that CLIP was trained with.
        clip_name: name of this CLIP in warnings.
    """

    def __init__(self, tokenizer: Tokenizer, rows: Tensor, clip_name: str) -> None:
        self.tokenizer = tokenizer
        self.clip_name = clip_name
        self._rows = rows
        self._warned: set[str] = set()

    def __call__(self, texts: list[str]) -> Tensor:
        """Tokenize texts: [N, context] int64."""
        tokens = self.tokenizer(texts)
        if not self._knows(tokens):
            # Tokens do not cross word boundaries.
            words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
            self._warn(sorted(words - self._warned))
        return tokens

    def _knows(self, tokens: Tensor) -> bool:
        return bool(torch.isin(token_ids(tokens), self._rows).all())

    def _warn(self, words: Iterable[str]) -> None:
        new = [word for word in words if not self._knows(self.tokenizer([word]))]
        if not new:
            return
        self._warned.update(new)
        more = f" and {len(new) - MAX_LISTED_WORDS} more" if len(new) > MAX_LISTED_WORDS else ""
        logger.warning(
            "CLIP %s was trained without the words: %s%s; their features are unreliable",
            self.clip_name,
            ", ".join(new[:MAX_LISTED_WORDS]),
            more,
        )
