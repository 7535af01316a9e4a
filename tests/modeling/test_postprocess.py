"""From predictions to segmentations (design section 7) against loops in its words."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks

from ita.modeling import postprocess
from ita.modeling.postprocess import (
    geometric_ensemble,
    instances,
    mask_boxes,
    panoptic_segments,
    segment_image,
    semantic_scores,
)
from ita.modeling.query_masks import QueryMasks
from tests.recipe import INFERENCE

SEEN = torch.tensor([True, False, True])


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


@pytest.mark.parametrize("alpha_beta", [(0.4, 0.8), (0.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("usable", [None, [True, False, True, False]])
def test_geometric_ensemble(alpha_beta, usable):
    torch.manual_seed(0)
    inside, outside = 3 * torch.randn(4, 4).double(), 3 * torch.randn(4, 4).double()
    alpha, beta = alpha_beta
    mask = None if usable is None else torch.tensor(usable)
    ours = geometric_ensemble(inside, outside, SEEN, alpha=alpha, beta=beta, usable=mask)
    for q in range(4):
        p_in, p_out = softmax(inside[q, :3].tolist()), softmax(outside[q, :3].tolist())
        a = [alpha if s else beta for s in SEEN]
        if usable and not usable[q]:
            a = [0.0] * 3
        mixed = [i ** (1 - w) * o**w for i, o, w in zip(p_in, p_out, a, strict=True)]
        void = softmax(inside[q].tolist())[-1]
        classes = softmax([math.log(p) for p in mixed])
        expected = [math.log(p * (1 - void) + 1e-8) for p in classes] + [math.log(void + 1e-8)]
        torch.testing.assert_close(
            ours[q], torch.tensor(expected).double(), atol=1e-6, rtol=1e-5, check_dtype=False
        )


def test_the_ensemble_of_one_class():
    inside, outside = torch.tensor([[1.0, 2.0]]), torch.tensor([[-3.0, 0.0]])
    ours = geometric_ensemble(inside, outside, torch.tensor([False]), alpha=0.4, beta=0.8)
    torch.testing.assert_close(ours, inside.log_softmax(-1), atol=1e-6, rtol=0)


def test_an_ensemble_of_certain_classifiers_is_finite():
    """Probabilities that underflow must not turn into not-a-number where their weight is 0."""
    inside = torch.tensor([[0.0, 300, -300, 0]])
    outside = torch.tensor([[100.0, -100, -100, 0]])
    usable = torch.tensor([False])
    for kwargs in ({}, {"usable": usable}):
        for alpha, beta in ((0.4, 0.8), (0.0, 1.0), (1.0, 0.0)):
            ours = geometric_ensemble(inside, outside, SEEN, alpha=alpha, beta=beta, **kwargs)
            assert ours.isfinite().all()
    assert ours.argmax() == 1


def random_scores(queries, classes, seed, sharp=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(queries, classes + 1, generator=generator)
    return logits.log_softmax(dim=-1)


def random_masks(queries, height, width, seed):
    """Smooth logits of both signs, some queries empty."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 4 * torch.randn(queries, 1, 3, 4, generator=generator)
    masks = F.interpolate(coarse, size=(height, width), mode="bilinear")[:, 0]
    masks[seed % queries] = -3
    return masks


def unresized(logits):
    """Masks whose logits have the size of the output."""
    size = tuple(logits.shape[-2:])
    return QueryMasks(logits, size, size, size, resize_logits=True)


def test_semantic_scores():
    scores, masks = random_scores(5, 3, 0), random_masks(5, 4, 6, 0)
    ours = semantic_scores(scores, unresized(masks))
    assert ours.shape == (3, 4, 6)
    for c in range(3):
        expected = sum(softmax(scores[q].tolist())[c] * masks[q].sigmoid() for q in range(5))
        torch.testing.assert_close(ours[c], expected)


def panoptic_by_loops(scores, masks, things, score_threshold, overlap_threshold):
    """Design section 7, word by word."""
    void = scores.shape[1] - 1
    probabilities = scores.softmax(-1)
    height, width = masks.shape[1:]
    kept = []
    for q in range(len(scores)):
        label = int(probabilities[q].argmax())
        score = probabilities[q, label].item()
        if label != void and score > score_threshold:
            kept.append((q, label, score))
    ids = [[0] * width for _ in range(height)]
    segments, first_id, parts = [], {}, {}
    if not kept:
        return ids, segments
    sigmoid = masks.sigmoid()
    owner = {}
    for y in range(height):
        for x in range(width):
            owner[y, x] = max(kept, key=lambda k: k[2] * sigmoid[k[0], y, x].item())[0]
    for q, label, _ in kept:
        owned = {place for place, by in owner.items() if by == q}
        whole = {p for p in owner if sigmoid[q][p].item() >= 0.5}
        if not owned or not whole or not owned & whole:
            continue
        if len(owned) / len(whole) < overlap_threshold:
            continue
        if label not in things and label in first_id:
            number = first_id[label]
        else:
            number = len(segments) + 1
            first_id[label] = number
            segments.append({"id": number, "isthing": label in things, "category_id": label})
        parts.setdefault(number, {})[q] = len(owned & whole)
        for y, x in owned & whole:
            ids[y][x] = number
    for segment in segments:
        painted = parts[segment["id"]]
        segment["query"] = max(painted, key=painted.get)
        segment["score"] = pytest.approx(probabilities[segment["query"], segment["category_id"]])
    return ids, segments


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("thresholds", [(0.0, 0.8), (0.5, 0.8), (0.0, 0.0), (0.0, 1.0)])
def test_panoptic_segments(seed, thresholds):
    scores, masks = random_scores(9, 3, seed), random_masks(9, 10, 12, seed)
    things = {0, 2} if seed % 2 else {1}
    segment_map, segments = panoptic_segments(
        scores,
        unresized(masks),
        things,
        score_threshold=thresholds[0],
        overlap_threshold=thresholds[1],
    )
    expected_map, expected = panoptic_by_loops(scores, masks, things, *thresholds)
    assert segments == expected
    assert segment_map.tolist() == expected_map
    assert segment_map.dtype == torch.int32


def certain(labels, classes):
    """Log probabilities that leave no doubt, falling a little with the query."""
    scores = torch.full((len(labels), classes + 1), -20.0)
    scores[range(len(labels)), labels] = -0.01 * torch.arange(len(labels))
    return scores


def boxes(height, width, *spans):
    """Logits of masks that are sure: columns from, to."""
    masks = torch.full((len(spans), height, width), -20.0)
    for mask, (start, end) in zip(masks, spans, strict=True):
        mask[:, start:end] = 20
    return masks


def sure_segments(scores, masks):
    return panoptic_segments(
        scores, unresized(masks), [0], score_threshold=0, overlap_threshold=0.8
    )


def test_stuff_of_a_class_is_one_segment_and_things_are_several():
    scores, masks = certain([1, 0, 1, 0], 2), boxes(2, 8, (0, 2), (2, 4), (4, 6), (6, 8))
    ids, segments = sure_segments(scores, masks)
    assert ids[0].tolist() == [1, 1, 2, 2, 1, 1, 3, 3]
    assert [(s["category_id"], s["isthing"]) for s in segments] == [(1, 0), (0, 1), (0, 1)]
    assert all(type(s["isthing"]) is bool for s in segments)


def test_a_segment_tells_the_query_that_most_of_it_comes_from():
    scores, masks = certain([1, 2, 1, 0], 2), boxes(2, 8, (0, 1), (0, 8), (1, 6), (6, 8))
    _, segments = sure_segments(scores, masks)
    assert [(s["category_id"], s["query"]) for s in segments] == [(1, 2), (0, 3)]


def test_a_segment_has_the_score_of_the_query_that_most_of_it_comes_from():
    scores, masks = certain([1, 1], 2), boxes(2, 8, (0, 1), (1, 8))
    _, (segment,) = sure_segments(scores, masks)
    assert segment["score"] == pytest.approx(scores.softmax(-1)[1, 1].item())
    assert type(segment["score"]) is float


def test_overlapped_masks_are_dropped_at_the_threshold():
    """The second mask owns 4 of 5 columns, which is enough, the third 3 of 5, which is not."""
    scores, masks = certain([0, 0, 0], 1), boxes(1, 12, (0, 4), (3, 8), (6, 11))
    ids, segments = sure_segments(scores, masks)
    assert ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]
    assert len(segments) == 2


def test_void_and_unsure_queries_leave_nothing():
    masks = boxes(2, 4, (0, 4), (0, 4))
    for scores, threshold in ((certain([2, 2], 2), 0.0), (random_scores(2, 2, 0, 0.1), 0.99)):
        ids, segments = panoptic_segments(
            scores, unresized(masks), [0], score_threshold=threshold, overlap_threshold=0.8
        )
        assert not ids.any()
        assert segments == []


def test_a_score_at_the_threshold_is_not_above_it():
    scores, masks = random_scores(1, 2, 3), boxes(2, 4, (0, 4))
    scores[0, -1] = -20
    threshold = scores.softmax(-1).max().item()
    for score_threshold, number in ((threshold, 0), (threshold - 1e-6, 1)):
        _, segments = panoptic_segments(
            scores, unresized(masks), [0], score_threshold=score_threshold, overlap_threshold=0.8
        )
        assert len(segments) == number


@pytest.mark.parametrize("things", [None, (0, 2), ()])
@pytest.mark.parametrize("maximum", [5, 1000])
@pytest.mark.parametrize("at_once", [1, 800, 1 << 22])
def test_instances(things, maximum, at_once):
    scores, masks = random_scores(6, 3, 1), random_masks(6, 8, 10, 1)
    blocks = replace(unresized(masks), max_values=at_once)
    ours = instances(scores, blocks, things, max_instances=maximum)
    pairs = [(softmax(scores[q].tolist())[c], q, c) for q in range(6) for c in range(3)]
    best = sorted(pairs, reverse=True)[:maximum]
    expected = [pair for pair in best if things is None or pair[2] in things]
    assert len(ours) == len(expected)
    assert ours.image_size == (8, 10)
    for i, (score, q, c) in enumerate(expected):
        inside = masks[q] > 0
        assert ours.pred_classes[i] == c
        assert torch.equal(ours.pred_masks[i], inside)
        confidence = masks[q].sigmoid()[inside].sum().item() / (inside.sum().item() + 1e-6)
        assert ours.scores[i].item() == pytest.approx(score * confidence, abs=1e-6)
    expected_boxes = BitMasks(ours.pred_masks).get_bounding_boxes().tensor
    assert torch.equal(ours.pred_boxes.tensor, expected_boxes)


def test_boxes_of_no_masks_and_empty_masks():
    assert mask_boxes(torch.zeros(0, 3, 4, dtype=torch.bool)).shape == (0, 4)
    masks = torch.zeros(3, 3, 4, dtype=torch.bool)
    masks[1, 2, 3] = masks[2] = True
    assert mask_boxes(masks).tolist() == [[0, 0, 0, 0], [3, 2, 4, 3], [0, 0, 4, 3]]


PADDED, VALID, OUTPUT = (8, 12), (6, 9), (13, 17)


def segment(scores, masks, **options):
    chosen = replace(INFERENCE, **options)
    queries = QueryMasks(masks, PADDED, VALID, OUTPUT, chosen.resize_masks_first)
    return segment_image(scores, queries, {0, 2}, chosen)


def resize_to_output(maps):
    """Crop the padding, then resize."""
    cropped = maps[None, :, : VALID[0], : VALID[1]]
    return F.interpolate(cropped, OUTPUT, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(
    "options",
    [{"panoptic": True}, {"instance": True}, {"postprocess_before_inference": True}],
)
def test_masks_are_resized_before_what_follows(options):
    scores, masks = random_scores(6, 3, 2), random_masks(6, *PADDED, 2)
    resized = unresized(resize_to_output(masks))
    result = segment(scores, masks, **options)
    torch.testing.assert_close(result["sem_seg"], semantic_scores(scores, resized))
    assert torch.equal(result["label_map"], result["sem_seg"].argmax(dim=0))
    if "panoptic" in options:
        expected = panoptic_segments(
            scores, resized, {0, 2}, score_threshold=0, overlap_threshold=0.8
        )
        assert torch.equal(result["panoptic_seg"][0], expected[0])
        assert result["panoptic_seg"][1] == expected[1]
    if "instance" in options:
        expected = instances(scores, resized, None, max_instances=100)
        torch.testing.assert_close(result["instances"].scores, expected.scores)
        assert result["instances"].image_size == OUTPUT


def test_class_sums_are_resized_where_nothing_else_needs_masks():
    scores, masks = random_scores(6, 3, 2), random_masks(6, *PADDED, 2)
    result = segment(scores, masks)
    assert result.keys() == {"label_map", "sem_seg"}
    expected = resize_to_output(semantic_scores(scores, unresized(masks)))
    torch.testing.assert_close(result["sem_seg"], expected)
    assert torch.equal(result["label_map"], expected.argmax(dim=0))


def test_scores_that_do_not_fit_the_gpu_are_tried_again(monkeypatch):
    """They run out of memory once, as PyTorch says it."""
    scores, masks = random_scores(6, 3, 2), random_masks(6, *PADDED, 2)
    expected, tried = segment(scores, masks), []
    compute = postprocess.class_scores

    def fail_first(*args):
        tried.append(args)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return compute(*args)

    monkeypatch.setattr(postprocess, "class_scores", fail_first)
    result = segment(scores, masks)
    assert len(tried) == 2
    assert torch.equal(result["sem_seg"], expected["sem_seg"])


@pytest.mark.parametrize("function", ["label_map", "mask_owner"])
def test_results_are_computed_in_smaller_blocks_if_memory_is_short(function, monkeypatch):
    scores, masks = random_scores(6, 3, 2), random_masks(6, *PADDED, 2)
    expected, tried = segment(scores, masks, panoptic=True), []
    compute = getattr(postprocess, function)

    def fail_first(values, blocks):
        tried.append(blocks.max_values)
        if blocks.max_values > postprocess.BLOCK_SIZES[-1]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return compute(values, blocks)

    monkeypatch.setattr(postprocess, function, fail_first)
    result = segment(scores, masks, panoptic=True)
    assert tried == list(postprocess.BLOCK_SIZES)
    assert torch.equal(result["label_map"], expected["label_map"])
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])


def test_other_errors_are_not_tried_again(monkeypatch):
    tried = []

    def fail(*args):
        tried.append(args)
        raise RuntimeError("expected a matrix")

    monkeypatch.setattr(postprocess, "label_map", fail)
    with pytest.raises(RuntimeError, match="matrix"):
        segment(random_scores(6, 3, 2), random_masks(6, *PADDED, 2))
    assert len(tried) == 1


def test_instances_are_of_things_only_where_panoptic_is_on():
    scores, masks = random_scores(6, 3, 2), random_masks(6, 8, 12, 2)
    every = segment(scores, masks, instance=True, semantic=False)
    things = segment(scores, masks, instance=True, panoptic=True)
    assert every.keys() == {"sem_seg", "instances"}
    assert set(every["instances"].pred_classes.tolist()) == {0, 1, 2}
    assert set(things["instances"].pred_classes.tolist()) == {0, 2}
    few = segment(scores, masks, instance=True, max_instances=4)
    assert len(few["instances"]) == 4
