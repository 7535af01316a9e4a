"""Multi-scale deformable attention by Triton kernels for GPUs.

A program computes a block of queries of one head, sample by sample. With position (x, y) in cells,
r = floor(y), c = floor(x), and fractions u = x - c and v = y - r, a sample is

    (1 - v) ((1 - u) V[r, c] + u V[r, c + 1]) + v ((1 - u) V[r + 1, c] + u V[r + 1, c + 1]),

where V is 0 outside. With g the output's gradient and d_ij = g . V[r + i, c + j], its derivative by
x is (1 - v) (d_01 - d_00) + v (d_11 - d_10), by y (1 - u) (d_10 - d_00) + u (d_11 - d_01).

Memory: values [B, S, M, D]; x, y and weights [B * Q, M, L * P] each; output [B * Q, M, D]; levels
int32 [L, 3], h, w and the first cell. All are contiguous, and all sums are in float32. Gradients of
values are added atomically, in no fixed order; the others are written by one program each.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Queries of a program: 16 rows of 32 values are four for each of 128 threads, one 16-byte load.
BLOCK = 16


def triton_deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Compute :func:`ita.modeling.ops.deformable_attention` in float32, from any lower precision.

    Gradients of values differ in their last bits from run to run.
    """
    starts = accumulate((h * w for h, w in shapes[:-1]), initial=0)
    rows = [(h, w, start) for (h, w), start in zip(shapes, starts, strict=True)]
    levels = torch.tensor(rows, dtype=torch.int32).to(value.device, non_blocking=True)
    x, y = locations.unbind(dim=-1)
    output: Tensor = _Attention.apply(
        value.contiguous(), x.contiguous(), y.contiguous(), weights.contiguous(), levels
    )
    return output


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, x: Tensor, y: Tensor, weights: Tensor, levels: Tensor
    ) -> Tensor:
        ctx.save_for_backward(value, x, y, weights, levels)
        output = value.new_empty(*weights.shape[:2], value.shape[2] * value.shape[3])
        if output.numel():
            grid, sizes = _launch(value, weights)
            with torch.cuda.device_of(value):
                _forward_kernel[grid](value, x, y, weights, levels, output, **sizes)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, x, y, weights, levels = ctx.saved_tensors
        of_value = torch.zeros_like(value, dtype=torch.float32)
        of_x, of_y, of_weights = (torch.empty_like(t) for t in (x, y, weights))
        if gradient.numel():
            grid, sizes = _launch(value, weights)
            inputs = (value, x, y, weights, levels, gradient.contiguous())
            with torch.cuda.device_of(value):
                _backward_kernel[grid](*inputs, of_value, of_x, of_y, of_weights, **sizes)
        return of_value.to(value.dtype), of_x, of_y, of_weights, None


def _launch(value: Tensor, weights: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid of programs, and the sizes that kernels take."""
    _, cells, heads, width = value.shape
    batch, queries, _, levels, points = weights.shape
    sizes = {"num_queries": queries, "total": batch * queries, "cells": cells, "heads": heads}
    fixed = {"LEVELS": levels, "POINTS": points, "WIDTH": width, "BLOCK": BLOCK}
    columns = triton.next_power_of_2(width)
    grid = (triton.cdiv(batch * queries, BLOCK), heads)
    return grid, {**sizes, **fixed, "COLUMNS": columns}


@triton.jit
def _corner(
    row: tl.tensor,
    column: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
    first: tl.tensor,
    valid: tl.tensor,
    base: tl.tensor,
    heads: tl.tensor,
    channel: tl.tensor,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Offsets and mask [BLOCK, COLUMNS] of cells (row, column) [BLOCK] of valid queries."""
    inside = valid & (row >= 0) & (row < h) & (column >= 0) & (column < w)
    cell = tl.where(inside, first + row * w + column, 0)
    offsets = base[:, None] + (cell * heads * WIDTH)[:, None] + channel[None]
    return offsets, inside[:, None] & (channel < WIDTH)[None]


@triton.jit
def _axis(
    locations: tl.tensor, sample: tl.tensor, valid: tl.tensor, size: tl.tensor
) -> tuple[tl.tensor, tl.tensor]:
    """First cell and fraction along an axis of ``size`` cells."""
    position = tl.load(locations + sample, mask=valid, other=0).to(tl.float32) * size - 0.5
    # Farther off is outside as well, and fits into an integer.
    position = tl.minimum(tl.maximum(position, -2.0), size + 1.0)
    cell = tl.floor(position)
    return cell.to(tl.int32), position - cell


@triton.jit
def _bags(
    num_queries: tl.tensor,
    total: tl.tensor,
    cells: tl.tensor,
    heads: tl.tensor,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Numbers of the program's queries and head together, which of them exist, first values."""
    query = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1)
    base = (query // num_queries * cells * heads + head) * WIDTH
    return query * heads + head, query < total, base


@triton.jit
def _sample(
    x: tl.tensor,
    y: tl.tensor,
    weights: tl.tensor,
    sample: tl.tensor,
    valid: tl.tensor,
    h: tl.tensor,
    w: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Upper left cell (row, column), fractions (v, u) and weight of samples [BLOCK]."""
    column, u = _axis(x, sample, valid, w)
    row, v = _axis(y, sample, valid, h)
    weight = tl.load(weights + sample, mask=valid, other=0).to(tl.float32)
    return row, column, v, u, weight


@triton.jit
def _forward_kernel(
    value: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    weights: tl.tensor,
    levels: tl.tensor,
    output: tl.tensor,
    num_queries: tl.tensor,
    total: tl.tensor,
    cells: tl.tensor,
    heads: tl.tensor,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    bag, valid, base = _bags(num_queries, total, cells, heads, WIDTH, BLOCK)
    channel = tl.arange(0, COLUMNS)
    sums = tl.zeros((BLOCK, COLUMNS), tl.float32)
    for level in range(LEVELS):
        h = tl.load(levels + 3 * level)
        w = tl.load(levels + 3 * level + 1)
        first = tl.load(levels + 3 * level + 2)
        for point in range(POINTS):
            sample = bag * LEVELS * POINTS + level * POINTS + point
            row, column, v, u, weight = _sample(x, y, weights, sample, valid, h, w)
            for i in tl.static_range(2):
                for j in tl.static_range(2):
                    offsets, inside = _corner(
                        row + i, column + j, h, w, first, valid, base, heads, channel, WIDTH
                    )
                    corner = tl.load(value + offsets, mask=inside, other=0).to(tl.float32)
                    share = (v if i else 1 - v) * (u if j else 1 - u) * weight
                    sums += share[:, None] * corner
    mask = valid[:, None] & (channel < WIDTH)[None]
    tl.store(output + bag[:, None] * WIDTH + channel[None], sums, mask=mask)


@triton.jit
def _backward_kernel(
    value: tl.tensor,
    x: tl.tensor,
    y: tl.tensor,
    weights: tl.tensor,
    levels: tl.tensor,
    gradient: tl.tensor,
    of_value: tl.tensor,
    of_x: tl.tensor,
    of_y: tl.tensor,
    of_weights: tl.tensor,
    num_queries: tl.tensor,
    total: tl.tensor,
    cells: tl.tensor,
    heads: tl.tensor,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    bag, valid, base = _bags(num_queries, total, cells, heads, WIDTH, BLOCK)
    channel = tl.arange(0, COLUMNS)
    mask = valid[:, None] & (channel < WIDTH)[None]
    g = tl.load(gradient + bag[:, None] * WIDTH + channel[None], mask=mask, other=0)
    g = g.to(tl.float32)
    for level in range(LEVELS):
        h = tl.load(levels + 3 * level)
        w = tl.load(levels + 3 * level + 1)
        first = tl.load(levels + 3 * level + 2)
        for point in range(POINTS):
            sample = bag * LEVELS * POINTS + level * POINTS + point
            row, column, v, u, weight = _sample(x, y, weights, sample, valid, h, w)
            along_x = tl.zeros((BLOCK,), tl.float32)
            along_y = tl.zeros((BLOCK,), tl.float32)
            sampled = tl.zeros((BLOCK,), tl.float32)
            for i in tl.static_range(2):
                for j in tl.static_range(2):
                    offsets, inside = _corner(
                        row + i, column + j, h, w, first, valid, base, heads, channel, WIDTH
                    )
                    corner = tl.load(value + offsets, mask=inside, other=0).to(tl.float32)
                    product = tl.sum(g * corner, axis=1)
                    of_row = v if i else 1 - v
                    of_column = u if j else 1 - u
                    sampled += of_row * of_column * product
                    along_x += of_row * product if j else -of_row * product
                    along_y += of_column * product if i else -of_column * product
                    share = of_row * of_column * weight
                    tl.atomic_add(of_value + offsets, share[:, None] * g, mask=inside)
            tl.store(of_x + sample, along_x * weight * w, mask=valid)
            tl.store(of_y + sample, along_y * weight * h, mask=valid)
            tl.store(of_weights + sample, sampled, mask=valid)
