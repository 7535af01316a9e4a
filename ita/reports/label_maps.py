"""Label maps as PNG files that image viewers display in the colors of the classes."""

import io

import numpy as np
from PIL import Image

from ita.classes import palette

PALETTE_SIZE = 256


def encode_label_png(labels: np.ndarray, num_classes: int) -> bytes:
    """Encode a label map as PNG: with a palette for up to 256 classes, else 16-bit grayscale.

    Args:
        labels: [H, W] class indices below ``num_classes``.
        num_classes: C, at most 65,536.

    Returns:
        Content of the file; reading it back as an array yields the class indices.
    """
    if num_classes <= PALETTE_SIZE:
        image = Image.fromarray(labels.astype(np.uint8), mode="P")
        image.putpalette([channel for color in palette(num_classes) for channel in color])
    else:
        image = Image.fromarray(labels.astype(np.uint16))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
