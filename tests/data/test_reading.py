import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from ita.data.reading import as_rgb, load_semantic_label, read_image, read_panoptic_ids
from ita.errors import UserError
from tests.data.mini import DOG, GRASS, PERSON, random_image

ORIENTATION = 0x0112


def test_image_is_turned_as_exif_says(tmp_path):
    path = tmp_path / "turned.jpg"
    image = Image.fromarray(np.repeat(np.uint8([[0, 50, 100, 255]]), 16, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the top of the scene is at the right of the file
    image.convert("RGB").save(path, exif=exif, quality=100)
    read = read_image(str(path))
    assert read.shape == (32, 16, 3)
    assert read.dtype == np.uint8
    assert read[2].mean() < 5
    assert read[-3].mean() > 250


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    path = tmp_path / f"image.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.fromarray(random_image(5, 7)).convert(mode).save(path)
    assert read_image(str(path)).shape == (5, 7, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "missing"])
def test_corrupt_image_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(random_image(50, 50)).save(path)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        path.write_bytes(content[:40] + b"\x00\xff" * 300)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    with pytest.raises(UserError) as error:
        read_image(str(path))
    assert str(error.value).startswith(f"cannot read image {path}: ")
    assert "\n" not in str(error.value)


def test_corrupt_png_that_pil_calls_a_syntax_error(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(random_image(50, 50)).save(path)
    content = bytearray(path.read_bytes())
    content[33:37] = (100).to_bytes(4, "big")  # the length of the first data chunk
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read image .*image\.png: broken PNG"):
        read_image(str(path))


def test_semantic_values_are_the_ids_of_the_class_list(semantic):
    values = np.uint8([[1, 3, 7], [9, 255, 0]])
    (record,) = semantic([values], ignored_values=(0, 255))
    label = load_semantic_label(record, MetadataCatalog.get("mini"))
    np.testing.assert_array_equal(label, [[0, 1, 2], [3, 255, 255]])
    assert label.dtype == np.int32


def test_palette_png_is_read_by_index(semantic, tmp_path):
    values = np.uint8([[1, 3], [9, 255]])
    (record,) = semantic([values])
    image = Image.fromarray(values, mode="P")
    image.putpalette(list(range(256)) * 3)
    image.save(record["sem_seg_file_name"])
    label = load_semantic_label(record, MetadataCatalog.get("mini"))
    np.testing.assert_array_equal(label, [[0, 1], [3, 255]])


def test_sixteen_bits(semantic):
    values = np.uint16([[1, 3], [9, 65535]])
    (record,) = semantic([values], ignored_values=(65535,), ignore_label=65535)
    label = load_semantic_label(record, MetadataCatalog.get("mini"))
    np.testing.assert_array_equal(label, [[0, 1], [3, 65535]])


@pytest.mark.parametrize("values", [np.uint8([[1, 2]]), np.uint16([[1, 256 + 1]])])
def test_label_outside_the_class_list(semantic, values):
    (record,) = semantic([values])
    with pytest.raises(UserError) as error:
        load_semantic_label(record, MetadataCatalog.get("mini"))
    assert record["sem_seg_file_name"] in str(error.value)
    assert f"label {values[0, 1]} is outside" in str(error.value)


def test_color_png_is_no_label_map(semantic):
    (record,) = semantic([np.uint8([[1, 3]])])
    Image.fromarray(random_image(1, 2)).save(record["sem_seg_file_name"])
    with pytest.raises(UserError, match="color image, not a label map"):
        load_semantic_label(record, MetadataCatalog.get("mini"))


def test_label_from_panoptic_holds_crowds_too(quarters):
    (record,) = quarters.register()
    label = load_semantic_label(record, MetadataCatalog.get("mini"))
    assert label.dtype == np.int32
    assert (label[:20, :30] == PERSON).all()
    assert (label[:20, 30:] == DOG).all()
    assert (label[20:, 30:] == GRASS).all()
    assert (label[20:, :30] == 255).all()


def test_segment_that_the_json_lacks(quarters):
    del quarters.annotations[0]["segments_info"][0]
    (record,) = quarters.register()
    with pytest.raises(UserError, match=r"000\.png: segment id 70000 is not in the panoptic json"):
        load_semantic_label(record, MetadataCatalog.get("mini"))


def test_gray_png_is_not_panoptic(tmp_path):
    path = tmp_path / "gray.png"
    Image.fromarray(np.uint8([[1, 2]])).save(path)
    with pytest.raises(UserError, match="not a panoptic PNG"):
        read_panoptic_ids(str(path))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_gray_is_scaled(suffix, order, tmp_path):
    values = np.array([[0, 128, 257], [32767, 32768, 65535]], np.uint16)
    image = Image.fromarray(values.astype(order))
    image.save(tmp_path / f"deep{suffix}")
    expected = np.repeat(np.array([[0, 0, 1], [127, 128, 255]], np.uint8)[..., None], 3, axis=2)
    assert (read_image(str(tmp_path / f"deep{suffix}")) == expected).all()
    assert (as_rgb(image) == expected).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.int32(70000), "no 16-bit ones; convert it to 8 or 16 bits"),
        (np.int32(-1), "no 16-bit ones"),
        (np.float32(0.5), "floating-point numbers; convert it to 8 or 16 bits"),
    ],
)
def test_gray_values_without_a_known_range_are_refused(value, message, tmp_path):
    image = Image.fromarray(np.full((4, 5), value))
    image.save(tmp_path / "deep.tif")
    with pytest.raises(UserError, match=message) as error:
        read_image(str(tmp_path / "deep.tif"))
    assert "deep.tif" in str(error.value)
    with pytest.raises(UserError, match=message):
        as_rgb(image)
