"""Multi-scale deformable attention (Deformable DETR, equation 3)."""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from ita.modeling.ops.deformable_attention.embedding_bags import bag_deformable_attention
from ita.modeling.ops.plain import plain_selected


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values sampled bilinearly at given locations on several levels.

    Args:
        value: [B, S, M, D], the values of M heads; S = sum of h * w over the levels, in order.
        shapes: (h, w) of each of the L levels.
        locations: [B, Q, M, L, P, 2], x and y in 0-1 from border to border of the level;
            locations outside contribute zeros. It is fastest if all x, and all y, are contiguous.
        weights: [B, Q, M, L, P].

    Returns:
        [B, Q, M * D].
    """
    if plain_selected():
        return plain_deformable_attention(value, shapes, locations, weights)
    # The kernels add gradients in no fixed order, and in float32.
    exact = torch.are_deterministic_algorithms_enabled() or value.dtype == torch.float64
    if value.device.type == "cuda" and not exact and _can_run_kernels():
        from ita.modeling.ops.deformable_attention.gpu_kernels import triton_deformable_attention

        return triton_deformable_attention(value, shapes, locations, weights)
    return bag_deformable_attention(value, shapes, locations, weights)


@cache
def _can_run_kernels() -> bool:
    """Whether there are Triton, which PyTorch for CPUs comes without, and a GPU for it."""
    return find_spec("triton") is not None and torch.cuda.is_available()


def plain_deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Define :func:`deformable_attention`, by grid_sample."""
    batch, _, heads, width = value.shape
    queries = locations.shape[1]
    # [B, Q, M, L, P, 2] -> [L, B * M, Q, P, 2], in grid_sample's -1 to 1
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    weights = weights.permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)
    values = value.split([h * w for h, w in shapes], dim=1)
    output = value.new_zeros(batch * heads, width, queries)
    for (h, w), level, grid, weight in zip(shapes, values, grids, weights, strict=True):
        image = level.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        sampled = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)
        output = output + (sampled * weight).sum(dim=-1)
    return output.view(batch, heads * width, queries).transpose(1, 2)
