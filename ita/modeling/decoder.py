"""Progressive feature decoder: image-text aggregation (paper section 3.5; design section 5)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from ita.modeling.layers import MLP, Attention, FeedForward, sine_position, xavier_matrices
from ita.modeling.vocabulary import Classifier, class_logits


class Prediction(NamedTuple):
    """Output of the prediction head for B images with Q queries.

    Attributes:
        class_logits: [B, Q, C + 1], void last.
        mask_logits: [B, Q, H / 4, W / 4], without gradient: the products of the two below.
        mask_embedding: [B, Q, mask].
        mask_features: [B, mask, H / 4, W / 4].
    """

    class_logits: Tensor
    mask_logits: Tensor
    mask_embedding: Tensor
    mask_features: Tensor


class DecoderLayer(nn.Module):
    """Masked cross-attention, optional self-attention between queries, feed-forward network."""

    def __init__(self, width: int, num_heads: int, ffn_dim: int, self_attention: bool) -> None:
        super().__init__()
        self.cross_attention = Attention(width, num_heads)
        self.self_attention = Attention(width, num_heads) if self_attention else None
        self.feed_forward = FeedForward(width, ffn_dim)

    def forward(
        self, queries: Tensor, query_position: Tensor, key: Tensor, value: Tensor, allowed: Tensor
    ) -> Tensor:
        """Update queries [B, Q, h] from one level's keys and values [B, S, h].

        Args:
            query_position: [Q, h], added to queries (and keys of self-attention), never to values.
            allowed: [B, Q, S] bool.
        """
        queries = self.cross_attention(queries, key, value, query_position, allowed)
        if self.self_attention is not None:
            key = queries + query_position
            queries = self.self_attention(queries, key, queries, query_position)
        return self.feed_forward(queries)


class PredictionHead(nn.Module):
    """Predicts masks and classes of queries; shared by the initial queries and all layers.

    Args:
        hidden_dim: width of queries.
        mask_dim: width of the mask features.
        text_dim: width of the text features, D.
        text_residual: whether the class embedding of a text query starts from its text feature.
    """

    def __init__(
        self, hidden_dim: int, mask_dim: int, text_dim: int, text_residual: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)
        self.region_proj = nn.Sequential(nn.LayerNorm(mask_dim), nn.Linear(mask_dim, hidden_dim))
        self.class_embed = MLP(hidden_dim, hidden_dim, text_dim, 3)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.text_weight = nn.Parameter(torch.ones(())) if text_residual else None

    def forward(
        self,
        queries: Tensor,
        mask_features: Tensor,
        classifier: Classifier,
        text: Tensor | None = None,
    ) -> Prediction:
        """Predict masks and classes of queries.

        Args:
            queries: [B, Q, h].
            mask_features: [B, mask, H / 4, W / 4].
            classifier: the text classifier of the vocabulary in use.
            text: [B, K', D] unit text features of the first queries; None without text queries.
        """
        x = self.norm(queries)
        mask_embedding = self.mask_embed(x)
        # The losses read a tenth of the masks, and differentiate only these.
        mask_logits = mask_products(mask_embedding.detach(), mask_features.detach())
        region = self.region_proj(mean_over_masks(mask_features, mask_logits))
        embedding = self.class_embed(region + x)
        if self.text_weight is not None and text is not None:
            num_learned = x.shape[1] - text.shape[1]
            embedding = embedding + self.text_weight * F.pad(text, (0, 0, 0, num_learned))
        logits = class_logits(embedding, classifier, self.logit_scale)
        return Prediction(logits, mask_logits, mask_embedding, mask_features)

    @torch.no_grad()
    def attended(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        """Attention mask of the next layer's cross-attention (Mask2Former, section 3.2.1).

        Args:
            queries: [B, Q, h].
            mask_features: [B, mask, h, w], resized to the level attended to: to resize the masks
                themselves gives the same, as they are products with the features.

        Returns:
            [B, Q, h * w] bool, True where the mask probability is at least 0.5, and everywhere for
            a query whose mask is empty at this size.
        """
        logits = mask_products(self.mask_embed(self.norm(queries)), mask_features)
        allowed = logits.flatten(2) >= 0
        return allowed | ~allowed.any(dim=-1, keepdim=True)


class Decoder(nn.Module):
    """Progressive decoder from dominant-category and learned queries to masks and classes.

    Args:
        in_dim: width of the three feature levels.
        mask_dim: width of the mask features.
        text_dim: width of the text features, D.
        hidden_dim: width of queries, h, a multiple of ``num_heads``.
        num_queries: number of learned queries, L.
        num_dominant: maximum number of dominant-category queries, K.
        num_layers: number of decoder layers; there is one more prediction than layers.
        num_heads: number of attention heads.
        ffn_dim: width of the feed-forward networks.
        self_attention: whether queries attend to each other.
        num_levels: number of feature levels.
        text_residual: whether the class embedding of a text query starts from its text feature.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        mask_dim: int,
        text_dim: int,
        hidden_dim: int,
        num_queries: int,
        num_dominant: int,
        num_layers: int,
        num_heads: int,
        ffn_dim: int,
        self_attention: bool,
        num_levels: int,
        text_residual: bool,
    ) -> None:
        super().__init__()
        self.num_queries, self.num_dominant = num_queries, num_dominant
        self.query_feature = nn.Embedding(num_queries, hidden_dim)
        self.query_position = nn.Embedding(num_dominant + num_queries, hidden_dim)
        self.level_embed = nn.Embedding(num_levels, hidden_dim)
        self.input_proj = nn.ModuleList(
            nn.Identity() if in_dim == hidden_dim else nn.Conv2d(in_dim, hidden_dim, 1)
            for _ in range(num_levels)
        )
        for projection in self.input_proj:
            if isinstance(projection, nn.Conv2d):
                c2_xavier_fill(projection)
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, num_heads, ffn_dim, self_attention) for _ in range(num_layers)
        )
        self.head = PredictionHead(hidden_dim, mask_dim, text_dim, text_residual)
        xavier_matrices(self.layers)

    def forward(
        self,
        levels: Sequence[Tensor],
        mask_features: Tensor,
        classifier: Classifier,
        dominant: Tensor | None = None,
        text: Tensor | None = None,
        *,
        every_layer: bool = True,
    ) -> list[Prediction]:
        """Predict masks and classes from image features.

        Args:
            levels: [B, in_dim, h, w] each, coarse to fine; layer i attends to level i mod 3.
            mask_features: [B, mask_dim, H / 4, W / 4].
            classifier: the text classifier of the vocabulary in use.
            dominant: [B, K', h] dominant-category queries, K' <= K; None without them.
            text: [B, K', D] their unit text features, which a text residual adds.
            every_layer: predict from the initial queries and after each layer, for the losses;
                otherwise only after the last layer.

        Returns:
            The predictions, in order.
        """
        queries, position = self._initial_queries(mask_features.shape[0], dominant)
        keys, values = self._keys_and_values(levels)
        level_masks = [resized(mask_features.detach(), level.shape[-2:]) for level in levels]
        of_layers = [queries]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            allowed = self.head.attended(queries, level_masks[level])
            queries = layer(queries, position, keys[level], values[level], allowed)
            of_layers.append(queries)
        predicting = of_layers if every_layer else of_layers[-1:]
        return [self.head(queries, mask_features, classifier, text) for queries in predicting]

    def _initial_queries(self, batch: int, dominant: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return queries [B, K' + L, h], dominant ones first, and their positions [K' + L, h]."""
        queries = self.query_feature.weight.expand(batch, -1, -1)
        if dominant is None:
            return queries, self.query_position.weight[self.num_dominant :]
        queries = torch.cat([dominant.to(queries.dtype), queries], dim=1)
        # By row numbers, since exporters take slices of varying length to be as long as here.
        first = torch.arange(dominant.shape[1], device=queries.device)
        last = torch.arange(self.num_queries, device=queries.device) + self.num_dominant
        return queries, self.query_position(torch.cat([first, last]))

    def _keys_and_values(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        keys, values = [], []
        for feature, project, embed in zip(
            levels, self.input_proj, self.level_embed.weight, strict=True
        ):
            h, w = feature.shape[-2:]
            value = project(feature).flatten(2).transpose(1, 2) + embed
            keys.append(value + sine_position(h, w, value.shape[-1], value.device))
            values.append(value)
        return keys, values


def mask_products(embedding: Tensor, mask_features: Tensor) -> Tensor:
    """Mask logits of queries: [B, Q, mask] and [B, mask, H, W] -> [B, Q, H, W]."""
    # Queries last in memory, as those who read masks at points or pixels want them.
    products = mask_features.flatten(2).transpose(1, 2) @ embedding.transpose(1, 2)
    return products.transpose(1, 2).unflatten(2, mask_features.shape[2:])


def resized(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize features [B, C, H, W] bilinearly."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def mean_over_masks(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Mean feature over the positive logits of each mask, without gradient through the mask.

    In float32 even under mixed precision, as the area of a mask exceeds the range of float16.

    Args:
        features: [B, C, H, W].
        mask_logits: [B, Q, H, W].

    Returns:
        [B, Q, C]; zeros for an empty mask.
    """
    with torch.autocast(features.device.type, enabled=False):
        mask = mask_logits.detach().flatten(2) > 0
        sums = _MaskedSum.apply(features.flatten(2).float(), mask)
        return sums / (mask.sum(dim=-1, keepdim=True) + 1e-8)


class _MaskedSum(torch.autograd.Function):
    """Product of masks and features that keeps a byte per cell of a mask for its gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, mask: Tensor) -> Tensor:
        """[B, C, S] and bool [B, Q, S] -> [B, Q, C]."""
        ctx.save_for_backward(mask)
        return mask.to(features.dtype) @ features.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the features."""
        (mask,), (gradient,) = ctx.saved_tensors, gradients
        return gradient.transpose(1, 2) @ mask.to(gradient.dtype), None
