"""Images and classes as users give them."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from ita.classes import ClassList
from ita.data.reading import as_rgb

# An image file, a PIL image, or uint8 RGB [H, W, 3].
ImageLike = str | Path | Image.Image | np.ndarray
# Synonyms separated by commas, one string per class; or a class list.
Classes = Sequence[str] | ClassList

# Images per forward pass.
MAX_BATCH = 4


def as_class_list(classes: Classes) -> ClassList:
    """Return a class list as it is, and strings as one that marks no things.

    Raises:
        UserError: no classes, or a class without a name.
    """
    if isinstance(classes, ClassList):
        return classes
    return ClassList.from_strings("given classes", classes)


def own_pixels(image: ImageLike) -> np.ndarray:
    """Convert an image to uint8 RGB [H, W, 3] that the caller cannot change afterwards.

    Raises:
        UserError: the image is unreadable or not RGB.
    """
    pixels = as_rgb(image)
    return pixels.copy() if pixels is image else pixels


def same_shapes(shapes: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Yield the indices of images of the same shape, at most ``MAX_BATCH`` at a time."""
    order = sorted(range(len(shapes)), key=shapes.__getitem__)
    for _, group in groupby(order, key=shapes.__getitem__):
        indices = list(group)
        for start in range(0, len(indices), MAX_BATCH):
            yield indices[start : start + MAX_BATCH]
