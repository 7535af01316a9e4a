"""Label map by bounds: classes that win nowhere in a tile are not multiplied out there.

In a tile where the probability of query q lies between m_q - r_q and m_q + r_q, the score of class
c exceeds that of another class w by at most

    sum_q (p_qc - p_qw) m_q + sum_q |p_qc - p_qw| r_q.

If this is negative, c wins nowhere in the tile. With w the winner in the middle of the bounds, few
classes remain, however many there are: bounds of the difference are tight even where all scores
are similar, unlike the difference of bounds.
"""

import torch
from torch import Tensor

from ita.modeling.query_masks import ROUNDING, MaskTiles, QueryMasks

# Scores of tiles and classes computed at once, 16 MB.
MAX_SCORES = 1 << 22


def bounded_label_map(classes: Tensor, masks: QueryMasks) -> Tensor:
    """Compute :func:`ita.modeling.ops.label_map.label_map` by bounds, first those of blocks."""
    rows = classes.T.contiguous()
    tiles = MaskTiles(masks)
    lowest, highest = tiles.bounds()
    possible = possible_winners(rows, lowest.amin(dim=1), highest.amax(dim=1))
    labels = _first(possible)[:, None, None, None].repeat(1, lowest.shape[1], *tiles.tile_size)
    contested = (possible.sum(dim=1) > 1).nonzero()[:, 0]
    if len(contested):
        # From here on only classes that are possible somewhere.
        candidates = possible[contested].any(dim=0).nonzero()[:, 0]
        possible = possible[contested][:, candidates]
        bounds = lowest[contested], highest[contested]
        labels[contested] = candidates[
            _label_blocks(rows[candidates], tiles, contested, bounds, possible)
        ]
    return tiles.assemble(labels)


def _label_blocks(
    classes: Tensor,
    tiles: MaskTiles,
    blocks: Tensor,
    bounds: tuple[Tensor, Tensor],
    possible: Tensor,
) -> Tensor:
    """Label blocks by bounds of their tiles, and by pixels where these leave several classes.

    Args:
        classes: [C, Q], the probability of each class for each query.
        tiles: tiles of the output.
        blocks: [n], numbers of the blocks.
        bounds: lowest and highest probabilities in their tiles, [n, K, Q] each.
        possible: bool [n, C], the classes to consider in each.

    Returns:
        [n, K, t, u].
    """
    num_tiles = bounds[0].shape[1]
    lowest, highest = (bound.flatten(0, 1) for bound in bounds)
    among = possible.repeat_interleave(num_tiles, dim=0)
    possible = possible_winners(classes, lowest, highest, among).unflatten(0, (-1, num_tiles))
    labels = _first(possible)[..., None, None].repeat(1, 1, *tiles.tile_size)
    contested = possible.sum(dim=2) > 1
    places = {block: i for i, block in enumerate(blocks.tolist()) if contested[i].any()}
    for block, pixels in tiles.pixels(places):
        place = places[block]
        here = contested[place]
        rivals = possible[place, here].any(dim=0).nonzero()[:, 0]
        best = tiles.by_tile((pixels @ classes[rivals].T).argmax(dim=-1))
        labels[place, here] = rivals[best[here]]
    return labels


def possible_winners(
    classes: Tensor, lowest: Tensor, highest: Tensor, among: Tensor | None = None
) -> Tensor:
    """Find the classes that may have the highest score somewhere in each tile.

    Args:
        classes: [C, Q], the probability of each class for each query.
        lowest, highest: [T, Q], bounds of the probability of each query in each tile.
        among: bool [T, C], the classes to consider in each tile; None considers all.

    Returns:
        bool [T, C]; of classes with equal probabilities for all queries only the first.
    """
    middle, radius = (lowest + highest) / 2, (highest - lowest) / 2 + ROUNDING
    # Rounding of a sum of Q products.
    almost = 1 - classes.shape[1] * torch.finfo(classes.dtype).eps

    def scores_of(tiles: Tensor) -> Tensor:
        scores = middle[tiles] @ classes.T
        return scores if among is None else scores.masked_fill_(~among[tiles], -torch.inf)

    possible = torch.empty(len(middle), len(classes), dtype=torch.bool)
    size = max(1, MAX_SCORES // max(1, len(classes)))
    parts = torch.arange(len(middle)).split(size)
    winners = torch.cat([scores_of(part).argmax(dim=1) for part in parts])
    for winner in winners.unique():
        difference = (classes - classes[winner]).abs_()
        equal = difference.amax(dim=1) == 0
        repeated = equal & (equal.cumsum(dim=0) > 1)
        for part in (winners == winner).nonzero()[:, 0].split(size):
            scores = scores_of(part)
            best = almost * scores[:, winner, None]
            possible[part] = (scores.addmm_(radius[part], difference.T) >= best) & ~repeated
    return possible


def _first(possible: Tensor) -> Tensor:
    """First possible class of each tile: [..., C] -> [...]."""
    return possible.to(torch.uint8).argmax(dim=-1)
