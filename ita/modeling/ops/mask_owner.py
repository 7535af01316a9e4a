"""Owner of every pixel among weighted masks, for panoptic segmentation (design section 7)."""

from typing import NamedTuple

import torch
from torch import Tensor

from ita.modeling.ops.plain import plain_selected
from ita.modeling.query_masks import ROUNDING, MaskTiles, QueryMasks


class Ownership(NamedTuple):
    """Pixels of Q masks.

    Attributes:
        owner: int64 [H, W], the mask with the highest weighted probability at each pixel; of
            equal ones the first.
        inside: bool [H, W], whether the owner's probability is at least 0.5.
        area: int64 [Q], the number of pixels at which each mask's probability is at least 0.5.
    """

    owner: Tensor
    inside: Tensor
    area: Tensor


def mask_owner(weights: Tensor, masks: QueryMasks) -> Ownership:
    """Find the owner of every pixel without storing the probabilities of all masks.

    Args:
        weights: float32 [Q], factors of the mask probabilities.
        masks: masks of Q queries, at least one.
    """
    if plain_selected():
        return plain_mask_owner(weights, masks)
    return (bounded_mask_owner if masks.bounded else blocked_mask_owner)(weights, masks)


def plain_mask_owner(weights: Tensor, masks: QueryMasks) -> Ownership:
    """Define :func:`mask_owner`, by the probabilities of all masks at all pixels."""
    probabilities = masks.probabilities()
    owner = (weights[:, None, None] * probabilities).argmax(dim=0)
    inside = probabilities.gather(0, owner[None])[0] >= 0.5
    return Ownership(owner, inside, (probabilities >= 0.5).sum(dim=(-2, -1)))


def blocked_mask_owner(weights: Tensor, masks: QueryMasks) -> Ownership:
    """Compute all probabilities, block by block; nothing waits for a GPU."""
    tiles = MaskTiles.of_pixels(masks, masks.max_values)
    owners, insides = [[weights.new_empty(0)] * len(tiles) for _ in range(2)]
    area = torch.zeros(len(masks), dtype=torch.int64, device=weights.device)
    for block, pixels in tiles.pixels(range(len(tiles))):
        owner, inside, counts = _of_pixels(weights, pixels, tiles.within(block))
        owners[block], insides[block] = tiles.by_tile(owner), tiles.by_tile(inside)
        area += counts
    return Ownership(
        tiles.assemble(torch.stack(owners)), tiles.assemble(torch.stack(insides)), area
    )


def bounded_mask_owner(weights: Tensor, masks: QueryMasks) -> Ownership:
    """Compute, in each block, only the probabilities that the bounds of its tiles leave open."""
    tiles = MaskTiles(masks)
    lowest, highest = tiles.bounds()
    lowest, highest = lowest - ROUNDING, highest + ROUNDING
    surely_inside = lowest >= 0.5
    undecided = ~surely_inside & (highest >= 0.5)
    possible = weights * highest >= (weights * lowest).amax(dim=2, keepdim=True)
    contested = undecided.any(dim=2) | (possible.sum(dim=2) > 1)
    open_blocks = contested.any(dim=1).nonzero()[:, 0].tolist()
    queries = {
        block: (possible[block] | undecided[block]).any(dim=0).nonzero()[:, 0]
        for block in open_blocks
    }
    owner = possible.to(torch.uint8).argmax(dim=2)
    inside = surely_inside.gather(2, owner[..., None])
    owner = owner[..., None, None].repeat(1, 1, *tiles.tile_size)
    inside = inside[..., None].repeat(1, 1, *tiles.tile_size)
    # Pixels of masks that no bound leaves open in their block.
    settled = (surely_inside * tiles.areas()[..., None]).sum(dim=1)
    for block, pixels in tiles.pixels(open_blocks, queries):
        chosen = queries[block]
        local, within, counts = _of_pixels(weights[chosen], pixels, tiles.within(block))
        owner[block], inside[block] = chosen[tiles.by_tile(local)], tiles.by_tile(within)
        settled[block, chosen] = counts
    return Ownership(tiles.assemble(owner), tiles.assemble(inside), settled.sum(dim=0))


def _of_pixels(weights: Tensor, pixels: Tensor, within: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Owner, inside [height, width] and area [Q] of the pixels [height, width, Q] of a block."""
    owner = (weights * pixels).argmax(dim=-1)
    inside = pixels.gather(-1, owner[..., None])[..., 0] >= 0.5
    area = ((pixels >= 0.5) & within[..., None]).sum(dim=(0, 1))
    return owner, inside, area
