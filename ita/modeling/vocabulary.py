"""From class names to text classifier and class logits (paper section 3.2; design section 2)."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor

from ita.classes import ClassList
from ita.modeling.clip import FrozenCLIP
from ita.modeling.ops.plain import plain_selected
from ita.modeling.text_cache import FeatureCache, digest_of
from ita.modeling.text_identity import text_identity
from ita.progress import Advance, Progress, no_progress

logger = logging.getLogger(__name__)

PROMPTS: tuple[str, ...] = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    *(
        pattern.replace("SIZE", size)
        for size in ("small", "medium", "large")
        for pattern in (
            "a photo of a SIZE {}.",
            "This is a photo of a SIZE {}.",
            "There is a SIZE {} in the scene.",
        )
    ),
)
BARE: tuple[str, ...] = ("{}",)
# Represents everything that no name of a class list covers.
OTHER = "other"
# Maximum scale of cosine similarities before softmax, as in CLIP's training.
MAX_LOGIT_SCALE = 100.0


class TextEncoder:
    """Text features of class names from the frozen CLIP; each name is encoded once.

    Create it when CLIP's weights are final, as cached features are never recomputed. It can be
    shared between threads.

    Args:
        clip: the frozen CLIP.
        collective: in a distributed job, the main process encodes and broadcasts, which makes
            :meth:`encode` a collective call: all processes call it with the same names. Otherwise
            each process encodes for itself.
        cache: keeps features for later processes; None to encode all names here.
        progress: shows how far the encoding has come, which takes minutes for many names on a CPU.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        *,
        collective: bool = False,
        cache: FeatureCache | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.clip, self.collective, self.cache, self.progress = clip, collective, cache, progress
        self._features: dict[tuple[tuple[str, ...], str], Tensor] = {}
        self._identity: str | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "clip": self.clip,
            "collective": self.collective,
            "cache": self.cache,
            "progress": self.progress,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def encode(self, names: Sequence[str], prompts: tuple[str, ...] = PROMPTS) -> Tensor:
        """Encode names as unit vectors: means over prompts of unit text features, normalized.

        Args:
            names: N names, repeats allowed.
            prompts: patterns with one ``{}`` each.

        Returns:
            [N, D] float32 on CLIP's device.
        """
        with self._lock:
            missing = [n for n in dict.fromkeys(names) if (prompts, n) not in self._features]
            if missing:
                features = self._encode_once(missing, prompts)
                for name, feature in zip(missing, features, strict=True):
                    self._features[prompts, name] = feature
            rows = [self._features[prompts, name] for name in names]
        device = self.clip.device  # to which the model may have moved since a name was encoded
        return torch.stack([row.to(device) for row in rows])

    @torch.no_grad()
    def _encode_once(self, names: Sequence[str], prompts: tuple[str, ...]) -> Tensor:
        shape, device = (len(names), self.clip.embed_dim), self.clip.device
        features = torch.empty(shape, dtype=torch.float32, device=device)
        if comm.is_main_process() or not self.collective:
            features.copy_(self._load_or_encode(names, prompts))
        if self.collective and comm.get_world_size() > 1:
            torch.distributed.broadcast(features, src=0)
        return features

    def _load_or_encode(self, names: Sequence[str], prompts: tuple[str, ...]) -> Tensor:
        """Compute the features of names, [N, D], or take them from the cache."""
        if self.cache is None or plain_selected():
            return self._encode_names(names, prompts)
        key = self._cache_key(prompts)
        found = self.cache.load(key, names)
        if found:
            # The tokenizer may warn of words, also of those in names that are not encoded.
            self.clip.tokenizer([*found, *(prompt.format("") for prompt in prompts)])
        if missing := [name for name in names if name not in found]:
            features = self._encode_names(missing, prompts).cpu()
            self.cache.store(key, missing, features)
            found |= zip(missing, features, strict=True)
        return torch.stack([found[name] for name in names])

    def _encode_names(self, names: Sequence[str], prompts: tuple[str, ...]) -> Tensor:
        title = f"encoding {len(names):,} names × {len(prompts)} prompts"
        with self.progress(title, len(names) * len(prompts), "texts") as advance:
            return _encode_names(self.clip, names, prompts, advance)

    def _cache_key(self, prompts: tuple[str, ...]) -> str:
        """Digest of what features depend on besides the name."""
        self._identity = self._identity or text_identity(self.clip)
        # Rounding differs between kinds of devices and with TF32.
        precision = (self.clip.device.type, torch.get_float32_matmul_precision())
        return digest_of([self._identity, precision, prompts])


def _encode_names(
    clip: FrozenCLIP, names: Sequence[str], prompts: tuple[str, ...], advance: Advance
) -> Tensor:
    """Encode names as unit vectors [N, D] (:meth:`TextEncoder.encode`)."""
    texts = [prompt.format(name) for name in names for prompt in prompts]
    per_prompt = F.normalize(clip.encode_text(texts, advance), dim=-1)
    per_name = per_prompt.view(len(names), len(prompts), -1).mean(dim=1)
    return F.normalize(per_name, dim=-1)


@dataclass(frozen=True)
class Candidates:
    """Candidates for dominant categories: all synonyms of a class list in order, then "other".

    Attributes:
        names: M names.
        ranking: [M, D] unit text features to compare with the image.
        queries: [M, D] text features to project to queries.
        class_index: int64 [M], the class of each name, -1 for "other".
    """

    names: tuple[str, ...]
    ranking: Tensor
    queries: Tensor
    class_index: Tensor


@dataclass(frozen=True)
class Vocabulary:
    """A class list encoded by the frozen CLIP; an immutable input of inference.

    Attributes:
        class_list: C classes with N synonyms in all.
        features: [N, D], one unit vector per synonym.
        class_index: int64 [N], the class of each synonym.
        seen: bool [C], classes that share a synonym with the training class list.
        candidates: candidates for dominant categories; None without dominant categories.
    """

    class_list: ClassList
    features: Tensor
    class_index: Tensor
    seen: Tensor
    candidates: Candidates | None


def encode_vocabulary(
    class_list: ClassList, training: ClassList, text: TextEncoder, candidates: Candidates | None
) -> Vocabulary:
    """Encode a class list.

    Args:
        class_list: C classes.
        training: the training class list of the model.
        text: encodes the names; see :meth:`TextEncoder.encode` for distributed jobs.
        candidates: output of :func:`encode_candidates`; None without dominant categories.
    """
    device = text.clip.device
    return Vocabulary(
        class_list=class_list,
        features=text.encode(class_list.synonyms),
        class_index=torch.tensor(class_list.class_index, device=device),
        seen=torch.tensor(class_list.seen(training), device=device),
        candidates=candidates,
    )


def encode_candidates(
    class_list: ClassList,
    text: TextEncoder,
    *,
    prompts: tuple[str, ...],
    name_table: Mapping[str, Tensor],
) -> Candidates:
    """Encode the candidates for dominant categories of a class list (design section 3).

    Logs which names a name table lacks.

    Args:
        class_list: C classes with N synonyms.
        text: encodes the names.
        prompts: patterns with one ``{}`` each for the name.
        name_table: [D] features by name; they replace the features projected to queries, not those
            compared with the image.

    Returns:
        M = N + 1 candidates.
    """
    names = (*class_list.synonyms, OTHER)
    ranking = text.encode(names, prompts)
    queries = ranking
    if replaced := [row for row, name in enumerate(names) if name in name_table]:
        queries = ranking.clone()
        for row in replaced:
            queries[row] = name_table[names[row]]
    if name_table:
        _note_missing(class_list, names, name_table)
    classes = torch.tensor([*class_list.class_index, -1], device=text.clip.device)
    return Candidates(names, ranking, queries, classes)


def _note_missing(
    class_list: ClassList, names: Sequence[str], name_table: Mapping[str, Tensor]
) -> None:
    """Log how many of the names a name table lacks, and which."""
    distinct = dict.fromkeys(names)
    missing = [name for name in distinct if name not in name_table]
    if not missing:
        count = len(distinct)
        logger.info("name table: all %d candidate names of %s found", count, class_list.name)
        return
    logger.warning(
        "name table (MODEL.ITA.NAME_TABLE): lacks %d of the %d candidate names of class list %s, "
        "which keep CLIP's text features: %s",
        len(missing),
        len(distinct),
        class_list.name,
        ", ".join(missing),
    )


@dataclass(frozen=True)
class Classifier:
    """The text classifier of one class list.

    Attributes:
        weight: [N + 1, D] unit vectors: the N synonyms in order, then void.
        class_index: [N] int64, the class of each synonym.
        num_classes: C.
    """

    weight: Tensor
    class_index: Tensor
    num_classes: int


def class_logits(embedding: Tensor, classifier: Classifier, logit_scale: Tensor) -> Tensor:
    """Scaled cosine similarity to each class, the maximum over its synonyms; void last.

    Args:
        embedding: [..., D] region embeddings, of any norm.
        classifier: N synonyms of C classes.
        logit_scale: scalar, the logarithm of the scale; the scale is capped at 100.

    Returns:
        [..., C + 1] logits.
    """
    scale = logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
    logits = scale * F.normalize(embedding, dim=-1) @ classifier.weight.T
    synonyms, void = logits[..., :-1], logits[..., -1:]
    if not plain_selected() and synonyms.shape[-1] == classifier.num_classes:
        return logits  # no class has a second synonym
    classes = synonyms.new_full((*synonyms.shape[:-1], classifier.num_classes), -torch.inf)
    index = classifier.class_index.expand_as(synonyms)
    return torch.cat([classes.scatter_reduce(-1, index, synonyms, "amax"), void], dim=-1)
