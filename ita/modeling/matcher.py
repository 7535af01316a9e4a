"""Bipartite matching of queries and target masks (Mask2Former, section 3.3; design section 6)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ita.modeling.decoder import Prediction
from ita.modeling.targets import Target, sample_at

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
        # One transfer for all costs, to wait for the GPU only once.
        flat = torch.cat([cost.flatten() for cost in costs]).cpu()
        # NaN predictions match nothing; the divergence is reported by their loss.
        flat = flat.nan_to_num(nan=NON_FINITE_COST, posinf=NON_FINITE_COST)
        flat = flat.split([cost.numel() for cost in costs])
        matches = [
            Match(*(torch.as_tensor(i, device=device) for i in linear_sum_assignment(c.view(s))))
            for c, s in zip(flat, (cost.shape for cost in costs), strict=True)
        ]
        return [matches[i : i + len(targets)] for i in range(0, len(matches), len(targets))]

    def _cost(
        self,
        prediction: Prediction,
        image: int,
        target: Target,
        dominant_classes: Tensor | None,
    ) -> Tensor:
        """Cost of every pair of one image, [Q, M]."""
        mask_logits = prediction.mask_logits[image].float()
        points = self.point_source(1, self.num_points, mask_logits.device)
        logits = sample_at(mask_logits, points.expand(len(mask_logits), -1, -1))
        every = torch.arange(len(target.masks), device=points.device)
        target_masks = target.sample(every, points)
        probability = prediction.class_logits[image].float().softmax(dim=-1)
        cost = (
            self.class_weight * -probability[:, target.labels]
            + self.mask_weight * pairwise_cross_entropy(logits, target_masks)
            + self.dice_weight * pairwise_dice(logits, target_masks)
        )
        if self.dominant_weight and dominant_classes is not None:
            own = dominant_classes[image, :, None] == target.labels
            cost[: len(own)] -= self.dominant_weight * own
        return cost


def pairwise_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of every pair: logits [Q, P], targets [M, P] in 0-1 -> [Q, M]."""
    points = logits.shape[1]
    return (F.softplus(-logits) @ targets.T + F.softplus(logits) @ (1 - targets).T) / points


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of every pair: logits [Q, P], targets [M, P] in 0-1 -> [Q, M]."""
    probability = logits.sigmoid()
    total = probability.sum(dim=1)[:, None] + targets.sum(dim=1)
    return 1 - (2 * probability @ targets.T + 1) / (total + 1)
