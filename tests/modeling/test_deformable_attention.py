"""Multi-scale deformable attention against its definition, sample by sample."""

import math

import pytest
import torch

from ita.modeling.ops import deformable_attention

SHAPES = ((2, 3), (4, 1), (5, 6))


def make_inputs(shapes=SHAPES, batch=2, queries=3, heads=2, width=4, points=3, spread=1.5, seed=0):
    """Places spread over more than the levels, so that some samples lie outside."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    cells, levels = sum(h * w for h, w in shapes), len(shapes)
    value = rand(batch, cells, heads, width) - 0.5
    locations = spread * (rand(batch, queries, heads, levels, points, 2) - 0.5) + 0.5
    weights = rand(batch, queries, heads, levels * points).softmax(dim=-1)
    return value, locations, weights.unflatten(-1, (levels, points))


def bilinear(level, x, y):
    """Sample [h, w, D] at pixel coordinates whose integers are cell centers; zeros outside."""
    h, w, width = level.shape
    total = torch.zeros(width, dtype=level.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < h and 0 <= column < w:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * level[row, column]
    return total


def naive(value, shapes, locations, weights):
    batch, _, heads, width = value.shape
    _, queries, _, levels, points, _ = locations.shape
    output = torch.zeros(batch, queries, heads, width, dtype=value.dtype)
    starts = [sum(h * w for h, w in shapes[:i]) for i in range(levels)]
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                for n, (h, w) in enumerate(shapes):
                    level = value[b, starts[n] : starts[n] + h * w, m].view(h, w, width)
                    for p in range(points):
                        x, y = (locations[b, q, m, n, p] * torch.tensor([w, h]) - 0.5).tolist()
                        output[b, q, m] += weights[b, q, m, n, p] * bilinear(level, x, y)
    return output.flatten(2)


@pytest.mark.parametrize("spread", [0.0, 0.6, 1.5, 4.0])
@pytest.mark.parametrize("shapes", [SHAPES, ((1, 1),), ((3, 7), (7, 3))])
def test_every_sample_is_bilinear_with_zeros_outside(shapes, spread):
    value, locations, weights = make_inputs(shapes, spread=spread)
    ours = deformable_attention(value, shapes, locations, weights)
    torch.testing.assert_close(ours, naive(value, shapes, locations, weights))


def test_cell_centers_give_the_cells_themselves():
    h, w = 3, 4
    value = torch.arange(h * w, dtype=torch.float64).view(1, h * w, 1, 1)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    centers = torch.stack([(x + 0.5) / w, (y + 0.5) / h], dim=-1).double()
    locations = centers.view(1, h * w, 1, 1, 1, 2)
    weights = torch.ones(1, h * w, 1, 1, 1, dtype=torch.float64)
    ours = deformable_attention(value, ((h, w),), locations, weights)
    torch.testing.assert_close(ours, value.view(1, h * w, 1))


def test_gradients():
    value, locations, weights = make_inputs(((2, 3), (3, 2)), batch=1, queries=2, width=2, points=2)
    tensors = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(
        lambda v, x, w: deformable_attention(v, ((2, 3), (3, 2)), x, w), tensors
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    inputs = make_inputs(spread=0.8)
    ours = deformable_attention(inputs[0].to(dtype), SHAPES, *(t.to(dtype) for t in inputs[1:]))
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(
        ours.double(), naive(inputs[0], SHAPES, *inputs[1:]), atol=tolerance, rtol=0
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_agrees():
    value, locations, weights = (t.cuda().float() for t in make_inputs())
    tensors = [t.requires_grad_() for t in (value, locations, weights)]
    ours = deformable_attention(value, SHAPES, locations, weights)
    gradients = torch.autograd.grad(ours.square().sum(), tensors)
    on_cpu = [t.requires_grad_() for t in make_inputs()]
    expected = deformable_attention(on_cpu[0], SHAPES, *on_cpu[1:])
    expected_gradients = torch.autograd.grad(expected.square().sum(), on_cpu)
    for one, other in zip((ours, *gradients), (expected, *expected_gradients), strict=True):
        torch.testing.assert_close(one.double().cpu(), other, atol=1e-4, rtol=1e-4)
