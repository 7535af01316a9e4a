"""Images of any kind that Pillow reads, as 8-bit RGB."""

import os
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from ita.data.image_files import IMAGE_SUFFIXES
from ita.data.orientation import Orientation, load_oriented, turned

# What Pillow and its plugins raise for files that they cannot decode: SyntaxError for a broken PNG,
# RuntimeError for a broken AVIF, the others for any format.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
# PIL's modes of grayscale images of more than 8 bits, as files have up to 16.
DEEP_GRAY_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
MAX_BITS = 16
# Numbers and values of TIFF tags.
BITS_PER_SAMPLE = 258
PHOTOMETRIC = 262
WHITE_IS_ZERO = 0
# Brands in the first bytes of files in ISO's container of images.
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")


def open_image(path: str) -> Image.Image:
    """Open an image file with Pillow, or with its plugin pillow-heif.

    Raises:
        OSError: a missing file.
        ValueError: a file of an unknown format, or one whose format needs another library.
    """
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        if not os.path.getsize(path):
            raise ValueError("the file is empty") from None
        with open(path, "rb") as file:
            box, brand = struct.unpack("4x4s4s20x", file.read(32).ljust(32))
    if box == b"ftyp" and brand in AVIF_BRANDS and not features.check("avif"):
        raise ValueError("AVIF needs Pillow 11.3 or newer; upgrade Pillow, or convert it to PNG")
    if box == b"ftyp" and brand in HEIF_BRANDS:
        # Only here, as few programs meet such files and the plugin takes time to load.
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise ValueError(
                "HEIC needs the package pillow-heif; pip install pillow-heif, or convert it to JPEG"
            ) from None
        register_heif_opener()
        return Image.open(path)
    raise ValueError(f"it is damaged or of an unknown format; known: {', '.join(IMAGE_SUFFIXES)}")


def convert_to_rgb(image: Image.Image) -> np.ndarray:
    """Convert the first image of a file to a writable array uint8 [H, W, 3], upright.

    See :func:`convert_oriented`.
    """
    return convert_oriented(image)[0]


def convert_oriented(image: Image.Image) -> tuple[np.ndarray, Orientation]:
    """Convert the first image of a file to a writable array uint8 [H, W, 3], upright.

    Grayscale of 12 or 16 bits is scaled to 8: 16-bit values are divided by 257 and rounded. Colors
    that are transparent are blended with white. Color spaces are converted as Pillow does.

    Returns:
        The array, and how the file is turned.

    Raises:
        ValueError: no pixels, or gray values whose range from black to white is unknown.
        OSError: a file that is truncated; see DECODING_ERRORS for other damages.
    """
    orientation, turn = load_oriented(image)
    if not image.width or not image.height:
        raise ValueError("it has no pixels")
    if image.mode in DEEP_GRAY_MODES:
        image = _reduce_to_8_bits(image)
    elif image.mode == "F":
        raise ValueError("its gray values are floating-point numbers; convert it to 8 or 16 bits")
    elif image.has_transparency_data:
        image = _blend_with_white(image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return turned(np.array(image), turn), orientation


def _reduce_to_8_bits(image: Image.Image) -> Image.Image:
    # PIL would clip the values to 255, which makes most images white.
    tags = getattr(image, "tag_v2", {})
    white = 2 ** min(tags.get(BITS_PER_SAMPLE, (MAX_BITS,))[0], MAX_BITS) - 1
    values = np.asarray(image)
    if values.min() < 0 or values.max() > white:
        raise ValueError("its gray values are no 16-bit ones; convert it to 8 or 16 bits")
    gray = np.round(values / (white / 255)).astype(np.uint8)
    return Image.fromarray(255 - gray if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else gray)


def _blend_with_white(image: Image.Image) -> Image.Image:
    # Viewers show a page there; the hidden colors are often black or arbitrary.
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
