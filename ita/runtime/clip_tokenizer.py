"""CLIP's tokenizer without open_clip, which imports PyTorch."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ita.errors import UserError
from ita.extras import optional_module


class ClipTokenizer:
    """Converts texts to token ids as open_clip does.

    Args:
        description: CLIP's byte pairs in the JSON format of the library ``tokenizers``.
        context_length: maximum number of tokens of a text.
    """

    def __init__(self, description: str, context_length: int) -> None:
        library: Any = optional_module("tokenizers", "encoding class names")
        self._pairs = library.Tokenizer.from_str(description)
        self._fix_text: Any = optional_module("ftfy", "encoding class names").fix_text
        self._context_length = context_length

    @classmethod
    def read(cls, path: Path, context_length: int) -> "ClipTokenizer":
        """Read the tokenizer of an exported model.

        Raises:
            UserError: the file is missing or damaged, or a library is not installed.
        """
        try:
            return cls(path.read_text("utf-8"), context_length)
        except UserError:
            raise
        except Exception as error:  # the library raises bare exceptions
            raise UserError(f"cannot read {path}: {error}") from error

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Convert texts to token ids, from the start of the text to its end."""
        encodings = self._pairs.encode_batch([self._clean(text) for text in texts])
        limit = self._context_length
        every = (encoding.ids for encoding in encodings)
        return [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in every]

    def _clean(self, text: str) -> str:
        text = html.unescape(html.unescape(self._fix_text(text)))
        return " ".join(text.split()).lower()


def as_array(tokens: Sequence[Sequence[int]]) -> np.ndarray:
    """Pad token ids with zeros: int64 [n, longest]."""
    padded = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = ids
    return padded
