"""Label map by matrix products, a block of pixels and some of them at a time."""

import torch
from torch import Tensor

from ita.modeling.query_masks import MaskTiles, QueryMasks


def blocked_label_map(classes: Tensor, masks: QueryMasks) -> Tensor:
    """Compute :func:`ita.modeling.ops.label_map.label_map` block by block.

    The work does not depend on the values: nothing waits for a GPU.
    """
    tiles = MaskTiles.of_pixels(masks, masks.max_values)
    size = max(1, masks.max_values // classes.shape[1])
    parts: list[Tensor] = [classes.new_empty(0)] * len(tiles)
    for block, pixels in tiles.pixels(range(len(tiles))):
        best = [(part @ classes).argmax(dim=1) for part in pixels.flatten(0, 1).split(size)]
        parts[block] = tiles.by_tile(torch.cat(best).view(pixels.shape[:2]))
    return tiles.assemble(torch.stack(parts))
