"""Label maps for image viewers and other programs: PNG in the classes' colors, JSON."""

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ita.classes import ClassList, palette

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


def encode_classes_json(class_list: ClassList) -> bytes:
    """Encode index, names and color of each class as JSON, a line per class."""
    rows = [
        {"index": index, "name": names[0], "synonyms": names[1:], "color": color}
        for index, (names, color) in enumerate(
            zip(class_list.classes, palette(len(class_list)), strict=True)
        )
    ]
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
    return f"[\n{lines}\n]\n".encode()


def describe_label_map(labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Describe a label map for JSON.

    Args:
        labels: [H, W] indices into ``names``.
        names: names of the C classes.

    Returns:
        ``height``, ``width`` and ``classes``, those present, largest first, with ``index``,
        ``name``, ``pixels`` and ``fraction`` of the image.
    """
    pixels = np.bincount(labels.ravel(), minlength=len(names))
    present = [i for i in np.argsort(-pixels, kind="stable").tolist() if pixels[i]]
    classes = [
        {
            "index": i,
            "name": names[i],
            "pixels": int(pixels[i]),
            "fraction": float(pixels[i] / labels.size),
        }
        for i in present
    ]
    return {"height": labels.shape[0], "width": labels.shape[1], "classes": classes}
