"""Postprocessing of predictions to semantic, panoptic and instance results (design section 7)."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor

from ita.modeling.ops.label_map import class_scores, label_map
from ita.modeling.ops.mask_owner import mask_owner
from ita.modeling.query_masks import MAX_VALUES, QueryMasks
from ita.shortages import Shortage, shortage_of

logger = logging.getLogger(__name__)

# Sizes of blocks to try, one after another, while memory is short.
BLOCK_SIZES = (MAX_VALUES, MAX_VALUES // 16, MAX_VALUES // 256)


@dataclass(frozen=True)
class InferenceOptions:
    """Results to compute at inference, and their parameters.

    Attributes:
        alpha, beta: weight of the out-of-vocabulary classifier for seen and for unseen classes.
        ensemble_on_valid_mask: skip that classifier for masks without a positive cell at
            stride 32.
        semantic, panoptic, instance: results to compute.
        scores: also compute the scores of all classes at all pixels.
        postprocess_before_inference: resize mask logits to the output size, not class scores.
        score_threshold: panoptic segmentation drops queries with at most this score.
        overlap_threshold: minimum fraction of a query's mask that a panoptic segment must keep.
        max_instances: number of query-class pairs that become instances.
    """

    alpha: float
    beta: float
    ensemble_on_valid_mask: bool
    semantic: bool
    panoptic: bool
    instance: bool
    postprocess_before_inference: bool
    score_threshold: float
    overlap_threshold: float
    max_instances: int
    scores: bool = False

    @property
    def resize_masks_first(self) -> bool:
        """Whether mask logits, not class scores, are resized to the output size."""
        return self.postprocess_before_inference or self.panoptic or self.instance


def segment_image(
    class_log_probability: Tensor,
    masks: QueryMasks,
    thing_ids: Collection[int],
    options: InferenceOptions,
) -> dict[str, Any]:
    """Compute the enabled results of one image, in smaller blocks if memory is short.

    Args:
        class_log_probability: [Q, C + 1], void last.
        masks: masks of Q queries.
        thing_ids: classes that are things.
        options: results to compute.

    Returns:
        ``label_map`` int64 [H, W], ``sem_seg`` [C, H, W], ``panoptic_seg`` (ids [H, W], segments),
        ``instances``.
    """
    *sizes, smallest = BLOCK_SIZES
    for max_values in sizes:
        blocks = replace(masks, max_values=max_values)
        try:
            return _results(class_log_probability, blocks, thing_ids, options)
        except (RuntimeError, MemoryError) as error:
            if shortage_of(error) is not Shortage.MEMORY:
                raise
        # Here the error is gone and with it the tensors of its frames.
        logger.info("memory is short: results are computed in smaller blocks")
        if masks.logits.device.type == "cuda":
            torch.cuda.empty_cache()
    blocks = replace(masks, max_values=smallest)
    return _results(class_log_probability, blocks, thing_ids, options)


def _results(
    class_log_probability: Tensor,
    masks: QueryMasks,
    thing_ids: Collection[int],
    options: InferenceOptions,
) -> dict[str, Any]:
    """Compute the results of :func:`segment_image`."""
    result: dict[str, Any] = {}
    if options.semantic:
        result["label_map"] = label_map(class_probabilities(class_log_probability), masks)
    if options.scores:
        result["sem_seg"] = semantic_scores(class_log_probability, masks)
    if options.panoptic:
        result["panoptic_seg"] = panoptic_segments(
            class_log_probability,
            masks,
            thing_ids,
            score_threshold=options.score_threshold,
            overlap_threshold=options.overlap_threshold,
        )
    if options.instance:
        result["instances"] = instances(
            class_log_probability,
            masks,
            thing_ids if options.panoptic else None,
            max_instances=options.max_instances,
        )
    return result


def geometric_ensemble(
    in_vocabulary: Tensor,
    out_of_vocabulary: Tensor,
    seen: Tensor,
    *,
    alpha: float,
    beta: float,
    usable: Tensor | None = None,
) -> Tensor:
    """Combine the decoder's and the frozen CLIP's class logits (FC-CLIP, equation 7).

    Args:
        in_vocabulary: [..., C + 1] logits of the decoder, void last.
        out_of_vocabulary: [..., C + 1] logits of the frozen CLIP, void last.
        seen: [C] bool, True for classes of the training class list.
        alpha, beta: weight of the out-of-vocabulary classifier for seen and unseen classes.
        usable: [...] bool, queries with valid out-of-vocabulary logits; None selects all.

    Returns:
        [..., C + 1] log probabilities, void last.
    """
    log_in = in_vocabulary[..., :-1].log_softmax(dim=-1)
    log_out = out_of_vocabulary[..., :-1].log_softmax(dim=-1)
    weight = torch.where(seen, alpha, beta)
    if usable is not None:
        weight = weight * usable[..., None]
    classes = ((1 - weight) * log_in + weight * log_out).softmax(dim=-1)
    void = in_vocabulary.softmax(dim=-1)[..., -1:]
    return torch.log(torch.cat([classes * (1 - void), void], dim=-1) + 1e-8)


def class_probabilities(class_log_probability: Tensor) -> Tensor:
    """Probabilities of the classes without void: [Q, C + 1] -> [Q, C]."""
    return class_log_probability.softmax(dim=-1)[:, :-1]


def semantic_scores(class_log_probability: Tensor, masks: QueryMasks) -> Tensor:
    """Class scores of every pixel, float32 [C, H, W].

    Scores of many classes at the size of a large photograph take tens of GB: if they do not fit on
    the GPU, they are computed, and stay, on the CPU.

    Args:
        class_log_probability: [Q, C + 1], void last.
        masks: masks of Q queries.
    """

    def scores(classes: Tensor, logits: Tensor) -> Tensor:
        return class_scores(classes, replace(masks, logits=logits))

    return retry_if_cuda_oom(scores)(class_probabilities(class_log_probability), masks.logits)


def panoptic_segments(
    class_log_probability: Tensor,
    masks: QueryMasks,
    thing_ids: Collection[int],
    *,
    score_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Non-overlapping segments of things and stuff (MaskFormer, section 3.4).

    Args:
        class_log_probability: [Q, C + 1], void last.
        masks: masks of Q queries.
        thing_ids: classes with one segment per instance; other classes have one segment each.
        score_threshold: queries at or below it are dropped.
        overlap_threshold: minimum fraction of a query's mask that must be assigned to it.

    Returns:
        Segment ids [H, W] int32, 0 where unassigned, and for each id from 1 a dict of ``id``,
        ``isthing``, ``category_id``, ``query``, the query that contributes most of its pixels, and
        ``score``, the class probability of that query.
    """
    scores, labels = class_log_probability.softmax(dim=-1).max(dim=-1)
    kept = (labels != class_log_probability.shape[-1] - 1) & (scores > score_threshold)
    segment_map = torch.zeros(masks.output_size, dtype=torch.int32, device=scores.device)
    if not kept.any():
        return segment_map, []
    labels = labels[kept]
    owner, inside, whole = mask_owner(scores[kept], masks.select(kept))
    owned = torch.bincount(owner.flatten(), minlength=len(labels))
    painted = torch.bincount(owner[inside], minlength=len(labels))
    survives = (whole > 0) & (painted > 0) & (owned / whole.clamp(min=1) >= overlap_threshold)

    # Two transfers from the GPU for all surviving queries.
    query_scores = scores[kept].tolist()
    indices = torch.arange(len(labels), device=labels.device)
    columns = torch.stack([indices, kept.nonzero()[:, 0], labels, painted])
    segments: list[dict[str, Any]] = []
    stuff_segment: dict[int, dict[str, Any]] = {}
    largest_part: dict[int, int] = {}
    segment_of_query = torch.zeros(len(labels), dtype=torch.int32)
    for index, query, label, pixels in columns[:, survives].T.tolist():
        segment = stuff_segment.get(label)
        if segment is None:
            is_thing = label in thing_ids
            segment = {"id": len(segments) + 1, "isthing": is_thing, "category_id": label}
            segments.append(segment)
            if not is_thing:
                stuff_segment[label] = segment
        segment_of_query[index] = segment["id"]
        if pixels > largest_part.get(segment["id"], 0):
            largest_part[segment["id"]] = pixels
            segment["query"], segment["score"] = query, query_scores[index]
    segment_map[inside] = segment_of_query.to(owner.device)[owner[inside]]
    return segment_map, segments


def instances(
    class_log_probability: Tensor,
    masks: QueryMasks,
    thing_ids: Collection[int] | None,
    *,
    max_instances: int,
) -> Instances:
    """Convert the highest-scoring query-class pairs to instances.

    Args:
        class_log_probability: [Q, C + 1], void last.
        masks: masks of Q queries whose logits are resized to the output.
        thing_ids: classes to keep among these pairs; None keeps all.
        max_instances: number of pairs considered.

    Returns:
        ``pred_masks`` [n, H, W] bool, ``pred_boxes``, ``pred_classes`` [n] and ``scores`` [n]:
        class probability times the mean mask probability inside the mask.
    """
    probability = class_probabilities(class_log_probability)
    num_classes = probability.shape[1]
    scores, index = probability.flatten().topk(min(max_instances, probability.numel()))
    queries, labels = index // num_classes, index % num_classes
    if thing_ids is not None:
        wanted = torch.tensor(sorted(thing_ids), device=labels.device, dtype=labels.dtype)
        keep = torch.isin(labels, wanted)
        scores, queries, labels = scores[keep], queries[keep], labels[keep]
    found, confidence = _binary_masks(masks, queries)
    result = Instances(masks.output_size)
    result.pred_masks = found
    result.pred_boxes = Boxes(mask_boxes(found))
    result.pred_classes = labels
    result.scores = scores * confidence
    return result


def _binary_masks(masks: QueryMasks, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Masks bool [n, H, W] of queries [n] and their mean probabilities [n], a few at a time."""
    height, width = masks.output_size
    found = torch.empty(len(queries), height, width, dtype=torch.bool, device=queries.device)
    confidence = torch.empty(len(queries), device=queries.device)
    # Beside the logits there are some temporary tensors of their size.
    size = max(1, masks.max_values // (4 * height * width))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        logits = masks.select(queries[part]).resized_logits()
        inside = torch.gt(logits, 0, out=found[part])
        total = (logits.sigmoid_() * inside).sum(dim=(-2, -1))
        confidence[part] = total / (inside.sum(dim=(-2, -1)) + 1e-6)
    return found, confidence


def mask_boxes(masks: Tensor) -> Tensor:
    """Bounding boxes of masks [n, H, W] bool -> [n, 4] as x0, y0, x1, y1; zeros if empty."""
    if not len(masks):
        return masks.new_zeros((0, 4), dtype=torch.float32)

    def extent(line: Tensor) -> tuple[Tensor, Tensor]:
        line = line.to(torch.uint8)
        return line.argmax(dim=1), line.shape[1] - line.flip(1).argmax(dim=1)

    (x0, x1), (y0, y1) = extent(masks.any(dim=1)), extent(masks.any(dim=2))
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return boxes * masks.flatten(1).any(dim=1)[:, None]
