"""Class names to text classifier to class logits (paper section 3.2; design section 2)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor

from ita.errors import UserError
from ita.modeling.clip import FrozenCLIP

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
# Greatest scale of a cosine before softmax, as CLIP was trained.
MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class ClassList:
    """Classes of a data set, each with its synonyms; the first one is the class's name.

    Attributes:
        name: which list this is; results state it.
        classes: the synonyms of every class, in the order of the class ids.
    """

    name: str
    classes: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise UserError(f"class list {self.name} is empty; give at least one class")
        for index, synonyms in enumerate(self.classes):
            if not synonyms or not all(synonyms):
                raise UserError(f"class {index} of class list {self.name} has an empty name")

    @classmethod
    def from_strings(cls, name: str, classes: Iterable[str]) -> "ClassList":
        """Make a list from comma-separated synonyms, one string per class.

        Raises:
            UserError: no classes, or a class without a name.
        """
        split = (tuple(s.strip() for s in synonyms.split(",")) for synonyms in classes)
        return cls(name, tuple(split))

    @property
    def names(self) -> tuple[str, ...]:
        """The first synonym of every class."""
        return tuple(synonyms[0] for synonyms in self.classes)

    @property
    def synonyms(self) -> tuple[str, ...]:
        """Every synonym of every class, in order, repeated ones kept: N of them."""
        return tuple(s for synonyms in self.classes for s in synonyms)

    def __len__(self) -> int:
        return len(self.classes)

    def seen(self, training: "ClassList") -> list[bool]:
        """For each class, whether one of its synonyms is, to the letter, one of ``training``."""
        known = set(training.synonyms)
        return [not known.isdisjoint(synonyms) for synonyms in self.classes]


@dataclass
class TextFeatures:
    """Text features of names from the frozen CLIP, encoded once per job and name.

    In a distributed job the main process encodes and the others receive, so :meth:`encode` is a
    collective call: every process makes it with the same names.
    """

    clip: FrozenCLIP
    _cache: dict[tuple[tuple[str, ...], str], Tensor] = field(default_factory=dict)

    def encode(self, names: Sequence[str], prompts: tuple[str, ...] = PROMPTS) -> Tensor:
        """One unit vector per name: the mean over prompts of unit text features, normalized.

        Args:
            names: N names, repeats allowed.
            prompts: patterns with one ``{}`` each.

        Returns:
            [N, D] float32 on CLIP's device.
        """
        missing = [n for n in dict.fromkeys(names) if (prompts, n) not in self._cache]
        if missing:
            for name, feature in zip(missing, self._encode_once(missing, prompts), strict=True):
                self._cache[prompts, name] = feature
        device = self.clip.device
        return torch.stack([self._cache[prompts, n] for n in names]).to(device)

    def clear(self) -> None:
        """Forget everything, as is due when CLIP's weights have changed."""
        self._cache.clear()

    def _encode_once(self, names: Sequence[str], prompts: tuple[str, ...]) -> Tensor:
        features = torch.empty(len(names), self.clip.embed_dim, device=self.clip.device)
        if comm.is_main_process():
            texts = [prompt.format(name) for name in names for prompt in prompts]
            per_prompt = F.normalize(self.clip.encode_text(texts), dim=-1)
            per_name = per_prompt.view(len(names), len(prompts), -1).mean(dim=1)
            features.copy_(F.normalize(per_name, dim=-1))
        if comm.get_world_size() > 1:
            torch.distributed.broadcast(features, src=0)
        return features


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
    """Scaled cosine to each class, the maximum over its synonyms; void comes last.

    Args:
        embedding: [..., D] region embeddings, of any length.
        classifier: N synonyms of C classes.
        logit_scale: scalar, the logarithm of the scale; the scale is capped at 100.

    Returns:
        [..., C + 1] logits.
    """
    scale = logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
    logits = scale * F.normalize(embedding, dim=-1) @ classifier.weight.T
    synonyms, void = logits[..., :-1], logits[..., -1:]
    if synonyms.shape[-1] == classifier.num_classes:  # no class has a second name
        return logits
    classes = synonyms.new_full((*synonyms.shape[:-1], classifier.num_classes), -torch.inf)
    index = classifier.class_index.expand_as(synonyms)
    return torch.cat([classes.scatter_reduce(-1, index, synonyms, "amax"), void], dim=-1)
