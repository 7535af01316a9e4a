"""Orientation of images in EXIF data: the turn of an image, and that of its labels."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

Turn = Image.Transpose
# The turn that shows an image upright, by EXIF orientation.
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
# Turns that exchange width and height.
TRANSPOSING = (Turn.TRANSPOSE, Turn.ROTATE_270, Turn.TRANSVERSE, Turn.ROTATE_90)
INVERSE = {Turn.ROTATE_90: Turn.ROTATE_270, Turn.ROTATE_270: Turn.ROTATE_90}
# What labels belong to if their size does not tell: pixels as stored, or as shown.
STORED, UPRIGHT = "stored", "upright"
LABEL_ORIENTATIONS = (STORED, UPRIGHT)
# Key of a record with the orientation of its image, once that is read.
ORIENTATION = "orientation"
# Numbers of TIFF tags.
_WIDTH, _HEIGHT = 256, 257


@dataclass(frozen=True)
class Orientation:
    """How an image file is turned upright.

    Attributes:
        turn: turn of the stored pixels; None if they are upright.
        stored: (height, width) of the stored pixels.
        labels: what labels belong to if their size does not tell, STORED or UPRIGHT.
    """

    turn: Turn | None
    stored: tuple[int, int]
    labels: str = STORED

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) of the image upright."""
        return self.stored[::-1] if self.turn in TRANSPOSING else self.stored

    def turn_of_labels(self, size: tuple[int, ...]) -> Turn | None:
        """Turn that brings labels of the image upright; None if they are.

        Args:
            size: (height, width) of the labels. If only the upright image has it, labels are
                upright; if only the stored one has it, they are turned with it; else ``labels``
                decides.
        """
        if size == self.upright and (self.upright != self.stored or self.labels == UPRIGHT):
            return None
        return self.turn


def orientation_of(image: Image.Image) -> Orientation:
    """Orientation of an open image; for a TIFF file before its pixels are loaded.

    Damaged EXIF data and unknown values are ignored.
    """
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:  # Pillow tells the upright size, and turns the pixels when it loads them
        turn = TURNS.get(tags.get(ExifTags.Base.Orientation, 1))
        return Orientation(turn, (tags[_HEIGHT], tags[_WIDTH]))
    return Orientation(remaining_turn(image), (image.height, image.width))


def remaining_turn(image: Image.Image) -> Turn | None:
    """Turn that an image needs, after what Pillow has done itself."""
    try:
        # Not ImageOps.exif_transpose, which also writes new EXIF data and fails on odd tags.
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, struct.error):
        return None


def load_oriented(image: Image.Image) -> tuple[Orientation, Turn | None]:
    """Decode an image; return its orientation, and the turn that its pixels still need."""
    early = None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        early = orientation_of(image)
        # Pillow maps uncompressed pixels of a named file with the upright size, not the stored one.
        image.filename = ""
    image.load()
    return early or orientation_of(image), remaining_turn(image)


def turned(pixels: np.ndarray, turn: Turn | None) -> np.ndarray:
    """Turn pixels [H, W, ...] as Pillow turns an image."""
    if turn is None:
        return pixels
    return np.ascontiguousarray(_ON_ARRAYS[turn](pixels))


def turned_back(pixels: np.ndarray, turn: Turn | None) -> np.ndarray:
    """Undo :func:`turned`."""
    return pixels if turn is None else turned(pixels, INVERSE.get(turn, turn))


_ON_ARRAYS: Mapping[Turn, Callable[[np.ndarray], np.ndarray]] = {
    Turn.FLIP_LEFT_RIGHT: np.fliplr,
    Turn.FLIP_TOP_BOTTOM: np.flipud,
    Turn.ROTATE_90: np.rot90,
    Turn.ROTATE_180: partial(np.rot90, k=2),
    Turn.ROTATE_270: partial(np.rot90, k=3),
    Turn.TRANSPOSE: partial(np.swapaxes, axis1=0, axis2=1),
    Turn.TRANSVERSE: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
}
