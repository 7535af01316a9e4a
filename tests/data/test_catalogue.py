import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from ita.data.catalogue import CATALOGUE
from ita.data.reading import load_semantic_label
from ita.data.registration import register_all, register_panoptic, register_semantic
from ita.errors import UserError

COCO = "openvocab_coco_2017_val_panoptic_with_sem_seg"
ADE = "openvocab_ade20k_panoptic_val"


def test_every_row_is_registered_once_however_often_asked():
    register_all()
    register_all()
    for row in CATALOGUE:
        assert row.name in DatasetCatalog
        metadata = MetadataCatalog.get(row.name)
        assert len(metadata.class_list) == len(metadata.stuff_classes) == len(metadata.stuff_colors)
        assert metadata.stuff_classes == list(metadata.class_list.names)


ON_IMPORT = """
import ita, ita.data.registration, ita.data.rows, ita.engine.job, ita.meta_arch
from detectron2.data import DatasetCatalog
print([name for name in DatasetCatalog.list() if name.startswith(("openvocab", "toy"))])
"""


def test_nothing_is_registered_by_an_import():
    done = subprocess.run([sys.executable, "-c", ON_IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_coco_ids_are_detectron2s():
    metadata = MetadataCatalog.get(COCO)
    ids = {category["id"]: i for i, category in enumerate(COCO_CATEGORIES)}
    things = {c["id"]: ids[c["id"]] for c in COCO_CATEGORIES if c["isthing"]}
    assert metadata.stuff_dataset_id_to_contiguous_id == ids
    assert metadata.thing_dataset_id_to_contiguous_id == things
    assert metadata.thing_ids == tuple(things.values())
    assert metadata.thing_classes[:3] == ["person", "bicycle", "car"]
    assert metadata.ignore_label == 255


def test_ade_has_100_things():
    metadata = MetadataCatalog.get(ADE)
    assert len(metadata.thing_ids) == 100
    assert metadata.thing_classes[:4] == ["bed", "windowpane", "cabinet", "person"]
    assert metadata.thing_classes[-1] == "flag"
    assert {"wall", "sky", "crt screen"}.isdisjoint(metadata.thing_classes)


def ade_tree(root, value=8):
    """One validation image with raw labels: 0 on the left, ``value`` on the right."""
    ade = root / "ADEChallengeData2016"
    labels = np.zeros((6, 8), np.uint8)
    labels[:, 4:] = value
    for folder, array in (("images", np.zeros((6, 8, 3), np.uint8)), ("annotations", labels)):
        (ade / folder / "validation").mkdir(parents=True)
        suffix = "jpg" if folder == "images" else "png"
        Image.fromarray(array).save(ade / folder / "validation" / f"ADE_val_00000001.{suffix}")
    return ade


def test_ade_labels_raw_or_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    ade = ade_tree(tmp_path)
    (record,) = DatasetCatalog.get(ADE)
    metadata = MetadataCatalog.get(ADE)
    raw = load_semantic_label(record, metadata)
    assert raw.dtype == np.int32
    assert (raw[:, :4] == 255).all()
    assert (raw[:, 4:] == 7).all()
    assert metadata.stuff_classes[7] == "bed"
    assert "panoptic_json" not in vars(metadata)

    prepared = ade / "annotations_detectron2" / "validation"
    prepared.mkdir(parents=True)
    Image.fromarray(raw.astype(np.uint8)).save(prepared / "ADE_val_00000001.png")
    shutil.rmtree(ade / "annotations")
    (record,) = DatasetCatalog.get(ADE)
    assert record["sem_seg_file_name"].startswith(str(prepared))
    np.testing.assert_array_equal(load_semantic_label(record, metadata), raw)


def test_ade_panoptic_files_are_used_beside_semantic_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    ade = ade_tree(tmp_path)
    stem = "ADE_val_00000001"
    (ade / "ade20k_panoptic_val").mkdir()
    color = np.zeros((6, 8, 3), np.uint8)
    color[:, 4:] = (5, 1, 0)
    Image.fromarray(color).save(ade / "ade20k_panoptic_val" / f"{stem}.png")
    segment = {"id": 5 + 256, "category_id": 7, "iscrowd": 0}
    content = {
        "images": [{"id": stem, "file_name": f"{stem}.jpg", "height": 6, "width": 8}],
        "annotations": [{"image_id": stem, "file_name": f"{stem}.png", "segments_info": [segment]}],
    }
    (ade / "ade20k_panoptic_val.json").write_text(json.dumps(content))
    (ade / "ade20k_instance_val.json").write_text("{}")
    (record,) = DatasetCatalog.get(ADE)
    assert record["segments_info"] == [{**segment, "isthing": True}]
    metadata = MetadataCatalog.get(ADE)
    assert metadata.panoptic_json == str(ade / "ade20k_panoptic_val.json")
    assert metadata.json_file == str(ade / "ade20k_instance_val.json")
    from_semantic = load_semantic_label(record, metadata)
    del record["sem_seg_file_name"]
    np.testing.assert_array_equal(load_semantic_label(record, metadata), from_semantic)


@pytest.mark.parametrize("name", [row.name for row in CATALOGUE])
def test_missing_folder_names_the_path_and_the_variable(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(UserError) as error:
        DatasetCatalog.get(name)
    assert name in str(error.value)
    assert str(tmp_path / "nowhere") in str(error.value)
    assert "DETECTRON2_DATASETS" in str(error.value)


def test_missing_labels_name_every_place_looked_at(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    shutil.rmtree(ade_tree(tmp_path) / "annotations")
    with pytest.raises(UserError, match=r"panoptic_val\.json or .*detectron2.* or .*annotations/"):
        DatasetCatalog.get(ADE)


def test_root_is_read_when_a_set_is_loaded(tmp_path, monkeypatch):
    for number in (1, 2):
        ade_tree(tmp_path / str(number))
        monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / str(number)))
        (record,) = DatasetCatalog.get(ADE)
        assert record["file_name"].startswith(str(tmp_path / str(number)))
        assert MetadataCatalog.get(ADE).image_root.startswith(str(tmp_path / str(number)))


def test_panoptic_records(quarters):
    (record,) = quarters.register()
    assert (record["height"], record["width"], record["image_id"]) == (40, 60, 0)
    assert record["segments_info"] == [
        {"id": 70000, "category_id": 0, "iscrowd": 0, "isthing": True},
        {"id": 255, "category_id": 1, "iscrowd": 1, "isthing": True},
        {"id": 300, "category_id": 3, "iscrowd": 0, "isthing": False},
    ]
    metadata = MetadataCatalog.get("mini")
    assert metadata.stuff_dataset_id_to_contiguous_id == {1: 0, 3: 1, 7: 2, 9: 3}
    assert metadata.get("json_file") is None


def test_category_outside_the_class_list(quarters):
    quarters.annotations[0]["segments_info"][1]["category_id"] = 2
    with pytest.raises(UserError, match=r"panoptic\.json: image 0 has category 2, outside"):
        quarters.register()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid json"),
        ('{"images": []}', "not COCO panoptic json"),
        ('{"images": [], "annotations": []}', "annotates no images"),
        ('{"images": [], "annotations": [{"image_id": 3}]}', "not COCO panoptic json"),
        ("[1]", "not COCO panoptic json"),
    ],
)
def test_bad_panoptic_json(quarters, content, words):
    quarters.register()
    (quarters.root / "panoptic.json").write_text(content)
    with pytest.raises(UserError, match=words):
        DatasetCatalog.get("mini")


@pytest.mark.parametrize("folder", ["images", "panoptic"])
def test_a_missing_file_is_named(quarters, folder):
    quarters.register()
    (quarters.root / folder / "000.png").unlink()
    with pytest.raises(UserError, match=rf"file not found: .*{folder}/000\.png"):
        DatasetCatalog.get("mini")


def test_semantic_records(semantic):
    label = np.full((4, 6), 3, np.uint8)
    records = semantic([label, label])
    assert [record["image_id"] for record in records] == ["0", "1"]
    assert "segments_info" not in records[0]


def test_paths_of_a_set_of_ones_own_start_in_the_working_directory(semantic, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    records = semantic([np.full((4, 6), 3, np.uint8)])
    monkeypatch.chdir(tmp_path / "semantic")
    register_semantic("mini", "images", "labels", "classes.txt")
    monkeypatch.chdir(tmp_path)
    assert DatasetCatalog.get("mini") == records
    (tmp_path / "semantic" / "images").rename(tmp_path / "semantic" / "moved")
    with pytest.raises(UserError, match=r"looked for .*semantic/images; provide the files"):
        DatasetCatalog.get("mini")


def test_label_without_image(semantic, tmp_path):
    label = np.full((4, 6), 3, np.uint8)
    semantic([label, label])
    (tmp_path / "semantic" / "images" / "1.png").unlink()
    with pytest.raises(UserError, match=r"1 of the 2 label maps .* the first is 1\.png"):
        DatasetCatalog.get("mini")


def test_ids_that_contradict_each_other(tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("0: cat\n255: dog\n")
    with pytest.raises(UserError, match="255 is both a class and ignored"):
        register_semantic("mini", tmp_path, tmp_path, classes)
    with pytest.raises(UserError, match="ignore label 1 is also a class"):
        register_semantic("mini", tmp_path, tmp_path, classes, ignored_values=(9,), ignore_label=1)
    with pytest.raises(UserError, match="thing 2 is outside"):
        register_panoptic("mini", tmp_path, tmp_path, tmp_path / "a.json", classes, things=(0, 2))
    assert "mini" not in DatasetCatalog
