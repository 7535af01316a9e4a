import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from ita.reports.fonts import Lettering
from ita.reports.pictures import draw_segmentation

# Characters for private use, which the font of the tests has, and one that no font has.
SQUARE, BAR, NOWHERE = "\U0010ab01", "\U0010ab02", "\U0010ab03"
raqm = pytest.mark.skipif(not features.check("raqm"), reason="needs Pillow's layout engine Raqm")


def ink(text, size=16):
    canvas = Image.new("L", (300, 40), 255)
    Lettering(size).draw(ImageDraw.Draw(canvas), (4, 20), text, 0)
    return np.asarray(canvas) < 128


@pytest.mark.parametrize("letters", ["éß", "ЖЮ", "αλ", "אש", "عه", "հպ", "გძ"])
def test_letters_are_told_apart(letters):
    one, other = map(ink, letters)
    assert one.any()
    assert other.any()
    assert (one != other).any()
    assert (ink(letters[0]) != ink(NOWHERE)).any()


@pytest.mark.parametrize("size", [13, 16, 18])
def test_ascii_is_in_the_font_of_pillow(size):
    canvas = Image.new("L", (300, 40), 255)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(canvas).text((4, 20), "road, 2 (unseen)", 0, font, anchor="lm")
    assert (ink("road, 2 (unseen)", size) == (np.asarray(canvas) < 128)).all()


def test_length_is_that_of_the_ink():
    for text in ("road", "дорога", "Straße", "road дорога"):
        columns = np.flatnonzero(ink(text).any(axis=0))
        assert Lettering(16).length(text) == pytest.approx(columns[-1] - 4, abs=4)


@raqm
def test_right_to_left_letters_are_joined_and_in_order():
    lettering = Lettering(16)
    assert lettering.length("ببب") < 3 * lettering.length("ب") - 3
    # The first letter is the tall one, right of the other.
    word = ink("לו")
    top = np.flatnonzero(word[word.any(axis=1)][0])
    assert top.min() > np.flatnonzero(word.any(axis=0))[0] + 2


@pytest.fixture(scope="module")
def font_home(tmp_path_factory):
    """Data folder of a user who has a font with SQUARE and BAR."""
    builder = pytest.importorskip("fontTools.fontBuilder")
    pens = pytest.importorskip("fontTools.pens.ttGlyphPen")
    glyphs = {}
    for name, width in ((".notdef", 0), ("square", 800), ("bar", 200)):
        pen = pens.TTGlyphPen(None)
        if width:
            pen.moveTo((0, 0))
            for point in ((0, 800), (width, 800), (width, 0)):
                pen.lineTo(point)
            pen.closePath()
        glyphs[name] = pen.glyph()
    font = builder.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap({ord(SQUARE): "square", ord(BAR): "bar"})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Private", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    home = tmp_path_factory.mktemp("home")
    (home / "fonts").mkdir()
    font.save(home / "fonts/Private-Regular.ttf")
    (home / "fonts/Damaged.ttf").write_bytes(b"no font")
    return home


def run(script, **variables):
    command = [sys.executable, "-W", "ignore", "-c", script]
    environment = os.environ | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


def test_a_line_is_in_the_font_with_most_of_its_characters(font_home):
    script = f"""if True:
        from pathlib import Path
        from ita.reports.fonts import choose_font
        for text in ("\u0434\u043e\u043c", {SQUARE + BAR!r}, "\u0434" + {SQUARE + BAR!r}):
            path, missing = choose_font(text)
            print(Path(path).stem, len(missing))
    """
    lines = run(script, XDG_DATA_HOME=str(font_home)).stdout.splitlines()
    assert lines == ["DejaVuSans 0", "Private-Regular 0", "Private-Regular 1"]


def test_glyphs_of_a_system_font_are_drawn(font_home):
    script = f"""if True:
        from PIL import Image, ImageDraw
        from ita.reports.fonts import Lettering
        for text in ({SQUARE!r}, {BAR!r}):
            canvas = Image.new("L", (40, 40), 255)
            Lettering(20).draw(ImageDraw.Draw(canvas), (4, 20), text, 0)
            print(*canvas.point(lambda value: value < 128, "1").point(bool, "L").getbbox())
    """
    square, bar = run(script, XDG_DATA_HOME=str(font_home)).stdout.splitlines()
    left, top, right, bottom = map(int, square.split())
    assert (right - left, bottom - top) == (16, 16)
    left, top, right, bottom = map(int, bar.split())
    assert (right - left, bottom - top) == (4, 16)


def test_one_warning_names_the_scripts_without_font():
    script = """if True:
        from ita.reports.fonts import warn_of_layout
        for _ in range(2):
            warn_of_layout(["car", "\u0434\u043e\u043c", "\u9053\u8def", "\u0e16\u0e19\u0e19"])
    """
    lines = run(script, MPL_IGNORE_SYSTEM_FONTS="1").stderr.splitlines()
    assert len(lines) == 1
    assert "for lack of a font with their characters: CJK, Thai; install" in lines[0]


def test_legends_of_different_names_differ():
    image, labels = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60), np.int64)
    sky, sea = (draw_segmentation(image, labels, [name]) for name in ("небо", "море"))
    assert sky.shape != sea.shape or (sky != sea).any()
