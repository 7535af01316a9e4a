"""The toy model and a scene that it knows, for all tests of the public interface."""

import numpy as np
import pytest

import ita
from ita.toy.names import SEEN_THINGS, STUFF
from ita.toy.scenes import draw_scene


@pytest.fixture(scope="package")
def scene():
    """A scene with large objects, and the class of each pixel, -1 for others than ``names``."""
    rng = np.random.default_rng(5)
    scene = draw_scene(rng, 144, 144, SEEN_THINGS[:3], STUFF[:2])
    names = sorted({segment.name for segment in scene.segments})
    labels = np.full(scene.image.shape[:2], -1)
    for segment in scene.segments:
        labels[segment.mask] = names.index(segment.name)
    return scene.image, labels, names


@pytest.fixture(scope="package")
def toy():
    return ita.load(precision="float32")
