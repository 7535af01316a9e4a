"""Bipartite matching of queries and target masks (Mask2Former, section 3.3; design section 6)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ita.modeling.decoder import Prediction
from ita.modeling.targets import Target, at_least_float32, sample_all_at

# Replaces costs that are not finite; larger than any other cost.
NON_FINITE_COST = 1e9
# (sets, points, device) -> [sets, points, 2] coordinates, x and y in 0-1.
PointSource = Callable[[int, int, torch.device], Tensor]


class Match(NamedTuple):
    """Matched pairs of one image: query index [m] and target index [m], int64."""

    queries: Tensor
    targets: Tensor


def uniform_points(sets: int, points: int, device: torch.device) -> Tensor:
    """Sample points uniformly at random."""
    return torch.rand(sets, points, 2, device=device)


class HungarianMatcher(nn.Module):
    """Minimum-cost one-to-one assignment of targets to queries.

    Args:
        class_weight: weight of the negative probability of the target's class.
        mask_weight: weight of the binary cross-entropy, a mean over points.
        dice_weight: weight of the dice loss.
        dominant_weight: cost reduction of a dominant category's query for targets of its class.
        num_points: points per mask.
        point_source: generator of sampling points.
    """

    def __init__(
        self,
        *,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        dominant_weight: float,
        num_points: int,
        point_source: PointSource = uniform_points,
    ) -> None:
        super().__init__()
        self.class_weight, self.mask_weight, self.dice_weight = (
            class_weight,
            mask_weight,
            dice_weight,
        )
        self.dominant_weight = dominant_weight
        self.num_points, self.point_source = num_points, point_source

    @torch.no_grad()
    def forward(
        self,
        predictions: Sequence[Prediction],
        targets: Sequence[Target],
        dominant_classes: Tensor | None = None,
    ) -> list[list[Match]]:
        """Match every prediction with every image's targets, in float32.

        Args:
            predictions: Q queries each.
            targets: one for each of B images.
            dominant_classes: int64 [B, K'], the class of each of the first K' queries, which are
                dominant categories, or -1 for no class; None without such queries.

        Returns:
            For each prediction and image a match of min(Q, M) pairs, sorted by query index.
        """
        device = predictions[0].class_logits.device
        with torch.autocast(device.type, enabled=False):
            costs = [
                self._cost(prediction, image, target, dominant_classes)
                for prediction in predictions
                for image, target in enumerate(targets)
            ]
        # One transfer for all costs, to wait for the GPU only once, and one for all matches.
        # A tenth of the start of a process that only segments.
        from scipy.optimize import linear_sum_assignment

        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        # NaN predictions match nothing; the divergence is reported by their loss.
        flat = flat.nan_to_num(nan=NON_FINITE_COST, posinf=NON_FINITE_COST)
        flat = flat.split([cost.numel() for cost in costs])
        pairs = [
            torch.from_numpy(np.stack(linear_sum_assignment(cost.view(shape))))
            for cost, shape in zip(flat, (cost.shape for cost in costs), strict=True)
        ]
        on_device = torch.cat(pairs, dim=1).to(device, non_blocking=True)
        matches = [Match(*pair) for pair in on_device.split([p.shape[1] for p in pairs], dim=1)]
        return [matches[i : i + len(targets)] for i in range(0, len(matches), len(targets))]

    def _cost(
        self,
        prediction: Prediction,
        image: int,
        target: Target,
        dominant_classes: Tensor | None,
    ) -> Tensor:
        """Cost of every pair of one image, [Q, M]."""
        mask_logits = at_least_float32(prediction.mask_logits[image])
        points = self.point_source(1, self.num_points, mask_logits.device)
        every = torch.arange(len(target.masks), device=points.device)
        target_masks = target.sample(every, points)
        cross_entropy, dice = pairwise_losses(sample_all_at(mask_logits, points[0]), target_masks)
        probability = at_least_float32(prediction.class_logits[image]).softmax(dim=-1)
        cost = (
            self.class_weight * -probability[:, target.labels]
            + self.mask_weight * cross_entropy
            + self.dice_weight * dice
        )
        if self.dominant_weight and dominant_classes is not None:
            own = dominant_classes[image, :, None] == target.labels
            cost[: len(own)] -= self.dominant_weight * own
        return cost


def pairwise_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the losses of every pair of a predicted and a target mask.

    Args:
        logits: [P, Q], of Q masks at P points.
        targets: [M, P] in 0-1.

    Returns:
        Mean binary cross-entropy and dice loss, [Q, M] each.
    """
    probability = logits.sigmoid()
    # The cross-entropy of logit x and target t is softplus(x) - x t.
    total = sum_of_softplus(logits, probability)[:, None]
    cross_entropy = (total - (targets @ logits).T) / len(logits)
    areas = probability.sum(dim=0)[:, None] + targets.sum(dim=1)
    dice = 1 - (2 * (targets @ probability).T + 1) / (areas + 1)
    return cross_entropy, dice


def sum_of_softplus(x: Tensor, probability: Tensor) -> Tensor:
    """Sum softplus(x) over the first dimension, given sigmoid(x): [P, Q], [P, Q] -> [Q].

    softplus(x) = max(x, 0) - log(max(s, 1 - s)) with s = sigmoid(x). The logarithm is the slow
    part; here it is one of a product of up to 64 factors between 0.5 and 1.
    """
    factors = (probability - 0.5).abs_().add_(0.5)
    for _ in range(6):
        if len(factors) % 2 == 0:
            factors = factors[: len(factors) // 2] * factors[len(factors) // 2 :]
    return x.clamp(min=0).sum(dim=0) - factors.log().sum(dim=0)
