"""Images and class lists for comparisons of an exported model with PyTorch."""

import numpy as np

from ita.toy.names import SEEN_THINGS, STUFF, THINGS
from ita.toy.scenes import draw_scene

CLASS_LISTS = {
    1: ["grass, lawn"],
    3: ["red circle, crimson disc", "grass", "water"],
    86: [*THINGS, *STUFF],
}
SIZES = [(96, 120), (33, 61), (300, 200), (20, 500)]


def scene(height: int, width: int) -> np.ndarray:
    """Draw an image of the toy world, uint8 [height, width, 3]."""
    return draw_scene(np.random.default_rng(0), height, width, SEEN_THINGS, STUFF).image
