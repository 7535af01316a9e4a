"""The chunked feed-forward network against its plain definition."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ita.modeling.layers import FeedForward
from ita.modeling.ops.feed_forward import ROWS, feed_forward
from ita.modeling.ops.plain import plain_operators


def linears(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Linear(6, 24).to(dtype), nn.Linear(24, 5).to(dtype)


@pytest.mark.parametrize("shape", [(0, 6), (1, 6), (2, 3, 6), (2, ROWS - 1, 6), (ROWS + 1, 6)])
@pytest.mark.parametrize("activate_", [F.relu_, torch.ops.aten.gelu_])
@torch.no_grad()
def test_rows_do_not_depend_on_their_number(shape, activate_):
    expand, contract = linears(torch.float64)
    x = torch.randn(shape, dtype=torch.float64)
    with plain_operators():
        expected = feed_forward(x, expand, activate_, contract)
    result = feed_forward(x, expand, activate_, contract)
    assert result.shape == (*shape[:-1], 5)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_autocast_decides_the_precision():
    expand, contract = linears()
    with torch.autocast("cpu", torch.bfloat16):
        result = feed_forward(torch.randn(2 * ROWS, 6), expand, F.relu_, contract)
    assert result.dtype == torch.bfloat16


def test_gradients_are_those_of_separate_layers():
    torch.manual_seed(0)
    layer = FeedForward(6, 24).double()
    x = torch.randn(2, ROWS, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    expected = layer.norm(x + layer.linear2(layer.linear1(x).clamp(min=0)))
    tensors = (x, *layer.parameters())
    wanted = torch.autograd.grad((expected * weight).sum(), tensors)
    found = torch.autograd.grad((layer(x) * weight).sum(), tensors)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
