"""Mask probabilities of queries at the output size, as a whole or tile by tile.

Masks are predicted at stride 4. At the size of the output they are by far the largest tensors of
inference; most of their pixels are known from the cells around them without ever being computed.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

# Side of a tile in cells of the mask logits, and of a block in tiles. Smaller tiles have tighter
# bounds, larger blocks are fewer.
CELLS_PER_TILE = 2
TILES_PER_BLOCK = 4
# Probabilities of a block computed at once on a GPU, 256 MB.
MAX_VALUES = 1 << 26
# Widening of the bounds of probabilities, for the rounding of resized logits.
ROUNDING = 1e-6


@dataclass(frozen=True)
class QueryMasks:
    """Masks of Q queries and how they become probabilities at the output size (design section 7).

    Mask logits are resized to the padded input and cropped to the image. Either they are resized to
    the output and become probabilities there, or they become probabilities first.

    Attributes:
        logits: [Q, h, w] at stride 4.
        padded_size: (height, width) in pixels of the padded input.
        valid_size: (height, width) of the image inside it, top left.
        output_size: (height, width) of the result, H and W.
        resize_logits: resize logits, not probabilities, from the input to the output.
        max_values: number of values of a block computed at once. A smaller one takes less memory
            and more time.
    """

    logits: Tensor
    padded_size: tuple[int, int]
    valid_size: tuple[int, int]
    output_size: tuple[int, int]
    resize_logits: bool
    max_values: int = MAX_VALUES

    def __len__(self) -> int:
        """Number of queries, Q."""
        return len(self.logits)

    def select(self, queries: Tensor) -> "QueryMasks":
        """Return the masks of some queries, by index or as a bool mask."""
        return replace(self, logits=self.logits[queries])

    @property
    def bounded(self) -> bool:
        """Whether bounds of tiles pay: not on GPUs, and not where memory is short."""
        return self.logits.device.type == "cpu" and self.max_values >= MAX_VALUES

    def sizes(self, dimension: int) -> tuple[int, int, int]:
        """Return the padded, valid and output height (dimension 0) or width (1)."""
        return (
            self.padded_size[dimension],
            self.valid_size[dimension],
            self.output_size[dimension],
        )

    def resized_logits(self) -> Tensor:
        """Return all logits at the output size, float32 [Q, H, W]."""
        maps = resize(self.logits.float(), self.padded_size)
        return resize(maps[:, : self.valid_size[0], : self.valid_size[1]], self.output_size)

    def probabilities(self) -> Tensor:
        """Return all mask probabilities at the output size, float32 [Q, H, W]."""
        if self.resize_logits:
            return self.resized_logits().sigmoid()
        maps = resize(self.logits.float(), self.padded_size).sigmoid()
        return resize(maps[:, : self.valid_size[0], : self.valid_size[1]], self.output_size)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps [N, h, w] bilinearly to [N, *size]."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


class MaskTiles:
    """Tiles of the output: bounds of the probabilities in each tile, and the pixels of some.

    The output is divided into N blocks, row by row, of K tiles of t x u pixels each. Beyond the
    bottom and right borders, where the blocks are larger than the output, they repeat its last
    pixels.

    Args:
        masks: masks of Q queries.
        sides: (height, width) of a block in tiles; their product is K.
    """

    def __init__(
        self, masks: QueryMasks, sides: tuple[int, int] = (TILES_PER_BLOCK, TILES_PER_BLOCK)
    ) -> None:
        self._size, self._sides = masks.output_size, sides
        self._rows, self._columns = (_Axis.build(masks, i, side) for i, side in enumerate(sides))
        # Queries last: the pixels of a tile are then a matrix to multiply with classes.
        self._cells = masks.logits.float().permute(1, 2, 0).contiguous()

    @classmethod
    def of_pixels(cls, masks: QueryMasks, values: int) -> "MaskTiles":
        """Divide the output into few equal blocks of at most ``values`` probabilities each."""
        limit = math.isqrt(values // max(1, len(masks)))

        def side(dimension: int) -> int:
            tile = _tile(masks, dimension)
            tiles = -(-masks.output_size[dimension] // tile)
            blocks = -(-tiles // max(1, limit // tile))
            return -(-tiles // blocks)

        return cls(masks, (side(0), side(1)))

    def __len__(self) -> int:
        """Number of blocks, N."""
        return len(self._rows.first) * len(self._columns.first)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Compute the lowest and the highest probability of each query in each tile.

        Resized values are weighted means of cells, so the cells that have a weight bound them.

        Returns:
            [N, K, Q] each.
        """
        lowest = highest = self._cells
        for dimension, axis in enumerate((self._rows, self._columns)):
            lowest = _reduce_windows(lowest, dimension, axis.windows, torch.minimum)
            highest = _reduce_windows(highest, dimension, axis.windows, torch.maximum)
        return self._by_block(lowest).sigmoid_(), self._by_block(highest).sigmoid_()

    def pixels(
        self, blocks: Iterable[int], queries: Mapping[int, Tensor] | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the probabilities of blocks, in another order than given.

        Args:
            blocks: numbers of blocks.
            queries: index [n] of the queries to compute in each block; None computes all.

        Returns:
            (number, probabilities [height, width, n]) of each block.
        """
        per_row = len(self._columns.first)
        rows_of: dict[int, list[int]] = {}
        for block in blocks:
            rows_of.setdefault(block % per_row, []).append(block // per_row)
        for column, rows in rows_of.items():
            start, stop, weights = self._columns.first[column]
            resized = torch.matmul(weights, self._cells[:, start:stop])
            for row in rows:
                block = row * per_row + column
                chosen = None if queries is None else queries[block]
                yield block, self._block(row, column, resized, chosen)

    def within(self, block: int) -> Tensor:
        """Whether each pixel of a block is one of the output: bool [height, width]."""
        row, column = divmod(block, len(self._columns.first))
        rows, columns = self._rows.within[row].flatten(), self._columns.within[column].flatten()
        return rows[:, None] & columns

    def by_tile(self, values: Tensor) -> Tensor:
        """Arrange the pixels of blocks by tile: [..., height, width] -> [..., K, t, u]."""
        values = values.unflatten(-1, (self._sides[1], -1)).unflatten(-3, (self._sides[0], -1))
        return values.transpose(-3, -2).flatten(-4, -3)

    def areas(self) -> Tensor:
        """Number of pixels of the output in each tile: int64 [N, K]."""
        rows, columns = (axis.within.sum(dim=2).flatten() for axis in (self._rows, self._columns))
        return self._by_block((rows[:, None] * columns)[..., None])[..., 0]

    def assemble(self, values: Tensor) -> Tensor:
        """Put the pixels of all blocks [N, K, t, u] in place: [H, W]."""
        grid = values.unflatten(1, self._sides).unflatten(0, (-1, len(self._columns.first)))
        # [rows, columns, tile rows, tile columns, t, u]
        whole = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)
        return whole[: self._size[0], : self._size[1]].contiguous()

    @property
    def tile_size(self) -> tuple[int, int]:
        """(t, u)."""
        return self._rows.tile, self._columns.tile

    def _by_block(self, tiles: Tensor) -> Tensor:
        """[tile rows, tile columns, Q] -> [N, K, Q]."""
        grid = tiles.unflatten(1, (-1, self._sides[1])).unflatten(0, (-1, self._sides[0]))
        return grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _block(self, row: int, column: int, resized: Tensor, queries: Tensor | None) -> Tensor:
        """Pixels of a block, from the cells of its column resized to its width, [h, n, Q]."""
        start, stop, weights = self._rows.first[row]
        resized = resized[start:stop]
        if queries is not None:
            resized = resized.index_select(2, queries)
        pixels = (weights @ resized.flatten(1)).sigmoid_()
        if self._rows.second is not None:
            pixels = self._rows.second[row] @ pixels
        pixels = pixels.unflatten(1, resized.shape[1:])
        if self._columns.second is not None:
            pixels = torch.matmul(self._columns.second[column], pixels)
        return pixels


@dataclass(frozen=True)
class _Axis:
    """Tiles along one axis of the output, and the weights that resize cells to its blocks.

    Attributes:
        tile: pixels per tile.
        windows: first and last cell that has a weight in each tile, int64 [tiles] each.
        within: whether each pixel is one of the output, bool [blocks, tiles per block, tile].
        first: for each block (start, stop, weights [n, stop - start]) over the cells, for the n
            pixels at which probabilities are computed.
        second: for each block weights [pixels of the block, n]; None if these are its pixels.
    """

    tile: int
    windows: tuple[Tensor, Tensor]
    within: Tensor
    first: list[tuple[int, int, Tensor]]
    second: list[Tensor] | None

    @classmethod
    def build(cls, masks: QueryMasks, dimension: int, side: int) -> "_Axis":
        cells, device = masks.logits.shape[1 + dimension], masks.logits.device
        padded, valid, output = masks.sizes(dimension)
        tile = _tile(masks, dimension)
        block = tile * side
        # On the CPU, since the cells of a block are read here.
        every = torch.arange(-(-output // block) * block)
        to_input = _weights(cells, padded)[:valid]
        to_output = _weights(valid, output)[every.clamp(max=output - 1)]
        whole = to_output @ to_input
        first_cells, last_cells = _window(whole.unflatten(0, (-1, tile)))
        windows = first_cells.to(device), last_cells.to(device)
        within = (every < output).view(-1, side, tile).to(device)
        first, second = [_trim(weights) for weights in whole.split(block)], None
        if not (masks.resize_logits or valid == output):
            trimmed = [_trim(weights) for weights in to_output.split(block)]
            first = [_trim(to_input[start:stop]) for start, stop, _ in trimmed]
            second = [weights.to(device) for _, _, weights in trimmed]
        first = [(start, stop, weights.to(device)) for start, stop, weights in first]
        return cls(tile, windows, within, first, second)


def _tile(masks: QueryMasks, dimension: int) -> int:
    """Side of a tile in pixels."""
    padded, valid, output = masks.sizes(dimension)
    pixels_per_cell = output * padded / (valid * masks.logits.shape[1 + dimension])
    return max(1, round(CELLS_PER_TILE * pixels_per_cell))


def _weights(size: int, new_size: int) -> Tensor:
    """Matrix [new_size, size] that resizes a line bilinearly."""
    return resize(torch.eye(size)[None], (new_size, size))[0]


def _window(weights: Tensor) -> tuple[Tensor, Tensor]:
    """First and last column with a weight in each of n groups of rows [n, rows, columns]."""
    used = (weights != 0).any(dim=1).to(torch.uint8)
    return used.argmax(dim=1), used.shape[1] - 1 - used.flip(1).argmax(dim=1)


def _trim(weights: Tensor) -> tuple[int, int, Tensor]:
    """Cut off the columns before the first and after the last weight."""
    first, last = (int(index) for index in _window(weights[None]))
    return first, last + 1, weights[:, first : last + 1].contiguous()


def _reduce_windows(
    cells: Tensor,
    dimension: int,
    windows: tuple[Tensor, Tensor],
    reduce: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Minimum or maximum over windows (first, last) along a dimension."""
    first, last = windows
    result = cells.index_select(dimension, first)
    for step in range(1, int((last - first).max()) + 1):
        result = reduce(result, cells.index_select(dimension, torch.minimum(first + step, last)))
    return result
