"""Multi-scale deformable attention by embedding bags: weighted sums of rows of a table.

The table [S * M, D] has a row for each cell and head. A bilinear sample is a weighted sum of four
of them. Along an axis of n >= 2 cells, position p lies around cells t and t + 1, with
t = trunc(clamp(p, 0, n - 2)), and their weights are max(0, 1 - |p - t|) and
max(0, 1 - |p - t - 1|): 0 for cells that p does not touch, so that samples outside need no mask.

The samples of a query and head form a bag, once for each of the four corners. Only the inputs are
kept for the backward pass, which computes rows and weights again.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Samples whose rows and weights are computed at once: on a CPU 256 KB for each temporary tensor,
# which stay in its caches; on a GPU 64 MB.
SAMPLES_ON_CPU = 1 << 16
SAMPLES_ON_GPU = 1 << 24


def bag_deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute :func:`ita.modeling.ops.deformable_attention`, in float32 at least."""
    dtype = value.dtype
    if dtype != torch.float64:
        value, locations, weights = value.float(), locations.float(), weights.float()
    padded = [(max(h, 2), max(w, 2)) for h, w in shapes]
    value = _pad_levels(value, shapes, padded).contiguous()
    grid = _Grid.of(shapes, padded, weights)
    output: Tensor = _Bags.apply(value, locations, weights, grid)
    return output.to(dtype)


def _pad_levels(
    value: Tensor, shapes: Sequence[tuple[int, int]], padded: Sequence[tuple[int, int]]
) -> Tensor:
    """Append zeros to levels [B, S, M, D] with one row or column."""
    if all(tuple(old) == new for old, new in zip(shapes, padded, strict=True)):
        return value
    levels = value.split([h * w for h, w in shapes], dim=1)
    return torch.cat(
        [
            F.pad(
                level.unflatten(1, old), (0, 0, 0, 0, 0, new[1] - old[1], 0, new[0] - old[0])
            ).flatten(1, 2)
            for level, old, new in zip(levels, shapes, padded, strict=True)
        ],
        dim=1,
    )


class _Grid(NamedTuple):
    """Constants of the levels, and of the N = M * L * P samples of a query.

    Attributes:
        levels: (h, w) of each level in the table.
        size: [2, N], w and h of the level that the locations refer to.
        origin: 0.
        last: [2, N], the last column and the last row that have a next one.
        pitch: [N], w in the table.
        first: int32 [N], the table's row of the head in the level's first cell.
        below: int32 [N], the table's rows from a cell to the one below.
    """

    levels: list[tuple[int, int]]
    size: Tensor
    origin: Tensor
    last: Tensor
    pitch: Tensor
    first: Tensor
    below: Tensor

    @staticmethod
    def of(
        shapes: Sequence[tuple[int, int]], padded: list[tuple[int, int]], weights: Tensor
    ) -> "_Grid":
        """Describe a table of levels ``padded``; the other arguments as the operator's."""
        heads, num_levels, points = weights.shape[2:]
        starts = accumulate((h * w for h, w in padded[:-1]), initial=0)
        rows = [
            (w, h, b - 2, a - 2, b, start * heads, b * heads)
            for (h, w), (a, b), start in zip(shapes, padded, starts, strict=True)
        ]
        # On the CPU first, not by new_tensor, which would wait for the GPU.
        table = torch.tensor(rows, dtype=torch.int32).T[:, None, :, None]
        table = table.expand(-1, heads, num_levels, points).clone()
        table[5] += torch.arange(heads, dtype=torch.int32)[:, None, None]
        table = table.flatten(1).to(weights.device, non_blocking=True)
        size, last, pitch = (table[rows].to(weights.dtype) for rows in (slice(2), slice(2, 4), 4))
        return _Grid(padded, size, torch.zeros_like(pitch[0]), last, pitch, table[5], table[6])


class _Axis(NamedTuple):
    """Two neighboring cells for each sample along one axis, [n, N] each.

    Attributes:
        cell: the first of the two, a whole number.
        near, far: the weights of the first and the second.
        side: 0 where the position is between the two, -1 and 1 where less than one cell before or
            behind, others farther off.
    """

    cell: Tensor
    near: Tensor
    far: Tensor
    side: Tensor

    @staticmethod
    def of(locations: Tensor, size: Tensor, origin: Tensor, last: Tensor) -> "_Axis":
        position = (locations * size).sub_(0.5)
        cell = torch.clamp(position, origin, last).trunc_()
        distance = position.sub_(cell)
        side = distance.floor()
        near = (1 - distance.abs()).clamp_(min=0)
        far = (1 - distance.sub_(1).abs_()).clamp_(min=0)
        return _Axis(cell, near, far, side)

    def slope(self, near: Tensor, far: Tensor) -> Tensor:
        """Derivative of near * self.near + far * self.far by the position."""
        outside = torch.where(self.side == -1, near, 0) - torch.where(self.side == 1, far, 0)
        return torch.where(self.side == 0, far - near, outside)


class _Part(NamedTuple):
    """Some queries of an image.

    Attributes:
        queries: their numbers.
        x, y: their samples.
        weight: [n, N].
        upper, lower: int32 [n * M, L * P], the table's rows of the left corners; those of the
            right corners are M rows on.
    """

    queries: slice
    x: _Axis
    y: _Axis
    weight: Tensor
    upper: Tensor
    lower: Tensor

    def corners(self) -> Iterator[tuple[Tensor, bool, Tensor]]:
        """Rows of the left corner, whether the right one is meant, and weights [n * M, L * P]."""
        for rows, y in ((self.upper, self.y.near), (self.lower, self.y.far)):
            weight = self.weight * y
            yield rows, False, (weight * self.x.near).view_as(rows)
            yield rows, True, weight.mul_(self.x.far).view_as(rows)


def _parts(locations: Tensor, weights: Tensor, grid: _Grid) -> Iterator[_Part]:
    """Split an image's queries, locations [Q, M, L, P, 2] and weights [Q, M, L, P]."""
    heads = weights.shape[1]
    limit = SAMPLES_ON_CPU if weights.device.type == "cpu" else SAMPLES_ON_GPU
    step = max(1, limit // weights.shape[1:].numel())
    for start in range(0, len(weights), step):
        queries = slice(start, start + step)
        x, y = (
            _Axis.of(axis.flatten(1), size, grid.origin, last)
            for axis, size, last in zip(
                locations[queries].unbind(dim=-1), grid.size, grid.last, strict=True
            )
        )
        # A location that is not a number becomes any integer.
        cell = torch.addcmul(x.cell, y.cell, grid.pitch).int().clamp_(min=0)
        upper = torch.add(grid.first, cell, alpha=heads)
        lower = upper + grid.below
        bags = (len(upper) * heads, -1)
        yield _Part(queries, x, y, weights[queries].flatten(1), upper.view(bags), lower.view(bags))


class _Bags(torch.autograd.Function):
    """Deformable attention on a table whose levels have two rows and columns at least."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, grid: _Grid) -> Tensor:
        ctx.save_for_backward(value, locations, weights)
        ctx.grid = grid
        _, _, heads, width = value.shape
        output = value.new_empty(*weights.shape[:2], heads * width)
        for image, table in enumerate(value.flatten(1, 2)):
            for part in _parts(locations[image], weights[image], grid):
                sums = output[image, part.queries].view(-1, width).zero_()
                for rows, right, weight in part.corners():
                    sums += F.embedding_bag(
                        rows, table[heads * right :], mode="sum", per_sample_weights=weight
                    )
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        value, locations, weights = ctx.saved_tensors
        grid: _Grid = ctx.grid
        _, _, heads, width = value.shape
        of_value = torch.zeros_like(value)
        of_locations, of_weights = torch.empty_like(locations), torch.empty_like(weights)
        for image, table in enumerate(value.flatten(1, 2)):
            sums = gradient[image].reshape(-1, width)
            samples = []
            for part in _parts(locations[image], weights[image], grid):
                of_part = gradient[image, part.queries].reshape(-1, width)
                products = _products(table, heads, of_part, part)
                x, y, weight = _chain(part, products)
                here = of_weights[image, part.queries]
                here.copy_(weight.view_as(here))
                for axis, one in enumerate((x, y)):
                    scaled = one.mul_(grid.size[axis]).view_as(here)
                    of_locations[image, part.queries, ..., axis] = scaled
                samples.append((part.upper, *(weight for _, _, weight in part.corners())))
            if samples:
                rows, *corners = (torch.cat(parts) for parts in zip(*samples, strict=True))
                _scatter(of_value[image].flatten(0, 1), rows, corners, sums, heads, grid)
        return of_value, of_locations, of_weights, None


def _products(table: Tensor, heads: int, gradient: Tensor, part: _Part) -> list[Tensor]:
    """Products of the corners' rows with the gradient [n * M, D] of their bag: four [n, N]."""
    # Four times as many values at once as in another temporary tensor: fewer calls, still cached.
    bags = max(1, 4 * len(gradient) // gradient.shape[1])
    products = []
    for rows, right, _ in part.corners():
        corner = table[heads * right :]
        pieces = []
        for some, of_some in zip(rows.split(bags), gradient.split(bags), strict=True):
            values = corner.index_select(0, some.flatten()).view(*some.shape, -1)
            pieces.append(values.mul_(of_some[:, None]).sum(dim=-1))
        products.append(torch.cat(pieces).view_as(part.weight))
    return products


def _chain(part: _Part, products: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [n, N] of positions x and y and of weights, from those of the corners' weights."""
    x, y = part.x, part.y
    upper_left, upper_right, lower_left, lower_right = products
    upper = upper_left * x.near + upper_right * x.far
    lower = lower_left * x.near + lower_right * x.far
    left = upper_left * y.near + lower_left * y.far
    right = upper_right * y.near + lower_right * y.far
    of_weight = upper * y.near + lower * y.far
    return x.slope(left, right) * part.weight, y.slope(upper, lower) * part.weight, of_weight


def _scatter(
    output: Tensor,
    rows: Tensor,
    corners: Sequence[Tensor],
    gradient: Tensor,
    heads: int,
    grid: _Grid,
) -> None:
    """Add each bag's gradient to its rows: embedding bags again, one for each row of the table.

    The samples are sorted by their upper left corner: the sums have a fixed order.

    Args:
        output: [S * M, D], the gradient of the values, to be added to.
        rows: int32 [Q * M, L * P], the table's rows of the upper left corners.
        corners: the weights of the four corners, each like ``rows``.
        gradient: [Q * M, D].
        heads: M.
        grid: the levels.
    """
    order = rows.flatten().sort(stable=True)
    numbers = torch.arange(len(output), dtype=torch.int32, device=rows.device)
    starts = torch.searchsorted(order.values, numbers, out_int32=True)
    bags = order.indices.int().div_(rows.shape[1], rounding_mode="floor")
    for corner, weights in enumerate(corners):
        sums = F.embedding_bag(
            bags,
            gradient,
            starts,
            mode="sum",
            per_sample_weights=weights.flatten().index_select(0, order.indices),
        )
        first = 0
        for h, w in grid.levels:
            down, right = divmod(corner, 2)
            shift = (down * w + right) * heads
            end = first + h * w * heads
            output[first + shift : end] += sums[first : end - shift]
            first = end
