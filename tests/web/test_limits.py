"""What people upload and type: read up to the limits, refused in words."""

import numpy as np
import pytest
from PIL import Image

from ita.errors import UserError
from ita.web.limits import Limits, read_classes, read_uploaded_image

LIMITS = Limits(pixels=90_000, names=150, name_length=40)


def test_classes_are_lines_and_synonyms_commas():
    classes = read_classes("  cat, kitten \n\nsofa\r\nwall", LIMITS)
    assert classes.classes == (("cat", "kitten"), ("sofa",), ("wall",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no classes"),
        (" \n\t\n", "no classes"),
        ("cat\nsofa,, couch", "line 2 of the classes has a comma without a name"),
        ("cat\n" + "x" * 41, "line 2 of the classes has a name of more than 40 characters"),
        ("\n".join(["cat"] * 151), "more than 150 class names"),
        (", ".join(["cat"] * 151), "more than 150 class names"),
    ],
)
def test_bad_classes_are_refused_in_one_line(text, message):
    with pytest.raises(UserError, match=message) as error:
        read_classes(text, LIMITS)
    assert "\n" not in str(error.value)


def test_names_at_the_limits_are_accepted():
    assert len(read_classes("\n".join(["x" * 40] * 150), LIMITS)) == 150


def test_an_image_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (30, 20), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert read_uploaded_image(str(tmp_path / "turned.jpg"), LIMITS).shape == (30, 20, 3)


def save_text(path):
    path.write_text("not an image")


def save_postscript(path):
    Image.new("RGB", (20, 20)).save(path, "EPS")


def save_truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (save_text, "cannot read image mine.png: it is damaged or of an unknown format"),
        (save_postscript, "mine.png is a EPS file; convert it to PNG or JPEG"),
        (save_truncated, "cannot read image mine.png: "),
        (lambda path: Image.new("L", (301, 300)).save(path), "301 x 300 pixels, more than 0.09"),
        (lambda path: None, "cannot read image mine.png: No such file"),
    ],
)
def test_bad_images_are_refused_without_the_server_s_folder(save, message, tmp_path):
    save(tmp_path / "mine.png")
    with pytest.raises(UserError, match=message) as error:
        read_uploaded_image(str(tmp_path / "mine.png"), LIMITS)
    assert str(tmp_path) not in str(error.value)
