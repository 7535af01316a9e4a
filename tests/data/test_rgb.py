"""Images of every kind as 8-bit RGB. Expected colors are stated, not computed by Pillow."""

import builtins
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from ita.data.reading import as_rgb, read_image
from ita.errors import UserError
from tests.data.mini import random_image

RED = (255, 0, 0)
ORIENTATION = 0x0112
# TIFF tags
WIDTH, BITS_PER_SAMPLE, PHOTOMETRIC = 256, 258, 262


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


def set_tag(path, tag, old, new):
    """Change the value of a tag, of 16 or 32 bits, in a little-endian TIFF."""
    entry = re.escape(struct.pack("<H", tag)) + rb"[\x03\x04]\x00\x01\x00\x00\x00"
    pattern = re.compile(b"(" + entry + b")" + re.escape(struct.pack("<H", old)), re.DOTALL)
    content, count = pattern.subn(lambda m: m[1] + struct.pack("<H", new), path.read_bytes())
    assert count == 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("RGB", ".png"),
        ("RGB", ".webp"),
        ("RGB", ".bmp"),
        ("RGB", ".tif"),
        ("RGB", ".ppm"),
        ("P", ".png"),
        ("P", ".gif"),
        ("RGBA", ".png"),
        ("RGBA", ".webp"),
        ("RGBA", ".tif"),
        ("CMYK", ".tif"),
        ("YCbCr", ".jpg"),
    ],
)
def test_color_keeps_its_values(mode, suffix, tmp_path):
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(Image.new("RGB", (16, 8), RED).convert(mode), tmp_path / f"a{suffix}", **options)
    read = read_image(path)
    assert read.shape == (8, 16, 3)
    assert read.dtype == np.uint8
    assert read.flags.writeable
    assert np.abs(read.astype(int) - RED).max() <= (2 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_gray_keeps_its_values(mode, tmp_path):
    gray = np.uint8([[0, 255, 255]] if mode == "1" else [[0, 100, 255]])
    path = save(Image.fromarray(gray).convert(mode), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path), np.repeat(gray[..., None], 3, 2))


def test_rgb_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    path = save(Image.fromarray(random_image(40, 60)), tmp_path / "a.jpg")
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path), np.asarray(image))


def test_inverted_cmyk_of_a_jpeg(tmp_path):
    # Pillow writes Adobe's marker and inverted inks, as Photoshop does.
    path = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert np.abs(read_image(path).astype(int) - RED).max() <= 2


def test_lab_is_converted_to_rgb(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(
        Image.new("RGB", (4, 4), (200, 60, 30)), srgb, lab, outputMode="LAB"
    )
    read = read_image(save(image, tmp_path / "a.tif"))
    assert np.abs(read.astype(int) - (200, 60, 30)).max() <= 4


def test_transparency_is_blended_with_white(tmp_path):
    rgba = np.uint8([[(10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 51)]])
    read = read_image(save(Image.fromarray(rgba), tmp_path / "a.png"))
    np.testing.assert_array_equal(read, [[(10, 20, 30), (255, 255, 255), (204, 204, 204)]])


def test_opaque_values_do_not_change_beside_transparent_ones():
    rgba = np.dstack([random_image(64, 64), np.full((64, 64), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    read = as_rgb(Image.fromarray(rgba))
    np.testing.assert_array_equal(read[1:], rgba[1:, :, :3])


@pytest.mark.parametrize("kind", ["palette", "gray", "color"])
def test_a_color_can_be_transparent(kind, tmp_path):
    image = {
        "palette": Image.fromarray(np.uint8([[0, 1]]), mode="P"),
        "gray": Image.fromarray(np.uint8([[0, 90]])),
        "color": Image.fromarray(np.uint8([[(0, 0, 0), (90, 90, 90)]])),
    }[kind]
    if kind == "palette":
        image.putpalette([0, 0, 0, 90, 90, 90])
    path = tmp_path / "a.png"
    read = read_image(save(image, path, transparency=(0, 0, 0) if kind == "color" else 0))
    np.testing.assert_array_equal(read, [[(255, 255, 255), (90, 90, 90)]])


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif", ".png"])
def test_the_first_of_several_images_is_read(suffix, tmp_path):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(first, tmp_path / f"a{suffix}", save_all=True, append_images=[second], **options)
    assert (read_image(path) == RED).all()


def test_twelve_bits(tmp_path):
    path = tmp_path / "a.tif"
    # Two values of 12 bits, 4095 and 2048, in the three bytes of a row.
    save(Image.fromarray(np.uint8([[0xFF, 0xF8, 0x00]])), path)
    set_tag(path, BITS_PER_SAMPLE, 8, 12)
    set_tag(path, WIDTH, 3, 2)
    np.testing.assert_array_equal(read_image(str(path))[..., 0], [[255, 128]])


def test_sixteen_bits_where_zero_is_white(tmp_path):
    path = tmp_path / "a.tif"
    save(Image.fromarray(np.uint16([[0, 65535, 257]])), path)
    set_tag(path, PHOTOMETRIC, 1, 0)
    np.testing.assert_array_equal(read_image(str(path))[..., 0], [[255, 0, 254]])


def test_sixteen_bits_are_turned_too(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(Image.fromarray(np.uint16([[0, 257 * 9]])), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path)[..., 0], [[0], [9]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation):
    image = Image.fromarray(random_image(3, 5))
    image.getexif()[ORIENTATION] = orientation
    pixels = np.asarray(image)
    if orientation > 4:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    np.testing.assert_array_equal(as_rgb(image), pixels)
    assert image.size == (5, 3)  # the caller's image does not change


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_damaged_exif_does_not_hide_the_image(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(Image.fromarray(random_image(16, 32)), path, exif=exif)
    content = path.read_bytes()
    start = content.index(exif.tobytes()[6:10])
    path.write_bytes(content[:start] + b"\0\0\0\0" + content[start + 4 :])
    if suffix == ".png":
        rewrite_checksum(path)
    assert read_image(str(path)).shape == (16, 32, 3)


def rewrite_checksum(path):
    content = bytearray(path.read_bytes())
    start = content.index(b"eXIf")
    end = start + 4 + int.from_bytes(content[start - 4 : start], "big")
    content[end : end + 4] = zlib.crc32(content[start:end]).to_bytes(4, "big")
    path.write_bytes(content)


def test_text_is_no_image(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("no image")
    with pytest.raises(UserError, match=r"a\.jpg: it is damaged or of an unknown format; .*\.jpg"):
        read_image(str(path))


def test_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"a\.jpg: the file is empty"):
        read_image(str(tmp_path / "a.jpg"))


def test_huge_image_is_refused(tmp_path):
    path = tmp_path / "a.pgm"
    path.write_bytes(b"P5 20000 20000 255\n")
    with pytest.raises(UserError, match=r"a\.pgm: Image size .* exceeds limit"):
        read_image(str(path))


def test_damaged_avif(tmp_path):
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "a.avif"
    Image.fromarray(random_image(64, 64)).save(path)
    assert read_image(str(path)).shape == (64, 64, 3)
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    path.write_bytes(content[:start] + b"\xff" * (len(content) - start))
    with pytest.raises(UserError, match=r"cannot read image .*a\.avif: Failed to decode"):
        read_image(str(path))


def test_heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.jpg"  # phones' files are often renamed
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    heif = pillow_heif.from_pillow(Image.new("RGB", (64, 32), RED))
    heif.save(path, exif=exif.tobytes(), quality=100)
    read = read_image(str(path))
    assert read.shape == (64, 32, 3)
    assert np.abs(read.astype(int) - RED).max() <= 8


def test_heic_without_its_plugin_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))

    def without_heif(name, *args, **kwargs):
        if name == "pillow_heif":
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_heif)
    with pytest.raises(UserError, match=r"a\.heic: HEIC needs the package pillow-heif"):
        read_image(str(path))


def test_image_without_pixels():
    with pytest.raises(UserError, match="it has no pixels"):
        as_rgb(Image.new("RGB", (0, 4)))


def test_truncated_file_given_as_a_pil_image(tmp_path):
    path = tmp_path / "a.jpg"
    save(Image.fromarray(random_image(64, 64)), path)
    path.write_bytes(path.read_bytes()[:-1500])
    with Image.open(path) as image, pytest.raises(UserError, match="cannot convert an image"):
        as_rgb(image)
