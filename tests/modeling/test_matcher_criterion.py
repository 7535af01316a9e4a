"""Matching and losses (design section 6) against brute force and plain loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from ita.modeling import criterion as criterion_module
from ita.modeling.criterion import SetCriterion, dice_loss
from ita.modeling.decoder import Prediction
from ita.modeling.matcher import HungarianMatcher, pairwise_losses, uniform_points
from ita.modeling.ops.largest import partitioned_largest, plain_largest
from ita.modeling.ops.plain import plain_operators
from ita.modeling.targets import DenseMasks, SegmentMap, Target, sample_all_at, sample_at
from tests.modeling.plain_criterion import plain_losses, plain_matches, predicted
from tests.recipe import CRITERION, MATCHER

WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
CLASSES = 3


class FixedPoints:
    """The same places for every set; remembers what was asked for."""

    def __init__(self, points):
        self.points, self.asked = points, []

    def __call__(self, sets, count, device):
        self.asked.append((sets, count))
        return self.points[:count].expand(sets, count, 2)


def make_points(count, seed=3):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))


def make_predictions(count=1, images=1, queries=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        predicted(
            2 * torch.randn(images, queries, CLASSES + 1, generator=generator),
            3 * torch.randn(images, queries, 6, 8, generator=generator),
        )
        for _ in range(count)
    ]


def make_target(count, seed=0):
    """Blocks of a 24 x 32 image, four times the size of the predicted masks."""
    generator = torch.Generator().manual_seed(100 + seed)
    blocks = torch.rand(count, 1, 3, 4, generator=generator) > 0.5
    masks = F.interpolate(blocks.float(), size=(24, 32))[:, 0]
    return as_target(torch.randint(0, CLASSES, (count,), generator=generator), masks)


def as_target(labels, masks):
    return Target(labels, DenseMasks(masks), tuple(masks.shape[-2:]))


def make_criterion(points=None, **options):
    source = FixedPoints(make_points(20)) if points is None else points
    matcher = make_matcher(num_points=20, point_source=source)
    options = {"num_points": 20, "importance_ratio": 0.0, **options}
    return SetCriterion(matcher, WEIGHTS, point_source=source, **{**CRITERION, **options})


def make_matcher(**options):
    return HungarianMatcher(**{**MATCHER, **options})


def bilinear(image, x, y):
    h, w = image.shape
    column, row, total = x * w - 0.5, y * h - 0.5, 0.0
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < h and 0 <= c < w:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * image[r, c].item()
    return total


def test_samples_are_bilinear_between_cell_centers():
    torch.manual_seed(0)
    images = torch.randn(3, 5, 4, dtype=torch.float64)
    points = torch.rand(3, 30, 2, dtype=torch.float64)
    points[:, 0], points[:, 1] = 0, 1
    ours = sample_at(images, points)
    for n in range(3):
        for p in range(30):
            expected = bilinear(images[n], *points[n, p].tolist())
            assert ours[n, p].item() == pytest.approx(expected, abs=1e-9)


def test_all_images_at_the_same_points():
    torch.manual_seed(0)
    images = torch.randn(3, 5, 4, dtype=torch.float64)
    points = torch.rand(1, 50, 2, dtype=torch.float64) * 1.4 - 0.2
    points[0, 0], points[0, 1] = 0, 1
    expected = sample_at(images, points.expand(3, -1, -1))
    torch.testing.assert_close(sample_all_at(images, points[0]).T, expected)


def losses_of_pair(logits, truth):
    """Mean binary cross-entropy and dice loss of one pair on its points."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth).item()
    p = logits.sigmoid()
    dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    return cross_entropy, dice.item()


def test_pairwise_losses():
    torch.manual_seed(0)
    logits = 4 * torch.randn(5, 30, dtype=torch.float64)
    logits[0], logits[1] = 200, -200
    truth = torch.rand(3, 30, dtype=torch.float64)
    cross_entropy, dice = pairwise_losses(logits.T, truth)
    for q, m in itertools.product(range(5), range(3)):
        expected = losses_of_pair(logits[q], truth[m])
        assert cross_entropy[q, m].item() == pytest.approx(expected[0])
        assert dice[q, m].item() == pytest.approx(expected[1])
        paired = dice_loss(logits[q : q + 1], truth[m : m + 1]).item()
        assert paired == pytest.approx(expected[1])


@pytest.mark.parametrize("count", [1, 7, 64, 12544])
@pytest.mark.parametrize("size", [1, 30, 60000])
def test_pairwise_losses_are_precise_in_float32(count, size):
    torch.manual_seed(0)
    logits, truth = size * torch.randn(count, 6), (torch.rand(4, count) > 0.5).float()
    ours = pairwise_losses(logits, truth)
    expected = pairwise_losses(logits.double(), truth.double())
    for loss, precise in zip(ours, expected, strict=True):
        torch.testing.assert_close(loss.double(), precise, rtol=1e-5, atol=1e-6 * size)


def pair_cost(prediction, image, query, target, index, points):
    x = sample_at(prediction.mask_logits[image, query][None], points[None])[0]
    t = sample_at(target.masks.masks[index][None], points[None])[0]
    cross_entropy, dice = losses_of_pair(x, t)
    probability = prediction.class_logits[image, query].softmax(-1)[target.labels[index]]
    return -2 * probability.item() + 5 * cross_entropy + 5 * dice


@pytest.mark.parametrize("queries", [1, 3, 4])
@pytest.mark.parametrize("targets", [0, 1, 3, 4])
def test_the_cheapest_of_all_assignments(queries, targets):
    points = make_points(20)
    matcher = make_matcher(num_points=20, point_source=FixedPoints(points))
    for seed in range(3):
        (prediction,) = make_predictions(queries=queries, seed=seed)
        target = make_target(targets, seed)
        match = matcher([prediction], [target])[0][0]
        pairs = list(zip(match.queries.tolist(), match.targets.tolist(), strict=True))
        assert len(pairs) == min(queries, targets)
        assert match.queries.tolist() == sorted(set(match.queries.tolist()))
        assert len(set(match.targets.tolist())) == len(pairs)

        def total(pairs, prediction=prediction, target=target):
            return sum(pair_cost(prediction, 0, q, target, m, points) for q, m in pairs)

        cheapest = min(
            total(zip(qs, ms, strict=True))
            for qs in itertools.permutations(range(queries), len(pairs))
            for ms in itertools.combinations(range(targets), len(pairs))
        )
        assert total(pairs) == pytest.approx(cheapest, abs=1e-4)


def test_each_prediction_and_image_is_matched_on_points_of_its_own():
    points = FixedPoints(make_points(20))
    matcher = make_matcher(num_points=20, point_source=points)
    predictions = make_predictions(count=3, images=2)
    targets = [make_target(2, 1), make_target(3, 2)]
    matches = matcher(predictions, targets)
    assert points.asked == [(1, 20)] * 6
    for prediction, of_images in zip(predictions, matches, strict=True):
        for i, match in enumerate(of_images):
            one = Prediction(*(x[i : i + 1] for x in prediction))
            alone = matcher([one], [targets[i]])[0][0]
            assert torch.equal(alone.queries, match.queries)
            assert torch.equal(alone.targets, match.targets)


def test_the_queries_of_dominant_categories_may_have_the_first_say():
    """Two of five queries are dominant categories; the third class has none."""
    points = make_points(20)
    options = {"num_points": 20, "point_source": FixedPoints(points)}
    plain, preferring = make_matcher(**options), make_matcher(dominant_weight=50, **options)
    predictions = make_predictions(count=2, images=2, queries=5)
    targets = [
        as_target(torch.tensor(labels), make_target(3, seed).masks.masks)
        for seed, labels in enumerate(([0, 1, 2], [1, 1, 2]))
    ]
    dominant = torch.tensor([[1, 0], [-1, 1]])
    own = [{(0, 1), (1, 0)}, {(1, 0), (1, 1)}]
    matches = preferring(predictions, targets, dominant)
    for of_images in matches:
        for match, own_pairs, count in zip(of_images, own, (2, 1), strict=True):
            pairs = set(zip(match.queries.tolist(), match.targets.tolist(), strict=True))
            assert len(pairs & own_pairs) == count
            assert len(pairs) == 3
    assert pairs_of(plain(predictions, targets, dominant)) == pairs_of(plain(predictions, targets))
    assert pairs_of(matches) != pairs_of(plain(predictions, targets))


def pairs_of(matches):
    return [
        [(match.queries.tolist(), match.targets.tolist()) for match in of_images]
        for of_images in matches
    ]


def test_uniform_points_are_fresh_and_uniform():
    torch.manual_seed(0)
    first, second = uniform_points(2, 5000, torch.device("cpu")), uniform_points(2, 5000, "cpu")
    assert first.shape == (2, 5000, 2)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    counts = torch.histc(first[..., 0], 10, 0, 1), torch.histc(first[..., 1], 10, 0, 1)
    assert all((count > 900).all() and (count < 1100).all() for count in counts)


def test_predictions_that_are_not_numbers_end_in_losses_that_say_so():
    (good,) = make_predictions()
    class_logits, mask_logits = good.class_logits.clone(), good.mask_logits.clone()
    class_logits[0, 1], mask_logits[0, 2] = torch.nan, torch.inf
    bad = predicted(class_logits, mask_logits)
    losses = make_criterion()([bad], [make_target(4)])
    assert losses["loss_ce"].isnan()
    assert not losses["loss_mask"].isfinite()


@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (0, 0), (5, 1)])
def test_losses_against_loops(counts):
    """Over 4 queries, so that 5 targets are one too many; each mask has its own points."""
    points = torch.stack([make_points(20, seed) for seed in range(8)])
    predictions = make_predictions(count=2, images=2)
    targets = [make_target(count, seed) for seed, count in enumerate(counts)]
    criterion = make_criterion()
    criterion.point_source = lambda sets, count, _: points[:sets, :count]
    losses = criterion.unweighted(predictions, targets)
    assert set(losses) == {f"{name}{suffix}" for name in WEIGHTS for suffix in ("", "_0")}
    matches = criterion.matcher(predictions, targets)
    weight = torch.tensor([1.0] * CLASSES + [0.1])
    for suffix, prediction, of_images in zip(("_0", ""), predictions, matches, strict=True):
        truth = torch.full((2, 4), CLASSES)
        cross_entropy = dice = 0.0
        own_points = iter(points[:, None])
        for i, match in enumerate(of_images):
            for q, m in zip(match.queries.tolist(), match.targets.tolist(), strict=True):
                truth[i, q] = targets[i].labels[m]
                own = next(own_points)
                x = sample_at(prediction.mask_logits[i, q][None], own)[0]
                t = sample_at(targets[i].masks.masks[m][None], own)[0]
                pair = losses_of_pair(x, t)
                cross_entropy, dice = cross_entropy + pair[0], dice + pair[1]
        number = max(1, sum(counts))
        assert losses[f"loss_mask{suffix}"].item() == pytest.approx(cross_entropy / number)
        assert losses[f"loss_dice{suffix}"].item() == pytest.approx(dice / number)
        expected = F.cross_entropy(prediction.class_logits.transpose(1, 2), truth, weight)
        assert losses[f"loss_ce{suffix}"].item() == pytest.approx(expected.item())


class SeededPoints:
    """The same points in every run."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(4)

    def __call__(self, sets, count, device):
        return torch.rand(sets, count, 2, generator=self.generator, dtype=torch.float64)


def overlapping(size, count, generator):
    return DenseMasks(torch.rand(count, *size, generator=generator) > 0.4)


def disjoint(size, count, generator):
    index = torch.randint(0, count + 1, size, generator=generator)
    return SegmentMap(index.to(torch.uint8), count)


@pytest.mark.parametrize("make_masks", [overlapping, disjoint])
@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (0, 0), (9, 1), (5, 5)])
@pytest.mark.parametrize(("classes", "layers", "importance"), [(3, 3, 0.75), (1, 1, 0.0)])
def test_losses_and_gradients_are_the_plain_ones(make_masks, counts, classes, layers, importance):
    """In float64, over odd sizes of masks, images and padding."""
    generator = torch.Generator().manual_seed(1)
    pairs = [
        (
            torch.randn(2, 5, classes + 1, generator=generator, dtype=torch.float64),
            3 * torch.randn(2, 5, 7, 9, generator=generator, dtype=torch.float64),
        )
        for _ in range(layers)
    ]
    inputs = [tensor.requires_grad_() for pair in pairs for tensor in pair]
    predictions = [predicted(*pair) for pair in pairs]
    targets = [
        Target(
            torch.randint(0, classes, (count,), generator=generator),
            make_masks(size, count, generator),
            (28, 36),
        )
        for size, count in zip([(28, 31), (25, 36)], counts, strict=True)
    ]
    criterion = make_criterion(
        SeededPoints(), num_points=77, oversample_ratio=3.0, importance_ratio=importance
    )
    criterion.matcher.num_points = 130
    ours = criterion.unweighted(predictions, targets)
    draw = SeededPoints()
    matches = plain_matches(predictions, targets, draw, 130)
    plain = plain_losses(
        predictions, targets, matches, draw, num_points=77, oversample=3.0, importance=importance
    )
    suffixes = [f"_{i}" for i in range(layers - 1)] + [""]
    kinds = zip(("loss_ce", "loss_mask", "loss_dice"), plain, strict=True)
    expected = {f"{n}{s}": x for n, xs in kinds for s, x in zip(suffixes, xs, strict=True)}
    assert ours.keys() == expected.keys()
    for name, loss in ours.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(sum(ours.values()), inputs)
    for ours_of, gradient in zip(
        gradients, torch.autograd.grad(sum(expected.values()), inputs), strict=True
    ):
        torch.testing.assert_close(ours_of, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 50), (2, 10000)])
def test_the_largest_values(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for count in {0, 1, shape[1] // 3, shape[1]}:
        ours, plain = partitioned_largest(values, count), plain_largest(values, count)
        assert ours.dtype == plain.dtype
        assert torch.equal(ours.sort(dim=1).values, plain.sort(dim=1).values)


def test_values_that_are_not_numbers_are_the_largest():
    values = torch.tensor([[1.0, torch.nan, 3.0, torch.inf, torch.nan]])
    for find in (partitioned_largest, plain_largest):
        assert sorted(find(values, 3)[0].tolist()) == [1, 3, 4]


def test_losses_with_plain_operators():
    predictions, targets = make_predictions(count=2, images=2), [make_target(2), make_target(3)]
    points = FixedPoints(make_points(60))
    ours = make_criterion(points, importance_ratio=0.75)(predictions, targets)
    with plain_operators():
        plain = make_criterion(points, importance_ratio=0.75)(predictions, targets)
    for name, loss in ours.items():
        torch.testing.assert_close(loss, plain[name])


def test_weights_and_deep_supervision():
    predictions, targets = make_predictions(count=3), [make_target(2)]
    unweighted = make_criterion().unweighted(predictions, targets)
    weighted = make_criterion()(predictions, targets)
    assert len(weighted) == 9
    for name, loss in weighted.items():
        factor = WEIGHTS[name.removesuffix("_0").removesuffix("_1")]
        torch.testing.assert_close(loss, factor * unweighted[name])
    last = make_criterion(deep_supervision=False)(predictions, targets)
    assert last == {name: weighted[name] for name in WEIGHTS}


@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (3, 2)])
def test_everything_predicted_gets_a_gradient(counts):
    """Also without targets: a mask's gradient is then zero, but there."""
    (drawn,) = make_predictions(images=2)
    class_logits, mask_logits = drawn.class_logits, drawn.mask_logits
    predictions = [predicted(class_logits.requires_grad_(), mask_logits.requires_grad_())]
    targets = [make_target(count, seed) for seed, count in enumerate(counts)]
    criterion = make_criterion(points=uniform_points, importance_ratio=0.75)
    sum(criterion(predictions, targets).values()).backward()
    assert class_logits.grad.isfinite().all()
    assert class_logits.grad.any(dim=-1).all()
    assert mask_logits.grad is not None
    assert mask_logits.grad.isfinite().all()
    assert mask_logits.grad.flatten(2).any(-1).sum(1).tolist() == list(counts)


def test_a_target_that_the_crop_emptied():
    target = as_target(torch.tensor([1]), torch.zeros(1, 24, 32))
    losses = make_criterion()(make_predictions(), [target])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_dice"] > 0


class RecordingPoints:
    def __init__(self):
        self.drawn = []

    def __call__(self, sets, count, device):
        self.drawn.append(torch.rand(sets, count, 2))
        return self.drawn[-1]


@pytest.mark.parametrize("ratio", [0.0, 0.75, 1.0])
def test_points_are_the_most_uncertain_candidates_and_uniform_ones(ratio, monkeypatch):
    """Per matched mask: of 3 x 20 candidates the 15 with the smallest |logit|, and 5 more."""
    torch.manual_seed(0)
    points, used = RecordingPoints(), []
    criterion = make_criterion(points, importance_ratio=ratio)
    (prediction,), target = make_predictions(), make_target(3)
    true_sample = criterion_module.sample_at
    monkeypatch.setattr(
        criterion_module, "sample_at", lambda im, p: (used.append(p), true_sample(im, p))[1]
    )
    true_masks = DenseMasks.sample
    monkeypatch.setattr(
        DenseMasks,
        "sample",
        lambda self, rows, p, f: (used.append(p), true_masks(self, rows, p, f))[1],
    )
    criterion([prediction], [target])
    for_truth, for_logits = used[-2:]
    assert torch.equal(for_truth, for_logits)
    assert for_truth.shape == (3, 20, 2)
    drawn = {tuple(p.shape[:2]): p for p in points.drawn[1:]}
    uncertain = int(20 * ratio)
    expected_shapes = {(3, 20 - uncertain)} | ({(3, 60)} if uncertain else set())
    assert set(drawn) == expected_shapes
    match = criterion_match(points, criterion, prediction, target)
    for n, q in enumerate(match.queries.tolist()):
        wanted = {tuple(p) for p in drawn[3, 20 - uncertain][n].tolist()}
        if uncertain:
            candidates = drawn[3, 60][n]
            logits = true_sample(prediction.mask_logits[0, q][None], candidates[None])[0]
            smallest = sorted(range(60), key=lambda i: logits[i].abs().item())[:uncertain]
            wanted |= {tuple(candidates[i].tolist()) for i in smallest}
        assert {tuple(p) for p in for_truth[n].tolist()} == wanted


def criterion_match(points, criterion, prediction, target):
    """The match that was made, on the points that were drawn for it."""
    criterion.matcher.point_source = lambda *_: points.drawn[0]
    return criterion.matcher([prediction], [target])[0][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_matching_and_losses_are_in_float32(dtype):
    exact = make_predictions(count=2, images=2)
    low = [Prediction(*(x.to(dtype) for x in prediction)) for prediction in exact]
    rounded = [Prediction(*(x.float() for x in prediction)) for prediction in low]
    targets = [make_target(2, 1), make_target(3, 2)]
    with torch.autocast("cpu", torch.bfloat16):
        ours = make_criterion()(low, targets)
    expected = make_criterion()(rounded, targets)
    for name, loss in ours.items():
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected[name])


@pytest.mark.parametrize("seed", range(5))
def test_matching_of_queries_that_differ_by_little_is_in_float32(seed):
    """By less than bfloat16 would notice."""
    torch.manual_seed(seed)
    base = 3 * torch.randn(1, 1, 6, 8)
    prediction = predicted(torch.zeros(1, 8, CLASSES + 1), base + 0.01 * torch.randn(1, 8, 6, 8))
    matcher = make_matcher(num_points=200, point_source=FixedPoints(make_points(200)))
    expected = matcher([prediction], [make_target(4)])[0][0]
    with torch.autocast("cpu", torch.bfloat16):
        ours = matcher([prediction], [make_target(4)])[0][0]
    assert torch.equal(ours.queries, expected.queries)
    assert torch.equal(ours.targets, expected.targets)


def test_sums_in_float16_do_not_overflow():
    """Over 12544 points of probability 1 and logits of 60000."""
    masks = torch.full((1, 2, 6, 8), 6e4, dtype=torch.float16)
    prediction = predicted(torch.zeros(1, 2, CLASSES + 1, dtype=torch.float16), masks)
    matcher = make_matcher()
    target = as_target(torch.tensor([0]), torch.zeros(1, 24, 32))
    losses = SetCriterion(matcher, WEIGHTS, **CRITERION)([prediction], [target])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"].item() > 5 * 4e4


def test_workers_losses_average_to_those_of_the_joined_batch(monkeypatch):
    """Each worker divides by the means of what all have, so that gradients average likewise."""
    prediction = make_predictions(images=3)[0]
    targets = [make_target(1, 1), make_target(3, 2), make_target(2, 3)]
    joined = make_criterion().unweighted([prediction], targets)
    shares = [slice(0, 1), slice(1, 3)]
    counts = [sum(len(t.labels) for t in targets[share]) for share in shares]
    sizes = [1, 2]
    sums = torch.tensor([sum(c + 0.1 * (4 * s - c) for c, s in zip(counts, sizes, strict=True)), 6])
    monkeypatch.setattr(criterion_module.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.copy_(sums))
    of_workers = [
        make_criterion().unweighted([Prediction(*(x[share] for x in prediction))], targets[share])
        for share in shares
    ]
    for name, loss in joined.items():
        torch.testing.assert_close((of_workers[0][name] + of_workers[1][name]) / 2, loss)
