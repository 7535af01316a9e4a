"""The two linear layers of a transformer's or ConvNeXt's block, whose hidden features are wide."""

from collections.abc import Callable

import torch
from torch import Tensor

from ita.modeling.ops.plain import plain_selected

# Hidden features of so many rows stay in a CPU's caches (5 MB at a width of 768).
ROWS = 1600


def feed_forward(
    x: Tensor,
    expand: Callable[[Tensor], Tensor],
    activate_: Callable[[Tensor], Tensor],
    contract: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute ``contract(activate_(expand(x)))`` of each row.

    Without gradients on a CPU, a number of rows after the other: the hidden features of all rows
    are several times larger than the input and would pass through memory three times.

    Args:
        x: [..., in_width].
        expand: in_width -> hidden_width, row by row.
        activate_: the activation, which may work in place.
        contract: hidden_width -> out_width, row by row.

    Returns:
        [..., out_width].
    """

    def apply(rows: Tensor) -> Tensor:
        return contract(activate_(expand(rows)))

    if plain_selected() or torch.is_grad_enabled() or x.device.type != "cpu":
        return apply(x)
    parts = [apply(rows) for rows in x.flatten(0, -2).split(ROWS)]
    return torch.cat(parts).unflatten(0, x.shape[:-1])
