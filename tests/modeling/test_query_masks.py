"""Query masks tile by tile against the whole, and what is computed from them, exactly."""

import itertools

import pytest
import torch

from ita.modeling.ops import label_map as label_map_module
from ita.modeling.ops.label_map import class_scores, label_map, plain_label_map
from ita.modeling.ops.label_map.blocked import blocked_label_map
from ita.modeling.ops.label_map.bounded import bounded_label_map, possible_winners
from ita.modeling.ops.mask_owner import (
    blocked_mask_owner,
    bounded_mask_owner,
    mask_owner,
    plain_mask_owner,
)
from ita.modeling.ops.plain import plain_operators
from ita.modeling.query_masks import MaskTiles, QueryMasks

# (cells, padded, valid, output): from the usual four pixels per cell to odd sizes, thin images, far
# larger and smaller outputs, no resizing at all, one pixel.
GEOMETRIES = [
    ((16, 24), (64, 96), (64, 96), (64, 96)),
    ((16, 24), (64, 96), (61, 80), (61, 80)),
    ((16, 24), (64, 96), (50, 96), (131, 77)),
    ((8, 8), (32, 32), (32, 32), (300, 7)),
    ((24, 16), (96, 64), (90, 5), (11, 3)),
    ((9, 13), (9, 13), (9, 13), (9, 13)),
    ((8, 8), (32, 32), (1, 1), (1, 1)),
    ((1, 1), (4, 4), (4, 4), (5, 3)),
]


def smooth_masks(geometry, queries=7, seed=0, resize_logits=True, scale=4.0):
    generator = torch.Generator().manual_seed(seed)
    cells, padded, valid, output = geometry
    logits = scale * torch.randn(queries, *cells, generator=generator)
    return QueryMasks(logits, padded, valid, output, resize_logits)


def sharp_masks(geometry, queries, seed):
    """Masks with probabilities 0, 1/2 and 1 only, at which sums are exact: ties are true ties."""
    generator = torch.Generator().manual_seed(seed)
    size = geometry[0]
    coarse = torch.randint(-1, 2, (queries, 3, 3), generator=generator).float() * 400
    rows, columns = (torch.arange(n) * 3 // n for n in size)
    return QueryMasks(coarse[:, rows][:, :, columns], size, size, size, True)


def random_classes(queries, classes, seed=0, sharp=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(queries, classes + 1, generator=generator)
    return logits.softmax(dim=-1)[:, :-1]


def dyadic_classes(queries, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 9, (queries, classes), generator=generator) / 64


@pytest.mark.parametrize("resize_logits", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("sides", [(1, 1), (4, 4), (2, 3)])
def test_blocks_of_pixels_make_up_the_whole(geometry, resize_logits, sides):
    masks = smooth_masks(geometry, resize_logits=resize_logits)
    tiles = MaskTiles(masks, sides)
    blocks = dict(tiles.pixels(range(len(tiles))))
    assert sorted(blocks) == list(range(len(tiles)))
    pixels = torch.stack([blocks[i] for i in range(len(tiles))]).movedim(-1, 0)
    expected = masks.probabilities()
    for q, whole in enumerate(expected):
        ours = tiles.assemble(tiles.by_tile(pixels[q]))
        torch.testing.assert_close(ours, whole, atol=2e-6, rtol=0)
    chosen = torch.tensor([4, 1])
    (_, some), *_ = tiles.pixels([0], {0: chosen})
    torch.testing.assert_close(some, blocks[0][..., chosen])


@pytest.mark.parametrize("resize_logits", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_bounds_contain_the_pixels_of_their_tile(geometry, resize_logits):
    masks = smooth_masks(geometry, resize_logits=resize_logits)
    tiles = MaskTiles(masks)
    lowest, highest = tiles.bounds()
    for block, pixels in tiles.pixels(range(len(tiles))):
        of_queries = tiles.by_tile(pixels.movedim(-1, 0))
        below, above = of_queries.amin(dim=(2, 3)).T, of_queries.amax(dim=(2, 3)).T
        assert (below - lowest[block] >= -1e-6).all()
        assert (above - highest[block] <= 1e-6).all()
        within = tiles.by_tile(tiles.within(block))
        assert tiles.areas()[block].tolist() == within.sum(dim=(1, 2)).tolist()
    assert tiles.areas().sum() == masks.output_size[0] * masks.output_size[1]


def test_bounds_are_as_tight_as_the_cells_allow():
    """A mask that is constant around a tile has equal bounds there."""
    masks = QueryMasks(torch.full((1, 16, 16), -3.0), (64, 64), (64, 64), (64, 64), True)
    masks.logits[0, 12:, 12:] = 5
    lowest, highest = MaskTiles(masks).bounds()
    assert (lowest[0] == highest[0]).all()
    assert (lowest[3] < highest[3]).any()


def test_a_block_of_limited_values():
    masks = smooth_masks(GEOMETRIES[2], queries=5)
    tiles = MaskTiles.of_pixels(masks, values=5 * 40 * 40)
    for _, pixels in tiles.pixels(range(len(tiles))):
        assert pixels.numel() <= 5 * 40 * 40
    assert len(MaskTiles.of_pixels(masks, values=1 << 26)) == 1
    assert len(MaskTiles.of_pixels(masks, values=1)) >= 1


@pytest.mark.parametrize("find", [bounded_label_map, blocked_label_map])
@pytest.mark.parametrize("classes", [1, 2, 30, 300])
@pytest.mark.parametrize("seed", range(4))
def test_labels_are_exact_with_the_first_of_equal_classes(find, classes, seed):
    masks = sharp_masks(GEOMETRIES[seed], 6, seed)
    weights = dyadic_classes(6, classes, seed)
    scores = class_scores(weights, masks)
    assert torch.equal(find(weights, masks), scores.argmax(dim=0))


@pytest.mark.parametrize("find", [bounded_label_map, blocked_label_map])
@pytest.mark.parametrize("resize_logits", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("sharp", [0.001, 1.0, 8.0])
def test_labels_are_those_of_the_scores(find, geometry, resize_logits, sharp):
    masks = smooth_masks(geometry, queries=9, resize_logits=resize_logits)
    classes = random_classes(9, 40, sharp=sharp)
    ours = find(classes, masks)
    assert ours.dtype == torch.int64
    assert ours.shape == masks.output_size
    exact = class_scores(classes, masks)
    lost = exact.amax(dim=0) - exact.gather(0, ours[None])[0]
    assert lost.max() <= 1e-6


@pytest.mark.parametrize("find", [bounded_label_map, blocked_label_map])
def test_repeated_classes_and_empty_masks(find):
    masks = smooth_masks(GEOMETRIES[1], queries=5)
    classes = random_classes(5, 6)
    twice = torch.cat([classes, classes, classes], dim=1)
    assert torch.equal(find(twice, masks), plain_label_map(classes, masks))
    nowhere = QueryMasks(torch.full((5, 16, 24), -500.0), *GEOMETRIES[1][1:], True)
    assert not find(twice, nowhere).any()


def test_ten_thousand_classes():
    masks = smooth_masks(GEOMETRIES[0], queries=5)
    classes = random_classes(5, 10_000)
    assert torch.equal(label_map(classes, masks), plain_label_map(classes, masks))


def test_the_plain_definition_on_request(monkeypatch):
    masks, classes = smooth_masks(GEOMETRIES[0]), random_classes(7, 3)
    expected = label_map(classes, masks)
    for name in ("bounded_label_map", "blocked_label_map"):
        monkeypatch.delattr(label_map_module, name)
    with plain_operators():
        assert torch.equal(label_map(classes, masks), expected)
        assert mask_owner(torch.ones(7), masks).area.shape == (7,)


def test_no_class_that_can_win_is_left_out_and_few_others_stay():
    generator = torch.Generator().manual_seed(0)
    classes = random_classes(20, 200, sharp=1.0).T
    middle = torch.rand(50, 20, generator=generator)
    radius = 0.02 * torch.rand(50, 20, generator=generator)
    possible = possible_winners(classes, middle - radius, middle + radius)
    for signs in itertools.islice(itertools.product((-1, 1), repeat=20), 0, 1 << 20, 9973):
        corner = middle + radius * torch.tensor(signs)
        winners = (corner @ classes.T).argmax(dim=1)
        assert possible.gather(1, winners[:, None]).all()
    assert possible.sum(dim=1).float().mean() < 8


@pytest.mark.parametrize("resize_logits", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("find", [bounded_mask_owner, blocked_mask_owner])
def test_owners(find, geometry, resize_logits, seed):
    masks = smooth_masks(geometry, 6, seed, resize_logits)
    weights = torch.rand(6, generator=torch.Generator().manual_seed(seed))
    expected = plain_mask_owner(weights, masks)
    weighted = weights[:, None, None] * masks.probabilities()
    clear = weighted.sort(dim=0).values.diff(dim=0)[-1] > 1e-5
    ours = find(weights, masks)
    assert torch.equal(ours.owner[clear], expected.owner[clear])
    assert torch.equal(ours.inside[clear], expected.inside[clear])
    assert torch.equal(ours.area, expected.area)


def test_owners_of_one_mask_and_of_equal_masks():
    one = smooth_masks(GEOMETRIES[1], 1)
    assert not mask_owner(torch.ones(1), one).owner.any()
    equal = QueryMasks(one.logits.expand(4, -1, -1), *GEOMETRIES[1][1:], True)
    ours = mask_owner(torch.ones(4), equal)
    assert not ours.owner.any()
    assert ours.area.unique().tolist() == plain_mask_owner(torch.ones(1), one).area.tolist()
