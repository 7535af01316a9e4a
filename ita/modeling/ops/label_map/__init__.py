"""Semantic label map: the class with the highest score at every pixel (design section 7)."""

from torch import Tensor

from ita.modeling.ops.label_map.blocked import blocked_label_map
from ita.modeling.ops.label_map.bounded import bounded_label_map
from ita.modeling.ops.plain import plain_selected
from ita.modeling.query_masks import QueryMasks


def label_map(classes: Tensor, masks: QueryMasks) -> Tensor:
    """Find the class with the highest sum of mask probabilities, weighted by class probabilities.

    The scores of all classes at all pixels are never stored.

    Args:
        classes: float32 [Q, C], the probability of each class for each query.
        masks: masks of Q queries.

    Returns:
        int64 [H, W]; of classes with equal scores the first.
    """
    if plain_selected():
        return plain_label_map(classes, masks)
    # On a GPU a product costs less than to find out what can be left out.
    fast = bounded_label_map if masks.bounded else blocked_label_map
    return fast(classes, masks)


def plain_label_map(classes: Tensor, masks: QueryMasks) -> Tensor:
    """Define :func:`label_map`, by the scores of all classes at all pixels."""
    return class_scores(classes, masks).argmax(dim=0)


def class_scores(classes: Tensor, masks: QueryMasks) -> Tensor:
    """Sum mask probabilities, weighted by class probabilities [Q, C]: float32 [C, H, W]."""
    probabilities = masks.probabilities()
    return (classes.T @ probabilities.flatten(1)).unflatten(1, probabilities.shape[1:])
