"""One line that names the file and the remedy, and nothing under a final name."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from tests.datasets import layouts
from tests.datasets.conftest import files
from tests.datasets.layouts import BUILDERS

VOC = "VOCdevkit/VOC2012"
CONTEXT = "VOCdevkit/VOC2010"
ADE = "ADEChallengeData2016"
FULL = "ADE20K_2021_17_01"
FINE = "cityscapes/gtFine/val/munster/munster_000000_000019_gtFine"


def check(result, path: Path, *words: str) -> None:
    """A run that failed with one line that names a path."""
    code, _, errors = result
    assert code == 1
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    assert str(path) in errors[0]
    for word in words:
        assert word in errors[0]


@pytest.mark.parametrize("name", BUILDERS)
def test_wrong_root(tmp_path, prepare, name):
    check(prepare(name, tmp_path / "nothing"), tmp_path / "nothing", "is not a folder", "--root")
    check(prepare(name, tmp_path), tmp_path, "not found", "--root", "dataset.md")
    check(prepare(name, tmp_path, "--split", "val"), tmp_path, "not found", "--root")
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ade20k", f"{ADE}/annotations/validation/ADE_val_00000002.png"),
        ("ade20k", f"{ADE}/images/training/ADE_train_00000001.jpg"),
        ("ade20k", f"{ADE}/annotations_instance/validation/ADE_val_00000001.png"),
        ("ade20k_full", f"{FULL}/images/ADE/validation/urban/street/ADE_val_00000001_seg.png"),
        ("ade20k_full", f"{FULL}/images/ADE/validation/urban/street/ADE_val_00000001.jpg"),
        ("cityscapes", f"{FINE}_labelIds.png"),
        ("cityscapes", f"{FINE}_instanceIds.png"),
        ("coco_semantic", "coco/panoptic_val2017/image.png"),
        ("mapillary", "mapillary_vistas/validation/v1.2/panoptic/image.png"),
        ("pascal_context", f"{CONTEXT}/trainval/2008_000007.mat"),
        ("pascal_context", f"{CONTEXT}/JPEGImages/2008_000007.jpg"),
        ("pascal_context", f"{CONTEXT}/trainval_merged.json"),
        ("pascal_voc", f"{VOC}/SegmentationClass/2007_000034.png"),
        ("pascal_voc", f"{VOC}/JPEGImages/2007_000034.jpg"),
    ],
)
def test_missing_raw_file(tmp_path, prepare, name, path):
    BUILDERS[name](tmp_path)
    (tmp_path / path).unlink()
    before = files(tmp_path)
    check(prepare(name, tmp_path), tmp_path / path, "not found")
    assert files(tmp_path) == before


def test_index_is_not_needed_for_what_is_there(tmp_path, prepare):
    layouts.ade20k_full(tmp_path)
    scene = tmp_path / FULL / "images/ADE/validation/urban/street"
    (scene / "ADE_val_00000001.jpg").unlink()
    (tmp_path / FULL / "index_ade20k.pkl").unlink()
    code, lines, errors = prepare("ade20k_full", tmp_path)
    assert (code, errors) == (0, [])
    labels = tmp_path / FULL / "annotations_detectron2"
    assert f"{labels / 'validation'}: wrote 1 files, 0 were finished" in lines
    assert sorted(path.stem for path in labels.rglob("*.tif")) == [
        "ADE_frame_00000003",
        "ADE_val_00000002",
    ]


def test_a847_in_a_folder_ade(tmp_path, prepare):
    truth = layouts.ade20k_full(tmp_path, parent="ade/")
    assert prepare("ade20k_full", tmp_path, "--split", "train")[0] == 0
    (path,) = [path for path in truth if "training" in path]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / path)), truth[path])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ade20k", f"{ADE}/annotations/validation/ADE_val_00000002.png"),
        ("ade20k", f"{ADE}/annotations_instance/validation/ADE_val_00000002.png"),
        ("ade20k_full", f"{FULL}/images/ADE/validation/urban/street/ADE_val_00000001_seg.png"),
        ("ade20k_full", f"{FULL}/images/ADE/validation/urban/street/ADE_val_00000001.jpg"),
        ("cityscapes", f"{FINE}_instanceIds.png"),
        ("coco_semantic", "coco/panoptic_val2017/image.png"),
        ("pascal_context", f"{CONTEXT}/trainval/2008_000007.mat"),
        ("pascal_voc", f"{VOC}/SegmentationClass/2007_000034.png"),
    ],
)
def test_truncated_file(tmp_path, prepare, name, path):
    BUILDERS[name](tmp_path)
    content = (tmp_path / path).read_bytes()
    (tmp_path / path).write_bytes(content[: len(content) * 2 // 3])
    before = set(files(tmp_path))
    # In other processes, whose errors must come through.
    check(prepare(name, tmp_path, workers=2), tmp_path / path, "download it again")
    made = set(files(tmp_path)) - before
    assert not any("partial" in name for name in made)
    for name in made:
        if name.endswith((".png", ".tif", ".jpg")):
            Image.open(tmp_path / name).load()


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("ade20k", f"{ADE}/annotations/validation/ADE_val_00000002.png", 151),
        ("cityscapes", f"{FINE}_labelIds.png", 34),
        ("cityscapes", f"{FINE}_instanceIds.png", 34001),
        ("pascal_voc", f"{VOC}/SegmentationClass/2007_000034.png", 21),
        ("pascal_voc", f"{VOC}/SegmentationClass/2007_000034.png", 254),
    ],
)
def test_label_that_is_none_of_the_set_s(tmp_path, prepare, name, path, value):
    BUILDERS[name](tmp_path)
    values = np.array(Image.open(tmp_path / path))
    values[3, 4] = value
    layouts.save_map(tmp_path / path, values)
    shown = 34 if value == 34001 else value
    check(prepare(name, tmp_path), tmp_path / path, f"label {shown} is not one of", "again")


@pytest.mark.parametrize("thing", [0, 101])
def test_instance_of_no_class(tmp_path, prepare, thing):
    path = _change_instances(tmp_path, thing, 3)
    check(prepare("ade20k", tmp_path), path, f"label {thing} is not one of")
    assert not (tmp_path / ADE / "ade20k_panoptic_val.json").exists()


def test_instance_of_two_classes(tmp_path, prepare):
    path = _change_instances(tmp_path, 2, 3)
    check(prepare("ade20k", tmp_path), path, "instance 3 has two classes")


def _change_instances(root: Path, thing: int, number: int) -> Path:
    layouts.ade20k(root)
    path = root / ADE / "annotations_instance/validation/ADE_val_00000001.png"
    color = np.array(Image.open(path))
    color[0, 0] = thing, number, 0
    layouts.save_map(path, color)
    return path


def test_index_beyond_ade20k_s(tmp_path, prepare):
    layouts.ade20k_full(tmp_path)
    path = tmp_path / FULL / "images/ADE/training/work_place/office/ADE_frame_00000003_seg.png"
    color = np.array(Image.open(path))
    color[7, 7] = 3689 // 256 * 10, 3689 % 256, 0
    layouts.save_map(path, color)
    check(prepare("ade20k_full", tmp_path), path, "label 3689 is not one of")


def test_label_map_beyond_context_s(tmp_path, prepare):
    layouts.pascal_context(tmp_path)
    path = tmp_path / CONTEXT / "trainval/2008_000007.mat"
    label_map = scipy.io.loadmat(path)["LabelMap"]
    label_map[0, 0] = 460
    scipy.io.savemat(path, {"LabelMap": label_map})
    check(prepare("pascal_context", tmp_path), path, "label 460 is not one of")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"Labels": np.zeros((30, 52), np.uint16)}, "has no LabelMap"),
        ({"LabelMap": np.zeros((30, 52))}, "not a 2D array of integers"),
        ({"LabelMap": np.zeros((52, 30), np.uint16)}, "30 × 52"),
        (b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\x00\x02IM" + b"\x89HDF" * 200, "MATLAB 7.3"),
        (b"garbage" * 100, "cannot read"),
    ],
)
def test_mat_that_is_none_of_context_s(tmp_path, prepare, content, words):
    layouts.pascal_context(tmp_path)
    path = tmp_path / CONTEXT / "trainval/2008_000007.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    check(prepare("pascal_context", tmp_path), path, words, "again")
    assert not list(tmp_path.glob("pascal_ctx_d2/annotations_ctx*/*/2008_000007*"))


def test_category_and_segment_that_are_none_of_coco_s(tmp_path, prepare):
    layouts.coco(tmp_path)
    path = tmp_path / "coco/annotations/panoptic_val2017.json"
    content = path.read_text()
    path.write_text(content.replace('"category_id": 13', '"category_id": 12'))
    check(prepare("coco_semantic", tmp_path), path, "image.png has category 12")
    path.write_text(content.replace('"id": 140007', '"id": 140008'))
    png = tmp_path / "coco/panoptic_val2017/image.png"
    check(prepare("coco_semantic", tmp_path), png, "segment id 140007 is not in")
    path.write_text(content[:50])
    check(prepare("coco_semantic", tmp_path), path, "not valid json")
    path.write_text('{"annotations": [{"segments_info": [3]}]}')
    check(prepare("coco_semantic", tmp_path), path, "not COCO panoptic json")
    assert not list(tmp_path.glob("coco/panoptic_semseg_val2017/*.png"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("ade20k", f"{ADE}/annotations/validation/ADE_val_00000002.png"),
        ("ade20k", f"{ADE}/annotations_instance/validation/ADE_val_00000002.png"),
        ("ade20k_full", f"{FULL}/images/ADE/validation/urban/street/ADE_val_00000001_seg.png"),
        ("cityscapes", f"{FINE}_labelIds.png"),
        ("pascal_voc", f"{VOC}/SegmentationClass/2007_000034.png"),
    ],
)
def test_sizes_that_differ(tmp_path, prepare, name, path):
    BUILDERS[name](tmp_path)
    label = Image.open(tmp_path / path)
    label.crop((0, 0, 17, 19)).save(tmp_path / path)
    check(prepare(name, tmp_path), tmp_path / path, "17 × 19", "again")


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_is_not_run(tmp_path, prepare):
    layouts.ade20k_full(tmp_path)
    path = tmp_path / FULL / "index_ade20k.pkl"
    made = tmp_path / "made_by_the_pickle"
    path.write_bytes(pickle.dumps({"filename": [], "folder": [], "x": Harmful(made)}))
    check(prepare("ade20k_full", tmp_path), path, "tries to import", "or remove it")
    assert not made.exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"filename": ["ADE_val_1.jpg"], "folder": ["../.."]}),
        pickle.dumps({"filename": ["ADE_val_1.jpg"], "folder": ["/etc"]}),
        pickle.dumps({"filename": ["passwd"], "folder": ["images"]}),
        pickle.dumps({"filename": ["ADE_val_1.jpg"]}),
        pickle.dumps([3]),
        b"garbage",
    ],
    ids=["outside", "absolute", "no_image", "half", "list", "garbage"],
)
def test_index_that_is_none_of_ade20k_s(tmp_path, prepare, content):
    layouts.ade20k_full(tmp_path)
    path = tmp_path / FULL / "index_ade20k.pkl"
    path.write_bytes(content)
    check(prepare("ade20k_full", tmp_path), path, "remove it")


@pytest.mark.parametrize("options", [["--workers", "0"], ["--workers", "x"], ["--split", "test"]])
def test_bad_options(tmp_path, prepare, options):
    with pytest.raises(SystemExit) as stop:
        prepare("coco_semantic", tmp_path, *options)
    assert stop.value.code == 2


def test_folder_that_cannot_be_made(tmp_path, prepare):
    layouts.pascal_voc(tmp_path)
    (tmp_path / "pascal_voc_d2").write_text("in the way")
    check(prepare("pascal_voc", tmp_path), tmp_path / "pascal_voc_d2", "cannot write", "again")
