"""Matching and losses as the design states them (section 6), pair by pair.

In the dtype of the predictions. Points are drawn in the order of the real ones.
"""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ita.modeling.decoder import Prediction


def plain_sample(images: Tensor, points: Tensor) -> Tensor:
    """[N, H, W] and [N, P, 2] -> [N, P]."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0, :, 0]


def plain_truth(target, rows, points):
    """Masks of a target, padded to the frame and sampled: [n, P]."""
    masks = target.masks
    dense = (masks.dense() if hasattr(masks, "dense") else masks.masks).to(points.dtype)
    height, width = dense.shape[-2:]
    padded = F.pad(dense, (0, target.frame[1] - width, 0, target.frame[0] - height))
    return plain_sample(padded[rows], points)


def plain_pair(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean binary cross-entropy and dice loss: [..., P] -> [...]."""
    logits, truth = torch.broadcast_tensors(logits, truth)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(-1)
    p = logits.sigmoid()
    return cross_entropy, 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)


def plain_matches(predictions, targets, draw, num_points):
    """Query and target indices, for each prediction a list over images."""
    matches = []
    for prediction in predictions:
        of_images = []
        for image, target in enumerate(targets):
            logits = prediction.mask_logits[image].detach()
            points = draw(1, num_points, logits.device)
            x = plain_sample(logits, points.expand(len(logits), -1, -1))
            count = len(target.masks)
            truth = plain_truth(target, torch.arange(count), points.expand(count, -1, -1))
            cross_entropy, dice = plain_pair(x[:, None], truth[None])
            probability = prediction.class_logits[image].detach().softmax(-1)[:, target.labels]
            cost = -2 * probability + 5 * cross_entropy + 5 * dice
            of_images.append(tuple(torch.as_tensor(i) for i in linear_sum_assignment(cost)))
        matches.append(of_images)
    return matches


def predicted(class_logits, mask_logits):
    """A prediction of given masks, as products with one feature per cell."""
    batch, _, height, width = mask_logits.shape
    features = torch.eye(height * width, dtype=mask_logits.dtype)
    features = features.view(1, -1, height, width).expand(batch, -1, -1, -1)
    return Prediction(class_logits, mask_logits, mask_logits.flatten(2), features)


def plain_losses(predictions, targets, matches, draw, *, num_points, oversample, importance):
    """Losses before weights, [L] each: class, mask and dice."""
    counts = [len(target.labels) for target in targets]
    queries = predictions[0].class_logits.shape[1]
    matched = sum(min(count, queries) for count in counts)
    class_norm = torch.tensor(matched + 0.1 * (queries * len(targets) - matched))
    losses = []
    for prediction, of_images in zip(predictions, matches, strict=True):
        class_logits, mask_logits = prediction.class_logits, prediction.mask_logits
        void = class_logits.shape[-1] - 1
        labels = torch.full(class_logits.shape[:2], void)
        rows = []
        for image, (queries_of, targets_of) in enumerate(of_images):
            labels[image, queries_of] = targets[image].labels[targets_of]
            rows += [mask_logits[image, query] for query in queries_of]
        logits = torch.stack(rows) if rows else mask_logits.flatten(0, 1)[:0]
        points = plain_points(logits.detach(), draw, num_points, oversample, importance)
        of_masks = points.split([len(targets_of) for _, targets_of in of_images])
        truth = torch.cat(
            [
                plain_truth(target, targets_of, points)
                for target, (_, targets_of), points in zip(
                    targets, of_images, of_masks, strict=True
                )
            ]
        )
        cross_entropy, dice = plain_pair(plain_sample(logits, points), truth)
        weight = torch.ones(void + 1, dtype=class_logits.dtype)
        weight[void] = 0.1
        class_loss = F.cross_entropy(
            class_logits.flatten(0, 1), labels.flatten(), weight, reduction="sum"
        )
        number = max(1, sum(counts))
        losses.append((class_loss / class_norm, cross_entropy.sum() / number, dice.sum() / number))
    return [torch.stack(of_kind) for of_kind in zip(*losses, strict=True)]


def plain_points(logits, draw, num_points, oversample, importance):
    """[n, P, 2], the most uncertain candidates first."""
    uncertain = int(importance * num_points)
    points = draw(len(logits), num_points - uncertain, logits.device)
    if not uncertain:
        return points
    candidates = draw(len(logits), int(oversample * num_points), logits.device)
    order = plain_sample(logits, candidates).abs().argsort(dim=1)[:, :uncertain]
    return torch.cat(
        [
            torch.stack([c[i] for c, i in zip(candidates, order, strict=True)])
            if len(logits)
            else candidates[:, :uncertain],
            points,
        ],
        dim=1,
    )
