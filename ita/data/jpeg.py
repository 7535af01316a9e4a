"""Damage inside of JPEG files, which decoders repair without a word."""

import importlib.util
from pathlib import Path

JPEG_SUFFIXES = (".jpg", ".jpeg")
START_OF_IMAGE = b"\xff\xd8"
# End of the warning about bytes after the pixels, which some cameras write.
HARMLESS = "before marker 0xd9"


def can_see_damage() -> bool:
    """Whether simplejpeg is installed, the one decoder that reports libjpeg's warnings."""
    return importlib.util.find_spec("simplejpeg") is not None


def jpeg_damage(path: str) -> str:
    """Decode a JPEG file strictly.

    Returns:
        The warning of libjpeg, such as "Corrupt JPEG data: premature end of data segment"; "" for
        none, for files of another format, and without simplejpeg.
    """
    if not can_see_damage():
        return ""
    import simplejpeg

    content = Path(path).read_bytes()
    if not content.startswith(START_OF_IMAGE):
        return ""
    try:
        simplejpeg.decode_jpeg(content)
    except ValueError as error:
        return "" if str(error).endswith(HARMLESS) else str(error)
    return ""
