"""Set prediction losses (Mask2Former, section 3.3; design section 6)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from ita.modeling.decoder import Prediction
from ita.modeling.matcher import (
    HungarianMatcher,
    Match,
    PointSource,
    uniform_points,
)
from ita.modeling.ops.largest import largest
from ita.modeling.targets import Target, at_least_float32, sample_at


class SetCriterion(nn.Module):
    """Class, mask and dice losses on matched predictions.

    Args:
        matcher: pairs queries with targets.
        weights: factors of ``loss_ce``, ``loss_mask`` and ``loss_dice``.
        void_weight: weight of void in cross-entropy.
        num_points: points per mask.
        oversample_ratio: candidates drawn per point.
        importance_ratio: fraction of points chosen as the candidates with the smallest |logit|;
            the rest are drawn uniformly.
        deep_supervision: apply the losses to every prediction, not only the last one.
        point_source: generator of sampling points.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        weights: dict[str, float],
        *,
        void_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_ratio: float,
        deep_supervision: bool,
        point_source: PointSource = uniform_points,
    ) -> None:
        super().__init__()
        self.matcher, self.weights, self.void_weight = matcher, weights, void_weight
        self.num_points, self.point_source = num_points, point_source
        self.oversample_ratio, self.importance_ratio = oversample_ratio, importance_ratio
        self.deep_supervision = deep_supervision

    def forward(
        self,
        predictions: Sequence[Prediction],
        targets: Sequence[Target],
        dominant_classes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted losses, to be summed; see :meth:`unweighted`."""
        return {
            name: loss * self.weights["_".join(name.split("_")[:2])]
            for name, loss in self.unweighted(predictions, targets, dominant_classes).items()
        }

    def unweighted(
        self,
        predictions: Sequence[Prediction],
        targets: Sequence[Target],
        dominant_classes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses in float32, without their weights.

        Sums are divided by normalizers averaged over the job's processes, so that the average of
        their gradients equals the gradient of one process on the combined batch.

        Args:
            predictions: one from the initial queries and one after each layer, in order.
            targets: one per image.
            dominant_classes: as in :meth:`HungarianMatcher.forward`.

        Returns:
            ``loss_ce``, ``loss_mask``, ``loss_dice`` of the last prediction, and the same with the
            suffix ``_0``, ``_1``, ... for each earlier prediction.
        """
        if not self.deep_supervision:
            predictions = predictions[-1:]
        matches = self.matcher(predictions, targets, dominant_classes)
        num_queries = predictions[-1].class_logits.shape[1]
        class_norm, mask_norm = self._normalizers(targets, num_queries)
        with torch.autocast(predictions[-1].class_logits.device.type, enabled=False):
            class_losses = self._class_losses(predictions, targets, matches) / class_norm
            mask_losses = self._mask_losses(predictions, targets, matches) / mask_norm
        losses = {}
        for i, (class_loss, of_masks) in enumerate(zip(class_losses, mask_losses, strict=True)):
            suffix = "" if i == len(predictions) - 1 else f"_{i}"
            losses[f"loss_ce{suffix}"] = class_loss
            losses[f"loss_mask{suffix}"], losses[f"loss_dice{suffix}"] = of_masks
        return losses

    def _normalizers(self, targets: Sequence[Target], num_queries: int) -> Tensor:
        """Sum of cross-entropy weights and number of masks, averaged over processes: [2]."""
        counts = [len(target.labels) for target in targets]
        matched = sum(min(count, num_queries) for count in counts)
        weight = matched + self.void_weight * (num_queries * len(targets) - matched)
        norms = torch.tensor([weight, sum(counts)], device=targets[0].labels.device)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(norms)
            norms /= comm.get_world_size()
        return torch.stack([norms[0], norms[1].clamp(min=1)])

    def _class_losses(
        self,
        predictions: Sequence[Prediction],
        targets: Sequence[Target],
        matches: Sequence[Sequence[Match]],
    ) -> Tensor:
        """Weighted cross-entropy of each of L predictions, summed over all queries: [L].

        The target of unmatched queries is void.
        """
        logits = at_least_float32(torch.stack([p.class_logits for p in predictions]))
        void = logits.shape[-1] - 1
        labels = torch.full(logits.shape[:-1], void, dtype=torch.int64, device=logits.device)
        for of_prediction, of_images in zip(labels, matches, strict=True):
            matched = [t.labels[m.targets] for t, m in zip(targets, of_images, strict=True)]
            of_prediction.view(-1)[matched_rows(of_images, logits.shape[2])] = torch.cat(matched)
        weight = torch.ones(void + 1, dtype=logits.dtype, device=logits.device)
        weight[void] = self.void_weight
        losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), weight, reduction="none")
        return losses.view(len(predictions), -1).sum(dim=1)

    def _mask_losses(
        self,
        predictions: Sequence[Prediction],
        targets: Sequence[Target],
        matches: Sequence[Sequence[Match]],
    ) -> Tensor:
        """Binary cross-entropy and dice of matched masks on sampled points, summed over masks.

        Returns:
            [L, 2], for L predictions.
        """
        masks = matched_masks(predictions, matches)
        sampled = [
            self._sample(torch.cat(of_images), targets, of_prediction)
            for of_images, of_prediction in zip(masks, matches, strict=True)
        ]
        logits, truth = (torch.stack(tensors) for tensors in zip(*sampled, strict=True))
        cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        dice = dice_loss(logits, truth)
        return torch.stack([cross_entropy.mean(dim=-1).sum(dim=1), dice.sum(dim=1)], dim=1)

    def _sample(
        self, logits: Tensor, targets: Sequence[Target], matches: Sequence[Match]
    ) -> tuple[Tensor, Tensor]:
        """Sample the matched masks [n, H, W] of a prediction and their targets: [n, P] each."""
        with torch.no_grad():
            points = self._sample_points(logits)
            of_images = points.split([len(match.targets) for match in matches])
            truth = [
                target.sample(match.targets, of_image)
                for target, match, of_image in zip(targets, matches, of_images, strict=True)
            ]
        return sample_at(logits, points), torch.cat(truth)

    def _sample_points(self, logits: Tensor) -> Tensor:
        """Sample points for each of n masks (PointRend, section 3.1): [n, H, W] -> [n, P, 2]."""
        count, device = len(logits), logits.device
        num_uncertain = int(self.importance_ratio * self.num_points)
        num_candidates = int(self.oversample_ratio * self.num_points)
        points = self.point_source(count, self.num_points - num_uncertain, device)
        if not num_uncertain:
            return points
        candidates = self.point_source(count, num_candidates, device)
        uncertainty = sample_at(logits, candidates).abs_().neg_()
        # As complex numbers, points are one value to gather.
        uncertain = torch.view_as_complex(candidates).gather(1, largest(uncertainty, num_uncertain))
        return torch.cat([torch.view_as_real(uncertain), points], dim=1)


def matched_masks(
    predictions: Sequence[Prediction], matches: Sequence[Sequence[Match]]
) -> list[list[Tensor]]:
    """Mask logits [m, H, W] of the matched queries, of each prediction and image.

    One product for all predictions of an image, as they share its mask features.
    """
    masks = []
    for image, of_image in enumerate(zip(*matches, strict=True)):
        embedding = torch.cat(
            [
                prediction.mask_embedding[image].index_select(0, match.queries)
                for prediction, match in zip(predictions, of_image, strict=True)
            ]
        )
        features = at_least_float32(predictions[0].mask_features[image])
        logits = at_least_float32(embedding) @ features.flatten(1)
        counts = [len(match.queries) for match in of_image]
        masks.append(logits.unflatten(1, features.shape[1:]).split(counts))
    return [list(of_images) for of_images in zip(*masks, strict=True)]


def matched_rows(matches: Sequence[Match], num_queries: int) -> Tensor:
    """Positions of the matched queries of all images among their B * Q queries, int64 [n]."""
    return torch.cat([match.queries + i * num_queries for i, match in enumerate(matches)])


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of each pair, with 1 added to numerator and denominator: two [..., P] -> [...]."""
    probability = logits.sigmoid()
    total = probability.sum(dim=-1) + targets.sum(dim=-1)
    return 1 - (2 * (probability * targets).sum(dim=-1) + 1) / (total + 1)
