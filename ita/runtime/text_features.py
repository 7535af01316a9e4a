"""Text features of class names from an exported text tower (design section 2)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ita.classes import ClassList
from ita.runtime.clip_tokenizer import ClipTokenizer, as_array
from ita.runtime.export_files import Description, TextInputs

# Texts per pass of the text tower.
BATCH = 256
# Token ids int64 [n, length], zeros behind the end of a text -> unit vectors [n, D].
TextTower = Callable[[np.ndarray], np.ndarray]


class NameEncoder:
    """Encodes class lists for an exported model; every name is encoded once.

    Args:
        description: of the model.
        tokenizer: its tokenizer.
        tower: its text tower.
    """

    def __init__(
        self, description: Description, tokenizer: ClipTokenizer, tower: TextTower
    ) -> None:
        self._description, self._tokenizer, self._tower = description, tokenizer, tower
        self._features: dict[tuple[tuple[str, ...], str], np.ndarray] = {}

    def encode(self, class_list: ClassList) -> TextInputs:
        """Encode C classes with N names."""
        description = self._description
        names = class_list.synonyms
        training = ClassList("training", tuple((name,) for name in description.training_names))
        arrays = {
            "text": self._encode_names(names, description.prompts),
            "class_index": np.array(class_list.class_index, np.int64),
            "seen": np.array(class_list.seen(training)),
        }
        if description.dominant:
            candidates = (*names, description.other)
            features = self._encode_names(candidates, description.candidate_prompts)
            arrays |= {"candidates": features, "candidate_queries": features}
        return TextInputs(class_list, arrays)

    def _encode_names(self, names: Sequence[str], prompts: tuple[str, ...]) -> np.ndarray:
        """Encode names as means over prompts of unit vectors, normalized: float32 [N, D]."""
        missing = [n for n in dict.fromkeys(names) if (prompts, n) not in self._features]
        if missing:
            texts = [prompt.format(name) for name in missing for prompt in prompts]
            per_prompt = self._encode_texts(texts).reshape(len(missing), len(prompts), -1)
            means = per_prompt.mean(axis=1)
            means /= np.linalg.norm(means, axis=-1, keepdims=True)
            for name, feature in zip(missing, means, strict=True):
                self._features[prompts, name] = feature
        return np.stack([self._features[prompts, name] for name in names])

    def _encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        tokens = self._tokenizer(texts)
        # Texts of similar length together, since a batch is as long as its longest text.
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        features: list[Any] = [None] * len(tokens)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            encoded = self._tower(as_array([tokens[i] for i in batch]))
            for i, feature in zip(batch, encoded, strict=True):
                features[i] = feature
        return np.stack(features)
