"""Text of any script in pictures: each line in a font that has its characters."""

import functools
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import ImageDraw, ImageFont, features

logger = logging.getLogger(__name__)

# Stands for the font that Pillow contains, which has little more than ASCII.
PILLOW_FONT = ""
# In names of font files: styles that are used only if no plain font has a character, and fonts that
# have boxes instead of characters.
SPECIAL_STYLE = re.compile(
    r"black|bold|condensed|heavy|italic|light|medium|mono|narrow|oblique|serif|thin|unifont", re.I
)
PLACEHOLDER = re.compile(r"blank|last.?resort", re.I)
# Category of joiners and marks of direction: instructions for the layout, not glyphs.
FORMAT = "Cf"
# Bidirectional types of the letters of right-to-left scripts.
RIGHT_TO_LEFT = ("R", "AL")

BOXES = (
    "pictures have boxes in class names, for lack of a font with their characters: %s; install "
    "fonts, for example with apt-get install fonts-noto-core fonts-noto-cjk, or copy .ttf, .ttc or "
    ".otf files to ~/.local/share/fonts"
)
NO_RAQM = (
    "pictures have right-to-left class names in reversed order and with unjoined letters, as "
    "Pillow finds no FriBiDi; install it, for example with apt-get install libfribidi0"
)


class Lettering:
    """Draws lines of text of one size.

    A line is in the first font that has all its characters: Pillow's for ASCII, Matplotlib's or one
    of the system; else in the one that has most of them, with boxes for the others. Pillow's layout
    engine puts right-to-left scripts in order.
    """

    def __init__(self, size: int) -> None:
        """Draw in fonts of ``size`` pixels per em."""
        self.size = size
        # One baseline for all fonts: how far that of Pillow's is below the middle of a line.
        font = _load(PILLOW_FONT, size)
        self._baseline = font.getbbox("x", anchor="lm")[3] - font.getbbox("x", anchor="ls")[3]

    def length(self, text: str) -> float:
        """Measure the width of a line in pixels."""
        return self._font(text).getlength(text)

    def draw(
        self,
        canvas: ImageDraw.ImageDraw,
        position: tuple[float, float],
        text: str,
        color: tuple[int, int, int],
        outline: tuple[int, int, int] | None = None,
    ) -> None:
        """Draw a line.

        Args:
            canvas: where to draw.
            position: (x, y), the middle of its left edge in pixels.
            text: the line.
            color: RGB color.
            outline: RGB color around the letters, or None.
        """
        x, y = position
        canvas.text(
            (x, y + self._baseline),
            text,
            color,
            self._font(text),
            anchor="ls",
            stroke_width=0 if outline is None else max(1, self.size // 8),
            stroke_fill=outline,
        )

    def _font(self, text: str) -> ImageFont.FreeTypeFont:
        path, _ = choose_font(text)
        return _load(path, self.size)


@functools.lru_cache(maxsize=4096)
def choose_font(text: str) -> tuple[str, str]:
    """Choose the font of a line.

    Returns:
        Path of the first font with most of the characters, and those that it lacks.
    """
    if text.isascii():
        return PILLOW_FONT, ""
    needed = np.array([ord(c) for c in text if unicodedata.category(c) != FORMAT])
    best, lacks = PILLOW_FONT, needed
    for path in _font_files():
        missing = needed[~np.isin(needed, _code_points(path))]
        if len(missing) < len(lacks):
            best, lacks = path, missing
        if not len(lacks):
            break
    return best, "".join(map(chr, lacks))


def warn_of_layout(texts: Iterable[str]) -> None:
    """Log once what cannot be drawn right on this machine, and what to install."""
    texts = [text for text in texts if not text.isascii()]
    if missing := {c for text in texts for c in choose_font(text)[1]}:
        _warn(BOXES % ", ".join(sorted(set(map(_script, missing)))))
    kinds = {unicodedata.bidirectional(c) for text in texts for c in text}
    if not features.check("raqm") and not kinds.isdisjoint(RIGHT_TO_LEFT):
        _warn(NO_RAQM)


def _font_files() -> Iterator[str]:
    # Imported only for names that are not English, as Matplotlib takes time to load.
    import matplotlib

    # Latin, Cyrillic, Greek, Hebrew, Arabic, Armenian, Georgian and some more.
    yield str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    yield from _system_fonts()


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """List the fonts of the system, plain ones first."""
    from matplotlib.font_manager import findSystemFonts

    names = {path: Path(path).stem for path in findSystemFonts()}
    paths = [path for path, name in names.items() if not PLACEHOLDER.search(name)]
    return tuple(sorted(paths, key=lambda path: (len(SPECIAL_STYLE.findall(names[path])), path)))


@functools.cache
def _code_points(path: str) -> np.ndarray:
    """List the characters that a font can draw in any size, int64 [N] code points."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return np.empty(0, np.int64)  # a damaged font counts as one without characters
    return np.array([*font.get_charmap()] if font.scalable else [], np.int64)


@functools.cache
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    if path == PILLOW_FONT:
        return ImageFont.load_default(size)  # type: ignore[return-value]
    return ImageFont.truetype(path, size)


def _script(character: str) -> str:
    """Name of the script of a character, for example "CJK", "Thai" or "Devanagari"."""
    if not unicodedata.category(character).startswith(("L", "M")):
        return "symbols"
    script = re.split("[ -]", unicodedata.name(character, "unknown"))[0]
    return script if script == "CJK" else script.capitalize()


@functools.cache
def _warn(message: str) -> None:
    """Log a message once."""
    logger.warning(message)
