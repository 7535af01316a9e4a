"""Multi-scale deformable attention against its definition, sample by sample."""

import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from ita.modeling.ops import deformable_attention
from ita.modeling.ops.deformable_attention import embedding_bags
from ita.modeling.ops.plain import plain_operators

SHAPES = ((2, 3), (4, 1), (5, 6))
ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((1, 4), (1, 1))])
def test_gradients(shapes):
    value, locations, weights = make_inputs(shapes, batch=2, queries=2, width=2, points=2)
    tensors = [t.requires_grad_() for t in (value, locations, weights)]
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, shapes, x, w), tensors)


def with_gradients(function, shapes, value, locations, weights):
    """Output, and gradients of all inputs, of a function like ``deformable_attention``."""
    tensors = [t.detach().requires_grad_() for t in (value, locations, weights)]
    output = function(tensors[0], shapes, *tensors[1:])
    scale = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
    return output, *torch.autograd.grad((output * scale).sum(), tensors)


def plain(*args):
    with plain_operators():
        return deformable_attention(*args)


def assert_equal_to_plain(function, shapes, inputs, tolerance):
    """Held against the plain definition in float64 on the CPU."""
    expected = with_gradients(plain, shapes, *(t.double().cpu() for t in inputs))
    for one, other in zip(with_gradients(function, shapes, *inputs), expected, strict=True):
        assert one.isfinite().all()
        error = (one.double().cpu() - other).abs().max()
        assert error <= tolerance * max(1, other.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("spread", [0.9, 1.5, 1e6])
@pytest.mark.parametrize("shapes", [SHAPES, ((7, 5),), ((1, 6), (1, 1))])
def test_equal_to_the_plain_definition_in_several_parts(
    shapes, spread, dtype, tolerance, monkeypatch
):
    monkeypatch.setattr(embedding_bags, "SAMPLES_ON_CPU", 100)
    inputs = make_inputs(shapes, queries=23, width=32, spread=spread)
    inputs = [t.to(dtype) for t in inputs]
    assert_equal_to_plain(deformable_attention, shapes, inputs, tolerance)
    x_before_y = inputs[1].movedim(-1, 0).contiguous().movedim(0, -1)
    ours = deformable_attention(inputs[0], shapes, x_before_y, inputs[2])
    assert torch.equal(ours, deformable_attention(inputs[0], shapes, *inputs[1:]))


def test_gradients_of_whole_cells_are_those_to_the_right():
    """As of the plain definition: the first offsets of training are whole numbers."""
    value, locations, weights = make_inputs(((8, 8), (4, 4)), queries=9, width=8)
    locations = ((locations * 8).round() - 0.5) / 8
    assert_equal_to_plain(
        deformable_attention, ((8, 8), (4, 4)), (value, locations, weights), 1e-10
    )


def test_no_queries():
    value, locations, weights = make_inputs(queries=0)
    output, of_value, *_ = with_gradients(deformable_attention, SHAPES, value, locations, weights)
    assert output.shape == (2, 0, 8)
    assert not of_value.any()


def test_locations_that_are_not_numbers_spoil_their_queries_only():
    value, locations, weights = make_inputs()
    expected = deformable_attention(value, SHAPES, locations, weights)
    locations[0, 1] = math.nan
    ours = deformable_attention(value, SHAPES, locations, weights)
    assert ours[0, 1].isnan().all()
    others = torch.tensor([[True, False, True], [True, True, True]])
    assert torch.equal(ours[others], expected[others])


def test_only_inputs_are_kept_for_the_backward_pass():
    inputs = [t.requires_grad_() for t in make_inputs()]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        deformable_attention(inputs[0], ((2, 3), (2, 2), (5, 6)), *inputs[1:])
    assert sum(t.numel() for t in kept) <= sum(t.numel() for t in inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(dtype):
    inputs = make_inputs(spread=0.8)
    ours = deformable_attention(inputs[0].to(dtype), SHAPES, *(t.to(dtype) for t in inputs[1:]))
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(
        ours.double(), naive(inputs[0], SHAPES, *inputs[1:]), atol=tolerance, rtol=0
    )


def check_kernels():
    from ita.modeling.ops.deformable_attention.gpu_kernels import triton_deformable_attention

    # Nine queries of two images are two blocks, the second with room to spare.
    for shapes, width, queries, dtype, tolerance in (
        (((3, 2), (1, 4)), 8, 9, torch.float32, 1e-5),
        (((3, 5),), 12, 3, torch.float32, 1e-5),
        (((1, 1),), 64, 3, torch.float32, 1e-5),
        (((3, 5),), 32, 3, torch.float16, 3e-3),
        (((3, 5),), 8, 3, torch.bfloat16, 2e-2),
    ):
        inputs = make_inputs(shapes, queries=queries, width=width, points=2)
        inputs = [t.to(dtype) for t in inputs]
        assert_equal_to_plain(triton_deformable_attention, shapes, inputs, tolerance)


@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not installed")
def test_kernels_in_the_interpreter():
    """In a process of its own: Triton reads the variable when it is imported."""
    code = "from tests.modeling.test_deformable_attention import check_kernels; check_kernels()"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 1e-2)])
def test_the_gpu_agrees(dtype, tolerance, deterministic):
    inputs = [t.cuda().to(dtype) for t in make_inputs(queries=37, width=32)]
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        assert_equal_to_plain(deformable_attention, SHAPES, inputs, tolerance)
        results = [with_gradients(deformable_attention, SHAPES, *inputs) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(before)
    if deterministic:
        assert all(map(torch.equal, *results))
