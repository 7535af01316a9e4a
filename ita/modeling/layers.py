"""Small layers shared by several parts of the model."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ita.modeling.ops.feed_forward import feed_forward


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        in_width, hidden_width, out_width: widths of the input, the hidden layers and the output.
        num_layers: number of linear layers.
    """

    def __init__(self, in_width: int, hidden_width: int, out_width: int, num_layers: int) -> None:
        super().__init__()
        widths = [in_width, *[hidden_width] * (num_layers - 1), out_width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_width] -> [..., out_width]."""
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class FeedForward(nn.Module):
    """Two linear layers around a ReLU, a residual connection, LayerNorm last (post-norm)."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden_width)
        self.linear2 = nn.Linear(hidden_width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.norm(x + feed_forward(x, self.linear1, F.relu_, self.linear2))


class FrozenMLP(nn.Module):
    """Two linear layers around a GELU, in place of timm's ``Mlp`` and with its parameters.

    Gradients are not supported, since the GELU works in place.

    Args:
        fc1: width -> hidden width.
        fc2: hidden width -> width.
    """

    def __init__(self, fc1: nn.Linear, fc2: nn.Linear) -> None:
        super().__init__()
        self.fc1, self.fc2 = fc1, fc2

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return feed_forward(x, self.fc1, torch.ops.aten.gelu_, self.fc2)


class Attention(nn.Module):
    """Multi-head attention with a residual connection, LayerNorm last (post-norm).

    The three input projections are one matrix, with the initialization of nn.MultiheadAttention;
    one mask is shared by all heads and never expanded to them.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Tensor,
        key: Tensor,
        value: Tensor,
        query_position: Tensor,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Attend from ``x`` to ``key`` and ``value``.

        Args:
            x: [B, Q, width], the features to update.
            key: [B, S, width].
            value: [B, S, width].
            query_position: broadcastable to ``x``, added to the query only.
            allowed: [B, Q, S] bool, True where attention is allowed; None allows it everywhere.

        Returns:
            [B, Q, width].
        """
        weights = self.in_proj.weight.chunk(3)
        biases = self.in_proj.bias.chunk(3)
        query, key, value = (
            F.linear(t, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t, w, b in zip((x + query_position, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.norm(x + self.out_proj(attended.transpose(1, 2).flatten(2)))


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Sine position embedding of a grid (Mask2Former; design section 4).

    Row and column positions start at 1 and are scaled to 2 pi at the last; sines and cosines of
    ``channels / 4`` frequencies interleave, y in the first half of the channels, x in the second.

    Returns:
        [height * width, channels] float32.
    """
    half = channels // 2
    frequency = torch.arange(half, device=device).div(2, rounding_mode="floor")
    period = 10000 ** (2 * frequency / half)

    def encode(length: int) -> Tensor:
        count = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = (count / (length + 1e-6) * 2 * math.pi)[:, None] / period
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)

    y = encode(height)[:, None].expand(-1, width, -1)
    x = encode(width)[None].expand(height, -1, -1)
    return torch.cat([y, x], dim=2).flatten(0, 1)


def xavier_matrices(module: nn.Module) -> None:
    """Initialize all matrices of a module Xavier-uniformly; vectors are left unchanged."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
