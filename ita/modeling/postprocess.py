"""Postprocessing of predictions to semantic, panoptic and instance results (design section 7)."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor


@dataclass(frozen=True)
class InferenceOptions:
    """Results to compute at inference, and their parameters.

    Attributes:
        alpha, beta: weight of the out-of-vocabulary classifier for seen and for unseen classes.
        ensemble_on_valid_mask: skip that classifier for masks without a positive cell at
            stride 32.
        semantic, panoptic, instance: results to compute.
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

    @property
    def resize_masks_first(self) -> bool:
        """Whether mask logits, not class scores, are resized to the output size."""
        return self.postprocess_before_inference or self.panoptic or self.instance


def segment_image(
    class_log_probability: Tensor,
    mask_logits: Tensor,
    thing_ids: Collection[int],
    options: InferenceOptions,
    *,
    valid_size: tuple[int, int],
    output_size: tuple[int, int],
) -> dict[str, Any]:
    """Compute the enabled results of one image.

    Maps of many classes at the size of a large photograph take tens of GB: results that do not fit
    on the GPU are computed, and stay, on the CPU.

    Args:
        class_log_probability: [Q, C + 1], void last.
        mask_logits: [Q, H, W] at the padded input size.
        thing_ids: classes that are things.
        options: results to compute.
        valid_size: (h, w) of the image inside its padded frame, top left.
        output_size: (h, w) of the results.

    Returns:
        ``sem_seg`` [C, h, w], ``panoptic_seg`` (ids [h, w], segments), ``instances``.
    """
    result: dict[str, Any] = {}
    if options.resize_masks_first:
        mask_logits = retry_if_cuda_oom(resize_to_output)(mask_logits, valid_size, output_size)
        class_log_probability = class_log_probability.to(mask_logits.device)
    if options.semantic:
        scores = retry_if_cuda_oom(semantic_scores)(class_log_probability, mask_logits)
        if not options.resize_masks_first:
            scores = retry_if_cuda_oom(resize_to_output)(scores, valid_size, output_size)
        result["sem_seg"] = scores
    if options.panoptic:
        result["panoptic_seg"] = retry_if_cuda_oom(panoptic_segments)(
            class_log_probability,
            mask_logits,
            thing_ids,
            score_threshold=options.score_threshold,
            overlap_threshold=options.overlap_threshold,
        )
    if options.instance:
        result["instances"] = retry_if_cuda_oom(instances)(
            class_log_probability,
            mask_logits,
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


def resize_to_output(
    maps: Tensor, valid_size: tuple[int, int], output_size: tuple[int, int]
) -> Tensor:
    """Crop the padding of maps [N, H, W] and resize them bilinearly to the output size."""
    cropped = maps[:, : valid_size[0], : valid_size[1]]
    return F.interpolate(cropped[None], size=output_size, mode="bilinear", align_corners=False)[0]


def label_map(scores: Tensor) -> Tensor:
    """Class with the highest score at every pixel: [C, H, W] -> int64 [H, W]."""
    return scores.argmax(dim=0)


def semantic_scores(class_log_probability: Tensor, mask_logits: Tensor) -> Tensor:
    """Class scores of every pixel: [Q, C + 1] and [Q, H, W] -> [C, H, W]."""
    classes = class_log_probability.softmax(dim=-1)[:, :-1]
    return torch.einsum("qc,qhw->chw", classes, mask_logits.sigmoid())


def panoptic_segments(
    class_log_probability: Tensor,
    mask_logits: Tensor,
    thing_ids: Collection[int],
    *,
    score_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Non-overlapping segments of things and stuff (MaskFormer, section 3.4).

    Args:
        class_log_probability: [Q, C + 1], void last.
        mask_logits: [Q, H, W].
        thing_ids: classes with one segment per instance; other classes have one segment each.
        score_threshold: queries at or below it are dropped.
        overlap_threshold: minimum fraction of a query's mask that must be assigned to it.

    Returns:
        Segment ids [H, W] int32, 0 where unassigned, and for each id from 1 a dict of ``id``,
        ``isthing``, ``category_id`` and ``query``, the query that contributes most of its pixels.
    """
    scores, labels = class_log_probability.softmax(dim=-1).max(dim=-1)
    kept = (labels != class_log_probability.shape[-1] - 1) & (scores > score_threshold)
    segment_map = torch.zeros(mask_logits.shape[-2:], dtype=torch.int32, device=scores.device)
    if not kept.any():
        return segment_map, []
    labels, masks = labels[kept], mask_logits[kept].sigmoid_()
    owner = (scores[kept, None, None] * masks).argmax(dim=0)
    inside = masks.gather(0, owner[None])[0] >= 0.5
    owned = torch.bincount(owner.flatten(), minlength=len(labels))
    whole = (masks >= 0.5).sum(dim=(-2, -1))
    painted = torch.bincount(owner[inside], minlength=len(labels))
    survives = (whole > 0) & (painted > 0) & (owned / whole.clamp(min=1) >= overlap_threshold)

    # One transfer from the GPU for all surviving queries.
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
            segment["query"] = query
    segment_map[inside] = segment_of_query.to(owner.device)[owner[inside]]
    return segment_map, segments


def instances(
    class_log_probability: Tensor,
    mask_logits: Tensor,
    thing_ids: Collection[int] | None,
    *,
    max_instances: int,
) -> Instances:
    """Convert the highest-scoring query-class pairs to instances.

    Args:
        class_log_probability: [Q, C + 1], void last.
        mask_logits: [Q, H, W].
        thing_ids: classes to keep among these pairs; None keeps all.
        max_instances: number of pairs considered.

    Returns:
        ``pred_masks`` [n, H, W] bool, ``pred_boxes``, ``pred_classes`` [n] and ``scores`` [n]:
        class probability times the mean mask probability inside the mask.
    """
    probability = class_log_probability.softmax(dim=-1)[:, :-1]
    num_classes = probability.shape[1]
    scores, index = probability.flatten().topk(min(max_instances, probability.numel()))
    queries, labels = index // num_classes, index % num_classes
    if thing_ids is not None:
        wanted = torch.tensor(sorted(thing_ids), device=labels.device, dtype=labels.dtype)
        keep = torch.isin(labels, wanted)
        scores, queries, labels = scores[keep], queries[keep], labels[keep]
    logits = mask_logits[queries]
    masks = logits > 0
    confidence = (logits.sigmoid() * masks).sum(dim=(-2, -1)) / (masks.sum(dim=(-2, -1)) + 1e-6)
    result = Instances(tuple(mask_logits.shape[-2:]))
    result.pred_masks = masks
    result.pred_boxes = Boxes(mask_boxes(masks))
    result.pred_classes = labels
    result.scores = scores * confidence
    return result


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
