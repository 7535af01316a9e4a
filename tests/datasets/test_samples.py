"""Real files, where ITA_SAMPLES names a folder with some."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ita.classes import read_class_list
from ita.data.preparing.ade20k_full import read_indices

STREET = "ADE20K_2021_17_01/images/ADE/training/urban/street"


@pytest.fixture
def samples() -> Path:
    folder = os.environ.get("ITA_SAMPLES")
    if not folder:
        pytest.skip("ITA_SAMPLES names no folder with real samples")
    return Path(folder)


@pytest.fixture
def root(samples, tmp_path) -> Path:
    """A root that links the raw folders, which may not be written to."""
    for folder in ("coco", "ADEChallengeData2016", "ADE20K_2021_17_01"):
        (tmp_path / folder).mkdir()
        for path in (samples / folder).iterdir():
            (tmp_path / folder / path.name).symlink_to(path)
    (tmp_path / "VOCdevkit").symlink_to(samples / "VOCdevkit")
    return tmp_path


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_coco(root, prepare):
    assert prepare("coco_semantic", root)[0] == 0
    content = json.loads((root / "coco/annotations/panoptic_val2017.json").read_text())
    categories = sorted(category["id"] for category in content["categories"])
    for annotation in content["annotations"]:
        ids = read(root / "coco/panoptic_val2017" / annotation["file_name"]) @ [1, 256, 65536]
        truth = np.full(ids.shape, 255)
        for segment in annotation["segments_info"]:
            truth[ids == segment["id"]] = categories.index(segment["category_id"])
        for split in ("train", "val"):
            label = read(root / f"coco/panoptic_semseg_{split}2017" / annotation["file_name"])
            np.testing.assert_array_equal(label, truth)


def test_voc(root, prepare):
    assert prepare("pascal_voc", root)[0] == 0
    labels = sorted((root / "VOCdevkit/VOC2012/SegmentationClass").glob("*.png"))
    assert labels
    for path in labels:
        raw = read(path)
        for folder in ("training", "validation"):
            prepared = root / "pascal_voc_d2"
            pas21 = read(prepared / "annotations_pascal21" / folder / path.name)
            pas20 = read(prepared / "annotations_pascal20" / folder / path.name)
            np.testing.assert_array_equal(pas21, raw)
            assert set(np.unique(pas20)) <= {*range(20), 255}
            np.testing.assert_array_equal(pas20[pas20 < 20], raw[pas20 < 20] - 1)
            np.testing.assert_array_equal(pas20 == 255, (raw == 0) | (raw == 255))


def test_a847_indices(samples):
    indices = np.unique(read_indices(samples / STREET / "ADE_train_00016869_seg.png"))
    assert indices[indices > 0][:4].tolist() == [64, 312, 401, 461]
    assert indices[-1] == 2855


def test_ade20k_and_its_full_version_agree(root, prepare):
    assert prepare("ade20k", root)[0] == 0
    assert prepare("ade20k_full", root)[0] == 0
    full_classes, classes = read_class_list("ade847").classes, read_class_list("ade150").classes
    for stem in ("ADE_train_00016869", "ADE_train_00016900"):
        full = read(root / f"ADE20K_2021_17_01/annotations_detectron2/training/{stem}.tif")
        label = read(root / f"ADEChallengeData2016/annotations_detectron2/training/{stem}.png")
        assert full.shape == label.shape == (512, 683)
        image = Image.open(root / f"ADE20K_2021_17_01/images_detectron2/training/{stem}.jpg")
        assert image.size == (683, 512)
        raw = read(root / f"ADEChallengeData2016/annotations/training/{stem}.png")
        np.testing.assert_array_equal(label, np.where(raw == 0, 255, raw - 1))
        # The benchmark's classes are a selection of the full ones, under the same names. Its labels
        # were reduced in another way, which shows at borders.
        same = np.zeros(label.shape, bool)
        for class_id in np.unique(label[label != 255]):
            for full_class in np.unique(full[label == class_id]):
                if full_class != 65535 and full_classes[full_class][0] == classes[class_id][0]:
                    same |= (label == class_id) & (full == full_class)
            assert same[label == class_id].mean() > 0.6, classes[class_id]
        assert same[label != 255].mean() > 0.98


def test_a847_classes_have_the_names_of_the_annotations(root, samples, prepare):
    """The order of the classes, by the names that each image's own json gives the indices."""
    assert prepare("ade20k_full", root)[0] == 0
    classes = read_class_list("ade847").classes
    checked = 0
    for stem in ("ADE_train_00016869", "ADE_train_00016900"):
        content = json.loads((samples / STREET / f"{stem}.json").read_text(encoding="latin-1"))
        names = {o["name_ndx"]: o["name"] for o in content["annotation"]["object"]}
        label = read(root / f"ADE20K_2021_17_01/annotations_detectron2/training/{stem}.tif")
        indices = read_indices(samples / STREET / f"{stem}_seg.png")
        height, width = indices.shape
        rows, columns = np.arange(512) * height // 512, np.arange(683) * width // 683
        small = indices[np.ix_(rows, columns)]
        for index in np.unique(small[small > 0]):
            (class_id,) = np.unique(label[small == index])
            if class_id != 65535 and int(index) in names:
                assert classes[class_id][0] == names[int(index)].split(",")[0]
                checked += 1
    assert checked > 20
