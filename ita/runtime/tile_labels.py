"""Label map from mask logits and class probabilities, by numpy (design section 7).

The output is computed tile by tile: the few cells of the mask logits under a tile, resized by two
small matrices, stay in a CPU's caches. The cells also bound the mask probabilities of their tile,
so that only classes that may win there are multiplied out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Side of a tile in pixels of the output.
TILE = 32
# Widening of bounds, for the rounding of resized logits and of sums over queries.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Frame:
    """Sizes on the way from the model's input to the result, (height, width) in pixels each.

    Attributes:
        padded: of the model's input.
        valid: of the image inside it, top left.
        output: of the label map.
        resize_logits: resize mask logits, not mask probabilities, from the input to the output.
    """

    padded: tuple[int, int]
    valid: tuple[int, int]
    output: tuple[int, int]
    resize_logits: bool


def label_map(mask_logits: np.ndarray, log_probability: np.ndarray, frame: Frame) -> np.ndarray:
    """Find the class with the highest sum of mask probabilities, weighted by class probabilities.

    Args:
        mask_logits: float32 [Q, h, w] at stride 4.
        log_probability: float32 [Q, C + 1], void last.
        frame: sizes of input and output.

    Returns:
        int64 [H, W] at the size of the output; of classes with equal scores the first.
    """
    classes = np.ascontiguousarray(_softmax(log_probability)[:, :-1].T)
    labels = np.empty(frame.output, np.int64)
    rows, columns = (list(_spans(mask_logits.shape[1 + i], frame, i)) for i in (0, 1))
    for row in rows:
        strip = mask_logits[:, row.cells]
        for column in columns:
            cells = strip[:, :, column.cells]
            possible = _possible_winners(classes, cells)
            scores = classes[possible] @ _resized(cells, row, column).reshape(len(cells), -1)
            best = possible[scores.argmax(axis=0)]
            labels[row.pixels, column.pixels] = best.reshape(row.length, column.length)
    return labels


@dataclass(frozen=True)
class _Span:
    """A tile along one axis.

    Attributes:
        pixels: range of the output.
        cells: range of the mask logits that has a weight in it.
        first: [n, cells], weights that resize logits to the n pixels where probabilities are taken.
        second: [pixels, n], weights that resize probabilities; None if these are the output's.
    """

    pixels: slice
    cells: slice
    first: np.ndarray
    second: np.ndarray | None

    @property
    def length(self) -> int:
        return self.pixels.stop - self.pixels.start


def _spans(cells: int, frame: Frame, axis: int) -> Iterator[_Span]:
    """Divide an axis of the output into tiles."""
    padded, valid, output = frame.padded[axis], frame.valid[axis], frame.output[axis]
    to_input, to_output = _weights(cells, padded)[:valid], _weights(valid, output)
    for start in range(0, output, TILE):
        pixels = slice(start, min(start + TILE, output))
        between = _used(to_output[pixels])
        second = to_output[pixels, between]
        used = _used(to_input[between])
        first = to_input[between, used]
        if frame.resize_logits:
            yield _Span(pixels, used, second @ first, None)
        else:
            yield _Span(pixels, used, first, None if valid == output else second)


def _weights(size: int, new_size: int) -> np.ndarray:
    """Matrix [new_size, size] that resizes a line bilinearly, corners not aligned."""
    position = ((np.arange(new_size) + 0.5) * (size / new_size) - 0.5).clip(0, size - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size))).astype(np.float32)


def _used(weights: np.ndarray) -> slice:
    """Range of the columns that have a weight."""
    columns = np.flatnonzero(weights.any(axis=0))
    return slice(int(columns[0]), int(columns[-1]) + 1)


def _resized(cells: np.ndarray, row: _Span, column: _Span) -> np.ndarray:
    """Mask probabilities of a tile: [Q, h, w] -> [Q, height, width]."""
    probabilities = _sigmoid(row.first @ cells @ column.first.T)
    if row.second is not None:
        probabilities = row.second @ probabilities
    return probabilities if column.second is None else probabilities @ column.second.T


def _possible_winners(classes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Indices of the classes that may have the highest score somewhere in a tile.

    Where the probability of query q lies between m_q - r_q and m_q + r_q, the score of class c
    exceeds that of class w by at most sum_q (p_cq - p_wq) m_q + sum_q |p_cq - p_wq| r_q.

    Args:
        classes: [C, Q], the probability of each class for each query.
        cells: [Q, h, w], the mask logits under the tile, of which its pixels are weighted means.
    """
    lowest, highest = _sigmoid(cells.min(axis=(1, 2))), _sigmoid(cells.max(axis=(1, 2)))
    middle, radius = (lowest + highest) / 2, (highest - lowest) / 2
    scores = classes @ middle
    winner = scores.argmax()
    lead = scores - scores[winner] + np.abs(classes - classes[winner]) @ radius
    return np.flatnonzero(lead >= -ROUNDING * max(1.0, float(scores[winner])))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # the exponential of a large number is infinite, as it should
        return 1 / (1 + np.exp(-logits))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponential = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)
