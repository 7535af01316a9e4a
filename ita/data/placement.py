"""Random flip, large-scale jitter and crop as one resampling (design section 6)."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from PIL import Image
from torch import Tensor

# Gray value of image padding, before normalization (design section 6).
PAD_VALUE = 128


@dataclass(frozen=True)
class Placement:
    """Where the pixels of an image go: flip it, resize it, cut a part out, pad that.

    Attributes:
        flip: flip left and right.
        size: (height, width) of the whole image after resizing.
        offset: (top, left) of the part in the resized image.
        valid_size: (height, width) of the part.
        frame: (height, width) of the result, with the part at its top left.
    """

    flip: bool
    size: tuple[int, int]
    offset: tuple[int, int]
    valid_size: tuple[int, int]
    frame: tuple[int, int]

    def place_image(self, image: np.ndarray) -> Tensor:
        """Place an image uint8 [H, W, 3] -> uint8 [3, h, w], padded with 128.

        PyTorch resizes 8-bit images by the rule of PIL's bilinear filter in a fraction of PIL's
        time. The values differ by at most 2 of 255, because its weights have fewer bits.
        """
        pixels = torch.from_numpy(image)
        if self.flip:
            pixels = pixels.flip(1)
        resized = F.interpolate(
            pixels.permute(2, 0, 1)[None], self.size, mode="bilinear", antialias=True
        )
        height, width = self.valid_size
        rows, columns = self._part()
        placed = torch.full((3, *self.frame), PAD_VALUE, dtype=torch.uint8)
        placed[:, :height, :width] = resized[0, :, rows, columns]
        return placed

    def place_labels(self, labels: np.ndarray, padding: int) -> np.ndarray:
        """Place a label map, integers [H, W] -> [h, w], by PIL's nearest neighbor."""
        rows, columns = self._sources(labels.shape)
        height, width = self.valid_size
        placed = np.full(self.frame, padding, labels.dtype)
        placed[:height, :width] = labels.take(columns, axis=1).take(rows, axis=0)
        return placed

    def visible(self, labels: np.ndarray) -> np.ndarray:
        """Pixels of a label map [H, W] that are in the result, each once, in any order."""
        rows, columns = map(np.unique, self._sources(labels.shape))
        return labels.take(columns, axis=1).take(rows, axis=0)

    def _sources(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Row and column in a label map [H, W] of the rows and columns of the part."""
        part_rows, part_columns = self._part()
        rows = _nearest(shape[0], self.size[0])[part_rows]
        columns = _nearest(shape[1], self.size[1])[part_columns]
        return rows, shape[1] - 1 - columns if self.flip else columns

    def _part(self) -> tuple[slice, slice]:
        """Rows and columns of the part in the resized image."""
        (top, left), (height, width) = self.offset, self.valid_size
        return slice(top, top + height), slice(left, left + width)


class RandomPlacement:
    """Draws placements in a square, by Detectron2's augmentations and in their order."""

    def __init__(
        self, side: int, *, min_scale: float, max_scale: float, flip_probability: float, pad: bool
    ) -> None:
        """Set up the draws.

        Args:
            side: height and width of the square, in pixels.
            min_scale: minimum size of the image before the crop, relative to ``side``.
            max_scale: maximum size, likewise.
            flip_probability: in 0-1.
            pad: pad smaller images to the square.
        """
        self._pad = pad
        self._side = side
        self._flip = T.RandomFlip(prob=flip_probability)
        self._jitter = T.ResizeScale(min_scale, max_scale, side, side)
        self._crop = T.FixedSizeCrop((side, side), pad=False)

    def draw(self, height: int, width: int) -> Placement:
        """Draw the placement of an image of this size."""
        flip = self._flip.get_transform(_blank(height, width))
        resize = at_least_one_pixel(self._jitter.get_transform(_blank(height, width)))
        size = (resize.new_h, resize.new_w)
        (crop,) = self._crop.get_transform(_blank(*size)).transforms
        valid_size = (min(size[0], self._side), min(size[1], self._side))
        return Placement(
            flip=not isinstance(flip, T.NoOpTransform),
            size=size,
            offset=(int(crop.y0), int(crop.x0)),
            valid_size=valid_size,
            frame=(self._side, self._side) if self._pad else valid_size,
        )


def at_least_one_pixel(resize: T.Transform) -> T.Transform:
    """Replace sides of 0 pixels, to which Detectron2 rounds those of long, thin images."""
    if not isinstance(resize, T.ResizeTransform):
        return resize
    height, width = max(resize.new_h, 1), max(resize.new_w, 1)
    return T.ResizeTransform(resize.h, resize.w, height, width, resize.interp)


def _blank(height: int, width: int) -> np.ndarray:
    """Make an image for Detectron2's augmentations, which read only its size, without memory."""
    return np.broadcast_to(np.uint8(0), (height, width, 3))


def _nearest(length: int, new_length: int) -> np.ndarray:
    """Source pixel of each pixel along a side that PIL resizes, int32 [new_length]."""
    line = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(line.resize((new_length, 1), Image.Resampling.NEAREST))[0]
