"""Variants of the comparison: each sets a few config keys on top of the base config."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ita.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Data sets that a split is evaluated on; the first is the one in most tables. Hyperparameters are
# tuned on val; test is for reported results.
SPLITS = {
    "val": ("toy_val",),
    "test": (
        "toy_test_all",
        "toy_test_seen",
        "toy_test_unseen",
        "toy_test_synonyms",
        "toy_test_distractors",
    ),
}

NUM_DOMINANT = "MODEL.ITA.NUM_DOMINANT"
NUM_LEARNED = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
SELF_ATTENTION = "MODEL.ITA.SELF_ATTENTION"
IMAGE_EMBEDDING = "MODEL.ITA.IMAGE_EMBEDDING"
CANDIDATE_TEXT = "MODEL.ITA.CANDIDATE_TEXT"
MATCH_WEIGHT = "MODEL.ITA.DOMINANT_MATCH_WEIGHT"
TEXT_RESIDUAL = "MODEL.ITA.TEXT_RESIDUAL"
ALPHA = "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_ALPHA"
BETA = "MODEL.FC_CLIP.GEOMETRIC_ENSEMBLE_BETA"

# Values of the ablations.
DOMINANT = (0, 4, 8, 16, 32)
MATCH_WEIGHTS = (0.0, 3.0, 10.0)
# Weight where an ablation of a config without one turns preferred matching on.
PREFERRED = 5.0
ENSEMBLE_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# (alpha, beta) that select the decoder's classifier alone, and CLIP's alone.
ONE_CLASSIFIER = ((0.0, 0.0), (1.0, 1.0))
# Models of the main variants, in the order of table rows.
MODELS = ("ita", "no_dominant", "self_attention", "fcclip")


@dataclass(frozen=True)
class Variant:
    """One row of a comparison: a trained model and how it is evaluated.

    Attributes:
        model: name of the trained model, also of its folder and in ``--variants``.
        title: title in tables.
        overrides: config key → value, on top of the base config.
        at_test: further keys that only affect evaluation.
        part: suffix that distinguishes variants of the same model.
    """

    model: str
    title: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    at_test: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""

    @property
    def name(self) -> str:
        """Unique name."""
        return f"{self.model}_{self.part}" if self.part else self.model


# The base config as it is.
BASE = Variant("", "")


def main_variants(cfg: "CfgNode") -> tuple[Variant, ...]:
    """ITA, two intermediate variants and FC-CLIP, all with the base config's number of queries."""
    total = cfg.MODEL.ITA.NUM_DOMINANT + cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    learned_only = _queries(0, total)
    attending = {SELF_ATTENTION: True}
    described = (
        ("ITA", {}),
        ("ITA without dominant categories", learned_only),
        ("ITA with self-attention", attending),
        ("FC-CLIP", learned_only | attending),
    )
    return tuple(Variant(model, *more) for model, more in zip(MODELS, described, strict=True))


def _queries(dominant: int, total: int) -> dict[str, Any]:
    """Keys for ``dominant`` text queries, the remaining ones of ``total`` being learned."""
    keys = {NUM_DOMINANT: dominant, NUM_LEARNED: total - dominant}
    # Without text queries, their matching weight has no effect.
    return keys if dominant else keys | {MATCH_WEIGHT: 0.0}


def _dominant(base: Variant, cfg: "CfgNode") -> Iterator[Variant]:
    current = cfg.MODEL.ITA.NUM_DOMINANT
    total = current + cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES
    for count in sorted({*DOMINANT, current}):
        if count < total:
            yield _extend(base, f"dominant_{count}", f"K = {count}", _queries(count, total))


def _ensemble(base: Variant, cfg: "CfgNode") -> Iterator[Variant]:
    """Vary one weight of the config's pair at a time, and use each classifier alone."""
    current = cfg.MODEL.FC_CLIP
    configured = (current.GEOMETRIC_ENSEMBLE_ALPHA, current.GEOMETRIC_ENSEMBLE_BETA)
    alphas = [(alpha, configured[1]) for alpha in ENSEMBLE_WEIGHTS]
    betas = [(configured[0], beta) for beta in ENSEMBLE_WEIGHTS]
    for alpha, beta in sorted({*ONE_CLASSIFIER, *alphas, *betas, configured}):
        yield _weighted(base, alpha, beta)


def _image_embedding(base: Variant, cfg: "CfgNode") -> Iterator[Variant]:
    yield _extend(base, "shared", "mean of the shared feature", {IMAGE_EMBEDDING: "shared"})
    own = {IMAGE_EMBEDDING: "clip_preprocess"}
    yield _extend(base, "clip_preprocess", "a CLIP pass of its own", own)
    yield _extend(base, "places", "places of the shared feature", {IMAGE_EMBEDDING: "places"})


def _candidate_text(base: Variant, cfg: "CfgNode") -> Iterator[Variant]:
    yield _extend(base, "prompted", "prompted names", {CANDIDATE_TEXT: "prompted"})
    yield _extend(base, "bare", "bare names", {CANDIDATE_TEXT: "bare"})


def _matching(base: Variant, cfg: "CfgNode") -> Iterator[Variant]:
    for weight in sorted({*MATCH_WEIGHTS, cfg.MODEL.ITA.DOMINANT_MATCH_WEIGHT}):
        title = f"own classes cheaper by {weight:g}"
        yield _extend(base, f"matching_{weight:g}", title, {MATCH_WEIGHT: weight})


def _text_queries(base: Variant, cfg: "CfgNode") -> Iterator[Variant]:
    """Turn one option of the text queries on or off at a time."""
    ita = cfg.MODEL.ITA
    yield _extend(base, "same", "all options", {})
    places = ita.IMAGE_EMBEDDING == "places"
    keys: dict[str, Any] = {IMAGE_EMBEDDING: "shared" if places else "places"}
    yield _switched(base, "places", places, keys)
    keys = {TEXT_RESIDUAL: not ita.TEXT_RESIDUAL}
    yield _switched(base, "text residual", ita.TEXT_RESIDUAL, keys)
    preferred = ita.DOMINANT_MATCH_WEIGHT > 0
    keys = {MATCH_WEIGHT: 0.0 if preferred else PREFERRED}
    yield _switched(base, "preferred matching", preferred, keys)
    keys = {SELF_ATTENTION: not ita.SELF_ATTENTION}
    yield _switched(base, "self-attention", ita.SELF_ATTENTION, keys)


def _switched(base: Variant, option: str, on: bool, keys: Mapping[str, Any]) -> Variant:
    """The variant with an option that it has turned off, or the other way round."""
    title = f"{'without' if on else 'with'} {option}"
    return _extend(base, title.replace(" ", "_").replace("-", "_"), title, keys)


def _weighted(base: Variant, alpha: float, beta: float) -> Variant:
    """The same model with other weights of the two classifiers, which form its title."""
    part = f"alpha_{alpha:g}_beta_{beta:g}"
    title = f"α = {alpha:g}, β = {beta:g}"
    return Variant(base.model, title, base.overrides, {ALPHA: alpha, BETA: beta}, part)


def with_weights(
    base: Variant, alpha: float, beta: float, config_of: "Callable[[Variant], CfgNode]"
) -> Variant:
    """Return the variant evaluated with custom weights α and β.

    Args:
        base: the variant.
        alpha: weight of CLIP's classifier for seen classes.
        beta: weight of CLIP's classifier for unseen classes.
        config_of: returns the complete config of a variant.

    Raises:
        UserError: a weight is outside [0, 1].
    """
    weighted = _weighted(base, alpha, beta)
    same = config_of(weighted) == config_of(base)
    return replace(base if same else weighted, title=f"{base.title}, {weighted.title}")


def _extend(base: Variant, name: str, title: str, keys: Mapping[str, Any]) -> Variant:
    return Variant(f"{base.model}_{name}", title, {**base.overrides, **keys})


ABLATIONS: Mapping[str, "Callable[[Variant, CfgNode], Iterable[Variant]]"] = {
    "dominant": _dominant,
    "ensemble": _ensemble,
    "image-embedding": _image_embedding,
    "candidate-text": _candidate_text,
    "matching": _matching,
    "text-queries": _text_queries,
}
# Ablations without effect on a model without dominant categories.
_OF_DOMINANT = ("image-embedding", "candidate-text", "matching", "text-queries")


def ablation(
    group: str, base: Variant, config_of: "Callable[[Variant], CfgNode]"
) -> tuple[Variant, ...]:
    """Vary one component of a variant; the variant itself is included and marked in its title.

    A result that equals a main variant is replaced by it, so that it is trained only once.

    Args:
        group: one of ``ABLATIONS``.
        base: variant to vary.
        config_of: returns the complete config of a variant.

    Raises:
        UserError: the group varies dominant categories, and the variant has none.
    """
    cfg = config_of(base)
    if group in _OF_DOMINANT and not cfg.MODEL.ITA.NUM_DOMINANT:
        raise UserError(
            f"{base.model} has no dominant categories, so --ablation {group} would train the same "
            "model several times; choose --variants with dominant categories"
        )
    # The base comes first, so that it takes precedence over an equal main variant.
    known = [(v, config_of(v)) for v in (base, *main_variants(config_of(BASE)))]
    variants = []
    for neighbor in ABLATIONS[group](base, cfg):
        whole = config_of(neighbor)
        same = next((variant for variant, its_config in known if its_config == whole), None)
        note = " (as configured)" if same == base else ""
        title = f"{base.title}, {neighbor.title}{note}"
        variants.append(replace(same or neighbor, title=title))
    return tuple(variants)
