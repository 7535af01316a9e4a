"""Positions of the largest values of each row, for importance sampling (design section 6)."""

import numpy as np
import torch
from torch import Tensor

from ita.modeling.ops.plain import plain_selected


def largest(values: Tensor, count: int) -> Tensor:
    """Find the largest values of each row, in no order; NaN counts as the largest.

    Args:
        values: [n, m] float, without a gradient.
        count: 0 ... m.

    Returns:
        int64 [n, count], positions in the rows; of equal values any.
    """
    if plain_selected() or values.device.type != "cpu":
        return plain_largest(values, count)
    return partitioned_largest(values, count)


def plain_largest(values: Tensor, count: int) -> Tensor:
    """Define :func:`largest`."""
    return values.topk(count, dim=1, sorted=False).indices


def partitioned_largest(values: Tensor, count: int) -> Tensor:
    """Partition each row by numpy, which does it with vector instructions."""
    start = values.shape[1] - count
    if start == values.shape[1]:
        return torch.empty(len(values), 0, dtype=torch.int64)
    order = np.argpartition(values.numpy(), start, axis=1)
    return torch.from_numpy(np.ascontiguousarray(order[:, start:], dtype=np.int64))
