"""Bad files that their headers show, and damage that only a strict decoder sees."""

import io

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image, ImageFilter

from ita.data.checking import check_dataset, check_record
from ita.data.headers import header_problem
from ita.data.jpeg import jpeg_damage
from ita.data.registration import register_custom
from tests.data.mini import GRASS, PERSON, random_image
from tests.data.test_orientation import SHAPES, UPRIGHT, make_set


@pytest.fixture
def record(panoptic):
    panoptic.add(
        random_image(12, 16),
        np.repeat([[1], [2]], 6, 0).repeat(16, 1),
        {1: (PERSON, 0), 2: (GRASS, 0)},
    )
    return panoptic.register()[0]


def empty(path):
    path.write_bytes(b"")


def enlarge(path):
    Image.new("RGB", (17, 12)).save(path)


@pytest.mark.parametrize("key", ["file_name", "pan_seg_file_name"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "{}: No such file or directory"),
        (empty, "{}: "),
        (enlarge, "(17, 12)"),
    ],
    ids=["missing", "empty", "of another size"],
)
def test_problems(key, damage, told, record, panoptic):
    assert header_problem(record) == ""
    path = panoptic.root / ("images" if key == "file_name" else "panoptic") / "000.png"
    damage(path)
    assert told.format(path) in header_problem(record)
    assert check_record(record, MetadataCatalog.get("mini")).problem


def test_no_pixel_is_decoded(record, panoptic):
    path = panoptic.root / "images" / "000.png"
    path.write_bytes(path.read_bytes()[:60])
    assert header_problem(record) == ""
    assert check_record(record, MetadataCatalog.get("mini")).problem


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("made", ["stored", "upright"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_sizes_of_turned_images(orientation, made, suffix, tmp_path):
    record, _, _ = make_set(tmp_path, orientation, SHAPES["oblong"], made=made, suffix=suffix)
    assert header_problem(record) == ""
    Image.new("RGB", (30, 30)).save(record["pan_seg_file_name"])
    assert "but its labels are (30, 30)" in header_problem(record)


def damaged_jpeg(path):
    """Write a JPEG file with a damage that Pillow does not report."""
    image = Image.fromarray(random_image(64, 96)).filter(ImageFilter.GaussianBlur(3))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90)
    data = bytearray(content.getvalue())
    start = len(data) * 2 // 3
    data[start : start + 2] = b"\xff\xd0"  # a marker that is not expected
    path.write_bytes(data)
    Image.open(path).load()


def test_damage_inside_a_jpeg_file(tmp_path):
    pytest.importorskip("simplejpeg")
    damaged_jpeg(tmp_path / "damaged.jpg")
    Image.fromarray(random_image(8, 8)).save(tmp_path / "whole.jpg")
    Image.fromarray(random_image(8, 8)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(random_image(8, 8)).save(tmp_path / "other.png")
    content = (tmp_path / "whole.jpg").read_bytes()
    assert content.endswith(b"\xff\xd9")
    (tmp_path / "padded.jpg").write_bytes(content[:-2] + b"\0\0\xff\xd9")
    assert "Corrupt JPEG data" in jpeg_damage(str(tmp_path / "damaged.jpg"))
    for name in ("whole.jpg", "padded.jpg", "cmyk.jpg", "other.png"):
        assert jpeg_damage(str(tmp_path / name)) == ""


def test_damage_is_a_note_on_a_data_set(tmp_path):
    pytest.importorskip("simplejpeg")
    make_set(tmp_path, 1, (64, 96), kind="semantic", suffix=".jpg")
    (row,) = register_custom([tmp_path / "mini.yaml"])
    damaged_jpeg(tmp_path / "images" / "1.jpg")
    report = check_dataset(
        row, subset=False, deep=True, workers=1, progress=lambda items, *_: items
    )
    assert report.problems == []
    (note,) = report.notes
    assert note.startswith("1 JPEG files decode in spite of damage, which may show; the first is ")


def test_a_deep_check_that_cannot_see_damage_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("ita.data.checking.can_see_damage", lambda: False)
    make_set(tmp_path, 1, (64, 96), kind="semantic", suffix=".jpg")
    (row,) = register_custom([tmp_path / "mini.yaml"])
    report = check_dataset(
        row, subset=False, deep=True, workers=1, progress=lambda items, *_: items
    )
    assert report.notes == [
        "JPEG files were not searched for damage inside; pip install simplejpeg"
    ]
