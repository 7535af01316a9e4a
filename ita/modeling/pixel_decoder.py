"""Multi-scale feature encoder (paper section 3.4; design section 4): Mask2Former's pixel decoder.

Multi-scale deformable self-attention over strides 32, 16 and 8, then one FPN step to stride 4.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from ita.modeling.layers import FeedForward, sine_position, xavier_matrices
from ita.modeling.ops import deformable_attention

# The transformer's levels, from coarse to fine, and the stage added by the FPN step.
LEVELS = ("res5", "res4", "res3")
FINEST = "res2"
GROUPS = 32
FEEDFORWARD_WIDTH = 1024


class PixelFeatures(NamedTuple):
    """Output of the encoder, passed to the decoder.

    Attributes:
        levels: three [B, hidden, h, w], strides 32, 16 and 8.
        mask_features: [B, mask, H / 4, W / 4].
    """

    levels: list[Tensor]
    mask_features: Tensor


class DeformableAttention(nn.Module):
    """Multi-scale deformable self-attention (Deformable DETR, section 4.1).

    Args:
        width: channels, a multiple of ``num_heads``.
        num_heads: number of attention heads.
        num_levels: number of feature levels.
        num_points: sampling points per head and level.
    """

    def __init__(self, width: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.samples = (num_heads, num_levels, num_points)
        self.offsets = nn.Linear(width, 2 * math.prod(self.samples))
        self.weights = nn.Linear(width, math.prod(self.samples))
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        """Initialize offsets in one direction per head, one cell farther with each point."""
        heads, levels, points = self.samples
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(heads) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1)
        offsets = direction[:, None, None] * steps[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(offsets.expand(heads, levels, points, 2).flatten())
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, value: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Attend from every cell of every level to a few locations around it on all levels.

        Args:
            query: [B, S, width], features with positions.
            value: [B, S, width], features without positions.
            reference: [S, 2], the location of each cell, x and y in 0-1.
            shapes: (h, w) of each level.

        Returns:
            [B, S, width].
        """
        heads, levels, points = self.samples
        batch, cells, _ = query.shape
        locations = self._locations(query, reference, shapes)
        # Autocast may round the projections, not what is computed with them.
        values = self.value(value).to(query.dtype).view(batch, cells, heads, -1)
        weights = self.weights(query).to(query.dtype).view(batch, cells, heads, -1)
        weights = weights.softmax(dim=-1).unflatten(-1, (levels, points))
        sampled = deformable_attention(values, shapes, locations, weights)
        return self.output(sampled)

    def _locations(
        self, query: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Reference plus offsets, which are in cells of the level: [B, S, M, L, P, 2].

        All x come before all y in memory, as the operator likes it. The rows of the matrix are
        ordered and scaled for that, instead of its far larger product.
        """
        # Not by new_tensor, which would wait for the GPU in every layer.
        sizes = torch.tensor([(w, h) for h, w in shapes], dtype=reference.dtype)
        sizes = sizes.to(reference.device, non_blocking=True)[:, None]
        matrix = self.offsets.weight.unflatten(0, (*self.samples, 2)) / sizes[..., None]
        bias = self.offsets.bias.unflatten(0, (*self.samples, 2)) / sizes
        matrix = matrix.movedim(3, 0).flatten(1, 3).transpose(1, 2)
        bias = bias.movedim(3, 0).flatten(1)[:, None]
        with torch.autocast(query.device.type, enabled=False):
            locations = torch.baddbmm(bias, query.flatten(0, 1).expand(2, -1, -1), matrix)
        locations = locations.unflatten(1, query.shape[:2])
        locations += reference.T[:, None, :, None]
        return locations.unflatten(3, self.samples).movedim(0, -1)


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, both post-norm."""

    def __init__(self, width: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, num_heads, num_levels, num_points)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, FEEDFORWARD_WIDTH)

    def forward(
        self, x: Tensor, position: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Update the cells x [B, S, width]; position [S, width] is added to the query only."""
        x = self.norm(x + self.attention(x + position, x, reference, shapes))
        return self.feed_forward(x)


class PixelDecoder(nn.Module):
    """The multi-scale feature encoder.

    Args:
        in_channels: widths of res2 ... res5.
        hidden_dim: width of the transformer, a multiple of 32 and of ``num_heads``.
        mask_dim: width of the mask features.
        num_layers: number of deformable encoder layers.
        num_heads: number of heads of deformable attention.
        num_points: sampling points per head and level.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        *,
        hidden_dim: int,
        mask_dim: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
    ) -> None:
        super().__init__()
        self.input_proj = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Conv2d(in_channels[name], hidden_dim, 1), nn.GroupNorm(GROUPS, hidden_dim)
                )
                for name in LEVELS
            }
        )
        self.level_embed = nn.Parameter(torch.empty(len(LEVELS), hidden_dim))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(hidden_dim, num_heads, len(LEVELS), num_points)
            for _ in range(num_layers)
        )
        self.lateral = nn.Sequential(
            nn.Conv2d(in_channels[FINEST], hidden_dim, 1, bias=False),
            nn.GroupNorm(GROUPS, hidden_dim),
        )
        self.fusion = nn.Sequential(
            nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, hidden_dim),
            nn.ReLU(),
        )
        self.mask_features = nn.Conv2d(hidden_dim, mask_dim, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the weights (design section 4)."""
        for module in self.input_proj.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for conv in (self.lateral[0], self.fusion[0], self.mask_features):
            c2_xavier_fill(conv)
        nn.init.normal_(self.level_embed)
        xavier_matrices(self.layers)
        for module in self.layers.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()

    def forward(self, features: Mapping[str, Tensor]) -> PixelFeatures:
        """Encode a feature pyramid.

        Under mixed precision in float16, with its narrow range, all stays in float32; in bfloat16,
        the sampling does.

        Args:
            features: res2 ... res5, [B, C, H / s, W / s] with strides s of 4, 8, 16, 32.
        """
        device = features[FINEST].device.type
        mixed = torch.is_autocast_enabled(device)
        mixed = mixed and torch.get_autocast_dtype(device) == torch.bfloat16
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            features = {name: features[name].float() for name in (*LEVELS, FINEST)}
            levels = self._encode_levels(features)
            finest = self.lateral(features[FINEST])
            # The level lies channel by channel in memory for the sum with ``finest``.
            finest = finest + F.interpolate(
                levels[-1].contiguous(),
                size=finest.shape[-2:],
                mode="bilinear",
                align_corners=False,
            )
            return PixelFeatures(levels, self.mask_features(self.fusion(finest)))

    def _encode_levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        projected = [self.input_proj[name](features[name]) for name in LEVELS]
        shapes = [tuple(level.shape[-2:]) for level in projected]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in projected], dim=1)
        position = torch.cat(
            [
                sine_position(h, w, x.shape[-1], x.device) + embed
                for (h, w), embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        reference = torch.cat([cell_centers(h, w, x.device) for h, w in shapes])
        for layer in self.layers:
            x = layer(x, position, reference, shapes)
        levels = x.split([h * w for h, w in shapes], dim=1)
        return [
            level.transpose(1, 2).unflatten(2, shape)
            for level, shape in zip(levels, shapes, strict=True)
        ]


def cell_centers(height: int, width: int, device: torch.device) -> Tensor:
    """Centers of a grid's cells, row by row: [height * width, 2], x and y in 0-1."""
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
