"""What the page accepts: images and class names up to limits, refused in words beyond them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ita.classes import ClassList
from ita.data.reading import naming_file
from ita.data.rgb import convert_to_rgb, open_image
from ita.errors import UserError

MEGA = 1_000_000
# Pillow's names of the formats that are decoded. Others, such as EPS, start other programs.
SAFE_FORMATS = frozenset(
    ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
)


@dataclass(frozen=True)
class Limits:
    """Limits of a question.

    Attributes:
        upload_bytes: size of an image file.
        pixels: pixels of an image.
        names: class names, all synonyms of all classes counted.
        name_length: characters of a name.
        sessions: visitors whose image features are kept; others wait for the encoder again.
    """

    upload_bytes: int = 20 * MEGA
    pixels: int = 40 * MEGA
    names: int = 2000
    name_length: int = 100
    sessions: int = 8


def read_uploaded_image(path: str, limits: Limits) -> np.ndarray:
    """Read an uploaded image; messages give its name, not its place on the server.

    Returns:
        uint8 RGB [H, W, 3], upright.

    Raises:
        UserError: a file that is no image, is damaged, or exceeds the limits.
    """
    name = Path(path).name
    # Width and height are known before the pixels are decoded.
    with naming_file(name, "image"), open_image(path) as image:
        if image.format not in SAFE_FORMATS:
            raise UserError(f"{name} is a {image.format} file; convert it to PNG or JPEG")
        if image.width * image.height > limits.pixels:
            raise UserError(
                f"{name} has {image.width} x {image.height} pixels, more than "
                f"{limits.pixels / MEGA:g} million; reduce it"
            )
        return convert_to_rgb(image)


def read_classes(text: str, limits: Limits) -> ClassList:
    """Parse classes as people type them: one per line, synonyms separated by commas.

    Raises:
        UserError: no class, an empty name, or more or longer names than the limits allow.
    """
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise UserError("no classes: type at least one, such as 'red triangle', one per line")
    count = 0
    for number, line in lines:
        names = [name.strip() for name in line.split(",")]
        count += len(names)
        if not all(names):
            raise UserError(f"line {number} of the classes has a comma without a name: {line[:60]}")
        if max(map(len, names)) > limits.name_length:
            raise UserError(
                f"line {number} of the classes has a name of more than {limits.name_length} "
                "characters; one class per line, synonyms separated by commas"
            )
        if count > limits.names:
            raise UserError(f"more than {limits.names} class names; remove some")
    return ClassList.from_strings("given classes", [line for _, line in lines])
