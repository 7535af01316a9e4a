"""Example scenes of the toy world, which the page offers and starts with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ita.reports.pictures import write_picture
from ita.toy.names import SEEN_THINGS, STUFF
from ita.toy.scenes import draw_scene

# Random seeds of the scenes. They show many objects, none hidden.
SEEDS = (17, 12, 5, 3)
HEIGHT, WIDTH = 240, 320


@dataclass(frozen=True)
class Example:
    """A scene.

    Attributes:
        image: its file.
        classes: the names of what it shows, one per line.
    """

    image: str
    classes: str


def draw_examples(folder: Path) -> list[Example]:
    """Draw the example scenes into a folder as PNG."""
    examples = []
    for number, seed in enumerate(SEEDS, start=1):
        scene = draw_scene(np.random.default_rng(seed), HEIGHT, WIDTH, SEEN_THINGS, STUFF)
        path = folder / f"scene_{number}.png"
        write_picture(scene.image, path)
        names = dict.fromkeys(segment.name for segment in scene.segments)
        examples.append(Example(str(path), "\n".join(names)))
    return examples
